use serde::{Deserialize, Serialize};

use crate::Vni;

/// Goes on with the log as it is, although nodes have applied more than it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccept {}

/// Changes settings of the cluster; absent ones stay. Networks that exist keep their packet tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSet {
    /// The first and the last packet tag of new networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni_range: Option<(Vni, Vni)>,
}
