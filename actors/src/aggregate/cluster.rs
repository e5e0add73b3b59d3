//! What spans tenants: the tenants themselves, nodes, packet tags, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::command::{LogAccept, NodeDrain, NodeJoin, NodeLeave, NodeRemove, NodeUncordon};
use bus_schema::event::{
    LogAccepted, NodeDrained, NodeJoined, NodeLeft, NodeRemoved, NodeUncordoned, Settings,
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
    LogAccept(LogAccept),
    NodeJoin(NodeJoin),
    NodeRemove(NodeRemove),
    NodeDrain(NodeDrain),
    NodeUncordon(NodeUncordon),
    NodeLeave(NodeLeave),
}

/// What the cluster must be told to let a node go or to accept a log. It comes from netmaster's view
/// and may lag; a block leased meanwhile is revoked by the reaction to the node's removal.
#[derive(Debug, Clone, Default)]
pub struct ClusterFacts {
    /// The node that the command is about has published its status a moment ago.
    pub alive: bool,
    /// Networks of which that node holds blocks.
    pub holds: Vec<NetworkName>,
    /// That node answered that it has neither endpoints nor blocks since it was drained for this
    /// time ([`Member::drains`]).
    pub emptied: Option<u32>,
    /// Where the log ends.
    pub end: Revision,
    /// The nodes that have applied more, and how far.
    pub ahead: BTreeMap<NodeName, Revision>,
}

