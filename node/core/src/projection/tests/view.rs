//! Tests of the view of all endpoints.

use bus_schema::{Endpoint, EndpointEvent, EndpointId, MacAddr};

use super::*;

fn endpoint(id: &str, name: &str, address: &str, on: &str) -> Endpoint {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    Endpoint {
        id: EndpointId::new(id).unwrap(),
        tenant: tenant("blue"),
        network: net("web"),
        group: None,
        node: node(on),
        v4: Some(address),
        v6: None,
        mac: MacAddr::of_endpoint(address.into()),
        name: Some(name.to_owned()),
        aliases: vec!["alias".to_owned()],
        container: None,
        interface: "cv0".to_owned(),
        closed: None,
        vtep: "198.18.0.1".parse().unwrap(),
    }
}

fn up(endpoint: Endpoint, applied: u64) -> EndpointEvent {
    EndpointEvent::Up {
        endpoint,
        applied: Revision(applied),
    }
}

fn down(of: &Endpoint) -> EndpointEvent {
    EndpointEvent::Down {
        tenant: of.tenant.clone(),
        network: of.network.clone(),
        node: of.node.clone(),
        id: of.id.clone(),
        applied: Revision(1),
    }
}

fn resolve(view: &EndpointsView, name: &str) -> Vec<String> {
    let (tenant, name) = (tenant("blue"), full_name(name, "web"));
    let found = view.resolve(&tenant, &name);
    found.map(|(address, _)| address.to_string()).collect()
}

fn members(names: &[&str]) -> OrdMap<NodeName, NodeFact> {
    let fact = |name: &&str| {
        let machine = MachineId((*name).to_owned());
        let vtep = "198.18.0.1".parse().unwrap();
        (node(name), NodeFact::new(machine, vtep))
    };
    names.iter().map(fact).collect()
}

#[test]
fn endpoint_of_a_cloned_machine_replaces_none_of_the_original() {
    let mut view = EndpointsView::default();
    let original = endpoint("e1", "db", "10.0.0.20", "a");
    let of_clone = endpoint("e1", "db", "10.0.0.20", "b");
    view.hear(up(original.clone(), 0));
    view.hear(up(of_clone.clone(), 0));
    assert_eq!(view.len(), 2);
    // The clone finds that it has no such container.
    view.hear(down(&of_clone));
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
    let at = view.at(&tenant("blue"), "10.0.0.20".parse().unwrap());
    assert_eq!(at, Some(&original));
    let heard = [(original.id.clone(), original.node.clone())].into();
    view.hear(up(of_clone, 0));
    view.prune(&heard, &node("c"));
    assert_eq!(view.iter().collect::<Vec<_>>(), [&original]);
}

#[test]
fn names_and_addresses_follow_the_endpoints() {
    let mut view = EndpointsView::default();
    let (db, db2) = (
        endpoint("e1", "DB", "10.0.0.20", "a"),
        endpoint("e2", "db2", "10.0.0.21", "b"),
    );
    view.hear(up(db.clone(), 0));
    view.hear(up(db2.clone(), 0));
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
    assert_eq!(resolve(&view, "Alias"), ["10.0.0.20", "10.0.0.21"]);
    let at = |view: &EndpointsView| {
        let found = view.at(&tenant("blue"), "10.0.0.20".parse().unwrap());
        found.map(|it| it.id.to_string())
    };
    assert_eq!(at(&view).as_deref(), Some("e1"));
    let renamed = endpoint("e1", "mysql", "10.0.0.20", "a");
    view.hear(up(renamed, 0));
    assert!(resolve(&view, "db").is_empty());
    assert_eq!(resolve(&view, "mysql"), ["10.0.0.20"]);
    // Only its own node removes it.
    let mut forged = db.clone();
    forged.node = node("b");
    view.hear(down(&forged));
    assert_eq!(view.len(), 2);
    view.hear(down(&db));
    view.hear(down(&db2));
    assert_eq!(view, EndpointsView::default());
    assert_eq!(at(&view), None);
}

