//! The sampler for where BPF is not allowed: it stops one thread at a time,
//! copies what a stack is made of, and lets it go.
//!
//! ```text
//! each period, each thread:  did it run since?  ──no──► leave it alone
//!                                  │ yes
//!                            is it running now?  ──no──► leave it asleep; its time waits for the next catch
//!                                  │ yes
//!                            stop ─► registers, stack, Python frames ─► go ─► walk ─► sample
//! ```
//!
//! A sample weighs the CPU time that the scheduler counted for the thread since
//! its last one, so that sums are exact however often threads are caught.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::backend::{Backend, CAPACITY, Event, Sampler, SamplerSettings};
use super::pythons::{Python, Pythons};
use super::tables::Tables;
use super::threads::{Thread, Threads};
use super::told_codes::ToldCodes;
use super::tracee::{Caught, CaughtAt, Guide, RemotePages, interpreter, user_words};
use crate::model::{Outcome, Stops};
use crate::sys::abi::{COMM_BYTES, CodeRecord, Counters, ProcessChange, SampleRecord, TableProcess};
use crate::sys::clock::monotonic_ns;
use crate::sys::ptrace::Stopper;
use crate::sys::table_memory::TableMemory;
use crate::target::procfs;
use crate::{ErrorKind, Result};

/// How long a stopped thread may be held: nothing is read any more from then on.
const STOP_LIMIT: Duration = Duration::from_millis(2);
/// How long a thread is waited for until it does stop. It runs meanwhile, or waits for a CPU.
const WAIT_LIMIT: Duration = Duration::from_millis(5);
/// How long threads that were late are waited for beside that, before other work is done, during which they would be
/// held. On a machine so busy that they get no CPU for longer there is little to be sampled.
const LATE_LIMIT: Duration = Duration::from_millis(200);
/// How long a thread is waited for where each is caught once: one that sleeps must get a CPU of a busy machine first.
const SWEEP_WAIT_LIMIT: Duration = Duration::from_millis(300);
/// Highest rate. Each catch costs the thread two switches; beyond this, more than profiling is worth.
pub const MAX_FREQUENCY_HZ: u32 = 250;
/// New threads, children and programs are looked for this often, or more rarely where looking takes long: a
/// process of 500 threads has 500 lists of children.
const LOOK_NS: u64 = 100_000_000;
/// Of the time, one part in so many is spent looking.
const LOOK_SHARE: u64 = 50;
/// Mappings that were replaced by others at the same address are noticed this often.
const REMAP_NS: u64 = 2_000_000_000;
/// New threads' states in their interpreter are looked for this often.
const STATES_VALID_NS: u64 = 20_000_000;
/// `cs` of 64-bit user code.
const USER_CODE_SEGMENT: u64 = 0x33;
/// Reasons why threads could not be stopped that are kept for the end.
const MAX_REFUSALS: usize = 8;

/// A target.
struct Target {
    process: TableProcess,
    threads: Threads,
    comm: [u8; COMM_BYTES],
    start_code: u64,
    /// Where its interpreters keep the states of threads, by thread pointer, and when that was looked up.
    states: HashMap<u64, Vec<u64>>,
    searched_ns: u64,
}

impl Target {
    fn new(process: TableProcess, start_code: u64, now_ns: u64) -> Self {
        let pid = process.pid;
        let comm = procfs::comm(pid).map_or([0; COMM_BYTES], |comm| padded(&comm));
        let threads = Threads::of(pid, now_ns);
        Self { process, threads, comm, start_code, states: HashMap::new(), searched_ns: 0 }
    }

    /// Looks up where the interpreter keeps its threads' states, if that was long ago.
    fn find_states(&mut self, python: &Python, now_ns: u64) {
        if now_ns.saturating_sub(self.searched_ns) > STATES_VALID_NS {
            self.states = interpreter(python).states(&RemotePages::new(self.process.pid, None));
            self.searched_ns = now_ns;
        }
    }
}

/// The stopping sampler.
struct PtraceBackend {
    stopper: Stopper,
    targets: BTreeMap<u32, Target>,
    follow_children: bool,
    /// Every process that was there when it was looked for last, where names are to be matched.
    watched: Option<HashSet<u32>>,
    period_ns: u64,
    next_tick_ns: u64,
    next_look_ns: u64,
    remapped_ns: u64,
    is_enabled: bool,
    counters: Counters,
    told: ToldCodes,
    refusals: BTreeSet<String>,
}

