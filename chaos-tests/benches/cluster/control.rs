//! The control plane: networks per second through netmaster, compared with the log's own rate with the same
//! batches and fences; and the time of a change from the log to every kernel.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::{self, stream::Config};
use async_nats::{Client, HeaderMap, header};
use bus_schema::command::{
    GroupCreate, NetworkCreate, PolicyCreate, RuleAdd, RuleRemove, TenantCreate,
};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::policy::{Action, Direction, PortRange, Priority, Protocol};
use bus_schema::{
    Command, GroupName, NodeName, PolicyName, Revision, RuleId, RuleSpec, TenantName, subject,
};
use chaos_tests::bus::{Bus, connect};
use chaos_tests::figures::quantile;
use chaos_tests::{create, invariant};
use futures::{StreamExt, TryStreamExt, stream};
use lab::{Daemons, Lab, Spec};

use crate::median;

const ROUNDS: u32 = 5;
const SEQUENTIAL_COMMANDS: u32 = 40;
const CLIENTS: usize = 32;
const CONCURRENT_COMMANDS: u32 = 160;
/// The messages of a new network: the network, its VNI and its leases, each with a fence of its own.
const BATCH_MESSAGES: usize = 3;
/// The size of an event.
const EVENT_BYTES: usize = 350;
const CHANGE_COUNT: usize = 60;

pub(crate) fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for servers in [1, 3] {
        let spec = Spec::test(0).servers(servers).netmasters(servers);
        let lab = Lab::up(&spec.daemons(Daemons::Control))?;
        runtime.block_on(networks(&lab, servers))?;
    }
    to_the_kernels(&runtime)
}

async fn networks(lab: &Lab, servers: u8) -> anyhow::Result<()> {
    let bus = Bus::connect(&lab.nats_url()).await?;
    let tenant = TenantName::new("bench")?;
    bus.command(Command::TenantCreate(TenantCreate {
        tenant,
        max_connections: None,
        egress: None,
    }))
    .await?;
    let mut log = OwnLog::create(lab, usize::from(servers)).await?;
    let mut next = 0..;
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..SEQUENTIAL_COMMANDS {
            bus.command(network(next.next().unwrap_or_default())?)
                .await?;
        }
        rates[0].push(f64::from(SEQUENTIAL_COMMANDS) / start.elapsed().as_secs_f64());
        let start = Instant::now();
        for _ in 0..SEQUENTIAL_COMMANDS {
            log.append().await?;
        }
        rates[1].push(f64::from(SEQUENTIAL_COMMANDS) / start.elapsed().as_secs_f64());
        let some = next
            .by_ref()
            .take(CONCURRENT_COMMANDS as usize)
            .map(network);
        let some = some.collect::<anyhow::Result<Vec<_>>>()?;
        let start = Instant::now();
        stream::iter(some.into_iter().map(|command| bus.command(command)))
            .buffer_unordered(CLIENTS)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        rates[2].push(f64::from(CONCURRENT_COMMANDS) / start.elapsed().as_secs_f64());
        // A fence costs the server time for each subject that its filter matches, so only logs of equal
        // length are comparable.
        for _ in 0..CONCURRENT_COMMANDS {
            log.append().await?;
        }
    }
    let [one, own, together] = rates.map(|it| median(&it));
    println!(
        "{servers} server(s) and netmaster(s): networks/s, median of {ROUNDS} rounds, and ratio to the log's own"
    );
    println!("  the log itself, one writer: {own:.0} batches of {BATCH_MESSAGES}/s");
    println!("  one by one: {one:.0} ({:.2})", one / own);
    println!("  {CLIENTS} clients: {together:.0} ({:.2})", together / own);
    Ok(())
}

