use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: RuleFlags,
}

fn spec(typed: &str) -> Result<RuleSpec, String> {
    let words = std::iter::once("rule-add").chain(typed.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    line.flags.spec().map_err(|failure| {
        assert_eq!(failure.code(), crate::failure::EXIT_USAGE, "{failure}");
        failure.to_string()
    })
}

fn shown(typed: &str) -> String {
    line(&spec(typed).unwrap())
}

#[test]
fn flags_have_contivs_letters() {
    for (long, short, meaning) in [
        ("", "", "in allow, priority 1"),
        (
            "--direction=in --protocol=tcp --action=deny",
            "-d in -l tcp -j deny",
            "in deny tcp, priority 1",
        ),
        (
            "--protocol=tcp --port=443,80,8000-8100,81 --priority=10 --from-group=web",
            "-l tcp -P 443,80,8000-8100,81 -p 10 -g web",
            "in allow tcp port 80-81,443,8000-8100 from group web, priority 10",
        ),
        (
            "--direction=out --to-group=db",
            "-d out -e db",
            "out allow to group db, priority 1",
        ),
        (
            "--from-network=front",
            "-n front",
            "in allow from network front, priority 1",
        ),
        (
            "--direction=out --to-network=back",
            "-d out -o back",
            "out allow to network back, priority 1",
        ),
        (
            "--from-ip-address=10.1.1.7/16",
            "-i 10.1.1.7/16",
            "in allow from 10.1.0.0/16, priority 1",
        ),
        (
            "--direction=out --to-ip-address=10.1.1.1-20",
            "-d out -s 10.1.1.1-20",
            "out allow to 10.1.1.1-10.1.1.20, priority 1",
        ),
        ("--protocol=47", "-l 47", "in allow 47, priority 1"),
    ] {
        assert_eq!(shown(long), meaning);
        assert_eq!(shown(short), meaning);
    }
}

#[test]
fn contradictory_flags_are_refused_with_the_reason() {
    for (typed, reason) in [
        (
            "--direction=out --from-group=a",
            "--from-group can't be used",
        ),
        (
            "--direction=out --from-network=a",
            "the destination of connections",
        ),
        ("--direction=out --from-ip-address=10.1.1.1", "use --to-*"),
        ("--to-group=a", "--to-group can't be used"),
        ("--to-network=a", "the source of connections"),
        ("--to-ip-address=10.1.1.1", "use --from-*"),
        ("--from-group=a --from-network=b", "can't be used together"),
        (
            "--from-network=a --from-ip-address=10.1.1.1",
            "can't be used together",
        ),
        (
            "--from-group=a --from-ip-address=10.1.1.1",
            "write two rules",
        ),
        (
            "--direction=out --to-group=a --to-network=b",
            "can't be used together",
        ),
        ("--port=80", "--protocol=tcp"),
        ("--port=80 --protocol=icmp", "--protocol=tcp"),
        ("--priority=0", "1 to 100"),
        ("--priority=101", "1 to 100"),
        ("--priority=high", "1 to 100"),
        ("--direction=sideways", "[possible values: in, out]"),
        ("--action=maybe", "[possible values: allow, deny]"),
        ("--protocol=tpc", "no protocol"),
        ("--protocol=256", "no protocol"),
        ("--protocol=tcp --port=0", "leave --port out"),
        ("--protocol=tcp --port=65536", "no port"),
        ("--protocol=tcp --port=90-80", "no port"),
        ("--protocol=tcp --port=http", "no port"),
        ("--protocol=tcp --port=80,,90", "no port"),
        ("--from-ip-address=10.1.1", "10.1.1.1-20"),
        ("--from-ip-address=10.1.1.0/33", "10.1.1.1-20"),
        ("--from-ip-address=10.1.1.9-3", "10.1.1.3-10.1.1.9"),
        ("--from-ip-address=fd00::1", "IPv4"),
        ("--from-ip-address=World", "or world"),
        ("--from-ip-address=host", "don't exist yet"),
        (
            "--direction=out --to-ip-address=world --to-group=world",
            "can't be used together",
        ),
        ("--from-group=a.b", "letters, digits"),
    ] {
        let refused = spec(typed).expect_err(typed);
        assert!(refused.contains(reason), "{typed}: {refused}");
    }
}

#[test]
fn addresses_are_shown_in_their_shortest_form() {
    for (typed, shown) in [
        ("10.1.1.1", "10.1.1.1"),
        ("10.1.1.1/32", "10.1.1.1"),
        ("10.1.1.0-255", "10.1.1.0/24"),
        ("10.1.0.0-10.1.255.255", "10.1.0.0/16"),
        ("10.1.1.1-20", "10.1.1.1-10.1.1.20"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ] {
        let Addresses(Peer::Addresses { range }) = typed.parse().unwrap() else {
            panic!("{typed}");
        };
        assert_eq!(show_addresses(range), shown);
    }
}

fn rule(id: &str, typed: &str) -> Rule {
    Rule {
        id: id.parse().unwrap(),
        number: 7,
        spec: spec(typed).unwrap(),
    }
}

#[test]
fn rule_ls_prints_contivs_tables() {
    let rules = [
        rule("1", "-l tcp -j deny"),
        rule("2", "-l tcp -P 80 -p 10 -g lb"),
        rule("3", "-d out -l udp -P 53 -s 10.1.1.0/24"),
    ];
    assert_eq!(
        tables(&rules),
        "\
Incoming Rules:
Rule  Priority  From EndpointGroup  From Network  From IpAddress  To IpAddress  Protocol  Port  Action
----  --------  ------------------  ------------  --------------  ------------  --------  ----  ------
1     1                                                                         tcp             deny
2     10        lb                                                              tcp       80    allow
Outgoing Rules:
Rule  Priority  To EndpointGroup  To Network  To IpAddress  Protocol  Port  Action
----  --------  ----------------  ----------  ------------  --------  ----  ------
3     1                                       10.1.1.0/24   udp       53    allow
"
    );
}

#[test]
fn json_of_a_rule_has_contivs_keys() {
    let value = config(
        &TenantName::default_tenant(),
        &"prod_web".parse().unwrap(),
        &rule("2", "-l tcp -P 80,443 -p 10 -g lb"),
    );
    let expected = json!({
        "key": "default:prod_web:2",
        "ruleId": "2",
        "policyName": "prod_web",
        "tenantName": "default",
        "direction": "in",
        "priority": 10,
        "fromEndpointGroup": "lb",
        "toEndpointGroup": "",
        "fromNetwork": "",
        "toNetwork": "",
        "fromIpAddress": "",
        "toIpAddress": "",
        "protocol": "tcp",
        "port": "80,443",
        "action": "allow",
    });
    assert_eq!(value, expected);
}

#[test]
fn world_is_a_word_in_place_of_addresses_and_no_group() {
    let world = rule("4", "-d out --to-ip-address=world");
    assert_eq!(world.spec.peer, Some(Peer::World));
    assert_eq!(line(&world.spec), "out allow to world, priority 1");
    assert_eq!(keys(&world.spec)["toIpAddress"], "world");
    let group = spec("-d in -g world").unwrap();
    assert!(matches!(group.peer, Some(Peer::Group { .. })));
}