#[test]
fn endpoint_of_a_later_revision_is_held_back() {
    let mut view = EndpointsView::default();
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "a"), 5));
    let nodes = members(&["a"]);
    view.advance(Revision(4), &nodes);
    assert!(resolve(&view, "db").is_empty());
    view.advance(Revision(5), &nodes);
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
    let gone = endpoint("e2", "web", "10.0.0.21", "a");
    view.hear(up(gone.clone(), 9));
    view.hear(down(&gone));
    view.advance(Revision(9), &nodes);
    assert!(resolve(&view, "web").is_empty());
}

#[test]
fn endpoints_that_are_missing_in_the_stream_are_pruned_except_our_own() {
    let mut view = EndpointsView::default();
    for (id, on) in [("e1", "me"), ("e2", "b"), ("e3", "b")] {
        view.hear(up(endpoint(id, id, "10.0.0.20", on), 0));
    }
    view.hear(up(endpoint("e4", "e4", "10.0.0.22", "b"), 7));
    let heard = [(EndpointId::new("e3").unwrap(), node("b"))].into();
    view.prune(&heard, &node("me"));
    view.advance(Revision(7), &members(&["me", "b"]));
    let left: Vec<_> = view.iter().map(|it| it.id.to_string()).collect();
    assert_eq!(left, ["e1", "e3"]);
}

#[test]
fn endpoints_of_a_removed_node_are_shown_when_it_is_back() {
    let mut view = EndpointsView::default();
    let both = members(&["a", "b"]);
    view.advance(Revision(1), &both);
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "b"), 1));
    view.advance(Revision(2), &members(&["a"]));
    assert!(resolve(&view, "db").is_empty());
    // The stream still holds it.
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "b"), 1));
    assert!(resolve(&view, "db").is_empty());
    view.advance(Revision(3), &both);
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
}

#[test]
fn endpoints_of_others_are_recalled_after_a_restart() {
    let mut before = EndpointsView::default();
    let nodes = members(&["me", "b"]);
    before.advance(Revision(3), &nodes);
    before.hear(up(endpoint("e1", "mine", "10.0.0.20", "me"), 1));
    before.hear(up(endpoint("e2", "db", "10.0.0.21", "b"), 1));
    before.hear(up(endpoint("e3", "ahead", "10.0.0.22", "b"), 4));
    let mut view = EndpointsView::default();
    view.await_stream(true);
    view.recall(before.of_others(&node("me")));
    // The facts were saved earlier, when b was no member yet.
    view.advance(Revision(2), &members(&["me"]));
    assert_eq!(resolve(&view, "db"), ["10.0.0.21"]);
    view.advance(Revision(3), &nodes);
    assert_eq!(resolve(&view, "db"), ["10.0.0.21"]);
    assert!(resolve(&view, "mine").is_empty() && resolve(&view, "ahead").is_empty());
    assert!(!view.is_complete());
    // Read from its start: an endpoint that isn't in the stream is gone, and the view is complete.
    let heard = [(EndpointId::new("e3").unwrap(), node("b"))].into();
    view.prune(&heard, &node("me"));
    view.await_stream(true);
    assert!(view.is_complete() && resolve(&view, "db").is_empty());
    view.advance(Revision(4), &nodes);
    assert_eq!(resolve(&view, "ahead"), ["10.0.0.22"]);
}

#[test]
fn endpoints_recalled_of_another_log_are_hidden() {
    let mut before = EndpointsView::default();
    before.advance(Revision(9), &members(&["me", "b"]));
    before.hear(up(endpoint("e2", "db", "10.0.0.21", "b"), 1));
    let mut view = EndpointsView::default();
    view.recall(before.of_others(&node("me")));
    view.is_of_no_log();
    view.advance(Revision(0), &members(&[]));
    assert!(resolve(&view, "db").is_empty());
}
