use std::fs;

use super::*;
use crate::endpoint::fixture::{endpoint, ip, key};
use crate::small_disk::SmallDisk;

fn records(count: u8) -> Vec<Record> {
    (1..=count)
        .map(|n| Record::Attached {
            endpoint: Box::new(endpoint(&format!("e{n}"), &format!("10.0.0.{}", n + 1))),
        })
        .collect()
}

fn fold(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::default();
    records.iter().for_each(|record| ledger.apply(record));
    ledger
}

/// Opens a journal, as if the endpoints that it may have lost were restored.
fn open(path: &Path) -> (Journal, Ledger, Option<Damage>) {
    let (journal, mut ledger, found) = Journal::open(path).unwrap();
    let damage = match found {
        JournalState::Damaged(damage) => Some(damage),
        JournalState::Whole | JournalState::Empty => None,
    };
    assert!(damage.is_none() || ledger.is_incomplete());
    ledger.apply(&Record::Complete);
    (journal, ledger, damage)
}

fn write(path: &Path, records: &[Record]) {
    let (mut journal, mut ledger, damage) = open(path);
    assert_eq!(damage, None);
    for record in records {
        journal
            .append(&ledger, std::slice::from_ref(record))
            .unwrap();
        ledger.apply(record);
    }
}

#[test]
fn appended_records_are_read_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/journal");
    let mut all = records(3);
    all.push(Record::Detached {
        id: endpoint("e2", "10.0.0.3").id,
        at: 5,
    });
    write(&path, &all);
    let (_, ledger, damage) = open(&path);
    assert_eq!((ledger, damage), (fold(&all), None));
}

#[test]
fn names_beyond_the_limits_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut many = endpoint("e1", "10.0.0.2");
    many.aliases = (0..1_000).map(|it| format!("a{it}")).collect();
    let endpoint = Box::new(many.clone());
    write(&path, &[Record::Attached { endpoint }]);
    let (_, ledger, _) = open(&path);
    let known = ledger.endpoint(&many.id).expect("it is attached");
    assert_eq!(known.aliases, many.aliases[..limits::MAX_ALIASES]);
}

#[test]
fn records_that_other_processes_depend_on_must_be_on_disk() {
    let all = records(1);
    let id = endpoint("e1", "10.0.0.2").id;
    let (address, block) = (ip("10.0.0.2"), "10.0.0.0/28".parse().unwrap());
    let synced = |records: &[Record], ledger: &Ledger| {
        let synced = records.iter().map(|it| must_be_on_disk(it, ledger));
        synced.collect::<Vec<_>>()
    };
    // A second record of the endpoint only adds its name.
    assert_eq!(synced(&all, &Ledger::default()), [true]);
    assert_eq!(synced(&all, &fold(&all)), [false]);
    let given_back = [
        Record::Returning {
            key: key(),
            block,
            command: None,
        },
        Record::Ceding {
            key: key(),
            address,
            to: crate::endpoint::fixture::node("b"),
            command: None,
        },
    ];
    assert_eq!(synced(&given_back, &fold(&all)), [true, true]);
    let at = 1;
    let freed = [
        Record::Detached { id, at },
        Record::Reserved {
            key: key(),
            address,
        },
        Record::Released {
            key: key(),
            address,
            at,
        },
    ];
    assert_eq!(synced(&freed, &fold(&all)), [false; 3]);
}

#[test]
fn truncated_journal_keeps_every_whole_record() {
    // Thousands of flushes cost nothing on a disk in memory.
    let disk = SmallDisk::new("8m");
    let folder = tempfile::tempdir_in(disk.path()).unwrap();
    let path = folder.path().join("journal");
    let all = records(3);
    write(&path, &all);
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> = all
        .iter()
        .scan(0, |end, record| {
            *end += frame(record).len();
            Some(*end)
        })
        .collect();
    assert_eq!(ends.last(), Some(&whole.len()));
    for cut in 0..=whole.len() {
        let folder = tempfile::tempdir_in(disk.path()).unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|end| **end <= cut).count();
        let (mut journal, ledger, damage) = open(&path);
        assert_eq!(ledger, fold(&all[..kept]), "cut at {cut}");
        let torn = cut - ends[..kept].last().unwrap_or(&0);
        assert_eq!(
            damage.as_ref().map_or(0, |it| it.bytes),
            torn,
            "cut at {cut}"
        );
        if let Some(damage) = damage {
            assert_eq!(fs::read(damage.kept.unwrap()).unwrap(), whole[..cut]);
        }
        journal.append(&ledger, &all[2..]).unwrap();
        let (_, again, damage) = open(&path);
        assert_eq!(damage, None, "cut at {cut}");
        assert!(again.endpoint(&endpoint("e3", "10.0.0.4").id).is_some());
    }
}

#[test]
fn wrong_byte_costs_one_record() {
    // Thousands of flushes cost nothing on a disk in memory.
    let disk = SmallDisk::new("8m");
    let folder = tempfile::tempdir_in(disk.path()).unwrap();
    let path = folder.path().join("journal");
    let all = records(3);
    write(&path, &all);
    let whole = fs::read(&path).unwrap();
    let first = frame(&all[0]).len();
    for at in 0..first {
        let folder = tempfile::tempdir_in(disk.path()).unwrap();
        let path = folder.path().join("journal");
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        let (_, ledger, damage) = open(&path);
        assert_eq!(ledger, fold(&all[1..]), "byte {at}");
        assert_eq!(damage.map(|it| it.bytes), Some(first), "byte {at}");
    }
}

