//! Shared parts of the envoyfs command line tools.

pub mod bench;
pub mod cli;
pub mod fsck;
pub mod inspect;
pub mod mkfs;
pub mod mount;
pub mod output;
