//! `netctl group`.

use bus_schema::command::{GroupCreate, GroupRemove, GroupUpdate};
use bus_schema::query::{GroupInfo, NetworkInfo};
use bus_schema::{
    AddressRange, Answer, Command, Endpoint, GroupName, GroupSpec, NetworkName, PolicyName, Pool,
    Query, Rejection, TenantName,
};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::flags::{ChangeFlags, InspectFlags, ListFlags, RemovalFlags, TenantFlag, TenantsFlags};
use super::usage::{self, Usage};
use super::wait::WaitFlag;
use super::{change, egress, endpoint, network, pool};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// Create a group in a network, and wait until the nodes have applied it
    #[command(
        after_help = "On every node the group is the Docker network GROUP.NETWORK. In its network only its members are\nfound by the name GROUP; a warning names other containers that have it. Creating the same group again is fine;\nanother list of policies is refused: `update` changes it.\n\nExamples:\n  netctl group create contiv-net web --policy=prod_web\n  netctl group create front lb -t blue -p base -p lb\n  netctl group create contiv-net db --ip-pool=20.1.1.16-20.1.1.63\n  docker run --net web.contiv-net IMAGE"
    )]
    Create(Box<GroupCreateOptions>),
    /// Replace the policies of a group
    #[command(
        group(clap::ArgGroup::new("which").required(true).args(["policy", "no_policy"])),
        after_help = "Examples:\n  netctl group update web --policy=prod_web --policy=base\n  netctl group update web --no-policy"
    )]
    Update(GroupUpdateOptions),
    /// Remove a group without containers that no rule names
    #[command(
        visible_alias = "delete",
        after_help = "While a node doesn't answer, the group isn't removed; repeat the command to continue.\n--abort keeps the group, --force removes it now.\n\nExample:\n  netctl group rm web"
    )]
    Rm(GroupRemoveOptions),
    /// List groups
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  netctl group ls -a -o wide"
    )]
    Ls {
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show a group with the node, address and container of each member
    #[command(after_help = "Example:\n  netctl group inspect web")]
    Inspect {
        group: GroupName,
        #[command(flatten)]
        of: TenantFlag,
        #[command(flatten)]
        flags: InspectFlags,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GroupCreateOptions {
    network: NetworkName,
    group: GroupName,
    #[command(flatten)]
    of: TenantFlag,
    /// A policy of the group; may be given several times
    #[arg(long, short, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<PolicyName>,
    /// The members' addresses, FIRST-LAST, inside the network's subnet
    #[arg(long, short = 'r', value_name = "RANGE", value_parser = pool::range)]
    ip_pool: Option<AddressRange>,
    /// The Docker network's name (-tag)
    #[arg(long, alias = "tag", value_name = "NAME")]
    epg_tag: Option<String>,
    /// Always refused
    #[arg(long, short, value_name = "PROFILE", hide = true)]
    networkprofile: Option<String>,
    /// Always refused
    #[arg(long, short, value_name = "CONTRACT", hide = true)]
    external_contract: Vec<String>,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, Args)]
pub(crate) struct GroupUpdateOptions {
    group: GroupName,
    #[command(flatten)]
    of: TenantFlag,
    /// A policy of the group; may be given several times
    #[arg(long, short, value_name = "POLICY", value_delimiter = ',')]
    policy: Vec<PolicyName>,
    /// Remove all policies: everything is allowed
    #[arg(long)]
    no_policy: bool,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, Args)]
pub(crate) struct GroupRemoveOptions {
    group: GroupName,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    removal: RemovalFlags,
    #[command(flatten)]
    flags: ChangeFlags,
}

pub(crate) async fn run(session: &mut Session, verb: GroupVerb) -> Result<(), Failure> {
    match verb {
        GroupVerb::Create(create) => self::create(session, *create).await,
        GroupVerb::Update(update) => self::update(session, update).await,
        GroupVerb::Rm(remove) => self::remove(session, remove).await,
        GroupVerb::Ls { of, flags } => {
            let groups = list(session, of.tenant(), None).await?;
            output::print(&listed(&groups, &flags)?)
        }
        GroupVerb::Inspect { group, of, flags } => {
            let value = inspect(session, of.tenant, group).await?;
            output::print(&output::document(&value, flags.format())?)
        }
    }
}

