//! The default sampler: programs in the kernel walk the interrupted thread;
//! the target is never stopped.

use std::time::Duration;

use super::backend::{Backend, CAPACITY, Event, Sampler, SamplerSettings};
use super::clock::Clock;
use super::mapping_record::{MappingRecord, PERF_RECORD_LOST, PERF_RECORD_MMAP2};
use super::pythons::Pythons;
use super::tables::Tables;
use crate::sys::abi::{Counters, Record, TableProcess};
use crate::sys::bpf::{Bpf, BpfSettings};
use crate::sys::lane_record::LaneSettings;
use crate::sys::perf_event::{EventSource, PERF_RECORD_SAMPLE, RingContent};
use crate::sys::wait_record::ThreadAccount;
use crate::{Error, Result};

/// Room for about 2,000 samples of 60 frames per CPU, a second at 1999 Hz, or for 40 of the deepest.
const RING_BYTES_PER_CPU: u32 = 1 << 20;
const MAX_RING_BYTES: u32 = 16 << 20;
/// As many times that for transfers, of which a busy server makes 4 MB a second: what is late by two seconds loses none.
const LANE_RING_FACTOR: u32 = 4;

/// Clocks and programs.
struct BpfBackend {
    bpf: Bpf,
    clock: Clock,
    sees_waits: bool,
    lane: Option<LaneSettings>,
}

/// Loads and attaches everything; process events flow from here on, samples
/// once it is enabled. Fails with hints where it is not permitted.
pub fn open(settings: &SamplerSettings) -> Result<Sampler> {
    let content = if settings.keep_samples { RingContent::MappingsAndSamples } else { RingContent::Mappings };
    let clock = Clock::open(settings.clock, settings.frequency_hz, content)?;
    let factor = if settings.lane.is_some() { LANE_RING_FACTOR } else { 1 };
    let ring_bytes = RING_BYTES_PER_CPU.saturating_mul(clock.events.len() as u32).saturating_mul(factor);
    let (mut bpf, memory, pythons) = Bpf::load(&BpfSettings {
        capacity: CAPACITY,
        ring_bytes: ring_bytes.next_power_of_two().clamp(1 << 20, MAX_RING_BYTES),
        cpu_capacity: clock.cpu_capacity(),
        follow_children: settings.follow_children,
        watch_all: settings.watch_all,
        kernel_frames: settings.kernel_frames,
        keep_samples: settings.keep_samples,
        on_cpu: settings.on_cpu,
        off_cpu: settings.off_cpu,
        lane: settings.lane,
    })?;
    bpf.attach_process_events()?;
    let backend =
        Box::new(BpfBackend { bpf, clock, sees_waits: settings.off_cpu.is_some(), lane: settings.lane });
    Ok(Sampler::new(backend, Tables::new(memory), Pythons::new(pythons)))
}

impl BpfBackend {
    /// New mappings, and whether some were lost. Kept samples go to `keep` at once.
    fn take_clock_records(&mut self, mut keep: impl FnMut(&[u8])) -> (Vec<MappingRecord>, bool) {
        let mut records = Vec::new();
        let mut lost = false;
        for event in &mut self.clock.events {
            event.drain(|kind, misc, body| match kind {
                PERF_RECORD_MMAP2 => records.extend(MappingRecord::parse(misc, body)),
                PERF_RECORD_LOST => lost = true,
                PERF_RECORD_SAMPLE => keep(body),
                _ => {}
            });
        }
        (records, lost)
    }
}

