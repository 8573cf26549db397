//! Objects, write-ahead log, segments, checkpoints, device IO. Knows no files or directories.
//!
//! The client's view is [`store::Store`]; decision 0002 describes it.

pub mod device;
mod error;
pub mod hlc;
pub mod store;
pub mod superblock;
pub mod wal;

pub use error::StoreError;
