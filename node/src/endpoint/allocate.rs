//! The manager's checks of an address, and its choice of one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::{EndpointId, GroupName, Rejection};

use super::AttachError;
use super::in_progress::InProgress;
use super::ledger::{NetworkKey, Usage};
use super::manager::Manager;
use super::message::{Attempt, RestPeriod};
use super::pool::{Choice, NodeAddresses, PoolSelector};
use node_core::projection::NetworkFact;
use runtime::now;

/// An address that an endpoint or another node requests by name.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedAddress<'a> {
    pub address: IpAddr,
    /// The endpoint that may have it already.
    pub endpoint: Option<&'a EndpointId>,
    /// The requester may have an address that was promised to a task.
    pub promised: bool,
}

impl Manager {
    /// Checks that an endpoint may have this address. `false`: its block has to be leased first.
    /// Engines don't reserve the addresses of live containers again, because our IPAM driver doesn't
    /// ask for it (`RequiresRequestReplay`).
    pub(super) fn check_address(
        &self,
        network: &NetworkFact,
        usage: &Usage,
        named: NamedAddress<'_>,
    ) -> Result<bool, AttachError> {
        let NamedAddress {
            address,
            endpoint,
            promised,
        } = named;
        let mut pools = network.spec.pools();
        if !pools.any(|pool| pool.is_assignable(address)) {
            return Err(AttachError::Rejected(Rejection::AddressNotAssignable {
                address,
                network: network.spec.name.clone(),
                subnet: network.spec.v4.subnet,
            }));
        }
        if let Some(user) = usage.in_use.get(&address)
            && Some(user) != endpoint
        {
            return Err(AttachError::AddressInUse(address, user.to_string()));
        }
        if usage.promised.contains(&address) && !promised {
            return Err(AttachError::AddressPromised(address));
        }
        Ok(self.allocates(network, usage, address))
    }

    /// Whether this node allocates the address, taken or not.
    pub(super) fn allocates(&self, network: &NetworkFact, usage: &Usage, address: IpAddr) -> bool {
        let block = network.block_of(address);
        let ours = block
            .is_some_and(|(block, holder)| *holder == self.me && !usage.returning.contains(&block));
        ours && !usage.ceding.contains_key(&address)
    }

    /// Chooses a free address of the network, or of the group's pool.
    pub(super) fn choose_address(
        &self,
        network: &NetworkFact,
        usage: &Usage,
        group: Option<&GroupName>,
        rest: RestPeriod,
    ) -> Attempt<IpAddr> {
        let key = (network.spec.tenant.clone(), network.spec.name.clone());
        let whom = PoolSelector { group, v6: false };
        let asked = requested_in(&self.requested, &key);
        match self.holding(network, usage, &asked).choose(whom, now()) {
            Choice::Rested(address) => Attempt::Done(address),
            Choice::Recent(address) if rest == RestPeriod::Waived => Attempt::Done(address),
            Choice::Recent(_) => Attempt::OnlyRecent,
            Choice::None => Attempt::NeedsBlock(None),
        }
    }

    pub(super) fn holding<'a>(
        &'a self,
        network: &'a NetworkFact,
        usage: &'a Usage,
        asked: &'a BTreeSet<IpAddr>,
    ) -> NodeAddresses<'a> {
        NodeAddresses {
            network,
            me: &self.me,
            usage,
            asked,
        }
    }
}

/// The addresses of a network that are requested by name right now.
pub(super) fn requested_in(
    requested: &InProgress<(NetworkKey, IpAddr)>,
    network: &NetworkKey,
) -> BTreeSet<IpAddr> {
    let all = requested.all().into_iter();
    let here = all.filter(|(key, _)| key == network);
    here.map(|(_, address)| address).collect()
}

/// Checks that the address is of the group's pool, or of no pool: a pool's addresses are for the
/// members of its group alone, and they get no others.
pub(super) fn check_pool(
    network: &NetworkFact,
    address: IpAddr,
    group: Option<&GroupName>,
) -> Result<(), Rejection> {
    let own = group.and_then(|it| Some((it, *network.pools.get(it)?)));
    match (network.pool_of(address), own) {
        (Some((owner, _)), Some((group, _))) if owner == group => Ok(()),
        (_, Some((group, pool))) => Err(Rejection::AddressOutsidePool {
            address,
            group: group.clone(),
            pool,
        }),
        (Some((owner, pool)), None) => Err(Rejection::AddressInPool {
            address,
            group: owner.clone(),
            pool,
        }),
        (None, None) => Ok(()),
    }
}
