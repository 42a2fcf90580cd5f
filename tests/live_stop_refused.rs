//! Claim: where a thread may not be stopped, txprof says which of the many reasons it is, and what helps against it,
//! before anything is recorded.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use support::{Target, has, scratch, shell, turn, wait_for};

const NOBODY: &[&str] = &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// Runs what follows under a filter that answers ptrace, system call 101, with EPERM, as a container's does.
const FILTER: &str = r#"
import ctypes, os, struct, sys
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 101), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(code)))) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"#;

fn sleeper(prefix: &[&str]) -> Target {
    let line = format!("exec {} sleep 300", prefix.join(" "));
    let target = Target::start_command(shell(&line));
    wait_for("the sleeper to run", || {
        std::fs::read_to_string(format!("/proc/{}/comm", target.pid())).is_ok_and(|comm| comm == "sleep\n")
    });
    target
}

/// Both commands that would stop `target`, under `prefix`, end with these words of the error and of the hint.
fn assert_refused(prefix: &[&str], target: &Target, why: &str, hint: &str) {
    let directory = scratch();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("it is ours");
    let txprof = directory.path().join("txprof");
    std::fs::copy(env!("CARGO_BIN_EXE_txprof"), &txprof).expect("scratch is writable");
    for arguments in [&["dump"][..], &["record", "--backend", "ptrace", "-d", "1s", "-o", "out.svg"]] {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).args(prefix).arg(&txprof).args(arguments);
        command.args(["-p", &target.pid()]).current_dir(directory.path()).stdin(Stdio::null());
        let output = command.env("HOME", directory.path()).output().expect("coreutils' timeout runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{prefix:?} {arguments:?}: {stderr}");
        let told = |start: &str| stderr.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        assert!(told("error: ").contains(why), "{prefix:?} {arguments:?}: {stderr}");
        assert!(told("hint: ").contains(hint), "{prefix:?} {arguments:?}: {stderr}");
        assert!(output.stdout.is_empty() && !directory.path().join("out.svg").exists(), "{arguments:?}");
    }
}

/// Root's process, of which `nobody` may not even read the mappings; with sudo barred, that is said as well.
#[test]
fn other_users_are_named() {
    let Some(_turn) = turn() else { return };
    if !has("setpriv") {
        return;
    }
    let target = sleeper(&[]);
    let why = "belongs to user root, and CAP_SYS_PTRACE is missing";
    assert_refused(NOBODY, &target, why, "sudo txprof");
    assert_refused(&[NOBODY, &["--no-new-privs"]].concat(), &target, why, "use another session");
}

/// Root without the capability, as in a container, and somebody else's process.
#[test]
fn root_without_the_capability_is_told() {
    let Some(_turn) = turn() else { return };
    if !has("setpriv") {
        return;
    }
    let target = sleeper(NOBODY);
    let prefix = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"];
    let why = "it belongs to user 65534, this is user 0 without CAP_SYS_PTRACE";
    assert_refused(&prefix, &target, why, "start root with CAP_SYS_PTRACE");
}

/// Root of a user namespace, as in a rootless container, has the capability, and not for what is outside.
#[test]
fn user_namespaces_are_named() {
    let Some(_turn) = turn() else { return };
    if !has("unshare") {
        return;
    }
    let why = "CAP_SYS_PTRACE of a user namespace does not reach out of it";
    assert_refused(&["unshare", "-U", "-r"], &sleeper(&[]), why, "outside of the rootless container");
}

/// A seccomp filter that denies ptrace.
#[test]
fn filters_are_named() {
    let Some(_turn) = turn() else { return };
    if !has("/usr/bin/python3") {
        return;
    }
    let prefix = ["/usr/bin/python3", "-c", FILTER];
    assert_refused(&prefix, &sleeper(&[]), "a seccomp filter is active here", "outside of the sandbox");
}
