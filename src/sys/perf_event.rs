//! Perf events: one sampling clock per CPU on our own descriptors, whose ring
//! carries what the kernel itself reports of all processes' new executable
//! mappings (`PERF_RECORD_MMAP2`). Samples do not go through this ring; the
//! attached BPF program takes them and lets the event record nothing. Only where
//! that program is to be judged does the event write what it saw itself, see
//! [`RingContent::MappingsAndSamples`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::{Error, ErrorKind, Result, ResultExt};

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER5`, `include/uapi/linux/perf_event.h` of Linux 6.1.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved_2: u16,
}

const _: () = assert!(size_of::<PerfEventAttr>() == 112);

const PERF_TYPE_HARDWARE: u32 = 0;
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_HW_CPU_CYCLES: u64 = 0;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
const PERF_SAMPLE_TID: u64 = 1 << 1;
const PERF_SAMPLE_TIME: u64 = 1 << 2;
const PERF_SAMPLE_REGS_USER: u64 = 1 << 12;
const PERF_SAMPLE_STACK_USER: u64 = 1 << 13;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;
const PERF_EVENT_IOC_PERIOD: libc::c_ulong = 0x4008_2404;

/// Bits of `perf_event_attr.flags` in the header's order.
mod flag {
    pub(super) const DISABLED: u64 = 1 << 0;
    pub(super) const EXCLUDE_HV: u64 = 1 << 6;
    pub(super) const EXCLUDE_IDLE: u64 = 1 << 7;
    pub(super) const MMAP: u64 = 1 << 8;
    pub(super) const WATERMARK: u64 = 1 << 14;
    pub(super) const SAMPLE_ID_ALL: u64 = 1 << 18;
    pub(super) const MMAP2: u64 = 1 << 23;
    pub(super) const USE_CLOCKID: u64 = 1 << 25;
    pub(super) const REMOVE_ON_EXEC: u64 = 1 << 36;
    pub(super) const SIGTRAP: u64 = 1 << 37;
}

/// What makes the clock tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// A timer; the period is in nanoseconds.
    CpuClock,
    /// The CPU's cycle counter; the period is in cycles.
    Cycles,
}

/// `PERF_RECORD_SAMPLE`: what an event saw.
pub const PERF_RECORD_SAMPLE: u32 = 9;

/// What the ring of an event holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingContent {
    /// New executable mappings.
    Mappings,
    /// These, and a [`PERF_RECORD_SAMPLE`] whenever the BPF program returns something other than 0. Its body:
    ///
    /// ```text
    /// u32 pid, tid; u64 time          CLOCK_MONOTONIC
    /// u64 abi, registers[17]          abi 0: no registers follow; ax bx cx dx si di bp sp ip r8 … r15
    /// u64 size; u8 stack[size]        from sp upwards
    /// u64 valid                       of these bytes; absent where size is 0
    /// ```
    MappingsAndSamples,
}

impl RingContent {
    fn data_bytes(self) -> usize {
        match self {
            Self::Mappings => MAPPINGS_DATA_BYTES,
            Self::MappingsAndSamples => SAMPLES_DATA_BYTES,
        }
    }

    fn describe(self, attr: &mut PerfEventAttr) {
        attr.wakeup_watermark = (self.data_bytes() / 2) as u32;
        attr.sample_type = PERF_SAMPLE_TIME;
        if self == Self::MappingsAndSamples {
            attr.sample_type |= PERF_SAMPLE_TID | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER;
            attr.sample_regs_user = GENERAL_REGISTERS;
            attr.sample_stack_user = STACK_BYTES;
        }
    }
}

/// Bits of `enum perf_event_x86_regs` (`arch/x86/include/uapi/asm/perf_regs.h`): ax to ip are 0 to 8, r8 to r15 are 16 to 23.
const GENERAL_REGISTERS: u64 = 0xff_01ff;
/// The largest that `perf_copy_attr` takes; what exceeds the 64 KiB of a record is left out.
const STACK_BYTES: u32 = 65_528;
/// Room for 256 samples of 64 KiB, a quarter of a second at 997 Hz; more are lost, which the kernel tells.
const SAMPLES_DATA_BYTES: usize = 16 << 20;

/// Data pages of a ring: 64 KiB hold about 500 mapping records, which is what
/// some 60 programs starting at once produce between two of our ticks. When it
/// overflows the kernel says so, and all targets are read anew.
const MAPPINGS_DATA_BYTES: usize = 64 * 1024;
const PAGE_BYTES: usize = 4096;

