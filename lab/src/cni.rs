//! Container runtimes on a node that call CNI plugins: podman with its CNI back end, and containerd with
//! `ctr`. They are Debian's programs; containers run on a folder, so no image is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::{Output, Result, cgroup, tools};

const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(40);
/// The containers' root folder, with busybox.
const ROOTFS: &str = "/run/rootfs";
/// The folder of the reference plugins in Debian's `containernetworking-plugins`.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

impl Lab {
    /// Prepares a node for CNI runtimes; `lists` are network configuration lists by file name.
    pub fn prepare_cni(&self, node: &str, lists: &[(&str, &str)]) -> Result<()> {
        let ours = tools::bin_dir()?.display().to_string();
        let mut script = format!(
            r#"set -e
mkdir -p {ROOTFS}/bin {ROOTFS}/etc {ROOTFS}/proc {ROOTFS}/sys {ROOTFS}/dev {ROOTFS}/tmp /etc/containers
for applet in $(/bin/busybox --list); do
  ln -s busybox "{ROOTFS}/bin/$applet"
done
cp --remove-destination /bin/busybox {ROOTFS}/bin/busybox
rm -rf /etc/cni
mkdir -p /etc/cni/net.d
mount -t tmpfs -o mode=755 lab-opt /opt
mkdir -p /opt/cni/bin
ln -s {ours}/contiv-cni {REFERENCE_PLUGINS}/* /opt/cni/bin/
cat >/etc/containers/containers.conf <<'END'
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
END
"#
        );
        for (file, list) in lists {
            let write = format!("cat >/etc/cni/net.d/{file} <<'END'\n{list}\nEND\n");
            script.push_str(&write);
        }
        self.run(node, &["sh", "-c", &script]).map(drop)
    }

    /// Runs `podman run -d` of `command` in a CNI network.
    pub fn podman_run(
        &self,
        node: &str,
        network: &str,
        name: &str,
        command: &[&str],
    ) -> Result<Output> {
        let parent = format!("--cgroup-parent={}", cgroup::parent(self.name(), node));
        let mut argv = vec!["podman", "run", "-d", "--name", name, "--network", network];
        argv.extend(["--cap-add=NET_RAW", &parent, "--rootfs", ROOTFS]);
        argv.extend(command);
        self.run(node, &argv)
    }

    /// Starts the node's containerd, and waits until it answers.
    pub fn start_containerd(&mut self, node: &str) -> Result<()> {
        let argv = [
            "containerd",
            "--root=/run/containerd-root",
            "--state=/run/containerd",
            "--address=/run/containerd/containerd.sock",
        ];
        let process = format!("containerd@{node}");
        let argv = argv.map(str::to_owned).into();
        self.launch(&process, node, argv, BTreeMap::new())?;
        self.await_process(&process, "containerd answers", CONTAINERD_TIMEOUT, || {
            let version = self.exec(node, &["ctr", "version"]);
            version.is_ok_and(|output| output.success())
        })
    }

    /// Runs `ctr run -d --cni`, which takes the first network of the node's CNI folder.
    pub fn ctr_run(&self, node: &str, name: &str, command: &[&str]) -> Result<Output> {
        let group = format!("{}/{name}", cgroup::parent(self.name(), node));
        let mut argv = vec!["ctr", "run", "-d", "--cni", "--cgroup", &group, "--rootfs"];
        argv.extend([ROOTFS, name]);
        argv.extend(command);
        self.run(node, &argv)
    }
}
