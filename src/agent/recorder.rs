//! The loop of a recording.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::capture::{Capture, RawFrame};
use super::coverage::{Coverage, tell_walker};
use super::governor::{Governor, Spent};
use super::module::{ModuleId, Modules, Rows};
use super::naming::{JitMaps, Named, name};
use super::process::{Place, Process, Processes};
use super::self_stats::{monotonic_ns, own_cpu_ns, peak_rss_bytes};
use crate::Result;
use crate::model::profile::ThreadRoot;
use crate::model::{Avma, Cost, LookupAddress, Outcome, Profile, RateChange, Recording, Root};
use crate::sampler::bpf::SamplerSettings;
use crate::sampler::{BpfSampler, Event, TableBuilder, TableCache, Tables};
use crate::symbolize::{Config, PerfMapReader};
use crate::sys::abi::{Counters, FRAME_INTERRUPTED, ProcessChange, SampleRecord, comm_text};
use crate::sys::perf_event::EventSource;
use crate::target::select::Selector;

/// How to record.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clock, rate and what the kernel side takes.
    pub sampler: SamplerSettings,
    /// Until this long after sampling began.
    pub duration: Option<Duration>,
    /// Threads are told apart.
    pub per_thread: bool,
    /// Lower the rate when the own cost exceeds this share of a core, in percent.
    pub max_overhead_percent: Option<f64>,
}

/// Where a recording is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since sampling began.
    pub elapsed: Duration,
    /// Samples so far.
    pub samples: u64,
    /// Samples lost so far.
    pub lost: u64,
}

/// Without urgent events the ring is drained this often: five wake-ups a second cost
/// nothing that can be measured, and the ring holds more than two such ticks at 999 Hz.
const TICK: Duration = Duration::from_millis(200);
/// While rows are being built or a program has just started.
const BUSY_TICK: Duration = Duration::from_millis(2);
/// How long after an exec the new program's libraries are looked for at once.
const EXEC_BURST_NS: u64 = 40_000_000;
/// How long sampling waits for the rows of the libraries, and of the program itself.
const PREFETCH_NS: u64 = 100_000_000;
const PREFETCH_PROGRAM_NS: u64 = 2_000_000_000;
/// The governor's and the progress display's step.
const SECOND_NS: u64 = 1_000_000_000;
/// Perf maps grow while we record; they are read further this often while they are of use.
const JIT_REFRESH_NS: u64 = 2 * SECOND_NS;

/// A recording in progress.
pub struct Recorder {
    options: Options,
    sampler: BpfSampler,
    state: State,
    began: Baseline,
    rate_changes: Vec<RateChange>,
    elapsed_ns: u64,
}

/// What was spent before sampling began.
#[derive(Clone, Copy, Debug, Default)]
struct Baseline {
    time_ns: u64,
    own_cpu_ns: u64,
    unix_ns: u64,
}

/// All that events change.
struct State {
    processes: Processes,
    modules: Modules,
    coverage: Coverage,
    capture: Capture,
    jit: JitMaps,
    jit_refreshed_ns: u64,
    selector: Option<Selector>,
    watch_all: bool,
    follow_children: bool,
    per_thread: bool,
    source: EventSource,
    nominal: (u64, u64),
    /// Found by name or cgroup while recording; to be added as targets.
    newcomers: Vec<u32>,
    burst_until_ns: u64,
    samples: u64,
    warnings: Vec<String>,
}

impl Recorder {
    /// Loads and attaches everything, makes `pids` targets and prepares their rows.
    /// `selector` decides about processes that start later, while `watch_all` is set.
    pub fn attach(options: Options, pids: &[u32], selector: Option<Selector>) -> Result<Self> {
        let builder = TableBuilder::start(TableCache::open())?;
        let sampler = BpfSampler::open(&options.sampler)?;
        let state = State {
            processes: Processes::new(),
            modules: Modules::default(),
            coverage: Coverage::new(builder),
            capture: Capture::default(),
            jit: JitMaps::new(),
            jit_refreshed_ns: 0,
            selector,
            watch_all: options.sampler.watch_all,
            follow_children: options.sampler.follow_children,
            per_thread: options.per_thread,
            source: sampler.clock().source,
            nominal: (0, 0),
            newcomers: Vec::new(),
            burst_until_ns: 0,
            samples: 0,
            warnings: Vec::new(),
        };
        let began = Baseline::default();
        let mut recorder = Self { options, sampler, state, began, rate_changes: Vec::new(), elapsed_ns: 0 };
        recorder.add_targets(pids)?;
        Ok(recorder)
    }

    /// The modules known so far, to add files that will be mapped soon.
    pub fn expect_file(&mut self, path: &str, id: crate::model::FileId, file: std::fs::File) {
        let module = self.state.modules.add_file(path, id, file);
        self.state.coverage.want(module, None, &mut self.state.modules);
    }