/// A sampling event on one CPU and its ring.
#[derive(Debug)]
pub struct PerfEvent {
    fd: OwnedFd,
    ring: NonNull<u8>,
    /// Behind the first page of the ring; a power of two, at least 64 KiB and so more than any record.
    data_bytes: usize,
}

// SAFETY: the ring pointer is owned by this value alone and the kernel does not care which
// thread of the process reads it.
unsafe impl Send for PerfEvent {}

impl PerfEvent {
    /// Opens a disabled event on `cpu` for all processes, period in the source's unit.
    /// Fails with a hint when the kernel does not permit it, and with
    /// [`ErrorKind::UnsupportedSystem`] when there is no such counter.
    pub fn open(source: EventSource, cpu: u32, period: u64, content: RingContent) -> Result<Self> {
        let fd = open_disabled(source, cpu, period, content).map_err(open_error)?;
        let data_bytes = content.data_bytes();
        let ring = map_ring(&fd, data_bytes)?;
        Ok(Self { fd, ring, data_bytes })
    }

    /// Opens a disabled timer of thread `tid` alone. When the BPF program returns something other than 0, the thread is
    /// given SIGTRAP before it executes another instruction in user mode: who traces it finds it as it was sampled.
    /// It dies of that where nobody does. Only tests want that; needs Linux 5.13.
    pub fn open_trap(tid: u32, period_ns: u64) -> Result<Self> {
        let content = RingContent::Mappings;
        let mut attr = describe(EventSource::CpuClock, period_ns, content);
        // The kernel demands the second with the first: a new program knows nothing of the signal.
        attr.flags |= flag::SIGTRAP | flag::REMOVE_ON_EXEC;
        let fd = open_described(&attr, tid.cast_signed(), -1).map_err(open_error)?;
        let data_bytes = content.data_bytes();
        let ring = map_ring(&fd, data_bytes)?;
        Ok(Self { fd, ring, data_bytes })
    }

    /// Starts ticking.
    pub fn enable(&self) -> Result<()> {
        self.ioctl(PERF_EVENT_IOC_ENABLE, std::ptr::null(), "PERF_EVENT_IOC_ENABLE")
    }

    /// Stops ticking.
    pub fn disable(&self) -> Result<()> {
        self.ioctl(PERF_EVENT_IOC_DISABLE, std::ptr::null(), "PERF_EVENT_IOC_DISABLE")
    }

    /// Changes the period, in the source's unit; it holds from the next tick on.
    pub fn set_period(&self, period: u64) -> Result<()> {
        self.ioctl(PERF_EVENT_IOC_PERIOD, &period, "PERF_EVENT_IOC_PERIOD")
    }

