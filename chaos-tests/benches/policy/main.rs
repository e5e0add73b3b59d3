//! The costs of rules: `make bench`. Two hosts, real packets, conntrack on. The sizes take turns in a
//! different order in each round, and medians are compared, so a drift of the machine's speed has no
//! influence.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod rules;

use bus_schema::command::{
    GroupCreate, GroupUpdate, NetworkCreate, PolicyCreate, RuleAdd, RuleRemove,
};
use bus_schema::{Command, GroupName, NetworkName, NodeName, PolicyName, RuleId, TenantName};
use chaos_tests::bus::Bus;
use chaos_tests::figures::{arguments, machine, quantile};
use chaos_tests::traffic;
use lab::{Lab, Spec};

const RULE_COUNTS: [usize; 4] = [0, 10, 1_000, 10_000];
const ROUND_COUNT: usize = 7;
/// The duration of each measurement.
const RUN_MS: &str = "700";
/// The duration of the warm-up: the kernel frees the previous rules, and netplugin reads the new ones back,
/// on the same cores.
const WARM_UP_MS: &str = "3000";
/// The number of changes of one rule, measured one after another.
const CHANGE_COUNT: usize = 40;
/// The number of groups that rules name.
const PEER_GROUP_COUNT: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let arguments = arguments();
    if let Some(done) = traffic::run(&arguments) {
        return Ok(done?);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{}", machine());
    let mut lab = Lab::up(&Spec::test(4))?;
    let bus = runtime.block_on(Bus::connect(&lab.nats_url()))?;
    runtime.block_on(intent(&bus))?;
    lab.run_workload_with("node-2", "net", "web", &["--group", "web"])?;
    lab.run_workload("node-1", "net", "client")?;
    traffic_by_size(&lab, &bus, &runtime)?;
    changes(&lab, &bus, &runtime)
}

fn tenant() -> TenantName {
    TenantName::default_tenant()
}

fn policy(size: usize) -> anyhow::Result<PolicyName> {
    Ok(PolicyName::new(format!("rules-{size}"))?)
}

/// Creates the network, the groups that rules name, and a policy of each size.
async fn intent(bus: &Bus) -> anyhow::Result<()> {
    let network = NetworkName::new("net")?;
    bus.command(Command::NetworkCreate(NetworkCreate {
        tenant: tenant(),
        network: network.clone(),
        subnet: "20.1.0.0/16".parse()?,
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: None,
        docker_name: None,
        max_connections: None,
        egress: None,
        allow_metadata: None,
    }))
    .await?;
    let peers = (0..PEER_GROUP_COUNT).map(|number| GroupName::new(format!("peer-{number}")));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    let group = |group: &GroupName| {
        Command::GroupCreate(GroupCreate {
            tenant: tenant(),
            network: network.clone(),
            group: group.clone(),
            policies: Vec::new(),
            ip_pool: None,
            docker_name: None,
        })
    };
    let web = GroupName::new("web")?;
    bus.commands(peers.iter().chain([&web]).map(group).collect())
        .await?;
    let mut random = fastrand::Rng::with_seed(9);
    for size in RULE_COUNTS {
        let policy = policy(size)?;
        let create = PolicyCreate {
            tenant: tenant(),
            policy: policy.clone(),
        };
        bus.command(Command::PolicyCreate(create)).await?;
        let rules = (0..size).map(|number| {
            Ok(Command::RuleAdd(RuleAdd {
                tenant: tenant(),
                policy: policy.clone(),
                rule: RuleId::new(format!("{number}"))?,
                spec: rules::draw(&mut random, &peers),
                immediate: false,
            }))
        });
        bus.commands(rules.collect::<anyhow::Result<_>>()?).await?;
    }
    Ok(())
}

fn attach(size: usize) -> anyhow::Result<Command> {
    Ok(Command::GroupUpdate(GroupUpdate {
        tenant: tenant(),
        group: GroupName::new("web")?,
        policies: vec![policy(size)?],
    }))
}

