//! Docker's swarm: its managed plugin on this node, and the addresses of its tasks.
//!
//! In swarm mode the engine accepts managed plugins only, and a driver has one scope, so `contiv`
//! can't serve both. Ours contains no program of its own: it runs the host's shell, which makes a
//! symbolic link from the socket path of the plugin to [`SOCKET_NAME`], and waits. The engine follows
//! the link, so netplugin can be restarted and upgraded.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use tar::{EntryType, Header};

use super::client::{Client, EngineError};

/// The managed plugin, as `docker network create` needs it: the tag belongs to the name.
pub const PLUGIN_NAME: &str = "contiv-swarm:latest";
/// The socket's name in netplugin's run directory.
pub(super) const SOCKET_NAME: &str = "swarm.sock";

/// The program that the plugin runs, from the host's own `/usr`.
const SHELL_PATH: &str = "/usr/bin/sh";

/// Installing the plugin can fail for these reasons.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("no netplugin answers on {0}: start it with `netplugin run`")]
    Away(PathBuf),
    #[error(
        "this host has no {SHELL_PATH}, which the plugin runs: its /bin isn't merged into /usr"
    )]
    NoShell,
    #[error("can't pack the plugin: {0}")]
    Pack(#[from] io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Creates the plugin in the engine and enables it; an existing one is left as it is.
pub async fn install(engine: &Path, run_dir: &Path) -> Result<(), InstallError> {
    let socket = run_dir.join(SOCKET_NAME);
    if UnixStream::connect(&socket).is_err() {
        return Err(InstallError::Away(socket));
    }
    if !Path::new(SHELL_PATH).exists() {
        return Err(InstallError::NoShell);
    }
    let client = Client::connect(engine).await?;
    client.create_plugin(PLUGIN_NAME, archive(&socket)?).await?;
    client.enable_plugin(PLUGIN_NAME).await?;
    Ok(())
}

/// Enables the plugin again. An engine that starts without netplugin disables it, and then this node
/// gets no tasks of services in our networks.
pub(super) async fn revive(client: Client) {
    match client.enable_plugin(PLUGIN_NAME).await {
        Ok(false) => {}
        Ok(true) => tracing::warn!(
            "the engine started without netplugin and disabled its plugin {PLUGIN_NAME}: enabled it again; if this node leads the swarm, restart the engine, since a leader loads its networks' drivers only once"
        ),
        // Most engines don't have the plugin.
        Err(error) => tracing::debug!(%error, "no plugin for swarms"),
    }
}

/// Packs the plugin as `docker plugin create` does: its configuration and a root folder.
fn archive(socket: &Path) -> io::Result<Vec<u8>> {
    let socket = socket.display();
    // SIGTERM ends process 1 only if it handles the signal; without the trap the engine takes ten
    // seconds longer to stop.
    let script = format!(
        "trap exit TERM; ln -sfn '{socket}' /run/docker/plugins/contiv.sock; sleep infinity & wait"
    );
    let config = json!({
        "description": "contiv's networks for the services of a swarm",
        "documentation": "",
        "entrypoint": [SHELL_PATH, "-c", script],
        "interface": {
            "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
            "socket": "contiv.sock",
        },
        "network": {"type": "none"},
        "linux": {},
        "mounts": [{
            "name": "usr", "type": "bind", "source": "/usr", "destination": "/usr",
            "options": ["rbind", "ro"],
        }],
    });
    let config = config.to_string();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(
        &mut header(EntryType::Regular, config.len()),
        "config.json",
        config.as_bytes(),
    )?;
    for folder in ["rootfs", "rootfs/usr"] {
        archive.append_data(&mut header(EntryType::Directory, 0), folder, io::empty())?;
    }
    // The shell and its libraries are searched in these folders.
    for link in ["bin", "lib", "lib64"] {
        let (name, target) = (format!("rootfs/{link}"), format!("usr/{link}"));
        archive.append_link(&mut header(EntryType::Symlink, 0), name, target)?;
    }
    archive.into_inner()
}

fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size as u64);
    header
}

