//! The network between the hosts: one bridge in a namespace of its own, a veth to each host and
//! one to the machine. Partitions are an nft table in the hosts that drops what peers send.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::host::feed;
use crate::state::HostState;
use crate::{Error, Result, address};

/// Claims a free subnet by making the machine's interface into the underlay.
pub(crate) fn claim_subnet(underlay: i32) -> Result<u8> {
    // Start somewhere else each time: labs that start together rarely collide.
    let first = fastrand::u8(1..=254);
    let candidates = (first..=254).chain(1..first);
    let mut last = Error::NoSubnet;
    for subnet in candidates {
        let interface = address::interface(subnet);
        let link =
            format!("link add name {interface} type veth peer name machine netns {underlay}\n");
        match feed(None, &["ip", "-batch", "-"], &link) {
            Ok(()) => return Ok(subnet),
            Err(Error::Command { output, .. }) if output.contains("File exists") => {}
            Err(error) => {
                last = error;
                break;
            }
        }
    }
    Err(last)
}

/// What the underlay does to each packet that a host sends, in the words of tc-netem(8).
pub(crate) fn netem() -> Option<String> {
    std::env::var("CONTIV_TEST_NETEM")
        .ok()
        .filter(|it| !it.is_empty())
}

/// Joins the machine and `hosts` with the bridge.
pub(crate) fn connect(underlay: i32, subnet: u8, hosts: &[(&str, &HostState)]) -> Result<()> {
    let mut bridge = "link add name br0 type bridge\nlink set br0 up\n\
                      link set machine master br0 up\n"
        .to_owned();
    for (name, host) in hosts {
        let pid = host.holder.pid;
        let _ = writeln!(
            bridge,
            "link add name {name} type veth peer name eth0 netns {pid}\nlink set {name} master br0 up"
        );
    }
    feed(Some(underlay), &["ip", "-batch", "-"], &bridge)?;
    for (_, host) in hosts {
        let up = format!("addr add {}/24 dev eth0\nlink set eth0 up\n", host.address);
        feed(Some(host.holder.pid), &["ip", "-batch", "-"], &up)?;
        if let Some(netem) = netem() {
            let words = ["tc", "qdisc", "add", "dev", "eth0", "root", "netem"];
            let words: Vec<&str> = words.into_iter().chain(netem.split(' ')).collect();
            feed(Some(host.holder.pid), &words, "")?;
        }
    }
    let interface = address::interface(subnet);
    let machine = address::machine(subnet);
    let up = format!("addr add {machine}/24 dev {interface}\nlink set {interface} up\n");
    feed(None, &["ip", "-batch", "-"], &up)
}

/// The kernel removes the interface with the lab's namespaces, but a moment after its processes.
pub(crate) fn disconnect(subnet: u8) {
    let delete = format!("link delete {}\n", address::interface(subnet));
    let _ = feed(None, &["ip", "-batch", "-"], &delete);
}

pub(crate) fn set_link(underlay: i32, host: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    feed(
        Some(underlay),
        &["ip", "-batch", "-"],
        &format!("link set {host} {state}\n"),
    )
}

/// Drops what `from` send to this host, before connection tracking, in addition to earlier cuts.
pub(crate) fn cut(host: &HostState, from: &[Ipv4Addr]) -> Result<()> {
    let from: Vec<String> = from.iter().map(Ipv4Addr::to_string).collect();
    let rules = format!(
        "table ip lab {{\n set cut {{ type ipv4_addr; }}\n chain in {{\n  \
         type filter hook prerouting priority -400; policy accept;\n }}\n}}\n\
         flush chain ip lab in\nadd rule ip lab in ip saddr @cut drop\n\
         add element ip lab cut {{ {} }}\n",
        from.join(", ")
    );
    feed(Some(host.holder.pid), &["nft", "-f", "-"], &rules)
}

pub(crate) fn mend(host: &HostState) -> Result<()> {
    let rules = "table ip lab { }\ndelete table ip lab\n";
    feed(Some(host.holder.pid), &["nft", "-f", "-"], rules)
}
