//! The loop of a recording.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::capture::Capture;
use super::courtesy::Courtesy;
use super::coverage::{Coverage, tell_walker};
use super::governor::{Governor, Spent};
use super::losses::Loss;
use super::module::ModuleId;
use super::naming::{Named, Places, name};
use super::process::Process;
use super::replay::Replay;
use super::self_stats::{own_cpu_ns, peak_rss_bytes};
use crate::model::{Cost, FileId, Mode, Outcome, Profile, RateChange, Recording};
use crate::sampler::{AsleepReader, Sampler, SamplerSettings, TableBuilder, TableCache};
use crate::symbolize::Config;
use crate::sys::abi::{Counters, TableProcess};
use crate::sys::clock::monotonic_ns;
use crate::sys::wait_record::{Scheduled, ThreadAccount};
use crate::target::procfs;
use crate::target::select::Selector;
use crate::{Error, ErrorKind, Result};

/// How to record.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clock, rate and what the kernel side takes.
    pub sampler: SamplerSettings,
    /// Until this long after sampling began.
    pub duration: Option<Duration>,
    /// Threads are told apart.
    pub per_thread: bool,
    /// Running asyncio tasks are told where the interpreter tells them.
    pub tasks: bool,
    /// Samples of threads that do not hold the lock of their Python interpreter are left out.
    pub gil_only: bool,
    /// Lower the rate when the own cost exceeds this share of a core, in percent.
    pub max_overhead_percent: Option<f64>,
    /// Requests are followed instead of anything being summed; what threads did of late takes so many bytes.
    pub ring_bytes: Option<usize>,
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

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its duration was over.
    InTime,
    /// All targets were gone.
    Deserted,
    /// It was told to.
    Stopped,
}

/// Without urgent events the ring is drained this often: five wake-ups a second cost
/// nothing that can be measured, and the ring holds more than two such ticks at 999 Hz.
const TICK: Duration = Duration::from_millis(200);
/// While rows are being built or a program has just started.
const BUSY_TICK: Duration = Duration::from_millis(2);
/// How long sampling waits for the rows of the libraries, and of the program itself.
const PREFETCH_NS: u64 = 300_000_000;
const PREFETCH_PROGRAM_NS: u64 = 2_000_000_000;
/// Children of latecomers may be late as well, but no later than their parent's becoming a target. So each round
/// finds the next generation only, and families that multiply faster than that are given up here.
const LATECOMER_ROUNDS: usize = 8;
/// The governor's and the progress display's step.
const SECOND_NS: u64 = 1_000_000_000;

/// A recording in progress.
pub struct Recorder {
    options: Options,
    pub(super) sampler: Sampler,
    pub(super) replay: Replay,
    pub(super) courtesy: Courtesy,
    began: Baseline,
    rate_changes: Vec<RateChange>,
    elapsed_ns: u64,
    /// As far as it was acted upon.
    events_lost: u64,
    /// There are targets whose threads are not accounted for.
    has_unaccounted: bool,
    /// What could not be done last; told at the end.
    trouble: Option<Error>,
}

/// What was spent before sampling began.
#[derive(Clone, Copy, Debug, Default)]
struct Baseline {
    time_ns: u64,
    own_cpu_ns: u64,
    unix_ns: u64,
}

impl Recorder {
    /// Makes `pids` targets of `sampler` and prepares their rows. They are what
    /// `selector` has found; it is asked again for what started since, and, while `watch_all` is
    /// set, about processes that start later.
    pub fn attach(
        mut sampler: Sampler,
        options: Options,
        pids: &[u32],
        selector: Option<Selector>,
    ) -> Result<Self> {
        let builder = TableBuilder::start(TableCache::open())?;
        sampler.pythons.wants_tasks = options.tasks;
        let coverage = Coverage::new(builder);
        let follow_children = options.sampler.follow_children;
        let watching = selector.clone().filter(|_| options.sampler.watch_all);
        let mut replay = Replay::new(coverage, watching, follow_children, options.per_thread);
        replay.sees_waits = options.sampler.off_cpu.is_some();
        replay.waits.shows_wakers = options.sampler.off_cpu.is_some_and(|off_cpu| off_cpu.wakers);
        if let Some(bytes) = options.ring_bytes {
            replay.follow_requests(bytes);
        }
        let mut recorder = Self {
            options,
            sampler,
            replay,
            courtesy: Courtesy::default(),
            began: Baseline::default(),
            rate_changes: Vec::new(),
            elapsed_ns: 0,
            events_lost: 0,
            has_unaccounted: false,
            trouble: None,
        };
        recorder.add_targets(pids)?;
        if let Some(selector) = selector {
            recorder.add_latecomers(&selector)?;
        }
        Ok(recorder)
    }

