//! POSIX meaning over immutable objects: directories, files, realms, forks, snapshots. Knows neither FUSE nor devices.
//!
//! Front ends use [`Namespace`]; decision 0003 describes how it works.

pub mod api;
