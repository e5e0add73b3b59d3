//! Rules that somebody replaces under their old comments.

use bus_schema::GroupId;
use node_core::reconcile::Op;
use node_core::resource::{Element, Object};
use node_datapath::Scope;

use crate::policy::{in_group, one_tenant};
use crate::world::{World, sh};

/// Replaces a chain's last rule that has a comment by an accept with the same comment.
fn replace_last_rule(world: &World, chain: &str) {
    let listed = world.in_domain(0, "red", &format!("nft -a list chain inet contiv {chain}"));
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut rules = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("comment \"")?;
        rest.split_once("\" # handle ")
    });
    let (comment, handle) = rules.next_back().unwrap_or_else(|| panic!("{text}"));
    let rule =
        format!(r#"replace rule inet contiv {chain} handle {handle} accept comment "{comment}""#);
    let netns = world.netfilter(0, "red");
    let output = sh(&format!("nsenter --net={} nft '{rule}'", netns.display()));
    assert!(output.status.success(), "{rule}: {output:?}");
}

async fn pending(world: &World) -> Vec<String> {
    let ops = world.pending(0).await;
    ops.iter().map(ToString::to_string).collect()
}

async fn one_member() -> World {
    let mut world = one_tenant().await;
    let rules = [
        "1 in deny",
        "2 in allow tcp 80,443,8000-8080 priority 5 group web",
    ];
    world.policy("red", "all", &rules);
    world.group("red", "web", 2, &["all"]);
    world.sync_all().await;
    world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_rule_replaced_under_its_comment_is_put_back() {
    let world = one_member().await;
    for chain in [
        "from_endpoint",
        "from_overlay",
        "dns",
        "opening",
        "passing",
        "to_domain",
    ] {
        replace_last_rule(&world, chain);
        let ops = pending(&world).await;
        assert!(
            ops.len() == 1 && ops[0].starts_with("~ table inet contiv"),
            "{chain}: {ops:#?}"
        );
        world.sync(0).await;
        assert_eq!(pending(&world).await, [""; 0], "{chain}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_rule_replaced_under_its_comment_is_put_back() {
    let world = one_member().await;
    let desired = world.desired(0);
    let chains = desired.resources().filter_map(|it| match &it.object {
        Object::Chain(it) => Some(it.name.clone()),
        _ => None,
    });
    let chains: Vec<String> = chains.collect();
    assert!(!chains.is_empty());
    for chain in chains {
        replace_last_rule(&world, &chain);
        let ops = pending(&world).await;
        assert!(
            ops.len() == 1 && ops[0].starts_with(&format!("~ chain {chain}")),
            "{chain}: {ops:#?}"
        );
        world.sync(0).await;
        assert_eq!(pending(&world).await, [""; 0], "{chain}");
    }
}

/// One transaction replaces an element by another while the table is read in many messages.
#[tokio::test(flavor = "multi_thread")]
async fn observation_is_of_one_transaction() {
    const CHANGES: u32 = 40;
    let world = one_member().await;
    let (place, zone) = (world.place_of(0, "red"), world.zone(0, "red"));
    let member = |number: u32, group: u16| {
        let member = Element::Member {
            zone,
            address: std::net::Ipv4Addr::from_bits(0x1402_0000 + number).into(),
            group: GroupId(group),
        };
        member.at(&place)
    };
    let datapath = world.hosts[0].datapath.clone();
    let fill: Vec<Op> = (0..5_000)
        .map(|number| Op::Put(member(number, 2)))
        .collect();
    datapath.execute(&fill).await.expect("programmed");
    let moves: Vec<[Op; 2]> = (0..CHANGES)
        .map(|time| {
            [
                Op::Delete(member(time, 2)),
                Op::Put(member(5_000 + time, 2)),
            ]
        })
        .collect();
    let before = datapath.observe(&Scope::All).await.expect("observed").len();
    let change = tokio::spawn({
        let datapath = datapath.clone();
        async move {
            for ops in moves {
                datapath.execute(&ops).await.expect("changed");
            }
        }
    });
    while !change.is_finished() {
        let seen = datapath.observe(&Scope::All).await.expect("observed");
        assert_eq!(seen.len(), before);
    }
    change.await.expect("no panic");
}
