//! Files of framed records, which are appended to, read after a crash, and replaced as a whole.
//!
//! A frame is the record's length, a CRC-32 of length and record, and the record; both numbers
//! have four bytes, little-endian. After damage the reader searches the next frame with a valid CRC, so
//! only damaged records are lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// Size of length and CRC.
const HEAD_BYTES: usize = 8;
/// Limits a record; a larger length is damage.
const MAX_RECORD_BYTES: usize = 8 << 20;

/// A record in its frame.
pub(crate) fn frame(record: &[u8]) -> Vec<u8> {
    let length = u32::try_from(record.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD_BYTES + record.len());
    frame.extend(length);
    frame.extend(crc(&length, record).to_le_bytes());
    frame.extend(record);
    frame
}

/// The contents of a file.
pub(crate) struct FrameContents<T> {
    /// Each complete record that could be decoded.
    pub(crate) records: Vec<T>,
    /// Bytes outside of these records.
    pub(crate) lost: usize,
    /// Position after the last record.
    pub(crate) end: usize,
}

pub(crate) fn read<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Option<T>) -> FrameContents<T> {
    let (mut records, mut lost, mut end, mut at) = (Vec::new(), 0, 0, 0);
    while at < bytes.len() {
        let found = first(&bytes[at..]).and_then(|it| Some((decode(it)?, HEAD_BYTES + it.len())));
        match found {
            Some((record, length)) => {
                records.push(record);
                at += length;
                end = at;
            }
            None => {
                lost += 1;
                at += 1;
            }
        }
    }
    FrameContents { records, lost, end }
}

/// The record of the frame at the begin of these bytes.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*length) as usize;
    if size == 0 || size > MAX_RECORD_BYTES {
        return None;
    }
    let record = rest.get(..size)?;
    (crc(length, record) == u32::from_le_bytes(*sum)).then_some(record)
}

/// Whether the last frame has its full length, with any contents: a write that a crash interrupted
/// mostly leaves fewer bytes.
pub(crate) fn has_whole_length(frame: &[u8]) -> bool {
    let head = frame.split_first_chunk::<4>();
    head.is_some_and(|(length, _)| frame.len() == HEAD_BYTES + u32::from_le_bytes(*length) as usize)
}

fn crc(length: &[u8], record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(record);
    hasher.finalize()
}

/// An open file to which frames are appended.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    /// Bytes of complete frames; after them may be the rest of a failed append.
    length: u64,
}

impl Tail {
    pub(crate) fn new(file: File, length: u64) -> Self {
        Self { file, length }
    }

    /// Appends frames, and syncs them to disk if `sync`. After an error none of them counts; a part may
    /// be in the file, which the next append overwrites and the next reader reports.
    pub(crate) fn append(&mut self, frames: &[u8], sync: bool) -> io::Result<()> {
        let written = self.write(frames, sync);
        match written {
            Ok(()) => self.length += frames.len() as u64,
            Err(_) => {
                self.file.set_len(self.length).ok();
            }
        }
        written
    }

    fn write(&mut self, frames: &[u8], sync: bool) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(frames)?;
        match sync {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}

/// Replaces a file atomically: a reader of the path sees the old bytes or the new ones, also after a
/// crash.
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
        sync_folder(path)?;
        Ok(file)
    })();
    if written.is_err() {
        fs::remove_file(&fresh).ok();
    }
    written
}

/// Syncs the file's folder to disk: its new and removed names.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
        let found = read(bytes, |it| Some(it.to_vec()));
        (found.records, found.lost)
    }

    /// Records of several lengths, with the end of each frame.
    fn sample() -> (Vec<Vec<u8>>, Vec<u8>, Vec<usize>) {
        let records: Vec<Vec<u8>> = (1..=4_u8).map(|n| vec![n; usize::from(n) * 5]).collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for record in &records {
            bytes.extend(frame(record));
            ends.push(bytes.len());
        }
        (records, bytes, ends)
    }

    #[test]
    fn truncated_file_loses_only_the_torn_record() {
        let (records, bytes, ends) = sample();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let torn = cut - ends[..whole].last().unwrap_or(&0);
            assert_eq!(all(&bytes[..cut]), (records[..whole].to_vec(), torn));
        }
    }

    #[test]
    fn wrong_bit_loses_only_its_record() {
        let (records, bytes, ends) = sample();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let hit = ends.iter().filter(|end| **end <= bit / 8).count();
            let mut left = records.clone();
            left.remove(hit);
            let (read, lost) = all(&damaged);
            assert_eq!(read, left, "bit {bit}");
            assert_eq!(lost, HEAD_BYTES + records[hit].len(), "bit {bit}");
        }
    }
}