async fn create(session: &mut Session, create: GroupCreateOptions) -> Result<(), Failure> {
    unsupported(&create)?;
    let (tenant, network, group) = (create.of.tenant, create.network, create.group);
    let announcement = format!("Creating EndpointGroup {tenant}:{group}");
    let command = Command::GroupCreate(GroupCreate {
        tenant: tenant.clone(),
        network: network.clone(),
        group: group.clone(),
        policies: create.policy,
        ip_pool: create.ip_pool,
        docker_name: create.epg_tag.filter(|name| !name.is_empty()),
    });
    change::send_and_wait(session, &announcement, command, &create.flags, create.wait).await?;
    // The group is there, whether or not the endpoints can be listed.
    if let Ok(endpoints) = endpoint::list(session, Some(tenant.clone())).await {
        warn_taken(&endpoints, &network, &group);
    }
    egress::warn_of_group(session, tenant, &group).await;
    Ok(())
}

/// Warns about containers that lose their name to the group.
pub(super) fn warn_taken(endpoints: &[Endpoint], network: &NetworkName, group: &GroupName) {
    let losing = losing(endpoints, network, group);
    if !losing.is_empty() {
        output::note(&format!(
            "warning: in network {network} only members of group {group} are found by the name {group}: {} can't be any more; join the group or take another name",
            losing.join(", ")
        ));
    }
}

/// The containers of the network that have the group's name, or an alias like it, and aren't members.
fn losing(endpoints: &[Endpoint], network: &NetworkName, group: &GroupName) -> Vec<String> {
    let is_group = |name: &String| name.eq_ignore_ascii_case(group.as_str());
    let mut losing = Vec::new();
    for it in endpoints {
        if it.network != *network || it.group.as_ref() == Some(group) {
            continue;
        }
        let name = it.name.as_deref().unwrap_or(it.id.as_str());
        if it.name.as_ref().is_some_and(is_group) {
            losing.push(format!("container {name} on {}", it.node));
        } else if it.aliases.iter().any(is_group) {
            losing.push(format!("container {name} on {} (its alias)", it.node));
        }
    }
    losing
}

fn unsupported(create: &GroupCreateOptions) -> Result<(), Failure> {
    let refused = |what: &str| {
        Err(Rejection::Unsupported {
            what: what.to_owned(),
            instead: "leave it out".to_owned(),
        }
        .into())
    };
    if create
        .networkprofile
        .as_ref()
        .is_some_and(|p| !p.is_empty())
    {
        return refused("--networkprofile");
    }
    if create.external_contract.iter().any(|c| !c.is_empty()) {
        return refused("--external-contract");
    }
    Ok(())
}

async fn update(session: &mut Session, update: GroupUpdateOptions) -> Result<(), Failure> {
    let (tenant, group) = (update.of.tenant, update.group);
    let command = Command::GroupUpdate(GroupUpdate {
        tenant: tenant.clone(),
        group: group.clone(),
        policies: update.policy,
    });
    change::send_and_wait(session, "", command, &update.flags, update.wait).await?;
    egress::warn_of_group(session, tenant, &group).await;
    Ok(())
}

async fn remove(session: &mut Session, remove: GroupRemoveOptions) -> Result<(), Failure> {
    let (tenant, group) = (remove.of.tenant, remove.group);
    let verb = remove.removal.verb();
    let announcement = format!("{verb} EndpointGroup {tenant}:{group}");
    let command = Command::GroupRemove(GroupRemove {
        tenant,
        group,
        mode: remove.removal.mode(),
    });
    change::send(session, &announcement, command, &remove.flags)
        .await
        .map(drop)
}

async fn inspect(
    session: &mut Session,
    tenant: TenantName,
    group: GroupName,
) -> Result<Value, Failure> {
    let groups = list(session, Some(tenant.clone()), Some(group.clone())).await?;
    let Some(info) = groups.first() else {
        return Err(session.rejected(&Rejection::GroupUnknown { tenant, group }));
    };
    let network = info.spec.network.clone();
    let networks = network::list(session, Some(tenant.clone()), Some(network)).await?;
    let endpoints = endpoint::list(session, Some(tenant)).await?;
    Ok(inspected(info, networks.first(), &endpoints))
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
    group: Option<GroupName>,
) -> Result<Vec<GroupInfo>, Failure> {
    match session.ask(Query::GroupList { tenant, group }).await? {
        Answer::Groups { groups, .. } => Ok(groups),
        answer => Err(unexpected_answer(&answer)),
    }
}

