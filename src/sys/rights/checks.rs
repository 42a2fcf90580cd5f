//! What the facts mean for a recording: pure judgement.

use nix::errno::Errno;

use super::{Attempt, Capability, Facts};

/// What a fact means for a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A recording can be made and will show less.
    Limited,
    /// No recording can be made.
    Refused,
    /// We are not told.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at.
    pub subject: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// What was found, in words.
    pub found: String,
    /// What it is needed for.
    pub purpose: &'static str,
    /// What to type, or else to do, so that it becomes [`Verdict::Ok`]; none where nothing helps or need be done.
    pub fix: Option<String>,
    /// Whether it is a matter of the machine rather than of rights.
    pub is_machine: bool,
}

impl Check {
    fn new(subject: &'static str, purpose: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { subject, verdict, found: found.into(), purpose, fix: None, is_machine: false }
    }

    fn of_machine(mut self) -> Self {
        self.is_machine = true;
        self
    }

    /// Adds what helps, unless all is well.
    fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = (self.verdict != Verdict::Ok).then(|| fix.into());
        self
    }
}

/// The backend that would run: `ebpf`, or `ptrace` when something is refused.
pub fn backend(checks: &[Check]) -> &'static str {
    if checks.iter().any(|check| check.verdict == Verdict::Refused) { "ptrace" } else { "ebpf" }
}

/// Judges everything, what is most fundamental first.
pub fn check_all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![check_kernel(facts), check_btf(facts), check_lockdown(facts), check_build(facts)];
    checks.extend(check_namespaces(facts));
    checks.extend(CAPABILITIES.map(|need| check_capability(facts, need)));
    checks.extend([
        check_bpf(facts),
        check_cpu_clock(facts),
        check_cycles(facts),
        check_kernel_symbols(facts),
        check_yama(facts),
        check_jit(facts),
        check_open_files(facts),
        check_locked_memory(facts),
    ]);
    checks
}

fn when(condition: bool, otherwise: Verdict) -> Verdict {
    if condition { Verdict::Ok } else { otherwise }
}

/// The first kernel with `bpf_loop`, which walks deep stacks.
const OLDEST_KERNEL: (u32, u32) = (5, 17);

fn check_kernel(facts: &Facts) -> Check {
    let verdict = match facts.kernel_version() {
        Some(version) => when(version >= OLDEST_KERNEL, Verdict::Refused),
        None => Verdict::Unknown,
    };
    Check::new("kernel", "5.17 or later, for bpf_loop", verdict, facts.kernel_release.as_str())
        .of_machine()
        .with_fix("boot Linux 5.17 or later")
}

fn check_btf(facts: &Facts) -> Check {
    let found = if facts.has_btf { "/sys/kernel/btf/vmlinux" } else { "no /sys/kernel/btf/vmlinux" };
    Check::new("BTF", "fit the BPF programs to this kernel", when(facts.has_btf, Verdict::Refused), found)
        .of_machine()
        .with_fix("boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' are")
}

fn check_lockdown(facts: &Facts) -> Check {
    let mode = facts.lockdown.as_deref();
    let verdict = when(mode != Some("confidentiality"), Verdict::Refused);
    Check::new("lockdown", "let BPF read memory", verdict, mode.unwrap_or("not present"))
        .of_machine()
        .with_fix("boot with `lockdown=integrity` or `lockdown=none`")
}

fn check_build(facts: &Facts) -> Check {
    let found = if facts.built_with_bpf { "with eBPF" } else { "without eBPF" };
    Check::new("build", "the eBPF backend", when(facts.built_with_bpf, Verdict::Refused), found)
        .of_machine()
        .with_fix("cargo install --path . --features bpf")
}

fn check_namespaces(facts: &Facts) -> [Check; 2] {
    let place = facts.container.map_or_else(String::new, |name| format!(" ({name})"));
    let found = |initial| match initial {
        true => format!("the machine's own{place}"),
        false => format!("not the machine's own{place}"),
    };
    let user = when(facts.initial_user_namespace, Verdict::Refused);
    // The programs in the kernel see the machine's pids; nested ones are not translated.
    let pid = when(facts.initial_pid_namespace, Verdict::Refused);
    [
        Check::new("user namespace", "capabilities that count", user, found(facts.initial_user_namespace))
            .with_fix("run txprof outside of the rootless container or `unshare -U`"),
        Check::new("pid namespace", "see all processes", pid, found(facts.initial_pid_namespace))
            .with_fix("docker run --pid=host …"),
    ]
}

