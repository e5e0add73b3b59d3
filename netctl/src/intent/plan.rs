//! The commands that lead from the current intent to the wanted one. Their order gives each command the
//! objects that it needs, and lets no packet pass in between that neither intent allows.
//!
//! First tenants, networks (those with a packet tag before the others), policies, rules, groups, and rules
//! that name new groups; then the policies of existing groups; then the ways out that existing networks get;
//! then removals in the opposite order. The new version of a rule is added under a spare id before the old
//! one is removed, so that one of the two always exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use bus_schema::command::{
    GroupCreate, GroupRemove, GroupUpdate, NetworkCreate, NetworkRemove, NetworkUpdate,
    PolicyCreate, PolicyRemove, Removal, RuleAdd, RuleRemove, TenantCreate, TenantRemove,
    TenantUpdate,
};
use bus_schema::policy::Peer;
use bus_schema::{
    Command, Egress, GroupName, NetworkName, PolicyName, RuleId, RuleSpec, TenantName,
};

use super::{Group, Intent, Network, Tenant};
use crate::command::rule;

/// One command with its line of text; without a text it belongs to the step before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanStep {
    pub(crate) command: Command,
    /// `+`, `-` or `~`, and the object that is created, removed or changed.
    pub(crate) text: Option<String>,
}

/// The steps, or the differences that no command can change. `prune`: unwanted objects are removed.
pub(crate) fn plan(
    current: &Intent,
    wanted: &Intent,
    prune: bool,
) -> Result<Vec<PlanStep>, Vec<String>> {
    let mut plan = Plan::default();
    let nothing = Tenant::default();
    for (name, want) in &wanted.tenants {
        let have = current.tenants.get(name);
        if have.is_none() {
            let tenant = name.clone();
            let command = Command::TenantCreate(TenantCreate {
                tenant,
                max_connections: want.max_connections,
                egress: want.egress,
            });
            plan.add(Phase::Tenants, command, format!("+ tenant {name}"));
        } else {
            plan.update_tenant(name, have, want);
        }
        plan.tenant(name, have.unwrap_or(&nothing), want, prune);
    }
    if prune {
        for (name, have) in &current.tenants {
            if !wanted.tenants.contains_key(name) {
                plan.tenant(name, have, &nothing, true);
                plan.remove_tenant(name);
            }
        }
    }
    plan.steps.sort_by_key(|(phase, _)| *phase);
    match plan.impossible.is_empty() {
        true => Ok(plan.steps.into_iter().map(|(_, step)| step).collect()),
        false => Err(plan.impossible),
    }
}

/// The phases in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Tenants,
    /// Networks without a tag get the lowest free ones, which must not be theirs.
    NetworksWithTags,
    Networks,
    Policies,
    Rules,
    Groups,
    RulesOfNewGroups,
    GroupUpdates,
    RuleRemovals,
    /// Behind the rules that are to hold for it.
    WaysOut,
    GroupRemovals,
    PolicyRemovals,
    NetworkRemovals,
    TenantRemovals,
}

#[derive(Debug, Default)]
struct Plan {
    steps: Vec<(Phase, PlanStep)>,
    impossible: Vec<String>,
}

impl Plan {
    fn add(&mut self, phase: Phase, command: Command, text: impl Into<Option<String>>) {
        let text = text.into();
        self.steps.push((phase, PlanStep { command, text }));
    }

    fn tenant(&mut self, of: &TenantName, have: &Tenant, want: &Tenant, prune: bool) {
        for (name, network) in &want.networks {
            match have.networks.get(name) {
                None => self.create_network(of, name, network),
                Some(is) => self.compare_network(of, name, is, network),
            }
        }
        for (name, rules) in &want.policies {
            let known = have.policies.get(name);
            if known.is_none() {
                let (tenant, policy) = (of.clone(), name.clone());
                let command = Command::PolicyCreate(PolicyCreate { tenant, policy });
                self.add(Phase::Policies, command, format!("+ policy {of}:{name}"));
            }
            let nothing = BTreeMap::new();
            self.rules(of, name, (known.unwrap_or(&nothing), rules), have);
        }
        for (name, group) in &want.groups {
            match have.groups.get(name) {
                None => self.create_group(of, name, group),
                Some(is) => self.update_group(of, name, is, group),
            }
        }
        if prune {
            self.prune(of, have, want);
        }
    }

