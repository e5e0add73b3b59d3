//! `contiv-cni`: the CNI plugin that container runtimes start; netplugin does the work.

use std::io::{Read, Write};
use std::process::ExitCode;

use node::cni::{Failure, plugin};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut config = String::new();
    let read = std::io::stdin().lock().read_to_string(&mut config);
    let done = match read {
        Ok(_) => plugin::run(variable, &config),
        Err(error) => Err(Failure::new(
            5,
            "can't read the network configuration",
            format!("standard input: {error}"),
        )),
    };
    let (output, code) = match done {
        Ok(output) => (output.map(|it| it.to_string()), ExitCode::SUCCESS),
        Err(failure) => {
            let failure = match failure.cni_version.as_str() {
                "" => failure.in_version(&serde_json::Value::Null),
                _ => failure,
            };
            (serde_json::to_string(&failure).ok(), ExitCode::FAILURE)
        }
    };
    if let Some(output) = output {
        // It fails if the runtime is gone.
        writeln!(std::io::stdout().lock(), "{output}").ok();
    }
    code
}
