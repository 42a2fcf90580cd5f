//! Why a thread may not be stopped, and what to do about it.
//!
//! The kernel answers EPERM whatever the reason is: `ptrace_attach` and `__ptrace_may_access` in `kernel/ptrace.c`,
//! Yama's `yama_ptrace_access_check`, and seccomp filters of containers. Which of its conditions
//! failed is found out from what they depend on, after the refusal; [`StopFacts::explain`] is pure.

use super::facts::{
    Capability, effective_capabilities, find_container, initial_user_namespace, read_setting, read_start,
    status_value,
};
use crate::{Error, ErrorKind};

/// What helps where the capability is one of a user namespace.
pub const OUT_OF_NAMESPACE: &str = "run txprof outside of the rootless container or `unshare -U`";

/// What decides whether a thread may be stopped, and its memory be read. `None` where there is none, or where the kernel does not tell us.
#[derive(Clone, Debug)]
pub struct StopFacts {
    /// The process that traces the thread.
    pub tracer: Option<u32>,
    /// Whose the thread is, if not the user's who we are.
    pub other_owner: Option<u32>,
    /// The user that we are.
    pub uid: u32,
    /// `CAP_SYS_PTRACE` is in effect, in our own user namespace.
    pub has_capability: bool,
    /// Our user namespace is the machine's.
    pub initial_user_namespace: bool,
    /// Neither sudo nor file capabilities can add rights.
    pub no_new_privileges: bool,
    /// A seccomp filter is active.
    pub seccomp_filter: bool,
    /// The kind of container we are in.
    pub container: Option<&'static str>,
    /// `kernel.yama.ptrace_scope`.
    pub yama_ptrace_scope: Option<i64>,
}

impl StopFacts {
    /// Asks the kernel, after thread `tid` could not be stopped. `None`: because it had ended.
    pub fn gather(tid: u32) -> Option<Self> {
        let (status, own) = (read_start(&format!("/proc/{tid}/status")), read_start("/proc/self/status"));
        if has_ended(&status) {
            return None;
        }
        let uid = nix::unistd::getuid().as_raw();
        let tracer = status_value(&status, "TracerPid:").and_then(|pid| pid.parse().ok());
        Some(Self {
            tracer: tracer.filter(|tracer| *tracer != 0),
            other_owner: other_owner(&status, uid),
            uid,
            has_capability: effective_capabilities().contains(&Capability::SysPtrace),
            initial_user_namespace: initial_user_namespace(),
            no_new_privileges: status_value(&own, "NoNewPrivs:") == Some("1"),
            seccomp_filter: status_value(&own, "Seccomp:") == Some("2"),
            container: find_container(),
            yama_ptrace_scope: read_setting("kernel/yama/ptrace_scope"),
        })
    }

    /// Says why thread `tid` may not be stopped. The hint is what helps in that very case.
    pub fn explain(&self, tid: u32) -> Error {
        /// Nobody at all may trace: admin-guide/LSM/Yama.rst.
        const NOBODY: i64 = 3;
        let refused = |why: String| {
            Error::new(ErrorKind::PermissionDenied, format!("failed to stop thread {tid}: {why}"))
        };
        if let Some(tracer) = self.tracer {
            let message = format!("process {tracer} traces thread {tid} already");
            return Error::new(ErrorKind::PermissionDenied, message).with_hint(
                "end the debugger or strace that is attached; `txprof record --backend ebpf` needs no stop",
            );
        }
        match self.yama_ptrace_scope {
            Some(NOBODY) => {
                let why = "Yama's ptrace_scope = 3 lets nobody trace";
                return refused(why.to_owned()).with_hint(
                    "reboot without kernel.yama.ptrace_scope=3, which cannot be lowered; \
                     `txprof record --backend ebpf` needs no stop",
                );
            }
            _ if self.has_capability => return self.explain_in_spite_of_capability(refused),
            _ => {}
        }
        match (self.other_owner, self.yama_ptrace_scope) {
            (Some(owner), _) => {
                let why =
                    format!("it belongs to user {owner}, this is user {} without CAP_SYS_PTRACE", self.uid);
                refused(why).with_hint(self.ways_to_capability())
            }
            (None, Some(scope @ 1..)) => {
                let whom = if scope == 1 { "children only" } else { "nothing without CAP_SYS_PTRACE" };
                refused(format!("Yama's ptrace_scope = {scope} lets users trace {whom}")).with_hint(format!(
                    "sudo sysctl kernel.yama.ptrace_scope=0, or {}",
                    self.ways_to_capability()
                ))
            }
            (None, _) if self.seccomp_filter => self.blame_filter(refused),
            (None, _) => {
                refused("its program has rights of its own (set-user-ID or capabilities)".to_owned())
                    .with_hint(self.ways_to_capability())
            }
        }
    }

