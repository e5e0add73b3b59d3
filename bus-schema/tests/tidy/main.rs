//! The rules of CONTRIBUTING.md and ARCHITECTURE.md, as tests over the sources of the whole workspace.

mod circles;
mod guards;
mod names;
mod purity;
mod sizes;
mod sources;

use crate::sources::sources;

/// Nothing refers to a machine on which the project was once built.
#[test]
fn no_path_of_one_machine_is_named() {
    let places = ["/root/.", "/home/", "/work/", "/tmp/w/"];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("tests/tidy/main.rs"))
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
