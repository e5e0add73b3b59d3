//! Contiv's spellings: long flags with one dash. `-subnet=10.1.1.0/24` is rewritten to
//! `--subnet=…` where the chosen subcommand has such a long flag. A word that can't be a short flag
//! is rewritten too, so that clap suggests the right one (`-subent=…`: did you mean `--subnet`?).
//! All other words pass to clap unchanged.

use bus_schema::CommandId;
use clap::{Arg, ArgAction, Command, ValueEnum};

use crate::output::Format;

/// The first word that is neither a flag nor a flag's value.
pub(crate) fn noun_of(root: &Command, argv: &[String]) -> Option<String> {
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            return Some(word.clone());
        }
        if takes_next(root, word) {
            words.next();
        }
    }
    None
}

/// Rewrites long flags with one dash to two dashes.
pub(crate) fn normalize(root: &Command, argv: Vec<String>) -> Vec<String> {
    let mut chosen = root;
    let mut out = Vec::with_capacity(argv.len());
    let mut words = argv.into_iter();
    out.extend(words.next());
    while let Some(word) = words.next() {
        if word == "--" {
            out.push(word);
            break;
        }
        if !word.starts_with('-') {
            chosen = chosen.find_subcommand(&word).unwrap_or(chosen);
            out.push(word);
            continue;
        }
        let word = match word.strip_prefix('-') {
            Some(rest) if is_long(chosen, rest) || is_no_short(chosen, rest) => {
                format!("--{rest}")
            }
            _ => word,
        };
        let with_value = takes_next(chosen, &word);
        out.push(word);
        if with_value {
            out.extend(words.next());
        }
    }
    out.extend(words);
    out
}

/// The format of the document that normalized arguments ask for, also where they are wrong. Absent: text
/// for people, or the verb's default.
pub(crate) fn document_format(root: &Command, argv: &[String]) -> Option<Format> {
    let mut chosen = root;
    let mut found = None;
    let mut words = argv.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            chosen = chosen.find_subcommand(word).unwrap_or(chosen);
            continue;
        }
        // Where no verb is found, its flags are read as those of a list.
        let listing = root.find_subcommand("version");
        let verb = listing
            .filter(|_| chosen.has_subcommands())
            .unwrap_or(chosen);
        let (flag, glued) = split_flag(verb, word);
        let value = match takes_next(verb, word) {
            true => words.next().map(String::as_str),
            false => glued,
        };
        match flag.map(|it| it.get_id().as_str()) {
            Some("json") => found = Some(Format::Json),
            Some("output") => found = value.and_then(|it| Format::from_str(it, true).ok()),
            _ => {}
        }
    }
    found.filter(|it| !it.is_text())
}

/// The flag of a word and the value in it. Of several short flags in one word (`-aj`) it is the last,
/// or the first with a value (`-ojson`).
fn split_flag<'a, 'b>(command: &'a Command, word: &'b str) -> (Option<&'a Arg>, Option<&'b str>) {
    if let Some(rest) = word.strip_prefix("--") {
        let (name, value) = match rest.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (rest, None),
        };
        return (long(command, name), value);
    }
    let mut last = None;
    for (index, letter) in word.char_indices().skip(1) {
        last = short(command, Some(letter));
        if last.is_some_and(takes_value) {
            let rest = word.get(index + letter.len_utf8()..).unwrap_or_default();
            return (last, Some(rest.strip_prefix('=').unwrap_or(rest)));
        }
    }
    (last, None)
}

/// The command line that repeats the command with the same id.
pub(crate) fn retry(argv: &[String], id: CommandId) -> String {
    let mut words = vec!["netctl".to_owned()];
    let mut rest = argv.iter().skip(1);
    while let Some(word) = rest.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word.as_str(), None),
        };
        match flag.trim_start_matches('-') {
            // The id is appended below, and the bus's address contains its token.
            "command-id" | "netmaster" if flag.starts_with('-') => {
                if value.is_none() {
                    rest.next();
                }
            }
            _ => words.push(word.clone()),
        }
    }
    words.push(format!("--command-id={id}"));
    words.join(" ")
}

fn is_long(command: &Command, word: &str) -> bool {
    let name = word.split('=').next().unwrap_or(word);
    name.len() > 1 && long(command, name).is_some()
}

/// Whether a word with one dash can't be a short flag: those have a letter of the subcommand, and no
/// name before a `=`.
fn is_no_short(command: &Command, word: &str) -> bool {
    let name = word.split('=').next().unwrap_or(word);
    let is_name = name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|it| it.is_ascii_lowercase() || it == b'-');
    is_name && (name.len() < word.len() || short(command, name.chars().next()).is_none())
}

fn short(command: &Command, letter: Option<char>) -> Option<&Arg> {
    let mut all = command.get_arguments();
    all.find(|arg| letter.is_some() && arg.get_short() == letter)
}