    fn update_tenant(&mut self, name: &TenantName, have: Option<&Tenant>, want: &Tenant) {
        let max = have.and_then(|it| it.max_connections).unwrap_or_default();
        let egress = have.and_then(|it| it.egress);
        let egress = egress.unwrap_or(Egress::OF_NEW_NETWORKS);
        let mut changes = Vec::new();
        let command = Command::TenantUpdate(TenantUpdate {
            tenant: name.clone(),
            max_connections: changed("maxConnections", &max, want.max_connections, &mut changes),
            egress: changed("egress", &egress, want.egress, &mut changes),
        });
        if !changes.is_empty() {
            let text = format!("~ tenant {name} {}", changes.join(", "));
            self.add(Phase::Tenants, command, text);
        }
    }

    fn create_network(&mut self, of: &TenantName, name: &NetworkName, network: &Network) {
        let command = Command::NetworkCreate(network_create(of, name, network));
        let text = format!("+ network {of}:{name} {}", network.subnet);
        let phase = match network.vni {
            Some(_) => Phase::NetworksWithTags,
            None => Phase::Networks,
        };
        self.add(phase, command, text);
    }

    fn compare_network(
        &mut self,
        of: &TenantName,
        name: &NetworkName,
        is: &Network,
        want: &Network,
    ) {
        let what = format!("network {of}:{name}");
        self.unchangeable(&what, "subnet", &is.subnet, &want.subnet);
        if is.range != want.range {
            let shown = |network: &Network| {
                network
                    .range
                    .map_or("the whole subnet".to_owned(), |it| it.to_string())
            };
            self.unchangeable(&what, "range", &shown(is), &shown(want));
        }
        self.unchangeable_if_given(&what, "gateway", is.gateway.as_ref(), want.gateway.as_ref());
        self.unchangeable_if_given(&what, "pktTag", is.vni.as_ref(), want.vni.as_ref());
        self.unchangeable_if_given(
            &what,
            "ipv6Subnet",
            is.subnet6.as_ref(),
            want.subnet6.as_ref(),
        );
        self.unchangeable_if_given(
            &what,
            "ipv6Gateway",
            is.gateway6.as_ref(),
            want.gateway6.as_ref(),
        );
        let names = (is.docker_name.as_ref(), want.docker_name.as_ref());
        self.unchangeable_if_given(&what, "cfgdTag", names.0, names.1);
        self.update_network(of, name, is, want);
    }

    fn update_network(
        &mut self,
        of: &TenantName,
        name: &NetworkName,
        is: &Network,
        want: &Network,
    ) {
        let max = is.max_connections.unwrap_or_default();
        let out = is.egress.unwrap_or(Egress::None);
        let metadata = is.allow_metadata.unwrap_or_default();
        let mut changes = Vec::new();
        let update = NetworkUpdate {
            tenant: of.clone(),
            network: name.clone(),
            max_connections: changed("maxConnections", &max, want.max_connections, &mut changes),
            egress: changed("egress", &out, want.egress, &mut changes),
            allow_metadata: changed(
                "allowMetadata",
                &metadata,
                want.allow_metadata,
                &mut changes,
            ),
        };
        if changes.is_empty() {
            return;
        }
        let opens = update.egress == Some(Egress::Nat) || update.allow_metadata == Some(true);
        let phase = match opens {
            true => Phase::WaysOut,
            false => Phase::Networks,
        };
        let text = format!("~ network {of}:{name} {}", changes.join(", "));
        self.add(phase, Command::NetworkUpdate(update), text);
    }

