//! Removes a network or a group: netmaster closes it first and then asks its nodes; a refusal names the
//! endpoints or nodes that prevent the removal. A network is removed when its blocks came back; a removal
//! that isn't finished within the deadline goes on by the reactions of `process`. A group is removed when
//! all nodes answered that they hold none of it. `resume` asks nodes again that didn't answer in time.

mod closing;
mod resume;
mod target;

pub(super) use self::closing::remove;
pub(crate) use self::resume::resume;
pub(super) use self::target::Target;
