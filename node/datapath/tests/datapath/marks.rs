//! The mark of outer packets: the host's `ip rule fwmark` sees it, and never a group's id.

use crate::policy::{in_group, one_tenant};
use crate::traffic::{is_dropped, listen, opens};
use crate::world::{World, run, sh};

/// Routes packets with this mark to a device that leads nowhere.
fn misroute(world: &World, mark: u32) {
    let netns = &world.hosts[0].netns;
    sh(&format!(
        "ip -n {netns} link add nowhere type veth peer name nobody"
    ));
    run(&format!(
        "ip -n {netns} addr replace 10.99.0.1/24 dev nowhere"
    ));
    for end in ["nowhere", "nobody"] {
        run(&format!("ip -n {netns} link set {end} up"));
    }
    run(&format!(
        "ip -n {netns} route replace default dev nowhere table 77"
    ));
    run(&format!(
        "ip -n {netns} rule add pref 2000 fwmark {mark} lookup 77"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_by_fwmark_see_the_operators_mark_and_no_group() {
    let mut world = one_tenant().await;
    world.group("red", "app", 5, &[]);
    world.policy("red", "prod", &["1 in deny tcp 81 group app"]);
    world.group("red", "db", 6, &["prod"]);
    world.sync_all().await;
    let app = world.attach_in(0, in_group("app"), "app", "20.1.1.1").await;
    let db = world.attach_in(1, in_group("db"), "db", "20.1.1.129").await;
    let _listeners = [80, 81].map(|port| listen(&db, port));
    misroute(&world, 5);
    assert!(
        is_dropped(&app, "20.1.1.129", 80),
        "VXLAN's own look-up sees the group"
    );
    let rules = world.hosts[0].datapath.mark_rules().await.expect("read");
    let shown: Vec<_> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["ip rule 2000: from all fwmark 0x5 lookup 77"]);

    world.hosts[0].params.outer_mark = Some(0);
    world.sync(0).await;
    assert!(opens(&app, "20.1.1.129", 80).is_some(), "no group is seen");
    assert!(
        is_dropped(&app, "20.1.1.129", 81),
        "the group still arrives"
    );
    world.hosts[0].params.outer_mark = Some(0x77);
    world.sync(0).await;
    assert!(opens(&app, "20.1.1.129", 80).is_some(), "no rule matches");
    misroute(&world, 0x77);
    assert!(is_dropped(&app, "20.1.1.129", 80), "the mark is seen");
    assert_eq!(world.pending(0).await, []);
    world.hosts[0].params.outer_mark = None;
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
}
