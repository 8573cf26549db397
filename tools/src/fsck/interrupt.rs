//! Stopping between two nodes when the user wants to: nothing is half written then.

use super::report::EXIT_CANCELED;
use nix::sys::signal::{SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Did the user ask to stop?
#[must_use]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on SIGINT and SIGTERM ask to stop instead of killing the process; the second one ends it. (The replay of a log, for one, is the engine's, and does not ask.) Call before any thread is started.
///
/// # Errors
/// The system refused.
pub fn watch() -> std::io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::Builder::new().name("fsck-signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            REQUESTED.store(true, Ordering::Relaxed);
        }
        let _without = std::thread::Builder::new().name("fsck-signal-two".into()).spawn(move || end_at_once(&signals));
    })?;
    Ok(())
}

/// As a power cut would: whatever is half written, nothing names it.
fn end_at_once(signals: &SigSet) {
    if signals.wait().is_ok() {
        std::process::exit(EXIT_CANCELED.into());
    }
}
