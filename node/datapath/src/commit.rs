//! Commits elements, chains and maps of one table in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::execute::{Execution, copy, is_delete};
use super::netlink::is_absence;
use super::nftables::Refused;
use super::transaction;
use node_core::reconcile::Op;
use node_core::resource::{Element, Object, Place, Resource};

/// An op and its number in a batch.
type Numbered<'a> = (u32, Cow<'a, Op>);

/// Places in which the kernel refused something that decides, with its error. All that decides is
/// refused there.
type RefusedPlaces = BTreeMap<Place, i32>;

/// The ops of each transaction, the last one first.
///
/// A packet under way sees rules of before and elements of after (`resource::ruleset`), and is dropped
/// if the revision differs. If that stays the same, new chains are committed before anything jumps
/// to them, or such a packet would find them empty.
fn transactions(ops: &[Op]) -> Vec<(usize, Vec<Numbered<'_>>)> {
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

/// The op that puts an element whose key somebody else's element has.
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

impl Execution<'_> {
    /// Commits ops of one table. It leaves out what the kernel refuses, and tries the rest again: a bad
    /// element doesn't hold up others. What decides about a domain's connections is committed whole or
    /// not at all, and doesn't hold up another tenant's.
    pub(super) async fn elements(&mut self, place: &Place, ops: &[Op]) {
        /// The kernel names all that is wrong at once, so the rest is right, or soon empty.
        const MAX_TRIES: usize = 8;
        let nftables = match self.datapath.nftables(place).await {
            Ok(nftables) => nftables,
            Err(error) if is_absence(&error) && ops.iter().all(is_delete) => return,
            Err(error) => return self.fail(ops, &error),
        };
        // Each with the number of its tries; the last one is next.
        let mut waiting = transactions(ops);
        let mut refused_places = RefusedPlaces::new();
        while let Some((tries, mut left)) = waiting.pop() {
            self.leave_out(&mut left, &[], &mut refused_places);
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
            self.leave_out(&mut left, &refused, &mut refused_places);
            if tries < MAX_TRIES {
                waiting.push((tries + 1, left));
            } else {
                let error = io::Error::other("it isn't clear what the kernel refuses");
                self.fail(left.iter().map(|(_, op)| &**op), &error);
            }
        }
    }

    /// Leaves out deletions of what is gone already, and replaces puts whose key is taken. What is wrong
    /// fails, and with it all that decides in its place.
    fn leave_out(
        &mut self,
        ops: &mut Vec<Numbered<'_>>,
        refused: &[Refused],
        refused_places: &mut RefusedPlaces,
    ) {
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
                refused_places.insert(op.place().clone(), *code);
            }
        }
        let mut failed = Vec::new();
        ops.retain_mut(|(number, op)| {
            let along = || refused_places.get(op.place()).filter(|_| op.decides());
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
