//! Pure files name nothing of the shell: no executor, no clock, no I/O, no randomness, no hash order.

use crate::sources::{code, own_code, rust, words};

/// Folders that take values and return values.
const PURE: [&str; 5] = [
    "bus-schema/src",
    "actors/src/aggregate",
    "netmaster/src/view",
    "netmaster/src/process",
    "node/core/src",
];

/// Words that only the shell may use: executors, the bus, the kernel, clocks, randomness, hash order.
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

/// Outside of the pure folders a pure file may take an `Instant` as an argument, and may hash: clippy's
/// `disallowed_types` demands a reason there.
fn is_allowed_outside(impurity: &str) -> bool {
    let is_value = ["`Instant`", "`HashMap`", "`HashSet`"];
    let is_value = is_value.iter().any(|word| impurity.contains(word));
    // The clock that tests can stop has an `Instant` of its own.
    (is_value || impurity.contains("tokio::time::Instant")) && !impurity.contains("::now")
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
        let impure = impurities(&text).into_iter();
        let impure = impure.filter(|what| in_folder || !is_allowed_outside(what));
        found.extend(impure.map(|what| format!("{name}:{what}")));
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
