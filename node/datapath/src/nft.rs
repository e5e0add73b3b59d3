//! `nft` in a namespace: the table's own rules in, all of the table out.
//!
//! Both are rare: the rules say the same for every endpoint and policy, and listing, which costs
//! in proportion to the elements, happens on a full observation only. What changes with endpoints
//! and policies goes by `nftables`.

use std::collections::BTreeMap;
use std::io;

use nftables::schema::{self, NfListObject};
use nftables::stmt::Statement;
use nftables::types::NfFamily;
use serde::Deserialize;
use serde_json::Value;

use super::netns::Namespace;
use super::program;
use node_core::resource::{Chain, Rule, Ruleset, TABLE, Unseen, zone_of};

/// Our table as `nft` lists it: its rules, and each set's elements as JSON.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) rules: Ruleset,
    /// Maps of compiled rules, and the type of their keys.
    pub(crate) maps: Vec<(String, String)>,
    pub(crate) elements: Vec<(String, Value)>,
    /// It has flags, which ours never has: it is dormant, or only its owner may change it. What it
    /// holds isn't listed then.
    pub(crate) flagged: bool,
    /// Where in `rules` each chain is, until they are sorted.
    chains: BTreeMap<String, usize>,
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
    let mut listing = Listing::default();
    let parsed: Output = match serde_json::from_str(&text) {
        Ok(parsed) => parsed,
        // nft 1.0.6 writes anything, or nothing more at all, for a table's flags.
        Err(error) if text.contains("\"flags\"") => {
            tracing::debug!(%error, "a table with flags");
            listing.flagged = true;
            return Ok(Some(listing));
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    for object in parsed.nftables {
        listing.take(object);
    }
    listing.chains.clear();
    listing.rules.sort();
    if listing.flagged {
        return Ok(Some(Listing {
            flagged: true,
            ..Listing::default()
        }));
    }
    Ok(Some(listing))
}

/// A table of somebody else's, as far as the crate `nftables` can read it: it has no name for some
/// types of sets, ours among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(crate) family: &'static str,
    pub(crate) name: String,
    pub(crate) chains: Vec<schema::Chain<'static>>,
    /// Each with its chain; without statements those that can't be read.
    pub(crate) rules: Vec<(String, Vec<Statement<'static>>)>,
}

/// The others' tables that IPv4 packets pass.
pub(crate) async fn foreign(namespace: &Namespace) -> io::Result<Vec<Foreign>> {
    let listed = run(namespace, &["-j", "list", "tables"], String::new()).await?;
    let mut tables = Vec::new();
    for object in objects(&listed)? {
        let Ok(NfListObject::Table(table)) = read(object) else {
            continue;
        };
        let family = match table.family {
            NfFamily::IP => "ip",
            NfFamily::INet if table.name != TABLE => "inet",
            _ => continue,
        };
        let args = ["-j", "-t", "list", "table", family, &table.name];
        match run(namespace, &args, String::new()).await {
            Ok(text) => tables.push(Foreign::of(family, table.name.into_owned(), &text)?),
            // Gone in the meantime.
            Err(error) if error.to_string().contains("No such file or directory") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tables)
}

impl Foreign {
    /// `text` is what `nft -j list table` prints.
    pub(crate) fn of(family: &'static str, name: String, text: &str) -> io::Result<Self> {
        let mut foreign = Self {
            family,
            name,
            chains: Vec::new(),
            rules: Vec::new(),
        };
        for object in objects(text)? {
            let of_rule = object["rule"]["chain"].as_str().map(str::to_owned);
            match (read(object), of_rule) {
                (Ok(NfListObject::Chain(it)), _) => foreign.chains.push(it),
                (Ok(NfListObject::Rule(it)), _) => {
                    let rule = (it.chain.into_owned(), it.expr.into_owned());
                    foreign.rules.push(rule);
                }
                (Err(_), Some(chain)) => foreign.rules.push((chain, Vec::new())),
                _ => {}
            }
        }
        Ok(foreign)
    }
}

fn read(object: Value) -> serde_json::Result<NfListObject<'static>> {
    serde_json::from_value(object)
        .inspect_err(|error| tracing::debug!(%error, "an object of nft's listing"))
}

fn objects(text: &str) -> io::Result<Vec<Value>> {
    #[derive(Deserialize)]
    struct Listed {
        nftables: Vec<Value>,
    }
    let listed: Listed = serde_json::from_str(text).map_err(io::Error::other)?;
    Ok(listed.nftables)
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

async fn run(namespace: &Namespace, args: &[&str], input: String) -> io::Result<String> {
    let output = program::run(namespace, "nft", args, input).await;
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = "can't start `nft`: install nftables 1.0 or newer";
            io::Error::new(error.kind(), format!("{hint} ({error})"))
        }
        _ => error,
    })?;
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
    Table(TableObject),
    Chain(ChainObject),
    Rule(RuleObject),
    Set(SetObject),
    Map(SetObject),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct TableObject {
    flags: Option<serde::de::IgnoredAny>,
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
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    elem: Vec<Value>,
}

impl Listing {
    /// `nft` lists a chain before its rules.
    fn take(&mut self, object: Object) {
        match object {
            Object::Table(table) => self.flagged |= table.flags.is_some(),
            Object::Chain(chain) => {
                let at = self.rules.chains.len();
                self.chains.insert(chain.name.clone(), at);
                self.rules.chains.push(Chain {
                    name: chain.name,
                    base: match (chain.kind, chain.hook, chain.prio) {
                        (Some(kind), Some(hook), Some(priority)) => Some((kind, hook, priority)),
                        _ => None,
                    },
                    rules: Vec::new(),
                });
            }
            Object::Rule(rule) => {
                let at = self.chains.get(&rule.chain);
                if let Some(chain) = at.and_then(|at| self.rules.chains.get_mut(*at)) {
                    chain.rules.push(Rule {
                        digest: rule.comment.unwrap_or_default(),
                        text: Unseen(None),
                    });
                }
            }
            Object::Set(set) | Object::Map(set) => {
                let elements = set.elem.into_iter().map(|it| (set.name.clone(), it));
                self.elements.extend(elements);
                match zone_of(&set.name) {
                    Some(_) => {
                        let kind = set.kind.as_str().unwrap_or_default();
                        self.maps.push((set.name, kind.to_owned()));
                    }
                    None => self.rules.sets.push((set.name, Unseen(None))),
                }
            }
            Object::Other(_) => {}
        }
    }
}
