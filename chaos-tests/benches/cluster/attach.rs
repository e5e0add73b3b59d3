//! What attaching costs: CNI ADD alone where few and many endpoints are, and `docker run` on a network
//! of ours against Docker's own bridges and none. Only in networks that somebody made the engine
//! answers names, for which it sets up each container: so in a bridge of that kind, and in ours.

use chaos_tests::create;
use chaos_tests::figures::quantile;
use lab::{IMAGE, Lab, Spec};

use crate::{me, median};

/// Endpoints on the node, that which is added included.
const SIZES: [u32; 3] = [1, 100, 500];
const ADDS: u32 = 40;
const RUNS: usize = 11;
const NETWORKS: [&str; 4] = ["contiv-net", "bridge", MADE, "none"];
/// A bridge that somebody made.
const MADE: &str = "made-bridge";

pub(crate) fn measure() -> anyhow::Result<()> {
    cni()?;
    docker()
}

fn cni() -> anyhow::Result<()> {
    let lab = Lab::up(&Spec::test(1))?;
    create(&lab, "net", "20.1.0.0/16")?;
    let me = me()?;
    println!("CNI ADD, ms, of {ADDS}; VERSION asks nobody: what starting the program costs");
    println!(
        "{:>12}{:>10}{:>10}{:>10}{:>18}",
        "endpoints", "median", "p99", "VERSION", "less VERSION"
    );
    let (mut there, mut first) = (0, None);
    for size in SIZES {
        let (from, to) = (there.to_string(), (size - 1).to_string());
        lab.run("node-1", &[&me, "probe", "fill", "net", &from, &to])?;
        there = size - 1;
        let adds = ADDS.to_string();
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
    lab.run("node-1", &["docker", "network", "create", MADE])?;
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
    for _ in 0..RUNS {
        for (network, figures) in NETWORKS.into_iter().zip(&mut figures) {
            figures.push(run(network)?);
        }
    }
    let [contiv, bridge, made, _] = figures.each_ref().map(|it| median(it));
    for (network, figures) in NETWORKS.into_iter().zip(&figures) {
        let median = median(figures);
        println!("docker run --rm --net={network} true: median {median:.0} ms of {RUNS}");
    }
    println!(
        "contiv-net to bridge: {:.2}, to {MADE}: {:.2}",
        contiv / bridge,
        contiv / made
    );
    Ok(())
}
