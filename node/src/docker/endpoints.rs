//! What the driver asks of the node's endpoints: the one seam between Docker and the rest.
//!
//! The handle of `endpoint` is the real one; the tests of the protocol
//! use one in memory.

use std::future::Future;
use std::net::IpAddr;

use bus_schema::{EndpointId, NetworkName, TenantName};

use crate::endpoint::{Attach, AttachError, Attachment, LocalEndpoint, Reserve};

/// What the engine tells of an endpoint after it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    /// Absent: not known yet; what was known stays.
    pub aliases: Option<Vec<String>>,
    pub container: String,
}

pub trait Endpoints: Clone + Send + Sync + 'static {
    fn reserve(&self, reserve: Reserve)
    -> impl Future<Output = Result<IpAddr, AttachError>> + Send;

    /// Frees a reserved address; nothing happens to one that isn't reserved.
    fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Returns when the interfaces are there. The same again is fine.
    fn attach(
        &self,
        attach: Attach,
    ) -> impl Future<Output = Result<Attachment, AttachError>> + Send;

    /// Removes the endpoint, its interfaces and its claim on its addresses.
    fn detach(&self, id: EndpointId) -> impl Future<Output = Result<(), AttachError>> + Send;

    fn list(&self) -> impl Future<Output = Vec<LocalEndpoint>> + Send;

    fn describe(
        &self,
        id: EndpointId,
        description: Description,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;
}
