//! Why netmaster refuses a request, in sentences that end with the next step.

mod uses;

pub use uses::{BlockUse, EndpointUse, HolderUse, Holders, RuleUse, Unasked};

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::uses::{list, some};
use crate::policy::PortRange;
use crate::{
    AddressRange, GroupName, NetworkName, NodeName, PolicyName, Revision, RuleId, TenantName, Vni,
};

/// The reason of a refusal. Nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Rejection {
    /// The request can't be understood.
    #[error("the request is malformed: {reason}")]
    Malformed { reason: String },
    /// Permissions on the bus are by subject, so a request counts only on its own.
    #[error("this request belongs on {subject}")]
    WrongSubject { subject: String },
    #[error("the request is {bytes} bytes long, and netmaster takes {max}: split it")]
    RequestTooLong { bytes: u64, max: u64 },
    #[error("netmaster can't decide about this command: that is a defect, please report it")]
    Defect,
    #[error("the cluster isn't initialised: run `netmaster init`")]
    NotInitialised,
    #[error(
        "the answer is {bytes} bytes long and nats-server carries {max}: ask for one tenant, or raise max_payload in its nats.conf"
    )]
    AnswerTooLong { bytes: u64, max: u64 },
    #[error("the command's deadline passed before it was decided; nothing was done, try again")]
    DeadlinePassed,
    #[error(
        "this netmaster is older than the log (at revision {revision}): upgrade it, or ask another"
    )]
    OlderThanLog { revision: Revision },
    #[error(
        "the log's event at revision {revision} can't be read ({reason}): another program than netmaster wrote it; nothing was done"
    )]
    LogUnreadable { revision: Revision, reason: String },
    /// `end` is the proved end of the log, `seen` what the request has seen of it.
    #[error(
        "the log ends at revision {end}, but revision {seen} was seen of it: it was restored from an older copy or written anew; nothing was done, see `netctl status`"
    )]
    LogShorter { end: Revision, seen: Revision },
    /// `server` leads the log; absent: the leader isn't known.
    #[error(
        "the log{} isn't whole: {reason}; nothing is decided. If one of three servers is damaged, stop it, remove its JetStream store and start it again: it copies the log from the others. {}",
        server.as_ref().map(|it| format!(" of server {it}")).unwrap_or_default(),
        instead(*hole)
    )]
    LogDamaged {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        reason: String,
        /// Messages are missing in the leader's copy. Else nodes have applied more than it holds.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        hole: bool,
    },
    #[error("{what} is not supported: {instead}")]
    Unsupported { what: String, instead: String },

    #[error("tenant {tenant} doesn't exist: `netctl tenant create {tenant}` creates it")]
    TenantUnknown { tenant: TenantName },
    #[error(
        "tenant {tenant} still has {}; remove them first",
        left(networks, groups, policies)
    )]
    TenantInUse {
        tenant: TenantName,
        networks: Vec<NetworkName>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<GroupName>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<PolicyName>,
    },
    #[error(
        "tenant {tenant} exists with another {differs}: `netctl tenant update {tenant}` changes it"
    )]
    TenantDiffers { tenant: TenantName, differs: String },
    #[error("tenant default can't be removed: it is always there")]
    TenantIsDefault,

    #[error("network {network} doesn't exist in tenant {tenant}: see `netctl net ls -t {tenant}`")]
    NetworkUnknown {
        tenant: TenantName,
        network: NetworkName,
    },
    #[error(
        "network {network} exists in tenant {tenant} with another {differs}: remove it first, or choose another name"
    )]
    NetworkDiffers {
        tenant: TenantName,
        network: NetworkName,
        differs: String,
    },
    #[error(
        "network {network} of tenant {tenant} is being removed: wait, or keep it with `netctl net rm {network} -t {tenant} --abort`"
    )]
    NetworkClosing {
        tenant: TenantName,
        network: NetworkName,
    },
    #[error("network {network} of tenant {tenant} isn't being removed: there is nothing to abort")]
    NetworkNotClosing {
        tenant: TenantName,
        network: NetworkName,
    },
    #[error(
        "network {network} of tenant {tenant} is in use by {}; remove them first",
        list(endpoints)
    )]
    NetworkInUse {
        tenant: TenantName,
        network: NetworkName,
        endpoints: Vec<EndpointUse>,
    },
    #[error(
        "network {network} of tenant {tenant} still has blocks on {}: its removal goes on when they answer; `--abort` keeps the network, `--force` removes it now",
        list(nodes)
    )]
    NetworkHeld {
        tenant: TenantName,
        network: NetworkName,
        nodes: Vec<NodeName>,
    },
    #[error(
        "subnet {subnet} overlaps {other_subnet} of network {network} in tenant {tenant}: choose another"
    )]
    SubnetOverlaps {
        subnet: IpNet,
        tenant: TenantName,
        network: NetworkName,
        other_subnet: IpNet,
    },
    #[error(
        "subnet {subnet} is too small: it has no address left for an endpoint, give a larger one"
    )]
    SubnetTooSmall { subnet: IpNet },
    #[error("subnet {subnet} can't be used for containers: {reason}")]
    SubnetReserved { subnet: IpNet, reason: String },
    #[error(
        "range {range} doesn't lie inside subnet {subnet}: give one that does, or leave it out"
    )]
    RangeOutside { range: AddressRange, subnet: IpNet },
    #[error(
        "gateway {gateway} doesn't lie inside subnet {subnet}: give one that does, or leave it out"
    )]
    GatewayOutside { gateway: IpAddr, subnet: IpNet },
    #[error(
        "gateway {gateway} is the network's or the broadcast address of {subnet}: give another, or leave it out"
    )]
    GatewayReserved { gateway: IpAddr, subnet: IpNet },
    #[error("packet tag {vni} is out of range: it must be 1 to {max}", max = Vni::MAX)]
    VniOutOfRange { vni: Vni },
    #[error(
        "packet tag {vni} is outside of the cluster's range {first}-{last}: choose one in it, leave it out to be given a free one, or change the range with `netctl global set --vxlan-range`"
    )]
    VniOutsideRange { vni: Vni, first: Vni, last: Vni },
    #[error("{first}-{last} is no range of packet tags: write FIRST-LAST, from 1 to {max}", max = Vni::MAX)]
    VniRangeInvalid { first: Vni, last: Vni },
    #[error(
        "packet tag {vni} is in use by network {network} of tenant {tenant}: leave it out to be given a free one"
    )]
    VniInUse {
        vni: Vni,
        tenant: TenantName,
        network: NetworkName,
    },
    #[error(
        "no packet tag of {first} to {last} is free: remove networks, or enlarge the range with `netctl global set --vxlan-range`"
    )]
    VniExhausted { first: Vni, last: Vni },

    #[error(
        "`{name}` can't be the name of a Docker network: it may hold letters, digits, `-`, `_`, `.` and `/`, at most 128"
    )]
    DockerNameInvalid { name: String },
    /// `bearer` is a network or a group, `flag` the one that chooses another name.
    #[error(
        "{bearer} of tenant {tenant} is Docker network `{name}` already: choose another {flag}"
    )]
    DockerNameTaken {
        tenant: TenantName,
        name: String,
        bearer: String,
        flag: String,
    },

    #[error("group {group} doesn't exist in tenant {tenant}: see `netctl group ls -t {tenant}`")]
    GroupUnknown {
        tenant: TenantName,
        group: GroupName,
    },
    #[error(
        "group {group} exists in tenant {tenant} with another {differs}: `netctl group update` changes its policies; otherwise remove it first"
    )]
    GroupDiffers {
        tenant: TenantName,
        group: GroupName,
        differs: String,
    },
    #[error("{name} can't be both a network and a group of tenant {tenant}: choose another name")]
    NameTaken { tenant: TenantName, name: String },
    #[error(
        "group {group} of tenant {tenant} is being removed: wait, or keep it with `netctl group rm {group} -t {tenant} --abort`"
    )]
    GroupClosing {
        tenant: TenantName,
        group: GroupName,
    },
    #[error("group {group} of tenant {tenant} isn't being removed: there is nothing to abort")]
    GroupNotClosing {
        tenant: TenantName,
        group: GroupName,
    },
    #[error(
        "group {group} of tenant {tenant} is in use by {}; remove them first",
        list(endpoints)
    )]
    GroupInUse {
        tenant: TenantName,
        group: GroupName,
        endpoints: Vec<EndpointUse>,
    },
    #[error(
        "{} can't be asked about group {group} of tenant {tenant}: its removal goes on when they answer; `--abort` keeps the group, `--force` removes it now and closes what is left of it",
        list(nodes)
    )]
    GroupHeld {
        tenant: TenantName,
        group: GroupName,
        nodes: Vec<NodeName>,
    },
    #[error("pool {pool} overlaps {other} of group {group}: choose another range")]
    PoolOverlaps {
        pool: AddressRange,
        group: GroupName,
        other: AddressRange,
    },
    #[error("pool {pool} doesn't lie inside {inside} of network {network}: give one that does")]
    PoolOutside {
        pool: AddressRange,
        network: NetworkName,
        inside: AddressRange,
    },
    #[error(
        "pool {pool} holds {address}, which is no endpoint's: it is the gateway's, the network's or the broadcast address of network {network}; leave it out"
    )]
    PoolHoldsReserved {
        pool: AddressRange,
        address: IpAddr,
        network: NetworkName,
    },
    #[error(
        "pool {pool} overlaps what is leased of network {network} already: {}; choose a range outside of it",
        list(blocks)
    )]
    PoolLeased {
        pool: AddressRange,
        network: NetworkName,
        blocks: Vec<BlockUse>,
    },
    #[error("tenant {tenant} has no group id left: remove a group first")]
    GroupIdsExhausted { tenant: TenantName },
    #[error(
        "network {network} of tenant {tenant} has groups: {}; remove them first",
        list(groups)
    )]
    NetworkHasGroups {
        tenant: TenantName,
        network: NetworkName,
        groups: Vec<GroupName>,
    },

    #[error(
        "policy {policy} doesn't exist in tenant {tenant}: `netctl policy create {policy} -t {tenant}` creates it"
    )]
    PolicyUnknown {
        tenant: TenantName,
        policy: PolicyName,
    },
    #[error(
        "policy {policy} of tenant {tenant} is used by {}: take it from them first",
        list(groups)
    )]
    PolicyInUse {
        tenant: TenantName,
        policy: PolicyName,
        groups: Vec<GroupName>,
    },
    #[error(
        "policy {policy} of tenant {tenant} has no rule {rule}: see `netctl policy rule-ls {policy} -t {tenant}`"
    )]
    RuleUnknown {
        tenant: TenantName,
        policy: PolicyName,
        rule: RuleId,
    },
    #[error(
        "rule {rule} of policy {policy} exists with another {differs}: remove it first, or choose another id"
    )]
    RuleDiffers {
        policy: PolicyName,
        rule: RuleId,
        differs: String,
    },
    #[error("tenant {tenant} has no rule number left: create another tenant")]
    RuleNumbersExhausted { tenant: TenantName },
    #[error("ports need a protocol that has ports: add --protocol=tcp, udp or sctp")]
    PortsWithoutProtocol,
    #[error("ports {ports}: the first is behind the last")]
    PortsReversed { ports: PortRange },
    #[error("addresses {addresses}: the first is behind the last")]
    AddressesReversed { addresses: AddressRange },
    #[error("{what} is named by {}: remove those rules first", list(rules))]
    PeerInUse { what: String, rules: Vec<RuleUse> },

    #[error("node {node} doesn't exist: see `netctl node ls`")]
    NodeUnknown { node: NodeName },
    #[error(
        "another machine bears the name {node}: start netplugin with another --name, or remove the dead one with `netctl node rm {node} --lost`"
    )]
    NodeNameTaken { node: NodeName },
    #[error("the machine id is empty: see machine-id(5)")]
    MachineIdEmpty,
    #[error("{vtep} can't be a VTEP address: other nodes must reach it")]
    VtepUnusable { vtep: IpAddr },
    #[error("VTEP address {vtep} belongs to node {node}: pick this node's own with --underlay")]
    VtepTaken { vtep: IpAddr, node: NodeName },
    #[error(
        "node {node} can't be asked, and it holds addresses of {}: start its netplugin and try again, or use --lost when the machine won't come back",
        list(networks)
    )]
    NodeInUse {
        node: NodeName,
        networks: Vec<NetworkName>,
    },
    #[error(
        "node {node} is alive, and --lost is for a machine that won't come back: leave it out, and the node is drained and removed"
    )]
    NodeAlive { node: NodeName },
    #[error(
        "node {node} still has {}: remove them first, `netctl node drain {node} --wait` waits until they are gone",
        some(endpoints)
    )]
    NodeHasEndpoints {
        node: NodeName,
        endpoints: Vec<EndpointUse>,
    },
    #[error("node {node} can't be drained now: {reason}; nothing was removed, try again")]
    NodeNotDrained { node: NodeName, reason: String },

    #[error(
        "network {network} of tenant {tenant} has no free address left in {subnet}{holders}: remove endpoints, or start containers in another network"
    )]
    PoolExhausted {
        tenant: TenantName,
        network: NetworkName,
        subnet: IpNet,
        /// Empty if no node was asked, and from an older netmaster.
        #[serde(default, skip_serializing_if = "Holders::is_empty")]
        holders: Box<Holders>,
    },
    #[error(
        "address {address} can't be given to an endpoint of network {network} ({subnet}): ask for another, or for none"
    )]
    AddressNotAssignable {
        address: IpAddr,
        network: NetworkName,
        subnet: IpNet,
    },
    #[error(
        "group {group} has no free address left in its pool {pool}{holders}: remove endpoints, or create a group with a larger pool"
    )]
    GroupPoolExhausted {
        tenant: TenantName,
        network: NetworkName,
        group: GroupName,
        pool: AddressRange,
        /// As in [`Rejection::PoolExhausted`].
        #[serde(default, skip_serializing_if = "Holders::is_empty")]
        holders: Box<Holders>,
    },
    #[error(
        "address {address} doesn't lie in the pool {pool} of group {group}: ask for one that does, or for none"
    )]
    AddressOutsidePool {
        address: IpAddr,
        group: GroupName,
        pool: AddressRange,
    },
    #[error(
        "address {address} lies in the pool {pool} of group {group}: only its members get it, ask for another or for none"
    )]
    AddressInPool {
        address: IpAddr,
        group: GroupName,
        pool: AddressRange,
    },
    #[error("address {address} lies in block {block} of node {node}, which must cede it")]
    AddressHeld {
        address: IpAddr,
        block: IpNet,
        node: NodeName,
    },
    #[error("block {block} of network {network} isn't leased to node {node}")]
    BlockNotHeld {
        block: IpNet,
        network: NetworkName,
        node: NodeName,
    },

    /// A type that this build doesn't know. The reply carries its text beside it.
    #[error(
        "netmaster refused this for a reason that this build doesn't know: upgrade it, see `netctl version`"
    )]
    #[serde(other)]
    Unknown,
}

