//! Objects, write-ahead log, segments, checkpoints, device IO. Knows no files or directories.
//!
//! The client's view is [`store::Store`]; decision 0002 describes it.

mod checkpoint;
mod cleaner;
pub mod device;
mod drops;
mod engine;
mod error;
pub mod format;
mod history;
pub mod hlc;
pub mod memory;
pub mod metrics;
mod queue;
mod recovery;
pub mod repair;
#[cfg_attr(not(feature = "sabotage"), doc(hidden))]
pub mod sabotage;
pub mod settings;
pub mod signature;
pub mod space;
pub mod state;
pub mod store;
pub mod superblock;
#[cfg(test)]
mod tests;
mod unsaved;
pub mod wal;

pub use engine::{Engine, Options};
pub use error::StoreError;
pub use queue::ReadQueue;
pub use settings::Settings;
