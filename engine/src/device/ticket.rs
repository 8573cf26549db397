//! A ticket stands for one write under way: it can be asked, waited for, or told whom to call.
//!
//! The [`Completion`] is the other end and is settled exactly once. A completion that is dropped without
//! a result settles as [`DeviceError::Closed`], so that nobody waits for ever.

use super::DeviceError;
use super::sync::{Arc, Condvar, Mutex};
use crate::mutant::{self, Mutant};

type Callback = Box<dyn FnOnce(Result<(), DeviceError>) + Send>;

/// Makes progress for a device that has no thread of its own (the simulation), so that a waiter is not stuck.
pub(crate) trait Drive: Send + Sync {
    /// Does some outstanding work; returns whether there was any.
    fn drive(&self) -> bool;
}

enum State {
    UnderWay {
        callbacks: Vec<Callback>,
        driver: Option<Arc<dyn Drive>>,
        /// How often the driver was changed.
        changes: u64,
    },
    Done(Result<(), DeviceError>),
}

struct Shared {
    state: Mutex<State>,
    /// Done, or with another driver.
    changed: Condvar,
}

/// One write under way. Clones refer to the same write.
#[derive(Clone)]
pub struct Ticket {
    shared: Arc<Shared>,
    durable: bool,
}

/// The device's end of a [`Ticket`].
pub struct Completion {
    shared: Option<Arc<Shared>>,
}

impl Ticket {
    /// A ticket and what settles it.
    #[must_use]
    pub fn pair() -> (Ticket, Completion) {
        Self::pair_driven_by(None)
    }

    /// As [`Ticket::pair`]; a waiter drives `driver` until the write is done.
    pub(crate) fn pair_driven_by(driver: Option<Arc<dyn Drive>>) -> (Ticket, Completion) {
        let state = State::UnderWay { callbacks: Vec::new(), driver, changes: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        (Ticket { shared: Arc::clone(&shared), durable: false }, Completion { shared: Some(shared) })
    }

    /// A pair for a device that wraps the one which gave this ticket: whoever waits drives that device too.
    pub(crate) fn outer_pair(&self) -> (Ticket, Completion) {
        Self::pair_driven_by(self.driver())
    }

    /// Makes progress for the device, if it has no thread of its own and the write is not done; returns whether there was any to make. Does not wait.
    pub(crate) fn drive(&self) -> bool {
        self.driver().is_some_and(|driver| driver.drive())
    }

    fn driver(&self) -> Option<Arc<dyn Drive>> {
        match &*self.shared.state.lock() {
            State::UnderWay { driver, .. } => driver.clone(),
            State::Done(_) => None,
        }
    }

    /// A ticket that is done already.
    #[must_use]
    pub fn done(result: Result<(), DeviceError>) -> Ticket {
        let state = Mutex::new(State::Done(result));
        Ticket { shared: Arc::new(Shared { state, changed: Condvar::new() }), durable: false }
    }

    /// The ticket of a [`Write::durable`](super::Write::durable): for those who decide later whether a flush is needed.
    #[must_use]
    pub fn durable(self) -> Ticket {
        Ticket { durable: true, ..self }
    }

    /// Whether completion means durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Whether the write has completed or failed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(*self.shared.state.lock(), State::Done(_))
    }

    /// The outcome, if there is one yet.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), DeviceError>> {
        match &*self.shared.state.lock() {
            State::Done(result) => Some(result.clone()),
            State::UnderWay { .. } => None,
        }
    }

    /// Blocks until the write has completed or failed. Never call it from an [`Ticket::on_done`] function.
    ///
    /// # Errors
    /// Whatever the write met.
    pub fn wait(&self) -> Result<(), DeviceError> {
        // The change of driver after which it had nothing more to do.
        let mut idle = None;
        let mut state = self.shared.state.lock();
        loop {
            let driver = match &*state {
                State::Done(result) => return result.clone(),
                State::UnderWay { driver, changes, .. } if idle != Some(*changes) => {
                    driver.clone().map(|driver| (driver, *changes))
                }
                State::UnderWay { .. } => None,
            };
            let Some((driver, changes)) = driver else {
                state = self.shared.changed.wait(state);
                continue;
            };
            drop(state);
            if !driver.drive() {
                idle = Some(changes);
            }
            state = self.shared.state.lock();
        }
    }

    /// Calls `then` with the outcome: on the device's completion thread, or at once, here, if the write is done.
    /// Functions of one ticket are called in the order they were given. `then` must not block.
    pub fn on_done(&self, then: Box<dyn FnOnce(Result<(), DeviceError>) + Send>) {
        let result = {
            let mut state = self.shared.state.lock();
            match &mut *state {
                State::UnderWay { callbacks, .. } => {
                    callbacks.push(then);
                    return;
                }
                State::Done(result) => result.clone(),
            }
        };
        then(result);
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ticket").field(&self.outcome()).finish()
    }
}

impl Completion {
    /// What this one stands for now depends on that write too: whoever waits, or waits already, drives its device.
    pub(crate) fn follow(&self, ticket: &Ticket) {
        let (Some(shared), Some(next)) = (&self.shared, ticket.driver()) else { return };
        if let State::UnderWay { driver, changes, .. } = &mut *shared.state.lock() {
            *driver = Some(next);
            *changes = changes.saturating_add(1);
        }
        if !mutant::on(Mutant::FollowedSilently) {
            shared.changed.notify_all();
        }
    }

    /// Settles the ticket: wakes the waiters, then calls the functions.
    pub fn complete(mut self, result: Result<(), DeviceError>) {
        if let Some(shared) = self.shared.take() {
            settle(&shared, &result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            settle(&shared, &Err(DeviceError::Closed));
        }
    }
}

fn settle(shared: &Shared, result: &Result<(), DeviceError>) {
    let before = std::mem::replace(&mut *shared.state.lock(), State::Done(result.clone()));
    shared.changed.notify_all();
    if let State::UnderWay { callbacks, .. } = before {
        for callback in callbacks {
            callback(result.clone());
        }
    }
}