impl Rejection {
    /// Whether it refuses a tenant, a network or a group that isn't in the part of the log that was
    /// read.
    pub fn is_of_an_unknown_name(&self) -> bool {
        matches!(
            self,
            Self::TenantUnknown { .. } | Self::NetworkUnknown { .. } | Self::GroupUnknown { .. }
        )
    }

    /// The text to print of a rejection that came with `text` beside it.
    pub fn told(&self, text: Option<String>) -> String {
        match (self, text) {
            (Self::Unknown, Some(text)) => text,
            _ => self.to_string(),
        }
    }

    /// Netmaster couldn't decide: the same command may be accepted later, or by another netmaster.
    /// All other rejections are decisions.
    pub fn is_undecided(&self) -> bool {
        matches!(
            self,
            Self::Malformed { .. }
                | Self::WrongSubject { .. }
                | Self::RequestTooLong { .. }
                | Self::Defect
                | Self::NotInitialised
                | Self::DeadlinePassed
                | Self::OlderThanLog { .. }
                | Self::LogUnreadable { .. }
                | Self::LogShorter { .. }
                | Self::LogDamaged { .. }
                | Self::Unknown
        )
    }
}

/// The remedy for a damaged log of which no server has a whole copy.
fn instead(hole: bool) -> &'static str {
    match hole {
        true => "If no server has a whole copy, restore the stream LOG from a backup",
        false => {
            "If the log was restored from a backup, `netctl cluster accept-log --yes` goes on with it"
        }
    }
}

/// The objects that a tenant still has, in the order in which they can be removed.
fn left(networks: &[NetworkName], groups: &[GroupName], policies: &[PolicyName]) -> String {
    let kinds = [
        ("groups", list(groups)),
        ("policies", list(policies)),
        ("networks", list(networks)),
    ];
    let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
    let kinds: Vec<String> = kinds
        .map(|(kind, names)| format!("{kind} {names}"))
        .collect();
    kinds.join(", ")
}