    /// Adds what was born after the targets were chosen and before their children's births were told:
    /// some 10 ms, in which a server may start all its workers.
    fn add_latecomers(&mut self, selector: &Selector) -> Result<()> {
        for _ in 0..LATECOMER_ROUNDS {
            // That it cannot be told is no failure here: what was caught is still written.
            let Ok(present) = selector.find_present() else { break };
            let found = present.iter().map(|target| target.pid);
            let latecomers: Vec<u32> = found.filter(|pid| !self.replay.processes.contains_key(pid)).collect();
            if latecomers.is_empty() {
                break;
            }
            self.add_targets(&latecomers)?;
        }
        Ok(())
    }

    /// The modules known so far, to add files that will be mapped soon.
    pub fn expect_file(&mut self, path: &str, id: FileId, file: std::fs::File) {
        let module = self.replay.modules.add_file(path, id, file);
        self.replay.coverage.want(module, None, &mut self.replay.modules);
    }

    fn add_targets(&mut self, pids: &[u32]) -> Result<()> {
        pids.iter().try_for_each(|pid| self.add_target(*pid))?;
        self.tell_newcomers()
    }

    fn add_target(&mut self, pid: u32) -> Result<()> {
        // Targets first: what changes while we read the mappings is then told as events.
        self.sampler.add_target(pid, None)?;
        let mut process = Process { is_dirty: true, ..Process::default() };
        match process.scan(pid, &mut self.replay.modules, monotonic_ns()) {
            Ok(()) if !process.mappings.is_empty() => {
                self.replay.coverage.prefetch(pid, &process, &mut self.replay.modules);
                self.replay.meet(pid, process);
                self.has_unaccounted = true;
            }
            Err(error) if procfs::is_blind() => {
                self.sampler.backend_mut().remove_process(pid);
                return Err(error);
            }
            // It ended just now, perhaps before its end could be told as an event.
            Ok(()) | Err(_) => self.sampler.backend_mut().remove_process(pid),
        }
        Ok(())
    }

    /// Adds what was found since the last round. What cannot be added now is, with what comes behind it, in the next round, if
    /// it is still there.
    fn add_newcomers(&mut self) -> Result<()> {
        let unseen = self.replay.consider_unseen();
        let newcomers = std::mem::take(&mut self.replay.newcomers);
        for (index, pid) in newcomers.iter().enumerate() {
            if let Err(error) = self.add_target(*pid) {
                let rest = newcomers[index..].iter().copied();
                self.replay.newcomers.extend(rest.filter(|pid| procfs::is_there(*pid)));
                return Err(error);
            }
        }
        if unseen == 0 { Ok(()) } else { Err(too_many_files("failed to look at processes that started")) }
    }

    /// What the walker must know of newcomers; their threads are accounted for from here on. What fails is tried again by the
    /// next call.
    fn tell_newcomers(&mut self) -> Result<()> {
        tell_walker(&mut self.sampler, &mut self.replay.processes, &mut self.replay.modules)?;
        if self.has_unaccounted && self.sees_waits() && self.began.time_ns != 0 {
            let _begun_for_them = self.sampler.backend_mut().account()?;
        }
        self.has_unaccounted = false;
        Ok(())
    }

    /// Waits until the rows of what targets most likely execute are there, within limits.
    pub fn prepare(&mut self) -> Result<()> {
        let began_ns = monotonic_ns();
        let programs: Vec<ModuleId> =
            self.replay.processes.values().filter_map(|p| p.mappings.iter().find_map(|m| m.module)).collect();
        while self.replay.coverage.is_busy() {
            let waited_ns = monotonic_ns().saturating_sub(began_ns);
            let building = |id: &ModuleId| self.replay.coverage.is_building(*id);
            let limit_ns = if programs.iter().any(building) { PREFETCH_PROGRAM_NS } else { PREFETCH_NS };
            if waited_ns > limit_ns {
                break;
            }
            self.drain(BUSY_TICK)?;
        }
        tell_walker(&mut self.sampler, &mut self.replay.processes, &mut self.replay.modules)
    }

