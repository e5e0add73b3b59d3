//! `nft` in a namespace: scripts in, our table out.
//!
//! A script is one transaction: it is done whole or refused whole. Listing the elements costs in
//! proportion to them, so it happens on a full observation only, never for an attach.

use std::collections::VecDeque;
use std::io;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::netns::Namespace;
use crate::resource::{Chain, Rule, Ruleset, TABLE, Unseen};

/// Tens of thousands of elements take less than a second; beyond this the process is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// The latest `nft` processes of ours: the kernel names a change's author by its process id, which
/// is the port that it gives the process's first netlink socket.
static OURS: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 64;

/// Whether an `nft` that this process started lately is the author with this port.
pub(super) fn is_ours(port: u32) -> bool {
    OURS.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(&port)
}

fn remember(pid: Option<u32>) {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    ours.extend(pid);
    let excess = ours.len().saturating_sub(REMEMBERED);
    ours.drain(..excess);
}

/// Our table as `nft` lists it: its rules, and each set's elements as JSON.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) rules: Ruleset,
    pub(crate) elements: Vec<(String, Value)>,
}

/// Runs a script as one transaction.
pub(crate) async fn apply(namespace: &Namespace, script: String) -> io::Result<()> {
    run(namespace, &["-f", "-"], script).await.map(|_| ())
}

/// Our table; `None` when there is none.
pub(crate) async fn list(namespace: &Namespace) -> io::Result<Option<Listing>> {
    let text = match run(
        namespace,
        &["-j", "list", "table", "inet", TABLE],
        String::new(),
    )
    .await
    {
        Ok(text) => text,
        Err(error) if error.to_string().contains("No such file or directory") => return Ok(None),
        Err(error) => return Err(error),
    };
    let parsed: Output = serde_json::from_str(&text).map_err(io::Error::other)?;
    let mut listing = Listing::default();
    for object in parsed.nftables {
        listing.take(object);
    }
    listing.rules.sort();
    Ok(Some(listing))
}

/// The elements of one set of our table; none when it isn't there.
pub(crate) async fn set(namespace: &Namespace, name: &str) -> io::Result<Vec<Value>> {
    let args = ["-j", "list", "set", "inet", TABLE, name];
    let text = match run(namespace, &args, String::new()).await {
        Ok(text) => text,
        Err(error) if error.to_string().contains("No such file or directory") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let parsed: Output = serde_json::from_str(&text).map_err(io::Error::other)?;
    let sets = parsed
        .nftables
        .into_iter()
        .filter_map(|object| match object {
            Object::Set(set) => Some(set.elem),
            _ => None,
        });
    Ok(sets.flatten().collect())
}

/// The chains of all tables, as `nft -j list chains` prints them.
pub(crate) async fn chains(namespace: &Namespace) -> io::Result<String> {
    run(namespace, &["-j", "list", "chains"], String::new()).await
}

async fn run(namespace: &Namespace, args: &[&str], input: String) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(args).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let runtime = tokio::runtime::Handle::current();
    let spawn = move || {
        let _guard = runtime.enter();
        command.spawn()
    };
    let mut child = namespace.run(spawn).await.map_err(|error| {
        let hint = "can't start `nft`: install nftables 1.0 or newer";
        io::Error::new(error.kind(), format!("{hint} ({error})"))
    })?;
    // It changes nothing before it has read its script.
    remember(child.id());
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "`nft` doesn't end"))??;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(io::Error::other);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

#[derive(Deserialize)]
struct Output {
    nftables: Vec<Object>,
}

/// An object of `nft -j`, see libnftables-json(5); what we don't look at is `Other`.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Object {
    Chain(ChainObject),
    Rule(RuleObject),
    Set(SetObject),
    Map(SetObject),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct ChainObject {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    prio: Option<i32>,
}

#[derive(Deserialize)]
struct RuleObject {
    chain: String,
    comment: Option<String>,
}

#[derive(Deserialize)]
struct SetObject {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

impl Listing {
    /// `nft` lists a chain before its rules.
    fn take(&mut self, object: Object) {
        match object {
            Object::Chain(chain) => self.rules.chains.push(Chain {
                name: chain.name,
                base: match (chain.kind, chain.hook, chain.prio) {
                    (Some(kind), Some(hook), Some(priority)) => Some((kind, hook, priority)),
                    _ => None,
                },
                rules: Vec::new(),
            }),
            Object::Rule(rule) => {
                let mut chains = self.rules.chains.iter_mut();
                if let Some(chain) = chains.find(|chain| chain.name == rule.chain) {
                    chain.rules.push(Rule {
                        digest: rule.comment.unwrap_or_default(),
                        text: Unseen(None),
                    });
                }
            }
            Object::Set(set) | Object::Map(set) => {
                let elements = set.elem.into_iter().map(|it| (set.name.clone(), it));
                self.elements.extend(elements);
                self.rules.sets.push((set.name, Unseen(None)));
            }
            Object::Other(_) => {}
        }
    }
}
