//! Who waits for a run: what is being done, on a terminal, and the wish to end it.

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at whether to go on, while nothing is measured yet.
const STEP_BYTES: u64 = 256 << 20;

/// What is said when there is nothing to report.
pub const STOPPED: &str = "stopped before anything was measured";

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Watch {
    /// Set once, to end the jobs.
    pub stop: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Watch {
    /// Shows nothing where standard error is no terminal. May start a thread.
    pub fn new(stop: Arc<AtomicBool>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(1));
        let style = ProgressStyle::with_template("{msg} [{elapsed_precise}]");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        Self { stop, bar }
    }

    /// From now on this is done.
    pub fn says(&self, what: impl Display) {
        self.bar.set_message(what.to_string());
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Somebody wants it to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Does something with a range, part by part: what, where, how long.
    ///
    /// # Errors
    /// Those of a step, and if it is stopped before all are done.
    pub fn steps(
        &self,
        what: &str,
        start: u64,
        bytes: u64,
        mut step: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            ensure!(!self.is_stopped(), STOPPED);
            self.says(format_args!("{what}: {} of {} MiB", done >> 20, bytes >> 20));
            let length = STEP_BYTES.min(bytes - done);
            step(start + done, length)?;
            done += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_done_in_order_and_whole_and_not_at_all_once_stopped() {
        let watch = Watch::new(Arc::default());
        let mut seen = Vec::new();
        let bytes = 2 * STEP_BYTES + 4096;
        let step = |at, length| {
            seen.push((at, length));
            Ok(())
        };
        watch.steps("x", 512, bytes, step).unwrap();
        assert_eq!(seen, [(512, STEP_BYTES), (512 + STEP_BYTES, STEP_BYTES), (512 + 2 * STEP_BYTES, 4096)]);
        watch.stop.store(true, Ordering::Relaxed);
        let stopped = watch.steps("x", 0, bytes, |_, _| panic!("a step after the stop")).unwrap_err();
        assert!(stopped.to_string().contains("stopped"), "{stopped}");
    }
}
