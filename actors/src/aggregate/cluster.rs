//! The facts that span tenants: the tenants themselves, nodes, packet tags, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::command::{
    ClusterSet, LogAccept, NodeDrain, NodeJoin, NodeLeave, NodeRemove, NodeUncordon,
};
use bus_schema::event::{
    ClusterChanged, LogAccepted, NodeDrained, NodeJoined, NodeLeft, NodeRemoved, NodeUncordoned,
    Settings,
};
use bus_schema::{
    ClusterId, Event, MachineId, NetworkName, NodeName, Rejection, Revision, TenantName, Vni,
};

use super::Aggregate;

/// The fold of `contiv.log._cluster.>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// Absent until `netmaster init` wrote the log's first event.
    pub id: Option<ClusterId>,
    pub settings: Settings,
    pub tenants: BTreeSet<TenantName>,
    pub nodes: BTreeMap<NodeName, Member>,
    pub vnis: BTreeMap<Vni, (TenantName, NetworkName)>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// It takes no new endpoints (`netctl node drain`).
    pub drained: bool,
    /// How often it was drained.
    pub drains: u32,
    /// It takes no new endpoints and has withdrawn its names (`netplugin leave`).
    pub left: bool,
}

#[derive(Debug, Clone)]
pub enum ClusterCommand {
    Set(ClusterSet),
    LogAccept(LogAccept),
    NodeJoin(NodeJoin),
    NodeRemove(NodeRemove),
    NodeDrain(NodeDrain),
    NodeUncordon(NodeUncordon),
    NodeLeave(NodeLeave),
}

/// The facts on which removing a node and accepting a log depend. They come from netmaster's view
/// and may lag; the reaction to the node's removal revokes a block that was leased meanwhile.
#[derive(Debug, Clone, Default)]
pub struct ClusterFacts {
    /// The node that the command is about has published its status a moment ago.
    pub alive: bool,
    /// Networks of which that node holds blocks.
    pub holds: Vec<NetworkName>,
    /// That node answered that it has neither endpoints nor blocks since it was drained for this
    /// time ([`Member::drains`]).
    pub emptied: Option<u32>,
    /// The log's last revision.
    pub end: Revision,
    /// The nodes that have applied more, and how far.
    pub ahead: BTreeMap<NodeName, Revision>,
}

impl Cluster {
    /// The tag that a new network asks for, or the lowest free one.
    pub(super) fn free_vni(&self, asked: Option<Vni>) -> Result<Vni, Rejection> {
        let (first, last) = self.settings.vni_range;
        if let Some(vni) = asked {
            if !vni.is_valid() {
                return Err(Rejection::VniOutOfRange { vni });
            }
            if !(first..=last).contains(&vni) {
                return Err(Rejection::VniOutsideRange { vni, first, last });
            }
            return match self.vnis.get(&vni) {
                None => Ok(vni),
                Some((tenant, network)) => Err(Rejection::VniInUse {
                    vni,
                    tenant: tenant.clone(),
                    network: network.clone(),
                }),
            };
        }
        let mut taken = self.vnis.range(first..=last);
        (first.0..=last.0)
            .map(Vni)
            .find(|vni| taken.next().is_none_or(|(next, _)| next != vni))
            .ok_or(Rejection::VniExhausted { first, last })
    }

    fn set(&self, c: ClusterSet) -> Result<Vec<Event>, Rejection> {
        let vni_range = c.vni_range.unwrap_or(self.settings.vni_range);
        let (first, last) = vni_range;
        if !first.is_valid() || !last.is_valid() || last < first {
            return Err(Rejection::VniRangeInvalid { first, last });
        }
        let settings = Settings {
            vni_range,
            ..self.settings.clone()
        };
        Ok(match settings == self.settings {
            true => vec![],
            false => vec![Event::ClusterChanged(ClusterChanged { settings })],
        })
    }

    fn join(&self, c: &NodeJoin) -> Result<Vec<Event>, Rejection> {
        if c.machine.0.trim().is_empty() {
            return Err(Rejection::MachineIdEmpty);
        }
        if c.vtep.is_unspecified() || c.vtep.is_multicast() || c.vtep.is_loopback() {
            return Err(Rejection::VtepUnusable { vtep: c.vtep });
        }
        if let Some(member) = self.nodes.get(&c.node) {
            if member.machine != c.machine {
                let node = c.node.clone();
                return Err(Rejection::NodeNameTaken { node });
            }
            if member.vtep == c.vtep && !member.left {
                return Ok(vec![]);
            }
        }
        let same_vtep =
            |(name, member): &(&NodeName, &Member)| member.vtep == c.vtep && **name != c.node;
        if let Some((node, _)) = self.nodes.iter().find(same_vtep) {
            return Err(Rejection::VtepTaken {
                vtep: c.vtep,
                node: node.clone(),
            });
        }
        Ok(vec![Event::NodeJoined(NodeJoined {
            node: c.node.clone(),
            machine: c.machine.clone(),
            vtep: c.vtep,
        })])
    }

