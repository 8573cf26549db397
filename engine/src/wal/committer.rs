//! The thread that does what nobody waits for: callbacks, the barrier of every second, watermarks after quiet.

use super::group::Due;
use super::{QUIET_MS, Wal};
use crate::mutant::{self, Mutant};
use crate::sync::thread::{self, JoinHandle};
use std::sync::Arc;
use std::time::Duration;

/// Runs while it lives; dropping it stops the thread after the group it is in. What is not durable then stays so until somebody commits.
#[derive(Debug)]
pub struct Committer {
    wal: std::sync::Weak<Wal>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(wal: &Arc<Wal>) -> std::io::Result<Self> {
        let own = Arc::clone(wal);
        let thread = thread::Builder::new().name("envoyfs-commit".into()).spawn(move || own.run())?;
        Ok(Self { wal: Arc::downgrade(wal), thread: Some(thread) })
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Some(wal) = self.wal.upgrade() {
            wal.inner.lock().stop = true;
            wal.wake.notify_all();
        }
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the committer thread panicked");
        }
    }
}

impl Wal {
    fn run(&self) {
        let mut inner = self.inner.lock();
        while !inner.stop {
            match self.due(&inner) {
                due @ (Due::Group | Due::Watermark) => {
                    self.lead(inner, due == Due::Watermark);
                    inner = self.inner.lock();
                }
                // The leader's end wakes this thread if it leaves anything to it that is due at once; what is due by the clock can wait so long.
                Due::AfterGroup => {
                    self.wake.wait_for(&mut inner, Duration::from_millis(QUIET_MS));
                }
                Due::Later(None) => {
                    self.staging.enter_idle();
                    // Whoever appended before sees nobody asleep; this look sees what they appended.
                    if mutant::on(Mutant::SleepsWithoutLook) || self.due(&inner) == Due::Later(None) {
                        self.wake.wait(&mut inner);
                    }
                    self.staging.leave_idle();
                }
                // Not longer than the quiet time: what others do meanwhile may make a watermark due, and does not wake this thread for it.
                Due::Later(Some(ms)) => {
                    self.wake.wait_for(&mut inner, Duration::from_millis(ms.clamp(1, QUIET_MS)));
                }
            }
        }
    }
}