/// The addresses that this engine's swarm uses, of those that its manager requested.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SwarmAddresses {
    /// A manager: the addresses of its tasks and services.
    InUse(BTreeSet<IpAddr>),
    /// A worker, or no swarm: it requested none.
    NotManaged,
    /// The swarm doesn't answer now.
    NotAvailable,
}

/// Parses the addresses in the engine's answers to `GET /tasks` and `GET /services`.
pub(super) fn in_use(tasks: &str, services: &str) -> serde_json::Result<BTreeSet<IpAddr>> {
    let tasks: Vec<Task> = serde_json::from_str(tasks)?;
    let services: Vec<Service> = serde_json::from_str(services)?;
    let tasks = tasks.into_iter().filter(|task| !task.is_dead());
    let attachments = tasks.flat_map(|task| task.networks_attachments.unwrap_or_default());
    let attached = attachments.flat_map(|it| it.addresses.unwrap_or_default());
    let endpoints = services.into_iter().filter_map(|service| service.endpoint);
    let virtual_ips = endpoints.flat_map(|it| it.virtual_ips.unwrap_or_default());
    let all = attached.chain(virtual_ips.map(|it| it.addr));
    Ok(all
        .filter_map(|text| text.split('/').next()?.parse().ok())
        .collect())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(default)]
    desired_state: String,
    #[serde(default)]
    status: TaskStatus,
    networks_attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskStatus {
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attachment {
    addresses: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    endpoint: Option<Endpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(rename = "VirtualIPs")]
    virtual_ips: Option<Vec<VirtualIp>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VirtualIp {
    #[serde(default)]
    addr: String,
}

impl Task {
    /// Whether a task has ended and shall not run: its addresses are released, though it still lists
    /// them (swarmkit, `manager/allocator`, `taskDead`).
    fn is_dead(&self) -> bool {
        const ENDED_STATES: [&str; 6] = [
            "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
        ];
        [&self.desired_state, &self.status.state]
            .iter()
            .all(|it| ENDED_STATES.contains(&it.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_tasks_use_no_address() {
        let task = |desired: &str, state: &str, address: &str| {
            json!({
                "DesiredState": desired,
                "Status": {"State": state},
                "NetworksAttachments": [{"Network": {"ID": "n"}, "Addresses": [address]}],
            })
        };
        let tasks = json!([
            task("running", "running", "20.1.1.1/32"),
            task("ready", "preparing", "20.1.1.2/32"),
            task("shutdown", "running", "20.1.1.3/32"),
            task("running", "failed", "20.1.1.4/32"),
            task("shutdown", "failed", "20.1.1.5/32"),
            task("remove", "shutdown", "20.1.1.6/32"),
            {"DesiredState": "running", "Status": {"State": "new"}, "NetworksAttachments": null},
        ]);
        let services = json!([
            {"Endpoint": {"VirtualIPs": [{"NetworkID": "n", "Addr": "20.1.1.7/32"}]}},
            {"Endpoint": {"Spec": {"Mode": "dnsrr"}}},
        ]);
        let used = in_use(&tasks.to_string(), &services.to_string()).unwrap();
        let last = |it: &IpAddr| it.to_string().rsplit('.').next().unwrap().to_owned();
        let used: Vec<String> = used.iter().map(last).collect();
        assert_eq!(used, ["1", "2", "3", "4", "7"]);
    }

    #[test]
    fn plugin_archive_is_readable_by_tar() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugin.tar");
        std::fs::write(&file, archive(Path::new("/run/contiv/swarm.sock")).unwrap()).unwrap();
        let listed = std::process::Command::new("tar")
            .arg("-tvf")
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success(), "{listed:?}");
        let names: Vec<&str> = text
            .lines()
            .filter_map(|it| it.split(":00 ").nth(1))
            .collect();
        assert_eq!(
            names,
            [
                "config.json",
                "rootfs",
                "rootfs/usr",
                "rootfs/bin -> usr/bin",
                "rootfs/lib -> usr/lib",
                "rootfs/lib64 -> usr/lib64"
            ]
        );
    }
}
