//! Claim: the agent is a good daemon. It waits for its targets and follows them, says when it is ready, changes its
//! policies while it runs, outlives a full disk, and ends in good order, by itself when nothing is left to watch.
//!
//! The target is the application of `scripts/try-requests`, under a name of its own.

#![cfg(feature = "bpf")]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Run, Target, command, has, scratch, skip, turn, txprof, wait_for};
use txprof::target::procfs;

/// An agent with a store, a socket and words of its own; ended with its guard.
struct Agent {
    child: Child,
    folder: tempfile::TempDir,
    store: PathBuf,
}

impl Agent {
    fn start(words: &[&str]) -> Self {
        let folder = scratch();
        let store = folder.path().join("store");
        Self::start_with(folder, store, words)
    }

    /// What systemd would be told comes to `notify` in `folder`, where words and lines are kept too. Its cache is its own
    /// where there is a folder `cache`.
    fn start_with(folder: tempfile::TempDir, store: PathBuf, words: &[&str]) -> Self {
        let place = |name: &str| folder.path().join(name);
        let file = |name: &str| std::fs::File::create(place(name)).expect("scratch directories are writable");
        let mut command = command(&[&["agent"], words].concat());
        command.arg("--store").arg(&store).arg("--socket").arg(place("socket"));
        command.env("NOTIFY_SOCKET", place("notify"));
        if place("cache").exists() {
            command.env("TXPROF_CACHE_DIR", place("cache"));
        }
        command.stdout(file("lines")).stderr(file("words"));
        let child = command.spawn().expect("coreutils' timeout runs");
        Self { child, folder, store }
    }

