//! Writes that may wait until somebody waits for them: whoever does so takes all of them, and writes them himself.
//!
//! ```text
//! submit() --> held --+-- Ticket::wait: all of them in one io_uring_enter of the waiting thread, neighbours joined to one request ([`own_ring`])
//!                     +-- too many, or the device is dropped: to the write thread
//! ```
//! A small write followed by a wait costs no hand-over to the write thread and back, and what several threads hold back goes to the device with one call. Nothing is
//! promised of a write before its ticket has completed, so holding it back changes nothing if power fails.
//!
//! Threads: what is held is taken as a whole, under its lock, by one thread, who sees to it that every ticket completes. He writes under a lock that he shares with others who write, and
//! takes both before he looks: so when the device's drop has had that lock alone, nobody writes here or will. He leaves it before he completes tickets, whose functions
//! may be what drops the device. `models.rs` runs this file under a model checker.

#[cfg(all(test, feature = "models"))]
mod models;
mod own_ring;

use super::super::ticket::Drive;
use super::super::{Completion, DeviceError, Ticket, Write};
use super::write_ring::Job;
use crate::mutant::{self, Mutant};
use crate::sync::{Mutex, RwLock};
use std::sync::{Arc, Weak};

pub(super) use own_ring::OwnRing;

/// So many writes are held at most.
const HELD_MAX: usize = 128;

/// How a write ended, and whom to tell.
pub(super) type Done = (Completion, Result<(), DeviceError>);

/// What is done with writes that are not held any longer.
pub(super) trait Hands: Send + Sync + 'static {
    /// Writes them, on this thread. Gives them back if that cannot be done here.
    fn write(&self, jobs: Vec<Job>) -> Result<Vec<Done>, Vec<Job>>;

    /// To the write thread. What it does not take comes back: the device has failed.
    fn pass_on(&self, jobs: Vec<Job>) -> Vec<Job>;
}

/// See the module.
pub(super) struct Held<H = OwnRing> {
    hands: H,
    jobs: Mutex<Vec<Job>>,
    /// Shared while writes are under way here; alone by the drop of the device.
    driving: RwLock<()>,
    driver: Arc<dyn Drive>,
}

/// What tickets know of it: they may outlive the device.
struct Driver<H>(Weak<Held<H>>);

impl<H: Hands> Drive for Driver<H> {
    fn drive(&self) -> bool {
        self.0.upgrade().is_some_and(|held| held.write_all())
    }
}

impl<H: Hands> Held<H> {
    pub(super) fn new(hands: H) -> Arc<Held<H>> {
        Arc::new_cyclic(|own| Held {
            hands,
            jobs: Mutex::default(),
            driving: RwLock::new(()),
            driver: Arc::new(Driver(Weak::clone(own))),
        })
    }

    /// Takes a write whose ranges were checked.
    pub(super) fn submit(&self, write: Write) -> Ticket {
        let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::clone(&self.driver)));
        let too_many = {
            let mut jobs = self.jobs.lock();
            jobs.push(Job::new(write, completion));
            if jobs.len() >= HELD_MAX { std::mem::take(&mut *jobs) } else { Vec::new() }
        };
        drop(self.pass_on(too_many));
        ticket
    }

    /// For the drop of the device: the write thread gets what is held, and nothing is under way here any more.
    pub(super) fn end(&self) {
        let jobs = self.take();
        if !mutant::on(Mutant::HeldForgottenAtEnd) {
            drop(self.pass_on(jobs));
        }
        if !mutant::on(Mutant::EndedAmidWrites) {
            drop(self.driving.write());
        }
    }

    fn take(&self) -> Vec<Job> {
        std::mem::take(&mut *self.jobs.lock())
    }

    /// What comes back is told as closed when it is dropped.
    fn pass_on(&self, jobs: Vec<Job>) -> Vec<Job> {
        if jobs.is_empty() { jobs } else { self.hands.pass_on(jobs) }
    }

    /// Writes what is held, and returns when all of it has completed; false if there is nothing.
    fn write_all(&self) -> bool {
        let early = if mutant::on(Mutant::HeldTakenEarly) { self.take() } else { Vec::new() };
        let guard = self.driving.read();
        let mut jobs = self.take();
        jobs.extend(early);
        if jobs.is_empty() {
            return false;
        }
        let (done, refused) = match self.hands.write(jobs) {
            Ok(done) => (done, Vec::new()),
            Err(jobs) => (Vec::new(), self.pass_on(jobs)),
        };
        // The tickets' functions may drop the device.
        let _kept = mutant::on(Mutant::CompletedUnderLock).then_some(guard);
        done.into_iter().for_each(|(completion, outcome)| completion.complete(outcome));
        drop(refused);
        true
    }
}
