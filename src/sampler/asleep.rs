//! The stack of a thread that does not run, read from outside without stopping
//! it: it stands still as long as it is blocked, and whether it was is checked
//! behind the reading.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::backend::Event;
use super::pythons::Python;
use super::tables::Tables;
use super::told_codes::ToldCodes;
use super::tracee::{Caught, CaughtAt, Guide, RemotePages, interpreter, user_words};
use crate::sys::abi::{CodeRecord, SampleRecord, TableProcess};
use crate::sys::wait_record::{ThreadAccount, WaitObject, WaitPart, WaitRecord};
use crate::target::procfs;

/// How long one thread is read; ordinary ones take 0.1 ms.
const LIMIT: Duration = Duration::from_millis(50);
/// `cs` of 64-bit user code.
const USER_CODE_SEGMENT: u64 = 0x33;

/// Reads them.
#[derive(Default)]
pub struct AsleepReader {
    /// Where interpreters keep the states of threads, by process and thread pointer.
    states: HashMap<u32, HashMap<u64, Vec<u64>>>,
    told: ToldCodes,
}

impl AsleepReader {
    /// Tells the wait that `account` is in, whole, with its stack. `false` when the thread ran meanwhile or
    /// cannot be read; nothing was told of it then.
    pub fn tell(
        &mut self,
        account: &ThreadAccount,
        process: &TableProcess,
        python: Option<&Python>,
        tables: &mut Tables,
        each: &mut dyn FnMut(&mut Tables, Event<'_>),
    ) -> bool {
        let ThreadAccount { record, registers, kernel } = account;
        let (pid, tid) = (record.pid, record.tid);
        if registers.code_segment != USER_CODE_SEGMENT {
            return false;
        }
        if let Some(python) = python {
            let find = || interpreter(python).states(&RemotePages::new(pid, None));
            self.states.entry(pid).or_insert_with(find);
        }
        let none = HashMap::new();
        let states = self.states.get(&pid).unwrap_or(&none);
        let guide = Guide { tables, process, python, states };
        let mut caught = Caught::take(pid, *registers, Instant::now() + LIMIT, true, guide);
        let (frames, outcome) = caught.frames(guide);
        if procfs::switches(tid) != Some(record.switches) {
            return false;
        }
        let user = user_words(&frames);
        let mut tell = |code: CodeRecord<'_>| each(tables, Event::Code(code));
        let words = python.map_or_else(Vec::new, |python| self.told.words(pid, python, &caught, &mut tell));
        let at = CaughtAt {
            time_ns: record.time_ns,
            pid,
            tid,
            thread_pointer: record.thread_pointer,
            generation: process.generation,
        };
        let kernel: Vec<u8> = kernel.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let comms = (record.thread_comm, record.process_comm);
        let stack =
            SampleRecord { kernel: &kernel, ..caught.record(at, comms, outcome, python, (&user, &words)) };
        let wait = WaitRecord {
            time_ns: record.time_ns,
            pid,
            tid,
            sequence: 0,
            began_ns: record.time_ns.saturating_sub(record.open.blocked_ns + record.open.queue_ns),
            blocked_ns: record.open.blocked_ns,
            queue_ns: record.open.queue_ns,
            run_sum_ns: record.run_ns,
            queue_sum_ns: record.queue_ns,
            stands_for_ns: 0,
            call: record.call,
            argument: record.argument,
            object: WaitObject::default(),
            is_sampled: false,
            is_gil: record.is_gil,
            holder: None,
            waker: None,
            tells_waker: false,
            part: WaitPart::Whole(stack),
        };
        each(tables, Event::Wait(wait));
        true
    }
}
