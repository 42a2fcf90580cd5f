//! The BPF object: loading, attaching, its maps as memory, its ring and
//! counters. Everything it holds in the kernel lives as long as this value or
//! this process, whichever ends first; nothing is pinned.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{
    Iter, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, RingBuffer,
    RingBufferBuilder,
};

use super::abi::{COUNTER_COUNT, Counters, RULE_CAPACITY, TableProcess, TablePython};
use super::kernel_types::KernelTypes;
use super::lane_record::LaneSettings;
use super::perf_event::PerfEvent;
use super::table_memory::{Plain, SharedArray, TableCapacity, TableMemory};
use super::wait_record::{OffCpuSettings, ThreadAccount};
use crate::{Error, ErrorKind, Result, ResultExt};

/// Compiled by `scripts/build-ebpf`; CI compares it with a rebuild.
const OBJECT: &[u8] = include_bytes!("../../ebpf/prebuilt/txprof.x86_64.bpf.o");

/// What must be known before the programs are loaded.
#[derive(Clone, Copy, Debug)]
pub struct BpfSettings {
    /// Room in the tables.
    pub capacity: TableCapacity,
    /// Size of the ring, a power of two of at least a page.
    pub ring_bytes: u32,
    /// CPUs that may run samples: the highest CPU number plus one.
    pub cpu_capacity: u32,
    /// Children of targets become targets.
    pub follow_children: bool,
    /// Exec and fork of every process are reported.
    pub watch_all: bool,
    /// Kernel frames are taken.
    pub kernel_frames: bool,
    /// The perf events write a sample of their own for each of ours.
    pub keep_samples: bool,
    /// Ticks of the clock are samples; else it is only there for new mappings.
    pub on_cpu: bool,
    /// Waits are told, and how; `None`: the programs for that are not even loaded.
    pub off_cpu: Option<OffCpuSettings>,
    /// Requests are told, and how; `None`: the programs for that are not even loaded.
    pub lane: Option<LaneSettings>,
}

/// Programs that tell waits and know their tracepoint themselves.
const OFF_CPU_PROGRAMS: [&str; 4] = ["thread_switch", "thread_fork", "thread_exec", "thread_exit"];
/// Tells who ends a wait.
const WAKING: &str = "thread_waking";
/// Tells the end of every system call, where threads cannot be asked for their stacks.
const CALL_EXIT: &str = "call_exit";
/// Programs that tell what is received and sent, likewise.
const LANE_PROGRAMS: [&str; 3] = ["lane_receive", "lane_send", "lane_close"];
/// `CONTEXT_COUNT` of `unwind.h`.
const CONTEXTS: u32 = 3;

/// The loaded programs and maps.
pub struct Bpf {
    links: Vec<Link>,
    ring: RingBuffer<'static>,
    records: Rc<RefCell<RecordBuffer>>,
    processes: MapHandle,
    full_rates: MapHandle,
    counters: MapHandle,
    memory_bytes: u64,
    has_task_work: bool,
    wakers: Wakers,
    object: Object,
}

/// Whether each wake-up on the machine is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakers {
    /// It never is: waits are not told.
    Unwanted,
    /// It will be once a target is a Python, whose lock has holders.
    ForPythons,
    /// It will be from the beginning: who ends a wait is told of all, or the scheduler does not tell when it did.
    Wanted,
    Watched,
}

