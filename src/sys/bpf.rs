//! The BPF object: loading, attaching, its maps as memory, its ring and
//! counters. Everything it holds in the kernel lives as long as this value or
//! this process, whichever ends first; nothing is pinned.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, RingBuffer, RingBufferBuilder,
};

use super::abi::{COUNTER_COUNT, Counters, RULE_CAPACITY, TableProcess, TablePython};
use super::perf_event::PerfEvent;
use super::table_memory::{Plain, SharedArray, TableCapacity, TableMemory};
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
}

/// The loaded programs and maps.
pub struct Bpf {
    links: Vec<Link>,
    ring: RingBuffer<'static>,
    records: Rc<RefCell<RecordBuffer>>,
    processes: MapHandle,
    counters: MapHandle,
    memory_bytes: u64,
    object: Object,
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
        configure(&mut open, settings).map_err(load_error)?;
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
            counters: map_named(&object, "counters")?,
            memory_bytes: memory_bytes(&object),
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

    /// Makes a process a target, or changes what the walker knows of it, atomically.
    pub fn set_process(&self, process: TableProcess) -> Result<()> {
        let pid = process.pid;
        let result = self.processes.update(&pid.to_ne_bytes(), &process.to_bytes(), MapFlags::ANY);
        result.map_err(|cause| bpf_error(format!("failed to add process {pid} to the targets"), cause))
    }

    /// As [`Self::set_process`], unless the process is no target any more: it exited meanwhile.
    pub fn replace_process(&self, process: TableProcess) -> Result<()> {
        let pid = process.pid;
        match self.processes.update(&pid.to_ne_bytes(), &process.to_bytes(), MapFlags::EXIST) {
            Err(cause) if cause.kind() != libbpf_rs::ErrorKind::NotFound => {
                Err(bpf_error(format!("failed to update process {pid}"), cause))
            }
            _ => Ok(()),
        }
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

fn configure(open: &mut OpenObject, settings: &BpfSettings) -> libbpf_rs::Result<()> {
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        match name.as_str() {
            "mappings" => map.set_value_size(settings.capacity.mappings * 40)?,
            "pages" => map.set_value_size(settings.capacity.pages * 8)?,
            "rows" => map.set_value_size(settings.capacity.rows * 4)?,
            "pythons" => map.set_value_size(settings.capacity.pythons * 112)?,
            "ring" => map.set_max_entries(settings.ring_bytes)?,
            "scratches" => map.set_max_entries(settings.cpu_capacity)?,
            _ if name.ends_with(".rodata") => {
                if let Some(data) = map.initial_value_mut() {
                    write_settings(data, settings);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The `const volatile` settings at the top of `maps.h`, in their order there.
fn write_settings(data: &mut [u8], settings: &BpfSettings) {
    let words = [
        settings.capacity.rows,
        settings.capacity.pages,
        settings.capacity.mappings,
        settings.capacity.pythons,
        settings.ring_bytes / 4,
    ];
    let switches =
        [settings.follow_children, settings.watch_all, settings.kernel_frames, settings.keep_samples];
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
