//! A driver with endpoints in memory under a private engine: three networks, and functions for their
//! containers.

use super::engine::{Engine, IMAGE_NAME};
use super::memory::{add, network};
use super::plugin::Plugin;
use node_core::projection::Projection;

pub(crate) struct Host {
    pub(crate) plugin: Plugin,
    pub(crate) engine: Engine,
}

/// Starts the plugin, then the engine, as on a real host.
pub(crate) fn host(arguments: &[&str]) -> Host {
    let host = without_engine(arguments);
    host.engine.start();
    host.engine.import_image();
    host.wait_for_network("contiv-net");
    host
}

pub(crate) fn without_engine(arguments: &[&str]) -> Host {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let engine = Engine::prepare(arguments);
    let mut projection = Projection::default();
    add(
        &mut projection,
        network("default", "contiv-net", "20.1.1.0/24"),
    );
    add(&mut projection, network("default", "other", "20.1.2.0/24"));
    add(&mut projection, network("blue", "web", "20.1.1.0/24"));
    let mut plugin = Plugin::start(
        projection,
        &engine.path("run"),
        engine.socket(),
        Some(engine.pid()),
    );
    plugin.config.state_dir = engine.path("state");
    Host { plugin, engine }
}

impl Host {
    pub(crate) fn networks(&self) -> Vec<String> {
        let listed = self
            .engine
            .docker(&["network", "ls", "--format", "{{.Name}}"]);
        listed.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_for_network(&self, name: &str) {
        self.engine.until(&format!("network {name}"), || {
            self.networks().iter().any(|it| it == name)
        });
    }

    pub(crate) fn run(&self, name: &str, more: &[&str]) -> String {
        let mut arguments = vec!["run", "-itd", "--name", name];
        arguments.extend(more);
        arguments.extend([IMAGE_NAME, "/bin/sh"]);
        self.engine.docker(&arguments)
    }

    pub(crate) fn exec(&self, name: &str, line: &str) -> String {
        self.engine.docker(&["exec", name, "sh", "-c", line])
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let state = self.plugin.endpoints.state();
        let all = state.endpoints.values();
        let mut all: Vec<String> = all.map(|it| it.addresses[0].to_string()).collect();
        all.sort();
        all
    }

    pub(crate) fn wait_until_empty(&self) {
        self.engine
            .until("no endpoint and no reservation is left", || {
                let state = self.plugin.endpoints.state();
                state.endpoints.is_empty() && state.reserved.is_empty()
            });
    }

    pub(crate) fn wait_for_name(&self, address: &str, name: &str) {
        self.engine
            .until(&format!("{address} is called {name}"), || {
                let found = self.plugin.endpoints.find(address);
                found.is_some_and(|it| it.name.as_deref() == Some(name) && it.container.is_some())
            });
    }

    /// Whether an alarm with this code is raised, and its text contains all of `parts`.
    pub(crate) fn is_raised(&self, code: &str, parts: &[&str]) -> bool {
        let alarms = self.plugin.handle().alarms.borrow();
        let mut coded = alarms.iter().filter(|it| it.code == code);
        coded.any(|it| parts.iter().all(|part| it.text.contains(part)))
    }
}
