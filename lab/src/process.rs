//! The lab's long-running processes: each has a recorded command line and a log file, and ends by a
//! signal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal;
use nix::unistd;

use crate::lab::Lab;
use crate::state::{Pid, ProcessState, run_dir};
use crate::{Error, Result, host, namespace, wait};

/// The signal that stops a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGTERM, on which it may finish its work.
    Term,
}

const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const REAP_TIMEOUT: Duration = Duration::from_secs(2);
/// A process that ends within this time has failed to start.
const START_WATCH: Duration = Duration::from_millis(300);

/// The processes of a lab by name: `nats`, `netmaster-1`, `netplugin@node-1`, `dockerd@node-1`,
/// `docker-sockets@node-1`, `resolver@ctl`.
impl Lab {
    /// Starts a recorded process with its command line and environment.
    pub fn start(&mut self, name: &str) -> Result<()> {
        let process = self.process(name)?.clone();
        if process.pid.is_some_and(Pid::is_alive) {
            return Ok(());
        }
        let mut command = host::command(&process.argv, &process.env);
        let log = self.open_log(name)?;
        let err = log.try_clone().map_err(Error::system("share a log"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(err);
        namespace::detach(&mut command);
        let child = self.host(&process.host)?.spawn(command)?;
        let pid = Pid::of(child.id());
        self.children.insert(name.to_owned(), child);
        if let Some(process) = self.state.processes.get_mut(name) {
            process.pid = Some(pid);
        }
        self.state.save()
    }

    /// Waits until a started process seems to stay; an engine, until it answers.
    pub fn await_start(&self, name: &str) -> Result<()> {
        if let Some(node) = name.strip_prefix("dockerd@") {
            return self.await_engine(node);
        }
        let started = Instant::now();
        self.await_process(name, "it stays", 2 * START_WATCH, || {
            started.elapsed() > START_WATCH
        })
    }

    /// Stops a process and waits until it is gone.
    pub fn stop(&mut self, name: &str, how: Signal) -> Result<()> {
        let Some(pid) = self.process(name)?.pid else {
            return Ok(());
        };
        if pid.is_alive() {
            let number = match how {
                Signal::Kill => signal::Signal::SIGKILL,
                Signal::Term => signal::Signal::SIGTERM,
            };
            send(pid, number)?;
        }
        let ended = wait::wait_until(&format!("{name} ends"), STOP_TIMEOUT, || !pid.is_alive());
        self.explain(ended, name)?;
        if let Some(child) = self.children.remove(name) {
            reap(child);
        }
        // An engine takes a zombie in its pid file for a running engine. The keeper reaps an orphan in
        // a moment; a process that is another one's child may stay.
        wait::wait_until("it is reaped", REAP_TIMEOUT, || !pid.exists()).ok();
        if let Some(process) = self.state.processes.get_mut(name) {
            process.pid = None;
        }
        self.state.save()
    }

    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.stop(name, Signal::Kill)
    }

    pub fn restart(&mut self, name: &str, how: Signal) -> Result<()> {
        self.stop(name, how)?;
        self.start(name)
    }

    /// Freezes a process: its sockets stay open, but it doesn't answer.
    pub fn pause(&self, name: &str) -> Result<()> {
        self.signal(name, signal::Signal::SIGSTOP)
    }

    pub fn resume(&self, name: &str) -> Result<()> {
        self.signal(name, signal::Signal::SIGCONT)
    }

    pub fn is_running(&self, name: &str) -> Result<bool> {
        Ok(self.process(name)?.pid.is_some_and(Pid::is_alive))
    }

    /// The process's PID in the machine's PID namespace.
    pub fn pid(&self, name: &str) -> Result<Option<i32>> {
        Ok(self.process(name)?.pid.map(|p| p.pid))
    }

    pub fn process_names(&self) -> Vec<String> {
        self.state.processes.keys().cloned().collect()
    }

    /// The output of the process since the lab came up.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.log_path(name);
        let bytes = fs::read(&path).map_err(Error::file("read", path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Records a process of `host`, and starts it.
    pub fn launch(
        &mut self,
        name: &str,
        host: &str,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
    ) -> Result<()> {
        self.host(host)?;
        let env = self.environment().into_iter().chain(env).collect();
        let process = ProcessState {
            host: host.to_owned(),
            argv,
            env,
            pid: None,
        };
        self.state.processes.insert(name.to_owned(), process);
        self.start(name)
    }

    /// Adds a variable to the process's environment, from its next start on.
    pub fn set_variable(&mut self, name: &str, variable: &str, value: &str) -> Result<()> {
        self.process(name)?;
        if let Some(process) = self.state.processes.get_mut(name) {
            process.env.insert(variable.to_owned(), value.to_owned());
        }
        self.state.save()
    }

    /// Replaces the process's arguments, from its next start on.
    pub fn set_arguments(&mut self, name: &str, arguments: Vec<String>) -> Result<()> {
        self.process(name)?;
        if let Some(process) = self.state.processes.get_mut(name) {
            process.argv.truncate(1);
            process.argv.extend(arguments);
        }
        self.state.save()
    }

    /// Sets the kind of the node's domains, from the next start of its netplugin on: `auto`, `vrf` or
    /// `netns`.
    pub fn set_domain(&mut self, node: &str, kind: &str) -> Result<()> {
        let name = format!("netplugin@{node}");
        self.process(&name)?;
        if let Some(process) = self.state.processes.get_mut(&name) {
            let mut arguments = process.argv.iter_mut();
            if let Some(value) = arguments.find(|it| *it == "--domain").and(arguments.next()) {
                kind.clone_into(value);
            }
        }
        self.state.save()
    }

    /// Waits for `condition` while process `name` runs; the error contains the end of its log.
    pub(crate) fn await_process(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut ended = false;
        let waited = wait::wait_until(what, deadline, || {
            ended = !self.is_running(name).unwrap_or(false);
            ended || condition()
        });
        match waited {
            Ok(()) if ended => Err(Error::Command {
                host: self.process(name)?.host.clone(),
                command: name.to_owned(),
                status: "ended at its start".to_owned(),
                output: self.log_tail(name),
            }),
            waited => self.explain(waited, name),
        }
    }

    fn explain<T>(&self, waited: Result<T>, name: &str) -> Result<T> {
        match waited {
            Err(Error::TimedOut { what, after, .. }) => Err(Error::TimedOut {
                what,
                after,
                detail: format!("; the log of {name} ends:\n{}", self.log_tail(name)),
            }),
            other => other,
        }
    }

    /// The last lines of [`Lab::log`].
    pub fn log_tail(&self, name: &str) -> String {
        let text = self.log(name).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn signal(&self, name: &str, signal: signal::Signal) -> Result<()> {
        match self.process(name)?.pid {
            Some(pid) if pid.is_alive() => send(pid, signal),
            _ => Ok(()),
        }
    }

    fn process(&self, name: &str) -> Result<&ProcessState> {
        self.state
            .processes
            .get(name)
            .ok_or_else(|| Error::Unknown {
                kind: "process",
                name: name.to_owned(),
                known: self.process_names().join(", "),
            })
    }

    fn log_path(&self, name: &str) -> PathBuf {
        run_dir(&self.state.name).join(format!("logs/{name}.log"))
    }

    fn open_log(&self, name: &str) -> Result<File> {
        let path = self.log_path(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::file("open", path))
    }
}

pub(crate) fn send(pid: Pid, signal: signal::Signal) -> Result<()> {
    match signal::kill(unistd::Pid::from_raw(pid.pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(errno) => Err(Error::system(format!("signal process {}", pid.pid))(
            errno.into(),
        )),
    }
}

/// Waits for a child that has ended, so that no zombie stays.
pub(crate) fn reap(mut child: Child) {
    let _ = child.wait();
}
