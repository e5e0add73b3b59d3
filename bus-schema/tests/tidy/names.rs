//! Names that the rules of CONTRIBUTING.md forbid.

use std::collections::BTreeMap;

use crate::sources::{crate_of, own_code, rust};

/// Constants that say neither of what they are, nor in which unit.
const VAGUE: [&str; 38] = [
    "ABOUT",
    "AGAIN",
    "AHEAD",
    "ANSWER",
    "ASK",
    "BREATH",
    "BRIEF",
    "DEAF",
    "DEEPEST",
    "EVERY",
    "FEED",
    "FEW",
    "GLANCE",
    "JUDGE",
    "KEPT",
    "LATE",
    "LIFE",
    "LONGEST",
    "LOOK",
    "LOOKS",
    "MANY",
    "MOMENT",
    "NEXT",
    "OURS",
    "PATIENCE",
    "PAUSE",
    "PROOF",
    "REMEMBER",
    "REMEMBERED",
    "SETTLE",
    "SILENT",
    "SLACK",
    "SMALL",
    "SOON",
    "STEADY",
    "TOGETHER",
    "USUAL",
    "WATCH",
];

/// `pub struct Name`, also `pub(crate)`.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(scope) => scope.split_once(')')?.1,
        None => rest,
    };
    let rest = rest.strip_prefix(' ')?;
    let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
    let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
    // A macro's `$name` is none.
    let name = name.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    name.into_iter().next().filter(|it| !it.is_empty())
}

/// The name of a constant, and its type.
fn constant(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let at = ["const ", "static "].iter().find_map(|word| {
        let at = line.find(word)?;
        let before = line[..at].trim();
        (before.is_empty() || before.starts_with("pub")).then_some(at + word.len())
    })?;
    let (name, rest) = line[at..].split_once(':')?;
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let kind = rest.split('=').next()?.trim();
    is_name.then_some((name, kind))
}

/// Whether a constant's name says too little: a word of the list, or a time by one word alone.
fn is_vague(name: &str, kind: &str) -> bool {
    VAGUE.contains(&name) || (kind.ends_with("Duration") && !name.contains('_'))
}

#[test]
fn public_type_is_named_once_in_a_crate() {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (file, text) in rust() {
        let Some(crate_) = crate_of(&file) else {
            continue;
        };
        for (_, line) in own_code(&text) {
            if let Some(name) = public_type(line) {
                places
                    .entry((crate_.clone(), name.to_owned()))
                    .or_default()
                    .push(file.clone());
            }
        }
    }
    assert!(places.len() > 500, "only {} types were found", places.len());
    let twice = places.into_iter().filter(|(_, files)| files.len() > 1);
    let twice: Vec<String> = twice
        .map(|((crate_, name), files)| format!("{crate_}: `{name}` in {}", files.join(", ")))
        .collect();
    assert!(
        twice.is_empty(),
        "one name for two types:\n{}",
        twice.join("\n")
    );
}

#[test]
fn constant_names_its_subject_and_unit() {
    let mut seen = 0;
    let mut vague = Vec::new();
    for (file, text) in rust() {
        for (number, line) in own_code(&text) {
            let Some((name, kind)) = constant(line) else {
                continue;
            };
            seen += 1;
            if is_vague(name, kind) {
                vague.push(format!("{file}:{number}: {name}: {kind}"));
            }
        }
    }
    assert!(seen > 300, "only {seen} constants were found");
    assert!(
        vague.is_empty(),
        "say of what, and in which unit:\n{}",
        vague.join("\n")
    );
}

#[test]
fn rules_of_names_find_what_they_forbid() {
    assert_eq!(
        public_type("    pub(super) struct Batch<'a> {"),
        Some("Batch")
    );
    assert_eq!(public_type("pub enum Op {"), Some("Op"));
    assert_eq!(public_type("struct Private;"), None);
    assert_eq!(
        constant("pub const ASK_TIMEOUT: Duration = X;"),
        Some(("ASK_TIMEOUT", "Duration"))
    );
    assert_eq!(constant("    let x: u8 = 1;"), None);
    assert!(is_vague("PATIENCE", "u64"));
    assert!(is_vague("RETRY", "Duration"));
    assert!(!is_vague("RETRY_INTERVAL", "Duration"));
}
