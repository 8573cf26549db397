//! Mounting a store: options, the daemon, its end. Shared by `mount.envoyfs` and `envoyfs mount`.
//!
//! ```text
//! foreground:  claim identity -> open store -> mount -> serve -> close store
//! daemon:      parent starts itself again and waits   | child: the same, in a session of its own; tells the parent
//!              for one line, exits when it is mounted |        "ready" once it is mounted, then lets its terminal go
//! ```
//!
//! If power fails here: the store is what the engine promises; the mount is gone.

pub(crate) mod claim;
mod daemon;
mod options;
mod serve;
mod signals;

pub use daemon::start;
pub use options::{Arguments, OptionError, Settings};

/// Exit status for wrong arguments, as mount(8) defines it.
pub const EXIT_USAGE: u8 = 1;
/// Exit status for a mount that failed, as mount(8) defines it.
pub const EXIT_FAILED: u8 = 32;
