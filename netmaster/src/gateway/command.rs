//! Commands: handed to their actor. What takes more than its decision goes on from there.

use std::rc::Rc;
use std::time::Instant;

use actors::aggregate::ClusterFacts;
use actors::shell::External;
use bus_schema::command::{NodeRemove, Removal, Request};
use bus_schema::{Command, Rejection, Reply};

use super::Desk;
use super::removal::{self, Target};
use crate::init::now;

pub(super) async fn carry_out(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    if let Some(refused) = older_than_log(desk, &request.body) {
        return refused;
    }
    match &request.body {
        Command::NodeRemove(c) => {
            let c = c.clone();
            node_remove(desk, request, &c).await
        }
        Command::NetworkRemove(c) if c.mode == Removal::Close => {
            let target = Target::Network(c.tenant.clone(), c.network.clone());
            removal::remove(desk, request, target).await
        }
        Command::GroupRemove(c) if c.mode == Removal::Close => {
            let target = Target::Group(c.tenant.clone(), c.group.clone());
            removal::remove(desk, request, target).await
        }
        _ => execute(desk, request).await,
    }
}

/// An event that this build mustn't guess at may bear on anything of its tenant, so none of its
/// aggregates decides; the one whose event it is refuses by its own fold.
fn older_than_log(desk: &Desk, command: &Command) -> Option<Reply> {
    let tenant = command.tenant()?;
    desk.shared.read(|view| {
        let revision = *view.newer.get(tenant)?;
        Some(Reply::rejected(
            Rejection::OlderThanLog { revision },
            view.applied,
        ))
    })
}

pub(super) async fn execute(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    desk.registry.execute(request, External::default()).await
}

/// Whether the node speaks and what it holds is told to the cluster as of a proved end of the log.
async fn node_remove(desk: &Rc<Desk>, request: Request<Command>, c: &NodeRemove) -> Reply {
    let id = request.id;
    if let Err(reason) = desk.prove(Instant::now(), request.deadline).await {
        return Reply::Unknown { id, reason };
    }
    let cluster = desk.shared.read(|view| ClusterFacts {
        alive: view.alive(&c.node, now()),
        holds: view.held_by(&c.node),
    });
    let external = External {
        cluster,
        ..External::default()
    };
    desk.registry.execute(request, external).await
}
