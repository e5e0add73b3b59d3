//! The usual start of a scenario: two nodes, one network, one workload on each.

use std::time::Duration;

use lab::{Error, Lab, Spec, Workload};

/// The result of a scenario. The lab's errors name the awaited condition and contain logs.
pub type Outcome = Result<(), Error>;

/// Timeout of a wait; on a busy machine everything takes less.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Two nodes with `web` on node-1 and `db` on node-2, both in `contiv-net`.
#[derive(Debug)]
pub struct Scene {
    pub lab: Lab,
    pub web: Workload,
    pub db: Workload,
}

/// Two nodes without workloads and networks.
pub fn two_nodes() -> Result<Lab, Error> {
    Lab::up(&Spec::test(2))
}

impl Scene {
    pub fn open() -> Result<Self, Error> {
        Self::of(&Spec::test(2))
    }

    /// Creates the scene in a lab of two nodes with this spec.
    pub fn of(spec: &Spec) -> Result<Self, Error> {
        let mut lab = Lab::up(spec)?;
        create(&lab, "contiv-net", "20.1.1.0/24")?;
        let web = lab.run_workload("node-1", "contiv-net", "web")?;
        let db = lab.run_workload("node-2", "contiv-net", "db")?;
        Ok(Self { lab, web, db })
    }

    /// Whether the workloads can ping each other by address.
    pub fn pings_both_ways(&self) -> Result<bool, Error> {
        let there = self.lab.ping("web", &self.db.address.to_string())?;
        let back = self.lab.ping("db", &self.web.address.to_string())?;
        Ok(there && back)
    }
}

/// Creates a network of tenant `default`.
pub fn create(lab: &Lab, network: &str, subnet: &str) -> Result<(), Error> {
    let subnet = format!("--subnet={subnet}");
    lab.netctl_ok(&["net", "create", network, &subnet])
        .map(drop)
}

/// Whether a script succeeds on a node.
pub fn sh(lab: &Lab, node: &str, script: &str) -> bool {
    let output = lab.exec(node, &["sh", "-c", script]);
    output.is_ok_and(|output| output.success())
}
