//! Shared parts of the envoyfs command line tools.

pub mod fsck;
pub mod mkfs;
pub mod signature;
