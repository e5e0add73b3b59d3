//! What the architecture forbids, as a test over the sources of the whole workspace.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that take values and return values.
const PURE: [&str; 5] = [
    "bus-schema/src",
    "actors/src/aggregate",
    "netmaster/src/view",
    "netmaster/src/process",
    "node/core/src",
];

/// What only the shell may name: executors, the bus, the kernel, clocks, chance, hash order.
const IMPURE: [&str; 20] = [
    "tokio",
    "actix",
    "async_nats",
    "rtnetlink",
    "nftables",
    "async",
    "await",
    "Instant",
    "SystemTime",
    "jiff",
    "fastrand",
    "rand",
    "new_v4",
    "now_v7",
    "HashMap",
    "HashSet",
    "fs",
    "process",
    "thread",
    "env",
];

const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// The text files below `dir`, by their paths in the workspace, without what tools put there.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
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

fn sources() -> Vec<(String, String)> {
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

fn rust() -> impl Iterator<Item = (String, String)> {
    sources()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
}

/// A line's code without comments and without what stands in quotes.
fn code(line: &str) -> String {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// The lines of a file that aren't part of a test: numbers and texts. What stands behind
/// `#[cfg(test)]` ends with its `;` or its last brace, not with the file.
fn own_code(text: &str) -> Vec<(usize, &str)> {
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

fn impurities(text: &str) -> Vec<String> {
    own_code(text)
        .into_iter()
        .filter_map(|(number, line)| {
            let code = code(line);
            // `mod process;` and `self.process` name parts of ours, `process::` the system's.
            let word = words(&code).find(|word| match *word {
                "fs" | "process" | "thread" | "env" => code.contains(&format!("std::{word}")),
                word => IMPURE.contains(&word),
            })?;
            Some(format!("{number}: `{word}` in `{}`", line.trim()))
        })
        .collect()
}

/// Whether the comment at the head of a file says that the file is pure.
fn says_pure(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    head.into_iter()
        .any(|line| words(line).any(|word| word == "Pure") && !line.contains("Not pure"))
}

#[test]
fn pure_files_name_nothing_of_the_shell() {
    let mut by_folder = 0;
    let mut by_head = 0;
    let mut found = Vec::new();
    for (name, text) in rust() {
        let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
        let in_folder = PURE
            .iter()
            .any(|folder| name.starts_with(&format!("{folder}/")));
        if is_test || !(in_folder || says_pure(&text)) {
            continue;
        }
        by_folder += usize::from(in_folder);
        by_head += usize::from(!in_folder);
        found.extend(
            impurities(&text)
                .into_iter()
                .map(|what| format!("{name}:{what}")),
        );
    }
    assert!(
        by_folder > 70,
        "only {by_folder} files of pure folders were found"
    );
    assert!(
        by_head > 10,
        "only {by_head} files outside of them say that they are pure"
    );
    assert!(found.is_empty(), "not pure:\n{}", found.join("\n"));
}

#[test]
fn the_rule_of_purity_can_tell() {
    for impure in [
        "use std::collections::HashMap;",
        "    let now = std::time::Instant::now();",
        "pub async fn run() {}",
        "use tokio::sync::watch;",
        "    std::fs::read(path)",
        "    uuid::Uuid::new_v4()",
    ] {
        assert_eq!(impurities(impure).len(), 1, "{impure}");
    }
    let behind_a_test = "#[cfg(test)]\nmod tests;\n\nuse tokio::sync::watch;";
    assert_eq!(impurities(behind_a_test).len(), 1);
    for pure in [
        "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() {\n        std::fs::read(p);\n    }\n}",
        "// tokio runs this",
        "mod process;",
        "let text = \"async\";",
    ] {
        assert!(impurities(pure).is_empty(), "{pure}");
    }
}

#[test]
fn files_are_short() {
    let long: Vec<String> = rust()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "split these at {MAX_LINES} lines:\n{}",
        long.join("\n")
    );
}

/// Nothing refers to a machine on which the project was once built.
#[test]
fn no_path_of_one_machine_is_named() {
    let places = ["/root/.", "/home/", "/work/", "/tmp/w/"];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("tests/tidy.rs"))
        .flat_map(|(name, text)| {
            let named = text.lines().enumerate().filter(|(_, line)| {
                places.into_iter().any(|place| {
                    let before = line.split(place).next().unwrap_or_default();
                    before.len() < line.len()
                        && !before.ends_with(|c: char| c.is_alphanumeric() || "_-./}".contains(c))
                })
            });
            named
                .map(|(index, line)| format!("{name}:{}: {}", index + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(
        found.is_empty(),
        "paths of one machine:\n{}",
        found.join("\n")
    );
}
