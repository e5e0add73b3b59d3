//! Which open connections a policy doesn't allow any more.

use bus_schema::PolicyName;
use bus_schema::node::Flow;

use super::{Cache, Deciding, End, decide};
use crate::projection::TenantFact;

/// Whether an open connection must end: it is one of the policies' groups, and wouldn't be opened
/// now. As for a packet, a sender that nobody knows opens nothing; who isn't an endpoint receives
/// by no rules.
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
        End::Endpoint(None) | End::Unknown => false,
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
