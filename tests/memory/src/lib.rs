//! The engine's memory against the bound that it states ([`envoyfs_engine::MemoryBound`]): a client with trees, forks and deletions, whose own memory is not counted, on a device whose
//! memory is not counted either. After each call the most that was allocated since the last must be within the bound.

pub mod client;
pub mod counted;
pub mod device;
pub mod history;