/// A capability, what for, and what its absence means.
type Need = (Capability, &'static str, Verdict);

const CAPABILITIES: [Need; 6] = [
    (Capability::Bpf, "load BPF programs", Verdict::Refused),
    (Capability::Perfmon, "sample all CPUs and read stacks", Verdict::Refused),
    (Capability::SysPtrace, "record processes of other users", Verdict::Limited),
    (Capability::Syslog, "name kernel functions", Verdict::Limited),
    (Capability::DacReadSearch, "read binaries that others may not", Verdict::Limited),
    (Capability::CheckpointRestore, "read binaries deleted since their start", Verdict::Limited),
];

fn check_capability(facts: &Facts, (capability, purpose, otherwise): Need) -> Check {
    let present = facts.capabilities.contains(&capability);
    let found = match (present, facts.has(capability)) {
        (true, _) => "in effect",
        (false, true) => "contained in CAP_SYS_ADMIN",
        (false, false) => "missing",
    };
    // What CAP_SYSLOG is for may be allowed without it.
    let granted = facts.has(capability) || capability == Capability::Syslog && facts.kernel_symbols_visible;
    Check::new(capability.name(), purpose, when(granted, otherwise), found).with_fix(fix_capabilities(facts))
}

/// One command that grants everything that is missing.
fn fix_capabilities(facts: &Facts) -> String {
    let missing = || CAPABILITIES.into_iter().map(|need| need.0).filter(|capability| !facts.has(*capability));
    if facts.container.is_some() {
        let options: Vec<_> =
            missing().map(|capability| capability.name().replacen("CAP_", "--cap-add=", 1)).collect();
        return format!("docker run {} --pid=host …", options.join(" "));
    }
    if facts.effective_uid == 0 {
        return "root was started without it: look for `CapabilityBoundingSet=` or `setpriv` around this shell"
            .to_owned();
    }
    if facts.no_new_privileges {
        return "use another session: `no_new_privs` keeps sudo and setcap from adding rights here"
            .to_owned();
    }
    let names: Vec<_> = CAPABILITIES.iter().map(|need| need.0.name().to_lowercase()).collect();
    format!("sudo setcap {}+ep \"$(command -v txprof)\", or sudo txprof …", names.join(","))
}

/// What to do about a refused system call, `setting` being the sysctl that may be to blame.
fn fix_call(facts: &Facts, capability: Capability, setting: &str) -> String {
    if !facts.has(capability) {
        return fix_capabilities(facts);
    }
    match (facts.seccomp_filter, facts.container) {
        (true, Some(_)) => "allow bpf and perf_event_open in the seccomp profile: \
                            docker run --security-opt seccomp=unconfined …"
            .to_owned(),
        (true, None) => {
            "allow bpf and perf_event_open in the seccomp filter around this: look for `SystemCallFilter=`"
                .to_owned()
        }
        (false, _) => setting.to_owned(),
    }
}

fn describe(attempt: Attempt) -> String {
    match attempt {
        Attempt::Allowed => "allowed".to_owned(),
        Attempt::Refused(errno) => format!("refused: {}", Errno::from_raw(errno).desc()),
    }
}

fn describe_setting(name: &str, value: Option<i64>) -> String {
    value.map_or_else(|| format!("{name} unknown"), |value| format!("{name} = {value}"))
}

fn check_bpf(facts: &Facts) -> Check {
    let setting = describe_setting("unprivileged_bpf_disabled", facts.unprivileged_bpf_disabled);
    let found = format!("{}; {setting}", describe(facts.create_bpf_map));
    let verdict = when(facts.create_bpf_map == Attempt::Allowed, Verdict::Refused);
    Check::new("bpf", "create BPF maps", verdict, found).with_fix(fix_call(
        facts,
        Capability::Bpf,
        "boot a kernel built with CONFIG_BPF_SYSCALL=y, or ask which security module denies bpf",
    ))
}

fn check_cpu_clock(facts: &Facts) -> Check {
    let setting = describe_setting("perf_event_paranoid", facts.perf_event_paranoid);
    let found = format!("{}; {setting}", describe(facts.open_cpu_clock));
    let verdict = when(facts.open_cpu_clock == Attempt::Allowed, Verdict::Refused);
    const SETTING: &str = "sudo sysctl kernel.perf_event_paranoid=2";
    // Debian's and Ubuntu's kernels know levels 3 and 4, which refuse even with CAP_PERFMON.
    let is_forbidden = facts.perf_event_paranoid.is_some_and(|level| level > 2);
    let fix = match is_forbidden && facts.has(Capability::Perfmon) && !facts.has(Capability::SysAdmin) {
        true => SETTING.to_owned(),
        false => fix_call(facts, Capability::Perfmon, SETTING),
    };
    Check::new("perf_event_open", "sample on the CPUs' clocks", verdict, found).with_fix(fix)
}

fn check_cycles(facts: &Facts) -> Check {
    let (verdict, found) = match facts.open_cycles {
        Attempt::Allowed => (Verdict::Ok, "available".to_owned()),
        Attempt::Refused(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP | libc::ENXIO) => {
            (Verdict::Limited, "no hardware counters here; cpu-clock is used".to_owned())
        }
        refused => (Verdict::Unknown, describe(refused)),
    };
    Check::new("cycles", "sample on hardware cycles", verdict, found).of_machine()
}

fn check_kernel_symbols(facts: &Facts) -> Check {
    let visible = if facts.kernel_symbols_visible { "visible" } else { "hidden" };
    let setting = describe_setting("kptr_restrict", facts.kptr_restrict);
    let fix = match facts.has(Capability::Syslog) {
        true => "sudo sysctl kernel.kptr_restrict=1".to_owned(),
        false => fix_capabilities(facts),
    };
    let verdict = when(facts.kernel_symbols_visible, Verdict::Limited);
    Check::new("kernel symbols", "name kernel functions", verdict, format!("{visible}; {setting}"))
        .with_fix(fix)
}

/// Yama restricts reading memory (`process_vm_readv`), not mappings: admin-guide/LSM/Yama.rst.
fn check_yama(facts: &Facts) -> Check {
    const NOBODY: i64 = 3;
    let (verdict, found) = match facts.yama_ptrace_scope {
        None => (Verdict::Ok, "not present".to_owned()),
        Some(scope) => {
            let free = scope == 0 || scope < NOBODY && facts.has(Capability::SysPtrace);
            (when(free, Verdict::Limited), format!("ptrace_scope = {scope}"))
        }
    };
    let fix = match facts.yama_ptrace_scope {
        Some(NOBODY) => "reboot without kernel.yama.ptrace_scope=3, which cannot be lowered",
        _ => "sudo sysctl kernel.yama.ptrace_scope=0",
    };
    Check::new("Yama", "read the memory of targets", verdict, found).with_fix(fix)
}

fn check_jit(facts: &Facts) -> Check {
    let (verdict, found) = match facts.bpf_jit_enable {
        Some(0) => (Verdict::Limited, "off: each sample costs several times as much"),
        Some(_) => (Verdict::Ok, "on"),
        None => (Verdict::Unknown, "root alone may look; on by default"),
    };
    Check::new("BPF JIT", "low overhead", verdict, found).with_fix("sudo sysctl net.core.bpf_jit_enable=1")
}

/// Descriptors beside one event per CPU: programs, maps, binaries being read.
const OTHER_FILES: u64 = 256;

fn check_open_files(facts: &Facts) -> Check {
    let limit = facts.open_files_limit;
    let enough = limit >= facts.cpus.saturating_add(OTHER_FILES) || facts.has(Capability::SysResource);
    Check::new(
        "open files",
        "one event per CPU, and binaries",
        when(enough, Verdict::Limited),
        format!("at most {limit}"),
    )
    .with_fix("sudo prlimit --pid $$ --nofile=65536")
}

/// Since Linux 5.11 BPF memory is counted by control groups, not by this limit.
fn check_locked_memory(facts: &Facts) -> Check {
    let found = match facts.locked_memory_limit_bytes {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        bytes => format!("at most {} KiB; BPF memory does not count since Linux 5.11", bytes / 1024),
    };
    Check::new("locked memory", "not needed", Verdict::Ok, found)
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::able_machine;
    use super::*;

    fn find(facts: &Facts, subject: &str) -> Check {
        check_all(facts).into_iter().find(|check| check.subject == subject).expect("a known subject")
    }

    /// Where nothing is missing every check is well, needs no fix, and eBPF runs.
    #[test]
    fn able_machine_needs_nothing() {
        let checks = check_all(&able_machine());
        assert_eq!(backend(&checks), "ebpf");
        assert!(checks.iter().all(|check| check.verdict == Verdict::Ok && check.fix.is_none()), "{checks:?}");
    }

    /// Whatever is refused or limited says what to do, except for hardware that is not there.
    #[test]
    fn everything_amiss_has_a_fix() {
        let mut facts = Facts {
            kernel_release: "4.19.0".to_owned(),
            built_with_bpf: false,
            has_btf: false,
            effective_uid: 1000,
            initial_user_namespace: false,
            initial_pid_namespace: false,
            lockdown: Some("confidentiality".to_owned()),
            yama_ptrace_scope: Some(2),
            bpf_jit_enable: Some(0),
            kernel_symbols_visible: false,
            open_cpu_clock: Attempt::Refused(libc::EACCES),
            open_cycles: Attempt::Refused(libc::ENOENT),
            create_bpf_map: Attempt::Refused(libc::EPERM),
            open_files_limit: 10,
            ..able_machine()
        };
        facts.capabilities.clear();
        let checks = check_all(&facts);
        assert_eq!(backend(&checks), "ptrace");
        for check in checks.iter().filter(|check| check.verdict != Verdict::Ok) {
            assert!(check.fix.is_some() || check.subject == "cycles", "{check:?}");
        }
        let amiss = checks.iter().filter(|check| check.verdict != Verdict::Ok).count();
        assert_eq!(amiss, checks.len() - 1, "all but locked memory: {checks:?}");
    }

    /// The fix fits the place: sudo for a user, docker in a container, neither under no_new_privs.
    #[test]
    fn fix_fits_the_place() {
        let mut facts = Facts { effective_uid: 1000, ..able_machine() };
        facts.capabilities.clear();
        let fix = |facts: &Facts| find(facts, "CAP_BPF").fix.expect("missing");
        assert!(fix(&facts).starts_with("sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,"));
        facts.no_new_privileges = true;
        assert!(fix(&facts).starts_with("use another session"));
        facts.container = Some("docker");
        assert!(fix(&facts).starts_with("docker run --cap-add=BPF --cap-add=PERFMON "));
    }

    /// CAP_SYS_ADMIN alone stands for what was split from it, but not for reading others' memory.
    #[test]
    fn admin_contains_what_was_split_from_it() {
        let facts = Facts { capabilities: [Capability::SysAdmin].into(), ..able_machine() };
        assert_eq!(find(&facts, "CAP_BPF").verdict, Verdict::Ok);
        assert_eq!(find(&facts, "CAP_PERFMON").verdict, Verdict::Ok);
        assert_eq!(find(&facts, "CAP_SYS_PTRACE").verdict, Verdict::Limited);
        assert_eq!(backend(&check_all(&facts)), "ebpf");
    }

    /// Refused in spite of the capability, the setting is to blame if it is one that does so, else a filter, if there is
    /// any: each service of systemd has one.
    #[test]
    fn refusal_in_spite_of_the_capability_blames_the_setting() {
        let mut facts = Facts {
            open_cpu_clock: Attempt::Refused(libc::EACCES),
            perf_event_paranoid: Some(4),
            capabilities: [Capability::Bpf, Capability::Perfmon].into(),
            ..able_machine()
        };
        let fix = |facts: &Facts| find(facts, "perf_event_open").fix.expect("it is refused");
        assert_eq!(fix(&facts), "sudo sysctl kernel.perf_event_paranoid=2");
        assert_eq!(
            find(&facts, "perf_event_open").found,
            "refused: Permission denied; perf_event_paranoid = 4"
        );
        facts.seccomp_filter = true;
        assert_eq!(fix(&facts), "sudo sysctl kernel.perf_event_paranoid=2");
        facts.perf_event_paranoid = Some(2);
        assert!(fix(&facts).contains("SystemCallFilter="));
        facts.container = Some("docker");
        assert!(fix(&facts).contains("docker run --security-opt seccomp="));
    }
}
