use super::*;
use crate::testing::given;
use bus_schema::event::{ClusterCreated, TenantCreated, TenantRemoved, VniAssigned, VniReleased};
use bus_schema::testing;

fn node(name: &str) -> NodeName {
    testing::name(name)
}

fn join(name: &str, machine: &str, vtep: &str) -> ClusterCommand {
    ClusterCommand::NodeJoin(NodeJoin {
        node: node(name),
        machine: MachineId(machine.to_owned()),
        vtep: testing::ip(vtep),
    })
}

fn joined(name: &str, machine: &str, vtep: &str) -> Event {
    Event::NodeJoined(NodeJoined {
        node: node(name),
        machine: MachineId(machine.to_owned()),
        vtep: testing::ip(vtep),
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
fn range_of_packet_tags_is_changed_once() {
    let set = |first, last| {
        ClusterCommand::Set(ClusterSet {
            vni_range: Some((Vni(first), Vni(last))),
        })
    };
    let changed = Event::ClusterChanged(ClusterChanged {
        settings: Settings {
            vni_range: (Vni(5), Vni(9)),
            ..Settings::default()
        },
    });
    given::<Cluster>([])
        .when(set(5, 9), nobody())
        .then([changed])
        .when(set(5, 9), nobody())
        .then([]);
    for (first, last) in [(0, 9), (9, 5), (5, Vni::MAX + 1)] {
        let (first, last) = (Vni(first), Vni(last));
        given::<Cluster>([])
            .when(set(first.0, last.0), nobody())
            .rejected(Rejection::VniRangeInvalid { first, last });
    }
    given::<Cluster>([]).when(set(7, 7), nobody()).accepted();
    let nothing = ClusterCommand::Set(ClusterSet::default());
    given::<Cluster>([]).when(nothing, nobody()).then([]);
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
            vtep: testing::ip("198.18.1.1"),
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
        assert!(
            matches!(rejection, Rejection::VtepUnusable { .. }),
            "{vtep}"
        );
    }
}

#[test]
fn a_node_with_blocks_stays_unless_it_is_lost() {
    let holds = ClusterFacts {
        alive: false,
        holds: vec![testing::name("web")],
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
fn a_node_leaves_only_by_its_own_machine() {
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

#[test]
fn cluster_knows_its_settings_tenants_and_tags() {
    let cluster = ClusterId(uuid::Uuid::from_u128(7));
    let blue = || testing::name::<TenantName>("blue");
    let web = || testing::name::<NetworkName>("web");
    let settings = Settings {
        vni_range: (Vni(7), Vni(8)),
        ..Settings::default()
    };
    let events = [
        Event::ClusterCreated(ClusterCreated { cluster, settings }),
        Event::TenantCreated(TenantCreated { tenant: blue() }),
        Event::VniAssigned(VniAssigned {
            vni: Vni(7),
            tenant: blue(),
            network: web(),
        }),
    ];
    let mut state = given::<Cluster>(events).state;
    assert_eq!(state.id, Some(cluster));
    assert_eq!(state.tenants, BTreeSet::from([blue()]));
    assert_eq!(state.free_vni(None), Ok(Vni(8)));
    state.evolve(&Event::VniReleased(VniReleased {
        vni: Vni(7),
        tenant: blue(),
        network: web(),
    }));
    assert_eq!(state.free_vni(None), Ok(Vni(7)));
    state.evolve(&Event::TenantRemoved(TenantRemoved { tenant: blue() }));
    assert!(state.tenants.is_empty());
}
