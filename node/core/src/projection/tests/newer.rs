//! Tests of events that were written for newer readers only.

use super::*;

#[test]
fn newer_event_closes_the_noun_in_its_subject() {
    let mut projection = fold(histories().concat());
    let mut at = projection.applied;
    let mut newer = |projection: &mut Projection, of: &str| {
        at = at.next();
        projection.apply_newer(at, event_id(at.0), of)
    };
    let open = |projection: &Projection, name| !projection.tenants[&tenant(name)].newer;
    let touched = newer(&mut projection, "contiv.log.blue.intent.network.web");
    assert_eq!(touched, Touched::tenant(&tenant("blue")));
    assert!(!open(&projection, "blue") && open(&projection, "red"));
    newer(&mut projection, "contiv.log._cluster.settings");
    assert!(!open(&projection, "red"));
    assert_eq!(
        (projection.applied, projection.applied_event),
        (at, Some(event_id(at.0)))
    );
}

#[test]
fn newer_event_about_a_group_or_a_policy_closes_those_groups_alone() {
    let mut projection = Projection::default();
    let mut at = Revision(0);
    let mut tell = |projection: &mut Projection, event: Option<Event>, of: &str| {
        at = at.next();
        match event {
            Some(event) => projection.apply(at, event_id(at.0), &event),
            None => projection.apply_newer(at, event_id(at.0), of),
        }
    };
    let blue = tenant("blue");
    let made = |name: &str, id: u16, policies: &[&str]| {
        let policies = policies.iter().map(|it| it.parse().expect("a name"));
        Event::GroupCreated(GroupCreated {
            group: GroupSpec {
                tenant: tenant("blue"),
                network: "web".parse().expect("a name"),
                name: name.parse().expect("a name"),
                id: GroupId(id),
                policies: policies.collect(),
                docker_name: None,
                pool: None,
            },
        })
    };
    let closed = |projection: &Projection| -> Vec<u16> {
        let fact = &projection.tenants[&blue];
        assert!(!fact.newer);
        fact.closed_groups().iter().map(|id| id.0).collect()
    };
    for (name, id, policies) in [("a", 2, ["p"]), ("b", 3, ["q"]), ("c", 4, ["p"])] {
        tell(&mut projection, Some(made(name, id, &policies)), "");
    }
    assert!(closed(&projection).is_empty());
    let touched = tell(&mut projection, None, "contiv.log.blue.intent.group.b");
    assert_eq!(touched, Touched::tenant(&blue));
    assert_eq!(closed(&projection), [3]);
    // A policy that isn't known yet: whoever uses it is closed.
    tell(&mut projection, None, "contiv.log.blue.intent.policy.p");
    assert_eq!(closed(&projection), [2, 3, 4]);
    let detached = Event::GroupUpdated(GroupUpdated {
        tenant: blue.clone(),
        group: "c".parse().expect("a name"),
        policies: vec![],
    });
    tell(&mut projection, Some(detached), "");
    assert_eq!(closed(&projection), [2, 3]);
    // Recreated, they are other objects.
    tell(&mut projection, Some(made("b", 5, &["q"])), "");
    let created = Event::PolicyCreated(PolicyCreated {
        tenant: blue.clone(),
        policy: "p".parse().expect("a name"),
    });
    tell(&mut projection, Some(created), "");
    assert!(closed(&projection).is_empty());
}
