//! POSIX meaning over immutable objects: directories, files, realms, forks, snapshots. Knows neither FUSE nor devices.
//!
//! Front ends use [`Namespace`]; decision 0003 describes how it works.
#![forbid(unsafe_code)]

pub mod api;
mod apply;
mod by_epoch;
mod charge;
mod checkpoint;
mod directory;
pub mod file;
mod inode;
mod inode_table;
mod layered;
mod namespace;
mod observer;
mod open;
mod operation;
mod realm;
mod replay;
mod table;
pub mod tree;
mod upkeep;
mod uses;

pub use namespace::{Namespace, Options};
pub use observer::Observer;
pub use open::Status;
pub use uses::extent_uses;
