//! `contiv-cni`: the program that a runtime starts for each call. It forwards the call to netplugin, and
//! answers VERSION, and some calls without a running netplugin, itself.

use std::path::Path;

use serde_json::{Value, json};

use super::protocol::{Call, Command, Failure, SUPPORTED_VERSIONS};
use crate::local::client::{ClientError, send};

/// netplugin's run directory unless the configuration has another one.
pub const DEFAULT_RUN_DIR: &str = "/run/contiv";

/// Executes one call. `variable` reads the environment (empty if not set), `config` is the standard
/// input. The value belongs on standard output; `None` prints nothing.
pub fn run(variable: impl Fn(&str) -> String, config: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND").parse()?;
    let config: Value = match config.trim() {
        // A probe for versions may have no configuration.
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
    forward(&call).map_err(|failure| match failure.cni_version.as_str() {
        "" => failure.in_version(&call.config),
        _ => failure,
    })
}

fn versions(config: &Value) -> Value {
    let asked = config.get("cniVersion").and_then(Value::as_str);
    let newest = SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1];
    json!({"cniVersion": asked.unwrap_or(newest), "supportedVersions": SUPPORTED_VERSIONS})
}

fn forward(call: &Call) -> Result<Option<Value>, Failure> {
    call.check()?;
    let config = call.config()?;
    let run_dir = config
        .run_dir
        .as_deref()
        .unwrap_or(Path::new(DEFAULT_RUN_DIR));
    let answer = match send(run_dir, "POST", "/v1/cni", Some(call)) {
        Ok(answer) => answer,
        Err(error) => return without_netplugin(call, &error),
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

/// Answers a call without a running netplugin. Then packets are forwarded, but names aren't answered,
/// and no endpoint is attached or detached. A DEL succeeds if the namespace is gone: the kernel has
/// removed its interface, and netplugin returns the address when it starts.
fn without_netplugin(call: &Call, error: &ClientError) -> Result<Option<Value>, Failure> {
    let details = error.to_string();
    match call.command {
        Command::Status => Err(Failure::new(51, "the plugin is not available", details)),
        Command::Del if call.netns.is_empty() || !Path::new(&call.netns).exists() => Ok(None),
        Command::Add | Command::Del | Command::Check | Command::Gc | Command::Version => {
            Err(Failure::try_again(details))
        }
    }
}
