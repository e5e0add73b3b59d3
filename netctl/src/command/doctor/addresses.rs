//! Networks and groups' pools of which less than a tenth of the addresses is free.

use bus_schema::node::Grade;
use bus_schema::query::{AddressCount, GroupInfo, NetworkInfo};

use super::judge::{Complaint, said};
use crate::client::Session;
use crate::command::{group, network};
use crate::failure::Failure;

/// The addresses of a network, or of a group's own pool.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    of: String,
    count: AddressCount,
    /// What to do when they run out.
    remedy: &'static str,
}

impl Pool {
    /// `None`: it is being removed, or an older netmaster doesn't count.
    pub(super) fn of_network(info: &NetworkInfo) -> Option<Self> {
        Some(Self {
            of: format!("network {}/{}", info.spec.tenant, info.spec.name),
            count: info.addresses.filter(|_| !info.closing)?,
            remedy: "remove endpoints, or start containers in another network",
        })
    }

    /// `None`: as for networks, or it has no pool of its own.
    pub(super) fn of_group(info: &GroupInfo) -> Option<Self> {
        Some(Self {
            of: format!("group {}/{}", info.spec.tenant, info.spec.name),
            count: info.addresses.filter(|_| !info.closing)?,
            remedy: "remove endpoints, or create a group with a larger pool",
        })
    }

    fn complaint(&self) -> Option<Complaint> {
        let AddressCount { assignable, in_use } = self.count;
        let free = assignable.saturating_sub(in_use);
        let remedy = self.remedy;
        let text = match free {
            0 => format!(
                "no container starts in it, none of its {assignable} addresses is free: {remedy}"
            ),
            free => format!(
                "{free} of {assignable} addresses are free, when none is left no container starts in it: {remedy}"
            ),
        };
        let is_low = free.saturating_mul(10) < assignable;
        is_low.then(|| said(Grade::Warning, &self.of, text))
    }
}

/// All networks, and all groups with a pool of their own.
pub(super) async fn ask(session: &mut Session) -> Result<Vec<Pool>, Failure> {
    let networks = network::list(session, None, None).await?;
    let groups = group::list(session, None, None).await?;
    let networks = networks.iter().filter_map(Pool::of_network);
    let groups = groups.iter().filter_map(Pool::of_group);
    Ok(networks.chain(groups).collect())
}

pub(super) fn judge(pools: &Result<Vec<Pool>, String>) -> Vec<Complaint> {
    let of = "addresses";
    let pools = match pools {
        Ok(pools) => pools,
        Err(why) => return vec![said(Grade::Unknown, of, why)],
    };
    let low: Vec<Complaint> = pools.iter().filter_map(Pool::complaint).collect();
    match low.is_empty() {
        true => vec![said(
            Grade::Fine,
            of,
            "every network has a tenth of its addresses free",
        )],
        false => low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(assignable: u64, in_use: u64) -> Result<Vec<Pool>, String> {
        Ok(vec![Pool {
            of: "network default/web".to_owned(),
            count: AddressCount { assignable, in_use },
            remedy: "remove endpoints",
        }])
    }

    #[test]
    fn network_with_less_than_a_tenth_of_its_addresses_free_is_a_warning() {
        for (assignable, in_use, expected) in [
            (253, 227, Grade::Fine),
            (253, 228, Grade::Warning),
            (10, 9, Grade::Fine),
            (10, 10, Grade::Warning),
            (1, 1, Grade::Warning),
            (0, 0, Grade::Fine),
        ] {
            let complaint = &judge(&of(assignable, in_use))[0];
            assert_eq!(complaint.grade, expected, "{in_use} of {assignable}");
        }
        let complaint = &judge(&of(253, 240))[0];
        assert_eq!(complaint.of, "network default/web");
        let says = "13 of 253 addresses are free";
        assert!(complaint.text.starts_with(says), "{complaint:?}");
        assert!(complaint.text.ends_with("remove endpoints"));
    }

    #[test]
    fn addresses_that_nobody_could_be_asked_for_are_unknown() {
        let complaint = &judge(&Err("away".to_owned()))[0];
        assert_eq!(
            (complaint.grade, complaint.text.as_str()),
            (Grade::Unknown, "away")
        );
    }
}
