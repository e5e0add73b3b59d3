//! Elements, chains and maps of one table, in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::execute::{Batch, copy, is_delete};
use super::netlink::is_absence;
use super::nftables::Refused;
use super::transaction;
use node_core::reconcile::Op;
use node_core::resource::{Element, Object, Place, Resource};

/// An op and its number in a batch.
type Numbered<'a> = (u32, Cow<'a, Op>);

/// Places in which something that decides was refused, and so all of it is.
type Fallen = BTreeMap<Place, i32>;

/// What is committed together, the last first.
///
/// A packet under way sees rules of before and elements of after (`resource::ruleset`). It is
/// dropped where the revision differs. Where that stays the same, the chains that are new stand
/// before anything leads there, or such a packet would find them empty.
fn steps(ops: &[Op]) -> Vec<(usize, Vec<Numbered<'_>>)> {
    let is_revision =
        |it: &Resource| matches!(it.object, Object::Element(Element::Revision { .. }));
    let revised = ops.iter().any(|op| match op {
        Op::Put(it) | Op::Delete(it) => is_revision(it),
        _ => false,
    });
    let numbered = ops.iter().enumerate();
    let numbered = numbered.map(|(index, op)| (transaction::number(index), Cow::Borrowed(op)));
    let is_led_to = |op: &Op| match op {
        Op::Put(it) => matches!(it.object, Object::Chain(_) | Object::Map(_)),
        _ => false,
    };
    let (first, rest) = numbered.partition(|(_, op)| !revised && is_led_to(op));
    vec![(0, rest), (0, first)]
}

/// How to put an element although somebody else's has its key.
fn taken_back(op: &Op, code: i32) -> Option<Op> {
    let is_taken = [nix::Error::EBUSY, nix::Error::EEXIST].map(|it| it as i32);
    match op {
        Op::Put(it) if matches!(it.object, Object::Element(_)) && is_taken.contains(&code) => {
            Some(Op::Change {
                from: it.clone(),
                to: it.clone(),
            })
        }
        _ => None,
    }
}

impl Batch<'_> {
    /// What the kernel refuses is left out and the rest tried again: a bad element keeps out no
    /// other, but what decides about a domain's connections stands all together or not at all, and
    /// keeps out no other tenant's.
    pub(super) async fn elements(&mut self, place: &Place, ops: &[Op]) {
        /// The kernel names all that is wrong at once, so what is left is right, or soon empty.
        const TRIES: usize = 8;
        let nftables = match self.datapath.nftables(place).await {
            Ok(nftables) => nftables,
            Err(error) if is_absence(&error) && ops.iter().all(is_delete) => return,
            Err(error) => return self.fail(ops, &error),
        };
        // What is tried next, last, and how often it was.
        let mut waiting = steps(ops);
        let mut fallen = Fallen::new();
        while let Some((tries, mut left)) = waiting.pop() {
            self.leave_out(&mut left, &[], &mut fallen);
            if left.is_empty() {
                continue;
            }
            let batch = transaction::batch(&left, tries == 0);
            let refused = match nftables.commit(batch).await {
                Ok(refused) if refused.is_empty() => continue,
                Ok(_) if tries == 0 => {
                    waiting.push((1, left));
                    continue;
                }
                Ok(refused) => refused,
                Err(error) => {
                    self.fail(left.iter().map(|(_, op)| &**op), &error);
                    continue;
                }
            };
            let whole = refused.iter().find(|it| it.number == transaction::WHOLE);
            if let Some(whole) = whole {
                let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
                for (number, op) in left {
                    let part = (op.place().clone(), op.decides());
                    parts.entry(part).or_default().push((number, op));
                }
                if parts.len() > 1 {
                    waiting.extend(parts.into_values().map(|part| (tries + 1, part)));
                } else {
                    let error = io::Error::from_raw_os_error(whole.code);
                    let ops = parts.values().flatten().map(|(_, op)| &**op);
                    self.fail(ops, &error);
                }
                continue;
            }
            self.leave_out(&mut left, &refused, &mut fallen);
            if tries < TRIES {
                waiting.push((tries + 1, left));
            } else {
                let error = io::Error::other("it isn't clear what the kernel refuses");
                self.fail(left.iter().map(|(_, op)| &**op), &error);
            }
        }
    }

    /// What is gone already needn't go, and what is taken is taken back; what is wrong fails, and
    /// with it what must stand together.
    fn leave_out(&mut self, ops: &mut Vec<Numbered<'_>>, refused: &[Refused], fallen: &mut Fallen) {
        let is_gone = |it: &&Refused| {
            transaction::is_deletion(it.kind) && it.code == nix::Error::ENOENT as i32
        };
        let gone: BTreeSet<u32> = refused.iter().filter(is_gone).map(|it| it.number).collect();
        let mut wrong: BTreeMap<u32, i32> = refused
            .iter()
            .filter(|it| !is_gone(it))
            .map(|it| (it.number, it.code))
            .collect();
        for (number, op) in ops.iter_mut() {
            if let Some(back) = wrong.get(number).and_then(|code| taken_back(op, *code)) {
                *op = Cow::Owned(back);
                wrong.remove(number);
            }
        }
        for (number, op) in ops.iter() {
            if let Some(code) = wrong.get(number).filter(|_| op.decides()) {
                fallen.insert(op.place().clone(), *code);
            }
        }
        let mut failed = Vec::new();
        ops.retain_mut(|(number, op)| {
            let along = || fallen.get(op.place()).filter(|_| op.decides());
            if let Some(code) = wrong.get(number).or_else(along) {
                failed.push((op.clone().into_owned(), *code));
                return false;
            }
            if !gone.contains(number) {
                return true;
            }
            match &**op {
                Op::Change { to, .. } => {
                    *op = Cow::Owned(Op::Put(to.clone()));
                    true
                }
                Op::Put(_) => true,
                Op::Delete(_) | Op::FlushConntrack { .. } => false,
            }
        });
        for (op, code) in failed {
            self.keep(&op, Err(io::Error::from_raw_os_error(code)));
        }
    }

    fn fail<'b>(&mut self, ops: impl IntoIterator<Item = &'b Op>, error: &io::Error) {
        for op in ops {
            self.keep(op, Err(copy(error)));
        }
    }
}
