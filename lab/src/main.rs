//! The `lab` command: clusters on this machine by hand, and the demo.

mod cli;
mod demo;
mod interrupt;
mod say;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            interrupt::comes_first();
            say::complain(&format!("lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
