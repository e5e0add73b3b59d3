//! A scratch host: a namespace of its own, and a datapath in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bus_schema::node::DomainKind;

use super::netns::Namespace;
use super::{Datapath, DatapathError, Options};

/// A scratch host; it is removed with all its domains when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    datapath: Datapath,
}

impl Scratch {
    /// Makes a scratch host in a folder that isn't there yet, in which files may be bound.
    pub async fn open(folder: &Path, kind: Option<DomainKind>) -> Result<Self, DatapathError> {
        let host = folder.join("host");
        let bind = async {
            fs::create_dir_all(folder)?;
            Namespace::create(&host).await
        };
        if let Err(error) = bind.await {
            remove(folder);
            return Err(DatapathError::Namespace {
                path: host.display().to_string(),
                error,
            });
        }
        let options = Options {
            host: Some(host),
            netns_dir: folder.to_owned(),
            kind,
        };
        match Datapath::open(options).await {
            Ok(datapath) => Ok(Self {
                folder: folder.to_owned(),
                datapath,
            }),
            Err(error) => {
                remove(folder);
                Err(error)
            }
        }
    }

    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Removes the namespaces. One that stays harms nobody, and its path shows where it is.
fn remove(folder: &Path) {
    let all = || -> io::Result<()> {
        for file in fs::read_dir(folder)? {
            Namespace::remove(&file?.path())?;
        }
        fs::remove_dir(folder)
    };
    if let Err(error) = all() {
        tracing::warn!(folder = %folder.display(), %error, "can't remove the namespaces of a scratch host");
    }
}
