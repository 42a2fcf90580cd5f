//! The executed bytes are found, whatever became of their path: deleted, replaced, never named,
//! in another root; and nothing else is ever opened in their place.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use txprof::ErrorKind;
use txprof::model::{Mapping, MappingKind};
use txprof::target::{candidate, mapped_file, namespace, procfs};

const SLEEP: &str = "/bin/sleep";

/// Copies a binary in a process of its own: had this one ever held it open for writing, a child
/// forked meanwhile by another test would, too, and the copy could not be executed.
fn copy_file(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.is_ok_and(|status| status.success()), "cp works");
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    /// Starts `command` and waits until it executes something called `comm`.
    fn start(command: &mut Command, comm: &str) -> Self {
        let running = Self(command.spawn().expect("the command starts"));
        wait_until(|| {
            std::iter::once(running.pid()).chain(descendants(running.pid())).any(|pid| is_called(pid, comm))
        });
        running
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    procfs::descendants(&[pid]).expect("a readable /proc")
}

fn is_called(pid: u32, comm: &str) -> bool {
    procfs::comm(pid).is_ok_and(|found| found == comm)
}

fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing happened for 10 seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// The executable mapping of the file whose path ends with `name`, which may be on its way:
/// a process has its new name before its new mappings.
fn mapping_of(pid: u32, name: &str) -> Mapping {
    let find = || {
        let mappings = procfs::read_mappings(pid).expect("a living process");
        mappings
            .into_iter()
            .find(|mapping| matches!(&mapping.kind, MappingKind::File { path, .. } if path.ends_with(name)))
    };
    wait_until(|| find().is_some());
    find().expect("it was there just now")
}

fn assert_same_bytes(mut opened: File, original: &Path) {
    let mut bytes = Vec::new();
    opened.read_to_end(&mut bytes).expect("a readable file");
    assert!(bytes == std::fs::read(original).expect("the original"), "other bytes than {original:?}");
}

/// A copy of sleep(1) in a place that every user can reach.
fn copy_of_sleep(directory: &Path, name: &str) -> PathBuf {
    let copy = directory.join(name);
    copy_file(SLEEP, &copy);
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("chmod");
    copy
}

/// A binary with a space and a newline in its name is deleted while it runs; its bytes are read.
#[test]
fn deleted_binary_is_still_read() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let copy = copy_of_sleep(directory.path(), "a b\nc");
    let running = Running::start(Command::new(&copy).arg("60"), "a b\nc");
    std::fs::remove_file(&copy).expect("delete");
    let mapping = mapping_of(running.pid(), "/a b\nc");
    let opened = mapped_file::open_mapped_file(running.pid(), &mapping).expect("by map_files");
    assert_same_bytes(opened, Path::new(SLEEP));
    let path = procfs::executable_path(running.pid()).expect("our child");
    assert_eq!(path, copy);
}

/// A binary is replaced by an upgrade while it runs: the old bytes are read, not the new.
#[test]
fn replaced_binary_gives_the_executed_bytes() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let copy = copy_of_sleep(directory.path(), "service");
    let running = Running::start(Command::new(&copy).arg("60"), "service");
    std::fs::write(directory.path().join("new"), "not the executed bytes").expect("write");
    std::fs::rename(directory.path().join("new"), &copy).expect("upgrade");
    let mapping = mapping_of(running.pid(), "/service");
    let opened = mapped_file::open_mapped_file(running.pid(), &mapping).expect("by map_files");
    assert_same_bytes(opened, Path::new(SLEEP));
}

/// A program executed from memory (memfd) never had a path; its bytes are read.
#[test]
fn program_in_memory_is_read() {
    if !is_root() {
        return;
    }
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut memory = File::from(nix::sys::memfd::memfd_create("from memory", flags).expect("memfd"));
    memory.write_all(&std::fs::read(SLEEP).expect("sleep")).expect("write");
    // A file that is open for writing cannot be executed.
    let read_only = File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).expect("reopen");
    drop(memory);
    let path = format!("/proc/{}/fd/{}", std::process::id(), read_only.as_raw_fd());
    let running = Running::start(Command::new(path).arg("60"), &read_only.as_raw_fd().to_string());
    let mapping = mapping_of(running.pid(), "/memfd:from memory");
    let opened = mapped_file::open_mapped_file(running.pid(), &mapping).expect("by map_files");
    assert_same_bytes(opened, Path::new(SLEEP));
}

/// Started through the dynamic linker, `exe` is the linker; the program is found among the mappings.
#[test]
fn program_started_by_the_linker_is_found() {
    const LINKER: &str = "/lib64/ld-linux-x86-64.so.2";
    if !Path::new(LINKER).exists() {
        eprintln!("SKIPPED: no {LINKER}");
        return;
    }
    let running = Running::start(Command::new(LINKER).args([SLEEP, "60"]), "ld-linux-x86-64");
    let mapping = mapping_of(running.pid(), "bin/sleep");
    let opened = mapped_file::open_mapped_file(running.pid(), &mapping).expect("a file on disk");
    assert_same_bytes(opened, Path::new(SLEEP));
    assert!(candidate::examine(running.pid()).is_ok());
}

