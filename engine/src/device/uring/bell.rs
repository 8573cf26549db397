//! Whether a thread that may sleep in the kernel has to be woken there, so that it is not while it is awake.
//!
//! The sleeper listens, looks once more for work, and sleeps if there is none; who brings work puts it where it is looked for and asks then whether the bell is heard. All
//! change one word, so one of the two comes first: either the asker finds the sleeper listening, or the sleeper sees what was brought before the asker asked.
//!
//! A sleeper that something else wakes soon may listen to what is *urgent* alone: other work then waits for that. It promises that it looks for work when it is woken.

use super::sync::atomic::{AtomicU64, Ordering};
use crate::mutant::{self, Mutant};

/// To what is urgent.
const URGENT: u64 = 1;
/// To everything else.
const OTHER: u64 = 2;

/// What became of work that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The sleeper may have missed it, and has to be woken: once for each [`Bell::listen`], or twice if what comes second is urgent and the first was not.
    Wake,
    /// It sleeps, and takes the work when it is woken by what it waits for.
    Later,
    /// It is awake, or somebody wakes it, and looks for work before it sleeps.
    Awake,
}

/// See the module.
pub struct Bell {
    listens_to: AtomicU64,
}

impl Bell {
    /// Nobody listens.
    pub fn new() -> Bell {
        Bell { listens_to: AtomicU64::new(0) }
    }

    /// The sleeper's: from here on it is told of work, or only of what is urgent. It looks for work once more before it sleeps.
    pub fn listen(&self, urgent_only: bool) {
        let order = if mutant::on(Mutant::ListensRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        let urgent_only = urgent_only || mutant::on(Mutant::ListensToUrgentAlone);
        self.listens_to.fetch_or(if urgent_only { URGENT } else { URGENT | OTHER }, order);
    }

    /// The sleeper's: it is awake.
    pub fn ignore(&self) {
        self.listens_to.fetch_and(0, Ordering::AcqRel);
    }

    /// For who brought work: what he has to do.
    pub fn ring(&self, urgent: bool) -> Heard {
        let order = if mutant::on(Mutant::RingsRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        let to = if urgent { URGENT } else { OTHER };
        // A change in any case, which orders it with the sleeper's. What is urgent is heard once for all; what is not leaves the bell to what is.
        let keep = if urgent || mutant::on(Mutant::OtherTakesUrgent) { 0 } else { URGENT };
        match self.listens_to.fetch_and(keep, order) {
            0 => Heard::Awake,
            listened if listened & to != 0 => Heard::Wake,
            _ => Heard::Later,
        }
    }
}
