//! The lab's errors, with their remedies.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a lab creates network namespaces: run it as root")]
    NotRoot,
    #[error("{program} is missing; {hint}")]
    Missing { program: String, hint: &'static str },
    #[error("`{name}` is not a lab's name: 1 to 32 lower-case letters, digits and `-`")]
    BadName { name: String },
    #[error("lab `{name}` is up; `lab down --lab {name}` ends it")]
    IsUp { name: String },
    #[error("no lab `{name}` is up; `lab list` shows those that are")]
    NotUp { name: String },
    #[error("this lab has no {kind} `{name}`; it has {known}")]
    Unknown {
        kind: &'static str,
        name: String,
        known: String,
    },
    #[error("all 254 underlay subnets are taken by other labs; `lab list` shows them")]
    NoSubnet,
    #[error("the lab is being taken down")]
    Stopping,
    #[error("{host}: `{command}` failed ({status}): {output}")]
    Command {
        host: String,
        command: String,
        status: String,
        output: String,
    },
    #[error("after {after:?} still waiting until {what}{detail}")]
    TimedOut {
        what: String,
        after: Duration,
        detail: String,
    },
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the output of {program} isn't JSON ({source}): {text}")]
    Answer {
        program: &'static str,
        text: String,
        source: serde_json::Error,
    },
    #[error("cannot {action}: {source}")]
    System { action: String, source: io::Error },
    #[error("{path} is not a lab's state ({source}); remove the folder", path = path.display())]
    State {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