fn long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name)
            || arg
                .get_all_aliases()
                .is_some_and(|aliases| aliases.contains(&name))
    })
}

/// Whether the word after this flag is its value.
fn takes_next(command: &Command, word: &str) -> bool {
    if word.contains('=') {
        return false;
    }
    let arg = match word.strip_prefix("--") {
        Some(name) => long(command, name),
        None => {
            let mut letters = word.chars().skip(1);
            match (letters.next(), letters.next()) {
                (letter, None) => short(command, letter),
                _ => long(command, word.trim_start_matches('-')),
            }
        }
    };
    arg.is_some_and(takes_value)
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn check(typed: &str, expected: &str) {
        let mut command = Cli::command();
        command.build();
        let argv = typed.split(' ').map(str::to_owned).collect();
        assert_eq!(normalize(&command, argv).join(" "), expected, "{typed}");
    }

    #[test]
    fn long_flags_with_one_dash_get_two() {
        check(
            "netctl net create n -subnet=10.1.1.0/24 -gateway 10.1.1.1",
            "netctl net create n --subnet=10.1.1.0/24 --gateway 10.1.1.1",
        );
        check(
            "netctl network create -tenant blue n -s6=fd00::/64 -g6 fd00::1 -tag x -pkt-tag=7",
            "netctl network create --tenant blue n --s6=fd00::/64 --g6 fd00::1 --tag x --pkt-tag=7",
        );
        check(
            "netctl -netmaster nats://h:1 -insecure net ls -all -json",
            "netctl --netmaster nats://h:1 --insecure net ls --all --json",
        );
        check("netctl -version", "netctl --version");
        check("netctl net -help", "netctl net --help");
    }

    #[test]
    fn short_flags_stay_short() {
        check(
            "netctl net create n -s 10.1.1.0/24 -g=10.1.1.1 -p7 -t blue",
            "netctl net create n -s 10.1.1.0/24 -g=10.1.1.1 -p7 -t blue",
        );
        check("netctl net ls -aq", "netctl net ls -aq");
    }

    #[test]
    fn words_that_are_no_short_flags_become_long_ones() {
        check("netctl net ls -subnet=x", "netctl net ls --subnet=x");
        check(
            "netctl net create n -subent=10.1.1.0/24 -fwd-mode bridge",
            "netctl net create n --subent=10.1.1.0/24 --fwd-mode bridge",
        );
        check("netctl net ls -tblue -xyz", "netctl net ls -tblue --xyz");
    }

    #[test]
    fn flags_of_other_subcommands_and_values_are_left_alone() {
        check(
            "netctl net create -t -tag n -- -subnet",
            "netctl net create -t -tag n -- -subnet",
        );
        check("netctl net -t net ls", "netctl net -t net ls");
        check("netctl wait -converged", "netctl wait --converged");
    }

    #[test]
    fn document_format_is_found_also_in_wrong_arguments() {
        let mut command = Cli::command();
        command.build();
        for (typed, expected) in [
            ("netctl net ls -o json", Some(Format::Json)),
            ("netctl net ls --output=json --colour", Some(Format::Json)),
            ("netctl net ls -ojson", Some(Format::Json)),
            ("netctl net ls -aj", Some(Format::Json)),
            ("netctl net ls -o=yaml", Some(Format::Yaml)),
            ("netctl net create n -o json", Some(Format::Json)),
            ("netctl policy rule-add p 1 -o json", None),
            (
                "netctl policy rule-add p 1 -j deny --json",
                Some(Format::Json),
            ),
            ("netctl nat ls -o json", Some(Format::Json)),
            ("netctl net ls -o table", None),
            ("netctl net ls -t json", None),
            ("netctl net inspect n", None),
        ] {
            let argv: Vec<String> = typed.split(' ').map(str::to_owned).collect();
            assert_eq!(document_format(&command, &argv), expected, "{typed}");
        }
    }

    #[test]
    fn noun_is_found_behind_global_flags() {
        let mut command = Cli::command();
        command.build();
        for typed in [
            "netctl group ls",
            "netctl --insecure --netmaster nats://h:1 group ls",
            "netctl -netmaster nats://h:1 group ls",
            "netctl -netmaster=nats://h:1 group ls",
        ] {
            let argv: Vec<String> = typed.split(' ').map(str::to_owned).collect();
            assert_eq!(
                noun_of(&command, &argv).as_deref(),
                Some("group"),
                "{typed}"
            );
        }
    }

    #[test]
    fn retry_has_the_id_once_and_no_token() {
        let id = CommandId::derive(uuid::Uuid::nil(), "x");
        let argv = "netctl --netmaster nats://secret@h:1 net rm n --command-id=old"
            .split(' ')
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert_eq!(
            retry(&argv, id),
            format!("netctl net rm n --command-id={id}")
        );
    }
}
