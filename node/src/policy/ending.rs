//! Which open connections a policy doesn't allow any more.

use bus_schema::node::Flow;
use bus_schema::{GroupName, PolicyName};

use super::{Cache, Deciding, decide};
use crate::projection::TenantFact;

/// Who is at one end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An endpoint, perhaps in a group.
    Endpoint(Option<GroupName>),
    /// Nobody that we know.
    Unknown,
}

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
    let End::Endpoint(to) = to else {
        return false;
    };
    let uses = |group: &Option<GroupName>| {
        let fact = group.as_ref().and_then(|name| tenant.groups.get(name));
        fact.is_some_and(|fact| policies.iter().any(|it| fact.spec.policies.contains(it)))
    };
    let from = match from {
        End::Unknown => return uses(&to),
        End::Endpoint(from) => from,
    };
    if !uses(&from) && !uses(&to) {
        return false;
    }
    let deciding = Deciding {
        tenant,
        from: from.as_ref(),
        to: to.as_ref(),
    };
    !decide(&deciding, flow, cache).allowed
}
