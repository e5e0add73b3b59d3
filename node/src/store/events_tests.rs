use bus_schema::event::TenantCreated;
use bus_schema::{CommandId, EventId, Header};
use uuid::Uuid;

use super::*;
use crate::small_disk::SmallDisk;

/// An event of this revision, which creates a tenant `t<revision>`.
fn message(revision: u64) -> LogMessage {
    let tenant = format!("t{revision}").parse().unwrap();
    let envelope = Envelope {
        header: Header::new(
            EventId(Uuid::from_u128(revision.into())),
            0,
            "master",
            CommandId(Uuid::nil()),
        ),
        body: Event::TenantCreated(TenantCreated { tenant }),
    };
    LogMessage {
        revision: Revision(revision),
        subject: format!("contiv.log._cluster.tenant.t{revision}"),
        payload: codec::to_bytes(&envelope).into(),
    }
}

fn messages(revisions: std::ops::RangeInclusive<u64>) -> Vec<LogMessage> {
    revisions.map(message).collect()
}

/// The facts of the log up to a revision.
fn facts(end: u64) -> Projection {
    let mut facts = Projection::default();
    for message in messages(1..=end) {
        message.fold(&mut facts);
    }
    facts
}

/// Starts with a projection that was saved at this revision.
fn start(folder: &Path, saved: u64) -> (Events, Projection, LoadedEvents) {
    let mut known = facts(saved);
    let (events, found) = Events::open(folder, &mut known).unwrap();
    assert_eq!(events.end(), known.applied);
    (events, known, found)
}

fn names(folder: &Path) -> Vec<String> {
    let files = files(folder).unwrap().into_iter();
    let name = |it: PathBuf| it.file_name().unwrap().to_str().unwrap().to_owned();
    files
        .map(|it| name(it).trim_start_matches('0').to_owned())
        .collect()
}

#[test]
fn events_behind_the_saved_projection_are_folded_in_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("events");
    let (mut events, known, _) = start(&folder, 0);
    assert_eq!(known, Projection::default());
    events.append(messages(1..=3)).unwrap();
    events.append(messages(4..=4)).unwrap();
    for saved in 0..=4 {
        let (_, known, found) = start(&folder, saved);
        assert_eq!(known, facts(4), "saved at {saved}");
        assert_eq!(found.folded as u64, 4 - saved);
    }
}

#[test]
fn messages_that_were_written_before_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut events, ..) = start(folder.path(), 0);
    events.append(messages(1..=3)).unwrap();
    events.append(messages(2..=5)).unwrap();
    let (_, known, found) = start(folder.path(), 0);
    assert_eq!((known, found.folded), (facts(5), 5));
}

#[test]
fn files_with_saved_events_only_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut events, ..) = start(folder.path(), 0);
    events.append(messages(1..=3)).unwrap();
    events.rotate();
    // Written after the file was sealed, and not yet folded in when the projection was taken.
    events.append(messages(4..=6)).unwrap();
    events.saved(Revision(3)).unwrap();
    assert_eq!(names(folder.path()), ["4"]);
    events.rotate();
    events.append(messages(7..=7)).unwrap();
    events.saved(Revision(5)).unwrap();
    assert_eq!(names(folder.path()), ["4", "7"]);
    assert_eq!(start(folder.path(), 5).1, facts(7));
}

#[test]
fn file_cut_at_any_byte_loses_only_the_torn_event() {
    // Thousands of flushes cost nothing on a disk in memory.
    let disk = SmallDisk::new("8m");
    let folder = disk.path().join("events");
    let (mut events, ..) = start(&folder, 2);
    events.append(messages(3..=6)).unwrap();
    let path = folder.join(format!("{:020}", 3));
    let whole = fs::read(&path).unwrap();
    let mut ends = vec![0];
    for message in messages(3..=6) {
        ends.push(ends.last().unwrap() + frames::frame(&message.encode()).len());
    }
    for cut in 0..=whole.len() {
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&path, &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
        let (mut events, known, found) = start(&folder, 2);
        assert_eq!(
            (known, found.damaged),
            (facts(2 + kept), false),
            "cut at {cut}"
        );
        // Appends continue behind the last whole event.
        events.append(messages(3 + kept..=7)).unwrap();
        assert_eq!(start(&folder, 2).1, facts(7), "cut at {cut}");
    }
}

#[test]
fn wrong_bit_loses_no_event_before_it_and_the_rest_is_written_again() {
    let disk = SmallDisk::new("8m");
    let folder = disk.path().join("events");
    let (mut events, ..) = start(&folder, 0);
    events.append(messages(1..=3)).unwrap();
    let path = folder.join(format!("{:020}", 1));
    let whole = fs::read(&path).unwrap();
    let length = frames::frame(&message(1).encode()).len();
    assert_eq!(whole.len(), 3 * length);
    for bit in 0..whole.len() * 8 {
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let hit = bit / 8 / length;
        let (mut events, known, found) = start(&folder, 0);
        assert_eq!(known, facts(hit as u64), "bit {bit}");
        // A wrong length of the last one looks like a write that was cut short.
        let is_length = bit / 8 % length < 4;
        assert_eq!(found.damaged, hit < 2 || !is_length, "bit {bit}");
        events.append(messages(hit as u64 + 1..=4)).unwrap();
        assert_eq!(start(&folder, 0).1, facts(4), "bit {bit}");
    }
}

#[test]
fn events_refused_by_a_full_disk_are_not_counted_and_are_tried_again() {
    let disk = SmallDisk::new("64k");
    let folder = disk.path().join("events");
    let (mut events, ..) = start(&folder, 0);
    events.append(messages(1..=2)).unwrap();
    disk.fill();
    let mut last = 2;
    let refused = loop {
        last += 1;
        if let Err(error) = events.append(messages(last..=last)) {
            break error;
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(events.end(), Revision(last - 1));
    assert!(events.append(messages(last + 1..=last + 1)).is_err());
    assert_eq!(start(&folder, 0).1, facts(last - 1));
    disk.free();
    events.append(messages(last + 2..=last + 2)).unwrap();
    assert_eq!(start(&folder, 0).1, facts(last + 2));
}

#[test]
fn events_after_a_gap_wait_for_a_projection_with_those_before() {
    let folder = tempfile::tempdir().unwrap();
    let (mut events, ..) = start(folder.path(), 0);
    events.append(messages(1..=1)).unwrap();
    assert!(events.append(messages(3..=4)).is_err());
    assert_eq!(events.end(), Revision(1));
    events.saved(Revision(3)).unwrap();
    assert_eq!(events.end(), Revision(4));
    assert_eq!(start(folder.path(), 3).1, facts(4));
}

#[test]
fn reset_removes_the_files_of_the_other_log() {
    let folder = tempfile::tempdir().unwrap();
    let (mut events, ..) = start(folder.path(), 0);
    events.append(messages(1..=3)).unwrap();
    events.reset().unwrap();
    assert_eq!(start(folder.path(), 0).1, Projection::default());
    events.append(messages(1..=1)).unwrap();
    assert_eq!(start(folder.path(), 0).1, facts(1));
}
