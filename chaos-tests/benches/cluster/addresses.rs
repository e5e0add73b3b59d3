//! The time of an attach that must ask other nodes for an address: every block of the network has a
//! holder, and each attach on the last node gets one address that another node cedes. With one holder that
//! doesn't answer, only the first attach after its silence counts.

use std::time::Duration;

use chaos_tests::create;
use chaos_tests::figures::quantile;
use lab::{Lab, Spec, wait_until};

use crate::{me, median};

const NODE_COUNT: u8 = 4;
/// /23 has sixteen blocks of 32 addresses.
const SUBNET: &str = "20.1.0.0/23";
const BLOCK_COUNT: u8 = 16;
const BLOCK_SIZE: u16 = 32;
const ASKING_ROUNDS: u32 = 100;
const SILENT_ROUNDS: u32 = 10;
const ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn measure() -> anyhow::Result<()> {
    let mut lab = Lab::up(&Spec::test(NODE_COUNT))?;
    create(&lab, "net", SUBNET)?;
    hold_all_blocks(&mut lab)?;
    let own = add(&lab, "node-1", 0..ASKING_ROUNDS)?;
    let asking = add(&lab, "node-4", ASKING_ROUNDS..2 * ASKING_ROUNDS)?;
    let mut silent = Vec::new();
    for round in 0..SILENT_ROUNDS {
        let number = 2 * ASKING_ROUNDS + round;
        lab.pause("netplugin@node-3")?;
        silent.extend(add(&lab, "node-4", number..number + 1)?);
        lab.resume("netplugin@node-3")?;
        wait_until("all nodes are alive", ALIVE_TIMEOUT, || {
            let nodes = lab.netctl_ok(&["node", "ls"]).unwrap_or_default();
            let alive = nodes.lines().filter(|it| it.contains("alive")).count();
            alive == usize::from(NODE_COUNT)
        })?;
    }
    println!("CNI ADD with {NODE_COUNT} nodes, ms");
    println!("{:>44}{:>10}{:>10}{:>10}", "", "median", "p99", "max");
    for (what, figures) in [
        ("from the node's own block", own),
        ("an address of another holder (aim: p99 500)", asking),
        ("one of three holders silent (aim: max 3000)", silent),
    ] {
        println!(
            "{what:>44}{:>10.1}{:>10.1}{:>10.1}",
            median(&figures),
            quantile(&figures, 0.99),
            quantile(&figures, 1.0)
        );
    }
    Ok(())
}

/// Lets nodes 1 to 3 lease all blocks, with one endpoint in each.
fn hold_all_blocks(lab: &mut Lab) -> anyhow::Result<()> {
    for block in 0..BLOCK_COUNT {
        let node = format!("node-{}", 1 + block % (NODE_COUNT - 1));
        let offset = u16::from(block) * BLOCK_SIZE + 10;
        let address = format!("20.1.{}.{}", offset / 256, offset % 256);
        let name = format!("w{block}");
        lab.run_workload_with(&node, "net", &name, &["--ip", &address])?;
    }
    Ok(())
}

fn add(lab: &Lab, node: &str, numbers: std::ops::Range<u32>) -> anyhow::Result<Vec<f64>> {
    let (from, to) = (numbers.start.to_string(), numbers.end.to_string());
    let told = lab.run(node, &[&me()?, "probe", "fill", "net", &from, &to])?;
    let figures = told.stdout.lines().map(|line| Ok(line.parse()?));
    figures.collect()
}