    fn started(words: &[&str]) -> Self {
        let agent = Self::start(words);
        agent.wait_for_words("watching ");
        agent
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("words")).expect("it was created")
    }

    fn wait_for_words(&self, part: &str) {
        wait_for(part, || self.words().contains(part));
    }

    fn socket(&self) -> String {
        self.folder.path().join("socket").display().to_string()
    }

    /// A command that asks the agent.
    fn ask(&self, words: &[&str]) -> Run {
        txprof(&[words, &["--socket", &self.socket()]].concat())
    }

    /// Names of the policies in force.
    fn policies(&self) -> Vec<String> {
        let run = self.ask(&["policy", "list", "--json"]);
        let list: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
        let list = list.as_array().expect("a list");
        list.iter().map(|policy| policy["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The requests kept, newest first; none before there is a store.
    fn kept(&self) -> Vec<Value> {
        let run = txprof(&["list", "--json", "--store", &self.store.display().to_string()]);
        serde_json::from_str(&run.stdout).unwrap_or_default()
    }

    /// Of `txprof` itself, which `timeout` has started.
    fn pid(&self) -> u32 {
        procfs::descendants(&[self.child.id()]).expect("there is /proc")[0]
    }

    /// From here on it may have so many files open, or only those that it has.
    fn allow_files(&self, files: u32) {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.pid().to_string(), &format!("--nofile={files}:")]);
        assert!(command.status().expect("it is there").success());
    }

    /// The numbers of its open files, once they have not changed for a second.
    fn files(&self) -> HashSet<u32> {
        let number =
            |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        let open = || -> HashSet<u32> {
            let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs");
            entries.filter_map(number).collect()
        };
        loop {
            let before = open();
            std::thread::sleep(Duration::from_secs(1));
            if open() == before {
                return before;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the agent runs");
    }

    /// Its exit code when it ends by itself within 10 s, and all that it said.
    fn ended(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().expect("the child was started here") {
                break status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it does not end:\n{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(!Path::new(&self.socket()).exists(), "its socket stays");
        (code, self.words())
    }

    fn stopped(self) -> (Option<i32>, String) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended_already = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The application, called `name`.
struct Application {
    target: Target,
    port: u16,
}

impl Application {
    fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let folder = scratch();
        let python = folder.path().join(name);
        std::os::unix::fs::symlink("/usr/bin/python3", &python).expect("scratch directories are writable");
        let mut command = Command::new(&python);
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/requests_app.py"))
            .arg(port.to_string());
        let application = Self { target: Target::start_command(command), port };
        wait_for("the application", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        application
    }

    fn get(&self, path: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the application listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A name that no other process has.
fn own_name(what: &str) -> String {
    format!("{what}-{}", std::process::id() % 100_000)
}

/// Lines with levels that somebody must see.
fn bad_lines(words: &str) -> Vec<&str> {
    words.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("scratch directories are writable");
    path.display().to_string()
}

fn latency(name: &str, threshold_ms: u32) -> String {
    format!("[[policy]]\nname = \"{name}\"\ntype = \"latency\"\nthreshold_ms = {threshold_ms}\n")
}

/// Started before its target, it says so and is ready; the target is followed when it starts, and again when it is
/// another process. SIGTERM ends it with its counts, and without its socket. Each process is told, no request is.
#[test]
fn a_name_is_waited_for_and_followed() {
    let Some(_turn) = turn() else { return };
    let folder = scratch();
    let notify = listen_for_state(folder.path());
    let name = own_name("txapp");
    let store = folder.path().join("store");
    let words = ["--name", &name, "--slow", "100ms", "--log-level", "debug"];
    let agent = Agent::start_with(folder, store, &words);
    assert_eq!(told(&notify), "READY=1");
    let words = agent.words();
    assert!(words.contains("waiting for it") && words.contains("watching 0 processes"), "{words}");
    for count in 1..=2 {
        let application = Application::start(&name);
        application.get("/order");
        wait_for("the request to be kept", || agent.kept().len() == count);
        let newest = &agent.kept()[0];
        assert_eq!(
            (newest["pid"].to_string(), &newest["subject"]),
            (application.target.pid(), &"/order".into())
        );
        let pid = application.target.pid();
        agent.wait_for_words(&format!(" DEBUG a process is watched pid={pid} name={name}\n"));
        if count == 1 {
            agent.wait_for_words(" INFO processes: 1 met, 0 gone, 1 watched met=1 gone=0 watched=1\n");
        }
        drop(application);
        agent.wait_for_words(&format!(" DEBUG a process is gone pid={pid}\n"));
    }
    let (code, words) = agent.stopped();
    assert_eq!(told(&notify), "STOPPING=1");
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(" INFO stopping: it was asked to\n"), "{words}");
    assert!(words.contains(" INFO 2 requests seen, 2 kept requests=2 kept=2\n"), "{words}");
    assert!(words.contains(" INFO cost: ") && words.contains(" cpu_ms="), "{words}");
    assert_eq!(bad_lines(&words), [""; 0], "{words}");
    assert!(!words.contains("/order"), "{words}");
}

/// Takes what an agent in `folder` tells systemd.
fn listen_for_state(folder: &Path) -> UnixDatagram {
    let notify = UnixDatagram::bind(folder.join("notify")).expect("scratch directories are writable");
    notify.set_read_timeout(Some(Duration::from_secs(20))).expect("20 s is a time");
    notify
}

/// The state that systemd is told next.
fn told(notify: &UnixDatagram) -> String {
    let mut buffer = [0; 64];
    let length = notify.recv(&mut buffer).expect("the agent tells its state");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Ready, it has listed what the kernel's functions are called, so that no request waits for that: it takes 0.1 s and more.
#[test]
fn kernel_symbols_are_listed_before_it_is_ready() {
    let Some(_turn) = turn() else { return };
    let folder = scratch();
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).expect("scratch directories are writable");
    let notify = listen_for_state(folder.path());
    let store = folder.path().join("store");
    let agent = Agent::start_with(folder, store, &["--name", &own_name("txkernel")]);
    assert_eq!(told(&notify), "READY=1");
    let listed: Vec<_> = std::fs::read_dir(cache.join("kernel")).into_iter().flatten().flatten().collect();
    assert!(listed.len() == 1 && listed[0].metadata().is_ok_and(|file| file.len() > 100_000), "{listed:?}");
    assert_eq!(agent.stopped().0, Some(0));
}

/// Policies are added, removed and read again while it runs; what is wrong is refused and changes nothing, and a second
/// agent at its socket disturbs nothing. When its only target ends, so does it.
#[test]
fn policies_change_while_it_runs() {
    let Some(_turn) = turn() else { return };
    let application = Application::start(&own_name("txpol"));
    let pid = application.target.pid();
    let files = scratch();
    let config = write(files.path(), "txprof.toml", &latency("slow", 60_000));
    let agent = Agent::started(&["-p", &pid, "--config", &config, "--slow", "30s"]);
    assert_eq!(agent.policies(), ["slow"], "what is typed replaces the file's");
    let more = write(files.path(), "more.toml", &(latency("half", 500) + &latency("tenth", 100)));
    assert_eq!(agent.ask(&["policy", "add", &more]).stderr, "added: half, tenth\n");
    for (words, error, hint) in [
        (["policy", "add", more.as_str()], "half", ""),
        (["policy", "add", config.as_str()], "slow", ""),
        (["policy", "remove", "fast"], "no policy is called `fast`", "`txprof policy list`"),
    ] {
        let run = agent.ask(&words);
        assert_eq!((run.code, run.stderr.matches("error: ").count()), (2, 1), "{words:?}: {}", run.stderr);
        assert!(run.stderr.contains(error) && run.stderr.contains(hint), "{words:?}: {}", run.stderr);
        assert_eq!(agent.policies(), ["slow", "half", "tenth"]);
    }
    assert_eq!(agent.ask(&["policy", "remove", "half"]).stderr, "removed: half\n");
    application.get("/order");
    wait_for("the request to be kept", || agent.kept().iter().any(|request| request["policy"] == "tenth"));

    write(files.path(), "txprof.toml", "[[policy]]\nname = \"slow\"\ntype = \"latencies\"\n");
    agent.signal(Signal::SIGHUP);
    agent.wait_for_words("the policies in force stay");
    let words = agent.words();
    let bad = bad_lines(&words);
    assert!(bad.len() == 1 && bad[0].contains(" WARN the policies in force stay reason="), "{words}");
    for part in [&*config, "line 3: ", "latencies", " hint="] {
        assert!(bad[0].contains(part), "no `{part}` in {}", bad[0]);
    }
    assert_eq!(agent.policies(), ["slow", "tenth"]);
    write(files.path(), "txprof.toml", &latency("other", 250));
    agent.signal(Signal::SIGHUP);
    agent.wait_for_words(&format!(" INFO the policies just read are in force policies=2 config={config}\n"));
    assert_eq!(agent.policies(), ["slow", "other"], "what is typed stays");

    let second =
        agent.ask(&["agent", "-p", &pid, "--store", &files.path().join("other").display().to_string()]);
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(
        second.stderr.contains("an agent listens at") && second.stderr.contains("hint: "),
        "{}",
        second.stderr
    );
    assert_eq!(agent.policies(), ["slow", "other"]);
    drop(application);
    let (code, words) = agent.ended();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(" INFO stopping: all processes have ended\n"), "{words}");
    assert!(words.contains(" 1 kept "), "{words}");
    assert!(words.contains(" INFO policies were added policies=\"half, tenth\"\n"), "{words}");
    assert!(words.contains(" INFO a policy was removed policy=half\n"), "{words}");
    assert_eq!(bad_lines(&words).len(), 1, "{words}");
}

/// A request in flight is shown with its thread, and not any more when it has ended; that another name is of no process
/// does not matter. Told to be quiet, the agent has nothing to say of all that.
#[test]
fn requests_in_flight_are_shown() {
    let Some(_turn) = turn() else { return };
    let name = own_name("txps");
    let application = Application::start(&name);
    let agent = Agent::start(&["--name", &own_name("txabsent"), "--name", &name, "-q"]);
    wait_for("the agent", || agent.ask(&["ps"]).code == 0);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| application.get("/order?token=secret"));
        wait_for("the request", || agent.ask(&["ps"]).stdout.contains("/order"));
        asking.join().expect("it is answered");
    });
    wait_for("its end", || !agent.ask(&["ps"]).stdout.contains("/order"));
    let (code, words) = agent.stopped();
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(words, "");
}

/// A disk of its own, of 1 MiB; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = scratch();
        let flags = nix::mount::MsFlags::empty();
        let options = Some("size=1m,mode=700");
        let mounted = nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, options);
        mounted.ok().map_or_else(|| skip("may not mount a small disk"), |()| Some(Self(folder)))
    }

    /// Leaves no room; gives the file that takes it.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = std::fs::File::create(&path).expect("there is room for a name");
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Requests that find no room are told and counted; the agent runs on, and keeps again once there is room.
#[test]
fn a_full_disk_is_told_and_outlived() {
    let Some(_turn) = turn() else { return };
    let Some(disk) = SmallDisk::mount() else { return };
    let store = disk.0.path().join("store");
    std::fs::create_dir(&store).expect("the disk is empty");
    let ballast = disk.fill();
    let application = Application::start(&own_name("txdisk"));
    let agent = Agent::start_with(scratch(), store, &["-p", &application.target.pid(), "--slow", "1ms"]);
    agent.wait_for_words("watching ");
    application.get("/order");
    agent.wait_for_words(" ERROR 1 request not kept loss=requests_refused count=1 total=1 reason=");
    assert!(agent.kept().is_empty());
    std::fs::remove_file(ballast).expect("it is there");
    application.get("/order");
    wait_for("the request to be kept", || agent.kept().len() == 1);
    agent.wait_for_words(" INFO requests are kept again; 1 request lost meanwhile count=1\n");
    let (code, words) = agent.stopped();
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(" 1 kept "), "{words}");
    let in_all = " WARN in all, 1 requests that the store refused loss=requests_refused total=1\n";
    assert!(words.contains(in_all), "{words}");
}