/// Copies of ring records, back to back, with the end of each.
#[derive(Default)]
struct RecordBuffer {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Bpf {
    /// Loads programs and maps; nothing is attached yet. Fails with the kernel's
    /// reason and a hint when BPF is not permitted or the kernel is too old.
    pub fn load(settings: &BpfSettings) -> Result<(Self, TableMemory, SharedArray<TablePython>)> {
        libbpf_rs::set_print(None);
        let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(load_error)?;
        // To read them takes time, which only waits are worth.
        let types = settings.off_cpu.and_then(|_| KernelTypes::read());
        let has_task_work = types.as_ref().is_some_and(kernel_has_task_work);
        configure(&mut open, settings, has_task_work).map_err(load_error)?;
        let object = open.load().map_err(load_error)?;
        let capacity = settings.capacity;
        let tables = TableMemory {
            mappings: array_named(&object, "mappings", capacity.mappings)?,
            pages: array_named(&object, "pages", capacity.pages)?,
            rows: array_named(&object, "rows", capacity.rows)?,
            rules: array_named(&object, "rules", RULE_CAPACITY as u32)?,
        };
        let pythons = array_named(&object, "pythons", capacity.pythons)?;
        let records = Rc::new(RefCell::new(RecordBuffer::default()));
        let ring_map = map_named(&object, "ring")?;
        let mut builder = RingBufferBuilder::new();
        let sink = Rc::clone(&records);
        let keep = move |record: &[u8]| {
            let mut buffer = sink.borrow_mut();
            buffer.bytes.extend_from_slice(record);
            let end = buffer.bytes.len();
            buffer.ends.push(end);
            0
        };
        builder.add(&ring_map, keep).map_err(load_error)?;
        let ring = builder.build().map_err(load_error)?;
        let bpf = Self {
            links: Vec::new(),
            ring,
            records,
            processes: map_named(&object, "processes")?,
            full_rates: map_named(&object, "full_rates")?,
            counters: map_named(&object, "counters")?,
            memory_bytes: memory_bytes(&object),
            has_task_work,
            wakers: wakers_to_watch(settings, types.as_ref()),
            object,
        };
        Ok((bpf, tables, pythons))
    }

