//! Against a real nats-server; the test plays netmaster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use bus_schema::command::Request;
use bus_schema::event::{ClusterCreated, NodeJoined, Settings, TenantCreated};
use bus_schema::node::{LogState, NodeReply, NodeRequest, NodeStatus};
use bus_schema::{
    ClusterId, Command, CommandId, EndpointEvent, Envelope, Event, EventId, Header, MachineId,
    NodeName, Rejection, Reply, Revision, TenantName, codec, subject,
};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

mod join;
mod master;
mod membership;
mod node;
mod publish;
mod requests;
mod server;
mod session;
mod streams;

use super::*;
use crate::endpoint::fixture::endpoint;
use crate::endpoint::{
    Attach, EndpointsConfig, EndpointsHandle, Kernel, OwnEndpoints, to_published,
};
use crate::healing::Healings;
use crate::requests::BusHandle;
use master::{Master, joined};
use node::{Node, me};
use node_core::projection::Projection;
use server::Server;

fn cluster(n: u128) -> ClusterId {
    ClusterId(Uuid::from_u128(n))
}

fn tenant(name: &str) -> Event {
    Event::TenantCreated(TenantCreated {
        tenant: TenantName::new(name).unwrap(),
    })
}

/// Attaches endpoint `new` with any address.
async fn attach(node: &Node) {
    attach_with(node, "new", Vec::new()).await;
}

async fn attach_with(node: &Node, id: &str, aliases: Vec<String>) {
    let local = endpoint(id, "10.0.0.16");
    let ask = Attach {
        id: local.id,
        tenant: local.tenant,
        network: local.network,
        group: None,
        addresses: Vec::new(),
        owner: local.owner,
        name: Some("web".to_owned()),
        aliases,
        container: None,
    };
    node.endpoints.attach(ask).await.unwrap();
}

/// The last message on the bus about an endpoint of node `a`.
async fn last_event(master: &Master, id: &str) -> Option<EndpointEvent> {
    let stream = master.context.get_stream(subject::ENDPOINTS).await.ok()?;
    let of = format!("contiv.endpoint.default.a.{id}");
    let message = stream.get_last_raw_message_by_subject(&of).await.ok()?;
    codec::from_bytes(&message.payload).ok()
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            pause(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    waited.unwrap_or_else(|_| panic!("never {what}"));
}
