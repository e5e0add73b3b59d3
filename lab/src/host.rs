//! A host: namespaces with the machine's files, but its own `/etc`, `/run` and `/var/lib`, so that every
//! binary runs with its default paths. Its data lie in the lab's folder on disk.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::state::HostState;
use crate::{Error, Result, namespace, tools};

/// The host of nats-server and netmaster, or the first of three.
pub const CTL: &str = "ctl";
/// The host of the bridge between the other hosts; it has nothing else.
pub(crate) const UNDERLAY: &str = "underlay";

/// The names of the hosts of `servers` nats-servers: `ctl`, `ctl-2`, `ctl-3`.
pub(crate) fn ctl_names(servers: u8) -> impl Iterator<Item = String> {
    (1..=servers).map(|number| match number {
        1 => CTL.to_owned(),
        _ => format!("{CTL}-{number}"),
    })
}

/// The name of a node's host: `node-1` for 1, and so on.
pub fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// The output and the exit status of a command (128 + N if signal N ended it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Both streams, one after the other.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    pub(crate) fn of(output: &std::process::Output) -> Self {
        Self {
            status: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The parts in which hosts differ.
pub(crate) struct Plan<'a> {
    pub(crate) name: &'a str,
    pub(crate) disk: &'a Path,
    pub(crate) machine_id: String,
    pub(crate) nameserver: Ipv4Addr,
    pub(crate) daemon_json: String,
}

/// The script that sets up a host in new namespaces. Overlays protect the machine's `/etc` and
/// `/var/lib`: the host's writes go to a tmpfs that ends with it.
pub(crate) fn script(plan: &Plan<'_>) -> String {
    let Plan {
        name,
        disk,
        machine_id,
        nameserver,
        daemon_json,
    } = plan;
    let disk = disk.display();
    format!(
        r#"mkdir -p {disk}/contiv {disk}/docker {disk}/nats
mount --make-rprivate /
hostname {name}
cd {disk}
mount -t tmpfs -o mode=755 lab-run /run
mkdir -p /run/netns /run/lock /run/docker/plugins /run/contiv /run/lab/etc /run/lab/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/lab/etc,workdir=/run/lab/work lab-etc /etc
rm -rf /etc/resolv.conf /etc/machine-id /etc/docker /etc/hostname
mkdir -p /etc/docker
echo 'nameserver {nameserver}' >/etc/resolv.conf
echo {machine_id} >/etc/machine-id
echo {name} >/etc/hostname
cat >/etc/docker/daemon.json <<'EOF'
{daemon_json}
EOF
mount -t tmpfs -o mode=755 lab-lib /var/lib
for dir in contiv docker nats; do
  mkdir /var/lib/$dir
  mount --bind $dir /var/lib/$dir
done
cd /
ip link set lo up
"#
    )
}

impl HostState {
    pub(crate) fn spawn(&self, command: Command) -> Result<Child> {
        namespace::spawn_in(self.holder.pid, command)
    }

    pub(crate) fn output(&self, host: &str, mut command: Command) -> Result<Output> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        namespace::detach(&mut command);
        let child = self.spawn(command)?;
        let output = child
            .wait_with_output()
            .map_err(Error::system(format!("read a command's output on {host}")))?;
        Ok(Output::of(&output))
    }
}

/// Builds a command with the given environment.
pub(crate) fn command<S: AsRef<str>>(argv: &[S], env: &BTreeMap<String, String>) -> Command {
    let (program, arguments) = argv
        .split_first()
        .map_or(("true", argv), |(p, rest)| (p.as_ref(), rest));
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(AsRef::as_ref))
        .envs(env)
        .current_dir("/");
    command
}

/// The PATH of a lab's hosts: our own binaries come before others of the same name.
pub(crate) fn search_path() -> String {
    let bins = tools::bin_dir().map_or_else(|_| String::new(), |d| format!("{}:", d.display()));
    format!("{bins}/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
}

/// Runs `ip -batch` or `nft -f -` in a host's network, with the machine's PIDs.
pub(crate) fn feed(holder: Option<i32>, argv: &[&str], input: &str) -> Result<()> {
    let mut command = command(argv, &BTreeMap::from([("PATH".to_owned(), search_path())]));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    namespace::detach(&mut command);
    let mut child = match holder {
        Some(holder) => namespace::spawn_in_network(holder, command)?,
        None => command
            .spawn()
            .map_err(Error::system(format!("start {}", argv.join(" "))))?,
    };
    if let Some(mut stdin) = child.stdin.take() {
        // If the program stops reading, its output has the reason, which is reported below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(Error::system(format!("run {}", argv.join(" "))))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        host: "lab".to_owned(),
        command: format!("{} <<EOF\n{input}EOF\n", argv.join(" ")),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
