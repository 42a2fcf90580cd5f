//! The threads of a process: how long each has run, and which run now.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::ptrace::padded;
use crate::sys::abi::COMM_BYTES;
use crate::target::procfs;

/// The scheduler counts a running thread's time at its ticks, 4 ms apart at 250 Hz: one whose time
/// has not changed for longer does not run.
const UNCHANGED_NS: u64 = 12_000_000;
/// A name is read again this often.
const COMM_VALID_NS: u64 = 1_000_000_000;

/// One thread.
#[derive(Debug)]
pub(super) struct Thread {
    /// `schedstat`, kept open.
    run_time: Option<File>,
    /// What it told last, and when that changed.
    run_ns: u64,
    changed_ns: u64,
    /// Of that, what samples stand for already.
    told_ns: u64,
    /// Its stack is in several pieces and is walked while it is stopped.
    pub(super) has_pieces: bool,
    comm: [u8; COMM_BYTES],
    comm_ns: u64,
}

/// All of a process.
#[derive(Debug, Default)]
pub(super) struct Threads {
    by_tid: BTreeMap<u32, Thread>,
}

impl Threads {
    /// Those that live now; what they have run until now is not counted.
    pub(super) fn of(pid: u32, now_ns: u64) -> Self {
        let mut threads = Self::default();
        threads.list(pid, now_ns);
        for thread in threads.by_tid.values_mut() {
            thread.told_ns = thread.run_ns;
        }
        threads
    }

    /// Takes note of births and deaths. A thread that was born since counts from its beginning on.
    pub(super) fn list(&mut self, pid: u32, now_ns: u64) {
        let Ok(tids) = procfs::thread_ids(pid) else { return };
        self.by_tid.retain(|tid, _| tids.binary_search(tid).is_ok());
        for tid in tids {
            self.by_tid.entry(tid).or_insert_with(|| Thread::open(pid, tid, now_ns));
        }
    }

    /// All that are known.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u32, &mut Thread)> {
        self.by_tid.iter_mut().map(|(tid, thread)| (*tid, thread))
    }

    /// Those that run, or wait for a CPU, at this moment.
    pub(super) fn running(&mut self, now_ns: u64) -> impl Iterator<Item = (u32, &mut Thread)> {
        self.by_tid.iter_mut().filter_map(move |(tid, thread)| {
            let is_running =
                thread.has_run(now_ns) && procfs::read_stat(*tid).is_ok_and(|stat| stat.state == 'R');
            is_running.then_some((*tid, thread))
        })
    }
}

impl Thread {
    fn open(pid: u32, tid: u32, now_ns: u64) -> Self {
        let mut thread = Self {
            run_time: File::open(format!("/proc/{pid}/task/{tid}/schedstat")).ok(),
            run_ns: 0,
            changed_ns: now_ns,
            told_ns: 0,
            has_pieces: false,
            comm: [0; COMM_BYTES],
            comm_ns: 0,
        };
        thread.has_run(now_ns);
        thread
    }

    /// Whether it has run lately.
    fn has_run(&mut self, now_ns: u64) -> bool {
        let mut text = [0; 64];
        let count = self.run_time.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let digits = text[..count].iter().take_while(|byte| byte.is_ascii_digit());
        let run_ns =
            digits.fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        if run_ns != self.run_ns {
            self.run_ns = run_ns;
            self.changed_ns = now_ns;
        }
        now_ns.saturating_sub(self.changed_ns) < UNCHANGED_NS
    }

    /// What the next sample stands for.
    pub(super) fn take_weight_ns(&mut self) -> u64 {
        let weight_ns = self.run_ns.saturating_sub(self.told_ns);
        self.told_ns = self.run_ns.max(self.told_ns);
        weight_ns
    }

    /// Its name.
    pub(super) fn comm(&mut self, tid: u32, now_ns: u64) -> [u8; COMM_BYTES] {
        if now_ns.saturating_sub(self.comm_ns) > COMM_VALID_NS || self.comm_ns == 0 {
            self.comm = procfs::comm(tid).map_or([0; COMM_BYTES], |comm| padded(&comm));
            self.comm_ns = now_ns;
        }
        self.comm
    }
}
