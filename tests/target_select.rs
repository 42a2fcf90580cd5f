//! What the user names becomes processes, or a precise reason and what to do instead.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use txprof::target::procfs;
use txprof::target::select::{Selector, Wish};
use txprof::{Error, ErrorKind};

/// Copies a binary in a process of its own: had this one ever held it open for writing, a child
/// forked meanwhile by another test would, too, and the copy could not be executed.
fn copy_file(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.is_ok_and(|status| status.success()), "cp works");
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("the command starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for pid in procfs::descendants(&[self.pid()]).unwrap_or_default() {
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing happened for 10 seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn by_pid(pid: u32) -> Result<Selector, Error> {
    Selector::new(&Wish { pids: vec![pid], ..Wish::default() })
}

fn refusal(pid: u32) -> Error {
    by_pid(pid).expect_err("it cannot be recorded")
}

/// A pid beyond the kernel's largest is not found, and the hint tells how to find pids.
#[test]
fn missing_process_is_not_found() {
    for pid in [4_194_305, 0, u32::MAX] {
        let error = refusal(pid);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("cannot record {pid}: no process {pid}"));
        assert!(error.hint().is_some_and(|hint| hint.contains("pgrep -a")));
    }
}

/// kthreadd, pid 2, is refused as what it is.
#[test]
fn kernel_thread_is_refused() {
    if !procfs::comm(2).is_ok_and(|comm| comm == "kthreadd") {
        eprintln!("SKIPPED: pid 2 is not kthreadd, as in a pid namespace");
        return;
    }
    let error = refusal(2);
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
    assert!(error.to_string().contains("2 (kthreadd) is a kernel thread"), "{error}");
}

/// A child that has ended unwaited for is refused, and the error names its parent: us.
#[test]
fn zombie_names_its_parent() {
    let zombie = Running::start(&mut Command::new("true"));
    wait_until(|| procfs::read_stat(zombie.pid()).is_ok_and(|stat| stat.has_ended()));
    let error = refusal(zombie.pid());
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
    assert!(error.to_string().contains(&format!("until its parent {}", std::process::id())), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains(&format!("-p {}", std::process::id()))));
}

/// txprof does not record itself, neither by pid nor by the id of one of its threads.
#[test]
fn own_process_is_refused() {
    let own = procfs::thread_ids(std::process::id()).expect("our threads");
    for tid in own {
        assert_eq!(refusal(tid).kind(), ErrorKind::InvalidInput);
    }
}

/// A 32-bit program, built without any library, is refused as such.
#[test]
fn program_of_32_bits_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = directory.path().join("pause.c");
    let program = directory.path().join("pause32");
    // System call 29 of the 32-bit table is pause.
    let code = "void _start(void) { for (;;) __asm__ volatile(\"int $0x80\" : : \"a\"(29)); }";
    std::fs::write(&source, code).expect("write");
    let compiler = Command::new("gcc")
        .args(["-m32", "-nostdlib", "-static", "-no-pie", "-o"])
        .args([&program, &source])
        .output();
    if !compiler.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: gcc cannot build 32-bit programs here");
        return;
    }
    let Ok(child) = Command::new(&program).spawn() else {
        eprintln!("SKIPPED: the kernel does not run 32-bit programs");
        return;
    };
    let running = Running(child);
    let error = refusal(running.pid());
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
    assert!(error.to_string().contains("(pause32) is a 32-bit program"), "{error}");
}

/// The id of a thread stands for its process, and a note says so.
#[test]
fn thread_stands_for_its_process() {
    let program = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()";
    let running = Running::start(Command::new("python3").args(["-c", program]));
    let threads = || procfs::thread_ids(running.pid()).expect("our child");
    wait_until(|| threads().len() == 2);
    let selector = by_pid(threads()[1]).expect("a thread of our child");
    let selection = selector.find().expect("our child");
    assert_eq!(selection.targets.iter().map(|target| target.pid).collect::<Vec<_>>(), [running.pid()]);
    assert!(selection.notes[0].contains("is a thread of process"), "{:?}", selection.notes);
    assert!(selector.matches(running.pid()));
    assert!(!selector.matches(std::process::id()));
}

