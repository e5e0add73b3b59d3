//! The command line: arguments → one request or stream on the bus → text → exit code.
//!
//! `cli` is the grammar, `argv` accepts Contiv's spellings, `command/<noun>` runs the verbs, `client`
//! sends the requests, `output` prints. Exit codes: 0 done, 1 rejected, 2 unreachable, 3 outcome
//! unknown, 4 undecided (`trace`), 64 usage.

mod argv;
mod bus_url;
mod cli;
mod client;
mod clocks;
mod command;
mod completion;
mod connection;
mod contexts;
mod failure;
mod input;
mod intent;
mod output;
mod people;
mod seen;
mod survey;

use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::Format;

fn main() -> ExitCode {
    // Answers a shell that asks for completions, and then ends the process.
    completion::answer();
    let argv: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let mut command = Cli::command();
    command.build();
    let typed = argv::normalize(&command, argv.clone());
    let format = argv::document_format(&command, &typed);
    let cli = match parse(&mut command, &argv, typed) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, format),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::Local(error.to_string()), &argv, format),
    };
    let outcome = runtime.block_on(command::run(cli));
    // A pending name lookup would keep the process alive for many seconds.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure, &argv, format),
    }
}

/// Parses the arguments: as they were typed, and normalized.
fn parse(command: &mut Command, argv: &[String], typed: Vec<String>) -> Result<Cli, clap::Error> {
    if let Some(noun) = argv::noun_of(command, argv)
        && let Some(instead) = cli::unsupported_noun(&noun)
    {
        return Err(command.error(clap::error::ErrorKind::InvalidSubcommand, instead));
    }
    let mut matches = command.try_get_matches_from_mut(typed)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(command))
}

/// Prints a usage error, or the text of `--help` and `--version`. `format`: see [`failed`].
fn usage(error: &clap::Error, format: Option<Format>) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let rendered = error.render().to_string();
    let text = bus_url::without_tokens(&rendered);
    if format.is_some() {
        print_failure(&Failure::Usage(in_short(&text)), format);
    }
    // clap repeats what was typed, and its colors are escape sequences, too.
    match text != rendered || text.contains(|c: char| c.is_control() && c != '\n') {
        true => output::note(text.trim_end()),
        false => {
            let _ = error.print();
        }
    }
    ExitCode::from(failure::EXIT_USAGE)
}

/// The text of a usage error without the grammar and the hint behind it.
fn in_short(text: &str) -> String {
    let ends = ["\n\nUsage:", "\n\nFor more "];
    let end = ends.iter().filter_map(|it| text.find(it)).min();
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or(text);
    text.trim_start_matches("error: ").trim_end().to_owned()
}

/// Prints the object of a failure, unless something else is on stdout already.
fn print_failure(failure: &Failure, format: Option<Format>) {
    let Some(format) = format.filter(|_| !output::has_printed()) else {
        return;
    };
    // The text on stderr and the exit code still tell of the failure if stdout is closed.
    if let Ok(text) = output::document(&failure.value(), format) {
        let _ = output::print(&text);
    }
}

/// `format`: of the document that a script asked for; absent: none.
fn failed(failure: &Failure, argv: &[String], format: Option<Format>) -> ExitCode {
    if !matches!(failure, Failure::ClosedPipe | Failure::Negative) {
        print_failure(failure, format);
        output::note(&format!("netctl: {}", failure.lines().join("\n")));
    }
    // `apply` sends several commands, and takes no id: the next one continues.
    let is_apply = argv::noun_of(&Cli::command(), argv).as_deref() == Some("apply");
    if let Some(id) = failure.id().filter(|_| !is_apply) {
        output::note(&format!(
            "to repeat the command, keep its id, so that it takes effect at most once: {}",
            argv::retry(argv, id)
        ));
    }
    ExitCode::from(failure.code())
}
