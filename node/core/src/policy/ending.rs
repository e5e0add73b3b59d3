//! Finds the open connections that a policy doesn't allow any more.

use bus_schema::PolicyName;
use bus_schema::node::Flow;

use super::{Cache, Deciding, End, decide};
use crate::projection::TenantFact;

/// Whether an open connection must end: an end of it is in a group of the policies, and the rules
/// wouldn't accept it now. As for packets, an unknown sender opens no connection, and no rules hold
/// for a receiver that is no endpoint.
pub fn must_end(
    tenant: &TenantFact,
    policies: &[PolicyName],
    flow: &Flow,
    (from, to): (End, End),
    cache: &mut Cache,
) -> bool {
    let uses = |end: &End| match end {
        End::Endpoint(Some(group)) => {
            let fact = tenant.groups.get(group);
            fact.is_some_and(|fact| policies.iter().any(|it| fact.spec.policies.contains(it)))
        }
        End::Endpoint(None) | End::World | End::Unknown => false,
    };
    if to == End::Unknown || !uses(&from) && !uses(&to) {
        return false;
    }
    let deciding = Deciding {
        tenant,
        from: &from,
        to: &to,
    };
    !decide(&deciding, flow, cache).allowed
}
