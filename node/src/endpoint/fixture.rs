//! Refusals and full disks for the tests of endpoints. Facts and endpoints are in
//! [`node_core::endpoint::fixture`].

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use bus_schema::{Rejection, Revision};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub(crate) use node_core::endpoint::fixture::*;

use crate::bus::AskError;

pub(crate) fn rejected(rejection: Rejection) -> AskError {
    let revision = Revision(1);
    AskError::Rejected {
        rejection: Box::new(rejection),
        revision,
    }
}

/// A file system of a few pages, gone when this is dropped.
pub(crate) struct Small(tempfile::TempDir);

impl Small {
    pub(crate) fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounting needs root");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.path().join("ballast")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}
