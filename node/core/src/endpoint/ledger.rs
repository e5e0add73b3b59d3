//! The ledger of this node's endpoints and of its addresses' states: the fold of the journal's
//! records. Pure. Only the manager changes it, a record at a time, after that record is on disk.
//!
//! An address in a block of this node has these states, several of them at a time:
//!
//! | state | from | until | meaning |
//! |---|---|---|---|
//! | free | | | It has none of the states below and can be allocated. |
//! | reserved | `Reserved` | `Released` | A client claimed it ([`Claim`](super::Claim)) before its endpoint exists. |
//! | promised | `Promised` | `PromiseEnded` | The swarm that this node manages gave it to a task, on any node. |
//! | in use | `Attached` | `Detached` | An endpoint of this node has it. |
//! | freed | `Released`, `PromiseEnded`, `Detached` | `Attached` | It was used; it rests for [`REST_MS`](super::pool::REST_MS) while others are free. |
//! | returning | `Returning` | `ReturnEnded` | Its whole block goes back to netmaster; nobody gets it meanwhile. |
//! | ceding | `Ceding` | `CedeEnded` | Another node gets this one address; nobody gets it here. |

use std::net::IpAddr;
use std::sync::Arc;

use bus_schema::{ClusterId, CommandId, EndpointId, MachineId, NetworkName, NodeName, TenantName};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::LocalEndpoint;

/// The key of a network.
pub type NetworkKey = (TenantName, NetworkName);

/// One line of the journal. Times are milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The endpoint was attached, or its names have changed.
    Attached {
        endpoint: Box<LocalEndpoint>,
    },
    Detached {
        id: EndpointId,
        at: u64,
    },
    Reserved {
        key: NetworkKey,
        address: IpAddr,
    },
    Released {
        key: NetworkKey,
        address: IpAddr,
        at: u64,
    },
    /// The swarm that this node manages gave the address to a task.
    Promised {
        key: NetworkKey,
        address: IpAddr,
    },
    PromiseEnded {
        key: NetworkKey,
        address: IpAddr,
        at: u64,
    },
    /// The time at which an address was last used; written when the journal is compacted.
    Freed {
        key: NetworkKey,
        address: IpAddr,
        at: u64,
    },
    /// The node returns the block: no address of it is allocated any more.
    Returning {
        key: NetworkKey,
        block: IpNet,
        /// The id of the command to netmaster, the same for every retry and after a restart: a late
        /// copy of an accepted command does nothing.
        /// Absent: an older build's record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<CommandId>,
    },
    /// The log holds the end of the return: the block is another node's, or stays this node's.
    ReturnEnded {
        key: NetworkKey,
        block: IpNet,
    },
    /// The node cedes the address: only `to` may allocate it.
    Ceding {
        key: NetworkKey,
        address: IpAddr,
        to: NodeName,
        /// As in `Returning`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<CommandId>,
    },
    CedeEnded {
        key: NetworkKey,
        address: IpAddr,
    },
    /// The cluster that this node follows.
    Cluster {
        cluster: ClusterId,
    },
    /// The node that writes the journal, and its machine: a journal may come to another one with a clone
    /// of the machine or with a backup.
    Writer {
        node: NodeName,
        machine: MachineId,
    },
    /// Records were lost: the kernel may hold endpoints that the ledger lacks.
    Incomplete,
    /// The ledger holds every endpoint of the kernel again.
    Complete,
    /// The record was written by a newer netplugin.
    #[serde(other)]
    Unknown,
}

/// The endpoints of this node in the order of their ids. A clone shares all that didn't change.
pub type Locals = OrdMap<EndpointId, Arc<LocalEndpoint>>;

/// The fold of the journal. Its maps are persistent, so that each change is published as a cheap
/// clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    endpoints: Locals,
    networks: OrdMap<NetworkKey, Usage>,
    cluster: Option<ClusterId>,
    writer: Option<(NodeName, MachineId)>,
    incomplete: bool,
}

/// The states of one network's addresses on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub in_use: OrdMap<IpAddr, EndpointId>,
    pub reserved: OrdSet<IpAddr>,
    /// The addresses of tasks of the swarm that this node manages, on whatever node a task runs.
    pub promised: OrdSet<IpAddr>,
    pub freed: OrdMap<IpAddr, u64>,
    pub returning: OrdSet<IpNet>,
    pub ceding: OrdMap<IpAddr, NodeName>,
    /// The commands of returns and cedes; a ceded address is a block of one address.
    pub commands: OrdMap<IpNet, CommandId>,
}

