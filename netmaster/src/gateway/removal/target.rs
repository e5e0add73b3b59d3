//! The target of a removal: its commands, its state and its rejections.

use std::fmt;

use actors::shell::External;
use bus_schema::command::{GroupRemove, NetworkRemove, Removal};
use bus_schema::node::NodeRequest;
use bus_schema::rejection::EndpointUse;
use bus_schema::{
    Command, CommandId, GroupName, NetworkName, NodeName, Rejection, Revision, TenantName,
};

use crate::process;
use crate::view::View;

#[derive(Debug, Clone)]
pub(in super::super) enum Target {
    Network(TenantName, NetworkName),
    Group(TenantName, GroupName),
}

/// The state of a removal.
pub(super) enum RemovalState {
    /// It is gone, as of this revision of the view.
    Gone(Revision),
    /// It isn't being removed any more.
    Open,
    /// These nodes may have endpoints, and haven't answered yet.
    Unasked(Vec<NodeName>),
    /// These nodes hold blocks.
    Held(Vec<NodeName>),
    /// Nothing prevents it: this command finishes it.
    Free(Box<Finish>),
}

/// A command that finishes a removal, and the facts that come with it.
pub(super) struct Finish {
    pub(super) id: CommandId,
    pub(super) command: Command,
    pub(super) external: External,
}

impl Target {
    pub(super) fn is_group(&self) -> bool {
        matches!(self, Self::Group(..))
    }

    pub(super) fn command(&self, mode: Removal) -> Command {
        match self.clone() {
            Self::Network(tenant, network) => Command::NetworkRemove(NetworkRemove {
                tenant,
                network,
                mode,
            }),
            Self::Group(tenant, group) => Command::GroupRemove(GroupRemove {
                tenant,
                group,
                mode,
            }),
        }
    }

    pub(super) fn drain(&self, revision: Revision) -> NodeRequest {
        match self.clone() {
            Self::Network(tenant, network) => NodeRequest::Drain {
                tenant,
                network,
                revision,
            },
            Self::Group(tenant, group) => NodeRequest::DrainGroup {
                tenant,
                group,
                revision,
            },
        }
    }

    pub(super) fn in_use(&self, endpoints: Vec<EndpointUse>) -> Rejection {
        match self.clone() {
            Self::Network(tenant, network) => Rejection::NetworkInUse {
                tenant,
                network,
                endpoints,
            },
            Self::Group(tenant, group) => Rejection::GroupInUse {
                tenant,
                group,
                endpoints,
            },
        }
    }

    pub(super) fn held(&self, nodes: Vec<NodeName>) -> Rejection {
        match self.clone() {
            Self::Network(tenant, network) => Rejection::NetworkHeld {
                tenant,
                network,
                nodes,
            },
            Self::Group(tenant, group) => Rejection::GroupHeld {
                tenant,
                group,
                nodes,
            },
        }
    }

    pub(super) fn users(&self, view: &View) -> Vec<EndpointUse> {
        match self {
            Self::Network(tenant, network) => view.users(tenant, network),
            Self::Group(tenant, group) => view.members(tenant, group),
        }
    }

    /// The revision at which it was closed last, and the number of this closing of a group.
    pub(super) fn closing(&self, view: &View) -> Option<(Revision, u32)> {
        match self {
            Self::Network(tenant, network) => {
                let closing = view.network(tenant, network)?.closing?;
                Some((closing, 0))
            }
            Self::Group(tenant, group) => {
                let group = view.group(tenant, group)?;
                Some((group.closing?, group.closings))
            }
        }
    }

    /// The state by `view` of the target that existed at `revision`: one of the same name that was created
    /// since is another one. `drained`: the closing of a group that all nodes answered.
    pub(super) fn state(
        &self,
        view: &View,
        revision: Revision,
        drained: Option<u32>,
    ) -> RemovalState {
        match self {
            Self::Network(tenant, network) => {
                let network = view.network(tenant, network);
                let Some(network) = network.filter(|n| n.created <= revision) else {
                    return RemovalState::Gone(view.applied);
                };
                let (Some(_), Some(cluster)) = (network.closing, view.cluster) else {
                    return RemovalState::Open;
                };
                match process::finish(cluster, network) {
                    None => RemovalState::Held(network.holders(None)),
                    Some((id, command)) => RemovalState::Free(Box::new(Finish {
                        id,
                        command,
                        external: External::default(),
                    })),
                }
            }
            Self::Group(tenant, group) => {
                let group = view.group(tenant, group);
                let Some(group) = group.filter(|g| g.created <= revision) else {
                    return RemovalState::Gone(view.applied);
                };
                let (Some(closing), Some(cluster)) = (group.closing, view.cluster) else {
                    return RemovalState::Open;
                };
                if drained != Some(group.closings) && !view.nodes.is_empty() {
                    return RemovalState::Unasked(view.nodes.keys().cloned().collect());
                }
                let network = view.network(&group.spec.tenant, &group.spec.network);
                let holders = network.map_or(vec![], |it| it.holders(Some(&group.spec.name)));
                if !holders.is_empty() {
                    return RemovalState::Held(holders);
                }
                let step = format!("finish group {self} closing at {closing}");
                RemovalState::Free(Box::new(Finish {
                    id: CommandId::derive(cluster.0, &step),
                    command: self.command(Removal::Finish),
                    external: External {
                        drained: Some(group.closings),
                        ..External::default()
                    },
                }))
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(tenant, network) => write!(f, "network {tenant}/{network}"),
            Self::Group(tenant, group) => write!(f, "group {tenant}/{group}"),
        }
    }
}