/// Opens it; whether targets may be stopped is tried when it is enabled.
pub fn open(settings: &SamplerSettings) -> Result<Sampler> {
    let (tables, pythons) = TableMemory::anonymous(CAPACITY)?;
    let frequency_hz = settings.frequency_hz.clamp(1, MAX_FREQUENCY_HZ);
    let backend = PtraceBackend {
        stopper: Stopper::new()?,
        targets: BTreeMap::new(),
        follow_children: settings.follow_children,
        watched: settings.watch_all.then(HashSet::new),
        period_ns: 1_000_000_000 / u64::from(frequency_hz),
        next_tick_ns: 0,
        next_look_ns: 0,
        remapped_ns: 0,
        is_enabled: false,
        counters: Counters::default(),
        told: ToldCodes::default(),
        refusals: BTreeSet::new(),
    };
    Ok(Sampler::new(Box::new(backend), Tables::new(tables), Pythons::new(pythons)))
}

type Each<'a> = &'a mut dyn FnMut(&mut Tables, Event<'_>);

impl PtraceBackend {
    /// Fails when not a single target may be stopped; refusals of some are told at the end.
    fn try_all(&mut self) -> Result<()> {
        let mut first = None;
        let mut is_any_possible = self.targets.is_empty();
        for pid in self.targets.keys() {
            match self.stopper.stop(*pid, WAIT_LIMIT) {
                Ok(_stopped_or_late) => is_any_possible = true,
                Err(error) => {
                    refuse(&mut self.refusals, &error);
                    first.get_or_insert(error);
                }
            }
        }
        first.filter(|_| !is_any_possible).map_or(Ok(()), Err)
    }

    /// Looks for what the kernel would have told: births, new programs, deaths.
    fn look(&mut self, now_ns: u64, tables: &mut Tables, each: Each<'_>) {
        let pids: Vec<u32> = self.targets.keys().copied().collect();
        for pid in &pids {
            let event = |change| Event::Process { time_ns: now_ns, pid: *pid, change, comm: [0; COMM_BYTES] };
            match procfs::read_stat(*pid) {
                Ok(stat) if !stat.has_ended() => {
                    let Some(target) = self.targets.get_mut(pid) else { continue };
                    target.threads.list(*pid, now_ns);
                    target.comm = procfs::comm(*pid).map_or(target.comm, |comm| padded(&comm));
                    if std::mem::replace(&mut target.start_code, stat.start_code) != stat.start_code {
                        target.process = TableProcess { pid: *pid, ..TableProcess::default() };
                        each(tables, event(ProcessChange::Exec));
                    }
                }
                _ => {
                    self.targets.remove(pid);
                    each(tables, event(ProcessChange::Exit));
                }
            }
        }
        if self.follow_children {
            self.look_for_children(&pids, now_ns, tables, each);
        }
        self.look_for_newcomers(now_ns, tables, each);
        if now_ns.saturating_sub(self.remapped_ns) > REMAP_NS {
            self.remapped_ns = now_ns;
            each(tables, Event::MappingsLost);
        }
        let ended_ns = monotonic_ns();
        self.next_look_ns = ended_ns + LOOK_NS.max(ended_ns.saturating_sub(now_ns) * LOOK_SHARE);
    }

    fn look_for_children(&mut self, parents: &[u32], now_ns: u64, tables: &mut Tables, each: Each<'_>) {
        for pid in procfs::descendants(parents).unwrap_or_default() {
            if self.targets.contains_key(&pid) {
                continue;
            }
            let Ok(stat) = procfs::read_stat(pid) else { continue };
            let Some(parent) = self.targets.get(&stat.parent_pid).filter(|_| !stat.has_ended()) else {
                continue;
            };
            // The parent's memory layout, unless it has run a program of its own since.
            let is_copy = parent.start_code == stat.start_code;
            let process = if is_copy { parent.process } else { TableProcess::default() };
            let process = TableProcess { pid, ..process };
            self.targets.insert(pid, Target::new(process, stat.start_code, now_ns));
            let event = |change| Event::Process { time_ns: now_ns, pid, change, comm: [0; COMM_BYTES] };
            each(tables, event(ProcessChange::Fork { parent: stat.parent_pid }));
            if !is_copy {
                each(tables, event(ProcessChange::Exec));
            }
        }
    }

    /// Processes that are no targets may have become what is looked for by name.
    fn look_for_newcomers(&mut self, now_ns: u64, tables: &mut Tables, each: Each<'_>) {
        let Some(watched) = &mut self.watched else { return };
        let pids: HashSet<u32> = procfs::pids().unwrap_or_default().into_iter().collect();
        for pid in pids.difference(watched).filter(|pid| !self.targets.contains_key(pid)) {
            let change = ProcessChange::Exec;
            each(tables, Event::Process { time_ns: now_ns, pid: *pid, change, comm: [0; COMM_BYTES] });
        }
        *watched = pids;
    }

    /// Looks and catches when it is time to, for `timeout` or until userland should look at once.
    fn tick_for(&mut self, timeout: Duration, tables: &mut Tables, pythons: &Pythons, each: Each<'_>) {
        let deadline = Instant::now() + timeout;
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= self.next_look_ns {
                self.look(now_ns, tables, each);
            }
            if self.is_enabled && now_ns >= self.next_tick_ns {
                // What a late tick missed is in the weights of the next.
                self.next_tick_ns = now_ns + self.period_ns - (now_ns - self.next_tick_ns) % self.period_ns;
                if self.tick(false, tables, pythons, each) {
                    return;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (self.targets.is_empty() && self.watched.is_none()) {
                return;
            }
            let until_tick = match self.is_enabled {
                true => Duration::from_nanos(self.next_tick_ns.saturating_sub(monotonic_ns())),
                false => left,
            };
            let rest = Instant::now() + left.min(until_tick);
            self.stopper.settle(left.min(until_tick));
            std::thread::sleep(rest.saturating_duration_since(Instant::now()));
        }
    }

    /// Catches every thread that runs now, or, with `asleep`, every thread. Returns whether userland should look at once.
    fn tick(&mut self, asleep: bool, tables: &mut Tables, pythons: &Pythons, each: Each<'_>) -> bool {
        self.stopper.settle(Duration::ZERO);
        let mut is_urgent = false;
        let pids: Vec<u32> = self.targets.keys().copied().collect();
        for pid in pids {
            let Some(mut target) = self.targets.remove(&pid) else { continue };
            let (process, now_ns) = (target.process, monotonic_ns());
            let python = pythons.at(process.python).map(|python| &**python);
            if let Some(python) = python {
                target.find_states(python, now_ns);
            }
            let Target { threads, states, comm, .. } = &mut target;
            let wait = if asleep { SWEEP_WAIT_LIMIT } else { WAIT_LIMIT };
            let catch =
                |tid| Catch { pid, tid, comm: *comm, wait, process: &process, python, states: &*states };
            let caught: Vec<(u32, &mut Thread)> =
                if asleep { threads.all().collect() } else { threads.running(now_ns).collect() };
            for (tid, thread) in caught {
                is_urgent |= self.catch(catch(tid), thread, tables, each);
            }
            self.targets.insert(pid, target);
        }
        is_urgent
    }

    /// Stops a thread and makes a sample of it; answers as [`Self::tick`] does.
    fn catch(&mut self, catch: Catch<'_>, thread: &mut Thread, tables: &mut Tables, each: Each<'_>) -> bool {
        let Catch { pid, tid, comm, wait, process, python, states } = catch;
        let time_ns = monotonic_ns();
        let (mut caught, thread_pointer) = {
            let guide = Guide { tables, process, python, states };
            let stopped = match self.stopper.stop(tid, wait) {
                Ok(Some(stopped)) => stopped,
                Ok(None) => return false,
                Err(error) => {
                    refuse(&mut self.refusals, &error);
                    return false;
                }
            };
            let Ok(registers) = stopped.registers() else { return false };
            if registers.code_segment != USER_CODE_SEGMENT {
                return false;
            }
            let deadline = stopped.since() + STOP_LIMIT;
            let caught = Caught::take(pid, registers, deadline, thread.has_pieces, guide);
            (caught, registers.fs_base)
        };
        self.counters.samples += 1;
        let (frames, outcome) = caught.frames(Guide { tables, process, python, states });
        thread.has_pieces |= outcome == Outcome::ReadFailed;
        let user = user_words(&frames);
        let mut tell = |code: CodeRecord<'_>| each(tables, Event::Code(code));
        let python_words =
            python.map_or_else(Vec::new, |python| self.told.words(pid, python, &caught, &mut tell));
        let place = CaughtAt { time_ns, pid, tid, thread_pointer, generation: process.generation };
        let comms = (thread.comm(tid, time_ns), comm);
        let record = SampleRecord {
            period: self.period_ns,
            ..caught.record(place, comms, outcome, python, (&user, &python_words))
        };
        let weight_ns = thread.take_weight_ns();
        each(tables, Event::Sample(record, weight_ns));
        matches!(outcome, Outcome::UnknownMapping | Outcome::TableNotLoaded | Outcome::MappingsNotLoaded)
    }
}

/// Keeps why a thread could not be stopped.
fn refuse(refusals: &mut BTreeSet<String>, error: &crate::Error) {
    // One that ended meanwhile is no refusal.
    if error.kind() != ErrorKind::NotFound && refusals.len() < MAX_REFUSALS {
        refusals.insert(error.to_string());
    }
}

/// Whom to catch, and by what.
#[derive(Clone, Copy)]
struct Catch<'a> {
    pid: u32,
    tid: u32,
    /// Name of the process.
    comm: [u8; COMM_BYTES],
    /// How long to wait until it stops.
    wait: Duration,
    process: &'a TableProcess,
    python: Option<&'a Python>,
    states: &'a HashMap<u64, Vec<u64>>,
}

/// A name as the kernel keeps it.
pub(super) fn padded(comm: &str) -> [u8; COMM_BYTES] {
    let mut bytes = [0; COMM_BYTES];
    bytes.iter_mut().zip(comm.bytes().take(COMM_BYTES - 1)).for_each(|(slot, byte)| *slot = byte);
    bytes
}

impl Backend for PtraceBackend {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn event(&self) -> &'static str {
        "run time"
    }

    fn enable(&mut self) -> Result<()> {
        let now_ns = monotonic_ns();
        self.next_tick_ns = now_ns + self.period_ns;
        self.is_enabled = true;
        self.try_all()?;
        if let Some(watched) = &mut self.watched {
            watched.extend(procfs::pids().unwrap_or_default());
        }
        for (pid, target) in &mut self.targets {
            target.threads = Threads::of(*pid, now_ns);
        }
        Ok(())
    }

    fn disable(&mut self) -> Result<()> {
        self.is_enabled = false;
        Ok(())
    }

    fn period_ns(&self) -> u64 {
        self.period_ns
    }

    fn set_period_ns(&mut self, period_ns: u64, _: u64) -> Result<()> {
        self.period_ns = period_ns.max(1_000_000_000 / u64::from(MAX_FREQUENCY_HZ));
        Ok(())
    }

    fn set_process(&mut self, process: TableProcess) -> Result<()> {
        let pid = process.pid;
        let start_code = procfs::read_stat(pid).map_or(0, |stat| stat.start_code);
        self.targets.insert(pid, Target::new(process, start_code, monotonic_ns()));
        Ok(())
    }

    fn replace_process(&mut self, process: TableProcess) -> Result<()> {
        if let Some(target) = self.targets.get_mut(&process.pid) {
            target.process = process;
        }
        Ok(())
    }

    fn remove_process(&mut self, pid: u32) {
        self.targets.remove(&pid);
    }

    fn has_process(&self, pid: u32) -> bool {
        self.targets.contains_key(&pid)
    }

    fn poll(&mut self, timeout: Duration, tables: &mut Tables, pythons: &Pythons, each: Each<'_>) -> u64 {
        self.tick_for(timeout, tables, pythons, each);
        // Who polls has other work to do then, during which nobody may be held.
        self.stopper.settle(LATE_LIMIT);
        0
    }

    fn sweep(&mut self, tables: &mut Tables, pythons: &Pythons, each: Each<'_>) -> Result<()> {
        // Some may have been late when it was tried whether they may be stopped.
        self.stopper.settle(SWEEP_WAIT_LIMIT);
        self.tick(true, tables, pythons, each);
        Ok(())
    }

    fn counters(&self) -> Result<Counters> {
        // What the targets pay counts for the limit of the cost as what BPF programs take.
        Ok(Counters { run_ns: self.stopper.stops.total_ns, ..self.counters })
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn stops(&self) -> Option<Stops> {
        Some(self.stopper.stops)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.refusals.iter().cloned().collect();
        if self.stopper.late_count > 0 {
            warnings.push(format!(
                "{} times a thread did not stop in time and was left alone",
                self.stopper.late_count
            ));
        }
        warnings
    }
}
