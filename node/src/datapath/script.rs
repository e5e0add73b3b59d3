//! Ops on our table as a script for `nft`. No I/O.

use crate::reconcile::Op;
use crate::resource::{Element, Resource, RuleChain, TABLE};

/// One transaction of these ops, which are in their order. `nft` refuses to delete what isn't
/// there; `surely` adds it before.
pub(super) fn script(ops: &[Op], surely: bool) -> String {
    let mut script = String::new();
    let chain =
        |verb: &str, chain: &RuleChain| format!("{verb} chain inet {TABLE} {}\n", chain.chain.name);
    // A rule may lead to any of the chains.
    for op in ops {
        match op {
            Op::Put(Resource::Chain(it))
            | Op::Change {
                to: Resource::Chain(it),
                ..
            } => {
                script += &chain("add", it);
            }
            Op::Delete(Resource::Chain(it)) if surely => script += &chain("add", it),
            _ => {}
        }
    }
    for op in ops {
        match op {
            Op::Put(Resource::Chain(it))
            | Op::Change {
                to: Resource::Chain(it),
                ..
            } => {
                script += &it.chain.fill();
            }
            Op::Delete(Resource::Chain(it)) => script += &chain("flush", it),
            _ => script += &line(op, surely),
        }
    }
    for op in ops {
        if let Op::Delete(Resource::Chain(it)) = op {
            script += &chain("delete", it);
        }
    }
    script
}

/// The lines for an element.
fn line(op: &Op, surely: bool) -> String {
    let gone = |element: &Element| match surely {
        true => element.add() + &element.delete(),
        false => element.delete(),
    };
    match op {
        Op::Put(Resource::Element(it)) => it.add(),
        Op::Delete(Resource::Element(it)) => gone(it),
        Op::Change {
            from: Resource::Element(from),
            to: Resource::Element(to),
        } => gone(from) + &to.add(),
        _ => String::new(),
    }
}
