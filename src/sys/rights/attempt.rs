//! Finding out by trying: harmless calls whose refusal tells more than any setting.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// How the kernel answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(into = "String")]
pub enum Attempt {
    /// It did as asked; all is undone.
    Allowed,
    /// It refused with this error number.
    Refused(i32),
}

impl From<Attempt> for String {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::Allowed => "allowed".to_owned(),
            Attempt::Refused(errno) => format!("{:?}", Errno::from_raw(errno)),
        }
    }
}

impl Attempt {
    fn from_descriptor(answer: libc::c_long) -> Self {
        if answer < 0 {
            return Self::Refused(Errno::last_raw());
        }
        // SAFETY: the system call has just given us this descriptor, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(answer as RawFd) });
        Self::Allowed
    }
}

/// `struct perf_event_attr` of include/uapi/linux/perf_event.h as far as `PERF_ATTR_SIZE_VER0`.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}
const _: () = assert!(size_of::<PerfEventAttr>() == 64);

/// `attr.disabled`, the first of the flags: the event is never started.
const DISABLED: u64 = 1;

/// Opens the clock of one CPU, user and kernel, for all its processes: what a recording samples on.
pub fn open_cpu_clock() -> Attempt {
    // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    open_perf_event(1, 0)
}

/// Opens the hardware's cycle counter in the same way.
pub fn open_cycles() -> Attempt {
    // PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES
    open_perf_event(0, 0)
}

fn open_perf_event(kind: u32, config: u64) -> Attempt {
    let attributes = PerfEventAttr {
        kind,
        size: size_of::<PerfEventAttr>() as u32,
        config,
        flags: DISABLED,
        ..PerfEventAttr::default()
    };
    const ALL_PROCESSES: libc::pid_t = -1;
    const NO_GROUP: RawFd = -1;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let cpu = first_cpu();
    // SAFETY: the attributes are as large as their `size` says and outlive the call.
    Attempt::from_descriptor(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            ALL_PROCESSES,
            cpu,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    })
}

/// CPU 0 may be offline; the one we run on is not.
fn first_cpu() -> libc::c_int {
    // SAFETY: takes no argument.
    unsafe { libc::sched_getcpu() }.max(0)
}

/// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`, include/uapi/linux/bpf.h.
#[repr(C)]
struct BpfMapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Creates a BPF array of one number. Tells seccomp filters and `unprivileged_bpf_disabled` from none.
pub fn create_bpf_map() -> Attempt {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let attributes =
        BpfMapAttr { map_type: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0 };
    // SAFETY: the attributes are as large as the size passed and outlive the call.
    Attempt::from_descriptor(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attributes, size_of::<BpfMapAttr>())
    })
}
