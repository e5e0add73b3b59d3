//! One Docker Engine per node, and the image that the lab's containers run: busybox, imported
//! from the machine's own binary, since no registry can be counted on.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::{Result, cgroup};

/// Name of the image that [`Lab::import_image`] makes.
pub const IMAGE: &str = "contiv/busybox";

const ENGINE_TIMEOUT: Duration = Duration::from_secs(40);

/// The image's `wget`.
const WGET: &str = include_str!("../../scripts/busybox-wget.sh");

impl Lab {
    pub(crate) fn start_engine(&mut self, node: &str, bridge: bool) -> Result<()> {
        let mut argv: Vec<String> = [
            "dockerd",
            "--host=unix:///var/run/docker.sock",
            "--data-root=/var/lib/docker",
            "--exec-root=/run/docker",
            "--pidfile=/run/docker.pid",
            // The default driver needs systemd, which doesn't run on a lab's host.
            "--exec-opt=native.cgroupdriver=cgroupfs",
        ]
        .map(str::to_owned)
        .into();
        argv.push(format!(
            "--cgroup-parent={}",
            cgroup::parent(self.name(), node)
        ));
        if !bridge {
            argv.push("--bridge=none".to_owned());
        }
        self.launch(&format!("dockerd@{node}"), node, argv, BTreeMap::new())
    }

    /// Waits until the node's engine answers.
    pub fn await_engine(&self, node: &str) -> Result<()> {
        self.await_process(
            &format!("dockerd@{node}"),
            "the engine answers",
            ENGINE_TIMEOUT,
            || {
                let version = self.exec(node, &["docker", "version"]);
                version.is_ok_and(|o| o.success())
            },
        )
    }

    /// Makes [`IMAGE`] in the node's engine. The script's temporary files lie in the host's `/run`,
    /// which is removed with the host, whatever interrupts the script.
    pub fn import_image(&self, node: &str) -> Result<()> {
        let script = format!(
            r#"set -e
root=$(mktemp -d -p /run)
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/root"
for applet in $(/bin/busybox --list); do
  ln -s busybox "$root/bin/$applet"
done
cp --remove-destination /bin/busybox "$root/bin/busybox"
rm -f "$root/bin/wget"
cat >"$root/bin/wget" <<'EOF'
{WGET}EOF
chmod 755 "$root/bin/wget"
tar -C "$root" -c . | docker import --change 'CMD ["/bin/sh"]' - {IMAGE} >/dev/null
rm -rf "$root""#
        );
        self.run(node, &["sh", "-c", &script]).map(drop)
    }

    /// Joins all nodes' engines to one swarm, with the first node as its manager.
    pub fn start_swarm(&self) -> Result<()> {
        let nodes = self.nodes();
        let Some((manager, workers)) = nodes.split_first() else {
            return Ok(());
        };
        let own = |node: &str| -> Result<String> {
            Ok(format!("--advertise-addr={}", self.address(node)?))
        };
        let init = ["docker", "swarm", "init", &own(manager)?];
        self.run(manager, &init)?;
        let token = ["docker", "swarm", "join-token", "-q", "worker"];
        let token = self.run(manager, &token)?.stdout;
        let (token, at) = (token.trim(), format!("{}:2377", self.address(manager)?));
        for node in workers {
            let join = [
                "docker",
                "swarm",
                "join",
                "--token",
                token,
                &own(node)?,
                &at,
            ];
            self.run(node, &join)?;
        }
        Ok(())
    }

    /// Runs `docker` on a node and returns its output, also if it fails.
    pub fn docker(&self, node: &str, arguments: &[&str]) -> Result<crate::Output> {
        let argv: Vec<&str> = std::iter::once("docker")
            .chain(arguments.iter().copied())
            .collect();
        self.exec(node, &argv)
    }
}
