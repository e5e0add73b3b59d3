//! The named clusters of this user, and the current one, which is used when none is named. Stored in
//! `$XDG_CONFIG_HOME/contiv/contexts.yaml`, readable by its owner only, since addresses hold tokens.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bus_url::BusUrl;
use crate::failure::Failure;
use crate::seen;

#[derive(Debug, Default, Serialize, Deserialize)]
struct ContextsFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    /// Addresses of the bus, with their tokens.
    #[serde(default)]
    contexts: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Contexts {
    path: Option<PathBuf>,
    saved: ContextsFile,
}

impl Contexts {
    /// Reads the file. A missing one is empty; an unreadable one is an error, since netctl would else
    /// address another cluster.
    pub(crate) fn load() -> Result<Self, Failure> {
        let path = seen::xdg_folder("XDG_CONFIG_HOME", ".config");
        let path = path.map(|dir| dir.join("contiv/contexts.yaml"));
        let saved = match &path {
            Some(path) => read(path)?,
            None => ContextsFile::default(),
        };
        Ok(Self { path, saved })
    }

    pub(crate) fn current(&self) -> Option<&str> {
        self.saved.current.as_deref()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.saved.contexts.keys().map(String::as_str)
    }

    pub(crate) fn url(&self, name: &str) -> Result<BusUrl, Failure> {
        let url = self.saved.contexts.get(name).ok_or_else(|| unknown(name))?;
        url.parse()
            .map_err(|error| Failure::Usage(format!("context {name}: {error}")))
    }

    /// Adds a context. The first one becomes the current one.
    pub(crate) fn add(&mut self, name: &str, url: &str) {
        self.saved.contexts.insert(name.to_owned(), url.to_owned());
        self.saved.current.get_or_insert_with(|| name.to_owned());
    }

    pub(crate) fn choose(&mut self, name: &str) -> Result<(), Failure> {
        if !self.saved.contexts.contains_key(name) {
            return Err(unknown(name));
        }
        self.saved.current = Some(name.to_owned());
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.saved
            .contexts
            .remove(name)
            .ok_or_else(|| unknown(name))?;
        if self.current() == Some(name) {
            self.saved.current = None;
        }
        Ok(())
    }

    pub(crate) fn save(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else {
            return Err(Failure::Local(
                "no folder for contexts: set HOME or XDG_CONFIG_HOME".to_owned(),
            ));
        };
        write(path, &self.saved)
            .map_err(|error| Failure::Local(format!("can't write {}: {error}", path.display())))
    }
}

fn unknown(name: &str) -> Failure {
    Failure::Usage(format!(
        "there is no context {name}: see `netctl context ls`, or `netctl context add {name} nats://TOKEN@HOST:PORT`"
    ))
}

fn read(path: &Path) -> Result<ContextsFile, Failure> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ContextsFile::default()),
        text => text.map_err(|error| Failure::Local(format!("can't read {shown}: {error}")))?,
    };
    serde_yaml_ng::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Failure::Usage(format!("{shown}: {error}; correct the file or remove it")))
}

fn write(path: &Path, saved: &ContextsFile) -> std::io::Result<()> {
    let text = serde_yaml_ng::to_string(saved).map_err(std::io::Error::other)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
