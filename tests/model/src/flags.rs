//! Reference flags: the OR over a node's entries, kept with every change of the node (INV-50).
//!
//! LINKS and REALMS end at a realm's entry, SNAPSHOTS passes it. A clone propagates dirty descendants first, so a flag never
//! lags behind an entry below.

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Entry, LINKS, ObjectId, REALMS, SNAPSHOTS};

impl Model {
    pub(crate) fn entry_flags(&self, e: &Entry) -> u8 {
        match e {
            Entry::Link(_) => LINKS,
            Entry::Directory { root, has_snapshots, .. } => {
                self.node(*root).flags | if *has_snapshots { SNAPSHOTS } else { 0 }
            }
            Entry::Realm { root, has_snapshots, .. } => {
                REALMS
                    | if self.bug(Bug::FlagStopsAtRealm) {
                        0
                    } else {
                        (self.node(*root).flags | if *has_snapshots { SNAPSHOTS } else { 0 }) & SNAPSHOTS
                    }
            } // links and realms inside a realm are its own matter
            Entry::Child(c) => self.node(*c).flags,
            _ => 0,
        }
    }

    /// Are flags asserted directly? Not under a flag bug, which must be caught by what it causes.
    pub(crate) fn flag_asserts(&self) -> bool {
        !self.config.bug.is_of_flags()
    }

    pub(crate) fn flags_of(&self, n: ObjectId) -> u8 {
        self.node(n).items.iter().fold(0, |a, it| a | self.entry_flags(&it.1))
    }

    pub(crate) fn update_flags(&mut self, n: ObjectId) {
        if self.node(n).file {
            return;
        }
        if self.bug(Bug::FlagPathStale) && self.node(n).level > 0 {
            return;
        }
        let f = self.flags_of(n);
        self.node_mut(n).flags = f
    }
}
