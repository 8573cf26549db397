//! Locks, conditions, atomics and threads of the engine: the machine's in a product, those of a model checker with the feature `models` (`docs/testing.md`, "Threads").
//!
//! What synchronises threads takes them from here, so that a model runs the code that a store runs. Counters of metrics do not: nobody decides by them.

#[cfg(not(feature = "models"))]
pub(crate) use machine::*;
#[cfg(feature = "models")]
pub(crate) use modelled::*;

#[cfg(not(feature = "models"))]
mod machine {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
}

#[cfg(feature = "models")]
mod modelled;