    /// Attaches the process events, so that no fork, exec or exit is missed from here on.
    pub fn attach_process_events(&mut self) -> Result<()> {
        for (program, tracepoint) in [
            ("process_fork", "sched_process_fork"),
            ("process_exec", "sched_process_exec"),
            ("process_exit", "sched_process_exit"),
        ] {
            let program = program_named(&self.object, program)?;
            let link = program.attach_raw_tracepoint(tracepoint);
            let link = link
                .map_err(|cause| load_error(cause).context(format!("failed to attach to `{tracepoint}`")))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Attaches what tells waits: of threads that are born or accounted for from here on.
    pub fn attach_off_cpu(&mut self) -> Result<()> {
        self.attach_traces(&OFF_CPU_PROGRAMS)?;
        if self.wakers == Wakers::Wanted {
            self.watch_wakers()?;
        }
        if !self.has_task_work {
            self.attach_traces(&[CALL_EXIT])?;
        }
        Ok(())
    }

    /// Attaches what tells what targets receive and send from here on.
    pub fn attach_lane(&mut self) -> Result<()> {
        self.attach_traces(&LANE_PROGRAMS)
    }

    fn watch_wakers(&mut self) -> Result<()> {
        self.attach_traces(&[WAKING])?;
        self.wakers = Wakers::Watched;
        Ok(())
    }

    fn attach_traces(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            let link = program_named(&self.object, name)?.attach_trace();
            let link =
                link.map_err(|cause| load_error(cause).context(format!("failed to attach `{name}`")))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Begins to account for the threads of all targets that are not yet, and returns the sums of all.
    pub fn account(&self) -> Result<Vec<ThreadAccount>> {
        let intent = "failed to read the times of threads";
        let link = program_named(&self.object, "account")?.attach();
        let link = link.map_err(|cause| bpf_error(intent.to_owned(), cause))?;
        let mut iteration = Iter::new(&link).map_err(|cause| bpf_error(intent.to_owned(), cause))?;
        let mut bytes = Vec::new();
        iteration.read_to_end(&mut bytes).context(|| intent.to_owned())?;
        ThreadAccount::parse_all(&bytes)
    }

    /// Makes `event` take samples, from now on: libbpf starts the event as it attaches.
    pub fn attach_sampler(&mut self, event: &PerfEvent) -> Result<()> {
        let intent = "failed to attach to a perf event";
        // A link owns the descriptor that it was made with and closes it; the event keeps its own.
        let copy = event.as_fd().try_clone_to_owned().context(|| intent.to_owned())?;
        let link = program_named(&self.object, "on_cpu")?.attach_perf_event(copy.as_raw_fd());
        self.links.push(link.map_err(|cause| load_error(cause).context(intent))?);
        let _owned_by_link = copy.into_raw_fd();
        Ok(())
    }

    /// Until when, `CLOCK_MONOTONIC`, each tick on a thread of `pid` is a sample; 0: not any more.
    pub fn set_full_rate(&self, pid: u32, until_ns: u64) {
        // Full: it is sampled at the low rate, which its profiles show.
        let _full_or_gone = match until_ns {
            0 => self.full_rates.delete(&pid.to_ne_bytes()),
            _ => self.full_rates.update(&pid.to_ne_bytes(), &until_ns.to_ne_bytes(), MapFlags::ANY),
        };
    }

    /// Makes a process a target, or changes what the walker knows of it, atomically. Of the first that is a Python, who ends
    /// waits is told from here on.
    pub fn set_process(&mut self, process: TableProcess) -> Result<()> {
        self.meet_python(process)?;
        let pid = process.pid;
        let result = self.processes.update(&pid.to_ne_bytes(), &process.to_bytes(), MapFlags::ANY);
        result.map_err(|cause| bpf_error(format!("failed to add process {pid} to the targets"), cause))
    }

    /// As [`Self::set_process`], unless the process is no target any more: it exited meanwhile.
    pub fn replace_process(&mut self, process: TableProcess) -> Result<()> {
        self.meet_python(process)?;
        let pid = process.pid;
        match self.processes.update(&pid.to_ne_bytes(), &process.to_bytes(), MapFlags::EXIST) {
            Err(cause) if cause.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(bpf_error(format!("failed to update process {pid}"), cause))
            }
            _ => Ok(()),
        }
    }

    fn meet_python(&mut self, process: TableProcess) -> Result<()> {
        let is_first = process.python != 0 && self.wakers == Wakers::ForPythons;
        if is_first { self.watch_wakers() } else { Ok(()) }
    }

    /// `pid` is no target any more.
    pub fn remove_process(&self, pid: u32) {
        // It may have exited, and been removed by that, before.
        let _gone = self.processes.delete(&pid.to_ne_bytes());
    }

    /// Whether `pid` is a target now.
    pub fn has_process(&self, pid: u32) -> bool {
        matches!(self.processes.lookup(&pid.to_ne_bytes(), MapFlags::ANY), Ok(Some(_)))
    }

    /// Waits for the ring to ask for attention, at most `timeout`, then calls
    /// `each` with every record in it, oldest first. Interruption by a signal
    /// is an ordinary return.
    pub fn poll(&self, timeout: Duration) {
        let _woken_or_timeout_or_signal = self.ring.poll_raw(timeout);
        // poll_raw consumes only after a wake-up; records are mostly left without one.
        let _count_or_error = self.ring.consume_raw();
    }

    /// Takes the records that [`Self::poll`] has gathered, in the order of the ring.
    pub fn take_records(&self, mut each: impl FnMut(&[u8])) {
        let mut buffer = self.records.take();
        let mut start = 0;
        for end in &buffer.ends {
            each(&buffer.bytes[start..*end]);
            start = *end;
        }
        buffer.bytes.clear();
        buffer.ends.clear();
        // Keep the allocation, unless a burst made it larger than an ordinary tick needs.
        buffer.bytes.shrink_to(256 * 1024);
        *self.records.borrow_mut() = buffer;
    }

    /// The kernel side's counters, summed over CPUs.
    pub fn counters(&self) -> Result<Counters> {
        let mut sums = [0u64; COUNTER_COUNT];
        for (index, sum) in (0u32..).zip(sums.iter_mut()) {
            let values = self.counters.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY);
            let values =
                values.map_err(|cause| bpf_error("failed to read the counters".to_owned(), cause))?;
            let words = values.iter().flatten().filter_map(|value| value.as_slice().try_into().ok());
            *sum = words.map(u64::from_ne_bytes).sum();
        }
        Ok(Counters::from_values(sums))
    }

    /// Memory that maps and programs hold in the kernel, as `fdinfo` states it.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// Whether threads can be asked for their stacks as they return to user mode (Linux 6.18). `TXPROF_NO_TASK_WORK`, set to
/// anything, makes it as if not, so that the way of older kernels can be tested on new ones.
fn kernel_has_task_work(types: &KernelTypes) -> bool {
    std::env::var_os("TXPROF_NO_TASK_WORK").is_none()
        && types.has_function("bpf_task_work_schedule_resume_impl")
}

/// `tells_queues` of `clock.h` is what the kernel side knows of the same kernel.
fn wakers_to_watch(settings: &BpfSettings, types: Option<&KernelTypes>) -> Wakers {
    let tells_queues = types.is_some_and(|types| {
        types.has_member("sched_info", "last_queued") && types.has_member("sched_entity", "cfs_rq")
    });
    match settings.off_cpu {
        None => Wakers::Unwanted,
        Some(off_cpu) if off_cpu.wakers || settings.lane.is_some() || !tells_queues => Wakers::Wanted,
        Some(_) => Wakers::ForPythons,
    }
}

fn configure(open: &mut OpenObject, settings: &BpfSettings, has_task_work: bool) -> libbpf_rs::Result<()> {
    let sees_waits = settings.off_cpu.is_some();
    for mut program in open.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let is_lane = LANE_PROGRAMS.contains(&&*name);
        let is_off_cpu = ["account", WAKING].contains(&&*name) || OFF_CPU_PROGRAMS.contains(&&*name);
        let wanted = match &*name {
            CALL_EXIT => sees_waits && !has_task_work,
            _ if is_lane => settings.lane.is_some(),
            _ => sees_waits || !is_off_cpu,
        };
        program.set_autoload(wanted);
    }
    let contexts = if sees_waits { CONTEXTS } else { 1 };
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        match name.as_str() {
            "mappings" => map.set_value_size(settings.capacity.mappings * 40)?,
            "pages" => map.set_value_size(settings.capacity.pages * 8)?,
            "rows" => map.set_value_size(settings.capacity.rows * 4)?,
            "pythons" => map.set_value_size(settings.capacity.pythons * 120)?,
            "ring" => map.set_max_entries(settings.ring_bytes)?,
            "scratches" => map.set_max_entries(settings.cpu_capacity.saturating_mul(contexts))?,
            "threads" | "budgets" | "clocks" | "stack_works" => map.set_autocreate(sees_waits)?,
            "lanes" => map.set_autocreate(settings.lane.is_some())?,
            _ if name.ends_with(".rodata") => {
                if let Some(data) = map.initial_value_mut() {
                    write_settings(data, settings, has_task_work);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The `const volatile` settings at the top of `maps.h`, in their order there.
fn write_settings(data: &mut [u8], settings: &BpfSettings, has_task_work: bool) {
    let [window_ns, gil_window_ns] = settings.off_cpu.map_or([1; 2], |off_cpu| off_cpu.windows_ns());
    let words = [
        settings.capacity.rows,
        settings.capacity.pages,
        settings.capacity.mappings,
        settings.capacity.pythons,
        settings.ring_bytes / 4,
        settings.cpu_capacity,
        settings.off_cpu.map_or(0, |off_cpu| off_cpu.min_wait_ns),
        window_ns,
        gil_window_ns,
        settings.lane.map_or(1, |lane| lane.base_share.max(1)),
    ];
    let switches = [
        settings.follow_children,
        settings.watch_all,
        settings.kernel_frames,
        settings.keep_samples,
        settings.on_cpu,
        settings.off_cpu.is_some_and(|off_cpu| off_cpu.wakers),
        settings.lane.is_some(),
        settings.off_cpu.is_some_and(|off_cpu| off_cpu.every),
        has_task_work,
    ];
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).chain(switches.map(u8::from));
    data.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
}

fn map_named(object: &Object, name: &str) -> Result<MapHandle> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("BPF object has no map `{name}`")))?;
    MapHandle::try_from(&map).map_err(load_error)
}

fn array_named<T: Plain>(object: &Object, name: &str, len: u32) -> Result<SharedArray<T>> {
    SharedArray::of_bpf_array(map_named(object, name)?.as_fd(), len as usize)
}

fn program_named<'a>(object: &'a Object, name: &str) -> Result<libbpf_rs::ProgramMut<'a>> {
    let program = object.progs_mut().find(|program| program.name() == name);
    program.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("BPF object has no program `{name}`")))
}

/// The sum of `memlock:` in the fdinfo of every map and program.
fn memory_bytes(object: &Object) -> u64 {
    let maps = object.maps().filter_map(|map| fd_memory(map.as_fd().as_raw_fd())).sum::<u64>();
    let programs =
        object.progs_mut().filter_map(|program| fd_memory(program.as_fd().as_raw_fd())).sum::<u64>();
    maps + programs
}

fn fd_memory(fd: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn bpf_error(message: String, cause: libbpf_rs::Error) -> Error {
    let kind = match cause.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::System,
    };
    Error::new(kind, format!("{message}: {cause}"))
}

fn load_error(cause: libbpf_rs::Error) -> Error {
    let error = bpf_error("failed to load the BPF programs".to_owned(), cause);
    match error.kind() {
        ErrorKind::PermissionDenied => {
            error.with_hint("needs CAP_BPF and CAP_PERFMON: run as root, or see `txprof doctor`")
        }
        _ => error.with_hint("`txprof doctor` tells what this kernel lacks"),
    }
}
