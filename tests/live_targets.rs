//! Claim: whatever way a process is named, started or hidden, its samples are
//! caught, and those of other processes are not.

mod support;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use support::{
    History, TIMES, Target, built, built_library, completeness, processes, program, record, record_burning,
    record_burning_json, record_json, scratch, stolen_ns, turn, weight_ns,
};

/// The target's leaves have their true shares, to two points, and its CPU time is seen to a twentieth (three seconds
/// of it), both against its account of the very seconds of the recording. Time that the host stole is in no
/// account, but a tick that was due in it comes late: it may be seen.
fn assert_seen(name: &str, target: &Target, arguments: &[&str]) -> Value {
    let (history, stolen_before) = (History::of(target), stolen_ns());
    let profile = record_burning_json(&[target], Duration::from_secs(3), arguments);
    let stolen = stolen_ns() - stolen_before;
    let burnt = history.burnt_ns(&profile);
    let (seen, all) = (weight_ns(&profile, ""), burnt[..TIMES].iter().sum::<f64>());
    let account = format!("{:?}; {stolen} ns were stolen", completeness(&profile));
    assert!(
        seen >= all * 0.95 && seen <= all * 1.05 + stolen,
        "{name}: saw {seen} ns of {all} ns; {account}"
    );
    for (leaf, slot) in program(name).leaves {
        let (share, expected) = (weight_ns(&profile, leaf) / seen, burnt[*slot] / all);
        println!("{leaf}: {share:.3}, should be {expected:.3}");
        assert!((share - expected).abs() <= 0.02, "{leaf}: {share:.3}, should be {expected:.3}; {account}");
    }
    profile
}

/// A copy of the program that a test may delete or replace.
fn copy(name: &str, directory: &Path) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::copy(built(name), &path).expect("scratch directories are writable");
    path
}

/// `--name` finds a process by its name, and no other one.
#[test]
fn name_selects_processes() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-fp", &[]);
    let _other = Target::start("split-o2", &[]);
    let profile = assert_seen("split-fp", &target, &["--name", "split-fp"]);
    assert_eq!(Vec::from_iter(processes(&profile)), ["split-fp"]);
}

/// `-p` is repeatable; each process is a root of its own.
#[test]
fn several_pids_are_several_roots() {
    let Some(_turn) = turn() else { return };
    let (one, other) = (Target::start("split-o2", &[]), Target::start("split-o0", &[]));
    let shot =
        record_burning(&[&one, &other], Duration::from_secs(2), &["-p", &one.pid(), "-p", &other.pid()]);
    for name in ["split-o2", "split-o0"] {
        assert!(shot.folded.of_process(name).total() > 500, "{}", shot.folded.heaviest(5));
    }
}

/// `--cgroup` takes all processes of a control group.
#[test]
fn cgroup_selects_its_processes() {
    let Some(_turn) = turn() else { return };
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let Some(root) = roots.iter().find(|root| Path::new(root).join("cgroup.controllers").exists()) else {
        support::skip::<()>("needs a cgroup v2 hierarchy");
        return;
    };
    let group = format!("{root}/txprof-test-{}", std::process::id());
    std::fs::create_dir(&group).expect("root may create control groups");
    let target = Target::start("split-o2", &[]);
    std::fs::write(format!("{group}/cgroup.procs"), target.pid()).expect("root may move processes");
    let _outside = Target::start("split-o0", &[]);
    let result = std::panic::catch_unwind(|| {
        let profile = assert_seen("split-o2", &target, &["--cgroup", &group]);
        assert_eq!(Vec::from_iter(processes(&profile)), ["split-o2"]);
    });
    drop(target);
    std::fs::remove_dir(&group).expect("the group is empty again");
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// A command is held until sampling is on: a program of a second is seen whole, and its end ends the recording.
/// Beyond its account are its start and the reading of clocks, a few milliseconds, and what the host stole.
#[test]
fn command_is_seen_from_its_first_instruction() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let account = directory.path().join("account");
    let command = built("split-o2");
    let line = format!("ORACLE={} exec timeout 1 {}", account.display(), command.display());
    let (began, stolen_before) = (std::time::Instant::now(), stolen_ns());
    let shot = record(&["-F", "999", "--", "sh", "-c", &line]);
    assert!(began.elapsed().as_secs() < 10);
    let stolen_ms = (stolen_ns() - stolen_before) / 1e6;
    let split = shot.folded.of_process("split-o2");
    let burnt_ms = support::read_account(&account)[..3].iter().sum::<u64>() as f64 / 1e6;
    let seen_ms = split.total() as f64 * 1000.0 / 999.0;
    let expected = burnt_ms * 0.95..burnt_ms * 1.1 + stolen_ms;
    assert!(expected.contains(&seen_ms), "{seen_ms} ms, not in {expected:?}\n{}", shot.stderr);
}

