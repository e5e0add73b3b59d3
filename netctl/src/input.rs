//! Files that a flag names, or standard input.

use std::io::Read;
use std::path::Path;

/// The name of standard input.
const STDIN: &str = "-";

pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new(STDIN)
}

/// Reads the whole text; standard input can be read only once.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    if !is_stdin(path) {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}
