//! Sockets in namespaces of a lab's hosts, for tests that send from there.

use std::net::{Ipv4Addr, UdpSocket};

use crate::lab::Lab;
use crate::workload::netns;
use crate::{Result, namespace};

impl Lab {
    /// Opens a UDP socket inside a workload.
    pub fn udp_in(&self, workload: &str) -> Result<UdpSocket> {
        self.udp_from(workload, 0)
    }

    /// Opens a UDP socket inside a workload, with the given port.
    pub fn udp_from(&self, workload: &str, port: u16) -> Result<UdpSocket> {
        let node = self.workload_node(workload)?;
        self.bind(&node, &format!("/run/netns/{}", netns(workload)), port)
    }

    /// Opens a UDP socket inside a network namespace, given by its path on a host.
    pub fn udp_at(&self, host: &str, netns: &str) -> Result<UdpSocket> {
        self.bind(host, netns, 0)
    }

    fn bind(&self, host: &str, netns: &str, port: u16) -> Result<UdpSocket> {
        let holder = self.host(host)?.holder.pid;
        namespace::open_in(holder, netns, move || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        })
    }
}