    /// Begins to sample.
    pub fn enable(&mut self) -> Result<()> {
        self.sampler.backend_mut().attach()?;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.began = Baseline {
            time_ns: monotonic_ns(),
            own_cpu_ns: own_cpu_ns(),
            unix_ns: unix.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
        };
        self.sampler.backend_mut().enable()?;
        // The first time, how many CPUs there are is read from a file.
        self.sampler.backend().counters()?;
        // New mappings are told from here on; what changed since the targets were added was not.
        self.replay.scan_all();
        tell_walker(&mut self.sampler, &mut self.replay.processes, &mut self.replay.modules)
    }

    /// Records until the duration is over, `stop` is set or all targets are gone, and tells which.
    /// `observe` is called about once a second.
    pub fn run(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Progress)) -> Result<Ended> {
        let nominal_ns = self.sampler.backend().period_ns();
        let mut governor =
            self.options.max_overhead_percent.map(|percent| Governor::new(percent, nominal_ns));
        let end_ns = self
            .options
            .duration
            .map(|duration| self.began.time_ns.saturating_add(duration.as_nanos() as u64));
        let mut next_second_ns = self.began.time_ns;
        let ended = loop {
            let now_ns = monotonic_ns();
            if now_ns >= next_second_ns {
                next_second_ns = now_ns + SECOND_NS;
                let counters = self.sampler.backend().counters()?;
                observe(self.progress(now_ns, counters));
                self.govern(&mut governor, now_ns, counters)?;
                self.bury_unheard(counters.events_lost);
            }
            let left_ns = end_ns.map_or(u64::MAX, |end_ns| end_ns.saturating_sub(now_ns));
            if stop.load(Ordering::Relaxed) {
                break Ended::Stopped;
            }
            if self.is_deserted() {
                break Ended::Deserted;
            }
            if left_ns == 0 {
                break Ended::InTime;
            }
            let busy = self.replay.coverage.is_busy() || now_ns < self.replay.burst_until_ns;
            let tick = if busy { BUSY_TICK } else { TICK };
            match self.drain(tick.min(Duration::from_nanos(left_ns))) {
                Err(error) if error.kind() == ErrorKind::System => self.trouble = Some(error),
                drained => drained?,
            }
        };
        let accounts = self.close_accounts()?;
        self.sampler.backend_mut().disable()?;
        self.drain(Duration::ZERO)?;
        self.elapsed_ns = monotonic_ns().saturating_sub(self.began.time_ns);
        self.tell_open_waits(&accounts);
        self.replay.refresh_jit();
        self.replay.name_threads();
        Ok(ended)
    }

    /// Whether all targets are gone, and none can come.
    pub(super) fn is_deserted(&self) -> bool {
        self.replay.processes.is_empty() && !self.replay.watches()
    }

    /// What was lost in the last second is acted upon.
    pub(super) fn check_losses(&mut self) -> Result<Counters> {
        let counters = self.sampler.backend().counters()?;
        self.bury_unheard(counters.events_lost);
        Ok(counters)
    }

    /// What found no room or was not understood so far, by kind, beside samples.
    pub(super) fn losses(&self, counters: Counters) -> [Loss; 7] {
        self.replay.losses(&self.sampler.tables, counters, self.sampler.undecodable)
    }

    fn sees_waits(&self) -> bool {
        self.options.sampler.off_cpu.is_some()
    }

    /// What all threads have done so far; what happens from here on does not count any more.
    fn close_accounts(&mut self) -> Result<Vec<ThreadAccount>> {
        if !self.sees_waits() {
            return Ok(Vec::new());
        }
        let accounts = self.sampler.backend_mut().account()?;
        self.replay.waits.end_at(&accounts);
        Ok(accounts)
    }

    /// Adds threads that still live, and the waits that they are in, whose stacks are read from outside.
    fn tell_open_waits(&mut self, accounts: &[ThreadAccount]) {
        /// Reading takes some 0.1 ms for each thread; those that are not reached in this time have no stack.
        const READING_LIMIT_NS: u64 = 2_000_000_000;
        let deadline_ns = monotonic_ns() + READING_LIMIT_NS;
        let mut reader = AsleepReader::default();
        self.replay.waits.reopen();
        for account in accounts {
            let record = &account.record;
            self.replay.waits.add_thread(record);
            if record.open_sequence.is_some() {
                self.replay.waits.add_open(record, &mut self.replay.capture);
            } else if record.scheduled == Some(Scheduled::Blocked) && monotonic_ns() < deadline_ns {
                let process = self.replay.processes.get(&record.pid);
                let python = process.and_then(|process| process.python.shared());
                let slice = process.and_then(|process| process.slice);
                let walked = TableProcess {
                    python: python.as_ref().map_or(0, |python| python.index),
                    ..self.sampler.tables.process(record.pid, slice)
                };
                let replay = &mut self.replay;
                let tables = &mut self.sampler.tables;
                let _not_told_is_bare =
                    reader.tell(account, &walked, python.as_deref(), tables, &mut |tables, event| {
                        replay.apply(tables, event);
                    });
            }
        }
    }

    /// Catches every thread once instead of recording for a time. Rows that are not there yet are waited for.
    pub fn sweep(&mut self) -> Result<()> {
        /// Each brings the rows that the one before it missed, one library deeper; more are never needed in practice.
        const MAX_SWEEPS: usize = 4;
        for _ in 0..MAX_SWEEPS {
            self.replay.capture = Capture::default();
            let replay = &mut self.replay;
            self.sampler.sweep(|tables, event| replay.apply(tables, event))?;
            tell_walker(&mut self.sampler, &mut self.replay.processes, &mut self.replay.modules)?;
            let lacks_rows =
                |outcome: &Outcome| matches!(outcome, Outcome::TableNotLoaded | Outcome::MappingsNotLoaded);
            if !self.replay.capture.outcomes().keys().any(lacks_rows) {
                break;
            }
            self.prepare()?;
        }
        self.elapsed_ns = monotonic_ns().saturating_sub(self.began.time_ns);
        self.replay.refresh_jit();
        self.replay.name_threads();
        Ok(())
    }

    /// Processes whose end was lost with other events are forgotten.
    fn bury_unheard(&mut self, events_lost: u64) {
        if std::mem::replace(&mut self.events_lost, events_lost) != events_lost {
            let known = self.replay.processes.keys().copied();
            let gone: Vec<u32> = known.filter(|pid| !self.sampler.backend().has_process(*pid)).collect();
            for pid in gone {
                self.replay.bury(&mut self.sampler.tables, pid);
            }
        }
    }

    fn progress(&self, now_ns: u64, counters: Counters) -> Progress {
        Progress {
            elapsed: Duration::from_nanos(now_ns.saturating_sub(self.began.time_ns)),
            samples: self.replay.samples,
            lost: counters.ring_full,
        }
    }

    fn govern(&mut self, governor: &mut Option<Governor>, now_ns: u64, counters: Counters) -> Result<()> {
        let Some(governor) = governor else { return Ok(()) };
        let spent = Spent { time_ns: now_ns, cost_ns: own_cpu_ns() + counters.run_ns };
        if let Some(period_ns) = governor.decide(spent) {
            // Not `now_ns`: samples since then were still taken at the old rate.
            self.sampler.backend_mut().set_period_ns(period_ns, monotonic_ns())?;
            let at_ns = now_ns.saturating_sub(self.began.time_ns);
            self.rate_changes.push(RateChange { at_ns, period_ns });
        }
        Ok(())
    }

    /// One round: events, newly built rows, newcomers, and what the walker must know of all that. What fails is tried again by
    /// the next one.
    pub(super) fn drain(&mut self, timeout: Duration) -> Result<()> {
        let Self { sampler, replay, courtesy, .. } = self;
        courtesy.begin_turn();
        sampler.poll(timeout, |tables, event| {
            courtesy.give_way();
            replay.apply(tables, event);
        });
        let now_ns = monotonic_ns();
        replay.coverage.receive(&mut self.sampler.tables, &mut replay.modules, &mut replay.processes, now_ns);
        replay.refresh_jit_now_and_then(now_ns);
        replay.name_threads_now_and_then(now_ns);
        let added = self.add_newcomers();
        // Others are not to suffer from what one does.
        self.tell_newcomers().and(added)
    }

    /// Ends the recording: names all addresses. `step` is told what is being read.
    pub fn finish(mut self, target: String, config: Config, step: &mut dyn FnMut(&str)) -> Result<Profile> {
        let backend = self.sampler.backend();
        let counters = backend.counters()?;
        let cost = Cost {
            own_cpu_ns: own_cpu_ns().saturating_sub(self.began.own_cpu_ns),
            bpf_run_ns: backend.stops().is_none().then_some(counters.run_ns + counters.off_cpu_ns),
            bpf_runs: backend.stops().is_none().then_some(counters.samples + counters.waits),
            peak_rss_bytes: peak_rss_bytes(),
            bpf_memory_bytes: backend.memory_bytes(),
            stops: backend.stops(),
        };
        let mut threads = Vec::new();
        if self.sees_waits() {
            threads = self.replay.finish_waits(self.options.sampler.on_cpu);
        }
        let mut recording = Recording {
            target,
            backend: backend.name().to_owned(),
            event: backend.event().to_owned(),
            mode: match (self.sees_waits(), self.options.sampler.on_cpu) {
                (false, _) => Mode::Cpu,
                (true, false) => Mode::OffCpu,
                (true, true) => Mode::Wall,
            },
            frequency_hz: self.options.sampler.frequency_hz,
            period_ns: 1_000_000_000 / u64::from(self.options.sampler.frequency_hz.max(1)),
            started_unix_ns: self.began.unix_ns,
            elapsed_ns: self.elapsed_ns,
            rate_changes: self.rate_changes,
            switches_mended: counters.switches_mended,
            lost: BTreeMap::new(),
            warnings: self.replay.warnings(&self.sampler.tables, counters, self.sampler.undecodable),
            cost,
            ..Recording::default()
        };
        recording.warnings.extend(backend.warnings());
        recording.warnings.extend(self.trouble.map(|error| format!("not all was followed: {error}")));
        if counters.ring_full > 0 {
            recording.lost.insert(Outcome::RingFull, counters.ring_full);
        }
        // The clocks and the tables are not needed any more; naming wants the memory.
        drop(self.sampler);
        let Replay { capture, modules, jit, codes, waits, .. } = &self.replay;
        let places = Places { modules, jit, codes, waits: &waits.names };
        let Named { frames, stacks, samples, warnings } = name(capture, places, config, step);
        recording.warnings.extend(warnings);
        let mut profile = Profile { recording, frames, stacks, samples, threads };
        if self.options.gil_only {
            profile.keep_gil_holders();
        }
        Ok(profile)
    }
}

