//! Publishes names on the bus, as a node does.

use std::net::{IpAddr, Ipv4Addr};

use async_nats::jetstream;
use bus_schema::{
    Endpoint, EndpointEvent, EndpointId, MacAddr, NetworkName, NodeName, Revision, TenantName,
    codec, subject,
};

/// The number of acknowledgements that are awaited together.
const MAX_UNACKNOWLEDGED: usize = 256;

pub fn name(number: usize) -> String {
    format!("h{number}")
}

/// The address of a name, far from addresses that the cluster assigns.
pub fn address(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX) % (1 << 17);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 8, 0, 0)) + number)
}

/// Publishes endpoints of `node-2`.
#[derive(Debug)]
pub struct Publisher {
    bus: jetstream::Context,
    vtep: IpAddr,
}

impl Publisher {
    /// Connects to `nats://TOKEN@HOST:PORT`; the endpoints get this VTEP.
    pub async fn connect(url: &str, vtep: Ipv4Addr) -> anyhow::Result<Self> {
        let bus = jetstream::new(crate::bus::connect(url, 0).await?);
        Ok(Self {
            bus,
            vtep: vtep.into(),
        })
    }

    pub async fn publish(&self, number: usize) -> anyhow::Result<()> {
        let (to, payload) = self.message(number)?;
        self.bus.publish(to, payload.into()).await?.await?;
        Ok(())
    }

    pub async fn publish_all(&self, names: usize) -> anyhow::Result<()> {
        let numbers: Vec<usize> = (0..names).collect();
        for some in numbers.chunks(MAX_UNACKNOWLEDGED) {
            let mut acknowledged = Vec::new();
            for number in some {
                let (to, payload) = self.message(*number)?;
                acknowledged.push(self.bus.publish(to, payload.into()).await?);
            }
            for acknowledgement in acknowledged {
                acknowledgement.await?;
            }
        }
        Ok(())
    }

    fn message(&self, number: usize) -> anyhow::Result<(String, Vec<u8>)> {
        let address = address(number);
        let endpoint = Endpoint {
            id: EndpointId::new(format!("bench-{number}"))?,
            tenant: TenantName::default_tenant(),
            network: NetworkName::new("net")?,
            group: None,
            node: NodeName::new("node-2")?,
            v4: Some(address),
            v6: None,
            mac: MacAddr::of_endpoint(address.into()),
            name: Some(name(number)),
            aliases: Vec::new(),
            container: None,
            interface: "cv0".to_owned(),
            closed: None,
            vtep: self.vtep,
        };
        let to = subject::of_endpoint(&endpoint);
        let up = EndpointEvent::Up {
            endpoint,
            applied: Revision(0),
        };
        Ok((to, codec::to_bytes(&up)))
    }
}