/// A command ends when its recording does, which says so: by SIGTERM, or by SIGKILL two seconds later where that is
/// ignored.
#[test]
fn command_ends_with_its_duration() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let file = directory.path().join("pid");
    for (trap, seconds, note) in [
        ("exit 3", 1..4, "note: the command was ended by SIGTERM, as its time was over\n"),
        (
            "",
            3..7,
            "note: the command was killed: it went on for 2.0 s after SIGTERM, as its time was over\n",
        ),
    ] {
        let line = format!("trap '{trap}' TERM; echo $$ > '{}'; while :; do :; done", file.display());
        let began = Instant::now();
        let shot = record(&["-d", "1", "--", "sh", "-c", &line]);
        assert!(seconds.contains(&began.elapsed().as_secs()), "{:?}\n{}", began.elapsed(), shot.stderr);
        assert!(shot.stderr.ends_with(note) && shot.stderr.matches("note: ").count() == 1, "{}", shot.stderr);
        assert!(shot.folded.total() > 30, "{}", shot.folded.heaviest(5));
        let pid = std::fs::read_to_string(&file).expect("it began");
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "{pid} goes on");
    }
}

/// Ctrl-C, which a terminal sends to the group, reaches the command as well; what it does then is its own matter.
#[test]
fn interrupt_reaches_the_command() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let file = directory.path().join("interrupted");
    // It ends by itself, some ten seconds later. Who ignores the signal cannot trap it: jobs in the background do.
    let line = format!(
        "trap 'touch {}; exit 0' INT; echo ready; i=0; while [ $i -lt 9000000 ]; do i=$((i + 1)); done",
        file.display()
    );
    let mut child = Command::new("env")
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_txprof"), "record", "-d", "60", "-o"])
        .arg(directory.path().join("out.folded"))
        .args(["--", "sh", "-c", &line])
        .env("TXPROF_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("txprof runs");
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("the command begins");
    std::thread::sleep(Duration::from_millis(500));
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("both live");
    let output = child.wait_with_output().expect("it was started here");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !words.contains("note: "), "{words}");
    support::wait_for("the command to be interrupted", || file.exists());
}

/// The command's own output stays apart from ours, and its failure is told.
#[test]
fn command_that_does_not_exist_is_an_error() {
    let Some(_turn) = turn() else { return };
    let run = support::txprof(&["record", "--", "/no/such/program"]);
    assert_ne!(run.code, 0);
    assert!(run.stderr.contains("/no/such/program") && run.stderr.contains("hint:"), "{}", run.stderr);
}

/// Children born while recording, with and without exec, are part of the target.
#[test]
fn children_are_followed_through_fork_and_exec() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("children", &[]);
    let profile = assert_seen("children", &target, &["-p", &target.pid()]);
    let (complete, reasons) = completeness(&profile);
    assert!(complete > 0.97, "{complete} {reasons:?}");
}

/// Children born while txprof chooses its targets, loads its programs and attaches are followed as well:
/// of a hundred children, born one every 5 ms around that time, each is seen.
#[test]
fn children_born_while_attaching_are_followed() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("births", &["100"]);
    let profile = record_json(&["-F", "999", "-d", "20", "-p", &target.pid(), "--per-thread"]);
    let born = target.account()[1];
    assert_eq!(born, 100, "the recording ended before its target did");
    let roots = profile["roots"].as_array().expect("JSON form has roots");
    let mut pids: Vec<_> = roots.iter().map(|root| root["thread"]["pid"].to_string()).collect();
    pids.retain(|pid| *pid != target.pid());
    pids.sort_unstable();
    assert_eq!(pids.len(), 100, "{pids:?}");
}

/// Threads are summed by default and told apart by `--per-thread`, under their names.
#[test]
fn threads_are_told_apart_by_name() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("threads", &["20"]);
    let before = target.account();
    let shot = record_burning(&[&target], Duration::from_secs(4), &["-p", &target.pid(), "--per-thread"]);
    let truth = target.since(&before);
    let burnt: u64 = truth[..3].iter().sum();
    for (slot, name) in ["alpha", "beta", "gamma"].iter().enumerate() {
        let seen = shot.folded.share(|line| line.frames.iter().take(2).any(|frame| frame.contains(name)));
        let expected = truth[slot] as f64 / burnt as f64;
        assert!((seen - expected).abs() < 0.03, "{name} {seen} {expected}\n{}", shot.folded.heaviest(5));
    }
}

