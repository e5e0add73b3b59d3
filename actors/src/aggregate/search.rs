//! The search for an address in a pool of which every block is leased: it chooses the next holder to
//! give addresses up.
//!
//! Each holder first reports how much it could give up. A whole block is preferred: it is returned, and
//! the lease is decided again. If no holder offers a block, the one with the most free addresses cedes
//! one.

use std::collections::BTreeMap;

use bus_schema::NodeName;
use bus_schema::node::Spare;
use bus_schema::rejection::{HolderUse, Holders, Unasked};

/// One round over the holders of a pool's blocks.
#[derive(Debug, Clone)]
pub struct Search {
    asker: NodeName,
    holders: BTreeMap<NodeName, Holder>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Awaited,
    Answered(Spare),
    /// It can't be asked; why.
    Unasked(String),
    /// It offered addresses and gave none up; why.
    GaveNothing(String),
}

/// The next step of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Holders are still to answer.
    Wait,
    /// Ask this node to return an unused block.
    ReturnBlock(NodeName),
    /// Ask this node to cede an address to the asker.
    CedeAny(NodeName),
    /// Every node that offered addresses gave none up, or some node is ceding addresses that may
    /// come back: ask all holders again, in a new search.
    AskAgain,
    /// Nobody offers an address.
    Exhausted(Holders),
}

impl Search {
    /// Every holder is still to answer. The asker may be one of them: a block that it is returning
    /// can be leased to it again, but it cedes nothing to itself.
    pub fn new(asker: NodeName, holders: impl IntoIterator<Item = NodeName>) -> Self {
        let holders = holders.into_iter().map(|node| (node, Holder::Awaited));
        Self {
            asker,
            holders: holders.collect(),
        }
    }

    /// Holders that haven't answered yet, by name.
    pub fn awaited(&self) -> impl Iterator<Item = &NodeName> {
        let awaited = self.holders.iter();
        awaited
            .filter(|(_, holder)| **holder == Holder::Awaited)
            .map(|(node, _)| node)
    }

    /// Takes a holder's answer; an error is the reason why it can't be asked. Only the first answer of
    /// an awaited holder counts.
    pub fn answered(&mut self, node: &NodeName, answer: Result<Spare, String>) {
        if let Some(holder @ Holder::Awaited) = self.holders.get_mut(node) {
            *holder = match answer {
                Ok(spare) => Holder::Answered(spare),
                Err(reason) => Holder::Unasked(reason),
            };
        }
    }

    /// Notes that a holder offered addresses and then gave none up.
    pub fn gave_nothing(&mut self, node: &NodeName, reason: String) {
        if let Some(holder @ Holder::Answered(_)) = self.holders.get_mut(node) {
            *holder = Holder::GaveNothing(reason);
        }
    }

    /// Chooses the next step. A whole block is taken as soon as one is offered; everything else waits
    /// for the last answer.
    pub fn next(&self) -> Next {
        if let Some(node) = self.most(|_, spare| spare.blocks) {
            return Next::ReturnBlock(node.clone());
        }
        if self.awaited().next().is_some() {
            return Next::Wait;
        }
        let rested = self.most(|node, spare| self.of_others(node, spare.free));
        let ceding = rested.or_else(|| self.most(|node, it| self.of_others(node, it.recent)));
        if let Some(node) = ceding {
            return Next::CedeAny(node.clone());
        }
        let may_offer = |it: &Holder| match it {
            Holder::GaveNothing(_) => true,
            Holder::Answered(spare) => spare.ceding > 0,
            Holder::Awaited | Holder::Unasked(_) => false,
        };
        if self.holders.values().any(may_offer) {
            return Next::AskAgain;
        }
        Next::Exhausted(self.holders())
    }

    /// Lists how much each node holds, as far as it is known. A node that hasn't answered, or that gave
    /// nothing up, is listed with the reason instead.
    pub fn holders(&self) -> Holders {
        let mut holders = Holders::default();
        for (node, holder) in &self.holders {
            let node = node.clone();
            let reason = match holder {
                Holder::Answered(spare) => {
                    holders.asked.push(HolderUse {
                        node,
                        addresses: spare.addresses,
                        in_use: spare.in_use,
                    });
                    continue;
                }
                Holder::Awaited => "it didn't answer in time".to_owned(),
                Holder::Unasked(reason) | Holder::GaveNothing(reason) => reason.clone(),
            };
            holders.unasked.push(Unasked { node, reason });
        }
        holders
    }

