//! A table of ours as the kernel lists it: its rules, and the elements of its sets. No I/O.
//!
//! A rule counts as the one that its comment names only if it does the same. A compiled rule is
//! decoded, and its digest compared with the comment. For a fixed rule, which `nft` wrote, the bytes
//! are compared with those of a rule that `nft` wrote in a scratch namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::codec::elements;
use super::codec::entry::Entry;
use super::codec::objects::{self, Anonymous, Set};
use super::codec::{expressions, rules};
use node_core::resource::{Chain, Element, Family, Field, Rule, Ruleset, Unseen, zone_of};

/// The bodies of fixed rules as bytes to compare, by the rules' comments.
pub(super) type Bodies = Arc<BTreeMap<String, Vec<u8>>>;

/// A table of ours.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The rule that somebody replaced has no digest.
    pub(super) rules: Ruleset,
    /// Maps of compiled rules, and what their keys are like.
    pub(super) maps: Vec<(String, Field)>,
    pub(super) elements: Vec<Element>,
    /// It has flags, which ours never has: it is dormant, or only its owner may change it. What it
    /// holds isn't listed then.
    pub(super) flagged: bool,
    pub(super) bodies: BTreeMap<String, Vec<u8>>,
}

impl Listing {
    pub(super) fn empty(family: Family) -> Self {
        let mut listing = Self::default();
        listing.rules.family = family;
        listing
    }

    pub(super) fn flagged(family: Family) -> Self {
        Self {
            flagged: true,
            ..Self::empty(family)
        }
    }
}

/// A table of which some objects are read: sets come before rules.
pub(super) struct Reading<'a> {
    listing: Listing,
    right: &'a Bodies,
    /// Where in the listing each chain is.
    chains: BTreeMap<String, usize>,
    anonymous: BTreeMap<String, Anonymous>,
}

impl<'a> Reading<'a> {
    /// `right` are the bodies that rules should have.
    pub(super) fn new(family: Family, right: &'a Bodies) -> Self {
        Self {
            listing: Listing::empty(family),
            right,
            chains: BTreeMap::new(),
            anonymous: BTreeMap::new(),
        }
    }

    pub(super) fn anonymous(&mut self, set: &Set, elements: Vec<Vec<u8>>) {
        let content = Anonymous::new(set, elements);
        self.anonymous.insert(set.name.clone(), content);
    }

    pub(super) fn set(&mut self, set: &Set) {
        let name = set.name.clone();
        match zone_of(&name) {
            Some(_) => self.listing.maps.push((name, set.field())),
            None => self.listing.rules.sets.push((name, Unseen(None))),
        }
    }

    pub(super) fn element(&mut self, of: &Set, bytes: &[u8]) {
        let read = |entry: Entry<'_>| match zone_of(&of.name) {
            Some(_) => elements::read_vmap_entry(&of.name, of.field(), &entry),
            None => elements::read(&of.name, &entry),
        };
        self.listing
            .elements
            .extend(Entry::read(bytes).and_then(read));
    }

    pub(super) fn chain(&mut self, body: &[u8]) {
        let Some((name, base)) = objects::chain(self.listing.rules.family, body) else {
            return;
        };
        let chains = &mut self.listing.rules.chains;
        self.chains.insert(name.clone(), chains.len());
        chains.push(Chain {
            name,
            base,
            rules: Vec::new(),
        });
    }

    pub(super) fn rule(&mut self, body: &[u8]) {
        let Some(rule) = objects::rule(body) else {
            return;
        };
        let is_right = match zone_of(rule.chain) {
            Some(_) => self.is_compiled(&rule),
            None => self.is_fixed(&rule),
        };
        let digest = if is_right { rule.comment } else { "" };
        let at = self.chains.get(rule.chain);
        if let Some(chain) = at.and_then(|at| self.listing.rules.chains.get_mut(*at)) {
            chain.rules.push(Rule {
                digest: digest.to_owned(),
                text: Unseen(None),
            });
        }
    }

    fn is_compiled(&self, rule: &objects::Rule<'_>) -> bool {
        let anonymous = |name: &str| self.anonymous.get(name);
        let body = rules::read(rule.expressions, &anonymous);
        body.is_some_and(|body| format!("{:08x}", body.digest()) == rule.comment)
    }

    /// A rule of which nobody knows the right body counts as what its comment says.
    fn is_fixed(&mut self, rule: &objects::Rule<'_>) -> bool {
        let anonymous = |name: &str| self.anonymous.get(name).map(Anonymous::comparable);
        let body = expressions::comparable(rule.expressions, &anonymous);
        let is_right = self.right.get(rule.comment).is_none_or(|it| *it == body);
        self.listing.bodies.insert(rule.comment.to_owned(), body);
        is_right
    }

    pub(super) fn end(mut self) -> Listing {
        self.listing.rules.sort();
        self.listing
    }
}
