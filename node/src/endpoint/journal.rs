//! The node's journal of endpoints. A record is written before the request is answered, and on disk
//! before another process depends on it.
//!
//! The file holds [`frames`]. Every whole record of a damaged file is recovered; the file is kept
//! aside and written again. A full disk refuses the append and keeps the file as it was. Only the
//! manager's thread uses it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bus_schema::{ClusterId, MachineId, NodeName, codec, limits};

use super::LocalEndpoint;
use super::ledger::{Ledger, Record};
use crate::frames::{self, Tail, replace};

/// A journal with fewer records isn't rewritten to make it shorter.
const MIN_RECORDS_TO_COMPACT: usize = 1_000;

/// Part of the journal was unreadable; every whole record was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The number of bytes that belong to no whole record.
    pub bytes: usize,
    /// The damaged file under its new name; absent while the disk has no room for a new journal.
    pub kept: Option<PathBuf>,
}

/// The state of the journal when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalState {
    Whole,
    /// The file is missing or empty: this node is new, or the file was removed.
    Empty,
    Damaged(Damage),
}

/// An open journal, at its end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Absent while the disk refuses writes: the next append tries again.
    tail: Option<Tail>,
    records: usize,
    /// The file is damaged and couldn't be rewritten yet.
    damaged: bool,
}

impl Journal {
    /// Opens the journal, or creates it, and folds its records. A disk that refuses writes is no
    /// error: the file is read, and appends fail.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Ledger, JournalState)> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let (mut records, lost) = read_frames(&bytes);
        for record in &mut records {
            if let Record::Attached { endpoint } = record {
                limit_names(endpoint);
            }
        }
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
            (0, 0) => JournalState::Empty,
            (0, _) => JournalState::Whole,
            (bytes, _) => JournalState::Damaged(Damage {
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

    /// Appends records and returns when they are written, and on disk if [`must_be_on_disk`] says so.
    /// After an error none of them is in the file. `ledger` is the fold of the journal so far.
    pub(super) fn append(&mut self, ledger: &Ledger, records: &[Record]) -> io::Result<()> {
        if self.damaged {
            self.repair(ledger)?;
        }
        if self.records > MIN_RECORDS_TO_COMPACT && self.records > 4 * ledger.size() {
            self.rewrite(ledger)?;
        }
        let frames: Vec<u8> = records.iter().flat_map(frame).collect();
        let sync = records.iter().any(|it| must_be_on_disk(it, ledger));
        self.tail()?.append(&frames, sync)?;
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

    /// Keeps the damaged file under another name and writes the recovered records to a new one.
    fn repair(&mut self, ledger: &Ledger) -> io::Result<Option<PathBuf>> {
        let aside = free_name(&self.path, "damaged");
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

    /// Replaces the file, atomically, by the fewest records that fold to the same ledger.
    fn rewrite(&mut self, ledger: &Ledger) -> io::Result<()> {
        let records = ledger.records();
        let frames: Vec<u8> = records.iter().flat_map(frame).collect();
        let file = replace(&self.path, &frames)?;
        self.tail = Some(Tail::new(file, frames.len() as u64));
        self.records = records.len();
        Ok(())
    }
}

/// An unused file name beside `path`, with this extension or a number after it.
fn free_name(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.with_extension(extension);
    let mut count = 1;
    while name.exists() {
        name = path.with_extension(format!("{extension}-{count}"));
        count += 1;
    }
    name
}

/// Whether the record must survive a crash of the machine. A crash of netplugin alone loses no written
/// record. Without the other records the journal claims too many addresses, which are found and
/// freed, or they concern something that the crash ended too: a container's start, its name.
fn must_be_on_disk(record: &Record, ledger: &Ledger) -> bool {
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
        | Record::Writer { .. }
        | Record::Incomplete
        | Record::Complete
        | Record::Unknown => true,
    }
}

/// The cluster of the log that a node with this journal followed last.
pub fn cluster_in(path: &Path) -> Option<ClusterId> {
    let (records, _) = read_frames(&fs::read(path).ok()?);
    records.into_iter().rev().find_map(|record| match record {
        Record::Cluster { cluster } => Some(cluster),
        _ => None,
    })
}

/// The node and the machine that wrote this journal; `None`: there is none, or an older build wrote it.
pub fn writer_of(path: &Path) -> Option<(NodeName, MachineId)> {
    let (records, _) = read_frames(&fs::read(path).ok()?);
    records.into_iter().rev().find_map(|record| match record {
        Record::Writer { node, machine } => Some((node, machine)),
        _ => None,
    })
}

/// Gives another node's journal a name beside its own, which it returns, and removes its `copy`.
pub fn set_aside(path: &Path, copy: &Path, node: &NodeName) -> io::Result<PathBuf> {
    let aside = free_name(path, &format!("of-{node}"));
    fs::rename(path, &aside)?;
    match fs::remove_file(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

/// Removes names beyond the limits of an endpoint that can't be refused any more: the engine has started its
/// container, or an older build, which had no limits, has attached it.
pub(super) fn limit_names(endpoint: &mut LocalEndpoint) {
    if let Some(excess) = limits::limit_names(&mut endpoint.name, &mut endpoint.aliases) {
        tracing::warn!(id = %endpoint.id, %excess, "ignored names of an endpoint");
    }
}

fn frame(record: &Record) -> Vec<u8> {
    frames::frame(&codec::to_bytes(record))
}

/// All whole records, and the number of bytes that belong to none.
fn read_frames(bytes: &[u8]) -> (Vec<Record>, usize) {
    let found = frames::read(bytes, |body| codec::from_bytes(body).ok());
    (found.records, found.lost)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
