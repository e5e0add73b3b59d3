//! A lock is held for one expression only.

use crate::sources::{code, own_code, rust};

/// Whether the line keeps the guard of a `watch` channel for the rest of its block: Rust extends the life of
/// the temporary in `let x = &channel.borrow().field`. If the block borrows the channel again while its sender
/// waits in between, all three wait for ever (`parking_lot::RwLock`).
fn keeps_a_guard(line: &str) -> bool {
    let code = code(line);
    let bound = code.trim_start().strip_prefix("let ");
    let value = bound.and_then(|it| it.split_once(" = &"));
    value.is_some_and(|(_, it)| {
        let borrowed = it
            .split_once(".borrow().")
            .or(it.split_once(".borrow_and_update()."));
        borrowed.is_some_and(|(of, field)| !of.contains('(') && !field.contains('('))
    })
}

#[test]
fn no_guard_of_a_channel_outlives_its_expression() {
    let mut found = Vec::new();
    for (name, text) in rust() {
        let lines = own_code(&text).into_iter();
        let kept = lines.filter(|(_, line)| keeps_a_guard(line));
        found.extend(kept.map(|(number, line)| format!("{name}:{number}: {}", line.trim())));
    }
    assert!(
        found.is_empty(),
        "take a clone instead:\n{}",
        found.join("\n")
    );
}

#[test]
fn rule_of_guards_finds_what_it_forbids() {
    assert!(keeps_a_guard(
        "        let marks = &self.surroundings.borrow().mark_rules;"
    ));
    for fine in [
        "let marks = self.surroundings.borrow().mark_rules.clone();",
        "let surroundings = &self.surroundings;",
        "let covered = f(&self.surroundings.borrow().resolvers, facts);",
    ] {
        assert!(!keeps_a_guard(fine), "{fine}");
    }
}
