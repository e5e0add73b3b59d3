//! Exit codes of both daemons. 0 is success, 1 any other failure.

use std::io::Write;

use crate::log::excerpt;

/// No server or daemon answers.
pub const UNREACHABLE: u8 = 2;
/// The command line or the configuration is wrong (`EX_USAGE` of sysexits(3)).
pub const USAGE: u8 = 64;
/// The process can't go on (`EX_SOFTWARE` of sysexits(3)).
pub const SOFTWARE: u8 = 70;

/// Prints an error about the command line, or the text of `--help`, and returns the exit code. clap
/// repeats what was typed: escape sequences in it are not printed raw.
pub fn report(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    // It fails when neither stdout nor stderr can be written.
    let _ = match text.contains(|c: char| c.is_control() && c != '\n') {
        true => writeln!(std::io::stderr().lock(), "{}", printable(&text)),
        false => error.print(),
    };
    if error.use_stderr() { USAGE } else { 0 }
}

fn printable(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(excerpt).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_has_no_escape_sequences() {
        assert_eq!(printable("a\u{1b}[2J\nb\r\n"), "a\u{fffd}[2J\nb");
    }
}
