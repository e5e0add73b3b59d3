//! Finds the contradictions of a whole file before anything is done: in the file, and between it and the
//! cluster. netmaster decides by the same functions where they need no state. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schema::command::Request;
use bus_schema::policy::Peer;
use bus_schema::{
    CommandId, GroupId, GroupName, GroupSpec, NetworkName, NetworkSpec, PolicyName, Pool,
    Rejection, Revision, RuleSpec, TenantName, Vni, codec, limits, subnet,
};
use uuid::Uuid;

use super::plan::{PlanStep, network_create};
use super::{Group, Intent, Network, Tenant};

/// A step's text may be as long as its rule.
const MAX_STEP_SHOWN: usize = 80;

/// The contradictions, each with its object; none: all steps find what they need. `vnis`: the packet
/// tags that the cluster gives, first and last.
pub(crate) fn check(
    current: &Intent,
    wanted: &Intent,
    prune: bool,
    vnis: (Vni, Vni),
) -> Vec<String> {
    let nothing = Tenant::default();
    let mut problems = packet_tags(current, wanted, vnis);
    for (name, want) in &wanted.tenants {
        let have = current.tenants.get(name).unwrap_or(&nothing);
        let mut check = TenantCheck {
            tenant: name,
            have,
            want,
            prune,
            problems: Vec::new(),
        };
        check.run();
        problems.append(&mut check.problems);
    }
    problems
}

/// The steps whose request is longer than netmaster takes.
pub(crate) fn too_long(steps: &[PlanStep]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut at = String::new();
    for PlanStep { command, text } in steps {
        if let Some(text) = text {
            at = text.chars().take(MAX_STEP_SHOWN).collect();
        }
        let request = Request {
            seen: Revision(u64::MAX),
            ..Request::new(CommandId(Uuid::nil()), command, Duration::MAX, 0)
        };
        let bytes = codec::to_bytes(&request).len();
        if bytes > limits::MAX_REQUEST_BYTES {
            let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
            let (bytes, max) = (number(bytes), number(limits::MAX_REQUEST_BYTES));
            problems.push(format!(
                "{at}…: {}",
                Rejection::RequestTooLong { bytes, max }
            ));
        }
    }
    problems
}

/// The packet tags of new networks that are out of range, or in use. They are unique in the cluster.
fn packet_tags(current: &Intent, wanted: &Intent, (first, last): (Vni, Vni)) -> Vec<String> {
    let mut problems = Vec::new();
    let mut taken: BTreeMap<Vni, (&TenantName, &NetworkName)> = BTreeMap::new();
    for (tenant, name, network) in networks(current) {
        taken.extend(network.vni.map(|vni| (vni, (tenant, name))));
    }
    for (tenant, name, network) in networks(wanted) {
        let exists = current
            .tenants
            .get(tenant)
            .is_some_and(|it| it.networks.contains_key(name));
        let Some(vni) = network.vni.filter(|_| !exists) else {
            continue;
        };
        let mut refused = |why: Rejection| problems.push(format!("network {tenant}:{name}: {why}"));
        if !(first..=last).contains(&vni) {
            refused(Rejection::VniOutsideRange { vni, first, last });
        }
        match taken.insert(vni, (tenant, name)) {
            None => {}
            Some((tenant, network)) => refused(Rejection::VniInUse {
                vni,
                tenant: tenant.clone(),
                network: network.clone(),
            }),
        }
    }
    problems
}

fn networks(intent: &Intent) -> impl Iterator<Item = (&TenantName, &NetworkName, &Network)> {
    let tenants = intent.tenants.iter();
    tenants.flat_map(|(tenant, it)| it.networks.iter().map(move |(name, it)| (tenant, name, it)))
}

/// The check of one tenant.
#[derive(Debug)]
struct TenantCheck<'a> {
    tenant: &'a TenantName,
    have: &'a Tenant,
    want: &'a Tenant,
    prune: bool,
    problems: Vec<String>,
}

impl<'a> TenantCheck<'a> {
    fn run(&mut self) {
        self.networks();
        self.groups();
        self.docker_names();
        for (policy, rules) in &self.want.policies {
            for (id, spec) in rules {
                let at = format!("rule {id} of policy {}:{policy}", self.tenant);
                self.peer(&at, spec);
            }
        }
    }

    fn note(&mut self, at: &str, problem: impl std::fmt::Display) {
        self.problems.push(format!("{at}: {problem}"));
    }

    /// New networks. Those that the file lacks still count: they are removed at the end, if at all.
    fn networks(&mut self) {
        let mut known: Vec<(&NetworkName, Pool)> = Vec::new();
        for (name, network) in &self.have.networks {
            known.extend(pool(self.tenant, name, network).map(|pool| (name, pool)));
        }
        for (name, network) in &self.want.networks {
            if self.have.networks.contains_key(name) {
                continue;
            }
            let at = format!("network {}:{name}", self.tenant);
            // A group of the file has the same problem of its own.
            let same = |of: &Tenant| of.groups.keys().any(|it| it.as_str() == name.as_str());
            if same(self.have) && !same(self.want) {
                let (tenant, name) = (self.tenant.clone(), name.to_string());
                self.note(&at, Rejection::NameTaken { tenant, name });
            }
            let pool = match subnet::pool(&network_create(self.tenant, name, network)) {
                Ok(pool) => pool,
                Err(why) => {
                    self.note(&at, why);
                    continue;
                }
            };
            let overlaps =
                |(_, other): &&(&NetworkName, Pool)| subnet::overlap(other.subnet, pool.subnet);
            if let Some((network, other)) = known.iter().find(overlaps) {
                let why = Rejection::SubnetOverlaps {
                    subnet: pool.subnet,
                    tenant: self.tenant.clone(),
                    network: (*network).clone(),
                    other_subnet: other.subnet,
                };
                self.note(&at, why);
            }
            known.push((name, pool));
        }
    }