impl Cluster {
    /// The tag that a network asked for, or the lowest free one.
    pub(super) fn free_vni(&self, asked: Option<Vni>) -> Result<Vni, Rejection> {
        if let Some(vni) = asked {
            if !vni.is_valid() {
                return Err(Rejection::VniOutOfRange { vni });
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
        let (first, last) = self.settings.vni_range;
        let mut taken = self.vnis.range(first..=last);
        (first.0..=last.0)
            .map(Vni)
            .find(|vni| taken.next().is_none_or(|(next, _)| next != vni))
            .ok_or(Rejection::VniExhausted { first, last })
    }

    fn join(&self, c: &NodeJoin) -> Result<Vec<Event>, Rejection> {
        if c.machine.0.trim().is_empty() {
            return Err(malformed("the machine id is empty: see machine-id(5)"));
        }
        if c.vtep.is_unspecified() || c.vtep.is_multicast() || c.vtep.is_loopback() {
            return Err(malformed(&format!(
                "{} can't be a VTEP address: other nodes must reach it",
                c.vtep
            )));
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
    /// A live node may attach endpoints, unless it is drained. `emptied`: see [`ClusterFacts`].
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

/// Nothing where no node is ahead.
fn accept(facts: &ClusterFacts) -> Vec<Event> {
    let (end, ahead) = (facts.end, facts.ahead.clone());
    match ahead.is_empty() {
        true => vec![],
        false => vec![Event::LogAccepted(LogAccepted { end, ahead })],
    }
}

fn malformed(reason: &str) -> Rejection {
    Rejection::Malformed {
        reason: reason.to_owned(),
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
mod tests {
    use super::*;
    use crate::testing::given;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    fn join(name: &str, machine: &str, vtep: &str) -> ClusterCommand {
        ClusterCommand::NodeJoin(NodeJoin {
            node: node(name),
            machine: MachineId(machine.to_owned()),
            vtep: vtep.parse().expect("an address"),
        })
    }

    fn joined(name: &str, machine: &str, vtep: &str) -> Event {
        Event::NodeJoined(NodeJoined {
            node: node(name),
            machine: MachineId(machine.to_owned()),
            vtep: vtep.parse().expect("an address"),
        })
    }

    fn remove(name: &str, lost: bool) -> ClusterCommand {
        ClusterCommand::NodeRemove(NodeRemove {
            node: node(name),
            lost,
        })
    }

    fn nobody() -> ClusterFacts {
        ClusterFacts::default()
    }

    #[test]
    fn a_log_that_nodes_are_ahead_of_is_accepted_once_for_them() {
        let accept = ClusterCommand::LogAccept(LogAccept {});
        let ahead = BTreeMap::from([(node("n1"), Revision(47))]);
        let facts = ClusterFacts {
            end: Revision(40),
            ahead: ahead.clone(),
            ..ClusterFacts::default()
        };
        let end = Revision(40);
        let accepted = Event::LogAccepted(LogAccepted { end, ahead });
        let cluster = Cluster::default();
        assert_eq!(cluster.decide(&accept, &facts), Ok(vec![accepted]));
        assert_eq!(
            cluster.decide(&accept, &ClusterFacts::default()),
            Ok(vec![])
        );
    }

    #[test]
    fn a_node_joins_once() {
        given::<Cluster>([])
            .when(join("n1", "m1", "198.18.1.1"), nobody())
            .then([joined("n1", "m1", "198.18.1.1")])
            .when(join("n1", "m1", "198.18.1.1"), nobody())
            .then([]);
    }

    #[test]
    fn a_second_machine_with_the_name_is_refused() {
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(join("n1", "m2", "198.18.1.2"), nobody())
            .rejected(Rejection::NodeNameTaken { node: node("n1") });
    }

    #[test]
    fn a_second_node_with_the_vtep_is_refused() {
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(join("n2", "m2", "198.18.1.1"), nobody())
            .rejected(Rejection::VtepTaken {
                vtep: "198.18.1.1".parse().expect("an address"),
                node: node("n1"),
            });
    }

    #[test]
    fn the_same_machine_may_move_to_another_vtep() {
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(join("n1", "m1", "198.18.1.9"), nobody())
            .then([joined("n1", "m1", "198.18.1.9")])
            .when(join("n2", "m2", "198.18.1.1"), nobody())
            .then([joined("n2", "m2", "198.18.1.1")]);
    }

    #[test]
    fn a_vtep_that_nobody_reaches_is_refused() {
        for vtep in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::"] {
            let rejection = given::<Cluster>([])
                .when(join("n1", "m1", vtep), nobody())
                .rejection();
            assert!(matches!(rejection, Rejection::Malformed { .. }), "{vtep}");
        }
    }

    #[test]
    fn a_node_with_blocks_stays_unless_it_is_lost() {
        let holds = ClusterFacts {
            alive: false,
            holds: vec!["web".parse().expect("a name")],
            ..ClusterFacts::default()
        };
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(remove("n1", false), holds.clone())
            .rejected(Rejection::NodeInUse {
                node: node("n1"),
                networks: holds.holds.clone(),
            });
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(remove("n1", true), holds)
            .then([Event::NodeRemoved(NodeRemoved {
                node: node("n1"),
                lost: true,
            })]);
    }

    fn drain() -> ClusterCommand {
        ClusterCommand::NodeDrain(NodeDrain { node: node("n1") })
    }

    fn uncordon() -> ClusterCommand {
        ClusterCommand::NodeUncordon(NodeUncordon { node: node("n1") })
    }

    fn leave(machine: &str) -> ClusterCommand {
        let machine = MachineId(machine.to_owned());
        ClusterCommand::NodeLeave(NodeLeave {
            node: node("n1"),
            machine,
        })
    }

    fn n1() -> Event {
        joined("n1", "m1", "198.18.1.1")
    }

    fn drained() -> Event {
        Event::NodeDrained(NodeDrained { node: node("n1") })
    }

    fn uncordoned() -> Event {
        Event::NodeUncordoned(NodeUncordoned { node: node("n1") })
    }

    fn left() -> Event {
        Event::NodeLeft(NodeLeft { node: node("n1") })
    }

    fn removed(lost: bool) -> Event {
        let node = node("n1");
        Event::NodeRemoved(NodeRemoved { node, lost })
    }

    fn alive(emptied: Option<u32>) -> ClusterFacts {
        ClusterFacts {
            alive: true,
            emptied,
            ..ClusterFacts::default()
        }
    }

    #[test]
    fn a_live_node_is_not_lost() {
        given::<Cluster>([n1(), drained()])
            .when(remove("n1", true), alive(Some(1)))
            .rejected(Rejection::NodeAlive { node: node("n1") });
    }

    #[test]
    fn a_live_node_goes_when_it_is_empty_since_this_drain() {
        let not_drained = |reason: &str| Rejection::NodeNotDrained {
            node: node("n1"),
            reason: reason.to_owned(),
        };
        let meanwhile = || not_drained("it was uncordoned meanwhile");
        given::<Cluster>([n1(), drained()])
            .when(remove("n1", false), alive(None))
            .rejected(not_drained("it hasn't answered whether it is empty"));
        given::<Cluster>([n1(), drained(), uncordoned()])
            .when(remove("n1", false), alive(Some(1)))
            .rejected(meanwhile());
        given::<Cluster>([n1(), drained(), uncordoned(), drained()])
            .when(remove("n1", false), alive(Some(1)))
            .rejected(meanwhile());
        // Its netplugin was restarted meanwhile with another VTEP address: it is drained still.
        given::<Cluster>([n1(), drained(), joined("n1", "m1", "198.18.1.2")])
            .when(remove("n1", false), alive(Some(1)))
            .then([removed(false)]);
    }

    #[test]
    fn a_node_is_drained_until_it_is_uncordoned() {
        given::<Cluster>([n1()])
            .when(drain(), nobody())
            .then([drained()])
            .when(drain(), nobody())
            .then([])
            .when(uncordon(), nobody())
            .then([uncordoned()])
            .when(uncordon(), nobody())
            .then([]);
    }

    #[test]
    fn a_node_that_left_joins_again_and_stays_drained() {
        given::<Cluster>([n1(), drained()])
            .when(leave("m1"), nobody())
            .then([left()])
            .when(leave("m1"), nobody())
            .then([])
            .when(join("n1", "m1", "198.18.1.1"), nobody())
            .then([n1()])
            .when(join("n1", "m1", "198.18.1.1"), nobody())
            .then([])
            .when(drain(), nobody())
            .then([]);
    }

    #[test]
    fn nobody_leaves_for_another_machine() {
        given::<Cluster>([n1()])
            .when(leave("m2"), nobody())
            .rejected(Rejection::NodeNameTaken { node: node("n1") });
    }

    #[test]
    fn a_removed_node_that_joins_again_is_neither_drained_nor_left() {
        given::<Cluster>([n1(), drained(), left(), removed(false)])
            .when(join("n1", "m1", "198.18.1.1"), nobody())
            .then([n1()])
            .when(drain(), nobody())
            .then([drained()])
            .when(leave("m1"), nobody())
            .then([left()]);
    }

    #[test]
    fn a_removed_name_is_free_for_another_machine() {
        given::<Cluster>([joined("n1", "m1", "198.18.1.1")])
            .when(remove("n1", false), nobody())
            .then([Event::NodeRemoved(NodeRemoved {
                node: node("n1"),
                lost: false,
            })])
            .when(join("n1", "m2", "198.18.1.1"), nobody())
            .then([joined("n1", "m2", "198.18.1.1")]);
    }

    #[test]
    fn an_unknown_node_is_named() {
        given::<Cluster>([])
            .when(remove("n9", true), nobody())
            .rejected(Rejection::NodeUnknown { node: node("n9") });
        for command in [drain(), uncordon(), leave("m1")] {
            given::<Cluster>([])
                .when(command, nobody())
                .rejected(Rejection::NodeUnknown { node: node("n1") });
        }
    }
}
