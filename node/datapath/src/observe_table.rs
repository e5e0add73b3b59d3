//! Our tables of a namespace, as resources of the places that share it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::listing::Listing;
use super::observe::{Owners, View};
use node_core::resource::{
    Chain, Element, Family, Object, Place, Rule, RuleMap, State, Unseen, zone_of,
};

impl View<'_> {
    /// Reads our tables.
    pub(super) async fn tables(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        for family in Family::ALL {
            let listing = self.nftables.table(family, self.bodies.clone()).await?;
            if let Some(listing) = listing {
                self.table(listing, owners, state);
            }
        }
        Ok(())
    }

    /// Where VRFs share the table, an element, map or chain belongs to the domain of its device or of its
    /// conntrack zone.
    fn table(&self, listing: Listing, owners: &Owners, state: &mut State) {
        let mut rules = listing.rules;
        let compiled = |chain: &mut Chain| zone_of(&chain.name).is_some();
        let compiled: Vec<Chain> = rules.chains.extract_if(.., compiled).collect();
        state.insert(Object::Table(rules).at(&self.place));
        let zone_of_device = |it: &Element| match it {
            Element::Zone { interface, zone } => {
                let place = owners.place_of(interface)?.clone();
                let is_own = matches!(&place, Place::Domain(name) if name.as_str() == interface);
                Some((is_own, *zone, place))
            }
            _ => None,
        };
        let mut of_devices: Vec<_> = listing.elements.iter().filter_map(zone_of_device).collect();
        // The VRF device decides: another one may be out of its VRF.
        of_devices.sort_by_key(|(is_own, ..)| *is_own);
        let zones = of_devices.into_iter().map(|(_, zone, place)| (zone, place));
        let zones: BTreeMap<u16, Place> = zones.collect();
        for element in listing.elements {
            let place = match (&self.place, &element) {
                (Place::Domain(_), _) => Some(&self.place),
                (
                    _,
                    Element::Stamp { interface, .. }
                    | Element::Endpoint { interface, .. }
                    | Element::UplinkAddress { interface, .. }
                    | Element::Zone { interface, .. }
                    | Element::ArpAddress { interface, .. },
                ) => owners.place_of(interface),
                (_, of_zone) => of_zone.zone().and_then(|zone| zones.get(&zone)),
            };
            state.insert(element.at(place.unwrap_or(&Place::Host)));
        }
        let place_of = |name: &str| match &self.place {
            Place::Domain(_) => self.place.clone(),
            Place::Host => {
                let zone = zone_of(name);
                let place = zone.and_then(|zone| zones.get(&zone).cloned());
                place.unwrap_or(Place::Host)
            }
        };
        for (name, field) in listing.maps {
            let place = place_of(&name);
            state.insert(Object::Map(RuleMap { name, field }).at(&place));
        }
        for Chain { name, base, rules } in compiled {
            let place = place_of(&name);
            let rules = rules.into_iter().map(|rule| Rule {
                digest: rule.digest,
                text: Unseen(None),
            });
            let rules = rules.collect();
            let chain = Chain { name, base, rules };
            state.insert(Object::Chain(Arc::new(chain)).at(&place));
        }
    }
}