/// Two libraries that take turns at one address are never taken for each other.
#[test]
fn libraries_swapped_at_one_address_keep_their_names() {
    let Some(_turn) = turn() else { return };
    let paths = [built_library("leaf_a"), built_library("leaf_b")];
    let mut command = Command::new(built("dl_swap"));
    command.args(&paths);
    let target = Target::start_burning(command);
    support::wait_for("both libraries to be used", || target.account()[1] > 0);
    let account = target.account();
    assert_eq!(account[4], account[5], "the libraries are meant to share an address");

    // A turn takes up to 0.3 s, so only the account of the very seconds of the recording tells the truth.
    let history = History::of(&target);
    let profile = record_json(&["-F", "999", "-d", "6", "-p", &target.pid()]);
    let burnt = history.burnt_ns(&profile);
    for (slot, leaf) in ["leaf_a", "leaf_b"].iter().enumerate() {
        let seen = weight_ns(&profile, leaf) / weight_ns(&profile, "");
        let expected = burnt[slot] / (burnt[0] + burnt[1]);
        assert!((seen - expected).abs() <= 0.02, "{leaf}: {seen:.3}, should be {expected:.3}");
    }
    let shot = record_burning(&[&target], Duration::from_secs(3), &["-p", &target.pid()]);
    assert!(shot.folded.complete_share() > 0.97, "{:?}", shot.folded.reasons());
}

/// A binary deleted under its process is read through `map_files`.
#[test]
fn deleted_binary_keeps_its_names() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let path = copy("split-o2", directory.path());
    let target = Target::start_burning(Command::new(&path));
    std::fs::remove_file(&path).expect("own files can be removed");
    assert_seen("split-o2", &target, &["-p", &target.pid()]);
}

/// A binary replaced by another one is still shown as what runs, not as what lies there now.
#[test]
fn upgraded_binary_shows_what_runs() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let path = copy("split-o2", directory.path());
    let target = Target::start_burning(Command::new(&path));
    let newer = directory.path().join("newer");
    std::fs::copy(built("signals"), &newer).expect("scratch directories are writable");
    std::fs::rename(&newer, &path).expect("renaming works");
    assert_seen("split-o2", &target, &["-p", &target.pid()]);
}

/// A program that exists only in memory.
#[test]
fn memfd_program_has_names() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new(built("memfd_exec"));
    command.arg(built("split-o2"));
    let target = Target::start_burning(command);
    assert_seen("split-o2", &target, &["-p", &target.pid()]);
}

/// A program started by naming the dynamic linker.
#[test]
fn program_run_through_the_dynamic_linker_has_names() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("/lib64/ld-linux-x86-64.so.2");
    command.arg(built("split-o2"));
    let target = Target::start_burning(command);
    assert_seen("split-o2", &target, &["-p", &target.pid()]);
}

/// A chroot in mount and pid namespaces of its own; the perf map is found inside, under the inner pid.
#[test]
fn other_namespaces_are_seen_through() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    std::fs::create_dir(directory.path().join("tmp")).expect("scratch directories are writable");
    std::fs::write(directory.path().join("account"), [0; 128]).expect("scratch directories are writable");
    copy("jit-static", directory.path());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--root"])
        .arg(directory.path())
        .arg("/jit-static");
    let target = Target::start_command(with_account(command, "/account"));
    let map = directory.path().join("tmp/perf-1.map");
    support::wait_for("the perf map inside the chroot", || map.exists());
    support::wait_for("the late function", || {
        std::fs::read_to_string(&map).is_ok_and(|text| text.contains("jit_late"))
    });
    let shot = record(&["-F", "999", "-d", "2", "-p", &target.child_pid()]);
    for (leaf, least) in [("jit_inner", 0.30), ("jit_late", 0.30), ("compiled_leaf", 0.20)] {
        let seen = shot.folded.share(|line| line.has(leaf));
        assert!(seen > least, "{leaf} {seen}\n{}\n{}", shot.stderr, shot.folded.heaviest(5));
    }
    let generated = shot.folded.filtered(|line| line.has("jit_inner"));
    let chained =
        generated.share(|line| line.reads(&["main", "run_generated", "jit_outer_[j]", "jit_inner_[j]"]));
    assert!(chained > 0.99, "{chained}\n{}", shot.folded.heaviest(5));
}

/// Runs the command with its account at a path as the command itself sees it.
fn with_account(command: Command, account: &str) -> Command {
    let mut shell = Command::new("env");
    // Overrides the path that `Target` sets, which does not exist inside.
    shell.arg(format!("ORACLE={account}")).arg(command.get_program()).args(command.get_args());
    shell
}
