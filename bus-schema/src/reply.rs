//! The answers of netmaster.

use serde::{Deserialize, Serialize};

use crate::query::{ClusterInfo, GroupInfo, NetworkInfo, NodeInfo, PolicyInfo, TenantInfo, Waited};
use crate::{CommandId, Endpoint, Event, Rejection, Revision};

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// Done, or done before, with the events that it wrote; none if there was nothing to change.
    Accepted {
        revision: Revision,
        events: Vec<Event>,
    },
    Rejected {
        rejection: Rejection,
        /// The decision rests on the log up to here.
        revision: Revision,
        /// The rejection's text, for a reader that doesn't know its type. Absent: an older build
        /// wrote it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// The log couldn't be read, or didn't answer in time: the command may have happened or may
    /// happen yet. The same id again gets the outcome.
    Unknown { id: CommandId, reason: String },
}

impl Reply {
    pub fn rejected(rejection: Rejection, revision: Revision) -> Self {
        Self::Rejected {
            text: Some(rejection.to_string()),
            rejection,
            revision,
        }
    }
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Answer {
    Cluster {
        revision: Revision,
        cluster: ClusterInfo,
    },
    Tenants {
        revision: Revision,
        tenants: Vec<TenantInfo>,
    },
    Networks {
        revision: Revision,
        networks: Vec<NetworkInfo>,
    },
    Groups {
        revision: Revision,
        groups: Vec<GroupInfo>,
    },
    Policies {
        revision: Revision,
        policies: Vec<PolicyInfo>,
    },
    Nodes {
        revision: Revision,
        nodes: Vec<NodeInfo>,
    },
    Endpoints {
        revision: Revision,
        endpoints: Vec<Endpoint>,
    },
    Waited {
        revision: Revision,
        waited: Waited,
    },
    Rejected {
        rejection: Rejection,
        revision: Revision,
        /// As in [`Reply::Rejected`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// This netmaster hasn't reached the revision that the client has seen.
    Behind {
        revision: Revision,
        reason: String,
    },
}

impl Answer {
    pub fn rejected(rejection: Rejection, revision: Revision) -> Self {
        Self::Rejected {
            text: Some(rejection.to_string()),
            rejection,
            revision,
        }
    }
}
