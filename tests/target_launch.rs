//! A command is held until it is released, and never outlives the hold by accident.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use txprof::ErrorKind;
use txprof::target::launch::{Ending, Held, end, exit_code};

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn wait_until_gone(pid: u32) {
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The command does nothing before it is released; then it has the announced pid, and its exit
/// code, or the signal that ended it, is passed on.
#[test]
fn command_waits_until_released() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("pid");
    let script = format!("echo $$ > '{}'; exit 7", file.display());
    let held = Held::start(&words(&["sh", "-c", &script])).expect("sh");
    let pid = held.pid();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!file.exists(), "it ran before it was released");
    let mut child = held.release().expect("executed");
    assert_eq!(child.id(), pid);
    assert_eq!(exit_code(child.wait().expect("our child")), 7);
    assert_eq!(std::fs::read_to_string(&file).expect("written").trim(), pid.to_string());

    let held = Held::start(&words(&["sh", "-c", "kill -TERM $$"])).expect("sh");
    let status = held.release().expect("executed").wait().expect("our child");
    assert_eq!(exit_code(status), 128 + 15);
}

/// What cannot be executed is refused before anything is started, each with its own reason.
#[test]
fn what_cannot_run_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "text").expect("write");
    let plain = plain.to_str().expect("a plain name");
    let kind = |command: &[&str]| Held::start(&words(command)).expect_err("not executable").kind();
    assert_eq!(kind(&[]), ErrorKind::InvalidInput);
    assert_eq!(kind(&["no-such-command-at-all"]), ErrorKind::NotFound);
    assert_eq!(kind(&["./no-such-command-at-all"]), ErrorKind::NotFound);
    assert_eq!(kind(&["/"]), ErrorKind::PermissionDenied);
    assert_eq!(kind(&[plain]), ErrorKind::PermissionDenied);
    let error = Held::start(&words(&["no-such-command-at-all"])).expect_err("unknown");
    assert_eq!(error.to_string(), "command `no-such-command-at-all` not found in PATH");
}

/// A script whose interpreter is missing is refused by the kernel on release, with a hint.
#[test]
fn missing_interpreter_fails_on_release() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("script");
    std::fs::write(&file, "#!/no/such/interpreter\n").expect("write");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
    let held = Held::start(&[file.into_os_string()]).expect("executable by its mode");
    let error = held.release().expect_err("no interpreter");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("interpreter")));
}

/// A held command that is not wanted any more ends and leaves nothing behind.
#[test]
fn dropped_command_ends_unexecuted() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("ran");
    let held = Held::start(&words(&["touch", file.to_str().expect("a plain name")])).expect("touch");
    let pid = held.pid();
    drop(held);
    wait_until_gone(pid);
    assert!(!file.exists());
}

/// A held command that was killed is reported as ended by that signal.
#[test]
fn killed_command_is_reported_as_killed() {
    let held = Held::start(&words(&["sleep", "60"])).expect("sleep");
    let pid = nix::unistd::Pid::from_raw(held.pid() as i32);
    // Not SIGINT, which is ignored by what a shell starts in the background.
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("our child");
    std::thread::sleep(Duration::from_millis(50));
    let status = held.release().expect("it did start").wait().expect("our child");
    assert_eq!(exit_code(status), 128 + 15);
}

/// A command is ended by SIGTERM, by SIGKILL when it ignores that, and not at all when it has ended; each is told,
/// takes the time that it should, and leaves no process.
#[test]
fn released_command_is_ended() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (script, ending, milliseconds) in [
        ("touch $0; exec sleep 60", Ending::Asked, 0..1000),
        ("trap '' TERM; touch $0; exec sleep 60", Ending::Killed, 1990..4000),
        ("touch $0; exit 7", Ending::Itself, 0..1000),
    ] {
        let file = directory.path().join(format!("{ending:?}"));
        let file = file.to_str().expect("a plain name");
        let held = Held::start(&words(&["sh", "-c", script, file])).expect("sh");
        let mut child = held.release().expect("executed");
        while !Path::new(file).exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if ending == Ending::Itself {
            child.wait().expect("our child");
        }
        let start = Instant::now();
        assert_eq!(end(&mut child).expect("it ends"), ending);
        let took = start.elapsed();
        assert!(milliseconds.contains(&took.as_millis()), "{ending:?}: {took:?}");
        wait_until_gone(child.id());
    }
}

/// When whoever holds the command is killed, the command ends too instead of waiting for ever.
#[test]
fn command_ends_when_its_holder_is_killed() {
    const INSIDE: &str = "TXPROF_TEST_HOLDER";
    if std::env::var_os(INSIDE).is_some() {
        let held = Held::start(&words(&["sleep", "60"])).expect("sleep");
        println!("held={};", held.pid());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut holder = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "command_ends_when_its_holder_is_killed", "--nocapture"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test once more");
    let mut output = holder.stdout.take().expect("a pipe");
    let mut text = String::new();
    let pid: u32 = loop {
        let mut buffer = [0; 256];
        let count = output.read(&mut buffer).expect("a readable pipe");
        assert!(count > 0, "ended early: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some((pid, _)) = text.split_once("held=").and_then(|(_, tail)| tail.split_once(';')) {
            break pid.parse().expect("a pid");
        }
    };
    holder.kill().expect("our child");
    holder.wait().expect("our child");
    wait_until_gone(pid);
}