fn traffic_by_size(lab: &Lab, bus: &Bus, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let me = std::env::current_exe()?.display().to_string();
    let _server = lab.start_in("web", &[&me, "serve"])?;
    let web = lab.address_of("web")?.to_string();
    let nodes = names(lab)?;
    let mut figures = RULE_COUNTS.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..ROUND_COUNT {
        let mut order: Vec<_> = RULE_COUNTS.into_iter().zip(&mut figures).collect();
        random.shuffle(&mut order);
        for (size, (attached, connections, streams)) in order {
            attached.push(
                runtime
                    .block_on(bus.enforced(attach(size)?, &nodes))?
                    .as_secs_f64(),
            );
            lab.exec_in("client", &[&me, "connect", &web, WARM_UP_MS])?;
            for (what, figures) in [("connect", connections), ("stream", streams)] {
                let output = lab.exec_in("client", &[&me, what, &web, RUN_MS])?;
                let figure = output.stdout.trim().parse();
                figures.push(figure.map_err(|_| anyhow::anyhow!("{what}: {}", output.text()))?);
            }
        }
    }
    let [(_, connections, streams), ..] = &figures;
    let (connections, streams) = (quantile(connections, 0.5), quantile(streams, 0.5));
    println!("rules in the receiver's group; medians of {ROUND_COUNT} rounds, ratio to none");
    println!(
        "{:>8}{:>18}{:>8}{:>14}{:>8}{:>16}",
        "rules", "connections/s", "", "Gbit/s", "", "to attach, ms"
    );
    for (size, (attached, c, s)) in RULE_COUNTS.into_iter().zip(&figures) {
        let (c, s) = (quantile(c, 0.5), quantile(s, 0.5));
        println!(
            "{size:>8}{c:>18.0}{:>8.2}{s:>14.2}{:>8.2}{:>16.1}",
            c / connections,
            s / streams,
            quantile(attached, 0.5) * 1e3
        );
    }
    Ok(())
}

/// Measures one added or removed rule among ten thousand until the last node enforces it; and a change that
/// concerns no node, as the cost of the requests.
fn changes(lab: &Lab, bus: &Bus, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let nodes = names(lab)?;
    runtime.block_on(bus.enforced(attach(10_000)?, &nodes))?;
    let mut random = fastrand::Rng::with_seed(10);
    let group = [GroupName::new("peer-1")?];
    println!(
        "one rule, from netmaster's answer to the last of {} nodes' kernels",
        nodes.len()
    );
    for size in [10_000, 10] {
        let mut took = Vec::new();
        for number in 0..CHANGE_COUNT {
            let rule = RuleId::new(format!("more-{number}"))?;
            let add = RuleAdd {
                tenant: tenant(),
                policy: policy(size)?,
                rule: rule.clone(),
                spec: rules::draw(&mut random, &group),
                immediate: false,
            };
            let remove = RuleRemove {
                tenant: tenant(),
                policy: policy(size)?,
                rule,
                immediate: false,
            };
            for command in [Command::RuleAdd(add), Command::RuleRemove(remove)] {
                took.push(
                    runtime
                        .block_on(bus.enforced(command, &nodes))?
                        .as_secs_f64(),
                );
            }
        }
        took.sort_by(f64::total_cmp);
        let worst = took[(took.len() * 99).div_ceil(100) - 1] * 1e3;
        let used = if size == 10_000 {
            "where 10,000 are"
        } else {
            "in a policy that no member uses"
        };
        println!(
            "{used}: median {:.1} ms, p99 {worst:.1} ms of {}",
            quantile(&took, 0.5) * 1e3,
            took.len()
        );
    }
    Ok(())
}

fn names(lab: &Lab) -> anyhow::Result<Vec<NodeName>> {
    let names = lab.nodes().into_iter().map(NodeName::new);
    Ok(names.collect::<Result<_, _>>()?)
}