    fn explain_in_spite_of_capability(&self, refused: impl Fn(String) -> Error) -> Error {
        if !self.initial_user_namespace {
            let why = "CAP_SYS_PTRACE of a user namespace does not reach out of it";
            return refused(why.to_owned()).with_hint(OUT_OF_NAMESPACE);
        }
        if self.seccomp_filter {
            return self.blame_filter(refused);
        }
        refused("a security module forbids it, in spite of CAP_SYS_PTRACE".to_owned()).with_hint(
            match self.container {
                Some(_) => "docker run --security-opt apparmor=unconfined …",
                None => "look for what denied ptrace in `journalctl -k` or /var/log/audit",
            },
        )
    }

    fn blame_filter(&self, refused: impl Fn(String) -> Error) -> Error {
        refused("a seccomp filter is active here, which may deny ptrace".to_owned()).with_hint(
            match self.container {
                Some(_) => "docker run --cap-add=SYS_PTRACE --security-opt seccomp=unconfined …",
                None => "run txprof outside of the sandbox that this shell was started in",
            },
        )
    }

    /// How this user comes by `CAP_SYS_PTRACE`.
    pub fn ways_to_capability(&self) -> &'static str {
        if self.container.is_some() {
            "docker run --cap-add=SYS_PTRACE …"
        } else if self.uid == 0 {
            "start root with CAP_SYS_PTRACE: look for `CapabilityBoundingSet=` or `setpriv` around this shell"
        } else if self.no_new_privileges {
            "use another session: `no_new_privs` keeps sudo from adding rights here"
        } else {
            "sudo txprof …"
        }
    }
}