    fn unchangeable<T: PartialEq + Display>(&mut self, what: &str, key: &str, is: &T, want: &T) {
        if is != want {
            self.impossible.push(format!(
                "{what} has {key} {is}, which can't become {want}: remove it first, or write {is}"
            ));
        }
    }

    fn unchangeable_if_given<T: PartialEq + Display>(
        &mut self,
        what: &str,
        key: &str,
        is: Option<&T>,
        want: Option<&T>,
    ) {
        match (is, want) {
            (_, None) => {}
            (Some(is), Some(want)) => self.unchangeable(what, key, is, want),
            (None, Some(want)) => self.impossible.push(format!(
                "{what} has no {key}, which can't become {want}: remove it first, or leave {key} out"
            )),
        }
    }

    fn rules(
        &mut self,
        of: &TenantName,
        policy: &PolicyName,
        (have, want): (&BTreeMap<RuleId, RuleSpec>, &BTreeMap<RuleId, RuleSpec>),
        tenant: &Tenant,
    ) {
        for (id, spec) in want {
            // A rule can't name a group before it exists.
            let phase = match &spec.peer {
                Some(Peer::Group { group }) if !tenant.groups.contains_key(group) => {
                    Phase::RulesOfNewGroups
                }
                _ => Phase::Rules,
            };
            let at = format!("rule {of}:{policy}:{id}");
            match have.get(id) {
                None => {
                    let text = format!("+ {at}: {}", rule::line(spec));
                    self.add(phase, add(of, policy, id, spec), text);
                }
                Some(is) if is == spec => {}
                Some(is) => {
                    let spare = spare(id, have, want);
                    let text = format!("~ {at}: {} (was {})", rule::line(spec), rule::line(is));
                    self.add(phase, add(of, policy, &spare, spec), text);
                    self.add(phase, remove(of, policy, id), None);
                    self.add(phase, add(of, policy, id, spec), None);
                    self.add(phase, remove(of, policy, &spare), None);
                }
            }
        }
        for (id, spec) in have {
            if !want.contains_key(id) {
                let text = format!("- rule {of}:{policy}:{id}: {}", rule::line(spec));
                self.add(Phase::RuleRemovals, remove(of, policy, id), text);
            }
        }
    }

    fn create_group(&mut self, of: &TenantName, name: &GroupName, group: &Group) {
        let command = Command::GroupCreate(GroupCreate {
            tenant: of.clone(),
            network: group.network.clone(),
            group: name.clone(),
            policies: group.policies.clone(),
            ip_pool: group.pool,
            docker_name: group.docker_name.clone(),
        });
        let text = format!(
            "+ group {of}:{name} in {}{}",
            group.network,
            policies(group)
        );
        self.add(Phase::Groups, command, text);
    }

    fn update_group(&mut self, of: &TenantName, name: &GroupName, is: &Group, want: &Group) {
        let what = format!("group {of}:{name}");
        self.unchangeable(&what, "networkName", &is.network, &want.network);
        self.unchangeable_if_given(&what, "ipPool", is.pool.as_ref(), want.pool.as_ref());
        let tags = (is.docker_name.as_ref(), want.docker_name.as_ref());
        self.unchangeable_if_given(&what, "cfgdTag", tags.0, tags.1);
        if is.policies == want.policies {
            return;
        }
        let command = Command::GroupUpdate(GroupUpdate {
            tenant: of.clone(),
            group: name.clone(),
            policies: want.policies.clone(),
        });
        let text = format!("~ {what}{} (was{})", policies(want), policies(is));
        self.add(Phase::GroupUpdates, command, text);
    }

