//! `contiv-cni`: what a runtime starts for each call. Hands the call to netplugin; what it can say
//! alone, it says alone.

use std::path::Path;

use serde_json::{Value, json};

use super::protocol::{Call, Command, Failure, VERSIONS};
use crate::local::client::{ClientError, send};

/// Where netplugin is unless the configuration says otherwise.
pub const RUN_DIR: &str = "/run/contiv";

/// Does one call. `variable` reads the environment (empty: not set), `config` is standard input.
/// The value is what belongs on standard output, `None`: nothing.
pub fn run(variable: impl Fn(&str) -> String, config: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").parse()?;
    let config: Value = match config.trim() {
        // A probe for versions need not say its own.
        "" if command == Command::Version => Value::Null,
        text => serde_json::from_str(text).map_err(|error| {
            Failure::new(
                6,
                "can't read the network configuration",
                format!("standard input is no JSON: {error}"),
            )
        })?,
    };
    if command == Command::Version {
        return Ok(Some(versions(&config)));
    }
    let call = Call {
        command,
        container: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        interface: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        config,
    };
    hand_over(&call).map_err(|failure| match failure.cni_version.as_str() {
        "" => failure.in_version(&call.config),
        _ => failure,
    })
}

fn versions(config: &Value) -> Value {
    let asked = config.get("cniVersion").and_then(Value::as_str);
    let newest = VERSIONS[VERSIONS.len() - 1];
    json!({"cniVersion": asked.unwrap_or(newest), "supportedVersions": VERSIONS})
}

fn hand_over(call: &Call) -> Result<Option<Value>, Failure> {
    call.check()?;
    let config = call.config()?;
    let run_dir = config.run_dir.as_deref().unwrap_or(Path::new(RUN_DIR));
    let answer = match send(run_dir, "POST", "/v1/cni", Some(call)) {
        Ok(answer) => answer,
        Err(error) => return alone(call, &error),
    };
    let unreadable = |error: serde_json::Error| {
        Failure::new(
            6,
            "can't read netplugin's answer",
            format!("{error}: {}", answer.body),
        )
    };
    if !answer.is_success() {
        return Err(serde_json::from_str(&answer.body).unwrap_or_else(unreadable));
    }
    let value: Value = serde_json::from_str(&answer.body).map_err(unreadable)?;
    Ok((!value.is_null()).then_some(value))
}

/// While netplugin is away packets are forwarded, but names aren't answered, and nothing is
/// attached or detached. A namespace that is gone took its interface along, and netplugin gives
/// the address back when it starts.
fn alone(call: &Call, error: &ClientError) -> Result<Option<Value>, Failure> {
    let details = error.to_string();
    match call.command {
        Command::Status => Err(Failure::new(51, "the plugin is not available", details)),
        Command::Del if call.netns.is_empty() || !Path::new(&call.netns).exists() => Ok(None),
        Command::Add | Command::Del | Command::Check | Command::Gc | Command::Version => {
            Err(Failure::try_again(details))
        }
    }
}
