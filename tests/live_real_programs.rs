//! Claim: the main job works on programs that nobody prepared: an unprepared
//! PostgreSQL backend, nginx, node, Debian's Python (its C side), stripped C++ and Rust.
//!
//! Eight seconds at 999 Hz: the few samples before tables are loaded are then well below
//! 0.5 %, even where the machine gives these programs a fraction of its time.

mod support;

use std::process::Command;

use support::{Postgres, Shot, Target, has, record, record_burning, scratch, shell, turn};

const COMPLETE: f64 = 0.995;

fn record_well(pid: &str) -> Shot {
    record(&["-p", pid, "-d", "8", "-F", "999"])
}

/// At least `complete` of the stacks reach the start, and enough of them were caught.
fn assert_good(shot: &Shot, complete: f64) {
    let Shot { folded, stderr } = shot;
    assert!(folded.total() >= 1000, "only {} samples\n{stderr}", folded.total());
    let share = folded.complete_share();
    let reasons = folded.reasons();
    println!("{:.3} % of {} complete", share * 100.0, folded.total());
    assert!(share >= complete, "{share:.4} complete, {reasons:?}\n{stderr}\n{}", folded.heaviest(5));
}

/// A PostgreSQL of Debian under pgbench: its backends' stacks reach `main` and run in the executor.
#[test]
fn postgresql_backends_are_seen() {
    let Some(_turn) = turn() else { return };
    let Some(postgres) = Postgres::start() else { return };
    let shot = record_well(&postgres.server.pid());
    assert_good(&shot, COMPLETE);
    let backends = ["main", "PostmasterMain", "PostgresMain"];
    let executing = shot.folded.share(|line| line.reads(&backends));
    assert!(shot.folded.share(|line| line.reads(&backends) && line.has("ExecutorRun")) > 0.02);
    assert!(executing > 0.9, "{executing}\n{}", shot.folded.heaviest(5));
}

/// nginx serving a file to wrk: workers are children of the master that is named.
#[test]
fn nginx_workers_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("nginx") || !has("wrk") {
        return;
    }
    let directory = scratch();
    let root = directory.path().display();
    std::fs::write(directory.path().join("index.html"), "hello\n").expect("scratch directories are writable");
    let config = directory.path().join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; \
         fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
         server {{ listen 127.0.0.1:18437; root {root}; }} }}\n"
    );
    std::fs::write(&config, text).expect("scratch directories are writable");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&config).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let server = Target::start_server(command);
    support::wait_for("nginx to listen", || std::net::TcpStream::connect("127.0.0.1:18437").is_ok());
    let _clients =
        Target::start_command(shell("exec wrk -t 1 -c 16 -d 60 http://127.0.0.1:18437/ >/dev/null"));
    let shot = record_well(&server.pid());
    assert_good(&shot, COMPLETE);
    assert!(shot.folded.share(|line| line.has("_[k]")) > 0.2, "{}", shot.folded.heaviest(5));
}

/// node running a script: V8's own frames by frame pointers, its names by `--perf-basic-prof`.
#[test]
fn node_functions_are_named() {
    let Some(_turn) = turn() else { return };
    if !has("node") {
        return;
    }
    let script = "function hotJs(n) { let x = n; for (let i = 0; i < 1e6; i++) x = (x * 31 + i) % 65521; return x }\n\
                  function callerJs() { let s = 0; for (let i = 0; i < 50; i++) s += hotJs(i); return s }\n\
                  function turnJs() { callerJs(); setImmediate(turnJs) } turnJs()";
    let mut command = Command::new("node");
    // V8 takes its time to inline one into the other; from then on only it knows of the inlined call.
    command.args([
        "--perf-basic-prof",
        "--interpreted-frames-native-stack",
        "--no-turbo-inlining",
        "-e",
        script,
    ]);
    let target = Target::start_command(command);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let shot = record_well(&target.pid());
    assert_good(&shot, COMPLETE);
    let named = shot.folded.share(|line| line.has("hotJs"));
    assert!(named > 0.8, "{named}\n{}", shot.folded.heaviest(5));
    let started =
        shot.folded.share(|line| line.reads(&["main", "node::Start", "node::SpinEventLoop", "hotJs"]));
    assert!(started > 0.8, "{started}\n{}", shot.folded.heaviest(5));
}

/// Debian's Python, stripped and without frame pointers: its C side reaches `main`, with its functions between.
#[test]
fn debian_python_c_side_is_seen() {
    let Some(_turn) = turn() else { return };
    if !has("/usr/bin/python3") {
        return;
    }
    let mut command = Command::new("/usr/bin/python3");
    command.args([
        "-c",
        "def f(n):\n  return f(n-1) + 1 if n else sum(i*i for i in range(2000))\nwhile True: f(30)",
    ]);
    let target = Target::start_command(command);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let shot = record(&["-p", &target.pid(), "-d", "8", "-F", "999", "--native"]);
    assert_good(&shot, COMPLETE);
    // 3.11 is caught in the ten instructions between publishing a frame and writing it now and then, and says so.
    let marked = shot.folded.share(|line| line.has("[Python "));
    assert!(marked < 0.02, "{marked}\n{}", shot.folded.heaviest(5));
    let evaluating = shot.folded.share(|line| {
        line.reads(&["Py_RunMain", "_PyEval_EvalFrameDefault", "<module> (<string>)", "f (<string>)"])
    });
    assert!(evaluating > 0.95, "{evaluating}\n{}", shot.folded.heaviest(5));
}

/// C++ and Rust without symbols and frame pointers: whole stacks, by offset in the program.
#[test]
fn stripped_cxx_and_rust_are_whole() {
    let Some(_turn) = turn() else { return };
    let names = ["cxx-stripped", "rust-stripped"];
    let targets = names.map(|name| Target::start(name, &[]));
    let [one, other] = &targets;
    let options = ["-p", &one.pid(), "-p", &other.pid()];
    let shot = record_burning(&[one, other], std::time::Duration::from_secs(3), &options);
    for name in names {
        let folded = shot.folded.of_process(name);
        assert_good(&Shot { folded: folded.clone(), stderr: shot.stderr.clone() }, COMPLETE);
        let offsets = format!("{name}+0x");
        let deep = folded.share(|line| {
            line.has("__libc_start_main")
                && line.frames.iter().filter(|frame| frame.contains(&offsets)).count() > 5
        });
        assert!(deep > 0.5, "{deep}\n{}", folded.heaviest(5));
    }
}
