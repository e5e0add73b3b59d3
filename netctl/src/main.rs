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
mod intent;
mod output;
mod seen;
mod survey;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::Format;

fn main() -> ExitCode {
    // Answers a shell that asks for completions, and then ends the process.
    completion::answer();
    let argv: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let (cli, json) = match parse(argv.clone()) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::Local(error.to_string()), &argv, json),
    };
    let outcome = runtime.block_on(command::run(cli));
    // A pending name lookup would keep the process alive for many seconds.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure, &argv, json),
    }
}

/// Parses the arguments; the flag is whether the output is JSON.
fn parse(argv: Vec<String>) -> Result<(Cli, bool), clap::Error> {
    let mut command = Cli::command();
    command.build();
    if let Some(noun) = argv::noun_of(&command, &argv)
        && let Some(instead) = cli::unsupported_noun(&noun)
    {
        return Err(command.error(clap::error::ErrorKind::InvalidSubcommand, instead));
    }
    let argv = argv::normalize(&command, argv);
    let mut matches = command.try_get_matches_from_mut(argv)?;
    let json = wants_json(&matches);
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut command))?;
    Ok((cli, json))
}

/// Whether `-o json` or `--json` was typed.
fn wants_json(matches: &ArgMatches) -> bool {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    let flag = leaf.try_get_one::<bool>("json").ok().flatten();
    let output = leaf.try_get_one::<Format>("output").ok().flatten();
    flag == Some(&true)
        || output == Some(&Format::Json)
            && leaf.value_source("output") == Some(ValueSource::CommandLine)
}

fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is no failure.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(failure::EXIT_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

fn failed(failure: &Failure, argv: &[String], json: bool) -> ExitCode {
    match failure {
        Failure::ClosedPipe | Failure::Negative => {}
        _ if json => output::note(&failure.value().to_string()),
        _ => output::note(&format!("netctl: {}", failure.lines().join("\n"))),
    }
    if let Some(id) = failure.id() {
        output::note(&format!(
            "to repeat the command, keep its id, so that it takes effect at most once: {}",
            argv::retry(argv, id)
        ));
    }
    ExitCode::from(failure.code())
}
