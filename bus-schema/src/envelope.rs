//! The envelope around every event: its writer, time and cause, and the readers that may act on it.

use serde::{Deserialize, Serialize};

use crate::{CommandId, EventId, SCHEMA};

/// An event and its circumstances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    #[serde(flatten)]
    pub header: Header,
    pub body: T,
}

/// The part of an envelope that every version can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub id: EventId,
    /// Milliseconds since 1970-01-01 UTC, by the writer's clock.
    pub time: u64,
    /// The writer: the netmaster's or the node's name.
    pub actor: String,
    /// The command that led to it.
    pub cause: CommandId,
    /// The schema of its writer.
    pub schema: u16,
    /// The oldest schema whose reader may act on it or skip it. An older reader must do neither: a node
    /// closes the objects that the subject names, a netmaster refuses commands for them.
    pub min_reader: u16,
}

impl Header {
    /// The header of an event that this build's schema describes and every reader understands.
    pub fn new(id: EventId, time: u64, actor: impl Into<String>, cause: CommandId) -> Self {
        Self {
            id,
            time,
            actor: actor.into(),
            cause,
            schema: SCHEMA,
            min_reader: 1,
        }
    }
}