    fn add_targets(&mut self, pids: &[u32]) -> Result<()> {
        for pid in pids {
            // Targets first: what changes while we read the mappings is then told as events.
            self.sampler.add_target(*pid, None)?;
            let mut process = Process { is_dirty: true, ..Process::default() };
            if process.scan(*pid, &mut self.state.modules, monotonic_ns()).is_ok() {
                self.state.coverage.prefetch(*pid, &process, &mut self.state.modules);
            }
            self.state.processes.insert(*pid, process);
        }
        tell_walker(&mut self.sampler, &mut self.state.processes, &self.state.modules)
    }

    /// Waits until the rows of what targets most likely execute are there, within limits.
    pub fn prepare(&mut self) -> Result<()> {
        let began_ns = monotonic_ns();
        let programs: Vec<ModuleId> =
            self.state.processes.values().filter_map(|p| p.mappings.iter().find_map(|m| m.module)).collect();
        while self.state.coverage.is_busy() {
            let waited_ns = monotonic_ns().saturating_sub(began_ns);
            let building = |id: &ModuleId| self.state.modules.get(*id).rows == Rows::Building;
            let limit_ns = if programs.iter().any(building) { PREFETCH_PROGRAM_NS } else { PREFETCH_NS };
            if waited_ns > limit_ns {
                break;
            }
            self.drain(BUSY_TICK)?;
        }
        tell_walker(&mut self.sampler, &mut self.state.processes, &self.state.modules)
    }

    /// Begins to sample.
    pub fn enable(&mut self) -> Result<()> {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.began = Baseline {
            time_ns: monotonic_ns(),
            own_cpu_ns: own_cpu_ns(),
            unix_ns: unix.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
        };
        self.sampler.enable()
    }

    /// Records until the duration is over, `stop` is set or all targets are gone.
    /// `observe` is called about once a second.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Progress)) -> Result<()> {
        let nominal_ns = self.sampler.clock().period_ns();
        let mut governor =
            self.options.max_overhead_percent.map(|percent| Governor::new(percent, nominal_ns));
        let end_ns = self
            .options
            .duration
            .map(|duration| self.began.time_ns.saturating_add(duration.as_nanos() as u64));
        let mut next_second_ns = self.began.time_ns;
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= next_second_ns {
                next_second_ns = now_ns + SECOND_NS;
                let counters = self.sampler.counters()?;
                observe(self.progress(now_ns, counters));
                self.govern(&mut governor, now_ns, counters)?;
            }
            let left_ns = end_ns.map_or(u64::MAX, |end_ns| end_ns.saturating_sub(now_ns));
            let deserted = self.state.processes.is_empty() && !self.state.watch_all;
            if left_ns == 0 || deserted || stop.load(Ordering::Relaxed) {
                break;
            }
            let busy = self.state.coverage.is_busy() || now_ns < self.state.burst_until_ns;
            let tick = if busy { BUSY_TICK } else { TICK };
            self.drain(tick.min(Duration::from_nanos(left_ns)))?;
        }
        self.sampler.disable()?;
        self.drain(Duration::ZERO)?;
        self.elapsed_ns = monotonic_ns().saturating_sub(self.began.time_ns);
        self.state.refresh_jit();
        Ok(())
    }

    fn progress(&self, now_ns: u64, counters: Counters) -> Progress {
        Progress {
            elapsed: Duration::from_nanos(now_ns.saturating_sub(self.began.time_ns)),
            samples: self.state.samples,
            lost: counters.ring_full,
        }
    }

    fn govern(&mut self, governor: &mut Option<Governor>, now_ns: u64, counters: Counters) -> Result<()> {
        let Some(governor) = governor else { return Ok(()) };
        let spent = Spent { time_ns: now_ns, cost_ns: own_cpu_ns() + counters.run_ns };
        if let Some(period_ns) = governor.decide(spent) {
            self.sampler.set_period_ns(period_ns)?;
            let at_ns = now_ns.saturating_sub(self.began.time_ns);
            self.rate_changes.push(RateChange { at_ns, period_ns });
        }
        Ok(())
    }

    /// One round: events, newly built rows, newcomers, and what the walker must know of all that.
    fn drain(&mut self, timeout: Duration) -> Result<()> {
        let state = &mut self.state;
        let clock = self.sampler.clock();
        // Weights are computed while the clock is borrowed by the poll.
        state.nominal = (clock.to_ns(1_000_000), 1_000_000);
        self.sampler.poll(timeout, |tables, event| state.apply(tables, event));
        let now_ns = monotonic_ns();
        state.coverage.receive(&mut self.sampler.tables, &mut state.modules, &mut state.processes, now_ns);
        if !state.jit.is_empty() && now_ns >= state.jit_refreshed_ns + JIT_REFRESH_NS {
            state.refresh_jit();
            state.jit_refreshed_ns = now_ns;
        }
        let newcomers = std::mem::take(&mut state.newcomers);
        if !newcomers.is_empty() {
            self.add_targets(&newcomers)?;
        }
        tell_walker(&mut self.sampler, &mut self.state.processes, &self.state.modules)
    }

    /// Ends the recording: names all addresses. `step` is told what is being read.
    pub fn finish(self, target: String, config: Config, step: &mut dyn FnMut(&str)) -> Result<Profile> {
        let counters = self.sampler.counters()?;
        let cost = Cost {
            own_cpu_ns: own_cpu_ns().saturating_sub(self.began.own_cpu_ns),
            bpf_run_ns: Some(counters.run_ns),
            bpf_runs: Some(counters.samples),
            peak_rss_bytes: peak_rss_bytes(),
            bpf_memory_bytes: self.sampler.memory_bytes(),
        };
        let mut recording = Recording {
            target,
            backend: "ebpf".to_owned(),
            event: match self.state.source {
                EventSource::CpuClock => "cpu-clock".to_owned(),
                EventSource::Cycles => "cycles".to_owned(),
            },
            frequency_hz: self.options.sampler.frequency_hz,
            period_ns: 1_000_000_000 / u64::from(self.options.sampler.frequency_hz.max(1)),
            started_unix_ns: self.began.unix_ns,
            elapsed_ns: self.elapsed_ns,
            rate_changes: self.rate_changes,
            lost: BTreeMap::new(),
            warnings: self.state.final_warnings(&self.sampler.tables, counters, self.sampler.undecodable),
            cost,
        };
        if counters.ring_full > 0 {
            recording.lost.insert(Outcome::RingFull, counters.ring_full);
        }
        // The clocks and the tables are not needed any more; naming wants the memory.
        drop(self.sampler);
        let Named { frames, stacks, samples, warnings } =
            name(&self.state.capture, &self.state.modules, &self.state.jit, config, step);
        recording.warnings.extend(warnings);
        Ok(Profile { recording, frames, stacks, samples })
    }
}

