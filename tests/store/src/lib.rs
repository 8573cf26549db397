//! The proofs of the engine. Everything here goes through its public interface, on simulated devices.
//!
//! ```text
//! client      a small client of the engine, and the plain model of what its store holds (shared with the engine's own tests)
//! history     random histories of that client, with the device's log of what they did
//! bench       a small store on a recorded device, and its cuts
//! mini        a smaller one, for scenarios
//! scripted    a device that fails, lies or waits at the n-th call
//! rules       for each durability rule the scenario that fails without it
//! worn        a store that is nearly full and in the middle of everything
//! failing     histories in which writes of data fail behind their records
//! verdict     what a store shows after a device that lied
//! explore     power cuts at every IO of a history, of the recovery after it, and of the recovery after that
//! ```

pub mod bench;
pub mod explore;
pub mod failing;
pub mod history;
pub mod mini;
pub mod rules;
pub mod scripted;
pub mod verdict;
pub mod worn;

#[path = "../../../engine/src/tests/client.rs"]
#[allow(clippy::should_implement_trait, reason = "a generator that never ends is no iterator")]
pub mod client;

// What the client calls `crate::`.
pub use envoyfs_engine::{
    Engine, HistoryPolicy, MarkOptions, Options, Settings, StoreError, device, format, hlc, store,
};