    /// Groups of the file: their networks and policies, and the pools of new ones.
    fn groups(&mut self) {
        for (name, group) in &self.want.groups {
            let at = format!("group {}:{name}", self.tenant);
            for policy in &group.policies {
                if !self.has(|it| it.policies.contains_key(policy)) {
                    self.lacks(&at, "policy", policy);
                }
            }
            let network = self.network(&group.network);
            match network {
                None => self.lacks(&at, "network", &group.network),
                Some(network) if !self.have.groups.contains_key(name) => {
                    if let Err(why) = subnet::docker_name(group.docker_name.as_deref()) {
                        self.note(&at, why);
                    }
                    self.group_pool(&at, name, group, network);
                }
                Some(_) => {}
            }
            let has_name = |it: &Tenant| it.networks.keys().any(|n| n.as_str() == name.as_str());
            if has_name(self.want) || has_name(self.have) {
                let (tenant, name) = (self.tenant.clone(), name.to_string());
                self.note(&at, Rejection::NameTaken { tenant, name });
            }
        }
    }

    fn group_pool(&mut self, at: &str, name: &GroupName, group: &Group, network: &Network) {
        let Some(range) = group.pool else { return };
        // A network without a pool has a problem of its own.
        let Some(of_network) = pool(self.tenant, &group.network, network) else {
            return;
        };
        if let Err(why) = subnet::group_pool(range, &group.network, &of_network) {
            self.note(at, why);
        }
        let new = self.want.groups.iter().filter(|(it, _)| *it < name);
        let mut others = self.have.groups.iter().chain(new);
        let overlapping = others.find_map(|(it, other)| {
            let pool = other.pool.filter(|it| it.overlaps(&range))?;
            (other.network == group.network && it != name).then(|| (it.clone(), pool))
        });
        if let Some((group, other)) = overlapping {
            let pool = range;
            self.note(at, Rejection::PoolOverlaps { pool, group, other });
        }
    }

    fn peer(&mut self, at: &str, spec: &RuleSpec) {
        match &spec.peer {
            Some(Peer::Group { group }) if !self.has(|it| it.groups.contains_key(group)) => {
                self.lacks(at, "group", group);
            }
            Some(Peer::Network { network })
                if !self.has(|it| it.networks.contains_key(network)) =>
            {
                self.lacks(at, "network", network);
            }
            _ => {}
        }
    }

    /// Two objects of the tenant with one Docker network, of which at least one is new.
    fn docker_names(&mut self) {
        let mut names = BTreeMap::new();
        let (have, want) = (self.have, self.want);
        for (of, is_new) in [(have, false), (want, true)] {
            let networks = of.networks.iter().map(|(name, it)| {
                let docker = network_spec(self.tenant, name, it).docker_network();
                (format!("network {name}"), docker, "--nw-tag")
            });
            let groups = of.groups.iter().map(|(name, it)| {
                let docker = group_spec(self.tenant, name, it).docker_network();
                (format!("group {name}"), docker, "--epg-tag")
            });
            for (object, docker, flag) in networks.chain(groups).collect::<Vec<_>>() {
                let first = names
                    .entry(docker.clone())
                    .or_insert_with(|| object.clone());
                if *first != object && is_new {
                    let why = Rejection::DockerNameTaken {
                        tenant: self.tenant.clone(),
                        name: docker,
                        bearer: first.clone(),
                        flag: flag.to_owned(),
                    };
                    let (kind, name) = object.split_once(' ').unwrap_or_default();
                    let at = format!("{kind} {}:{name}", self.tenant);
                    self.note(&at, why);
                }
            }
        }
    }

    /// Whether the tenant will have it in the end.
    fn has(&self, has: impl Fn(&Tenant) -> bool) -> bool {
        has(self.want) || (!self.prune && has(self.have))
    }

    /// The network that the cluster has, since it can't be changed, or else the file's.
    fn network(&self, name: &NetworkName) -> Option<&'a Network> {
        let have = self.have.networks.get(name);
        match self.want.networks.get(name) {
            Some(wanted) => Some(have.unwrap_or(wanted)),
            None => have.filter(|_| !self.prune),
        }
    }

    fn lacks(&mut self, at: &str, kind: &str, name: impl std::fmt::Display) {
        let where_from = match self.prune {
            true => "the file doesn't have",
            false => "neither the file nor the cluster has",
        };
        self.note(
            at,
            format!("it names the {kind} {name}, which {where_from} in this tenant"),
        );
    }
}

fn pool(tenant: &TenantName, name: &NetworkName, network: &Network) -> Option<Pool> {
    subnet::pool(&network_create(tenant, name, network)).ok()
}

fn network_spec(tenant: &TenantName, name: &NetworkName, network: &Network) -> NetworkSpec {
    NetworkSpec {
        docker_name: network.docker_name.clone(),
        ..NetworkSpec::new(
            tenant.clone(),
            name.clone(),
            Vni(0),
            Pool {
                subnet: network.subnet,
                gateway: network.subnet.network(),
                range: None,
            },
        )
    }
}

fn group_spec(tenant: &TenantName, name: &GroupName, group: &Group) -> GroupSpec {
    let policies: Vec<PolicyName> = Vec::new();
    GroupSpec {
        tenant: tenant.clone(),
        network: group.network.clone(),
        name: name.clone(),
        id: GroupId::FIRST,
        policies,
        docker_name: group.docker_name.clone(),
        pool: None,
    }
}
