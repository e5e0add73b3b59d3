//! `nft` lists a table that we wrote by netlink like one that `nft` wrote itself from the same text.

use std::fmt::Write;

use node_core::reconcile::Op;
use node_core::resource::{Element, Field, Object, Place, Resource, Ruleset, State};
use serde_json::Value;

use crate::policy::{in_group, one_tenant};
use crate::world::{World, exec};

/// The words of nft for our tables, and all in it, in a state.
fn words(state: &State) -> String {
    let (mut table, mut maps, mut chains) = (String::new(), String::new(), String::new());
    let (mut rules, mut elements) = (String::new(), String::new());
    for resource in state.resources() {
        let said = match &resource.object {
            Object::Table(it) => write!(table, "{}", it.script(&Ruleset::default())),
            Object::Map(it) => {
                let keys = match it.field {
                    Field::Mark => "mark",
                    Field::Priority => "classid",
                    Field::Source => "ipv4_addr",
                    other => panic!("no map has keys like {other:?}"),
                };
                let name = &it.name;
                writeln!(
                    maps,
                    "add map inet contiv {name} {{ type {keys} : verdict; }}"
                )
            }
            Object::Chain(it) => {
                let name = &it.name;
                for rule in &it.rules {
                    let steps = rule.text.0.as_ref().expect("desired");
                    let digest = &rule.digest;
                    writeln!(
                        rules,
                        "add rule inet contiv {name} {steps} comment \"{digest}\""
                    )
                    .expect("written");
                }
                writeln!(chains, "add chain inet contiv {name}")
            }
            Object::Element(it) => {
                let text = it.to_string();
                let text = text.strip_prefix("element ").expect("its name");
                let family = it.family();
                writeln!(elements, "add element {family} contiv {text}")
            }
            _ => Ok(()),
        };
        said.expect("written");
    }
    [table, maps, chains, rules, elements].concat()
}

/// The objects of `nft -j list`, in one order, without the kernel's numbers.
fn objects(json: &[u8]) -> Vec<String> {
    let listed = serde_json::Deserializer::from_slice(json).into_iter::<Value>();
    let listed: Vec<Value> = listed.map(|it| it.expect("JSON")).collect();
    let objects = listed
        .iter()
        .flat_map(|it| it["nftables"].as_array().expect("objects").clone());
    let mut lines: Vec<String> = objects
        .map(|mut object| {
            for value in object.as_object_mut().expect("an object").values_mut() {
                if let Some(value) = value.as_object_mut() {
                    value.remove("handle");
                    if let Some(Value::Array(elements)) = value.get_mut("elem") {
                        elements.sort_by_key(ToString::to_string);
                    }
                }
            }
            object.to_string()
        })
        .collect();
    // Rules stay in the order of their chain.
    lines.sort_by_key(|line| match line.starts_with(r#"{"rule""#) {
        true => serde_json::from_str::<Value>(line).expect("JSON")["rule"]["chain"].to_string(),
        false => line.clone(),
    });
    lines
}

