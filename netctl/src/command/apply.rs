//! `netctl apply`, `diff` and `export`: the whole configuration in one file.

use std::path::PathBuf;

use bus_schema::{Command, Endpoint};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::flags::OutputFlags;
use super::wait::WaitFlag;
use super::{cluster, covered, endpoint, group, network, policy, tenant};
use crate::client::{Accepted, Session};
use crate::failure::Failure;
use crate::input;
use crate::intent::check::{check, too_long};
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
    after_help = "Objects that are already as in the file aren't touched. A policy gets exactly the rules of the\nfile; objects that the file doesn't name stay, unless --prune is given. Of a network only\nmaxConnections, egress and allowMetadata can be changed, of a tenant maxConnections and egress; one\nthat the file leaves out stays. If the file contradicts itself or the cluster, nothing is\ndone. Otherwise each step is reported; after a step that isn't done no other is tried, and the next\n`apply` continues.\n\nExamples:\n  netctl export > intent.yaml\n  netctl diff -f intent.yaml\n  netctl apply -f intent.yaml\n  netctl apply -f intent.yaml --prune"
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
#[command(
    after_help = "The file has tenants, networks, policies and groups, but no settings of the cluster, such as the range of\npacket tags: `netctl global info` shows them.\n\nExamples:\n  netctl export > intent.yaml\n  netctl export -o json"
)]
pub(crate) struct ExportOptions {
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// A table could not be applied again
    #[arg(long, short, value_enum, default_value_t = FileFormat::Yaml)]
    output: FileFormat,
}

/// A format that `apply` reads.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FileFormat {
    Yaml,
    Json,
}

impl Source {
    pub(crate) fn is_stdin(&self) -> bool {
        input::is_stdin(&self.file)
    }

    /// Reads the file once to find errors early; standard input can be read only once.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.is_stdin() {
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
        problems.extend(too_long(&steps));
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
    NotDone,
    /// Some of its commands were accepted.
    PartlyDone,
    /// netmaster may have accepted a command whose answer is missing.
    Unknown,
    NotTried,
}

impl StepOutcome {
    fn describe(&self) -> String {
        match self {
            Self::Done(accepted) if accepted.unchanged => "unchanged".to_owned(),
            Self::Done(accepted) => format!("done at revision {}", accepted.revision),
            Self::NotDone => "not done".to_owned(),
            Self::PartlyDone => "partly done".to_owned(),
            Self::Unknown => "outcome unknown".to_owned(),
            Self::NotTried => "not tried".to_owned(),
        }
    }

    fn value(&self, text: &str) -> Value {
        let kind = match self {
            Self::Done(accepted) => accepted.kind(),
            Self::NotDone => "not-done",
            Self::PartlyDone => "partly-done",
            Self::Unknown => "outcome-unknown",
            Self::NotTried => "not-tried",
        };
        let mut value = json!({ "type": kind, "text": text });
        if let Self::Done(accepted) = self {
            output::extend(&mut value, &accepted.value());
        }
        value
    }
}

/// Runs the steps until one isn't done, and reports each. The next `apply` continues.
pub(crate) async fn apply(session: &mut Session, apply: ApplyOptions) -> Result<(), Failure> {
    let is_text = apply.output.format().is_text();
    let changes = apply.source.changes(session).await?;
    let mut steps = Vec::new();
    let mut last: Option<Accepted> = None;
    let mut created = Vec::new();
    let mut failure = None;
    for Change { text, commands } in changes {
        let outcome = match failure {
            Some(_) => StepOutcome::NotTried,
            None => {
                let (outcome, why) = run(session, commands, &mut created).await;
                failure = why;
                outcome
            }
        };
        if is_text {
            output::print(&format!("{text}: {}\n", outcome.describe()))?;
        }
        steps.push(outcome.value(&text));
        if let StepOutcome::Done(accepted) = outcome {
            last = Some(accepted);
        }
    }
    warn(session, &created).await;
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

/// Sends the commands of one step until one fails. Those that were accepted are added to `accepted`.
async fn run(
    session: &mut Session,
    commands: Vec<Command>,
    accepted: &mut Vec<Command>,
) -> (StepOutcome, Option<Failure>) {
    let mut last = StepOutcome::NotDone;
    for command in commands {
        match session.command(command.clone(), None).await {
            Ok(done) => {
                accepted.push(command);
                last = StepOutcome::Done(done);
            }
            Err(why) => return (interrupted(&last, &why), Some(why)),
        }
    }
    (last, None)
}

/// The outcome of a step of which a command failed after others that had the outcome `last`.
fn interrupted(last: &StepOutcome, why: &Failure) -> StepOutcome {
    match (why, last) {
        (Failure::Unknown { .. }, _) => StepOutcome::Unknown,
        (_, StepOutcome::Done(_)) => StepOutcome::PartlyDone,
        _ => StepOutcome::NotDone,
    }
}

/// Gives the warnings of `net create` and `group create` about these commands.
async fn warn(session: &mut Session, created: &[Command]) {
    let (mut subnets, mut groups) = (Vec::new(), Vec::new());
    for command in created {
        match command {
            Command::NetworkCreate(create) => subnets.push(create.subnet),
            Command::GroupCreate(create) => groups.push(create),
            _ => {}
        }
    }
    if !subnets.is_empty() {
        covered::warn(session, &subnets).await;
    }
    if groups.is_empty() {
        return;
    }
    if let Ok(endpoints) = endpoint::list(session, None).await {
        for create in groups {
            let of_tenant = endpoints.iter().filter(|it| it.tenant == create.tenant);
            let of_tenant: Vec<Endpoint> = of_tenant.cloned().collect();
            group::warn_taken(&of_tenant, &create.network, &create.group);
        }
    }
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
    let format = match options.output {
        FileFormat::Yaml if !options.json => Format::Yaml,
        FileFormat::Yaml | FileFormat::Json => Format::Json,
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

#[cfg(test)]
mod tests {
    use bus_schema::{CommandId, Revision};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn step_without_an_answer_is_not_called_not_done() {
        let refused = Failure::Refused("no".to_owned());
        let id = CommandId(Uuid::nil());
        let reason = "no answer".to_owned();
        let unknown = Failure::Unknown { id, reason };
        let done = StepOutcome::Done(Accepted::of(id, Revision(7)));
        for (last, why, expected) in [
            (&StepOutcome::NotDone, &refused, "not done"),
            (&StepOutcome::NotDone, &unknown, "outcome unknown"),
            (&done, &refused, "partly done"),
            (&done, &unknown, "outcome unknown"),
        ] {
            assert_eq!(interrupted(last, why).describe(), expected);
        }
    }
}
