//! The bus of a lab: one nats-server, or a cluster of three, each on a host of its own.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::host::{Output, ctl_names};
use crate::lab::{Lab, START_TIMEOUT};
use crate::{CTL, Result, tools};

const CLIENT_PORT: u16 = 4222;
/// The port between the servers of a cluster.
const ROUTE_PORT: u16 = 6222;

impl Lab {
    /// `nats://TOKEN@HOST:PORT` of every server. The machine itself reaches them, too.
    pub fn nats_url(&self) -> String {
        let token = &self.state.token;
        let url = |address| format!("nats://{token}@{address}:{CLIENT_PORT}");
        let urls = self.bus_hosts().map(|(_, address)| url(address));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The names of the bus's processes: `nats`, or `nats-1`, `nats-2` and `nats-3`.
    pub fn bus_names(&self) -> Vec<String> {
        match self.state.servers {
            1 => vec!["nats".to_owned()],
            servers => (1..=servers).map(|n| format!("nats-{n}")).collect(),
        }
    }

    /// Empties the bus's disk, as if its volume was lost. The servers must be stopped.
    pub fn wipe_bus(&self) -> Result<()> {
        for (host, _) in self.bus_hosts() {
            self.run(
                &host,
                &["find", "/var/lib/nats", "-mindepth", "1", "-delete"],
            )?;
        }
        Ok(())
    }

    /// Waits until every server accepts connections, after a start.
    pub fn await_bus(&self) -> Result<()> {
        let servers = self.bus_names().into_iter().zip(self.bus_hosts());
        for (name, (_, address)) in servers {
            let target = SocketAddr::from((address, CLIENT_PORT));
            self.await_process(&name, "nats-server listens", START_TIMEOUT, || {
                TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok()
            })?;
        }
        Ok(())
    }

    /// Runs `netmaster init`, which creates the cluster's log on an empty bus. Servers that have just
    /// started take a moment to elect a leader.
    pub fn init_cluster(&self) -> Result<String> {
        let replicas = self.state.servers.to_string();
        let argv = ["netmaster", "init", "--replicas", &replicas];
        if self.state.servers == 1 {
            return self.run(CTL, &argv).map(|output| output.stdout);
        }
        let mut made = None;
        self.await_process(
            "nats-1",
            "the servers elect a leader",
            START_TIMEOUT,
            || {
                made = self.exec(CTL, &argv).ok().filter(Output::success);
                made.is_some()
            },
        )?;
        Ok(made.map(|output| output.stdout).unwrap_or_default())
    }

    pub(crate) fn start_bus(&mut self) -> Result<()> {
        let server = tools::nats_server()?;
        let hosts: Vec<_> = self.bus_hosts().collect();
        let token = &self.state.token;
        let routes: Vec<String> = hosts
            .iter()
            .map(|(_, address)| format!("nats://route:{token}@{address}:{ROUTE_PORT}"))
            .collect();
        let clustered = hosts.len() > 1;
        for (name, (host, address)) in self.bus_names().into_iter().zip(hosts) {
            // The host has its own /run, so the configuration is copied into it.
            let copy = format!("cat >/etc/nats.conf <<'EOF'\n{}\nEOF", tools::NATS_CONF);
            self.run(&host, &["sh", "-c", &copy])?;
            let env = [
                ("CONTIV_NATS_HOST", address.to_string()),
                ("CONTIV_NATS_PORT", CLIENT_PORT.to_string()),
                ("CONTIV_NATS_TOKEN", self.state.token.clone()),
                ("CONTIV_NATS_STORE", "/var/lib/nats".to_owned()),
            ];
            let env = env.map(|(key, value)| (key.to_owned(), value)).into();
            let mut argv = [&server, "-c", "/etc/nats.conf"]
                .map(str::to_owned)
                .to_vec();
            if clustered {
                let own = format!("nats://route:{}@{address}:{ROUTE_PORT}", self.state.token);
                let flags = [
                    ("--server_name", name.as_str()),
                    ("--cluster_name", &self.state.name),
                    ("--cluster", &own),
                    ("--routes", &routes.join(",")),
                ];
                let flags = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
                argv.extend(flags.map(str::to_owned));
            }
            self.launch(&name, &host, argv, env)?;
        }
        self.await_bus()
    }

    /// The hosts that carry the bus, with their addresses.
    fn bus_hosts(&self) -> impl Iterator<Item = (String, std::net::Ipv4Addr)> {
        let subnet = self.state.subnet;
        ctl_names(self.state.servers)
            .zip(1..)
            .map(move |(name, number)| (name, crate::address::ctl(subnet, number)))
    }
}
