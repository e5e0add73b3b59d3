//! `netctl apply`, `diff` and `export`: the whole configuration in one file.

use std::path::PathBuf;

use bus_schema::Command;
use clap::Args;
use serde_json::{Value, json};

use super::flags::OutputFlags;
use super::wait::WaitFlag;
use super::{cluster, group, network, policy, tenant};
use crate::client::{Accepted, Session};
use crate::failure::Failure;
use crate::input;
use crate::intent::check::check;
use crate::intent::plan::{PlanStep, plan};
use crate::intent::{Intent, file};
use crate::output::{self, Format};

#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// A file of YAML or JSON, as `netctl export` writes it; `-`: standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Also remove objects that the file doesn't name, including whole tenants
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Objects that are already as in the file aren't touched. A policy gets exactly the rules of the\nfile; objects that the file doesn't name stay, unless --prune is given. Networks can't be changed,\nonly created and removed. If the file contradicts itself or the cluster, nothing is done. Otherwise\neach step is reported; after a refused step no other is tried, and the next `apply` continues.\n\nExamples:\n  netctl export > intent.yaml\n  netctl diff -f intent.yaml\n  netctl apply -f intent.yaml\n  netctl apply -f intent.yaml --prune"
)]
pub(crate) struct ApplyOptions {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing to change, 1 something to change (the output lists it), or the file\ncontradicts itself or the cluster.\n\nExample:\n  netctl diff -f intent.yaml --prune"
)]
pub(crate) struct DiffOptions {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  netctl export > intent.yaml\n  netctl export -o json")]
pub(crate) struct ExportOptions {
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

impl Source {
    /// Reads the file once to find errors early; standard input can be read only once.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match input::is_stdin(&self.file) {
            true => Ok(()),
            false => self.read().map(drop),
        }
    }

    fn read(&self) -> Result<Intent, Failure> {
        let shown = self.file.display();
        let text = input::read(&self.file)
            .map_err(|error| Failure::Usage(format!("can't read {shown}: {error}")))?;
        let intent =
            file::read(&text).map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        if self.prune && intent.tenants.is_empty() {
            return Err(Failure::Usage(format!(
                "{shown} names no tenant, so --prune would remove everything: leave --prune out"
            )));
        }
        Ok(intent)
    }

    /// The steps to the file's intent, or all contradictions of the file.
    async fn changes(&self, session: &mut Session) -> Result<Vec<Change>, Failure> {
        let wanted = self.read()?;
        let current = current(session).await?;
        let (_, info) = cluster::ask(session).await?;
        let mut problems = check(&current, &wanted, self.prune, info.settings.vni_range);
        let steps = plan(&current, &wanted, self.prune).unwrap_or_else(|impossible| {
            problems.extend(impossible);
            Vec::new()
        });
        match problems.is_empty() {
            true => Ok(changes(steps)),
            false => Err(Failure::Refused(format!(
                "nothing was done: {}",
                problems.join("\n")
            ))),
        }
    }
}

/// A step as people see it, with the commands that carry it out.
#[derive(Debug)]
struct Change {
    text: String,
    commands: Vec<Command>,
}

/// Joins the steps without a text to the ones before.
fn changes(steps: Vec<PlanStep>) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for PlanStep { command, text } in steps {
        match (text, all.last_mut()) {
            (None, Some(change)) => change.commands.push(command),
            (text, _) => all.push(Change {
                text: text.unwrap_or_default(),
                commands: vec![command],
            }),
        }
    }
    all
}

/// The outcome of a step.
#[derive(Debug)]
enum StepOutcome {
    Done(Accepted),
    Refused,
    NotTried,
}

impl StepOutcome {
    fn describe(&self) -> String {
        match self {
            Self::Done(accepted) if accepted.unchanged => "unchanged".to_owned(),
            Self::Done(accepted) => format!("done at revision {}", accepted.revision),
            Self::Refused => "not done".to_owned(),
            Self::NotTried => "not tried".to_owned(),
        }
    }

    fn value(&self, text: &str) -> Value {
        let kind = match self {
            Self::Done(accepted) => accepted.kind(),
            Self::Refused => "not-done",
            Self::NotTried => "not-tried",
        };
        let mut value = json!({ "type": kind, "text": text });
        if let Self::Done(accepted) = self {
            output::extend(&mut value, &accepted.value());
        }
        value
    }
}

/// Runs the steps until one is refused, and reports each. The next `apply` continues.
pub(crate) async fn apply(session: &mut Session, apply: ApplyOptions) -> Result<(), Failure> {
    let is_text = apply.output.format().is_text();
    let changes = apply.source.changes(session).await?;
    let mut steps = Vec::new();
    let mut last: Option<Accepted> = None;
    let mut failure = None;
    for Change { text, commands } in changes {
        let outcome = match failure {
            Some(_) => StepOutcome::NotTried,
            None => match run(session, commands).await {
                Ok(accepted) => StepOutcome::Done(accepted),
                Err(why) => {
                    failure = Some(why);
                    StepOutcome::Refused
                }
            },
        };
        if is_text {
            output::print(&format!("{text}: {}\n", outcome.describe()))?;
        }
        steps.push(outcome.value(&text));
        if let StepOutcome::Done(accepted) = outcome {
            last = Some(accepted);
        }
    }
    let more = json!({ "steps": steps });
    if let Some(failure) = failure {
        if !is_text {
            let mut value = failure.value();
            output::extend(&mut value, &more);
            output::print(&output::document(&value, apply.output.format())?)?;
        }
        return Err(failure);
    }
    let Some(accepted) = last else {
        return apply.output.outcome("unchanged", "unchanged", &more);
    };
    let mut more = more;
    output::extend(&mut more, &accepted.value());
    let text = accepted.to_string();
    apply.output.outcome("done", text.trim_end(), &more)?;
    apply.wait.applied(session, &accepted).await;
    Ok(())
}

/// Sends the commands of one step, and returns the last outcome.
async fn run(session: &mut Session, commands: Vec<Command>) -> Result<Accepted, Failure> {
    let mut last = None;
    for command in commands {
        last = Some(session.command(command, None).await?);
    }
    last.ok_or_else(|| Failure::Local("a step has no command".to_owned()))
}

pub(crate) async fn diff(session: &mut Session, diff: DiffOptions) -> Result<(), Failure> {
    let changes = diff.source.changes(session).await?;
    let lines: Vec<&str> = changes.iter().map(|it| it.text.as_str()).collect();
    let format = diff.output.format();
    let is_same = changes.is_empty();
    let text = match format.is_text() {
        true => lines.iter().map(|it| format!("{it}\n")).collect(),
        false => {
            let kind = if is_same { "unchanged" } else { "differs" };
            let value = json!({ "type": kind, "text": lines.join("\n"), "steps": lines });
            output::document(&value, format)?
        }
    };
    output::print(&text)?;
    match is_same {
        true => Ok(()),
        false => Err(Failure::Negative),
    }
}

pub(crate) async fn export(session: &mut Session, options: ExportOptions) -> Result<(), Failure> {
    let format = if options.json {
        Format::Json
    } else {
        options.output
    };
    output::print(&file::write(&current(session).await?, format)?)
}

async fn current(session: &mut Session) -> Result<Intent, Failure> {
    let tenants = tenant::list(session).await?;
    let networks = network::list(session, None, None).await?;
    let policies = policy::list(session, None, None).await?;
    let groups = group::list(session, None, None).await?;
    Ok(Intent::of(&tenants, &networks, &policies, &groups))
}