fn too_many_files(intent: &str) -> Error {
    Error::from_io(intent, std::io::Error::from_raw_os_error(libc::EMFILE))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::sampler::clock::ClockChoice;
    use crate::sampler::ptrace;
    use crate::target::select::Wish;

    /// A process that began after the targets were chosen becomes one, though another name selects nothing.
    #[test]
    fn latecomers_are_added_beside_names_that_select_nothing() {
        let name = format!("latecomer-{}", std::process::id());
        let names = vec!["no-process-has-this-name".to_owned(), name.clone()];
        let selector = Selector::new(&Wish { names, ..Wish::default() }).expect("names");
        let sampler = SamplerSettings {
            clock: ClockChoice::CpuClock,
            frequency_hz: 99,
            follow_children: true,
            watch_all: false,
            kernel_frames: false,
            on_cpu: true,
            off_cpu: None,
            lane: None,
            keep_samples: false,
        };
        let options = Options {
            sampler,
            duration: None,
            per_thread: false,
            tasks: false,
            gil_only: false,
            max_overhead_percent: None,
            ring_bytes: None,
        };
        let mut command = Command::new("cat");
        command.arg0(&name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut latecomer = command.spawn().expect("coreutils are there");
        // Once it answers it is that program, with its name and mappings.
        let (mut asks, mut answers) = (latecomer.stdin.take().expect("a pipe"), latecomer.stdout.take());
        asks.write_all(b"?").expect("it reads");
        answers.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it answers");
        let attached =
            ptrace::open(&sampler).and_then(|open| Recorder::attach(open, options, &[], Some(selector)));
        drop(asks);
        latecomer.wait().expect("it was started here");
        let known = attached.expect("nothing is stopped yet").replay.processes.into_keys();
        assert_eq!(Vec::from_iter(known), [latecomer.id()]);
    }
}
