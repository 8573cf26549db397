//! Printing: what cannot be written is an error like any other, never a panic, and what others have named does not reach a terminal as commands.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

/// A line, or several, on standard output. A reader who has seen enough has gone, and that is well.
///
/// # Errors
/// What writing reports otherwise.
pub fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A line on standard error. There is nowhere left to say that it cannot be written.
pub fn error(text: impl fmt::Display) {
    let _nowhere = writeln!(io::stderr().lock(), "{text}");
}

/// Text that a user of the store has chosen, with its control characters escaped: names may hold line ends and commands of terminals.
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Marks that turn the direction of text show a name as another one.
        let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        self.0.chars().try_for_each(|c| {
            if c.is_control() || turns(c) { write!(f, "{}", c.escape_default()) } else { fmt::Write::write_char(f, c) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_a_terminal_or_end_a_line() {
        let shown = Printable("/we\nird\u{1b}[31mn\u{e4}me\u{9b}2J\u{202e}txt.exe").to_string();
        assert_eq!(shown, "/we\\nird\\u{1b}[31mn\u{e4}me\\u{9b}2J\\u{202e}txt.exe");
    }
}
