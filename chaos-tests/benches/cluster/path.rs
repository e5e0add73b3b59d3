//! The datapath between containers on two hosts, compared with the same path built by hand with `ip` and one
//! conntrack rule in each domain, and with Docker's own overlay.

use std::time::Duration;

use chaos_tests::create;
use lab::{IMAGE, Lab, Spec, wait_until};

use crate::{me, median};

const ROUND_COUNT: usize = 7;
const RUN_MS: &str = "1000";
/// The measurements with their units.
const MEASUREMENTS: [(&str, &str); 2] = [("stream", "Gbit/s"), ("connect", "connections/s")];

/// The two ends of a measurement.
struct Way {
    label: &'static str,
    /// The commands that enter the client's namespace on node-1, and the server's on node-2.
    client: Vec<String>,
    server: Vec<String>,
    address: String,
}

pub(crate) fn measure() -> anyhow::Result<()> {
    let mut lab = Lab::up(&Spec::test(2).docker(true))?;
    create(&lab, "net", "20.1.1.0/24")?;
    lab.run_workload("node-1", "net", "web")?;
    let db = lab.run_workload("node-2", "net", "db")?;
    let inside = |netns: &str| ["ip", "netns", "exec", netns].map(str::to_owned).to_vec();
    let mut ways = vec![
        Way {
            label: "contiv",
            client: inside("w-web"),
            server: inside("w-db"),
            address: db.address.to_string(),
        },
        Way {
            label: "by hand",
            client: inside("hand"),
            server: inside("hand"),
            address: "10.77.2.2".to_owned(),
        },
    ];
    by_hand(&lab)?;
    ways.push(overlay(&lab)?);
    for way in &ways {
        serve(&lab, way)?;
    }
    compare(&lab, &ways)
}

fn compare(lab: &Lab, ways: &[Way]) -> anyhow::Result<()> {
    for (what, unit) in MEASUREMENTS {
        let mut figures: Vec<Vec<f64>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUND_COUNT {
            for (way, figures) in ways.iter().zip(&mut figures) {
                let figure = ask(lab, way, what, RUN_MS)?.map_err(anyhow::Error::msg)?;
                figures.push(figure);
            }
        }
        let ours = median(&figures[0]);
        for (way, figures) in ways.iter().zip(&figures) {
            let theirs = median(figures);
            println!(
                "{:>10}: {theirs:.2} {unit}, median of {ROUND_COUNT}; contiv to it: {:.2}",
                way.label,
                ours / theirs
            );
        }
    }
    Ok(())
}

fn serve(lab: &Lab, way: &Way) -> anyhow::Result<()> {
    let enter = way.server.join(" ");
    let script = format!("{enter} {} serve </dev/null >/dev/null 2>&1 &", me()?);
    lab.run("node-2", &["sh", "-c", &script])?;
    let what = format!("the server answers: {}", way.label);
    wait_until(&what, Duration::from_secs(20), || {
        ask(lab, way, "connect", "10").is_ok_and(|it| it.is_ok_and(|rate| rate > 0.0))
    })?;
    Ok(())
}

/// The figure, or the client's error text.
fn ask(lab: &Lab, way: &Way, what: &str, each: &str) -> anyhow::Result<Result<f64, String>> {
    let me = me()?;
    let mut argv: Vec<&str> = way.client.iter().map(String::as_str).collect();
    argv.extend([&me, what, &way.address, each]);
    let told = lab.exec("node-1", &argv)?;
    let figure = told.stdout.trim().parse();
    Ok(figure.map_err(|_| format!("{}, {what}: {}", way.label, told.text())))
}

/// Sets up on both nodes: a container, a domain that routes, VXLAN in it, and one rule of conntrack.
fn by_hand(lab: &Lab) -> anyhow::Result<()> {
    let addresses = [lab.address("node-1")?, lab.address("node-2")?];
    for (at, node) in ["node-1", "node-2"].into_iter().enumerate() {
        let (here, there) = (addresses[at], addresses[1 - at]);
        let (me, other) = (at + 1, 2 - at);
        let script = format!(
            "set -e
for n in hand hand-domain; do ip netns add $n; ip -n $n link set lo up; done
ip link add vx77 type vxlan id 77 dstport 15999 local {here} nolearning
ip link set vx77 netns hand-domain
ip -n hand-domain link set vx77 address 02:77:00:00:00:0{me} mtu 1450 up
ip -n hand-domain link add v77 mtu 1450 address 02:77:00:00:01:00 type veth peer name eth0 mtu 1450 address 02:77:00:00:02:00 netns hand
ip -n hand-domain address add 10.77.{me}.1/24 dev v77
ip -n hand-domain link set v77 up
ip -n hand address add 10.77.{me}.2/24 dev eth0
ip -n hand link set eth0 up
ip -n hand route add default via 10.77.{me}.1
ip -n hand neigh replace 10.77.{me}.1 lladdr 02:77:00:00:01:00 dev eth0 nud permanent
ip -n hand-domain neigh replace 10.77.{me}.2 lladdr 02:77:00:00:02:00 dev v77 nud permanent
ip -n hand-domain neigh add 169.254.77.{other} lladdr 02:77:00:00:00:0{other} dev vx77 nud permanent
bridge -n hand-domain fdb append 02:77:00:00:00:0{other} dev vx77 dst {there} self permanent
ip -n hand-domain route add 10.77.{other}.0/24 via 169.254.77.{other} dev vx77 onlink
ip netns exec hand-domain sysctl -qw net.ipv4.ip_forward=1
ip netns exec hand-domain nft -f - <<'END'
table inet hand {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established accept
  }}
}}
END"
        );
        lab.run(node, &["sh", "-c", &script])?;
    }
    Ok(())
}

/// Starts a container on each node in an attachable overlay network of Docker's own swarm.
fn overlay(lab: &Lab) -> anyhow::Result<Way> {
    lab.start_swarm()?;
    let network = [
        "docker",
        "network",
        "create",
        "-d",
        "overlay",
        "--attachable",
        "ov",
    ];
    lab.run("node-1", &network)?;
    let mut entries = Vec::new();
    for node in ["node-1", "node-2"] {
        lab.import_image(node)?;
        let name = format!("--name=ov-{node}");
        let run = [
            "docker", "run", "-d", &name, "--net=ov", IMAGE, "sleep", "100000",
        ];
        lab.run(node, &run)?;
        let of = |what: &str| -> anyhow::Result<String> {
            let name = format!("ov-{node}");
            let told = lab.run(node, &["docker", "inspect", "-f", what, &name])?;
            Ok(told.stdout.trim().to_owned())
        };
        let address = of("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        let enter = ["nsenter", "-t", &of("{{.State.Pid}}")?, "-n"].map(str::to_owned);
        entries.push((enter.to_vec(), address));
    }
    let [(client, _), (server, address)] =
        <[_; 2]>::try_from(entries).map_err(|_| anyhow::anyhow!("two containers"))?;
    Ok(Way {
        label: "overlay",
        client,
        server,
        address,
    })
}
