//! The node's journal of endpoints: written before anything is answered, and on disk before anybody
//! builds on it.
//!
//! Each record stands in a frame of its length, a CRC-32 of length and record, and the record.
//! A damaged file gives back every whole record, is kept aside, and is written anew. A full disk
//! refuses the append and leaves what is there. The manager's thread alone uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bus_schema::codec;

use super::ledger::{Ledger, Record};

/// Length and CRC, four bytes each, little-endian.
const FRAME: usize = 8;
/// No record is longer; a length above it is damage.
const MAX_RECORD: usize = 1 << 20;
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

/// An open journal, at its end.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records; what stands behind is the rest of an append that failed.
    length: u64,
    records: usize,
    /// The file is damaged and couldn't be written anew yet.
    damaged: bool,
}

impl Journal {
    /// Opens the journal, or creates it, and folds its records.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Ledger, Option<Damage>)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = fs::read(path)?;
        let (records, lost) = read_frames(&bytes);
        let mut ledger = Ledger::default();
        for record in &records {
            ledger.apply(record);
        }
        let mut journal = Self {
            path: path.to_owned(),
            file,
            length: bytes.len() as u64,
            records: records.len(),
            damaged: lost > 0,
        };
        let damage = (lost > 0).then(|| Damage {
            bytes: lost,
            kept: journal.repair(&ledger).ok().flatten(),
        });
        Ok((journal, ledger, damage))
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
        let written = self.write_at_end(&frames, promises);
        if written.is_err() {
            // A failure here leaves half a record behind the end, which the next append overwrites
            // and the next start reports.
            self.file.set_len(self.length).ok();
            return written;
        }
        self.length += frames.len() as u64;
        self.records += records.len();
        Ok(())
    }

    fn write_at_end(&mut self, frames: &[u8], sync: bool) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(frames)?;
        match sync {
            true => self.file.sync_data(),
            false => Ok(()),
        }
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
        self.file = file;
        self.length = frames.len() as u64;
        self.records = records.len();
        Ok(())
    }
}

/// Writes a file in one step: whoever reads the path sees the old bytes or the new ones, also
/// after a crash.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(file)
    })();
    if written.is_err() {
        fs::remove_file(&fresh).ok();
    }
    written
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
        | Record::Unknown => true,
    }
}

fn frame(record: &Record) -> Vec<u8> {
    let body = codec::to_bytes(record);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut frame = Vec::with_capacity(FRAME + body.len());
    frame.extend(length);
    frame.extend(crc(&length, &body).to_le_bytes());
    frame.extend(body);
    frame
}

fn crc(length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

/// Every whole record, and how many bytes belong to none. Behind damage the next frame whose CRC
/// fits is looked for.
fn read_frames(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut lost, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        match read_frame(&bytes[at..]) {
            Some((record, length)) => {
                records.push(record);
                at += length;
            }
            None => {
                lost += 1;
                at += 1;
            }
        }
    }
    (records, lost)
}

fn read_frame(bytes: &[u8]) -> Option<(Record, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > MAX_RECORD {
        return None;
    }
    let body = rest.get(..size)?;
    if crc(length, body) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((codec::from_bytes(body).ok()?, FRAME + size))
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
