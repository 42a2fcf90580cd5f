//! The table memory on real BPF maps: what happens when it is full.

#![cfg(feature = "bpf")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use txprof::model::{Avma, Svma};
use txprof::sampler::{RowsOf, SliceEntry, Tables};
use txprof::sys::bpf::{Bpf, BpfSettings};
use txprof::sys::table_memory::TableCapacity;
use txprof::unwind::{Page, Row, Rule, Table};

/// Room for three tables of [`table`].
const ROWS: u32 = 3 * 1000;

fn small_tables() -> Option<(std::sync::MutexGuard<'static, ()>, Bpf, Tables)> {
    let turn = support::turn()?;
    let settings = BpfSettings {
        capacity: TableCapacity { rows: ROWS, pages: 16, mappings: 8, pythons: 1 },
        ring_bytes: 4096,
        cpu_capacity: 1,
        follow_children: true,
        watch_all: false,
        kernel_frames: true,
        keep_samples: false,
        on_cpu: true,
        off_cpu: None,
        lane: None,
    };
    let (bpf, memory, _pythons) = Bpf::load(&settings).expect("BPF is allowed here");
    Some((turn, bpf, Tables::new(memory)))
}

/// One page of 1000 rows, each 8 bytes after the last.
fn table() -> Table {
    Table {
        first_page: 1,
        pages: vec![Page { first_row: 0, row_count: 1000 }],
        rows: (0..1000).map(|index| Row::new(index * 8, 2)).collect(),
        rules: vec![Rule::NONE, Rule::UNSUPPORTED, Rule::END],
        ..Table::default()
    }
}

fn clock() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(1);
    NOW.fetch_add(1, Ordering::Relaxed)
}

/// With room for three files, a fourth evicts the one used longest ago: its page says "not
/// loaded", so that a sample asks again, and the rows of the others stay.
#[test]
fn a_full_row_memory_evicts_what_was_used_longest_ago() {
    let Some((_turn, _bpf, mut tables)) = small_tables() else { return };
    let files: Vec<_> = (0..4).map(|_| tables.add_file(1, 1, clock()).expect("room for pages")).collect();
    for file in &files[..3] {
        assert!(tables.load(*file, &table(), clock()));
    }
    tables.touch(files[0], clock());
    assert!(!tables.load(files[3], &table(), clock()), "evicted rows rest before they are used again");
    let here = Svma(0x1_0008);
    let loaded: Vec<bool> = files.iter().map(|file| tables.is_loaded(*file, here)).collect();
    assert_eq!(loaded, [true, false, true, false]);
    assert_eq!(tables.used().evictions, 1);
    (0..5).for_each(|_| tables.tick());
    assert!(tables.load(files[3], &table(), clock()), "the evicted rows' room is free now");
    assert!(tables.is_loaded(files[3], here));
    assert_eq!(tables.used().rows, ROWS);
}

/// More mappings than there is room for are refused and counted; freed slices give their room back.
#[test]
fn a_full_mapping_memory_is_counted() {
    let Some((_turn, _bpf, mut tables)) = small_tables() else { return };
    let entry = |index: u64| {
        let (start, end) = (Avma(index << 12), Avma((index + 1) << 12));
        SliceEntry { start, end, bias: 0, rows: RowsOf::Nothing }
    };
    let entries: Vec<SliceEntry> = (0..5).map(entry).collect();
    let slice = tables.add_slice(&entries).expect("room for five of eight");
    assert_eq!(tables.add_slice(&entries), None);
    assert_eq!(tables.used().slices_refused, 1);
    tables.share_slice(slice);
    tables.release_slice(slice);
    (0..5).for_each(|_| tables.tick());
    assert_eq!(tables.add_slice(&entries), None, "a child still uses it");
    tables.release_slice(slice);
    (0..5).for_each(|_| tables.tick());
    assert!(tables.add_slice(&entries).is_some());
}