    fn ioctl(&self, request: libc::c_ulong, argument: *const u64, name: &str) -> Result<()> {
        // SAFETY: the descriptor is a perf event's, and `argument` is null or points to a live
        // u64, which is what these three requests read.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, argument) };
        if result < 0 {
            return Err(Error::from_io(name, std::io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Calls `each` with every record that has arrived: type, misc and body
    /// (without header), oldest first, and gives the room back to the kernel.
    pub fn drain(&mut self, mut each: impl FnMut(u32, u16, &[u8])) {
        /// Offsets of `data_head` and `data_tail` in `struct perf_event_mmap_page`.
        const DATA_HEAD: usize = 1024;
        const DATA_TAIL: usize = 1032;
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.position(DATA_TAIL).load(Ordering::Relaxed);
        let mut record = Vec::new();
        while tail < head {
            let mut header = [0; 8];
            self.copy(tail, &mut header);
            let [k0, k1, k2, k3, m0, m1, s0, s1] = header;
            let size = u16::from_ne_bytes([s0, s1]);
            if size < 8 || tail + u64::from(size) > head {
                tail = head; // not a record of this kernel; nothing behind it can be trusted
                break;
            }
            record.resize(usize::from(size) - 8, 0);
            self.copy(tail + 8, &mut record);
            each(u32::from_ne_bytes([k0, k1, k2, k3]), u16::from_ne_bytes([m0, m1]), &record);
            tail += u64::from(size);
        }
        fence(Ordering::SeqCst);
        self.position(DATA_TAIL).store(tail, Ordering::Release);
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the first page of the ring is mapped for the life of `self`; both offsets are
        // 8-byte aligned fields in it that the kernel and we access as whole words.
        unsafe { &*self.ring.as_ptr().add(offset).cast::<AtomicU64>() }
    }

    /// Copies out of the ring's data from the running position `from`, around its end.
    fn copy(&self, from: u64, out: &mut [u8]) {
        let start = from as usize & (self.data_bytes - 1);
        let (before_end, behind) = out.split_at_mut(out.len().min(self.data_bytes - start));
        for (offset, part) in [(start, before_end), (0, behind)] {
            // SAFETY: the first part ends where the data does; the second is shorter than a record and
            // so than the data. The kernel does not write between tail and head.
            unsafe {
                let data = self.ring.as_ptr().add(PAGE_BYTES + offset);
                data.copy_to_nonoverlapping(part.as_mut_ptr(), part.len());
            }
        }
    }
}

impl AsFd for PerfEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        // SAFETY: exactly the range that map_ring mapped; nothing borrows from it any more.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), PAGE_BYTES + self.data_bytes) };
    }
}

/// An event as [`PerfEvent::open`] has it, without a ring.
pub(super) fn open_disabled(
    source: EventSource,
    cpu: u32,
    period: u64,
    content: RingContent,
) -> std::io::Result<OwnedFd> {
    const EVERY_PROCESS: libc::pid_t = -1;
    open_described(&describe(source, period, content), EVERY_PROCESS, cpu.cast_signed())
}

fn describe(source: EventSource, period: u64, content: RingContent) -> PerfEventAttr {
    let (kind, config) = match source {
        EventSource::CpuClock => (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK),
        EventSource::Cycles => (PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES),
    };
    let mut attr = PerfEventAttr {
        kind,
        size: size_of::<PerfEventAttr>() as u32,
        config,
        sample_period: period,
        flags: flag::DISABLED
            | flag::EXCLUDE_HV
            | flag::EXCLUDE_IDLE
            | flag::MMAP
            | flag::MMAP2
            | flag::WATERMARK
            | flag::SAMPLE_ID_ALL
            | flag::USE_CLOCKID,
        clockid: libc::CLOCK_MONOTONIC,
        ..PerfEventAttr::default()
    };
    content.describe(&mut attr);
    attr
}

/// Either of `thread` and `cpu` may be -1: any.
fn open_described(attr: &PerfEventAttr, thread: libc::pid_t, cpu: libc::c_int) -> std::io::Result<OwnedFd> {
    let no_group: RawFd = -1;
    // SAFETY: `attr` is a valid attribute of the size it states and lives across the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            thread,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn map_ring(fd: &OwnedFd, data_bytes: usize) -> Result<NonNull<u8>> {
    // SAFETY: a fresh shared mapping of a perf event, one header page plus a power of two of data.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE_BYTES + data_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Error::from_io("failed to map the perf ring", std::io::Error::last_os_error())
            .with_hint("perf_event_mlock_kb may be too small: sysctl -w kernel.perf_event_mlock_kb=2048"));
    }
    NonNull::new(address.cast()).ok_or_else(|| Error::new(ErrorKind::System, "mmap returned null"))
}

fn open_error(cause: std::io::Error) -> Error {
    let error = Error::from_io("perf_event_open", cause);
    match error.kind() {
        ErrorKind::PermissionDenied => error.with_hint(
            "sampling all CPUs needs CAP_PERFMON (and CAP_BPF): run as root, or see `txprof doctor`",
        ),
        ErrorKind::NotFound => error.with_kind(ErrorKind::UnsupportedSystem),
        _ => error,
    }
}

/// The CPUs that are online, ascending, as `/sys/devices/system/cpu/online` lists them (`0-3,5`).
pub fn online_cpus() -> Result<Vec<u32>> {
    let path = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(path).context(|| format!("failed to read `{path}`"))?;
    Ok(parse_cpu_list(text.trim()))
}

fn parse_cpu_list(text: &str) -> Vec<u32> {
    /// More CPUs than any kernel supports (`NR_CPUS` ≤ 8192 on x86-64).
    const MAX_CPU: u32 = 8192;
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?.min(MAX_CPU))
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's list format, with ranges and holes.
    #[test]
    fn cpu_list_has_ranges_and_holes() {
        assert_eq!(parse_cpu_list("0-2,5,7-8"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(parse_cpu_list("0"), [0]);
        assert!(parse_cpu_list("nonsense").is_empty());
    }
}