/// The CPU time of all threads of a process.
fn cpu_time(pid: u32) -> Duration {
    let threads = procfs::thread_ids(pid).expect("it lives");
    let run_ns = |tid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(threads.into_iter().map(run_ns).sum())
}

/// Where it may open no file to answer who asks, it says so once, and waits without using a CPU; it answers again once it
/// may.
#[test]
fn want_of_descriptors_is_told_and_outlived() {
    let Some(_turn) = turn() else { return };
    if !has("prlimit") {
        return;
    }
    let application = Application::start(&own_name("txfiles"));
    let agent = Agent::started(&["-p", &application.target.pid()]);
    agent.allow_files(3);
    // The descriptor for who asks next is there already.
    agent.policies();
    agent.wait_for_words(" ERROR questions are not taken ");
    let before = cpu_time(agent.pid());
    std::thread::sleep(Duration::from_secs(2));
    let spent = cpu_time(agent.pid()) - before;
    assert!(spent < Duration::from_millis(200), "{spent:?}");
    agent.allow_files(1024);
    agent.policies();
    let (code, words) = agent.stopped();
    assert_eq!(code, Some(0), "{words}");
    let bad = bad_lines(&words);
    assert!(bad.len() == 1 && bad[0].contains("Too many open files") && bad[0].contains(" hint="), "{words}");
}