fn listed(groups: &[GroupInfo], flags: &ListFlags) -> Result<String, Failure> {
    let value = |info: &GroupInfo| {
        let mut value = config(info);
        value["Oper"] = state(info);
        value
    };
    flags.show(groups, |info| info.spec.name.clone(), table, value)
}

fn table(groups: &[GroupInfo]) -> Table {
    let mut table = Table::new(
        &[
            "Tenant",
            "Group",
            "Network",
            "IP Pool",
            "CfgdTag",
            "Policies",
            "Network profile",
            "State",
        ],
        &["Endpoints", "Id", "Docker network", "Revision"],
    );
    for info in groups {
        let spec = &info.spec;
        let policies: Vec<&str> = spec.policies.iter().map(PolicyName::as_str).collect();
        table.row(vec![
            spec.tenant.to_string(),
            spec.name.to_string(),
            spec.network.to_string(),
            ip_pool(spec),
            spec.docker_name.clone().unwrap_or_default(),
            policies.join(","),
            String::new(),
            if info.closing { "closing" } else { "active" }.to_owned(),
            info.endpoints.to_string(),
            spec.id.0.to_string(),
            spec.docker_network(),
            info.created.to_string(),
        ]);
    }
    table
}

/// The group's own range of addresses; empty: its members get addresses of the network.
fn ip_pool(spec: &GroupSpec) -> String {
    spec.pool.map(|range| range.to_string()).unwrap_or_default()
}

/// The JSON of a group's configuration, with Contiv's keys.
fn config(info: &GroupInfo) -> Value {
    let spec = &info.spec;
    json!({
        "key": format!("{}:{}", spec.tenant, spec.name),
        "groupName": spec.name,
        "tenantName": spec.tenant,
        "networkName": spec.network,
        "policies": spec.policies,
        "ipPool": ip_pool(spec),
        "netProfile": "",
        "cfgdTag": spec.docker_name.as_deref().unwrap_or_default(),
    })
}

/// The JSON of the group's state that doesn't depend on its endpoints.
fn state(info: &GroupInfo) -> Value {
    let mut state = json!({
        "numEndpoints": info.endpoints,
        "closing": info.closing,
        "createdRevision": info.created,
        "dockerNetwork": info.spec.docker_network(),
        "groupId": info.spec.id,
    });
    if info.spec.pool.is_some() {
        state["addresses"] = json!(info.addresses.map(usage::count));
    }
    state
}

fn inspected(info: &GroupInfo, network: Option<&NetworkInfo>, of_tenant: &[Endpoint]) -> Value {
    let members: Vec<&Endpoint> = of_tenant
        .iter()
        .filter(|e| e.group.as_ref() == Some(&info.spec.name))
        .collect();
    let mut oper = state(info);
    if info.spec.pool.is_some() {
        oper["blocks"] = info.usage.iter().map(usage::block).collect();
    }
    if let Some(network) = network {
        let of_network = of_tenant.iter().filter(|e| e.network == info.spec.network);
        let of_network: Vec<&Endpoint> = of_network.collect();
        let subnet = &network.spec.v4;
        let pool = Pool {
            range: info.spec.pool.or(subnet.range),
            ..subnet.clone()
        };
        let own = |block: &IpNet| {
            let range = info.spec.pool.filter(|it| it.first <= block.network());
            range.is_some_and(|it| block.broadcast() <= it.last)
        };
        let blocks = network.blocks.iter().map(|(block, node)| (*block, node));
        let mut usage = Usage::of(&members, blocks.filter(|(block, _)| own(block)), &pool);
        usage.count_free(&pool, &of_network);
        usage.show(&mut oper);
        oper["pktTag"] = json!(network.spec.vni);
    }
    oper["endpoints"] = members.into_iter().map(endpoint::oper).collect();
    json!({ "Config": config(info), "Oper": oper })
}

#[cfg(test)]
pub(super) mod tests {
    use bus_schema::query::{AddressCount, BlockUsage};
    use bus_schema::{GroupId, Revision};

    use super::*;
    use crate::output::Format;

    fn info() -> GroupInfo {
        of("contiv-net", "web")
    }