    fn of_others(&self, node: &NodeName, count: u64) -> u64 {
        match *node == self.asker {
            true => 0,
            false => count,
        }
    }

    /// The node that offers the most, the first by name of several; `None`: nobody offers any.
    fn most(&self, of: impl Fn(&NodeName, &Spare) -> u64) -> Option<&NodeName> {
        let offers = self
            .holders
            .iter()
            .filter_map(|(node, holder)| match holder {
                Holder::Answered(spare) => Some((of(node, spare), node)),
                _ => None,
            });
        offers
            .filter(|(offered, _)| *offered > 0)
            .max_by(|(a, one), (b, other)| a.cmp(b).then(other.cmp(one)))
            .map(|(_, node)| node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schema::testing;

    fn node(name: &str) -> NodeName {
        testing::name(name)
    }

    fn of(names: &[&str]) -> Search {
        Search::new(node("asker"), names.iter().map(|name| node(name)))
    }

    fn full(addresses: u64) -> Spare {
        Spare {
            addresses,
            in_use: addresses,
            blocks: 0,
            free: 0,
            recent: 0,
            ceding: 0,
        }
    }

    fn offers(blocks: u64, free: u64) -> Spare {
        Spare {
            addresses: 16,
            in_use: 16_u64.saturating_sub(free),
            blocks,
            free,
            recent: 0,
            ceding: 0,
        }
    }

    fn holder(name: &str, addresses: u64, in_use: u64) -> HolderUse {
        HolderUse {
            node: node(name),
            addresses,
            in_use,
        }
    }

    fn unasked(name: &str, reason: &str) -> Unasked {
        Unasked {
            node: node(name),
            reason: reason.to_owned(),
        }
    }

    /// All orders of `0..n`.
    fn orders(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![vec![]];
        }
        let shorter = orders(n - 1);
        let insert = |order: &Vec<usize>, at: usize| {
            let mut order = order.clone();
            order.insert(at, n - 1);
            order
        };
        shorter
            .iter()
            .flat_map(|order| (0..n).map(move |at| insert(order, at)))
            .collect()
    }

    /// The steps that the search chooses after each answer, in this order.
    fn steps(answers: &[(&str, Result<Spare, String>)], order: &[usize]) -> Vec<Next> {
        let names: Vec<&str> = answers.iter().map(|(name, _)| *name).collect();
        let mut search = of(&names);
        let mut steps = vec![search.next()];
        for answer in order.iter().map(|i| &answers[*i]) {
            search.answered(&node(answer.0), answer.1.clone());
            steps.push(search.next());
        }
        steps
    }

    #[test]
    fn pool_that_nobody_holds_is_exhausted() {
        assert_eq!(of(&[]).next(), Next::Exhausted(Holders::default()));
    }

    #[test]
    fn block_is_taken_before_all_have_answered() {
        let answers = [
            ("n1", Ok(full(16))),
            ("n2", Ok(offers(1, 16))),
            ("n3", Err("silent".to_owned())),
            ("n4", Ok(offers(0, 15))),
        ];
        for order in orders(answers.len()) {
            let offered = 1 + order.iter().position(|i| *i == 1).expect("it answers");
            let steps = steps(&answers, &order);
            for (answered, next) in steps.iter().enumerate() {
                let expected = match answered < offered {
                    true => Next::Wait,
                    false => Next::ReturnBlock(node("n2")),
                };
                assert_eq!(*next, expected, "{answered} answers in order {order:?}");
            }
        }
    }

    #[test]
    fn address_is_ceded_by_the_node_with_the_most_free_ones_after_all_have_answered() {
        let answers = [
            ("n1", Ok(full(16))),
            ("n2", Ok(offers(0, 3))),
            ("n3", Err("silent".to_owned())),
            ("n4", Ok(offers(0, 7))),
            ("n5", Ok(offers(0, 7))),
        ];
        for order in orders(answers.len()) {
            let mut steps = steps(&answers, &order);
            assert_eq!(steps.pop(), Some(Next::CedeAny(node("n4"))), "{order:?}");
            assert!(steps.iter().all(|next| *next == Next::Wait), "{order:?}");
        }
    }

    #[test]
    fn exhausted_pool_names_all_holders_in_every_order_of_answers() {
        let answers = [
            ("asker", Ok(full(4))),
            ("n1", Ok(full(16))),
            ("n2", Err("no status for 9 s".to_owned())),
            ("n3", Ok(full(12))),
        ];
        let holders = Holders {
            asked: vec![
                holder("asker", 4, 4),
                holder("n1", 16, 16),
                holder("n3", 12, 12),
            ],
            unasked: vec![unasked("n2", "no status for 9 s")],
        };
        for order in orders(answers.len()) {
            let mut steps = steps(&answers, &order);
            let last = steps.pop();
            assert_eq!(last, Some(Next::Exhausted(holders.clone())), "{order:?}");
            assert!(steps.iter().all(|next| *next == Next::Wait), "{order:?}");
        }
    }

    #[test]
    fn asker_returns_a_block_and_cedes_nothing_to_itself() {
        let mut search = of(&["asker", "n1"]);
        search.answered(&node("asker"), Ok(offers(1, 16)));
        assert_eq!(search.next(), Next::ReturnBlock(node("asker")));
        let mut search = of(&["asker", "n1"]);
        search.answered(&node("asker"), Ok(offers(0, 16)));
        assert_eq!(search.next(), Next::Wait);
        search.answered(&node("n1"), Ok(full(16)));
        let asked = vec![holder("asker", 16, 0), holder("n1", 16, 16)];
        let unasked = vec![];
        assert_eq!(search.next(), Next::Exhausted(Holders { asked, unasked }));
    }

    #[test]
    fn address_that_was_freed_a_moment_ago_is_the_last_choice() {
        let mut search = of(&["n1", "n2"]);
        let recent = Spare {
            recent: 9,
            ..full(15)
        };
        search.answered(&node("n1"), Ok(recent));
        search.answered(&node("n2"), Ok(offers(0, 1)));
        assert_eq!(search.next(), Next::CedeAny(node("n2")));
        search.gave_nothing(&node("n2"), "used meanwhile".to_owned());
        assert_eq!(search.next(), Next::CedeAny(node("n1")));
    }

    #[test]
    fn holders_are_asked_again_while_one_of_them_is_ceding() {
        let mut search = of(&["n1"]);
        let ceding = Spare {
            ceding: 1,
            ..full(15)
        };
        search.answered(&node("n1"), Ok(ceding));
        assert_eq!(search.next(), Next::AskAgain);
    }

    #[test]
    fn next_holder_is_tried_when_one_gives_nothing() {
        let mut search = of(&["n1", "n2", "n3"]);
        search.answered(&node("n1"), Ok(offers(2, 20)));
        search.answered(&node("n2"), Ok(offers(1, 10)));
        assert_eq!(search.next(), Next::ReturnBlock(node("n1")));
        search.gave_nothing(&node("n1"), "used meanwhile".to_owned());
        assert_eq!(search.next(), Next::ReturnBlock(node("n2")));
        search.gave_nothing(&node("n2"), "used meanwhile".to_owned());
        assert_eq!(search.next(), Next::Wait);
        search.answered(&node("n3"), Ok(offers(0, 1)));
        assert_eq!(search.next(), Next::CedeAny(node("n3")));
    }

    #[test]
    fn holders_are_asked_again_when_all_that_offered_gave_nothing() {
        let mut search = of(&["n1", "n2"]);
        search.answered(&node("n1"), Ok(offers(0, 1)));
        search.answered(&node("n2"), Ok(full(16)));
        search.gave_nothing(&node("n1"), "used meanwhile".to_owned());
        assert_eq!(search.next(), Next::AskAgain);
        let holders = Holders {
            asked: vec![holder("n2", 16, 16)],
            unasked: vec![unasked("n1", "used meanwhile")],
        };
        assert_eq!(search.holders(), holders);
    }

    #[test]
    fn only_the_first_answer_of_a_holder_counts() {
        let mut search = of(&["n1", "n2"]);
        search.answered(&node("n1"), Err("silent".to_owned()));
        search.answered(&node("n1"), Ok(offers(1, 16)));
        search.answered(&node("n9"), Ok(offers(1, 16)));
        search.gave_nothing(&node("n2"), "it wasn't asked".to_owned());
        assert_eq!(search.next(), Next::Wait);
        let late = "it didn't answer in time";
        let unasked = vec![unasked("n1", "silent"), unasked("n2", late)];
        let asked = vec![];
        assert_eq!(search.holders(), Holders { asked, unasked });
    }
}
