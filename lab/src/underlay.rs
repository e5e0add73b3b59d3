//! The network between the hosts: one bridge in a namespace of its own, a veth to each host and one to
//! the machine. A partition is an nft table in the hosts that drops packets of other hosts.

use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::host::{UNDERLAY, feed};
use crate::lab::Lab;
use crate::state::HostState;
use crate::{Error, Result, address};

/// Partitions: they hold until [`Lab::repair`].
impl Lab {
    /// Drops every packet between the two groups of hosts, until [`Lab::repair`].
    pub fn partition(&self, these: &[&str], those: &[&str]) -> Result<()> {
        self.cut(these, those)?;
        self.cut(those, these)
    }

    /// Drops every packet from the first hosts to the second ones, until [`Lab::repair`].
    pub fn cut(&self, from: &[&str], to: &[&str]) -> Result<()> {
        let from: Vec<Ipv4Addr> = from
            .iter()
            .map(|h| self.address(h))
            .collect::<Result<_>>()?;
        to.iter()
            .try_for_each(|name| drop_from(self.host(name)?, &from))
    }

    /// Cuts a host off from all others.
    pub fn isolate(&self, host: &str) -> Result<()> {
        let all = self.host_names();
        let others: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|h| *h != host)
            .collect();
        self.partition(&[host], &others)
    }

    /// Ends all partitions.
    pub fn repair(&self) -> Result<()> {
        let hosts = self
            .state
            .hosts
            .iter()
            .filter(|(name, _)| *name != UNDERLAY);
        hosts.map(|(_, host)| host).try_for_each(remove_drops)
    }

    /// Pulls a host's cable, or plugs it in again.
    pub fn set_link(&self, host: &str, up: bool) -> Result<()> {
        self.host(host)?;
        set_link(self.host(UNDERLAY)?.holder.pid, host, up)
    }
}

/// Claims a free subnet by making the machine's interface into the underlay.
pub(crate) fn claim_subnet(underlay: i32) -> Result<u8> {
    // Start at a random subnet: labs that start together then rarely collide.
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

/// The loss and delay of the underlay, as arguments of tc-netem(8).
pub(crate) fn netem() -> Option<String> {
    std::env::var("CONTIV_TEST_NETEM")
        .ok()
        .filter(|it| !it.is_empty())
}

/// Connects the machine and `hosts` to the bridge.
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

/// Removes the machine's interface. The kernel would remove it with the lab's namespaces, but a moment
/// after the processes.
pub(crate) fn disconnect(subnet: u8) {
    let delete = format!("link delete {}\n", address::interface(subnet));
    let _ = feed(None, &["ip", "-batch", "-"], &delete);
}

fn set_link(underlay: i32, host: &str, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    feed(
        Some(underlay),
        &["ip", "-batch", "-"],
        &format!("link set {host} {state}\n"),
    )
}

/// Drops packets of `from` to this host, before connection tracking, in addition to earlier cuts.
fn drop_from(host: &HostState, from: &[Ipv4Addr]) -> Result<()> {
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

fn remove_drops(host: &HostState) -> Result<()> {
    let rules = "table ip lab { }\ndelete table ip lab\n";
    feed(Some(host.holder.pid), &["nft", "-f", "-"], rules)
}
