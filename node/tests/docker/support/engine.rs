//! A private Docker Engine in network, mount, PID and UTS namespaces of its own. It ends with the test
//! that started it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const IMAGE_NAME: &str = "contiv/busybox";

/// A way to stop an engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Stop,
    Kill,
}

pub(crate) struct Engine {
    pub(crate) folder: TempDir,
    /// First process of the PID namespace: its end kills all other processes in it.
    holder: Child,
    arguments: Vec<String>,
}

impl Engine {
    /// Creates the namespaces, without an engine yet. `folder/run` is `/run/docker` inside.
    pub(crate) fn prepare(arguments: &[&str]) -> Self {
        let folder = TempDir::with_prefix("cv-engine-").expect("a folder");
        for part in ["run", "run/plugins", "etc", "data", "var-run"] {
            fs::create_dir_all(folder.path().join(part)).expect("a folder");
        }
        fs::write(folder.path().join("etc/daemon.json"), "{}").expect("written");
        let at = folder.path().display();
        // The engine binds namespaces below /run/docker, which works on shared mounts only.
        let script = format!(
            "set -e
             mount --make-rprivate /
             mkdir -p /run/docker /etc/docker
             mount --bind {at}/run /run/docker
             mount --make-shared /run/docker
             mount --bind {at}/etc /etc/docker
             ip link set lo up
             sysctl -qw net.ipv4.ip_forward=1
             touch {at}/ready
             # The first process must reap children: a dead containerd must not stay as a zombie.
             while :; do sleep 0.2; done"
        );
        let holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", &script])
            .spawn()
            .expect("unshare runs");
        let engine = Self {
            folder,
            holder,
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
        };
        engine.until("the namespaces are ready (the tests need root)", || {
            engine.path("ready").exists()
        });
        engine
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    /// A process inside, seen from here.
    pub(crate) fn pid(&self) -> u32 {
        let of_unshare = self.holder.id();
        let path = format!("/proc/{of_unshare}/task/{of_unshare}/children");
        let children = fs::read_to_string(path).expect("it runs");
        let first = children.split_whitespace().next().expect("a child");
        first.parse().expect("a number")
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn start(&self) {
        let pid = self.pid().to_string();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("dockerd.log"))
            .expect("a log");
        let at = self.folder.path().display();
        let flags = format!(
            "exec dockerd --data-root {at}/data --exec-root /run/docker -H unix://{at}/docker.sock --pidfile {at}/dockerd.pid --bridge=none --cgroup-parent=/cv-engine-{pid} {}",
            self.arguments.join(" ")
        );
        let _ = fs::remove_file(self.path("dockerd.pid"));
        #[expect(
            clippy::zombie_processes,
            reason = "the engine ends with its namespace's first process, which is waited for"
        )]
        Command::new("nsenter")
            .args(["-t", &pid, "-n", "-m", "-u", "-p"])
            .args(["sh", "-c", &flags])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("nsenter runs");
        self.until("the engine answers", || {
            self.try_docker(&["version"]).status.success()
        });
    }

    pub(crate) fn import_image(&self) {
        let root = self.path("rootfs");
        fs::create_dir_all(root.join("bin")).expect("a folder");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for applet in ["sh", "ip", "ping", "true", "sleep", "cat", "arp"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        let (root, socket) = (root.display(), self.socket());
        let line = format!(
            "tar -C {root} -c . | /usr/bin/docker -H unix://{} import --change 'CMD [\"/bin/sh\"]' - {IMAGE_NAME}",
            socket.display()
        );
        run(Command::new("sh").args(["-c", &line]));
    }

    /// Ends the engine only, and waits until it is gone. Containers may stay.
    pub(crate) fn end(&self, how: End) {
        let pid = fs::read_to_string(self.path("dockerd.pid")).expect("the engine runs");
        let signal = match how {
            End::Stop => "-TERM",
            End::Kill => "-KILL",
        };
        let namespaces = self.pid().to_string();
        let inside = ["-t", &namespaces, "-m", "-p"];
        run(Command::new("nsenter")
            .args(inside)
            .args(["kill", signal, pid.trim()]));
        self.until("the engine is gone", || {
            let alive = Command::new("nsenter")
                .args(inside)
                .args(["kill", "-0", pid.trim()])
                .stderr(Stdio::null())
                .status();
            !alive.expect("nsenter runs").success()
        });
    }

    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Output {
        Command::new("/usr/bin/docker")
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("docker.io is installed")
    }

    /// Runs docker successfully; returns its output.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "docker {arguments:?}: {text} {error}\n{}",
            tail(&self.path("dockerd.log"))
        );
        text
    }

    /// Runs docker, which must fail; returns its error output.
    pub(crate) fn docker_fails(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert!(!output.status.success(), "docker {arguments:?} succeeded");
        text
    }

    pub(crate) fn until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !done() {
            assert!(
                Instant::now() < deadline,
                "waited too long: {what}\n{}",
                tail(&self.path("dockerd.log"))
            );
            pause();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two checks")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn run(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
