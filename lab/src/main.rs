//! The `lab` command: starts and controls clusters on this machine, and runs the demo.

mod cli;
mod demo;
mod interrupt;
mod print;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            interrupt::await_removal();
            print::error(&format!("lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