#[test]
fn long_journal_is_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, mut ledger, _) = open(&path);
    let address = ip("10.0.0.9");
    let batch: Vec<Record> = (0..600)
        .flat_map(|at| {
            [
                Record::Reserved {
                    key: key(),
                    address,
                },
                Record::Released {
                    key: key(),
                    address,
                    at,
                },
            ]
        })
        .collect();
    for _ in 0..3 {
        journal.append(&ledger, &batch).unwrap();
        batch.iter().for_each(|record| ledger.apply(record));
    }
    assert!(journal.records < 2 * batch.len());
    let (_, again, _) = open(&path);
    assert_eq!(again, ledger);
}

#[test]
fn full_disk_refuses_records_and_loses_none() {
    let disk = SmallDisk::new("64k");
    let path = disk.path().join("journal");
    let (mut journal, mut ledger, _) = open(&path);
    let all = records(40);
    // Half of the first page is written, so that a record is cut at its end.
    let (first, rest) = all.split_at(7);
    journal.append(&ledger, first).unwrap();
    first.iter().for_each(|record| ledger.apply(record));
    disk.fill();
    let mut refused = None;
    for record in rest {
        match journal.append(&ledger, std::slice::from_ref(record)) {
            Ok(()) => ledger.apply(record),
            Err(error) => refused = Some(error),
        }
    }
    assert_eq!(refused.unwrap().kind(), io::ErrorKind::StorageFull);
    let (_, read, damage) = open(&path);
    assert_eq!((read, damage), (ledger.clone(), None));
    disk.free();
    journal.append(&ledger, &all).unwrap();
    let (_, read, damage) = open(&path);
    assert_eq!((read, damage), (fold(&all), None));
}

#[test]
fn damaged_journal_on_a_full_disk_is_read_and_repaired_later() {
    let disk = SmallDisk::new("64k");
    let path = disk.path().join("journal");
    let all = records(3);
    write(&path, &all);
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 1);
    fs::write(&path, &bytes).unwrap();
    disk.fill();
    let (mut journal, ledger, damage) = open(&path);
    assert_eq!(ledger, fold(&all[..2]));
    assert_eq!(damage.unwrap().kept, None);
    assert!(journal.append(&ledger, &all[2..]).is_err());
    assert_eq!(fs::read(&path).unwrap(), bytes);
    disk.free();
    journal.append(&ledger, &all[2..]).unwrap();
    let (_, read, damage) = open(&path);
    assert_eq!((read, damage), (fold(&all), None));
}

#[test]
fn damaged_journal_is_incomplete_until_a_complete_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    assert_eq!(Journal::open(&path).unwrap().2, JournalState::Empty);
    let all = records(2);
    write(&path, &all);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (_, ledger, found) = Journal::open(&path).unwrap();
    assert!(matches!(found, JournalState::Damaged(_)) && ledger.is_incomplete());
    // The next start finds no damage, but the journal is still incomplete.
    let (mut journal, mut ledger, found) = Journal::open(&path).unwrap();
    assert!(found == JournalState::Whole && ledger.is_incomplete());
    journal.append(&ledger, &[Record::Complete]).unwrap();
    ledger.apply(&Record::Complete);
    let (_, again, found) = Journal::open(&path).unwrap();
    assert_eq!((again, found), (ledger, JournalState::Whole));
}

#[test]
fn cluster_is_read_from_a_damaged_or_compacted_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    assert_eq!(cluster_in(&path), None);
    let [one, two] = [1, 2].map(|it| ClusterId(uuid::Uuid::from_u128(it)));
    let mut all = records(1);
    all.push(Record::Cluster { cluster: one });
    all.push(Record::Cluster { cluster: two });
    write(&path, &all);
    assert_eq!(cluster_in(&path), Some(two));
    let (mut journal, ledger, _) = open(&path);
    assert_eq!(ledger.cluster(), Some(two));
    journal.rewrite(&ledger).unwrap();
    assert_eq!(cluster_in(&path), Some(two));
    let mut bytes = fs::read(&path).unwrap();
    bytes.pop();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(cluster_in(&path), Some(two));
}

#[test]
fn another_nodes_journal_is_set_aside_under_a_name_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("journal"), folder.path().join("copy"));
    assert_eq!(writer_of(&path), None);
    let node: NodeName = "n1".parse().unwrap();
    let machine = MachineId("machine-1".to_owned());
    let writer = Record::Writer {
        node: node.clone(),
        machine: machine.clone(),
    };
    let all = [vec![writer], records(2)].concat();
    for name in ["journal.of-n1", "journal.of-n1-1"] {
        write(&path, &all);
        let (mut journal, ledger, _) = open(&path);
        journal.rewrite(&ledger).unwrap();
        fs::write(&copy, "endpoints").unwrap();
        assert_eq!(writer_of(&path), Some((node.clone(), machine.clone())));
        let aside = set_aside(&path, &copy, &node).unwrap();
        assert_eq!(aside, folder.path().join(name));
        assert_eq!(open(&aside).1, fold(&all));
        assert!(!path.exists() && !copy.exists());
    }
}

/// Builds before these records read them as `Unknown` and skip them.
#[test]
fn older_builds_skip_unknown_records() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(tag = "type", rename_all = "kebab-case")]
    enum Old {
        Detached {
            at: u64,
        },
        #[serde(other)]
        Unknown,
    }
    let cluster = ClusterId(uuid::Uuid::from_u128(1));
    let read = |record: &Record| codec::from_bytes::<Old>(&codec::to_bytes(record)).unwrap();
    for record in [
        Record::Cluster { cluster },
        Record::Writer {
            node: "n1".parse().unwrap(),
            machine: MachineId("machine-1".to_owned()),
        },
        Record::Incomplete,
        Record::Complete,
    ] {
        assert_eq!(read(&record), Old::Unknown);
    }
    let id = endpoint("e", "10.0.0.2").id;
    assert_eq!(
        read(&Record::Detached { id, at: 7 }),
        Old::Detached { at: 7 }
    );
}
