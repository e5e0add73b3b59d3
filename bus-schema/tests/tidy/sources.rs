//! The text files of the workspace, and Rust's lines in them.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// The text files below `dir`, by their paths in the workspace, without what tools put there.
pub(crate) fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("readable folder").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !matches!(&*name, "target" | ".tools" | ".git") {
                files(&path, found);
            }
        } else if name != "Cargo.lock" && fs::metadata(&path).is_ok_and(|m| m.len() < 1 << 20) {
            found.push(path);
        }
    }
}

pub(crate) fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    found
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(&root).ok()?.display().to_string();
            Some((name, fs::read_to_string(&path).ok()?))
        })
        .collect()
}

pub(crate) fn rust() -> impl Iterator<Item = (String, String)> {
    sources()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
}

/// A line's code without comments and without what stands in quotes.
pub(crate) fn code(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// The lines of a file that aren't part of a test: numbers and texts. What stands behind
/// `#[cfg(test)]` ends with its `;` or its last brace, not with the file.
pub(crate) fn own_code(text: &str) -> Vec<(usize, &str)> {
    let mut own = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if !line.trim().starts_with("#[cfg(test)]") {
            own.push((index + 1, line));
            continue;
        }
        let mut depth = 0;
        for (_, line) in lines.by_ref() {
            let code = code(line).replace("'{'", "").replace("'}'", "");
            depth += code.matches('{').count() as isize - code.matches('}').count() as isize;
            let ends = code.trim_end().ends_with([';', '}']);
            if depth == 0 && ends {
                break;
            }
        }
    }
    own
}

/// The name of the crate whose own code a file of Rust is: not that of a test or a benchmark of it.
pub(crate) fn crate_of(file: &str) -> Option<String> {
    let (folder, inner) = file.split_once("/src/")?;
    let is_test =
        inner.ends_with("tests.rs") || inner.contains("tests/") || inner.ends_with("fixture.rs");
    (!is_test).then(|| folder.replace('/', "-"))
}
