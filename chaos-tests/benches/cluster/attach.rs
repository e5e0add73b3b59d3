//! The time of an attach: CNI ADD alone on nodes with few and many endpoints, and `docker run` on our
//! network compared with Docker's bridges and with no network. The engine answers names only in
//! user-defined networks, and sets each container up for that: here in a bridge of that kind, and in ours.

use chaos_tests::create;
use chaos_tests::figures::quantile;
use lab::{IMAGE, Lab, Spec};

use crate::{me, median};

/// The number of endpoints on the node, including the added one.
const ENDPOINT_COUNTS: [u32; 3] = [1, 100, 500];
const ADD_COUNT: u32 = 40;
const RUN_COUNT: usize = 11;
const NETWORKS: [&str; 4] = ["contiv-net", "bridge", USER_BRIDGE, "none"];
/// A user-defined bridge.
const USER_BRIDGE: &str = "made-bridge";

pub(crate) fn measure() -> anyhow::Result<()> {
    cni()?;
    docker()
}

fn cni() -> anyhow::Result<()> {
    let lab = Lab::up(&Spec::test(1))?;
    create(&lab, "net", "20.1.0.0/16")?;
    let me = me()?;
    println!("CNI ADD, ms, of {ADD_COUNT}; VERSION asks nobody: what starting the program costs");
    println!(
        "{:>12}{:>10}{:>10}{:>10}{:>18}",
        "endpoints", "median", "p99", "VERSION", "less VERSION"
    );
    let (mut there, mut first) = (0, None);
    for size in ENDPOINT_COUNTS {
        let (from, to) = (there.to_string(), (size - 1).to_string());
        lab.run("node-1", &[&me, "probe", "fill", "net", &from, &to])?;
        there = size - 1;
        let adds = ADD_COUNT.to_string();
        let told = lab.run("node-1", &[&me, "probe", "cni", "net", "0", &adds])?;
        let (mut took, mut started) = (Vec::new(), Vec::new());
        for line in told.stdout.lines() {
            let figures: Vec<f64> = line.split(' ').filter_map(|it| it.parse().ok()).collect();
            anyhow::ensure!(figures.len() == 2, "{line}");
            took.push(figures[0]);
            started.push(figures[1]);
        }
        let (add, version) = (median(&took), median(&started));
        let first = *first.get_or_insert(add);
        println!(
            "{size:>12}{add:>10.1}{:>10.1}{version:>10.1}{:>18.1}{:>8.2}",
            quantile(&took, 0.99),
            add - version,
            add / first
        );
    }
    Ok(())
}

fn docker() -> anyhow::Result<()> {
    let lab = Lab::up(&Spec::test(1).docker(true).docker_bridge(true))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.import_image("node-1")?;
    lab.run("node-1", &["docker", "network", "create", USER_BRIDGE])?;
    let me = me()?;
    let run = |network: &str| -> anyhow::Result<f64> {
        let net = format!("--net={network}");
        let argv = [&me, "probe", "docker", "run", "--rm", &net, IMAGE, "true"];
        Ok(lab.run("node-1", &argv)?.stdout.trim().parse()?)
    };
    for network in NETWORKS {
        run(network)?;
    }
    let mut figures = NETWORKS.map(|_| Vec::new());
    for _ in 0..RUN_COUNT {
        for (network, figures) in NETWORKS.into_iter().zip(&mut figures) {
            figures.push(run(network)?);
        }
    }
    let [contiv, bridge, made, _] = figures.each_ref().map(|it| median(it));
    for (network, figures) in NETWORKS.into_iter().zip(&figures) {
        let median = median(figures);
        println!("docker run --rm --net={network} true: median {median:.0} ms of {RUN_COUNT}");
    }
    println!(
        "contiv-net to bridge: {:.2}, to {USER_BRIDGE}: {:.2}",
        contiv / bridge,
        contiv / made
    );
    Ok(())
}
