//! SIGTERM and SIGINT unmount, SIGHUP does nothing.

use envoyfs_fuse::mount_point::{Force, MountPoint};
use nix::sys::signal::{SigSet, Signal};
use std::time::Duration;

/// How often, and how far apart, a busy mount is tried again before its connection is ended.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Blocks the signals in this thread and all that it starts.
///
/// # Errors
/// The system refused.
pub fn block() -> std::io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

/// Starts the thread that waits for them.
///
/// # Errors
/// No thread can be made.
pub fn watch(signals: SigSet, mount_point: MountPoint) -> std::io::Result<()> {
    std::thread::Builder::new().name("envoyfs-signals".to_owned()).spawn(move || {
        loop {
            match signals.wait() {
                Ok(Signal::SIGHUP) => {}
                Ok(signal) => {
                    tracing::info!(%signal, "unmounting");
                    if unmount(&mount_point) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "waiting for signals");
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// First as umount(8) would; whoever still has files open after two seconds gets errors. What they wrote is kept.
fn unmount(mount_point: &MountPoint) -> bool {
    for _ in 0..TRIES {
        match mount_point.detach(Force::IfIdle) {
            Ok(()) => return true,
            Err(error) => tracing::debug!(%error, "not yet"),
        }
        std::thread::park_timeout(PAUSE);
    }
    tracing::warn!("still busy: ending the connection");
    match mount_point.detach(Force::Abort) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "cannot unmount");
            false
        }
    }
}