impl State {
    fn apply(&mut self, tables: &mut Tables, event: Event<'_>) {
        match event {
            Event::Sample(sample) => self.add_sample(tables, &sample),
            Event::Mapped(record) => {
                if let Some(process) = self.processes.get_mut(&record.pid) {
                    process.map(record.mapping, &mut self.modules);
                }
            }
            Event::Process { pid, change, .. } => self.apply_change(tables, pid, change),
            Event::MappingsLost => {
                let now_ns = monotonic_ns();
                for (pid, process) in &mut self.processes {
                    let _gone = process.scan(*pid, &mut self.modules, now_ns);
                }
            }
        }
    }

    fn apply_change(&mut self, tables: &mut Tables, pid: u32, change: ProcessChange) {
        match change {
            ProcessChange::Fork { parent } => {
                let followed = self.processes.get(&parent).filter(|_| self.follow_children).cloned();
                match followed {
                    Some(child) => {
                        if let Some((slice, _)) = child.slice {
                            tables.share_slice(slice);
                        }
                        self.processes.insert(pid, child);
                    }
                    None => self.consider(pid),
                }
            }
            ProcessChange::Exec => match self.processes.get_mut(&pid) {
                Some(process) => {
                    let now_ns = monotonic_ns();
                    if let Some((slice, _)) = process.slice.take() {
                        tables.release_slice(slice);
                    }
                    *process = Process { is_dirty: true, ..Process::default() };
                    if process.scan(pid, &mut self.modules, now_ns).is_ok() {
                        self.coverage.prefetch(pid, process, &mut self.modules);
                    }
                    self.burst_until_ns = now_ns + EXEC_BURST_NS;
                }
                None => self.consider(pid),
            },
            ProcessChange::Exit => {
                if let Some((slice, _)) = self.processes.remove(&pid).and_then(|process| process.slice) {
                    tables.release_slice(slice);
                }
            }
        }
    }

    /// A process that is no target may have become one by its new name or cgroup.
    fn consider(&mut self, pid: u32) {
        if self.watch_all && self.selector.as_ref().is_some_and(|selector| selector.matches(pid)) {
            self.newcomers.push(pid);
        }
    }

