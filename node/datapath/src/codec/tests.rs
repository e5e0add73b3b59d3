//! The codec reads what it wrote.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bus_schema::policy::Direction;
use bus_schema::{AddressRange, GroupId, Revision};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::elements::{self, entry};
use super::entry::Entry;
use super::objects::{
    ANONYMOUS, Anonymous, INTERVAL, NAME, OF_TABLE, SET_FLAGS, SET_KEY_TYPE, Set, type_of,
};
use super::rules::{self, OwnMap};
use crate::wire::{Buffer, attributes};
use node_core::resource::{
    ArpField, BucketLimit, Element, Field, RuleBody, RuleMap, Span, Statement, TABLE, Target,
};

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        Just(Field::Mark),
        Just(Field::Priority),
        Just(Field::Protocol),
        Just(Field::Source),
        Just(Field::Destination),
        Just(Field::Port),
    ]
}

fn last_of(field: Field) -> u32 {
    match field {
        Field::Protocol => 0xff,
        Field::Port => 0xffff,
        _ => u32::MAX,
    }
}

fn value(field: Field) -> impl Strategy<Value = u32> {
    0..=last_of(field)
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_]{0,14}"
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![name().prop_map(Target::Jump), name().prop_map(Target::Goto)]
}

/// Disjoint spans in their order, each with something.
fn spans<T: std::fmt::Debug + Clone>(
    field: Field,
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<(Span, T)>> {
    let starts = btree_map(value(field), (any::<u32>(), of), 1..6);
    (starts, any::<bool>()).prop_map(move |(starts, ranges)| {
        let ends = starts.keys().skip(1).map(|next| next - 1);
        let ends: Vec<u32> = ends.chain([last_of(field)]).collect();
        let each = starts.into_iter().zip(ends);
        each.map(|((first, (length, it)), end)| {
            let last = first.saturating_add(length % 100).min(end);
            (Span(first, if ranges { last } else { first }), it)
        })
        .collect()
    })
}

fn mask(field: Field) -> impl Strategy<Value = u32> {
    // A mask of all bits isn't written, and so reads as `Statement::FULL_MASK`.
    prop_oneof![Just(Statement::FULL_MASK), 0..last_of(field)]
}

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        field()
            .prop_flat_map(|field| (Just(field), value(field), value(field)))
            .prop_map(|(field, one, other)| Statement::Match(
                field,
                Span(one.min(other), one.max(other))
            )),
        any::<u32>().prop_map(Statement::CtMarkAbove),
        any::<u32>().prop_map(Statement::SetMark),
        field()
            .prop_flat_map(|field| (Just(field), spans(field, any::<u32>())))
            .prop_map(|(field, of)| Statement::SetMarkByMap(field, of)),
        Just(Statement::SetMarkByMember),
        Just(Statement::SetMarkByPool),
        Just(Statement::CtMarkFromMark),
        any::<u32>().prop_map(Statement::SetCtMark),
        (any::<u32>(), any::<u32>()).prop_map(|(mask, connections)| {
            Statement::CountConnections(BucketLimit { mask, connections })
        }),
        target().prop_map(Statement::Verdict),
        field()
            .prop_flat_map(|field| (Just(field), mask(field), spans(field, target())))
            .prop_map(|(field, mask, to)| Statement::Vmap(field, mask, to)),
        field()
            .prop_flat_map(|field| (Just(field), mask(field), name()))
            .prop_map(|(field, mask, map)| Statement::NamedVmap(field, mask, map)),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|it| Ipv4Addr::from_bits(it).into()),
        any::<u128>().prop_map(|it| Ipv6Addr::from_bits(it).into()),
    ]
}

fn subnet() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32_u8).prop_map(|(address, length)| {
        let net = Ipv4Net::new(Ipv4Addr::from_bits(address), length);
        IpNet::V4(net.expect("a prefix").trunc())
    });
    let v6 = (any::<u128>(), 0..=128_u8).prop_map(|(address, length)| {
        let net = Ipv6Net::new(Ipv6Addr::from_bits(address), length);
        IpNet::V6(net.expect("a prefix").trunc())
    });
    prop_oneof![v4, v6]
}

fn arp_field() -> impl Strategy<Value = ArpField> {
    prop_oneof![Just(ArpField::Sender), Just(ArpField::Target)]
}

