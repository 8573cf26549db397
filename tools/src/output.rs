//! Printing: what cannot be written is an error like any other, never a panic, and what others have named does not reach a terminal as commands.

use clap::error::ErrorKind;
use std::fmt;
use std::io::{self, Write as _};

/// A line, or several, on standard output. A reader who has seen enough has gone, and that is well.
///
/// # Errors
/// What writing reports otherwise.
pub fn line(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A line on standard error. There is nowhere left to say that it cannot be written.
pub fn error(text: impl fmt::Display) {
    let _nowhere = writeln!(io::stderr().lock(), "{text}");
}

/// What went wrong, on standard output, for a program that was promised JSON; a person has read it by then. Returns the exit status.
pub fn json_error(error: &anyhow::Error, code: u8) -> u8 {
    // There is nowhere left to say that it cannot be written.
    let _nowhere = line(serde_json::json!({ "error": format!("{error:#}"), "exit_status": code }));
    code
}

/// Prints help, or what is wrong with the arguments. Returns the exit status: `code` for wrong ones.
pub fn usage(error: &clap::Error, code: u8) -> u8 {
    // A closed terminal is no reason to fail.
    let _nowhere = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return 0;
    }
    let wants_json =
        std::env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if wants_json {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        json_error(&anyhow::anyhow!("{}", first.strip_prefix("error: ").unwrap_or(first)), code);
    }
    code
}

/// So many of something: `1 name`, `2 names`.
pub fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
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
