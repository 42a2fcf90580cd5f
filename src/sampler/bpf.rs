//! The default sampler: programs in the kernel walk the interrupted thread;
//! the target is never stopped.

use std::time::Duration;

use super::clock::{Clock, ClockChoice};
use super::mapping_record::{MappingRecord, PERF_RECORD_LOST, PERF_RECORD_MMAP2};
use super::pythons::{Python, Pythons};
use super::tables::{SliceId, Tables};
use crate::sys::abi::{COMM_BYTES, CodeRecord, Counters, ProcessChange, Record, SampleRecord, TableProcess};
use crate::sys::bpf::{Bpf, BpfSettings};
use crate::{Error, Result};

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
}

/// 3 M rows: what some 30 binaries of the size of PostgreSQL have. Beyond it, files
/// that were not sampled for longest are evicted and come back when sampled.
const ROW_CAPACITY: u32 = 3 << 20;
/// 4 GiB of code in pages of 64 KiB. Beyond it, further files have frame pointers only.
const PAGE_CAPACITY: u32 = 65_536;
/// Executable mappings of all targets together; processes with the same mappings after a
/// fork count once. Beyond it, a process has frame pointers only.
const MAPPING_CAPACITY: u32 = 65_536;
/// Interpreters at once; forked children share their parent's. Beyond it, Python is seen as the C program that it is.
const PYTHON_CAPACITY: u32 = 4096;
/// Room for about 2,000 samples of 60 frames per CPU, a second at 1999 Hz, or for 40 of the deepest.
const RING_BYTES_PER_CPU: u32 = 1 << 20;
const MAX_RING_BYTES: u32 = 16 << 20;

/// Clocks, programs and tables.
pub struct BpfSampler {
    bpf: Bpf,
    clock: Clock,
    /// The table memory.
    pub tables: Tables,
    /// The interpreters.
    pub pythons: Pythons,
    /// Events that could not be decoded: a defect, counted so that it is seen.
    pub undecodable: u64,
}

impl BpfSampler {
    /// Loads and attaches everything; process events flow from here on, samples
    /// after [`Self::enable`]. Fails with hints where it is not permitted.
    pub fn open(settings: &SamplerSettings) -> Result<Self> {
        let clock = Clock::open(settings.clock, settings.frequency_hz)?;
        let ring_bytes = RING_BYTES_PER_CPU.saturating_mul(clock.events.len() as u32);
        let (mut bpf, memory, pythons) = Bpf::load(&BpfSettings {
            row_capacity: ROW_CAPACITY,
            page_capacity: PAGE_CAPACITY,
            mapping_capacity: MAPPING_CAPACITY,
            python_capacity: PYTHON_CAPACITY,
            ring_bytes: ring_bytes.next_power_of_two().clamp(1 << 20, MAX_RING_BYTES),
            cpu_capacity: clock.cpu_capacity(),
            follow_children: settings.follow_children,
            watch_all: settings.watch_all,
            kernel_frames: settings.kernel_frames,
        })?;
        bpf.attach_process_events()?;
        Ok(Self { bpf, clock, tables: Tables::new(memory), pythons: Pythons::new(pythons), undecodable: 0 })
    }

    /// Starts the clocks: attaching does, so this is the moment to attach.
    pub fn enable(&mut self) -> Result<()> {
        for event in &self.clock.events {
            self.bpf.attach_sampler(event)?;
        }
        self.clock.enable()
    }

    /// Stops the clocks; what was caught is still delivered by [`Self::poll`].
    pub fn disable(&self) -> Result<()> {
        self.clock.disable()
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Changes the sampling period at `now_ns`, `CLOCK_MONOTONIC`, by which samples are weighed.
    pub fn set_period_ns(&mut self, period_ns: u64, now_ns: u64) -> Result<()> {
        self.clock.set_period_ns(period_ns, now_ns)
    }

    /// Makes `pid` a target whose mappings are those of `slice`, or not known yet.
    pub fn add_target(&self, pid: u32, slice: Option<(SliceId, usize)>) -> Result<()> {
        self.bpf.set_process(self.tables.process(pid, slice))
    }

    /// Gives a target new mappings and says which interpreter it runs; no error if it is gone.
    pub fn update_target(
        &self,
        pid: u32,
        slice: Option<(SliceId, usize)>,
        python: Option<&Python>,
    ) -> Result<()> {
        let python = python.map_or(0, |python| python.index);
        self.bpf.replace_process(TableProcess { python, ..self.tables.process(pid, slice) })
    }

    /// `pid` is no target any more.
    pub fn remove_target(&self, pid: u32) {
        self.bpf.remove_process(pid);
    }

    /// Whether `pid` is a target and lives.
    pub fn has_target(&self, pid: u32) -> bool {
        self.bpf.has_process(pid)
    }

    /// Waits at most `timeout` for something urgent, then calls `each` with all that happened.
    ///
    /// The ring is drained before the mapping records are: a mapping that was there
    /// when a drained sample was taken is among them.
    pub fn poll(&mut self, timeout: Duration, mut each: impl FnMut(&mut Tables, Event<'_>)) {
        self.bpf.poll(timeout);
        let (mut mapped, lost) = self.take_mapping_records();
        if lost {
            each(&mut self.tables, Event::MappingsLost);
        }
        mapped.sort_by_key(|record| record.time_ns);
        let mut mapped = mapped.into_iter().peekable();
        let tables = &mut self.tables;
        let clock = &self.clock;
        let undecodable = &mut self.undecodable;
        self.bpf.take_records(|bytes| {
            let (time_ns, event) = match Record::parse(bytes) {
                Ok(Record::Sample(sample)) => {
                    let weight_ns = clock.weight_ns(sample.period, sample.time_ns);
                    (sample.time_ns, Event::Sample(sample, weight_ns))
                }
                // No mapping record is waited for; and they must come before all that follows them in the ring.
                Ok(Record::Code(code)) => return each(tables, Event::Code(code)),
                Ok(Record::Task(task)) => return each(tables, Event::Task(task)),
                Ok(Record::Process { time_ns, pid, change, comm }) => {
                    (time_ns, Event::Process { time_ns, pid, change, comm })
                }
                Err(_) => {
                    *undecodable += 1;
                    return;
                }
            };
            while let Some(earlier) = mapped.next_if(|record| record.time_ns <= time_ns) {
                each(tables, Event::Mapped(earlier));
            }
            each(tables, event);
        });
        mapped.for_each(|record| each(&mut self.tables, Event::Mapped(record)));
        self.tables.tick();
        self.pythons.tick();
    }

    fn take_mapping_records(&mut self) -> (Vec<MappingRecord>, bool) {
        let mut records = Vec::new();
        let mut lost = false;
        for event in &mut self.clock.events {
            event.drain(|kind, misc, body| match kind {
                PERF_RECORD_MMAP2 => records.extend(MappingRecord::parse(misc, body)),
                PERF_RECORD_LOST => lost = true,
                _ => {}
            });
        }
        (records, lost)
    }

    /// What the kernel side has counted so far.
    pub fn counters(&self) -> Result<Counters> {
        self.bpf.counters().map_err(|cause: Error| cause.context("failed to read what sampling cost"))
    }

    /// Memory held in the kernel.
    pub fn memory_bytes(&self) -> u64 {
        self.bpf.memory_bytes()
    }
}
