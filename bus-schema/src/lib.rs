//! The contract of the bus: ids, subjects, the envelope and its codec, commands, events,
//! queries, replies and rejections.
//!
//! Pure: no I/O, no clock, no randomness. Encodings and subjects are defined here; every process converts
//! at its edge and uses these types inside. (netplugin's subscriptions and `netctl events` also take
//! subjects apart.)

pub mod codec;
pub mod command;
pub mod endpoint;
pub mod envelope;
pub mod event;
pub mod healing;
pub mod id;
pub mod limits;
pub mod lookup;
pub mod mark_rule;
pub mod net;
pub mod node;
pub mod policy;
pub mod query;
pub mod rejection;
pub mod reply;
pub mod streams;
pub mod subject;
pub mod subnet;
pub mod surroundings;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod url;

pub use command::Command;
pub use endpoint::{Endpoint, EndpointEvent};
pub use envelope::{Envelope, Header};
pub use event::{AggregateId, Event};
pub use id::{
    ClusterId, CommandId, EndpointId, EventId, GroupId, GroupName, InvalidName, MachineId, Name,
    NetworkName, NodeName, PolicyName, Revision, RuleId, TenantName, Vni,
};
pub use net::{
    AddressRange, Egress, MacAddr, NetworkSpec, Pool, PoolKey, update_default_egress, update_limit,
};
pub use policy::{GroupSpec, Rule, RuleSpec};
pub use query::Query;
pub use rejection::Rejection;
pub use reply::{Answer, Reply};

/// The version of the schema that this build writes and reads in full.
pub const SCHEMA: u16 = 4;
