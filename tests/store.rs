//! The store of requests: what is written is read again, whatever happens to the writer, the disk or the files.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use txprof::ErrorKind;
use txprof::model::{
    Attributes, Frame, FrameKind, Outcome, Profile, Recording, Request, RequestStatus, Root, Sample, StackId,
    ThreadState,
};
use txprof::store::{Filter, Found, Order, StoreReader, StoreWriter, StoredRequest, WriteStats};

const DAY_NS: u64 = 86_400_000_000_000;
/// 2026-11-28 12:00 UTC.
const NOON_NS: u64 = 1_795_867_200_000_000_000;
const FOLDER_VARIABLE: &str = "TXPROF_TEST_STORE";
const BATCH: usize = 50;

fn profile(seed: u64) -> Profile {
    let function = |number: u64| Frame::named(FrameKind::Python, format!("function_{number}"));
    let sample = |stack, weight_ns| Sample {
        root: Root::default(),
        stack: StackId(stack),
        outcome: Outcome::Complete,
        state: ThreadState::Running,
        holds_gil: true,
        is_idle: false,
        count: 1,
        weight_ns,
    };
    Profile {
        recording: Recording { period_ns: 1_000_000, ..Recording::default() },
        frames: vec![function(seed % 40), function(seed % 7 + 100), function(1000)],
        stacks: vec![vec![0, 1, 2], vec![1, 2]],
        samples: vec![sample(0, 1000 + seed), sample(1, 500)],
        ..Profile::default()
    }
}

/// The names that a batch was given, all of it written.
fn given(stats: txprof::Result<WriteStats>) -> Vec<String> {
    stats.unwrap().names.into_iter().map(Option::unwrap).collect()
}

fn stored(number: u64) -> StoredRequest {
    let status = if number.is_multiple_of(10) { RequestStatus::Error } else { RequestStatus::Ok };
    let attributes =
        [("user.name", format!("user_{}", number % 50)), ("rpc.method", format!("m.{}", number % 20))];
    let attributes: Attributes =
        attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let request = Request {
        id: format!("{number:016x}"),
        name: format!("name_{}", ["ada", "bob", "cy"][(number % 3) as usize]),
        process: "server".to_owned(),
        pid: 7,
        began_unix_ns: NOON_NS + number * 1_000_000,
        duration_ns: 1_000_000 * (number * 7919 % 1000),
        status,
        attributes,
        ..Request::default()
    };
    StoredRequest { request, policy: "slow".to_owned(), profile: profile(number) }
}

fn batch(numbers: std::ops::Range<u64>) -> Vec<StoredRequest> {
    numbers.map(stored).collect()
}

fn day_file(folder: &Path) -> PathBuf {
    folder.join("requests-2026-11-28.db")
}

fn all(folder: &Path) -> usize {
    let filter = Filter { limit: usize::MAX, ..Filter::default() };
    StoreReader::open(folder).unwrap().list(&filter).unwrap().len()
}

/// Names are made unique, the first, second and third of one name differ, also after the writer was opened again and on
/// another day; names as long as they are free are kept.
#[test]
fn names_are_unique_over_all_days() {
    let folder = tempfile::tempdir().unwrap();
    let mut one = stored(0);
    one.request.name = "angry_einstein".to_owned();
    let mut next_day = one.clone();
    next_day.request.began_unix_ns += DAY_NS;
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    assert_eq!(given(writer.write(&[one.clone(), one.clone()])), ["angry_einstein", "angry_einstein_2"]);
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    assert_eq!(given(writer.write(&[next_day])), ["angry_einstein_3"]);
    assert_eq!(given(writer.write(&[one])), ["angry_einstein_4"]);
}

/// Names are told in the order of the batch, whatever the days of its requests.
#[test]
fn names_are_told_in_the_order_of_the_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut batch = batch(0..3);
    let names = ["calm_curie", "fleet_weil", "lucid_szilard"];
    batch.iter_mut().zip(names).for_each(|(stored, name)| stored.request.name = name.to_owned());
    batch[1].request.began_unix_ns += DAY_NS;
    assert_eq!(given(StoreWriter::open(folder.path()).unwrap().write(&batch)), names);
}

