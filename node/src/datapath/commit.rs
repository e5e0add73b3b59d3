//! Elements, chains and maps of one table, in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::execute::{Batch, copy, decides, is_delete, place_of};
use super::netlink::is_absence;
use super::nftables::Refused;
use super::transaction;
use crate::reconcile::Op;
use crate::resource::Place;

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
        let numbered = ops.iter().enumerate();
        let all = numbered.map(|(index, op)| (transaction::number(index), Cow::Borrowed(op)));
        let mut waiting = vec![all.collect::<Vec<_>>()];
        let mut tries = 0;
        while let Some(mut left) = waiting.pop() {
            if left.is_empty() {
                continue;
            }
            tries += 1;
            let batch = transaction::batch(&left, tries == 1);
            let refused = match nftables.commit(batch).await {
                Ok(refused) if refused.is_empty() => continue,
                Ok(_) if tries == 1 => {
                    waiting.push(left);
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
                    let part = (place_of(&op).clone(), decides(&op));
                    parts.entry(part).or_default().push((number, op));
                }
                if parts.len() > 1 && tries <= TRIES {
                    waiting.extend(parts.into_values());
                } else {
                    let error = io::Error::from_raw_os_error(whole.code);
                    let ops = parts.values().flatten().map(|(_, op)| &**op);
                    self.fail(ops, &error);
                }
                continue;
            }
            self.leave_out(&mut left, &refused);
            if tries <= TRIES {
                waiting.push(left);
            } else {
                let error = io::Error::other("it isn't clear what the kernel refuses");
                self.fail(left.iter().map(|(_, op)| &**op), &error);
            }
        }
    }

    /// What is gone already needn't go; what is wrong fails, and with it what must stand together.
    fn leave_out(&mut self, ops: &mut Vec<(u32, Cow<'_, Op>)>, refused: &[Refused]) {
        let is_gone = |it: &&Refused| {
            transaction::is_deletion(it.kind) && it.code == nix::Error::ENOENT as i32
        };
        let gone: BTreeSet<u32> = refused.iter().filter(is_gone).map(|it| it.number).collect();
        let wrong = refused.iter().filter(|it| !is_gone(it));
        let wrong: BTreeMap<u32, i32> = wrong.map(|it| (it.number, it.code)).collect();
        let mut fallen: BTreeMap<Place, i32> = BTreeMap::new();
        for (number, op) in ops.iter() {
            if let Some(code) = wrong.get(number).filter(|_| decides(op)) {
                fallen.insert(place_of(op).clone(), *code);
            }
        }
        let mut failed = Vec::new();
        ops.retain_mut(|(number, op)| {
            let along = || fallen.get(place_of(op)).filter(|_| decides(op));
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
                Op::Delete(_) | Op::Forget { .. } => false,
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