impl Backend for BpfBackend {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn event(&self) -> &'static str {
        match self.clock.source {
            EventSource::CpuClock => "cpu-clock",
            EventSource::Cycles => "cycles",
        }
    }

    fn attach(&mut self) -> Result<()> {
        if self.sees_waits { self.bpf.attach_off_cpu() } else { Ok(()) }
    }

    /// Threads are accounted for from here on. Attaching to the clocks starts them, so this is the moment.
    fn enable(&mut self) -> Result<()> {
        if self.sees_waits {
            let _nothing_passed_yet = self.bpf.account()?;
        }
        for event in &self.clock.events {
            self.bpf.attach_sampler(event)?;
        }
        if self.lane.is_some() {
            self.bpf.attach_lane()?;
        }
        self.clock.enable()
    }

    fn disable(&mut self) -> Result<()> {
        self.clock.disable()
    }

    fn period_ns(&self) -> u64 {
        self.clock.period_ns()
    }

    fn set_period_ns(&mut self, period_ns: u64, now_ns: u64) -> Result<()> {
        self.clock.set_period_ns(period_ns, now_ns)
    }

    fn set_process(&mut self, process: TableProcess) -> Result<()> {
        self.bpf.set_process(process)
    }

    fn replace_process(&mut self, process: TableProcess) -> Result<()> {
        self.bpf.replace_process(process)
    }

    fn remove_process(&mut self, pid: u32) {
        self.bpf.remove_process(pid);
    }

    fn has_process(&self, pid: u32) -> bool {
        self.bpf.has_process(pid)
    }

    /// The ring is drained before the mapping records are: a mapping that was there
    /// when a drained sample was taken is among them.
    fn poll(
        &mut self,
        timeout: Duration,
        tables: &mut Tables,
        _: &Pythons,
        each: &mut dyn FnMut(&mut Tables, Event<'_>),
    ) -> u64 {
        self.bpf.poll(timeout);
        let (mut mapped, lost) = self.take_clock_records(|body| each(tables, Event::Kept(body)));
        if lost {
            each(tables, Event::MappingsLost);
        }
        mapped.sort_by_key(|record| record.time_ns);
        let mut mapped = mapped.into_iter().peekable();
        let clock = &self.clock;
        let mut undecodable = 0;
        self.bpf.take_records(|bytes| {
            let (time_ns, event) = match Record::parse(bytes) {
                Ok(Record::Sample(sample)) => {
                    let ticks =
                        if sample.is_thinned { self.lane.map_or(1, |lane| lane.base_share) } else { 1 };
                    let weight_ns = clock.weight_ns(sample.period, sample.time_ns) * u64::from(ticks);
                    (sample.time_ns, Event::Sample(sample, weight_ns))
                }
                // No mapping record is waited for; and they must come before all that follows them in the ring.
                Ok(Record::Code(code)) => return each(tables, Event::Code(code)),
                Ok(Record::Task(task)) => return each(tables, Event::Task(task)),
                Ok(Record::Wait(wait)) => (wait.time_ns, Event::Wait(wait)),
                Ok(Record::Thread(thread)) => (thread.time_ns, Event::Thread(thread)),
                Ok(Record::Lane(lane)) => (lane.time_ns, Event::Lane(lane)),
                Ok(Record::Errand(errand)) => (errand.time_ns, Event::Errand(errand)),
                Ok(Record::Process { time_ns, pid, change, comm }) => {
                    (time_ns, Event::Process { time_ns, pid, change, comm })
                }
                Err(_) => {
                    undecodable += 1;
                    return;
                }
            };
            while let Some(earlier) = mapped.next_if(|record| record.time_ns <= time_ns) {
                each(tables, Event::Mapped(earlier));
            }
            each(tables, event);
        });
        mapped.for_each(|record| each(tables, Event::Mapped(record)));
        undecodable
    }

    fn account(&mut self) -> Result<Vec<ThreadAccount>> {
        self.bpf.account()
    }

    fn set_full_rate(&mut self, pid: u32, until_ns: u64) {
        self.bpf.set_full_rate(pid, until_ns);
    }

    fn counters(&self) -> Result<Counters> {
        self.bpf.counters().map_err(|cause: Error| cause.context("failed to read what sampling cost"))
    }

    fn memory_bytes(&self) -> u64 {
        self.bpf.memory_bytes()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
