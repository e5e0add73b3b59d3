//! The driver's interface to the node's endpoints: Docker's only connection to the rest.
//!
//! `endpoint` implements it with its handle; the protocol's tests implement it in memory.

use std::future::Future;
use std::net::IpAddr;

use bus_schema::{EndpointId, NetworkName, TenantName};

use crate::endpoint::{
    Attach, AttachError, Attachment, Claim, Description, EndpointsHandle, LocalEndpoint, Reserve,
};

pub(super) type Reserved = (TenantName, NetworkName, IpAddr);

pub trait Endpoints: Clone + Send + Sync + 'static {
    fn reserve(&self, reserve: Reserve)
    -> impl Future<Output = Result<IpAddr, AttachError>> + Send;

    /// Ends a reservation; an address without this claim is left alone.
    fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        claim: Claim,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Addresses that are reserved and belong to no endpoint.
    fn reserved(&self) -> Vec<Reserved>;

    /// Addresses that are promised to the swarm's tasks.
    fn promised(&self) -> Vec<Reserved>;

    /// Journals the endpoint and returns; its interfaces follow. It can be repeated.
    fn start_attach(
        &self,
        attach: Attach,
    ) -> impl Future<Output = Result<Attachment, AttachError>> + Send;

    /// Waits until the kernel has the endpoint's interfaces; an error gives the reason if it fails.
    fn wait_until_in_kernel(
        &self,
        id: EndpointId,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;

    /// Removes the endpoint and its claim on its addresses; its interfaces follow.
    fn start_detach(&self, id: EndpointId) -> impl Future<Output = Result<(), AttachError>> + Send;

    fn list(&self) -> Vec<LocalEndpoint>;

    /// Whether this node was in sync with the log since its start.
    fn has_read_log(&self) -> bool;

    fn endpoint(&self, id: &EndpointId) -> Option<LocalEndpoint>;

    fn describe(
        &self,
        id: EndpointId,
        description: Description,
    ) -> impl Future<Output = Result<(), AttachError>> + Send;
}

impl Endpoints for EndpointsHandle {
    async fn reserve(&self, reserve: Reserve) -> Result<IpAddr, AttachError> {
        self.reserve(reserve).await
    }

    async fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AttachError> {
        self.release(tenant, network, address, claim).await
    }

    fn reserved(&self) -> Vec<Reserved> {
        self.reserved()
    }

    fn promised(&self) -> Vec<Reserved> {
        self.promised()
    }

    async fn start_attach(&self, attach: Attach) -> Result<Attachment, AttachError> {
        self.start_attach(attach).await
    }

    async fn wait_until_in_kernel(&self, id: EndpointId) -> Result<(), AttachError> {
        self.wait_until_in_kernel(&id).await
    }

    async fn start_detach(&self, id: EndpointId) -> Result<(), AttachError> {
        self.start_detach(&id).await.map(drop)
    }

    fn list(&self) -> Vec<LocalEndpoint> {
        self.list()
    }

    fn has_read_log(&self) -> bool {
        self.has_read_log()
    }

    fn endpoint(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        self.endpoint(id)
    }

    async fn describe(&self, id: EndpointId, description: Description) -> Result<(), AttachError> {
        self.describe(&id, description).await
    }
}
