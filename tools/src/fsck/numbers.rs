//! Inode numbers and realm ids in use: none of them may be handed out again (INV-16), so they lie below the bounds that the volume directory names.

use super::examine::Examined;
use super::findings;
use super::report::Report;
use envoyfs_engine::repair::{NUMBERS_AHEAD, NUMBERS_END};
use envoyfs_engine::wal::recovery::Found;
use envoyfs_layout::directory_page::Bounds;
use envoyfs_layout::operation::Operation;
use envoyfs_layout::wal::{CheckpointBody, kind};

/// The largest that were met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Inode number.
    pub inode: u64,
    /// Realm id.
    pub realm: u64,
}

impl Used {
    /// An inode has this number.
    pub fn inode(&mut self, number: u64) {
        self.inode = self.inode.max(number);
    }

    /// A realm has this id.
    pub fn realm(&mut self, id: u64) {
        self.realm = self.realm.max(id);
    }

    /// Records give these to what the trees do not have yet.
    pub fn by_records(&mut self, log: &Found) {
        for record in log.records.iter().filter(|record| record.kind >= kind::CLIENT_FIRST) {
            match Operation::decode(record.kind, &record.body) {
                Ok(Operation::Create { inode, .. }) => self.inode(inode.number),
                Ok(Operation::ForkFile { number, .. }) => self.inode(number),
                Ok(Operation::ForkDirectory { realm, .. } | Operation::Snapshot { realm, .. }) => self.realm(realm),
                _ => {}
            }
        }
    }

    /// Bounds that lie beyond them.
    #[must_use]
    pub fn below(self, bounds: Bounds) -> Bounds {
        Bounds {
            inode: bounds.inode.max(self.inode.saturating_add(1)),
            realm: bounds.realm.max(self.realm.saturating_add(1)),
            ..bounds
        }
    }

    /// Where no bounds are left: as far beyond them as others may have been handed out since a publication, to what has gone again.
    #[must_use]
    pub fn far_below(self, bounds: Bounds) -> Bounds {
        let [inode_ahead, realm_ahead, _] = NUMBERS_AHEAD;
        let [inode_end, realm_end, _] = NUMBERS_END;
        Bounds {
            inode: bounds.inode.max(self.inode.saturating_add(inode_ahead).min(inode_end)),
            realm: bounds.realm.max(self.realm.saturating_add(realm_ahead).min(realm_end)),
            ..bounds
        }
    }
}

/// Bounds that the log tells of: those of its checkpoints, and what a mount that ended in order had not handed out.
#[must_use]
pub fn told_by_log(log: &Found, bounds: Bounds) -> Bounds {
    let checkpoints = log.records.iter().filter(|record| record.kind == kind::CHECKPOINT);
    let checkpoints = checkpoints.filter_map(|record| CheckpointBody::decode(&record.body).ok());
    let told = checkpoints.map(|body| body.bounds).chain(log.closed.map(|closed| closed.next));
    told.fold(bounds, |a, b| Bounds {
        segment: a.segment.max(b.segment),
        inode: a.inode.max(b.inode),
        realm: a.realm.max(b.realm),
        territory: a.territory.max(b.territory),
        pin: a.pin.max(b.pin),
    })
}

/// Compares what trees and log use with the first numbers that the next mount hands out.
pub fn check(examined: &Examined, report: &mut Report) {
    let bounds = examined.directory.entry.bounds;
    let (mut first_inode, mut first_realm) = (bounds.inode, bounds.realm);
    if let Some(adopted) = examined.log.as_ref().and_then(|log| log.adopted.as_ref()) {
        (first_inode, first_realm) =
            (first_inode.max(adopted.body.bounds.inode), first_realm.max(adopted.body.bounds.realm));
    }
    let closed = examined.log.as_ref().and_then(|log| log.closed.as_ref());
    if let Some(closed) = closed.filter(|closed| closed.superblock == examined.superblock.sequence) {
        (first_inode, first_realm) = (first_inode.min(closed.next.inode), first_realm.min(closed.next.realm));
    }
    let Used { inode, realm } = examined.used;
    for (what, used, bound) in [("inode", inode, first_inode), ("realm", realm, first_realm)] {
        if used >= bound {
            report.add(findings::NUMBER_BOUND, "store", format_args!("{what} {used}, the bound is {bound}"));
        }
    }
}