    fn prune(&mut self, of: &TenantName, have: &Tenant, want: &Tenant) {
        for name in have
            .groups
            .keys()
            .filter(|it| !want.groups.contains_key(it))
        {
            let command = Command::GroupRemove(GroupRemove {
                tenant: of.clone(),
                group: name.clone(),
                mode: Removal::Close,
            });
            self.add(
                Phase::GroupRemovals,
                command,
                format!("- group {of}:{name}"),
            );
        }
        let policies = have.policies.iter();
        for (name, rules) in policies.filter(|(it, _)| !want.policies.contains_key(it)) {
            // A rule that names a group would prevent its removal.
            for (id, spec) in rules {
                if matches!(spec.peer, Some(Peer::Group { .. })) {
                    self.add(Phase::RuleRemovals, remove(of, name, id), None);
                }
            }
            let (tenant, policy) = (of.clone(), name.clone());
            let command = Command::PolicyRemove(PolicyRemove { tenant, policy });
            self.add(
                Phase::PolicyRemovals,
                command,
                format!("- policy {of}:{name}"),
            );
        }
        for name in have
            .networks
            .keys()
            .filter(|it| !want.networks.contains_key(it))
        {
            let command = Command::NetworkRemove(NetworkRemove {
                tenant: of.clone(),
                network: name.clone(),
                mode: Removal::Close,
            });
            self.add(
                Phase::NetworkRemovals,
                command,
                format!("- network {of}:{name}"),
            );
        }
    }

    /// Removes a tenant, except `default`, which always exists.
    fn remove_tenant(&mut self, name: &TenantName) {
        if *name == TenantName::default_tenant() {
            return;
        }
        let tenant = name.clone();
        let command = Command::TenantRemove(TenantRemove { tenant });
        self.add(Phase::TenantRemovals, command, format!("- tenant {name}"));
    }
}

/// The wanted value, if it differs; then the difference is added to `changes`.
fn changed<T: PartialEq + Display>(
    key: &str,
    is: &T,
    want: Option<T>,
    changes: &mut Vec<String>,
) -> Option<T> {
    let want = want.filter(|it| it != is)?;
    changes.push(format!("{key} {want} (was {is})"));
    Some(want)
}

/// The command that creates a network of the file.
pub(super) fn network_create(
    of: &TenantName,
    name: &NetworkName,
    network: &Network,
) -> NetworkCreate {
    NetworkCreate {
        tenant: of.clone(),
        network: name.clone(),
        subnet: network.subnet,
        range: network.range,
        gateway: network.gateway,
        subnet6: network.subnet6,
        gateway6: network.gateway6,
        vni: network.vni,
        docker_name: network.docker_name.clone(),
        max_connections: network.max_connections,
        egress: network.egress,
        allow_metadata: network.allow_metadata,
    }
}

fn policies(group: &Group) -> String {
    let names: Vec<&str> = group.policies.iter().map(PolicyName::as_str).collect();
    match names.is_empty() {
        true => " without a policy".to_owned(),
        false => format!(" with {}", names.join(",")),
    }
}

/// An id that no rule of the policy has.
fn spare(
    id: &RuleId,
    have: &BTreeMap<RuleId, RuleSpec>,
    want: &BTreeMap<RuleId, RuleSpec>,
) -> RuleId {
    let taken: BTreeSet<&RuleId> = have.keys().chain(want.keys()).collect();
    let ids = (0_u64..).filter_map(|number| RuleId::new(format!("next-{number}")).ok());
    let mut free = ids.filter(|it| !taken.contains(it));
    free.next().unwrap_or_else(|| id.clone())
}

fn add(of: &TenantName, policy: &PolicyName, id: &RuleId, spec: &RuleSpec) -> Command {
    Command::RuleAdd(RuleAdd {
        tenant: of.clone(),
        policy: policy.clone(),
        rule: id.clone(),
        spec: spec.clone(),
        immediate: false,
    })
}

fn remove(of: &TenantName, policy: &PolicyName, id: &RuleId) -> Command {
    Command::RuleRemove(RuleRemove {
        tenant: of.clone(),
        policy: policy.clone(),
        rule: id.clone(),
        immediate: false,
    })
}
