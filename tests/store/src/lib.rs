//! The proofs of the engine. Everything here goes through its public interface, on simulated devices.
//!
//! ```text
//! client      a small client of the engine, and the plain model of what its store holds (shared with the engine's own tests)
//! history     random histories of that client, with the device's log of what they did
//! explore     power cuts at every IO of a history, of the recovery after it, and of the recovery after that
//! ```

pub mod explore;
pub mod history;

#[path = "../../../engine/src/tests/client.rs"]
#[allow(clippy::should_implement_trait, reason = "a generator that never ends is no iterator")]
pub mod client;

// What the client calls `crate::`.
pub use envoyfs_engine::{Engine, Options, Settings, StoreError, device, format, hlc, store};