/// A process that starts while the agent may open no file, or too few to account for its threads, is followed once it may; that
/// it could not be is told.
#[test]
fn newcomers_wait_for_descriptors() {
    let Some(_turn) = turn() else { return };
    if !has("prlimit") {
        return;
    }
    // The first number that is free belongs to who asks next.
    for (more, what) in
        [(0, "failed to look at processes that started"), (2, "failed to read the times of threads")]
    {
        let name = own_name("txlate");
        let first = Application::start(&name);
        let agent = Agent::started(&["--name", &name, "--slow", "1ms"]);
        first.get("/order");
        wait_for("the request to be kept", || agent.kept().len() == 1);
        let open = agent.files();
        agent.allow_files((0..).filter(|number| !open.contains(number)).nth(more).expect("there are many"));
        let second = Application::start(&name);
        agent.wait_for_words(" ERROR not all is followed ");
        agent.allow_files(1024);
        agent.wait_for_words(" 1 met");
        second.get("/order");
        wait_for("the newcomer's request to be kept", || agent.kept().len() == 2);
        let (code, words) = agent.stopped();
        assert_eq!(code, Some(0), "{words}");
        let told: Vec<&str> =
            bad_lines(&words).into_iter().filter(|line| line.contains("not all is")).collect();
        assert!(told.len() == 1 && told[0].contains(what), "{more}: {words}");
        assert!(told[0].contains("Too many open files"), "{more}: {words}");
    }
}