impl Usage {
    /// Whether the address is in use, reserved, promised or being ceded.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.in_use.contains_key(&address)
            || self.reserved.contains(&address)
            || self.promised.contains(&address)
            || self.ceding.contains_key(&address)
    }

    /// The number of a block's addresses that are in use, reserved or promised.
    pub fn taken_in(&self, block: IpNet) -> usize {
        let reserved = self.reserved.iter();
        let promised = self
            .promised
            .iter()
            .filter(|it| !self.reserved.contains(*it));
        let idle = reserved.chain(promised);
        let idle = idle.filter(|address| !self.in_use.contains_key(*address));
        let all = self.in_use.keys().chain(idle);
        all.filter(|address| block.contains(*address)).count()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Ledger {
    /// The cluster that this node followed last.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The node and the machine that write the journal; absent: an older build wrote it.
    pub fn writer(&self) -> Option<&(NodeName, MachineId)> {
        self.writer.as_ref()
    }

    /// Whether records were lost and endpoints may still be missing.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    pub fn endpoints(&self) -> &Locals {
        &self.endpoints
    }

    pub fn endpoint(&self, id: &EndpointId) -> Option<&LocalEndpoint> {
        self.endpoints.get(id).map(Arc::as_ref)
    }

    pub fn usage(&self, key: &NetworkKey) -> Option<&Usage> {
        self.networks.get(key)
    }

    pub fn networks(&self) -> impl Iterator<Item = (&NetworkKey, &Usage)> {
        self.networks.iter()
    }

    /// Folds a record in; folding it again changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Attached { endpoint } => self.attach(endpoint),
            Record::Detached { id, at } => self.detach(id, *at),
            Record::Reserved { key, address } => {
                self.change(key, |usage| {
                    usage.reserved.insert(*address);
                });
            }
            Record::Released { key, address, at } => self.change(key, |usage| {
                if usage.reserved.remove(address).is_some() {
                    usage.freed.insert(*address, *at);
                }
            }),
            Record::Promised { key, address } => self.change(key, |usage| {
                usage.promised.insert(*address);
            }),
            Record::PromiseEnded { key, address, at } => self.change(key, |usage| {
                if usage.promised.remove(address).is_some() {
                    usage.freed.insert(*address, *at);
                }
            }),
            Record::Freed { key, address, at } => self.change(key, |usage| {
                usage.freed.insert(*address, *at);
            }),
            Record::Returning {
                key,
                block,
                command,
            } => self.change(key, |usage| {
                usage.returning.insert(*block);
                usage.commands.extend(command.map(|id| (*block, id)));
            }),
            // The times at which its addresses were used go with the block.
            Record::ReturnEnded { key, block } => self.change(key, |usage| {
                usage.returning.remove(block);
                usage.commands.remove(block);
                let done = usage.freed.keys().filter(|it| block.contains(*it)).copied();
                for address in done.collect::<Vec<_>>() {
                    usage.freed.remove(&address);
                }
            }),
            Record::Ceding {
                key,
                address,
                to,
                command,
            } => self.change(key, |usage| {
                usage.ceding.insert(*address, to.clone());
                let block = IpNet::from(*address);
                usage.commands.extend(command.map(|id| (block, id)));
            }),
            Record::CedeEnded { key, address } => self.change(key, |usage| {
                usage.ceding.remove(address);
                usage.commands.remove(&IpNet::from(*address));
            }),
            Record::Cluster { cluster } => self.cluster = Some(*cluster),
            Record::Writer { node, machine } => {
                self.writer = Some((node.clone(), machine.clone()));
            }
            Record::Incomplete => self.incomplete = true,
            Record::Complete => self.incomplete = false,
            Record::Unknown => {}
        }
    }

    /// The number of [`records`](Self::records).
    pub fn size(&self) -> usize {
        let of = |usage: &Usage| {
            let taken = usage.reserved.len() + usage.promised.len();
            usage.freed.len() + taken + usage.returning.len() + usage.ceding.len()
        };
        let marks = [
            self.cluster.is_some(),
            self.writer.is_some(),
            self.incomplete,
        ];
        let marks: usize = marks.map(usize::from).iter().sum();
        marks + self.endpoints.len() + self.networks.values().map(of).sum::<usize>()
    }

    /// The fewest records that fold to this ledger.
    pub fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        records.extend(self.cluster.map(|cluster| Record::Cluster { cluster }));
        let writer = self.writer.clone();
        records.extend(writer.map(|(node, machine)| Record::Writer { node, machine }));
        records.extend(self.incomplete.then_some(Record::Incomplete));
        for (key, usage) in &self.networks {
            let key = || key.clone();
            records.extend(usage.freed.iter().map(|(address, at)| Record::Freed {
                key: key(),
                address: *address,
                at: *at,
            }));
            records.extend(usage.reserved.iter().map(|address| Record::Reserved {
                key: key(),
                address: *address,
            }));
            records.extend(usage.promised.iter().map(|address| Record::Promised {
                key: key(),
                address: *address,
            }));
            records.extend(usage.returning.iter().map(|block| Record::Returning {
                key: key(),
                block: *block,
                command: usage.commands.get(block).copied(),
            }));
            records.extend(usage.ceding.iter().map(|(address, to)| Record::Ceding {
                key: key(),
                address: *address,
                to: to.clone(),
                command: usage.commands.get(&IpNet::from(*address)).copied(),
            }));
        }
        let attached = self.endpoints.values();
        records.extend(attached.map(|it| Record::Attached {
            endpoint: Box::new(it.as_ref().clone()),
        }));
        records
    }

    fn attach(&mut self, endpoint: &LocalEndpoint) {
        self.change(&key_of(endpoint), |usage| {
            for address in &endpoint.addresses {
                usage.in_use.insert(*address, endpoint.id.clone());
                usage.freed.remove(address);
            }
        });
        let id = endpoint.id.clone();
        self.endpoints.insert(id, Arc::new(endpoint.clone()));
    }

    fn detach(&mut self, id: &EndpointId, at: u64) {
        let Some(endpoint) = self.endpoints.remove(id) else {
            return;
        };
        self.change(&key_of(&endpoint), |usage| {
            for address in &endpoint.addresses {
                if usage.in_use.get(address) == Some(id) {
                    usage.in_use.remove(address);
                    usage.freed.insert(*address, at);
                }
            }
        });
    }

    fn change(&mut self, key: &NetworkKey, change: impl FnOnce(&mut Usage)) {
        let usage = self.networks.entry(key.clone()).or_default();
        change(usage);
        if usage.is_empty() {
            self.networks.remove(key);
        }
    }
}

pub(super) fn key_of(endpoint: &LocalEndpoint) -> NetworkKey {
    (endpoint.tenant.clone(), endpoint.network.clone())
}
