//! What the kernel says about itself, about this machine and about us.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use nix::unistd::{SysconfVar, sysconf};

use super::attempt::{self, Attempt};

/// The capabilities that matter to a recording, numbered as in include/uapi/linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(into = "&'static str")]
#[allow(missing_docs)]
pub enum Capability {
    DacReadSearch = 2,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
    Syslog = 34,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
        Self::SysPtrace,
        Self::Syslog,
        Self::DacReadSearch,
        Self::CheckpointRestore,
        Self::SysResource,
    ];

    /// As capabilities(7) writes it: `CAP_BPF`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Syslog => "CAP_SYSLOG",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }
}

impl From<Capability> for &'static str {
    fn from(capability: Capability) -> Self {
        capability.name()
    }
}

/// What was found. `None` where the kernel does not tell us, or not at all.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Facts {
    /// As `uname -r` says it.
    pub kernel_release: String,
    /// Whether txprof was built with its eBPF backend.
    pub built_with_bpf: bool,
    /// Whether the kernel describes its own types, as programs that fit several kernels need.
    pub has_btf: bool,
    /// The user that we act as.
    pub effective_uid: u32,
    /// Capabilities in effect, in our own user namespace.
    pub capabilities: BTreeSet<Capability>,
    /// Whether neither sudo nor file capabilities can add rights (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Whether a seccomp filter is active.
    pub seccomp_filter: bool,
    /// Whether our capabilities count for the whole machine.
    pub initial_user_namespace: bool,
    /// Whether we see all processes.
    pub initial_pid_namespace: bool,
    /// The kind of container we are in.
    pub container: Option<&'static str>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<i64>,
    /// `kernel.yama.ptrace_scope`; `None` without Yama.
    pub yama_ptrace_scope: Option<i64>,
    /// `net.core.bpf_jit_enable`, which root alone may read.
    pub bpf_jit_enable: Option<i64>,
    /// `none`, `integrity` or `confidentiality`; `None` without the lockdown module.
    pub lockdown: Option<String>,
    /// Whether `/proc/kallsyms` shows us addresses.
    pub kernel_symbols_visible: bool,
    /// Opening the clock that a recording samples on.
    pub open_cpu_clock: Attempt,
    /// Opening the cycle counter.
    pub open_cycles: Attempt,
    /// Creating a BPF map.
    pub create_bpf_map: Attempt,
    /// CPUs that are online.
    pub cpus: u64,
    /// Most descriptors that we may open, after raising our own limit.
    pub open_files_limit: u64,
    /// Most memory that we may lock, in bytes.
    pub locked_memory_limit_bytes: u64,
}

/// The capabilities in effect right now, in our own user namespace; none when `/proc` is hidden.
pub fn effective_capabilities() -> BTreeSet<Capability> {
    parse_capabilities(&read_start("/proc/self/status"))
}

impl Facts {
    /// Asks the kernel. Never fails: what cannot be found out is said to be so.
    pub fn gather() -> Self {
        let status = read_start("/proc/self/status");
        let limit = |resource| getrlimit(resource).map_or(0, |(_, hard)| hard);
        Self {
            kernel_release: uname()
                .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned()),
            built_with_bpf: cfg!(feature = "bpf"),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            effective_uid: nix::unistd::geteuid().as_raw(),
            capabilities: parse_capabilities(&status),
            no_new_privileges: status_value(&status, "NoNewPrivs:") == Some("1"),
            seccomp_filter: status_value(&status, "Seccomp:") == Some("2"),
            initial_user_namespace: initial_user_namespace(),
            initial_pid_namespace: is_namespace("pid", INITIAL_PID_NAMESPACE),
            container: find_container(),
            perf_event_paranoid: read_setting("kernel/perf_event_paranoid"),
            unprivileged_bpf_disabled: read_setting("kernel/unprivileged_bpf_disabled"),
            kptr_restrict: read_setting("kernel/kptr_restrict"),
            yama_ptrace_scope: read_setting("kernel/yama/ptrace_scope"),
            bpf_jit_enable: read_setting("net/core/bpf_jit_enable"),
            lockdown: parse_lockdown(&read_start("/sys/kernel/security/lockdown")),
            kernel_symbols_visible: shows_addresses(&read_start("/proc/kallsyms")),
            open_cpu_clock: attempt::open_cpu_clock(),
            open_cycles: attempt::open_cycles(),
            create_bpf_map: attempt::create_bpf_map(),
            cpus: online_cpus(),
            open_files_limit: limit(Resource::RLIMIT_NOFILE),
            locked_memory_limit_bytes: limit(Resource::RLIMIT_MEMLOCK),
        }
    }

    /// Major and minor number of the kernel.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        parse_version(&self.kernel_release)
    }

    /// Whether `capability` is in effect; `CAP_SYS_ADMIN` contains those that were split from it.
    pub fn has(&self, capability: Capability) -> bool {
        use Capability::{Bpf, CheckpointRestore, Perfmon, SysAdmin, Syslog};
        let split_from_admin = matches!(capability, Bpf | Perfmon | CheckpointRestore | Syslog);
        self.capabilities.contains(&capability) || split_from_admin && self.capabilities.contains(&SysAdmin)
    }
}