/// Whether the thread is gone, or a zombie, which may not be traced either.
fn has_ended(status: &str) -> bool {
    status_value(status, "State:").is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// The first of a thread's user ids (real, effective, saved) that is not `uid`: all must be.
fn other_owner(status: &str, uid: u32) -> Option<u32> {
    let ids = status_value(status, "Uid:")?.split_whitespace().take(3);
    ids.filter_map(|id| id.parse().ok()).find(|id| *id != uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary user's own process on a machine without Yama.
    fn own_process() -> StopFacts {
        StopFacts {
            tracer: None,
            other_owner: None,
            uid: 1000,
            has_capability: false,
            initial_user_namespace: true,
            no_new_privileges: false,
            seccomp_filter: false,
            container: None,
            yama_ptrace_scope: None,
        }
    }

    fn told(facts: &StopFacts) -> (String, String) {
        let error = facts.explain(41);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        (error.to_string(), error.hint().expect("each has a hint").to_owned())
    }

    /// Under Yama: the sysctl where it helps, root where that helps too, a reboot where nothing else does.
    #[test]
    fn yama_is_named_with_what_helps_against_it() {
        let of = |scope, has_capability| {
            told(&StopFacts { yama_ptrace_scope: Some(scope), has_capability, ..own_process() })
        };
        let (why, hint) = of(1, false);
        assert_eq!(why, "failed to stop thread 41: Yama's ptrace_scope = 1 lets users trace children only");
        assert_eq!(hint, "sudo sysctl kernel.yama.ptrace_scope=0, or sudo txprof …");
        let (why, hint) = of(2, false);
        assert!(
            why.ends_with("Yama's ptrace_scope = 2 lets users trace nothing without CAP_SYS_PTRACE"),
            "{why}"
        );
        assert_eq!(hint, "sudo sysctl kernel.yama.ptrace_scope=0, or sudo txprof …");
        for has_capability in [false, true] {
            let (why, hint) = of(3, has_capability);
            assert!(why.ends_with("Yama's ptrace_scope = 3 lets nobody trace"), "{why}");
            assert!(hint.starts_with("reboot ") && hint.contains("--backend ebpf"), "{hint}");
        }
        // Not to blame where it lets pass.
        assert!(!of(0, false).0.contains("Yama") && !of(2, true).0.contains("Yama"));
        let facts = StopFacts { yama_ptrace_scope: Some(1), container: Some("docker"), ..own_process() };
        assert!(told(&facts).1.ends_with("or docker run --cap-add=SYS_PTRACE …"));
    }

    /// Somebody else's process: who owns it, who we are, and how this user comes by the right.
    #[test]
    fn other_owners_are_named() {
        let facts = StopFacts { other_owner: Some(33), yama_ptrace_scope: Some(1), ..own_process() };
        let (why, hint) = told(&facts);
        assert!(why.ends_with("it belongs to user 33, this is user 1000 without CAP_SYS_PTRACE"), "{why}");
        assert_eq!(hint, "sudo txprof …");
        let hint = |facts| told(&facts).1;
        assert!(
            hint(StopFacts { no_new_privileges: true, ..facts.clone() }).starts_with("use another session")
        );
        assert!(hint(StopFacts { uid: 0, ..facts.clone() }).starts_with("start root with CAP_SYS_PTRACE"));
        let contained = StopFacts { container: Some("docker"), uid: 0, ..facts };
        assert_eq!(hint(contained), "docker run --cap-add=SYS_PTRACE …");
    }

    /// A tracer is the reason, whatever else is amiss.
    #[test]
    fn tracers_are_named() {
        let (why, hint) = told(&StopFacts { tracer: Some(7), yama_ptrace_scope: Some(3), ..own_process() });
        assert_eq!(why, "process 7 traces thread 41 already");
        assert!(hint.starts_with("end the debugger") && hint.contains("--backend ebpf"), "{hint}");
    }

    /// Where the capability is there and does not help, and where the user's own process is refused.
    #[test]
    fn filters_namespaces_and_modules_are_told_apart() {
        let able = StopFacts { uid: 0, has_capability: true, ..own_process() };
        let (why, hint) = told(&StopFacts { initial_user_namespace: false, ..able.clone() });
        assert!(
            why.contains("user namespace") && hint.contains("outside of the rootless container"),
            "{why}"
        );
        let filtered = StopFacts { seccomp_filter: true, container: Some("docker"), ..able.clone() };
        let (why, hint) = told(&filtered);
        assert!(why.contains("seccomp") && hint.contains("seccomp=unconfined"), "{why} {hint}");
        let (why, hint) = told(&StopFacts { container: Some("docker"), ..able });
        assert!(why.contains("security module") && hint.contains("apparmor=unconfined"), "{why} {hint}");
        assert!(told(&StopFacts { seccomp_filter: true, ..own_process() }).0.contains("seccomp"));
        let (why, hint) = told(&own_process());
        assert!(why.contains("rights of its own") && hint == "sudo txprof …", "{why} {hint}");
    }

    /// All of the three user ids count; a zombie has ended.
    #[test]
    fn owners_and_ends_are_read_from_the_status() {
        assert!(has_ended("") && has_ended("State:\tZ (zombie)\n") && !has_ended("State:\tS (sleeping)\n"));
        assert_eq!(other_owner("Name:\tx\nUid:\t1000\t1000\t1000\t0\n", 1000), None);
        assert_eq!(other_owner("Uid:\t1000\t0\t0\t0\n", 1000), Some(0));
        assert_eq!(other_owner("", 1000), None);
    }
}
