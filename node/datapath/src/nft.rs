//! `nft` in a namespace: it writes our table's fixed rules, and lists others' tables.
//!
//! Both are rare: the rules are the same for every endpoint and policy. What changes with endpoints
//! and policies is written by `transaction`, and our own table is read by `listing`.

use std::io;

use nftables::schema::{self, NfListObject};
use nftables::stmt::Statement;
use serde::Deserialize;
use serde_json::Value;

use super::codec::objects::IPV4;
use super::command;
use super::netns::Namespace;
use super::nftables::Nftables;
use node_core::resource::TABLE;

/// Runs a script as one transaction.
pub(crate) async fn apply(namespace: &Namespace, script: String) -> io::Result<()> {
    run(namespace, &["-f", "-"], script).await.map(|_| ())
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
pub(crate) async fn foreign(
    namespace: &Namespace,
    nftables: &Nftables,
) -> io::Result<Vec<Foreign>> {
    let mut foreign = Vec::new();
    for table in nftables.tables().await? {
        let family = match &table {
            (IPV4, _) => "ip",
            (_, name) if name != TABLE => "inet",
            _ => continue,
        };
        let args = ["-j", "-t", "list", "table", family, &table.1];
        match run(namespace, &args, String::new()).await {
            Ok(text) => foreign.push(Foreign::of(family, table.1, &text)?),
            // It is gone in the meantime.
            Err(_) if !nftables.tables().await?.contains(&table) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(foreign)
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

async fn run(namespace: &Namespace, args: &[&str], input: String) -> io::Result<String> {
    let output = command::run(namespace, "nft", args, input).await;
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
