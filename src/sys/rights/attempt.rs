//! Finding out by trying: harmless calls whose refusal tells more than any setting.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::sys::perf_event::{EventSource, RingContent, open_disabled};

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

/// Opens the clock of one CPU, user and kernel, for all its processes: what a recording samples on.
pub fn open_cpu_clock() -> Attempt {
    open_perf_event(EventSource::CpuClock)
}

/// Opens the hardware's cycle counter in the same way.
pub fn open_cycles() -> Attempt {
    open_perf_event(EventSource::Cycles)
}

fn open_perf_event(source: EventSource) -> Attempt {
    /// In nanoseconds or cycles; the event never ticks.
    const PERIOD: u64 = 10_000_000;
    match open_disabled(source, first_cpu(), PERIOD, RingContent::Mappings) {
        Ok(_closed_again) => Attempt::Allowed,
        Err(error) => Attempt::Refused(error.raw_os_error().unwrap_or(0)),
    }
}

/// CPU 0 may be offline; the one we run on is not.
fn first_cpu() -> u32 {
    // SAFETY: takes no argument.
    unsafe { libc::sched_getcpu() }.max(0).cast_unsigned()
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