fn network(number: u32) -> anyhow::Result<Command> {
    let subnet = format!("10.{}.{}.0/24", number / 256, number % 256);
    Ok(Command::NetworkCreate(NetworkCreate {
        tenant: TenantName::new("bench")?,
        network: format!("n{number}").parse()?,
        subnet: subnet.parse()?,
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
}

/// A stream like LOG, to which it writes as netmaster does.
struct OwnLog {
    client: Client,
    last: [u64; BATCH_MESSAGES],
    batches: u64,
}

impl OwnLog {
    async fn create(lab: &Lab, replicas: usize) -> anyhow::Result<Self> {
        let client = connect(&lab.nats_url(), 0).await?;
        let context = jetstream::new(client.clone());
        let real = context.get_stream(subject::LOG).await?;
        let config = Config {
            name: "OWN".to_owned(),
            subjects: vec!["own.>".to_owned()],
            num_replicas: replicas,
            republish: None,
            ..real.cached_info().config.clone()
        };
        context.create_stream(config).await?;
        Ok(Self {
            client,
            last: [0; BATCH_MESSAGES],
            batches: 0,
        })
    }

    async fn append(&mut self) -> anyhow::Result<()> {
        self.batches += 1;
        let batch = self.batches.to_string();
        let mut reply = None;
        for number in 0..BATCH_MESSAGES {
            let mut headers = HeaderMap::new();
            let last = self.last[number].to_string();
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last);
            let filter = format!("own.{number}.>");
            headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", filter);
            headers.insert(header::NATS_BATCH_ID, batch.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, (number + 1).to_string());
            let to = format!("own.{number}.{batch}");
            let payload = vec![0; EVENT_BYTES].into();
            if number + 1 < BATCH_MESSAGES {
                self.client
                    .publish_with_headers(to, headers, payload)
                    .await?;
            } else {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                let sent = self.client.request_with_headers(to, headers, payload);
                reply = Some(sent.await?);
            }
        }
        let reply = reply.context("an empty batch")?;
        let ack: serde_json::Value = serde_json::from_slice(&reply.payload)?;
        let end = ack["seq"].as_u64();
        let end = end.with_context(|| format!("not appended: {ack}"))?;
        for (number, last) in (1..).zip(&mut self.last) {
            *last = end - BATCH_MESSAGES as u64 + number;
        }
        Ok(())
    }
}

/// Measures one added or removed rule, in a policy with members on both nodes, from the log to both kernels.
fn to_the_kernels(runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "net", "20.1.1.0/24")?;
    let bus = runtime.block_on(Bus::connect(&lab.nats_url()))?;
    runtime.block_on(intent(&bus))?;
    for node in ["node-1", "node-2"] {
        lab.run_workload_with(node, "net", &format!("web-{node}"), &["--group", "web"])?;
    }
    invariant::converged(&lab)?;
    let nodes: Vec<NodeName> = lab
        .nodes()
        .into_iter()
        .map(NodeName::new)
        .collect::<Result<_, _>>()?;
    let mut took = Vec::new();
    for number in 0..CHANGE_COUNT {
        for command in change(number)? {
            took.push(runtime.block_on(applied(&bus, command, &nodes))?);
        }
    }
    println!(
        "a rule, from the log to the kernels of {} nodes: median {:.1} ms, p99 {:.1} ms of {}",
        nodes.len(),
        median(&took),
        quantile(&took, 0.99),
        took.len()
    );
    Ok(())
}

async fn intent(bus: &Bus) -> anyhow::Result<()> {
    let tenant = TenantName::default_tenant();
    let policy = PolicyName::new("web")?;
    let created = PolicyCreate {
        tenant: tenant.clone(),
        policy: policy.clone(),
    };
    bus.command(Command::PolicyCreate(created)).await?;
    let group = GroupCreate {
        tenant,
        network: "net".parse()?,
        group: GroupName::new("web")?,
        policies: vec![policy],
        ip_pool: None,
        docker_name: None,
    };
    bus.command(Command::GroupCreate(group)).await.map(drop)
}

fn change(number: usize) -> anyhow::Result<[Command; 2]> {
    let (tenant, policy) = (TenantName::default_tenant(), PolicyName::new("web")?);
    let rule = RuleId::new(format!("r{number}"))?;
    let spec = RuleSpec {
        direction: Direction::In,
        priority: Priority::DEFAULT,
        action: Action::Deny,
        protocol: Some(Protocol::TCP),
        ports: vec![PortRange {
            first: 8_000,
            last: 8_000,
        }],
        peer: None,
    };
    let add = RuleAdd {
        tenant: tenant.clone(),
        policy: policy.clone(),
        rule: rule.clone(),
        spec,
        immediate: false,
    };
    let remove = RuleRemove {
        tenant,
        policy,
        rule,
        immediate: false,
    };
    Ok([Command::RuleAdd(add), Command::RuleRemove(remove)])
}

/// The milliseconds from the event's arrival in the log until the last node reports it in its kernel.
async fn applied(bus: &Bus, command: Command, nodes: &[NodeName]) -> anyhow::Result<f64> {
    let revision = bus.command(command).await?;
    let context = jetstream::new(bus.client().clone());
    let stream = context.get_stream(subject::LOG).await?;
    let message = stream.get_raw_message(revision.0).await?;
    let stored = message.time.unix_timestamp_nanos() / 1_000;
    let mut last = 0;
    for node in nodes {
        last = last.max(i128::from(step(bus, node, revision).await?));
    }
    Ok((last - stored) as f64 / 1e3)
}

async fn step(bus: &Bus, node: &NodeName, revision: Revision) -> anyhow::Result<u64> {
    let request = NodeRequest::Steps {
        revisions: vec![revision],
    };
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let NodeReply::Steps(told) = bus.ask(node, &request).await? else {
            anyhow::bail!("{node} answers something else");
        };
        if let Some(applied) = told.steps.first().and_then(|it| it.applied) {
            return Ok(applied);
        }
        tokio::task::yield_now().await;
    }
    anyhow::bail!("{node} never applied revision {revision}")
}