    fn add_sample(&mut self, tables: &mut Tables, sample: &SampleRecord<'_>) {
        self.samples += 1;
        let pid = sample.pid;
        let mut outcome = Outcome::from_number(sample.outcome).unwrap_or(Outcome::UnsupportedRule);
        let process = self.processes.entry(pid).or_default();
        if process.scanned_ns == 0 && process.mappings.is_empty() {
            let _gone = process.scan(pid, &mut self.modules, monotonic_ns());
        }
        let mut frames: Vec<RawFrame> = Vec::with_capacity(sample.user_frames().len() + 8);
        let mut last_table = None;
        for (index, word) in sample.user_frames().enumerate() {
            let pc = Avma(word & !FRAME_INTERRUPTED);
            let exact = index == 0 || word & FRAME_INTERRUPTED != 0;
            let lookup = if exact { LookupAddress::Interrupted(pc) } else { LookupAddress::Return(pc) };
            let place = place(process, sample, lookup.avma(), &mut self.modules);
            if let Place::Module(id, _) = place
                && let Rows::Placed(table) = self.modules.get(id).rows
                && last_table.replace(table) != Some(table)
            {
                tables.touch(table, sample.time_ns);
            }
            frames.push(raw_frame(place, pid, lookup.avma(), &mut self.jit));
        }
        if outcome == Outcome::TableNotLoaded
            && let Some(RawFrame::Module(id, svma)) = frames.last()
        {
            self.coverage.want(*id, Some(*svma), &mut self.modules);
        }
        if outcome == Outcome::UnknownMapping && frames.last() != Some(&RawFrame::Unknown) {
            // It is known by now: the walker was told too late.
            outcome = Outcome::MappingsNotLoaded;
        }
        let mut exact = true;
        let kernel: Vec<RawFrame> = sample
            .kernel_frames()
            .map(|pc| {
                let lookup = if exact {
                    LookupAddress::Interrupted(Avma(pc))
                } else {
                    LookupAddress::Return(Avma(pc))
                };
                exact = false;
                RawFrame::Kernel(lookup.avma())
            })
            .collect();
        let root = self.root_of(sample);
        let weight_ns = self.weight_ns(sample.period);
        let root_first = frames.into_iter().rev().chain(kernel.into_iter().rev());
        self.capture.add(&root, root_first, outcome, weight_ns);
    }

    fn weight_ns(&self, period: u64) -> u64 {
        let (ns, units) = self.nominal;
        match self.source {
            EventSource::CpuClock => period,
            EventSource::Cycles => (u128::from(period) * u128::from(ns) / u128::from(units.max(1))) as u64,
        }
    }

    fn root_of(&self, sample: &SampleRecord<'_>) -> Root {
        let thread = self.per_thread.then(|| ThreadRoot {
            name: comm_text(&sample.thread_comm),
            pid: sample.pid,
            tid: sample.tid,
        });
        Root { process: comm_text(&sample.process_comm), thread }
    }

    fn refresh_jit(&mut self) {
        for reader in self.jit.values_mut() {
            let _unreadable_is_unnamed = reader.refresh();
        }
    }

    fn final_warnings(&self, tables: &Tables, counters: Counters, undecodable: u64) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        warnings.extend(self.coverage.warnings.iter().cloned());
        warnings.extend(self.modules.unreadable.iter().cloned());
        let used = tables.used();
        let counted = [
            (counters.processes_full, "child processes were not followed: more than 8192 targets at once"),
            (counters.events_lost, "process events were lost: the ring was full"),
            (used.slices_refused, "times the mappings of a process found no room: frame pointers only"),
            (used.pages_refused, "times unwind rows found no room at first; stacks there were cut meanwhile"),
            (undecodable, "records could not be decoded"),
        ];
        let told = counted.iter().filter(|(count, _)| *count > 0);
        warnings.extend(told.map(|(count, what)| format!("{count} {what}")));
        warnings
    }
}

/// Where `address` lay when the sample was taken; unknown addresses are a reason to read the
/// mappings anew, at growing intervals.
fn place(process: &mut Process, sample: &SampleRecord<'_>, address: Avma, modules: &mut Modules) -> Place {
    let known = process.place(sample.pid, address, modules);
    if known != Place::Unknown || !process.may_scan(sample.time_ns) {
        return known;
    }
    let _gone = process.scan(sample.pid, modules, monotonic_ns());
    let found = process.place(sample.pid, address, modules);
    process.futile_scans = if found == Place::Unknown { process.futile_scans + 1 } else { 0 };
    found
}

fn raw_frame(place: Place, pid: u32, address: Avma, jit: &mut JitMaps) -> RawFrame {
    match place {
        Place::Module(id, svma) => RawFrame::Module(id, svma),
        Place::Offset(id, offset) => RawFrame::Offset(id, offset),
        Place::Unknown => RawFrame::Unknown,
        Place::Anonymous => {
            jit.entry(pid).or_insert_with(|| PerfMapReader::new(pid));
            RawFrame::Jit(pid, address)
        }
    }
}
