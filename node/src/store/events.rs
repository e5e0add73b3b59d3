//! The log's events that came after the saved projection, in files beside it.
//!
//! An event is on disk before any part of the node uses it, so that a node that is killed starts with
//! the facts that its kernel reflects. Each file is named by its first revision and holds [`frames`]
//! of messages as the log delivered them, so that a newer build reads also events that this one skips.
//! A file is removed when the saved projection holds all of its events.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bus_schema::codec::{self, Decoded};
use bus_schema::{Envelope, Event, Revision};
use bytes::Bytes;

use crate::frames::{self, Tail};
use node_core::projection::{Projection, Touched};

/// The number of messages that wait for a disk that refuses writes; further ones are left to the next
/// saved projection.
const MAX_WAITING_MESSAGES: usize = 100_000;

/// One message of the log, as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogMessage {
    pub revision: Revision,
    pub subject: String,
    pub payload: Bytes,
}

impl LogMessage {
    /// Folds the message into the facts. An event for newer readers closes the objects that it concerns;
    /// a message that is no event is skipped.
    pub fn fold(&self, facts: &mut Projection) -> Touched {
        let (revision, of) = (self.revision, &self.subject);
        match codec::decode::<Event>(&self.payload) {
            Ok(Decoded::Known(Envelope { header, body })) => {
                tracing::debug!(%revision, event = body.kind(), "applied");
                facts.apply(revision, header.id, &body)
            }
            Ok(Decoded::Newer(header)) => {
                tracing::warn!(%revision, subject = of, "an event for newer versions: upgrade netplugin");
                facts.apply_newer(revision, header.id, of)
            }
            Err(error) => {
                tracing::warn!(%revision, subject = of, %error, "skipped a message of the log that is no event of ours");
                facts.skip(revision);
                Touched::default()
            }
        }
    }

    /// Revision (8 bytes) and length of the subject (2), little-endian; subject; payload.
    fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.subject.len()).unwrap_or(u16::MAX);
        let mut bytes = self.revision.0.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(&self.subject.as_bytes()[..usize::from(length)]);
        bytes.extend(&self.payload);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (revision, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (subject, payload) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        Some(Self {
            revision: Revision(u64::from_le_bytes(*revision)),
            subject: String::from_utf8(subject.to_vec()).ok()?,
            payload: Bytes::copy_from_slice(payload),
        })
    }
}

/// A file that gets no more events, and the last revision in it.
#[derive(Debug)]
struct Sealed {
    path: PathBuf,
    last: Revision,
}

#[derive(Debug)]
pub(super) struct Events {
    folder: PathBuf,
    sealed: Vec<Sealed>,
    open: Option<(PathBuf, Tail)>,
    /// The saved projection and the files hold the log up to here, without a gap.
    end: Revision,
    /// The messages that the disk refused, in the order of revisions.
    waiting: Vec<LogMessage>,
}

/// The result of [`Events::open`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoadedEvents {
    /// The number of events that were folded in.
    pub(super) folded: usize,
    /// Whether bytes belong to no whole record, other than at the end of a file, where a crash leaves
    /// half of one.
    pub(super) damaged: bool,
}

impl Events {
    /// Folds the events of the files into the saved facts.
    pub(super) fn open(folder: &Path, facts: &mut Projection) -> io::Result<(Self, LoadedEvents)> {
        let (mut sealed, mut messages, mut damaged) = (Vec::new(), BTreeMap::new(), false);
        for path in files(folder)? {
            let bytes = fs::read(&path)?;
            let found = frames::read(&bytes, LogMessage::decode);
            let rest = &bytes[found.end..];
            let is_torn = found.lost == rest.len() && !frames::has_whole_length(rest);
            damaged |= found.lost > 0 && !is_torn;
            let revisions = found.records.iter().map(|it| it.revision);
            let last = revisions.max().unwrap_or_default();
            sealed.push(Sealed { path, last });
            messages.extend(found.records.into_iter().map(|it| (it.revision, it)));
        }
        let mut folded = 0;
        while let Some(message) = messages.get(&facts.applied.next()) {
            message.fold(facts);
            folded += 1;
        }
        let events = Self {
            folder: folder.to_owned(),
            sealed,
            open: None,
            end: facts.applied,
            waiting: Vec::new(),
        };
        Ok((events, LoadedEvents { folded, damaged }))
    }

    /// The log is on disk up to here.
    pub(super) fn end(&self) -> Revision {
        self.end
    }

    /// Writes messages to disk with one sync. After an error they wait for the next call; messages
    /// that were written before are left out.
    pub(super) fn append(&mut self, messages: Vec<LogMessage>) -> io::Result<()> {
        let last = self.waiting.last().map_or(self.end, |it| it.revision);
        let fresh = messages.into_iter().filter(|it| it.revision > last);
        self.waiting.extend(fresh);
        if self.waiting.len() > MAX_WAITING_MESSAGES {
            self.waiting.clear();
            return Err(io::Error::other("too many events wait for the disk"));
        }
        self.flush()
    }

    /// Writes the messages that the disk refused before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let (Some(first), Some(last)) = (self.waiting.first(), self.waiting.last()) else {
            return Ok(());
        };
        let (first, last) = (first.revision, last.revision);
        if first != self.end.next() {
            return Err(io::Error::other("events before these couldn't be written"));
        }
        let mut tail = match self.open.take() {
            Some(open) => open,
            None => self.create(first)?,
        };
        let all = self.waiting.iter();
        let bytes: Vec<u8> = all.flat_map(|it| frames::frame(&it.encode())).collect();
        if let Err(error) = tail.1.append(&bytes, true) {
            // After a failed sync it is unknown which bytes of the file are on disk: the next attempt
            // writes another file.
            self.seal(tail.0);
            return Err(error);
        }
        self.open = Some(tail);
        self.end = last;
        self.waiting.clear();
        Ok(())
    }

    /// Creates the file. An existing file with this name has no event that can be folded in.
    fn create(&mut self, first: Revision) -> io::Result<(PathBuf, Tail)> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{:020}", first.0));
        self.sealed.retain(|it| it.path != path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        frames::sync_folder(&path)?;
        frames::sync_folder(&self.folder)?;
        Ok((path, Tail::new(file, 0)))
    }

    fn seal(&mut self, path: PathBuf) {
        let last = self.end;
        self.sealed.push(Sealed { path, last });
    }

    /// Begins a new file with the next event. A projection that is saved from now on includes all
    /// events of the older files, as soon as these are folded in.
    pub(super) fn rotate(&mut self) {
        if let Some((path, _)) = self.open.take() {
            self.seal(path);
        }
    }

    /// Removes the files whose events are all in the saved facts.
    pub(super) fn saved(&mut self, facts: Revision) -> io::Result<()> {
        self.end = self.end.max(facts);
        self.waiting.retain(|it| it.revision > facts);
        let (done, left): (Vec<_>, _) = std::mem::take(&mut self.sealed)
            .into_iter()
            .partition(|it| it.last <= facts);
        self.sealed = left;
        for Sealed { path, .. } in done {
            // If that fails, the next start skips the events by their revisions.
            fs::remove_file(path).ok();
        }
        self.flush()
    }

    /// Removes all events, because the node follows another log.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.open = None;
        for path in files(&self.folder)? {
            fs::remove_file(&path)?;
            frames::sync_folder(&path)?;
        }
        self.sealed.clear();
        self.waiting.clear();
        self.end = Revision(0);
        Ok(())
    }
}

/// The files of the folder in the order of their revisions; none if there is no folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|it| it.to_str());
        name.is_some_and(|it| it.parse::<u64>().is_ok())
    });
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
