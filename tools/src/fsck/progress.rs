//! How far a check is: a bar on a terminal, or lines for a program that draws one of its own.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

/// Draws a second.
const HZ: u8 = 5;
/// Wide enough that no line is cut.
const COLUMNS: u16 = 1024;

/// Where progress goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    #[default]
    None,
    /// A bar on standard error, which is a terminal.
    Bar,
    /// Lines `1 BYTES TOTAL` to a descriptor, as `e2fsck -C` writes them.
    Lines(i32),
}

/// A bar over so many bytes.
pub fn bar(progress: Progress, bytes: u64) -> ProgressBar {
    let (target, template) = match progress {
        Progress::None => return ProgressBar::hidden(),
        Progress::Bar => {
            (ProgressDrawTarget::stderr_with_hz(HZ), "{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
        }
        Progress::Lines(descriptor) => {
            let Ok(file) = OpenOptions::new().append(true).open(format!("/proc/self/fd/{descriptor}")) else {
                return ProgressBar::hidden();
            };
            (ProgressDrawTarget::term_like_with_hz(Box::new(Lines(file)), HZ), "1 {pos} {len}")
        }
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// All is read. A bar goes; whoever counts lines gets the last one.
pub fn end(progress: Progress, bar: &ProgressBar) {
    match progress {
        Progress::Lines(_) => bar.finish(),
        Progress::Bar | Progress::None => bar.finish_and_clear(),
    }
}

/// A file for a terminal: what would be drawn over is written below. Nobody there is no reason to stop.
#[derive(Debug)]
struct Lines(File);

impl Lines {
    fn put(&self, text: &str) {
        let text = text.trim();
        if !text.is_empty() {
            let _gone = writeln!(&self.0, "{text}");
        }
    }
}

impl TermLike for Lines {
    fn width(&self) -> u16 {
        COLUMNS
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
