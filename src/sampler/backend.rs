//! The contract of whatever takes samples, and [`Sampler`], which keeps what it
//! walks by beside it.

use std::time::Duration;

use super::clock::ClockChoice;
use super::mapping_record::MappingRecord;
use super::pythons::{Python, Pythons};
use super::tables::{SliceId, Tables};
use crate::model::Stops;
use crate::sys::abi::{COMM_BYTES, CodeRecord, Counters, ProcessChange, SampleRecord, TableProcess};
use crate::sys::errand_record::ErrandRecord;
use crate::sys::lane_record::{LaneRecord, LaneSettings};
use crate::sys::table_memory::TableCapacity;
use crate::sys::wait_record::{OffCpuSettings, ThreadAccount, ThreadRecord, WaitRecord};
use crate::{Error, ErrorKind, Result};

/// What happened, in the order of `CLOCK_MONOTONIC` up to the microseconds by which CPUs
/// overtake each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A target thread was caught; the second field is what it counts for, in nanoseconds.
    Sample(SampleRecord<'a>, u64),
    /// What a Python code object says of itself, before the first sample that names it.
    Code(CodeRecord<'a>),
    /// The name of an asyncio task, before the first sample that names it.
    Task(CodeRecord<'a>),
    /// A thread waited, or what belongs to that.
    Wait(WaitRecord<'a>),
    /// A thread ends, with its sums.
    Thread(ThreadRecord),
    /// A target received or sent.
    Lane(LaneRecord<'a>),
    /// A thread that runs a coroutine may have given work to another, or that has done it.
    Errand(ErrandRecord<'a>),
    /// A process has a new executable mapping; not only targets.
    Mapped(MappingRecord),
    /// A target was born, runs a new program or died.
    Process {
        /// When.
        time_ns: u64,
        /// Who.
        pid: u32,
        /// What.
        change: ProcessChange,
        /// Name of the task.
        comm: [u8; COMM_BYTES],
    },
    /// Mapping records were lost: all processes' mappings must be read anew.
    MappingsLost,
    /// The clock's own sample of an instant of which there is, or will be, a [`Self::Sample`]: the body of a
    /// [`PERF_RECORD_SAMPLE`](crate::sys::perf_event), in the order of each CPU alone.
    Kept(&'a [u8]),
}

/// What a recording needs to know before it begins.
#[derive(Clone, Copy, Debug)]
pub struct SamplerSettings {
    /// What makes the clock tick.
    pub clock: ClockChoice,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// Children of targets become targets.
    pub follow_children: bool,
    /// Exec and fork of every process are reported, so that names can be matched.
    pub watch_all: bool,
    /// Kernel frames are taken.
    pub kernel_frames: bool,
    /// Running threads are sampled.
    pub on_cpu: bool,
    /// Threads are accounted for, and their waits told.
    pub off_cpu: Option<OffCpuSettings>,
    /// What targets receive and send is told, and ticks outside of requests are thinned out.
    pub lane: Option<LaneSettings>,
    /// The clock reads each sample a second time, for [`Event::Kept`]: registers and 64 KiB of stack, so that the
    /// walk can be judged. Only tests want that.
    pub keep_samples: bool,
}

/// Room in the tables.
///
/// 3 M rows: what some 30 binaries of the size of PostgreSQL have. Beyond it, files
/// that were not sampled for longest are evicted and come back when sampled.
/// 4 GiB of code in pages of 64 KiB. Beyond it, further files have frame pointers only.
/// Executable mappings of all targets together; processes with the same mappings after a
/// fork count once. Beyond it, a process has frame pointers only.
/// Interpreters at once; forked children share their parent's. Beyond it, Python is seen as the C program that it is.
pub(super) const CAPACITY: TableCapacity =
    TableCapacity { rows: 3 << 20, pages: 65_536, mappings: 65_536, pythons: 4096 };

/// What takes samples.
pub trait Backend {
    /// `ebpf`, `ptrace`.
    fn name(&self) -> &'static str;
    /// What makes a sample: `cpu-clock`, `cycles`.
    fn event(&self) -> &'static str;
    /// Does what takes long before sampling can start, some tens of milliseconds as a rule; nothing is told yet.
    fn attach(&mut self) -> Result<()> {
        Ok(())
    }
    /// Starts to sample, after [`Self::attach`].
    fn enable(&mut self) -> Result<()>;
    /// Ends to sample; what was caught is still delivered by [`Self::poll`].
    fn disable(&mut self) -> Result<()>;
    /// The sampling period now, in nanoseconds.
    fn period_ns(&self) -> u64;
    /// Changes the sampling period at `now_ns`, `CLOCK_MONOTONIC`, by which samples are weighed.
    fn set_period_ns(&mut self, period_ns: u64, now_ns: u64) -> Result<()>;
    /// Makes a process a target, or changes what the walker knows of it.
    fn set_process(&mut self, process: TableProcess) -> Result<()>;
    /// As [`Self::set_process`], unless the process is no target any more.
    fn replace_process(&mut self, process: TableProcess) -> Result<()>;
    /// `pid` is no target any more.
    fn remove_process(&mut self, pid: u32);
    /// Whether `pid` is a target and lives.
    fn has_process(&self, pid: u32) -> bool;
    /// Waits at most `timeout` for something urgent, then calls `each` with all that happened.
    /// Returns how many events could not be decoded: a defect, counted so that it is seen.
    fn poll(
        &mut self,
        timeout: Duration,
        tables: &mut Tables,
        pythons: &Pythons,
        each: &mut dyn FnMut(&mut Tables, Event<'_>),
    ) -> u64;
    /// Catches every thread of every target once, asleep or not. Only who can stop threads can do that.
    fn sweep(
        &mut self,
        _: &mut Tables,
        _: &Pythons,
        _: &mut dyn FnMut(&mut Tables, Event<'_>),
    ) -> Result<()> {
        Err(Error::new(ErrorKind::UnsupportedSystem, "this backend catches threads only as they run"))
    }
    /// Begins to account for threads of targets that are not accounted for yet, and returns the sums of all. Only
    /// who is told by the scheduler can do that, with [`SamplerSettings::off_cpu`], once it is enabled.
    fn account(&mut self) -> Result<Vec<ThreadAccount>> {
        Err(Error::new(ErrorKind::UnsupportedSystem, "this backend does not see waits"))
    }
    /// Until when, `CLOCK_MONOTONIC`, each tick on a thread of `pid` is a sample, with [`SamplerSettings::lane`];
    /// 0: not any more.
    fn set_full_rate(&mut self, _pid: u32, _until_ns: u64) {}
    /// What was counted so far.
    fn counters(&self) -> Result<Counters>;
    /// Memory held in the kernel.
    fn memory_bytes(&self) -> u64;
    /// How long threads were held; `None` where they never are.
    fn stops(&self) -> Option<Stops> {
        None
    }
    /// What the user should know at the end, each a sentence.
    fn warnings(&self) -> Vec<String>;
}

/// A backend and what it walks by.
pub struct Sampler {
    backend: Box<dyn Backend>,
    /// The table memory.
    pub tables: Tables,
    /// The interpreters.
    pub pythons: Pythons,
    /// Events that could not be decoded.
    pub undecodable: u64,
}

impl Sampler {
    /// `backend`, which walks by `tables` and `pythons`.
    pub fn new(backend: Box<dyn Backend>, tables: Tables, pythons: Pythons) -> Self {
        Self { backend, tables, pythons, undecodable: 0 }
    }

    /// What takes the samples.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What takes the samples, to start, stop and set it.
    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// Makes `pid` a target whose mappings are those of `slice`, or not known yet.
    pub fn add_target(&mut self, pid: u32, slice: Option<(SliceId, usize)>) -> Result<()> {
        self.backend.set_process(self.tables.process(pid, slice))
    }

    /// Gives a target new mappings and says which interpreter it runs; no error if it is gone.
    pub fn update_target(
        &mut self,
        pid: u32,
        slice: Option<(SliceId, usize)>,
        python: Option<&Python>,
    ) -> Result<()> {
        let python = python.map_or(0, |python| python.index);
        self.backend.replace_process(TableProcess { python, ..self.tables.process(pid, slice) })
    }

    /// Catches every thread of every target once.
    pub fn sweep(&mut self, mut each: impl FnMut(&mut Tables, Event<'_>)) -> Result<()> {
        self.backend.sweep(&mut self.tables, &self.pythons, &mut each)
    }

    /// Waits at most `timeout` for something urgent, then calls `each` with all that happened.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(&mut Tables, Event<'_>)) {
        self.undecodable += self.backend.poll(timeout, &mut self.tables, &self.pythons, &mut each);
        self.tables.tick();
        self.pythons.tick();
    }
}