fn element_of_ports() -> impl Strategy<Value = Element> {
    let zone = any::<u16>;
    let group = || any::<u16>().prop_map(GroupId);
    prop_oneof![
        address().prop_map(|vtep| Element::Peer { vtep }),
        (name(), address(), group()).prop_map(|(interface, address, stamp)| Element::Stamp {
            interface,
            address,
            stamp,
        }),
        (name(), address())
            .prop_map(|(interface, address)| Element::Endpoint { interface, address }),
        (zone(), address()).prop_map(|(zone, address)| Element::Gateway { zone, address }),
        (zone(), address()).prop_map(|(zone, address)| Element::Resolver { zone, address }),
        (zone(), subnet()).prop_map(|(zone, subnet)| Element::Subnet { zone, subnet }),
        (zone(), subnet(), name()).prop_map(|(zone, subnet, chain)| Element::ConnectionLimit {
            zone,
            subnet,
            chain,
        }),
        (name(), zone()).prop_map(|(interface, zone)| Element::Zone { interface, zone }),
        (name(), arp_field(), address()).prop_map(|(interface, field, address)| {
            Element::ArpAddress {
                interface,
                field,
                address,
            }
        }),
        (zone(), any::<[u32; 2]>(), group()).prop_map(|(zone, ends, group)| {
            let [first, last] = ends.map(|it| Ipv4Addr::from_bits(it).into());
            let range = AddressRange { first, last };
            Element::Pool { zone, range, group }
        }),
        (zone(), address(), group()).prop_map(|(zone, address, group)| Element::Member {
            zone,
            address,
            group,
        }),
    ]
}

fn element() -> impl Strategy<Value = Element> {
    let zone = any::<u16>;
    let group = || any::<u16>().prop_map(GroupId);
    let of_groups = (zone(), group(), any::<u8>()).prop_map(|(zone, group, kind)| match kind % 3 {
        0 => Element::AllowedSource { zone, group },
        1 => Element::CtMarkTemplate { zone, group },
        _ => Element::EstablishedPair { zone, group },
    });
    let keys = prop_oneof![
        Just(Field::Mark),
        Just(Field::Priority),
        Just(Field::Source)
    ];
    let line = (keys, zone(), any::<u32>(), target()).prop_map(|(field, zone, key, to)| {
        let name = format!("m{zone}_0");
        let map = RuleMap { name, field };
        Element::VmapEntry { map, key, to }
    });
    let of_rules = prop_oneof![
        (zone(), any::<bool>(), group(), name()).prop_map(|(zone, is_in, group, chain)| {
            Element::Program {
                zone,
                direction: if is_in { Direction::In } else { Direction::Out },
                group,
                chain,
            }
        }),
        (zone(), any::<u32>()).prop_map(|(zone, rule)| Element::RuleCounter { zone, rule }),
        (zone(), any::<u16>()).prop_map(|(zone, revision)| Element::Revision { zone, revision }),
        (zone(), name()).prop_map(|(zone, chain)| Element::RevisionChain { zone, chain }),
        (zone(), any::<u64>()).prop_map(|(zone, revision)| Element::Applied {
            zone,
            revision: Revision(revision),
        }),
    ];
    prop_oneof![element_of_ports(), of_groups, line, of_rules]
}

/// The map as the kernel lists it, with its elements in another order.
fn listed(map: &OwnMap<'_>) -> Anonymous {
    let mut set = Buffer::default();
    set.text(OF_TABLE, TABLE);
    set.text(NAME, "__map0");
    set.number(SET_FLAGS, ANONYMOUS | if map.ranges { INTERVAL } else { 0 });
    set.number(SET_KEY_TYPE, type_of(map.field));
    let mut list = Buffer::default();
    map.entries.iter().rev().for_each(|it| it.write(&mut list));
    let elements = attributes(list.bytes()).map(|(_, it)| it.to_vec());
    Anonymous::new(&Set::read(set.bytes()).expect("a set"), elements.collect())
}

proptest! {
    #[test]
    fn rule_body_reads_as_it_was_written(body in vec(statement(), 0..8).prop_map(RuleBody)) {
        let mut list = Buffer::default();
        rules::write(&mut list, &body, 1);
        let maps: Vec<Anonymous> = rules::own_maps(&body).map(|it| listed(&it)).collect();
        // They are read in the order of their look-ups.
        let next = Cell::new(0);
        let anonymous = |_: &str| maps.get(next.replace(next.get() + 1));
        prop_assert_eq!(rules::read(list.bytes(), &anonymous), Some(body));
    }

    #[test]
    fn element_reads_as_it_was_written(element in element()) {
        let mut list = Buffer::default();
        entry(&element, true).write(&mut list);
        let (_, bytes) = attributes(list.bytes()).next().expect("an element");
        let read = Entry::read(bytes).expect("an entry");
        let read = match &element {
            Element::VmapEntry { map, .. } => elements::read_vmap_entry(&map.name, map.field, &read),
            _ => elements::read(element.set(), &read),
        };
        prop_assert_eq!(read, Some(element));
    }

    #[test]
    fn garbage_is_no_rule_and_no_element(bytes in vec(any::<u8>(), 0..64), set in 0..20_usize) {
        const SETS: [&str; 20] = [
            "peers", "peers6", "stamps", "endpoints", "gateways", "subnets", "zones", "known",
            "members", "programs_in", "hits", "openers", "same", "revisions", "revised", "applied",
            "limits", "pools", "arp_senders", "arp_targets",
        ];
        let read = rules::read(&bytes, &|_| None);
        prop_assert!(read.is_none_or(|it| it.0.is_empty()));
        if let Some(entry) = Entry::read(&bytes) {
            elements::read(SETS[set], &entry);
            elements::read_vmap_entry("m1_0", Field::Port, &entry);
        }
    }
}
