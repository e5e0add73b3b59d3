//! The status of a node's netplugin.

use crate::lab::Lab;
use crate::{Error, Result};

impl Lab {
    /// The output of `netplugin status` on the node.
    pub fn status(&self, node: &str) -> Result<serde_json::Value> {
        let text = self.run(node, &["netplugin", "status"])?.stdout;
        serde_json::from_str(&text).map_err(|source| Error::Answer {
            program: "netplugin status",
            text,
            source,
        })
    }

    /// The state of the node's log: `in-sync`, `disconnected`, `foreign`, `refused`…
    pub fn log_state(&self, node: &str) -> Result<String> {
        let status = self.status(node)?;
        Ok(status["log"]["type"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// The kind of the node's domains: `vrf` or `netns`.
    pub fn domain(&self, node: &str) -> Result<String> {
        let status = self.status(node)?;
        Ok(status["domain"].as_str().unwrap_or_default().to_owned())
    }

    /// The codes of the node's alarms.
    pub fn alarms(&self, node: &str) -> Result<Vec<String>> {
        let status = self.status(node)?;
        let alarms = status["alarms"].as_array().cloned().unwrap_or_default();
        let code = |alarm: &serde_json::Value| alarm["code"].as_str().map(str::to_owned);
        Ok(alarms.iter().filter_map(code).collect())
    }
}
