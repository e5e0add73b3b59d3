//! `netctl net`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bus_schema::command::{NetworkCreate, NetworkRemove, NetworkUpdate};
use bus_schema::query::NetworkInfo;
use bus_schema::{Answer, Command, Endpoint, NetworkName, Query, Rejection, TenantName, Vni};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::{IpNet, Ipv6Net};
use serde_json::{Value, json};

use super::flags::{ChangeFlags, InspectFlags, ListFlags, RemovalFlags, TenantFlag, TenantsFlags};
use super::pool::{self, Subnet};
use super::settings::NetworkSettings;
use super::usage::{self, Usage};
use super::wait::WaitFlag;
use super::{change, covered, endpoint};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Create a network, and wait until the nodes have applied it
    #[command(
        after_help = "It warns when the subnet covers the underlay, an address or a resolver of a node, or a network of\nits engine: the tenant's containers don't reach what has that address.\n\nExamples:\n  netctl net create contiv-net --subnet=20.1.1.0/24 --gateway=20.1.1.254\n  netctl net create front -t blue -s 10.1.1.10-10.1.1.99/24 -p 1001\n  netctl net create db -s 20.1.2.0/24 --egress=none   # its containers reach networks of the tenant only"
    )]
    Create(Box<NetworkCreateOptions>),
    /// Change a network's settings; those that aren't given stay
    #[command(
        group(
            clap::ArgGroup::new("changed")
                .required(true)
                .multiple(true)
                .args(["max_connections", "egress", "allow_metadata"]),
        ),
        after_help = "Examples:\n  netctl net update contiv-net --max-connections 20000\n  netctl net update contiv-net --max-connections 0   # the tenant's number again\n  netctl net update contiv-net --egress=nat"
    )]
    Update(NetworkUpdateOptions),
    /// Remove a network that no endpoint uses
    #[command(
        visible_alias = "delete",
        after_help = "While a node doesn't answer, the network isn't removed; the removal continues when it answers.\n--abort keeps the network, --force removes it now.\n\nExample:\n  netctl net rm contiv-net"
    )]
    Rm(NetworkRemoveOptions),
    /// List networks
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  netctl net ls -a -o wide"
    )]
    Ls {
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show a network with its addresses and endpoints
    Inspect {
        network: NetworkName,
        #[command(flatten)]
        of: TenantFlag,
        #[command(flatten)]
        flags: InspectFlags,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateOptions {
    network: NetworkName,
    #[command(flatten)]
    of: TenantFlag,
    /// The subnet A.B.C.D/L, or a range A.B.C.D-E.F.G.H/L of it
    #[arg(long, short)]
    subnet: Subnet,
    /// The gateway [default: the subnet's first usable address]
    #[arg(long, short)]
    gateway: Option<Ipv4Addr>,
    /// The VNI [default: a free one of the cluster's range; 0 means the same]
    #[arg(long, short, value_name = "VNI")]
    pkt_tag: Option<u32>,
    /// An IPv6 subnet in addition to the IPv4 one (-s6)
    #[arg(long, alias = "s6", value_name = "SUBNET", hide = true)]
    subnetv6: Option<Ipv6Net>,
    /// The IPv6 gateway (-g6)
    #[arg(long, alias = "g6", value_name = "GATEWAY", hide = true)]
    gatewayv6: Option<Ipv6Addr>,
    /// The Docker network's name (-tag)
    #[arg(long, alias = "tag", value_name = "NAME")]
    nw_tag: Option<String>,
    #[command(flatten)]
    settings: NetworkSettings,
    #[arg(long, short, value_enum, default_value_t = NwType::Data)]
    nw_type: NwType,
    #[arg(long, short, value_enum, default_value_t = Encap::Vxlan)]
    encap: Encap,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkUpdateOptions {
    network: NetworkName,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    settings: NetworkSettings,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NwType {
    Data,
    /// Always refused
    #[value(hide = true)]
    Infra,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encap {
    Vxlan,
    /// Always refused
    #[value(hide = true)]
    Vlan,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkRemoveOptions {
    network: NetworkName,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    removal: RemovalFlags,
    #[command(flatten)]
    flags: ChangeFlags,
}

pub(crate) async fn run(session: &mut Session, verb: NetworkVerb) -> Result<(), Failure> {
    match verb {
        NetworkVerb::Create(create) => self::create(session, *create).await,
        NetworkVerb::Update(update) => self::update(session, update).await,
        NetworkVerb::Rm(remove) => self::remove(session, remove).await,
        NetworkVerb::Ls { of, flags } => {
            let networks = list(session, of.tenant(), None).await?;
            output::print(&listed(&networks, &flags)?)
        }
        NetworkVerb::Inspect { network, of, flags } => {
            let tenant = of.tenant;
            let networks = list(session, Some(tenant.clone()), Some(network.clone())).await?;
            let Some(info) = networks.first() else {
                return Err(session.rejected(&Rejection::NetworkUnknown { tenant, network }));
            };
            let mut endpoints = endpoint::list(session, Some(tenant)).await?;
            endpoints.retain(|e| e.network == network);
            let value = inspected(info, &endpoints);
            output::print(&output::document(&value, flags.format())?)
        }
    }
}

async fn create(session: &mut Session, create: NetworkCreateOptions) -> Result<(), Failure> {
    unsupported(&create)?;
    let (tenant, network) = (create.of.tenant, create.network);
    let subnet6 = create.subnetv6.map(IpNet::V6);
    let subnets: Vec<IpNet> = [create.subnet.net].into_iter().chain(subnet6).collect();
    let announcement = format!("Creating network {tenant}:{network}");
    let command = Command::NetworkCreate(NetworkCreate {
        tenant,
        network,
        subnet: create.subnet.net,
        range: create.subnet.range,
        gateway: create.gateway.map(IpAddr::V4),
        subnet6: create.subnetv6.map(Into::into),
        gateway6: create.gatewayv6.map(IpAddr::V6),
        vni: create.pkt_tag.filter(|tag| *tag != 0).map(Vni),
        docker_name: create.nw_tag.filter(|name| !name.is_empty()),
        max_connections: create.settings.max_connections,
        egress: create.settings.egress.map(Into::into),
        allow_metadata: create.settings.allow_metadata,
    });
    change::send_and_wait(session, &announcement, command, &create.flags, create.wait).await?;
    covered::warn(session, &subnets).await;
    Ok(())
}

async fn update(session: &mut Session, update: NetworkUpdateOptions) -> Result<(), Failure> {
    let (tenant, network) = (update.of.tenant, update.network);
    let announcement = format!("Updating network {tenant}:{network}");
    let settings = update.settings;
    let command = Command::NetworkUpdate(NetworkUpdate {
        tenant,
        network,
        max_connections: settings.max_connections,
        egress: settings.egress.map(Into::into),
        allow_metadata: settings.allow_metadata,
    });
    change::send_and_wait(session, &announcement, command, &update.flags, update.wait).await
}

fn unsupported(create: &NetworkCreateOptions) -> Result<(), Failure> {
    let refused = |what: &str, instead: &str| {
        Err(Rejection::Unsupported {
            what: what.to_owned(),
            instead: instead.to_owned(),
        }
        .into())
    };
    if create.encap == Encap::Vlan {
        return refused("--encap vlan", "networks use VXLAN, leave it out");
    }
    if create.nw_type == NwType::Infra {
        return refused(
            "--nw-type infra",
            "networks are data networks, leave it out",
        );
    }
    Ok(())
}

async fn remove(session: &mut Session, remove: NetworkRemoveOptions) -> Result<(), Failure> {
    let (tenant, network) = (remove.of.tenant, remove.network);
    let mode = remove.removal.mode();
    let verb = remove.removal.verb();
    let announcement = format!("{verb} network {tenant}:{network}");
    let command = Command::NetworkRemove(NetworkRemove {
        tenant,
        network,
        mode,
    });
    change::send(session, &announcement, command, &remove.flags)
        .await
        .map(drop)
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
    network: Option<NetworkName>,
) -> Result<Vec<NetworkInfo>, Failure> {
    match session.ask(Query::NetworkList { tenant, network }).await? {
        Answer::Networks { networks, .. } => Ok(networks),
        answer => Err(unexpected_answer(&answer)),
    }
}

fn listed(networks: &[NetworkInfo], flags: &ListFlags) -> Result<String, Failure> {
    let value = |info: &NetworkInfo| {
        let mut value = config(info);
        value["Oper"] = state(info);
        value
    };
    flags.show(networks, |info| info.spec.name.clone(), table, value)
}

fn table(networks: &[NetworkInfo]) -> Table {
    let mut table = Table::new(
        &[
            "Tenant",
            "Network",
            "Nw Type",
            "Encap type",
            "Packet tag",
            "Subnet",
            "Gateway",
            "IPv6Subnet",
            "IPv6Gateway",
            "Cfgd Tag",
            "State",
        ],
        &[
            "Endpoints",
            "Blocks",
            "Docker network",
            "Revision",
            "Egress",
        ],
    );
    for info in networks {
        let spec = &info.spec;
        let v6 = |cell: fn(&bus_schema::Pool) -> String| spec.v6.as_ref().map(cell);
        table.row(vec![
            spec.tenant.to_string(),
            spec.name.to_string(),
            "data".to_owned(),
            "vxlan".to_owned(),
            spec.vni.to_string(),
            pool::show(&spec.v4),
            spec.v4.gateway.to_string(),
            v6(pool::show).unwrap_or_default(),
            v6(|p| p.gateway.to_string()).unwrap_or_default(),
            spec.docker_name.clone().unwrap_or_default(),
            if info.closing { "closing" } else { "active" }.to_owned(),
            info.endpoints.to_string(),
            info.blocks.len().to_string(),
            spec.docker_network(),
            info.created.to_string(),
            spec.egress().to_string(),
        ]);
    }
    table
}

/// The JSON of a network's configuration, with Contiv's keys.
fn config(info: &NetworkInfo) -> Value {
    let spec = &info.spec;
    let v6 = spec.v6.as_ref();
    json!({
        "key": format!("{}:{}", spec.tenant, spec.name),
        "networkName": spec.name,
        "tenantName": spec.tenant,
        "nwType": "data",
        "encap": "vxlan",
        "pktTag": spec.vni,
        "subnet": pool::show(&spec.v4),
        "gateway": spec.v4.gateway,
        "ipv6Subnet": v6.map(pool::show).unwrap_or_default(),
        "ipv6Gateway": v6.map(|p| p.gateway.to_string()).unwrap_or_default(),
        "cfgdTag": spec.docker_name.as_deref().unwrap_or_default(),
        "maxConnections": spec.max_connections.unwrap_or_default(),
        "egress": spec.egress(),
        "allowMetadata": spec.allow_metadata,
    })
}

/// The JSON of the network's state that doesn't depend on its endpoints.
fn state(info: &NetworkInfo) -> Value {
    json!({
        "pktTag": info.spec.vni,
        "numEndpoints": info.endpoints,
        "closing": info.closing,
        "createdRevision": info.created,
        "dockerNetwork": info.spec.docker_network(),
        "addresses": info.addresses.map(usage::count),
        "blocks": blocks(info),
    })
}

/// The network's blocks. netmaster adds their usage only if one network is queried.
fn blocks(info: &NetworkInfo) -> Value {
    let blocks = info.blocks.iter().map(|(block, node)| {
        let usage = info.usage.iter().find(|it| it.block == *block);
        usage.map_or_else(|| json!({ "block": block, "node": node }), usage::block)
    });
    blocks.collect()
}

fn inspected(info: &NetworkInfo, endpoints: &[Endpoint]) -> Value {
    let mut oper = state(info);
    let endpoints: Vec<&Endpoint> = endpoints.iter().collect();
    usage(info, &endpoints).show(&mut oper);
    oper["endpoints"] = endpoints.into_iter().map(endpoint::oper).collect();
    json!({ "Config": config(info), "Oper": oper })
}

/// The usage of a network by its endpoints.
pub(crate) fn usage(info: &NetworkInfo, endpoints: &[&Endpoint]) -> Usage {
    let blocks = info.blocks.iter().map(|(block, node)| (*block, node));
    let mut usage = Usage::of(endpoints, blocks, &info.spec.v4);
    usage.count_free(&info.spec.v4, endpoints);
    usage
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use bus_schema::query::{AddressCount, BlockUsage};
    use bus_schema::{NetworkSpec, Pool, Revision};

    use super::*;
    use crate::output::Format;

    pub(in super::super) fn info() -> NetworkInfo {
        NetworkInfo {
            spec: NetworkSpec::new(
                TenantName::default_tenant(),
                "contiv-net".parse().unwrap(),
                Vni(1001),
                Pool {
                    subnet: "20.1.1.0/24".parse().unwrap(),
                    gateway: "20.1.1.254".parse().unwrap(),
                    range: None,
                },
            ),
            created: Revision(4),
            closing: false,
            blocks: BTreeMap::from([("20.1.1.0/28".parse().unwrap(), "n1".parse().unwrap())]),
            endpoints: 0,
            addresses: None,
            usage: vec![],
        }
    }

    #[test]
    fn table_has_contivs_columns_first() {
        assert_eq!(
            table(&[info()]).render(Format::Table),
            "\
Tenant   Network     Nw Type  Encap type  Packet tag  Subnet       Gateway     IPv6Subnet  IPv6Gateway  Cfgd Tag  State
------   -------     -------  ----------  ----------  ------       -------     ----------  -----------  --------  -----
default  contiv-net  data     vxlan       1001        20.1.1.0/24  20.1.1.254                                     active
"
        );
    }

    #[test]
    fn inspect_has_contivs_keys() {
        let value = inspected(&info(), &[]);
        for key in [
            "key",
            "networkName",
            "tenantName",
            "nwType",
            "encap",
            "pktTag",
            "subnet",
            "gateway",
        ] {
            assert!(value["Config"].get(key).is_some(), "{key}");
        }
        for key in [
            "allocatedAddressesCount",
            "allocatedIPAddresses",
            "availableIPAddresses",
            "endpoints",
            "numEndpoints",
            "pktTag",
        ] {
            assert!(value["Oper"].get(key).is_some(), "{key}");
        }
        assert_eq!(value["Config"]["key"], "default:contiv-net");
        assert_eq!(value["Oper"]["availableIPAddresses"], "20.1.1.1-20.1.1.253");
        assert_eq!(value["Oper"]["availableAddressesCount"], 253);
    }

    #[test]
    fn inspect_shows_the_usage_of_each_block_and_ls_does_not() {
        let mut info = info();
        let block = |usage: &[BlockUsage]| {
            let info = NetworkInfo {
                usage: usage.to_vec(),
                ..self::info()
            };
            inspected(&info, &[])["Oper"]["blocks"].clone()
        };
        let of = BlockUsage {
            tenant: TenantName::default_tenant(),
            network: "contiv-net".parse().unwrap(),
            group: None,
            block: "20.1.1.0/28".parse().unwrap(),
            node: "n1".parse().unwrap(),
            in_use: 3,
            free: 11,
            ceded: 1,
        };
        assert_eq!(
            block(&[of]),
            json!([{ "block": "20.1.1.0/28", "node": "n1", "inUse": 3, "free": 11, "ceded": 1 }])
        );
        assert_eq!(
            block(&[]),
            json!([{ "block": "20.1.1.0/28", "node": "n1" }])
        );
        info.addresses = Some(AddressCount {
            assignable: 253,
            in_use: 3,
        });
        assert_eq!(
            state(&info)["addresses"],
            json!({ "assignable": 253, "inUse": 3, "free": 250 })
        );
    }
}