fn all_kinds_of_rules(world: &mut World) {
    let mut rules = vec![
        "1 in deny".to_owned(),
        "2 in allow tcp 80 priority 5 group app".to_owned(),
        "3 in allow tcp 81 priority 5 from 20.1.1.128/25".to_owned(),
        "4 in allow tcp 82 priority 5 network net".to_owned(),
        "5 in allow tcp 83,85,87-90,100-200,300,400,500,600,700-800 priority 5".to_owned(),
        "6 in deny icmp priority 9 from 20.1.1.129/32".to_owned(),
        "7 in deny udp priority 9 from 20.1.1.129/32".to_owned(),
        "8 out deny tcp 84 group web".to_owned(),
        "9 out allow udp 84 from 20.1.1.0/24".to_owned(),
        "10 in allow icmp priority 3".to_owned(),
    ];
    let many = (0..200).map(|number| {
        let port = number * 320 + 1;
        format!("{} in allow tcp {port} priority 7", number + 100)
    });
    rules.extend(many);
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    world.policy("red", "all", &rules);
    world.group("red", "web", 2, &["all"]);
    world.group("red", "app", 0x1ff, &["all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn netlink_writes_the_same_as_nft() {
    let mut world = one_tenant().await;
    all_kinds_of_rules(&mut world);
    world.sync_all().await;
    world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    world.attach_in(0, in_group("app"), "app", "20.1.1.2").await;
    // A host without VRFs has no table about ARP.
    let list =
        "sh -c 'nft -j list table inet contiv && nft -j list table arp contiv 2>/dev/null; :'";
    for (host, tenant) in [(0, Some("red")), (0, None)] {
        let (ours, place) = match tenant {
            Some(tenant) => (
                world.in_domain(host, tenant, list),
                Some(world.place_of(host, tenant)),
            ),
            None => (exec(&world.hosts[host].netns, list), None),
        };
        let state = world.desired(host);
        // In a VRF all is in the host's table.
        let whole = world.zone(host, "red") != 0;
        let state = match place {
            Some(place) if !whole => state.of(&place),
            None if !whole => state.of(&Place::Host),
            _ => state,
        };
        let theirs = world.namespace(&format!("nft{}", u8::from(tenant.is_some())));
        let script = words(&state);
        let file = std::env::temp_dir().join(&theirs);
        std::fs::write(&file, script).expect("written");
        let done = exec(&theirs, &format!("nft -f {}", file.display()));
        std::fs::remove_file(&file).expect("removed");
        assert!(done.status.success(), "{done:?}");
        let theirs = exec(&theirs, list);
        assert!(ours.status.success() && theirs.status.success(), "{ours:?}");
        let (ours, theirs) = (objects(&ours.stdout), objects(&theirs.stdout));
        for (one, other) in ours.iter().zip(&theirs) {
            assert_eq!(one, other);
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

/// A line of the compiled rules that a group leads to; its map and its key as nft writes them.
async fn with_a_line_about_a_group() -> (World, Resource, String, String) {
    let mut world = one_tenant().await;
    all_kinds_of_rules(&mut world);
    world.sync_all().await;
    world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let state = world.desired(0);
    let lines = state.resources().filter_map(|it| match &it.object {
        Object::Element(Element::VmapEntry { map, key, .. }) if map.field == Field::Priority => {
            Some((it, &map.name, key))
        }
        _ => None,
    });
    let (line, map, key) = lines.min().expect("a rule about a group");
    let (map, key) = (format!("inet contiv {map}"), format!("0:{key:x}"));
    (world, line.clone(), map, key)
}

/// What somebody puts into a map of compiled rules is seen, whatever it is, and no bar to what is
/// to be there.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_element_in_a_rule_map_is_reverted() {
    let (world, _, map, taken) = with_a_line_about_a_group().await;
    let harms = [
        format!("add element {map} {{ 0:777 : accept }}"),
        format!("add element {map} {{ 0:777 timeout 1h : accept }}"),
        format!("delete element {map} {{ {taken} }}; add element {map} {{ {taken} : accept }}"),
        format!(
            "delete element {map} {{ {taken} }}; add element {map} {{ {taken} comment \\\"x\\\" : accept }}"
        ),
    ];
    for harm in harms {
        let output = world.in_domain(0, "red", &format!("nft \"{harm}\""));
        if !output.status.success() && harm.contains("timeout") {
            // The map has no time limits: nothing was done.
            continue;
        }
        assert!(output.status.success(), "{harm}: {output:?}");
        assert_ne!(world.pending(0).await, [], "{harm}");
        world.sync(0).await;
        assert_eq!(world.pending(0).await, [], "{harm}");
    }
}

/// The core's knowledge may be behind: another's element has the key of what is to be put.
#[tokio::test(flavor = "multi_thread")]
async fn taken_key_is_taken_back() {
    let (world, line, map, key) = with_a_line_about_a_group().await;
    let harm = format!("delete element {map} {{ {key} }}; add element {map} {{ {key} : accept }}");
    let output = world.in_domain(0, "red", &format!("nft \"{harm}\""));
    assert!(output.status.success(), "{output:?}");
    let put = world.hosts[0].datapath.execute(&[Op::Put(line)]).await;
    put.expect("it is there now");
    assert_eq!(world.pending(0).await, []);
}
