//! Ways out of networks, with a real netmaster.

use serde_json::Value;

use crate::netmaster::Cluster;

#[test]
fn way_out_of_a_network_follows_its_tenants_default_until_it_is_given() {
    let cluster = Cluster::start();
    let egress = |network: &str| {
        let shown = cluster.done(&format!("net inspect {network} -t blue -o json"));
        let config = &serde_json::from_str::<Value>(&shown).unwrap()["Config"];
        (
            config["egress"].as_str().unwrap().to_owned(),
            config["allowMetadata"].as_bool().unwrap(),
        )
    };
    let (nat, none) = (
        |metadata| ("nat".to_owned(), metadata),
        || ("none".to_owned(), false),
    );
    cluster.done("tenant create blue");
    cluster.done("net create open -t blue -s 20.1.1.0/24");
    cluster.done("tenant update blue --egress=none");
    assert_eq!(egress("open"), nat(false), "a network keeps its own");
    cluster.done("net create closed -t blue -s 20.1.2.0/24");
    assert_eq!(egress("closed"), none());
    cluster.done("net create asks -t blue -s 20.1.3.0/24 --egress nat --allow-metadata");
    assert_eq!(egress("asks"), nat(true));

    // Once more without the flag is fine; with another value it is not.
    cluster.done("net create open -t blue -s 20.1.1.0/24");
    cluster.done("net create open -t blue -s 20.1.1.0/24 --egress=nat --allow-metadata=false");
    cluster.rejected(
        "net create open -t blue -s 20.1.1.0/24 --egress=none",
        "way out",
    );
    assert_eq!(
        cluster.run("net update open -t blue --egress=maybe").code,
        64
    );

    let wide = cluster.done("net ls -t blue -o wide");
    let columns = |line: &str| line.split_whitespace().last().map(str::to_owned);
    let shown: Vec<_> = wide.lines().filter_map(columns).collect();
    assert_eq!(shown, ["Egress", "------", "nat", "none", "nat"]);

    cluster.done("net update asks -t blue --allow-metadata=false");
    assert_eq!(egress("asks"), nat(false));
    cluster.done("net update asks -t blue --egress=none");
    assert_eq!(egress("asks"), none());

    let exported = cluster.done("export");
    assert!(exported.contains("egress: none\n"), "{exported}");
    let file = cluster.home.path().join("intent.yaml");
    std::fs::write(&file, exported.replace("egress: none", "egress: nat")).unwrap();
    let differs = cluster.run(&format!("diff -f {}", file.display())).out;
    assert!(
        differs.contains("~ network blue:closed egress nat (was none)"),
        "{differs}"
    );
    std::fs::write(&file, exported).unwrap();
    assert_eq!(
        cluster.done(&format!("apply -f {}", file.display())),
        "unchanged\n"
    );
}

#[test]
fn rule_without_an_effect_is_added_with_a_warning() {
    let cluster = Cluster::start();
    cluster.done("net create front -s 20.1.1.0/24 --egress=none");
    cluster.done("policy create p");
    cluster.done("group create front web --policy=p");
    let added = cluster.run("policy rule-add p 1 -d out --to-ip-address=world -j deny");
    assert_eq!(added.code, 0, "{added:?}");
    assert!(
        added.err.contains("rule 1 of policy p has no effect on group web: network front has no way out; `netctl net update front --egress=nat` gives it one"),
        "{added:?}"
    );
    let rules = cluster.done("policy rule-ls p");
    assert!(rules.contains("world"), "{rules}");
    let group = cluster.run("group create front db --policy=p");
    assert!(group.err.contains("no effect on group db"), "{group:?}");
    let inside = cluster.run("policy rule-add p 2 -d out --to-ip-address=20.1.1.7");
    assert_eq!(inside.err, "");
    cluster.done("net update front --egress=nat");
    let outside = cluster.run("policy rule-add p 3 -d out --to-ip-address=8.8.8.8");
    assert_eq!(outside.err, "");
}