    fn member(&self, node: &NodeName) -> Result<&Member, Rejection> {
        let unknown = || Rejection::NodeUnknown { node: node.clone() };
        self.nodes.get(node).ok_or_else(unknown)
    }

    fn drain(&self, c: &NodeDrain) -> Result<Vec<Event>, Rejection> {
        let node = c.node.clone();
        Ok(match self.member(&c.node)?.drained {
            true => vec![],
            false => vec![Event::NodeDrained(NodeDrained { node })],
        })
    }

    fn uncordon(&self, c: &NodeUncordon) -> Result<Vec<Event>, Rejection> {
        let node = c.node.clone();
        Ok(match self.member(&c.node)?.drained {
            true => vec![Event::NodeUncordoned(NodeUncordoned { node })],
            false => vec![],
        })
    }

    fn leave(&self, c: &NodeLeave) -> Result<Vec<Event>, Rejection> {
        let node = c.node.clone();
        let member = self.member(&c.node)?;
        if member.machine != c.machine {
            return Err(Rejection::NodeNameTaken { node });
        }
        Ok(match member.left {
            true => vec![],
            false => vec![Event::NodeLeft(NodeLeft { node })],
        })
    }

    fn change(&mut self, node: &NodeName, how: impl FnOnce(&mut Member)) {
        if let Some(member) = self.nodes.get_mut(node) {
            how(member);
        }
    }

    fn remove(&self, c: &NodeRemove, facts: &ClusterFacts) -> Result<Vec<Event>, Rejection> {
        let node = c.node.clone();
        let member = self.member(&c.node)?;
        match facts.alive {
            true if c.lost => return Err(Rejection::NodeAlive { node }),
            true => member.must_be_empty(node.clone(), facts.emptied)?,
            false if !c.lost && !facts.holds.is_empty() => {
                let networks = facts.holds.clone();
                return Err(Rejection::NodeInUse { node, networks });
            }
            false => {}
        }
        Ok(vec![Event::NodeRemoved(NodeRemoved { node, lost: c.lost })])
    }
}

impl Member {
    /// Checks that a live node is empty: it may attach endpoints unless it is drained. `emptied`: see
    /// [`ClusterFacts`].
    fn must_be_empty(&self, node: NodeName, emptied: Option<u32>) -> Result<(), Rejection> {
        let reason = match emptied {
            Some(drains) if self.drained && drains == self.drains => return Ok(()),
            Some(_) => "it was uncordoned meanwhile",
            None => "it hasn't answered whether it is empty",
        };
        Err(Rejection::NodeNotDrained {
            node,
            reason: reason.to_owned(),
        })
    }
}

/// Accepts the log for the nodes that are ahead; no event if there is none.
fn accept(facts: &ClusterFacts) -> Vec<Event> {
    let (end, ahead) = (facts.end, facts.ahead.clone());
    match ahead.is_empty() {
        true => vec![],
        false => vec![Event::LogAccepted(LogAccepted { end, ahead })],
    }
}

impl Aggregate for Cluster {
    type Command = ClusterCommand;
    type Facts = ClusterFacts;

    fn decide(
        &self,
        command: &ClusterCommand,
        facts: &ClusterFacts,
    ) -> Result<Vec<Event>, Rejection> {
        match command {
            ClusterCommand::Set(c) => self.set(*c),
            ClusterCommand::LogAccept(LogAccept {}) => Ok(accept(facts)),
            ClusterCommand::NodeJoin(c) => self.join(c),
            ClusterCommand::NodeRemove(c) => self.remove(c, facts),
            ClusterCommand::NodeDrain(c) => self.drain(c),
            ClusterCommand::NodeUncordon(c) => self.uncordon(c),
            ClusterCommand::NodeLeave(c) => self.leave(c),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::ClusterCreated(e) => {
                self.id = Some(e.cluster);
                self.settings = e.settings.clone();
            }
            Event::ClusterChanged(e) => self.settings = e.settings.clone(),
            Event::TenantCreated(e) => {
                self.tenants.insert(e.tenant.clone());
            }
            Event::TenantRemoved(e) => {
                self.tenants.remove(&e.tenant);
            }
            Event::NodeJoined(e) => {
                let known = self.nodes.get(&e.node);
                let member = Member {
                    machine: e.machine.clone(),
                    vtep: e.vtep,
                    drained: known.is_some_and(|it| it.drained),
                    drains: known.map_or(0, |it| it.drains),
                    left: false,
                };
                self.nodes.insert(e.node.clone(), member);
            }
            Event::NodeDrained(e) => self.change(&e.node, |it| {
                it.drained = true;
                it.drains = it.drains.saturating_add(1);
            }),
            Event::NodeUncordoned(e) => self.change(&e.node, |it| it.drained = false),
            Event::NodeLeft(e) => self.change(&e.node, |it| it.left = true),
            Event::NodeRemoved(e) => {
                self.nodes.remove(&e.node);
            }
            Event::VniAssigned(e) => {
                self.vnis
                    .insert(e.vni, (e.tenant.clone(), e.network.clone()));
            }
            Event::VniReleased(e) => {
                self.vnis.remove(&e.vni);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
