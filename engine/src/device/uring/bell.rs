//! Whether a thread that may sleep in the kernel has to be woken there, so that it is not while it is awake.
//!
//! The sleeper listens, looks once more for work, and sleeps if there is none; who brings work puts it where it is looked for and asks then whether the bell is heard. All
//! change one word, so one of the two comes first: either the asker finds the sleeper listening, or the sleeper sees what was brought before the asker asked.

use super::sync::atomic::{AtomicBool, Ordering};
use crate::mutant::{self, Mutant};

/// See the module.
pub struct Bell {
    listening: AtomicBool,
}

impl Bell {
    /// Nobody listens.
    pub fn new() -> Bell {
        Bell { listening: AtomicBool::new(false) }
    }

    /// The sleeper's: from here on it is told of work. It looks for work once more before it sleeps.
    pub fn listen(&self) {
        let order = if mutant::on(Mutant::ListensRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        self.listening.swap(true, order);
    }

    /// The sleeper's: it is awake.
    pub fn ignore(&self) {
        self.listening.swap(false, Ordering::AcqRel);
    }

    /// For who brought work: true once for each [`Bell::listen`] that may have missed it; the sleeper has to be woken.
    pub fn is_heard(&self) -> bool {
        let order = if mutant::on(Mutant::RingsRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        self.listening.swap(false, order)
    }
}