/// In a chroot with pid and mount namespaces of its own: pids are translated, its files are
/// found, and neither symbolic links, `..`, devices nor pipes lead anywhere else.
#[test]
fn other_root_and_namespaces_are_seen_through() {
    if !is_root() {
        return;
    }
    let jail = tempfile::tempdir().expect("temporary directory");
    for file in [SLEEP, "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"] {
        let copy = jail.path().join(&file[1..]);
        std::fs::create_dir_all(copy.parent().expect("a directory")).expect("mkdir");
        copy_file(file, copy);
    }
    std::os::unix::fs::symlink("/etc/passwd", jail.path().join("absolute")).expect("symlink");
    std::os::unix::fs::symlink("../../../../../etc/passwd", jail.path().join("relative")).expect("symlink");
    std::os::unix::fs::symlink("/bin/sleep", jail.path().join("inside")).expect("symlink");
    nix::unistd::mkfifo(&jail.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let unshare = Running::start(
        Command::new("unshare")
            .args(["--pid", "--fork", "--mount", "--kill-child", "chroot"])
            .arg(jail.path())
            .args([SLEEP, "60"]),
        "sleep",
    );
    let pid = *descendants(unshare.pid()).first().expect("one child");

    assert_eq!(namespace::innermost_pid(pid).expect("a living process"), 1);
    let root = namespace::Root::of_process(pid).expect("a living process");
    assert_same_bytes(root.open_file(Path::new("/inside")).expect("its file"), Path::new(SLEEP));
    for outside in ["/absolute", "/relative", "/../../../../etc/passwd"] {
        let error = root.open_file(Path::new(outside)).expect_err("not in the jail");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    for other in ["/pipe", "/bin"] {
        let error = root.open_file(Path::new(other)).expect_err("not a regular file");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let mapping = mapping_of(pid, "/bin/sleep");
    assert_same_bytes(mapped_file::open_mapped_file(pid, &mapping).expect("its program"), Path::new(SLEEP));
}

/// Without privileges a mapped file is found by its path, but a deleted or replaced one is
/// not mistaken for what is at that path now.
#[test]
fn ordinary_user_gets_the_mapped_file_or_none() {
    const INSIDE: &str = "TXPROF_TEST_AS_ORDINARY_USER";
    if std::env::var_os(INSIDE).is_none() {
        if is_root() {
            let directory = tempfile::tempdir().expect("temporary directory");
            let copy = directory.path().join("test");
            copy_file(std::env::current_exe().expect("this test"), &copy);
            std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
            let status = Command::new("setpriv")
                .args(["--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
                .arg(&copy)
                .args(["--exact", "ordinary_user_gets_the_mapped_file_or_none", "--nocapture"])
                .env(INSIDE, "1")
                .env("TMPDIR", directory.path())
                .status();
            assert!(status.expect("setpriv").success());
        }
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let copy = copy_of_sleep(directory.path(), "service");
    let running = Running::start(Command::new(&copy).arg("60"), "service");
    let mapping = mapping_of(running.pid(), "/service");
    let opened = mapped_file::open_mapped_file(running.pid(), &mapping).expect("by its path");
    assert_same_bytes(opened, Path::new(SLEEP));
    let new = copy_of_sleep(directory.path(), "new");
    std::fs::rename(new, &copy).expect("upgrade");
    let error = mapped_file::open_mapped_file(running.pid(), &mapping).expect_err("another inode");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("CAP_CHECKPOINT_RESTORE")));
    let parent = nix::unistd::getppid().as_raw() as u32;
    let error = candidate::examine(parent).expect_err("the same test as root");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("belongs to user root, and CAP_SYS_PTRACE is missing"), "{error}");
    let error = txprof::sys::rights::preflight().expect_err("no capability");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("CAP_BPF (missing), CAP_PERFMON (missing)"), "{error}");
    txprof::cli::doctor::run(false).expect("doctor works for every user");
}

/// Five thousand mappings are all read, within some milliseconds (the bound leaves room for a
/// busy machine; the time is printed).
#[test]
fn five_thousand_mappings_are_read_at_once() {
    const PROGRAM: &str = "import mmap, sys, time
file = open('/bin/sleep', 'rb')
maps = [mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC) for _ in range(5000)]
print('ready', flush=True)
time.sleep(60)";
    let mut child = Command::new("python3");
    child.args(["-c", PROGRAM]).stdout(Stdio::piped());
    let mut running = Running(child.spawn().expect("python3"));
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let start = Instant::now();
    let mappings = procfs::read_mappings(running.pid()).expect("our child");
    let elapsed = start.elapsed();
    eprintln!("{} mappings in {elapsed:?}", mappings.len());
    assert!(mappings.len() >= 5000);
    assert!(elapsed < Duration::from_millis(200), "{elapsed:?}");
    assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
}
