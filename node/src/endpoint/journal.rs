//! The node's journal of endpoints: written before anything is answered, and on disk before anybody
//! builds on it.
//!
//! The records stand in [`frames`]. A damaged file gives back every whole record, is kept aside,
//! and is written anew. A full disk refuses the append and leaves what is there. The manager's
//! thread alone uses it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bus_schema::{ClusterId, codec};

use super::ledger::{Ledger, Record};
use crate::frames::{self, Tail, replace};

/// Below this many records a journal isn't worth making shorter.
const COMPACT_FROM: usize = 1_000;

/// Part of the journal was unreadable; every whole record was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Bytes that belong to no whole record.
    pub bytes: usize,
    /// The damaged file, for who wants to look; absent while the disk has no room for a new one.
    pub kept: Option<PathBuf>,
}

/// What the journal was like when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Whole,
    /// There was none, or nothing in it: this node is new, or somebody removed it.
    Nothing,
    Damaged(Damage),
}

/// An open journal, at its end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Absent while the disk takes no writes: the next append tries again.
    tail: Option<Tail>,
    records: usize,
    /// The file is damaged and couldn't be written anew yet.
    damaged: bool,
}

impl Journal {
    /// Opens the journal, or creates it, and folds its records. A disk that takes no writes is no
    /// error: what there is to read is read, and appends fail.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Ledger, Found)> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let (records, lost) = read_frames(&bytes);
        let mut ledger = Ledger::default();
        for record in &records {
            ledger.apply(record);
        }
        if lost > 0 {
            ledger.apply(&Record::Incomplete);
        }
        let mut journal = Self {
            path: path.to_owned(),
            tail: None,
            records: records.len(),
            damaged: lost > 0,
        };
        let found = match (lost, records.len()) {
            (0, 0) => Found::Nothing,
            (0, _) => Found::Whole,
            (bytes, _) => Found::Damaged(Damage {
                bytes,
                kept: journal.repair(&ledger).ok().flatten(),
            }),
        };
        if !journal.damaged
            && let Err(error) = journal.tail()
        {
            tracing::error!(path = %path.display(), %error, "can't write the endpoint journal: no endpoint is attached until its disk takes writes");
        }
        Ok((journal, ledger, found))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts records at the end and returns when they are written, and on disk if they are promises
    /// ([`is_promise`]). After an error none of them is there. `ledger` is what the journal holds so
    /// far.
    pub(super) fn append(&mut self, ledger: &Ledger, records: &[Record]) -> io::Result<()> {
        if self.damaged {
            self.repair(ledger)?;
        }
        if self.records > COMPACT_FROM && self.records > 4 * ledger.size() {
            self.rewrite(ledger)?;
        }
        let frames: Vec<u8> = records.iter().flat_map(frame).collect();
        let promises = records.iter().any(|it| is_promise(it, ledger));
        self.tail()?.append(&frames, promises)?;
        self.records += records.len();
        Ok(())
    }

    fn tail(&mut self) -> io::Result<&mut Tail> {
        let tail = match self.tail.take() {
            Some(tail) => tail,
            None => {
                if let Some(folder) = self.path.parent() {
                    fs::create_dir_all(folder)?;
                }
                let mut options = OpenOptions::new();
                let options = options.read(true).write(true).create(true).truncate(false);
                let file = options.open(&self.path)?;
                let length = file.metadata()?.len();
                Tail::new(file, length)
            }
        };
        Ok(self.tail.insert(tail))
    }

    /// Keeps the damaged file aside and writes what was recovered anew.
    fn repair(&mut self, ledger: &Ledger) -> io::Result<Option<PathBuf>> {
        let aside = free_name(&self.path);
        fs::hard_link(&self.path, &aside)?;
        match self.rewrite(ledger) {
            Ok(()) => {
                self.damaged = false;
                Ok(Some(aside))
            }
            Err(error) => {
                fs::remove_file(&aside).ok();
                Err(error)
            }
        }
    }

    /// Replaces the file by the fewest records that say the same, at once or not at all.
    fn rewrite(&mut self, ledger: &Ledger) -> io::Result<()> {
        let records = ledger.records();
        let frames: Vec<u8> = records.iter().flat_map(frame).collect();
        let file = replace(&self.path, &frames)?;
        self.tail = Some(Tail::new(file, frames.len() as u64));
        self.records = records.len();
        Ok(())
    }
}

/// A name beside `path` that no file bears yet.
fn free_name(path: &Path) -> PathBuf {
    let mut name = path.with_extension("damaged");
    let mut count = 1;
    while name.exists() {
        name = path.with_extension(format!("damaged-{count}"));
        count += 1;
    }
    name
}

/// Whether somebody builds on the record beyond a crash of the machine; one of netplugin alone loses
/// nothing that was written. Forgotten, the others claim more than there is, which is found and
/// given back, or they concern what the crash ended too: a container's start, its name.
fn is_promise(record: &Record, ledger: &Ledger) -> bool {
    match record {
        Record::Attached { endpoint } => ledger.endpoint(&endpoint.id).is_none(),
        Record::Reserved { .. }
        | Record::Released { .. }
        | Record::PromiseEnded { .. }
        | Record::Detached { .. } => false,
        Record::Promised { .. }
        | Record::Freed { .. }
        | Record::Returning { .. }
        | Record::ReturnEnded { .. }
        | Record::Ceding { .. }
        | Record::CedeEnded { .. }
        | Record::Cluster { .. }
        | Record::Incomplete
        | Record::Complete
        | Record::Unknown => true,
    }
}

/// The cluster that a node with this journal followed last.
pub fn cluster_in(path: &Path) -> Option<ClusterId> {
    let (records, _) = read_frames(&fs::read(path).ok()?);
    records.into_iter().rev().find_map(|record| match record {
        Record::Cluster { cluster } => Some(cluster),
        _ => None,
    })
}

fn frame(record: &Record) -> Vec<u8> {
    frames::frame(&codec::to_bytes(record))
}

/// Every whole record, and how many bytes belong to none.
fn read_frames(bytes: &[u8]) -> (Vec<Record>, usize) {
    let found = frames::read(bytes, |body| codec::from_bytes(body).ok());
    (found.records, found.lost)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