/// A key is an id, a name, or what one of them begins with; several are told, an exact one wins.
#[test]
fn requests_are_found_by_id_name_and_prefix() {
    let folder = tempfile::tempdir().unwrap();
    StoreWriter::open(folder.path()).unwrap().write(&batch(0..4)).unwrap();
    let reader = StoreReader::open(folder.path()).unwrap();
    let one = |key: &str| match reader.find(key).unwrap() {
        Found::One(summary) => summary.request.id.clone(),
        other => panic!("`{key}`: {other:?}"),
    };
    assert_eq!(one("name_ada"), "0000000000000000", "an exact name wins over its longer ones");
    assert_eq!(one("name_ada_"), "0000000000000003");
    assert_eq!(one("name_b"), "0000000000000001");
    assert_eq!(one("0000000000000002"), "0000000000000002");
    let Found::Several(candidates) = reader.find("name_").unwrap() else { panic!("four begin with it") };
    assert_eq!(candidates.len(), 4);
    assert_eq!(reader.find("name_x").unwrap(), Found::Nothing);
    assert_eq!(reader.find("").unwrap(), Found::Nothing);
}

/// Each filter alone, and the order.
#[test]
fn filters_choose_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    let mut batch = batch(0..200);
    batch[199].request.began_unix_ns += DAY_NS;
    writer.write(&batch).unwrap();
    let reader = StoreReader::open(folder.path()).unwrap();
    let ids = |filter: Filter| -> Vec<u64> {
        let list = reader.list(&filter).unwrap();
        list.iter().map(|summary| u64::from_str_radix(&summary.request.id, 16).unwrap()).collect()
    };
    assert_eq!(ids(Filter { limit: 3, ..Filter::default() }), [199, 198, 197]);
    assert_eq!(ids(Filter { user: Some("user_3".to_owned()), ..Filter::default() }), [153, 103, 53, 3]);
    assert_eq!(ids(Filter { method: Some("m.1?".to_owned()), limit: 500, ..Filter::default() }).len(), 100);
    assert_eq!(ids(Filter { method: Some("m.1".to_owned()), ..Filter::default() })[0], 181);
    assert_eq!(ids(Filter { status: Some(RequestStatus::Error), ..Filter::default() }).len(), 20);
    assert_eq!(ids(Filter { process: Some("other".to_owned()), ..Filter::default() }).len(), 0);
    assert_eq!(ids(Filter { policy: Some("slow".to_owned()), limit: 1, ..Filter::default() }), [199]);
    let since = Filter { since_unix_ns: Some(NOON_NS + DAY_NS), ..Filter::default() };
    assert_eq!(ids(since), [199]);
    let until = Filter { until_unix_ns: Some(NOON_NS + 2_000_000), ..Filter::default() };
    assert_eq!(ids(until), [1, 0]);
    let slow = Filter { min_duration: Some(Duration::from_millis(990)), limit: 500, ..Filter::default() };
    assert!(ids(slow).iter().all(|number| number * 7919 % 1000 >= 990));
    let slowest = ids(Filter { order: Order::Slowest, limit: 2, ..Filter::default() });
    let mut expected: Vec<u64> = (0..200).collect();
    expected.sort_by_key(|number| std::cmp::Reverse(number * 7919 % 1000));
    assert_eq!(slowest, expected[..2]);
}

/// Folder and files are their owner's alone, and a folder that others may write to is refused.
#[test]
fn files_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/store");
    let mut writer = StoreWriter::open(&path).unwrap();
    writer.write(&batch(0..3)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let error = StoreWriter::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().contains("chmod"));
}

/// A missing folder is told with a hint; so is one that cannot be made.
#[test]
fn impossible_folders_are_told() {
    let error = StoreReader::open("/proc/no").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some());
    let error = StoreWriter::open("/proc/no").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Output);
    assert!(error.hint().is_some());
}