// The machine's own namespaces, include/uapi/linux/nsfs.h (Linux 6.18).
const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;
const INITIAL_USER_NAMESPACE: u32 = 0xEFFF_FFFD;
const INITIAL_UTS_NAMESPACE: u32 = 0xEFFF_FFFE;
const INITIAL_IPC_NAMESPACE: u32 = 0xEFFF_FFFF;

fn is_namespace(kind: &str, inode: u32) -> bool {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    link.is_ok_and(|link| link == Path::new(&format!("{kind}:[{inode}]")))
}

pub(super) fn initial_user_namespace() -> bool {
    is_namespace("user", INITIAL_USER_NAMESPACE)
}

fn online_cpus() -> u64 {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(1)
}

pub(super) fn find_container() -> Option<&'static str> {
    // A machine that was booted from a container's image has the marks, too.
    let own =
        [("pid", INITIAL_PID_NAMESPACE), ("uts", INITIAL_UTS_NAMESPACE), ("ipc", INITIAL_IPC_NAMESPACE)];
    if own.into_iter().all(|(kind, inode)| is_namespace(kind, inode)) {
        return None;
    }
    const MARKS: [(&str, &str); 3] = [
        ("/.dockerenv", "docker"),
        ("/run/.containerenv", "podman"),
        ("/var/run/secrets/kubernetes.io", "kubernetes"),
    ];
    let by_file = MARKS.iter().find(|(path, _)| Path::new(path).exists()).map(|(_, name)| *name);
    let groups = read_start("/proc/1/cgroup");
    by_file.or_else(|| {
        ["docker", "kubepods", "containerd", "libpod", "lxc"].into_iter().find(|name| groups.contains(name))
    })
}

pub(super) fn read_setting(name: &str) -> Option<i64> {
    read_start(&format!("/proc/sys/{name}")).trim().parse().ok()
}

/// The first 64 KiB of a file of the kernel, which show all that is looked for; empty when unreadable.
pub(super) fn read_start(path: &str) -> String {
    const START_BYTES: u64 = 64 << 10;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(START_BYTES).read_to_end(&mut bytes));
    read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn status_value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn parse_capabilities(status: &str) -> BTreeSet<Capability> {
    let bits = status_value(status, "CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
    let bits = bits.unwrap_or_default();
    Capability::ALL.into_iter().filter(|capability| bits >> (*capability as u32) & 1 == 1).collect()
}

/// `6.18.44-fc-v657` is `(6, 18)`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The word in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<String> {
    let (_, tail) = text.split_once('[')?;
    Some(tail.split_once(']')?.0.to_owned())
}

/// Whether any symbol has another address than 0; per-CPU ones have it everywhere.
fn shows_addresses(kallsyms: &str) -> bool {
    let mut addresses = kallsyms.lines().filter_map(|line| line.split(' ').next());
    addresses.any(|address| u64::from_str_radix(address, 16).is_ok_and(|address| address != 0))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine, seen as root, on which nothing is missing.
    pub(in crate::sys::rights) fn able_machine() -> Facts {
        Facts {
            kernel_release: "6.1.0-28-amd64".to_owned(),
            built_with_bpf: true,
            has_btf: true,
            effective_uid: 0,
            capabilities: Capability::ALL.into(),
            no_new_privileges: false,
            seccomp_filter: false,
            initial_user_namespace: true,
            initial_pid_namespace: true,
            container: None,
            perf_event_paranoid: Some(2),
            unprivileged_bpf_disabled: Some(2),
            kptr_restrict: Some(1),
            yama_ptrace_scope: Some(1),
            bpf_jit_enable: Some(1),
            lockdown: Some("none".to_owned()),
            kernel_symbols_visible: true,
            open_cpu_clock: Attempt::Allowed,
            open_cycles: Attempt::Allowed,
            create_bpf_map: Attempt::Allowed,
            cpus: 8,
            open_files_limit: 1 << 20,
            locked_memory_limit_bytes: 8 << 20,
        }
    }

    /// Versions, lockdown, capabilities and symbols are read from the kernel's ways of writing them.
    #[test]
    fn kernel_texts_are_understood() {
        assert_eq!(parse_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(parse_version("5.17-rc3+"), Some((5, 17)));
        assert_eq!(parse_version("linux"), None);
        let lockdown = parse_lockdown("none [integrity] confidentiality\n");
        assert_eq!(lockdown.as_deref(), Some("integrity"));
        let status = "CapPrm:\tffff\nCapEff:\t000000c000080000\nNoNewPrivs:\t0\n";
        let expected = [Capability::SysPtrace, Capability::Bpf, Capability::Perfmon];
        assert_eq!(parse_capabilities(status), BTreeSet::from(expected));
        assert!(!shows_addresses("0000000000000000 A percpu\n0000000000000000 T _text\n"));
        assert!(shows_addresses("0000000000000000 A percpu\nffffffff81000000 T _text\n"));
    }

    proptest! {
        /// Any text: no panic.
        #[test]
        fn any_text_does_not_panic(text in ".{0,100}") {
            parse_version(&text);
            parse_lockdown(&text);
            parse_capabilities(&format!("CapEff:{text}"));
            shows_addresses(&text);
        }
    }
}
