//! The description of a lab.

use std::collections::BTreeSet;

use crate::{Error, Result};

/// The daemons that `up` starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemons {
    /// `nats-server`, netmaster and a netplugin on every node.
    All,
    /// `nats-server` and netmaster.
    Control,
    /// `nats-server` only.
    Bus,
    /// Empty hosts.
    None,
}

/// A cluster to bring up: `ctl` hosts with the bus and netmaster, and nodes `node-1`, `node-2`…
#[derive(Debug, Clone)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) nodes: u8,
    pub(crate) servers: u8,
    pub(crate) netmasters: u8,
    pub(crate) daemons: Daemons,
    pub(crate) domain: String,
    pub(crate) docker: bool,
    pub(crate) docker_bridge: bool,
    pub(crate) loopback_resolver: BTreeSet<u8>,
    pub(crate) node_flags: Vec<String>,
    pub(crate) persistent: bool,
}

impl Spec {
    /// The lab of a test: its name is unique, and it ends with the handle or with the test's process.
    /// `CONTIV_TEST_DOMAIN` sets the kind of its nodes' domains, `vrf` or `netns`.
    pub fn test(nodes: u8) -> Self {
        let name = format!("t{}-{:06x}", std::process::id(), fastrand::u32(..1 << 24));
        Self {
            persistent: false,
            domain: std::env::var("CONTIV_TEST_DOMAIN").unwrap_or_else(|_| "auto".to_owned()),
            ..Self::named(name, nodes)
        }
    }

    /// A lab that continues after the command; `lab down` ends it.
    pub fn named(name: impl Into<String>, nodes: u8) -> Self {
        Self {
            name: name.into(),
            nodes,
            servers: 1,
            netmasters: 1,
            daemons: Daemons::All,
            domain: "auto".to_owned(),
            docker: false,
            docker_bridge: false,
            loopback_resolver: BTreeSet::new(),
            node_flags: Vec::new(),
            persistent: true,
        }
    }

    pub fn daemons(self, daemons: Daemons) -> Self {
        Self { daemons, ..self }
    }

    /// The number of nats-servers: 1, or 3, each on a host of its own (`ctl`, `ctl-2`, `ctl-3`). The
    /// netmasters run on these hosts.
    pub fn servers(self, servers: u8) -> Self {
        Self { servers, ..self }
    }

    pub fn netmasters(self, netmasters: u8) -> Self {
        Self { netmasters, ..self }
    }

    /// Starts a Docker Engine on every node.
    pub fn docker(self, docker: bool) -> Self {
        Self { docker, ..self }
    }

    /// Gives the engines Docker's default bridge, too, for comparison.
    pub fn docker_bridge(self, docker_bridge: bool) -> Self {
        Self {
            docker_bridge,
            ..self
        }
    }

    /// Starts a resolver on 127.0.0.1 of node `number` (from 1), which uses it.
    pub fn loopback_resolver_on(mut self, number: u8) -> Self {
        self.loopback_resolver.insert(number);
        self
    }

    /// Adds flags to every netplugin.
    pub fn node_flags(self, flags: &[&str]) -> Self {
        Self {
            node_flags: flags.iter().map(ToString::to_string).collect(),
            ..self
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn check(&self) -> Result<()> {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(letters) {
            return Err(Error::BadName {
                name: self.name.clone(),
            });
        }
        Ok(())
    }
}