/// Files damaged before the writer opens them, or while it has them open, are moved aside with a warning; a reader
/// leaves them out with one; a file that was removed under the writer is begun anew.
#[test]
fn damaged_files_are_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = day_file(folder.path());
    fs::write(&path, vec![7; 50_000]).unwrap();
    let reader = StoreReader::open(folder.path()).unwrap();
    assert_eq!(reader.list(&Filter::default()).unwrap(), []);
    assert_eq!(reader.take_warnings().len(), 1);
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    writer.write(&batch(0..3)).unwrap();
    assert!(writer.take_warnings()[0].contains("damaged-1"));
    assert!(path.with_extension("db.damaged-1").exists());
    assert_eq!(all(folder.path()), 3);
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    writer.write(&batch(3..5)).unwrap();
    assert_eq!(all(folder.path()), 2);
}

/// Old days go, the oldest first, by age and by size; today's file never does, but is made smaller.
#[test]
fn retention_removes_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    for age in 0..5 {
        let mut batch = batch(0..20);
        batch.iter_mut().for_each(|stored| stored.request.began_unix_ns -= age * DAY_NS);
        writer.write(&batch).unwrap();
    }
    let day = Duration::from_secs(86_400);
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let removed = writer.retain(NOON_NS, 3 * day, u64::MAX).unwrap();
    assert_eq!(removed.iter().map(name).collect::<Vec<_>>(), ["requests-2026-11-24.db"]);
    let removed = writer.retain(NOON_NS, 3 * day, 0).unwrap();
    let expected = ["requests-2026-11-25.db", "requests-2026-11-26.db", "requests-2026-11-27.db"];
    assert_eq!(removed.iter().map(name).collect::<Vec<_>>(), expected);
    assert!(day_file(folder.path()).exists());

    for number in 0..40 {
        writer.write(&batch(number * 100..number * 100 + 100)).unwrap();
    }
    let size = || -> u64 {
        let entries = fs::read_dir(folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap())
            .filter(|entry| !name(&entry.path()).ends_with("-shm"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum()
    };
    // The last one to close the file leaves no log beside it.
    drop(writer);
    let limit = size() / 3;
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    assert!(writer.retain(NOON_NS, day, limit).unwrap().is_empty());
    assert!(size() <= limit, "{} of {limit}", size());
    let reader = StoreReader::open(folder.path()).unwrap();
    let left = reader.list(&Filter { limit: usize::MAX, ..Filter::default() }).unwrap();
    assert!(!left.is_empty() && left.len() < 2000, "{}", left.len());
    assert_eq!(left[0].request.id, stored(3999).request.id, "the newest stay");
    for summary in &left {
        assert_eq!(reader.load(summary).unwrap().profile.stacks.len(), 2);
    }
    writer.write(&batch(4000..4100)).unwrap();
    assert_eq!(all(folder.path()), left.len() + 100);
}

/// Two writers and a reader at once: nothing is lost, no name is given twice, no list fails.
#[test]
fn two_writers_and_a_reader_share_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write = |first: u64| {
            let mut writer = StoreWriter::open(path).unwrap();
            for number in 0..20 {
                writer.write(&batch(first + number * 10..first + number * 10 + 10)).unwrap();
            }
        };
        let writers = [scope.spawn(move || write(0)), scope.spawn(move || write(10_000))];
        let reader = scope.spawn(|| {
            let reader = StoreReader::open(path).unwrap();
            let mut lists = 0;
            while !done.load(Ordering::Relaxed) {
                for summary in reader.list(&Filter::default()).unwrap() {
                    reader.load(&summary).unwrap();
                }
                lists += 1;
            }
            assert_eq!(reader.take_warnings(), [""; 0]);
            lists
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    let list = StoreReader::open(path).unwrap().list(&Filter { limit: 1000, ..Filter::default() }).unwrap();
    assert_eq!(list.len(), 400);
    let names: std::collections::BTreeSet<_> = list.iter().map(|summary| &summary.request.name).collect();
    assert_eq!(names.len(), 400);
}

/// Run by [`killed_writer_loses_its_last_batch_only`] as a process of its own; else does nothing.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let mut writer = StoreWriter::open(PathBuf::from(folder)).unwrap();
    let mut standard_error = std::io::stderr();
    for number in (0..).step_by(BATCH) {
        writer.write(&batch(number..number + BATCH as u64)).unwrap();
        // Not captured by the test harness, unlike what is printed.
        writeln!(standard_error, "committed {}", number + BATCH as u64).unwrap();
    }
}

/// A writer is killed at several instants: the file is sound, has whole batches, and all that were said to be written.
#[test]
fn killed_writer_loses_its_last_batch_only() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5_u64 {
        let path = folder.path().join(round.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
            .env(FOLDER_VARIABLE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let numbers = lines.filter_map(|line| line.strip_prefix("committed ")?.parse::<usize>().ok());
        let killed_at = Duration::from_micros(700 * round);
        let mut committed = 0;
        for (count, number) in numbers.enumerate() {
            committed = number;
            if count as u64 == 3 + 2 * round {
                std::thread::sleep(killed_at);
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let kept = all(&path);
        assert!(
            kept.is_multiple_of(BATCH) && kept >= committed && kept <= committed + BATCH,
            "{kept}, {committed}"
        );
        let mut writer = StoreWriter::open(&path).unwrap();
        writer.write(&batch(1_000_000..1_000_001)).unwrap();
        assert_eq!(writer.take_warnings(), [""; 0]);
        let connection = Connection::open(day_file(&path)).unwrap();
        let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        assert_eq!(all(&path), kept + 1);
    }
}

/// A disk of its own, of 1 MiB; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let mounted =
            nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, Some("size=1m,mode=700"));
        mounted.ok().map(|()| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A full disk is an error with a hint; the batches before are there, and writing goes on once there is room.
#[test]
fn full_disk_is_told_and_outlived() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: no right to mount a small disk");
        return;
    };
    let folder = disk.0.path();
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![1; 400_000]).unwrap();
    let mut writer = StoreWriter::open(folder).unwrap();
    let mut written = 0;
    let error = loop {
        match writer.write(&batch(written..written + 100)) {
            Ok(_) => written += 100,
            Err(error) => break error,
        }
        assert!(written < 100_000, "a disk of 1 MiB never fills");
    };
    assert_eq!(error.kind(), ErrorKind::Output, "{error}");
    assert!(error.hint().is_some(), "{error}");
    assert_eq!(all(folder) as u64, written);
    assert!(writer.write(&batch(written..written + 100)).is_err());
    fs::remove_file(&ballast).unwrap();
    writer.write(&batch(written..written + 100)).unwrap();
    assert_eq!(all(folder) as u64, written + 100);
    assert_eq!(writer.take_warnings(), [""; 0]);
}

/// A store of 100,000 requests, or as many thousands as are asked for: how long the usual lists take is printed, not judged.
#[test]
fn large_stores_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::open(folder.path()).unwrap();
    let began = Instant::now();
    let mut bytes = 0;
    let asked = std::env::var("TXPROF_TEST_STORE_THOUSANDS").ok();
    let thousands: u64 = asked.map_or(100, |thousands| thousands.parse().unwrap());
    for number in 0..thousands {
        bytes += writer.write(&batch(number * 1000..number * 1000 + 1000)).unwrap().bytes;
    }
    println!("{thousands},000 requests written in {:?}, {bytes} bytes of samples", began.elapsed());
    println!("file: {} bytes", fs::metadata(day_file(folder.path())).unwrap().len());
    let reader = StoreReader::open(folder.path()).unwrap();
    let usual = Filter::default();
    for (what, filter) in [
        ("newest", usual.clone()),
        ("of a user", Filter { user: Some("user_3".to_owned()), ..usual.clone() }),
        (
            "of a user, slowest",
            Filter { user: Some("user_3".to_owned()), order: Order::Slowest, ..usual.clone() },
        ),
        ("of methods", Filter { method: Some("*.1?".to_owned()), ..usual.clone() }),
        ("errors", Filter { status: Some(RequestStatus::Error), ..usual.clone() }),
        ("none so long", Filter { min_duration: Some(Duration::from_secs(5)), ..usual.clone() }),
        ("slowest", Filter { order: Order::Slowest, ..usual }),
    ] {
        let began = Instant::now();
        let count = reader.list(&filter).unwrap().len();
        println!("{what}: {count} in {:?}", began.elapsed());
        assert_eq!(count, if what == "none so long" { 0 } else { 20 }, "{what}");
    }
}