    pub(in super::super) fn of(network: &str, group: &str) -> GroupInfo {
        GroupInfo {
            spec: GroupSpec {
                tenant: TenantName::default_tenant(),
                network: network.parse().unwrap(),
                name: group.parse().unwrap(),
                id: GroupId(2),
                policies: vec!["base".parse().unwrap(), "prod_web".parse().unwrap()],
                docker_name: None,
                pool: None,
            },
            created: Revision(9),
            closing: false,
            endpoints: 1,
            addresses: None,
            usage: vec![],
        }
    }

    #[test]
    fn containers_that_lose_their_name_to_a_group_are_named() {
        let (network, group): (NetworkName, GroupName) =
            ("net".parse().unwrap(), "web".parse().unwrap());
        let plain = |id: &str, name: &str| endpoint::tests::endpoint(id, name);
        let endpoints = [
            plain("e1", "Web"),
            Endpoint {
                group: Some(group.clone()),
                ..plain("e2", "web")
            },
            Endpoint {
                aliases: vec!["web".to_owned()],
                ..plain("e3", "front")
            },
            Endpoint {
                network: "other".parse().unwrap(),
                ..plain("e4", "web")
            },
        ];
        let node = &endpoints[0].node;
        assert_eq!(
            losing(&endpoints, &network, &group),
            [
                format!("container Web on {node}"),
                format!("container front on {node} (its alias)")
            ]
        );
    }

    #[test]
    fn table_has_contivs_columns_first() {
        assert_eq!(
            table(&[info()]).render(Format::Table),
            "\
Tenant   Group  Network     IP Pool  CfgdTag  Policies       Network profile  State
------   -----  -------     -------  -------  --------       ---------------  -----
default  web    contiv-net                    base,prod_web                   active
"
        );
    }

    #[test]
    fn pool_is_shown_with_its_free_addresses() {
        let mut info = info();
        info.spec.pool = Some(pool::range("20.1.1.1-20.1.1.3").unwrap());
        info.addresses = Some(AddressCount {
            assignable: 3,
            in_use: 1,
        });
        info.usage = vec![BlockUsage {
            tenant: info.spec.tenant.clone(),
            network: info.spec.network.clone(),
            group: Some(info.spec.name.clone()),
            block: "20.1.1.0/30".parse().unwrap(),
            node: "n1".parse().unwrap(),
            in_use: 1,
            free: 2,
            ceded: 0,
        }];
        let shown = table(std::slice::from_ref(&info)).render(Format::Table);
        assert!(shown.contains("  20.1.1.1-20.1.1.3  "), "{shown}");
        let network = network::tests::info();
        let member = Endpoint {
            group: Some("web".parse().unwrap()),
            network: "contiv-net".parse().unwrap(),
            ..endpoint::tests::endpoint("e1", "db")
        };
        let value = inspected(&info, Some(&network), &[member]);
        assert_eq!(value["Config"]["ipPool"], "20.1.1.1-20.1.1.3");
        assert_eq!(value["Oper"]["availableIPAddresses"], "20.1.1.2-20.1.1.3");
        let block = &value["Oper"]["blocks"][0];
        assert_eq!((&block["inUse"], &block["free"]), (&json!(1), &json!(2)));
        assert_eq!(value["Oper"]["addresses"]["free"], 2);
    }

    #[test]
    fn inspect_lists_members_with_contivs_keys() {
        let member = |id: &str, group: Option<&str>| Endpoint {
            group: group.map(|g| g.parse().unwrap()),
            ..endpoint::tests::endpoint(id, "db")
        };
        let endpoints = [member("e1", Some("web")), member("e2", None)];
        let value = inspected(&info(), Some(&network::tests::info()), &endpoints);
        for key in [
            "key",
            "groupName",
            "tenantName",
            "networkName",
            "policies",
            "ipPool",
        ] {
            assert!(value["Config"].get(key).is_some(), "{key}");
        }
        assert_eq!(value["Config"]["key"], "default:web");
        let oper = &value["Oper"];
        assert_eq!(oper["numEndpoints"], 1);
        assert_eq!(oper["allocatedIPAddresses"], "20.1.1.1");
        assert_eq!(oper["endpoints"][0]["endpointID"], "e1");
        assert_eq!(oper["endpoints"][0]["homingHost"], "n1");
        assert_eq!(oper["endpoints"][0]["containerName"], "db");
        assert_eq!(oper["endpoints"][0]["endpointGroupKey"], "default:web");
    }
}
