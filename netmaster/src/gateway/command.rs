//! Carries out commands: the actor decides each, and some take further steps.

use std::rc::Rc;
use std::time::Instant;

use actors::aggregate::ClusterFacts;
use actors::shell::External;
use bus_schema::command::{Removal, Request};
use bus_schema::{Command, Rejection, Reply};

use super::desk::Desk;
use super::lease;
use super::node;
use super::removal::{self, Target};
use crate::view::View;
use runtime::now;

/// How long an acceptance of the log may take to come back by the feed.
const FEED_TIMEOUT_MS: u64 = 1_000;

pub(super) async fn carry_out(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    if let Some(refused) = older_than_log(desk, &request.body) {
        return refused;
    }
    match &request.body {
        Command::LogAccept(_) => log_accept(desk, request).await,
        Command::NodeRemove(c) => {
            let c = c.clone();
            node::remove(desk, request, &c).await
        }
        Command::NodeDrain(c) => {
            desk.removals.operator_drains(&c.node);
            desk.execute(request).await
        }
        Command::NetworkRemove(c) if c.mode == Removal::Close => {
            let target = Target::Network(c.tenant.clone(), c.network.clone());
            removal::remove(desk, request, target).await
        }
        Command::GroupCreate(_) => {
            let external = External {
                mark_rules: desk.shared.read(View::mark_rules),
                ..External::default()
            };
            desk.registry.execute(request, external).await
        }
        Command::GroupRemove(c) if c.mode == Removal::Close => {
            let target = Target::Group(c.tenant.clone(), c.group.clone());
            removal::remove(desk, request, target).await
        }
        Command::BlockLease(c) if c.address.is_none() && !c.ahead => {
            let c = c.clone();
            lease::lease(desk, request, &c).await
        }
        _ => desk.execute(request).await,
    }
}

/// Refuses a command for a tenant with an event that this build can't read: the event may concern any of
/// the tenant's aggregates. The event's own aggregate refuses by its fold.
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

/// Accepts the log. A log with a hole can't be accepted: it can't be folded.
async fn log_accept(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    let arrived = Instant::now();
    let hole = desk.shared.read(|view| view.log.hole().is_some());
    if let Some(why) = desk.registry.refusal().filter(|_| hole) {
        return Reply::rejected(why, desk.revision());
    }
    let end = match desk.prove(arrived, request.deadline).await {
        Ok(proof) => proof.before(),
        Err(reason) => {
            let id = request.id;
            return Reply::Unknown { id, reason };
        }
    };
    let cluster = ClusterFacts {
        end,
        ahead: desk.shared.read(|view| view.ahead(now())),
        ..ClusterFacts::default()
    };
    let external = External {
        cluster,
        ..External::default()
    };
    let reply = desk.registry.execute(request, external).await;
    if let Reply::Accepted { revision, .. } = &reply {
        let until = now().saturating_add(FEED_TIMEOUT_MS);
        desk.shared.reach(*revision, until).await;
        let damage = desk.shared.read(|view| view.damage(now()));
        desk.registry.refuse(damage);
    }
    reply
}