/// A name longer than a `comm` is found by the executable, one started later matches, and a
/// slip is answered by the name that was probably meant.
#[test]
fn name_is_found_and_slips_are_understood() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = directory.path().join("quite-long-sleeper-name");
    copy_file("/bin/sleep", &program);
    let wish = |name: &str| Wish { names: vec![name.to_owned()], ..Wish::default() };
    let running = Running::start(Command::new(&program).arg("60"));
    wait_until(|| procfs::comm(running.pid()).is_ok_and(|comm| comm == "quite-long-slee"));
    let selector = Selector::new(&wish("quite-long-sleeper-name")).expect("a name");
    let selection = selector.find().expect("our child");
    assert_eq!(selection.targets.iter().map(|target| target.pid).collect::<Vec<_>>(), [running.pid()]);

    let later = Running::start(Command::new(&program).arg("60"));
    wait_until(|| selector.matches(later.pid()));
    assert!(!selector.matches(1));

    let missing = Selector::new(&wish("quite-lang-slee")).expect("a name").find().expect_err("a slip");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.hint(), Some("did you mean `quite-long-slee`?"));
}

/// Children of children are selected unless that was not wished for.
#[test]
fn children_are_selected_if_wished_for() {
    let script = "sh -c 'sleep 60; :' & sleep 60; :";
    let running = Running::start(Command::new("sh").args(["-c", script]));
    let select = |with_children| {
        let wish = Wish { pids: vec![running.pid()], with_children, ..Wish::default() };
        let selection = Selector::new(&wish).and_then(|selector| selector.find()).expect("our child");
        selection.targets.len()
    };
    wait_until(|| select(true) == 4);
    assert_eq!(select(false), 1);
}

/// A process in a group below the named one is selected, whether the group is named by its
/// directory or as the process's own `cgroup` file shows it, in either version that is here.
#[test]
fn control_group_selects_its_processes() {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"].map(PathBuf::from);
    let mut tried = 0;
    for root in roots.iter().filter(|root| root.join("cgroup.procs").exists()) {
        let outer = format!("txprof-test-{}", std::process::id());
        let group = root.join(&outer);
        if std::fs::create_dir_all(group.join("inner")).is_err() {
            continue;
        }
        tried += 1;
        check_control_group(&group, &outer);
        let _ = std::fs::remove_dir(group.join("inner"));
        let _ = std::fs::remove_dir(&group);
    }
    if tried == 0 {
        eprintln!("SKIPPED: no control group can be created here");
    }
}

fn check_control_group(group: &Path, name: &str) {
    let running = Running::start(Command::new("sleep").arg("60"));
    let empty = Wish { cgroups: vec![group.to_owned()], ..Wish::default() };
    let error = Selector::new(&empty).expect("an existing group").find().expect_err("an empty group");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    std::fs::write(group.join("inner/cgroup.procs"), running.pid().to_string()).expect("moved");
    for named in [group.to_owned(), PathBuf::from(name), PathBuf::from(format!("/{name}/inner"))] {
        let selector = Selector::new(&Wish { cgroups: vec![named.clone()], ..Wish::default() });
        let selector = selector.unwrap_or_else(|error| panic!("{named:?}: {error}"));
        let selection = selector.find().unwrap_or_else(|error| panic!("{named:?}: {error}"));
        assert_eq!(selection.targets.iter().map(|target| target.pid).collect::<Vec<_>>(), [running.pid()]);
        assert!(selector.matches(running.pid()) && !selector.matches(1));
    }
}

/// Nothing named, an empty name and an unknown control group are refused at once.
#[test]
fn senseless_wishes_are_refused() {
    let error = Selector::new(&Wish::default()).expect_err("nothing");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = Selector::new(&Wish { names: vec![String::new()], ..Wish::default() }).expect_err("empty");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let wish = Wish { cgroups: vec!["/no/such/group".into()], ..Wish::default() };
    assert_eq!(Selector::new(&wish).expect_err("unknown").kind(), ErrorKind::NotFound);
}
