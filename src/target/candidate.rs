//! Whether a process can be recorded, and if not, why and what helps.

use std::fs::File;
use std::io::Read;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, User, geteuid};

use super::procfs;
use crate::sys::rights::StopFacts;
use crate::sys::rights::stop::OUT_OF_NAMESPACE;
use crate::{Error, ErrorKind, Result, ResultExt};

/// A process that can be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its pid.
    pub pid: u32,
    /// Clock ticks from boot to its start: tells it from a later process of the same pid.
    pub start_time_ticks: u64,
    /// Its `comm` when it was looked at.
    pub comm: String,
}

/// The process that `tid` is, or is a thread of, provided that it can be recorded.
///
/// Fails with `NotFound` when there is none, `InvalidInput` for ourselves, `UnsupportedTarget` for a
/// kernel thread, a zombie and a 32-bit program, `PermissionDenied` when we may not read
/// its memory.
pub fn examine(tid: u32) -> Result<Target> {
    let status = procfs::read_status(tid).map_err(|error| explain_absence(tid, error))?;
    let pid = status.pid;
    if pid == std::process::id() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("process {pid} is txprof itself")));
    }
    let stat = procfs::read_stat(pid)?;
    let comm = procfs::comm(pid)?;
    let unsupported = |what: String| Error::new(ErrorKind::UnsupportedTarget, what);
    if stat.is_kernel_thread {
        return Err(unsupported(format!("process {pid} ({comm}) is a kernel thread, not a program")));
    }
    if stat.has_ended() {
        let parent = stat.parent_pid;
        let parent_comm = procfs::comm(parent).unwrap_or_else(|_| "?".to_owned());
        return Err(unsupported(format!(
            "process {pid} ({comm}) has ended: a zombie until its parent {parent} ({parent_comm}) waits for it"
        ))
        .with_hint(format!("record the parent: -p {parent}")));
    }
    check_access(pid, &comm, status.effective_uid)?;
    if is_32_bit(pid) {
        return Err(unsupported(format!(
            "process {pid} ({comm}) is a 32-bit program; only 64-bit ones are supported"
        )));
    }
    Ok(Target { pid, start_time_ticks: stat.start_time_ticks, comm })
}

/// A process that `/proc` does not show may be there all the same (mount option `hidepid`).
fn explain_absence(pid: u32, error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    let number = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    match number.map(|pid| kill(Pid::from_raw(pid), None)) {
        Some(Ok(()) | Err(Errno::EPERM)) => {
            Error::new(ErrorKind::PermissionDenied, format!("`/proc` hides process {pid}"))
                .with_hint("run txprof with sudo, or remount /proc without hidepid")
        }
        _ => Error::new(ErrorKind::NotFound, format!("no process {pid}"))
            .with_hint("`pgrep -a NAME` lists pids by name"),
    }
}

/// Reading mappings needs the same right as reading memory: ptrace(2), "access mode checking".
fn check_access(pid: u32, comm: &str, uid: u32) -> Result<()> {
    let denied = match File::open(format!("/proc/{pid}/maps")).context(|| "reading its mappings".to_owned()) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => error,
        other => return other.map(drop),
    };
    let Some(facts) = StopFacts::gather(pid) else {
        return Err(denied);
    };
    let user = User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let what = match geteuid().as_raw() == uid {
        false => format!("process {pid} ({comm}) belongs to user {user}"),
        true => format!("process {pid} ({comm}) guards its memory or has more rights than txprof"),
    };
    let (reason, hint) = match facts.has_capability {
        false => ("CAP_SYS_PTRACE is missing", facts.ways_to_capability()),
        true if !facts.initial_user_namespace => {
            ("CAP_SYS_PTRACE of a user namespace does not reach out of it", OUT_OF_NAMESPACE)
        }
        true => ("CAP_SYS_PTRACE does not reach it", "a security module guards it: its log says which"),
    };
    Err(denied
        .context(format!("{what}, and {reason}"))
        .with_hint(format!("{hint}; `txprof doctor` explains")))
}

/// By the executable's ELF class (`EI_CLASS`, byte 4 of the ELF header); what cannot be read is not.
fn is_32_bit(pid: u32) -> bool {
    const ELF_CLASS_32: u8 = 1;
    let mut header = [0; 5];
    let executable = File::open(format!("/proc/{pid}/exe"));
    executable.and_then(|mut file| file.read_exact(&mut header)).is_ok()
        && header == [0x7f, b'E', b'L', b'F', ELF_CLASS_32]
}
