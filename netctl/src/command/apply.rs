//! `netctl apply`, `diff` and `export`: the whole configuration in one file.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::wait::WaitFlag;
use super::{group, network, policy, tenant};
use crate::client::{Accepted, Session};
use crate::failure::Failure;
use crate::intent::plan::{PlanStep, plan};
use crate::intent::{Intent, file};
use crate::output;

const STDIN: &str = "-";

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
    after_help = "Objects that are already as in the file aren't touched. A policy gets exactly the rules of the\nfile; objects that the file doesn't name stay, unless --prune is given. Networks can't be changed,\nonly created and removed.\n\nExamples:\n  netctl export > intent.yaml\n  netctl diff -f intent.yaml\n  netctl apply -f intent.yaml\n  netctl apply -f intent.yaml --prune"
)]
pub(crate) struct ApplyOptions {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    wait: WaitFlag,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing to change, 1 something to change (the output lists it).\n\nExample:\n  netctl diff -f intent.yaml --prune"
)]
pub(crate) struct DiffOptions {
    #[command(flatten)]
    pub(super) source: Source,
}

impl Source {
    /// Reads the file once to find errors early; standard input can be read only once.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.file == Path::new(STDIN) {
            true => Ok(()),
            false => self.read().map(drop),
        }
    }

    fn read(&self) -> Result<Intent, Failure> {
        let shown = self.file.display();
        let text = text(&self.file)
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

    async fn steps(&self, session: &mut Session) -> Result<Vec<PlanStep>, Failure> {
        let wanted = self.read()?;
        let current = current(session).await?;
        plan(&current, &wanted, self.prune).map_err(|why| Failure::Refused(why.join("\n")))
    }
}

fn text(path: &Path) -> std::io::Result<String> {
    if path != Path::new(STDIN) {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

/// Runs the steps until one is refused. The printed steps are done; the next `apply` continues.
pub(crate) async fn apply(session: &mut Session, apply: ApplyOptions) -> Result<(), Failure> {
    let steps = apply.source.steps(session).await?;
    if steps.is_empty() {
        return output::print("unchanged\n");
    }
    let mut last: Option<Accepted> = None;
    for step in steps {
        if let Some(text) = &step.text {
            output::print(&format!("{text}\n"))?;
        }
        last = Some(session.command(step.command, None).await?);
    }
    if let Some(accepted) = last {
        output::print(&accepted.to_string())?;
        apply.wait.applied(session, &accepted).await;
    }
    Ok(())
}

pub(crate) async fn diff(session: &mut Session, diff: DiffOptions) -> Result<(), Failure> {
    let steps = diff.source.steps(session).await?;
    let lines = steps.iter().filter_map(|it| it.text.as_ref());
    output::print(&lines.map(|it| format!("{it}\n")).collect::<String>())?;
    match steps.is_empty() {
        true => Ok(()),
        false => Err(Failure::Negative),
    }
}

pub(crate) async fn export(session: &mut Session) -> Result<(), Failure> {
    output::print(&file::write(&current(session).await?)?)
}

async fn current(session: &mut Session) -> Result<Intent, Failure> {
    let tenants = tenant::list(session).await?;
    let networks = network::list(session, None, None).await?;
    let policies = policy::list(session, None, None).await?;
    let groups = group::list(session, None, None).await?;
    Ok(Intent::of(&tenants, &networks, &policies, &groups))
}
