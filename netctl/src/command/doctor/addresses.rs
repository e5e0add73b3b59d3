//! Networks and groups' pools with less than a tenth of their addresses free.

use bus_schema::node::Grade;
use bus_schema::query::{AddressCount, GroupInfo, NetworkInfo};

use super::check::{CheckResult, result};
use crate::client::Session;
use crate::command::{group, network};
use crate::failure::Failure;

/// The addresses of a network, or of a group's own pool.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    of: String,
    count: AddressCount,
    /// The remedy when they run out.
    remedy: &'static str,
}

impl Pool {
    /// `None`: the network is being removed, or the netmaster is older and doesn't count addresses.
    pub(super) fn of_network(info: &NetworkInfo) -> Option<Self> {
        Some(Self {
            of: format!("network {}/{}", info.spec.tenant, info.spec.name),
            count: info.addresses.filter(|_| !info.closing)?,
            remedy: "remove endpoints, or start containers in another network",
        })
    }

    /// `None`: as for networks, or the group has no pool of its own.
    pub(super) fn of_group(info: &GroupInfo) -> Option<Self> {
        Some(Self {
            of: format!("group {}/{}", info.spec.tenant, info.spec.name),
            count: info.addresses.filter(|_| !info.closing)?,
            remedy: "remove endpoints, or create a group with a larger pool",
        })
    }

    fn warning(&self) -> Option<CheckResult> {
        let AddressCount { assignable, in_use } = self.count;
        let free = assignable.saturating_sub(in_use);
        let remedy = self.remedy;
        let text = match free {
            0 => format!(
                "none of its {assignable} addresses is free, so no container can start in it: {remedy}"
            ),
            free => format!(
                "{free} of {assignable} addresses are free; when none is left, no container can start in it: {remedy}"
            ),
        };
        let is_low = free.saturating_mul(10) < assignable;
        is_low.then(|| result(Grade::Warning, &self.of, text))
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

pub(super) fn judge(pools: &Result<Vec<Pool>, String>) -> Vec<CheckResult> {
    let of = "addresses";
    let pools = match pools {
        Ok(pools) => pools,
        Err(why) => return vec![result(Grade::Unknown, of, why)],
    };
    let low: Vec<CheckResult> = pools.iter().filter_map(Pool::warning).collect();
    match low.is_empty() {
        true => vec![result(
            Grade::Fine,
            of,
            "every network has at least a tenth of its addresses free",
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
            let warning = &judge(&of(assignable, in_use))[0];
            assert_eq!(warning.grade, expected, "{in_use} of {assignable}");
        }
        let warning = &judge(&of(253, 240))[0];
        assert_eq!(warning.of, "network default/web");
        let says = "13 of 253 addresses are free";
        assert!(warning.text.starts_with(says), "{warning:?}");
        assert!(warning.text.ends_with("remove endpoints"));
    }

    #[test]
    fn addresses_are_unknown_without_netmaster() {
        let warning = &judge(&Err("away".to_owned()))[0];
        assert_eq!(
            (warning.grade, warning.text.as_str()),
            (Grade::Unknown, "away")
        );
    }
}
