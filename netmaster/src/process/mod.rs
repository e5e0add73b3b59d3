//! The reactions: commands that netmaster gives itself.
//!
//! Pure and level-triggered: the due commands depend on the view alone, so a reaction that was missed
//! or failed is due again. Every netmaster issues the same command with the same id; the log
//! takes it once.

use std::collections::BTreeMap;

use bus_schema::command::{BlockRevoke, NetworkRemove, Removal};
use bus_schema::{ClusterId, Command, CommandId, GroupName, NodeName, Revision};

use crate::view::{NetworkView, View};

/// The commands that are due, with their ids.
pub(crate) fn due(view: &View) -> Vec<(CommandId, Command)> {
    let Some(cluster) = view.cluster else {
        return vec![];
    };
    view.networks()
        .flat_map(|network| {
            let finish = finish(cluster, network);
            finish.into_iter().chain(revoke(cluster, view, network))
        })
        .collect()
}

/// The command that removes a closing network, once its last block came back.
pub(crate) fn finish(cluster: ClusterId, network: &NetworkView) -> Option<(CommandId, Command)> {
    let closing = network.closing.filter(|_| network.blocks.is_empty())?;
    let (tenant, name) = (&network.spec.tenant, &network.spec.name);
    let id = CommandId::derive(
        cluster.0,
        &format!("finish {tenant}/{name} closing at {closing}"),
    );
    let command = Command::NetworkRemove(NetworkRemove {
        tenant: tenant.clone(),
        network: name.clone(),
        mode: Removal::Finish,
    });
    Some((id, command))
}

/// The commands that revoke the blocks of removed nodes. The id names the newest block: a lease that raced
/// with the removal makes the command due again under another id.
fn revoke(cluster: ClusterId, view: &View, network: &NetworkView) -> Vec<(CommandId, Command)> {
    let mut strangers: BTreeMap<(&NodeName, Option<&GroupName>), Revision> = BTreeMap::new();
    for held in network.blocks.values() {
        if !view.nodes.contains_key(&held.node) {
            let pool = (&held.node, held.group.as_ref());
            let newest = strangers.entry(pool).or_default();
            *newest = (*newest).max(held.since);
        }
    }
    let (tenant, name) = (&network.spec.tenant, &network.spec.name);
    strangers
        .into_iter()
        .map(|((node, group), newest)| {
            let command = BlockRevoke {
                tenant: tenant.clone(),
                network: name.clone(),
                group: group.cloned(),
                node: node.clone(),
            };
            let step = format!("revoke {} of {node} up to {newest}", command.pool());
            let id = CommandId::derive(cluster.0, &step);
            (id, Command::BlockRevoke(command))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bus_schema::event::{
        BlockLeased, BlockReturned, ClusterCreated, NetworkClosing, NetworkCreated,
        NetworkReopened, NodeJoined, NodeRemoved, Settings,
    };
    use bus_schema::testing;
    use bus_schema::{Event, MachineId, NetworkSpec, Pool, TenantName, Vni};
    use uuid::Uuid;

    use super::*;

    fn tenant() -> TenantName {
        TenantName::default_tenant()
    }

    fn fold(events: &[Event]) -> View {
        let mut view = View::default();
        for (revision, event) in (1..).zip(events) {
            view.apply(Revision(revision), Some(event));
        }
        view
    }

    fn web() -> Vec<Event> {
        let ip = |text: &str| testing::ip(text);
        vec![
            Event::ClusterCreated(ClusterCreated {
                cluster: ClusterId(Uuid::nil()),
                settings: Settings::default(),
            }),
            Event::NodeJoined(NodeJoined {
                node: testing::name("n1"),
                machine: MachineId("m".to_owned()),
                vtep: ip("198.18.0.1"),
            }),
            Event::NetworkCreated(NetworkCreated {
                network: NetworkSpec::new(
                    tenant(),
                    testing::name("web"),
                    Vni(1),
                    Pool {
                        subnet: testing::subnet("20.1.1.0/24"),
                        gateway: ip("20.1.1.1"),
                        range: None,
                    },
                ),
            }),
        ]
    }

    fn leased(block: &str) -> Event {
        Event::BlockLeased(BlockLeased {
            tenant: tenant(),
            network: testing::name("web"),
            group: None,
            block: testing::subnet(block),
            node: testing::name("n1"),
        })
    }

    fn closing() -> Event {
        Event::NetworkClosing(NetworkClosing {
            tenant: tenant(),
            network: testing::name("web"),
        })
    }

    fn of_group(event: Event) -> Event {
        match event {
            Event::BlockLeased(leased) => Event::BlockLeased(BlockLeased {
                group: Some(testing::name("db")),
                ..leased
            }),
            other => other,
        }
    }

    fn gone() -> Event {
        Event::NodeRemoved(NodeRemoved {
            node: testing::name("n1"),
            lost: true,
        })
    }

    fn with(more: impl IntoIterator<Item = Event>) -> View {
        fold(&web().into_iter().chain(more).collect::<Vec<_>>())
    }

    #[test]
    fn no_command_is_due_without_a_reason() {
        assert_eq!(due(&with([leased("20.1.1.0/28")])), []);
        assert_eq!(due(&View::default()), []);
    }

    #[test]
    fn a_closing_network_goes_with_its_last_block() {
        assert_eq!(due(&with([leased("20.1.1.0/28"), closing()])), []);
        let returned = Event::BlockReturned(BlockReturned {
            tenant: tenant(),
            network: testing::name("web"),
            group: None,
            block: testing::subnet("20.1.1.0/28"),
            node: testing::name("n1"),
        });
        let due = due(&with([leased("20.1.1.0/28"), closing(), returned]));
        assert!(matches!(
            &due[..],
            [(
                _,
                Command::NetworkRemove(NetworkRemove {
                    mode: Removal::Finish,
                    ..
                })
            )]
        ));
    }

    #[test]
    fn each_removal_of_a_network_has_its_own_command() {
        let reopened = Event::NetworkReopened(NetworkReopened {
            tenant: tenant(),
            network: testing::name("web"),
        });
        let first = due(&with([closing()]));
        let second = due(&with([closing(), reopened, closing()]));
        assert_eq!(first[0].1, second[0].1);
        assert_ne!(first[0].0, second[0].0);
    }

    #[test]
    fn a_removed_node_loses_its_blocks_and_those_that_raced() {
        let before = due(&with([leased("20.1.1.0/28"), gone()]));
        assert!(matches!(&before[..], [(_, Command::BlockRevoke(_))]));
        let after = due(&with([
            leased("20.1.1.0/28"),
            gone(),
            leased("20.1.1.16/28"),
        ]));
        assert_ne!(before[0].0, after[0].0);
    }

    #[test]
    fn a_removed_node_loses_the_blocks_of_groups_by_a_command_of_their_own() {
        let pool = of_group(leased("20.1.1.16/28"));
        let due = due(&with([leased("20.1.1.0/28"), pool, gone()]));
        let groups = due.iter().map(|(_, command)| match command {
            Command::BlockRevoke(revoke) => revoke.group.as_ref().map(ToString::to_string),
            other => panic!("{other:?}"),
        });
        let groups: Vec<Option<String>> = groups.collect();
        assert_eq!(groups, [None, Some("db".to_owned())]);
        assert_ne!(due[0].0, due[1].0);
    }
}
