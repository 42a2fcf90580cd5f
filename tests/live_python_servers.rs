//! Claim: real servers from PyPI, under load, are seen in Python: at least 99 of 100 samples have Python frames from the
//! program's or a thread's start on, and the code that serves the request stands in the chain of calls that is its own.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Calls, Stack, Target, chains, has, record_json, turn};

/// What `scripts/python-packages servers` installs, installed if need be.
fn servers() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python-packages");
    let output =
        Command::new(script).arg("servers").stderr(Stdio::inherit()).output().expect("the script runs");
    assert!(output.status.success(), "scripts/python-packages servers: {}", output.status);
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A command of those packages, to which the programs of `tests/programs/servers` are modules.
fn server(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let mut command = Command::new(folder.join("bin").join(program));
    command
        .args(arguments)
        .env("PYTHONPATH", format!("{0}/servers:{0}/python", programs.display()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stderr(Stdio::null());
    command
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

fn start(command: Command, port: u16) -> Target {
    let target = Target::start_server(command);
    support::wait_for("the server to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    target
}

fn load(port: u16, path: &str) -> Target {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "4", "-d", "60", &format!("http://127.0.0.1:{port}{path}")]);
    Target::start_command(command)
}

fn see(target: &Target) -> Calls {
    Calls::of(&record_json(&["-F", "999", "-d", "5s", "-p", &target.pid()]))
}

/// Nearly all samples of threads that have begun to evaluate Python, and have not ended it, have Python frames, and
/// these begin where a program or a thread does. A thread's birth and death in C are not Python's.
fn assert_python_from_the_start(calls: &Calls) {
    let from_the_start = |stack: &Stack| {
        stack.python().first().is_some_and(|label| {
            label.starts_with("<module> (") || label.contains("_bootstrap (threading.py)")
        })
    };
    let evaluates = |stack: &Stack| {
        stack
            .calls
            .iter()
            .any(|call| call.is_python() || call.function.starts_with("_PyEval_EvalFrameDefault"))
    };
    let evaluating = calls.filtered(evaluates);
    let share = evaluating.share(from_the_start);
    println!(
        "{} samples, {:.3} % evaluate, {:.3} % of these from the start",
        calls.count(),
        calls.share(evaluates) * 100.0,
        share * 100.0
    );
    let others = evaluating.filtered(|stack| !from_the_start(stack));
    assert!(evaluating.count() > 1000, "only {} samples of {}", evaluating.count(), calls.count());
    assert!(calls.share(evaluates) >= 0.9, "{}", calls.filtered(|stack| !evaluates(stack)).heaviest(8));
    assert!(share >= 0.99, "{share:.4}\n{}", others.heaviest(8));
}

/// The handler's samples follow the chain that it told, and are at least `least` of all.
fn assert_handler(calls: &Calls, target: &Target, least: f64) {
    let chains = chains(target);
    let comparison = calls.compare(&chains);
    let share = comparison.exact.count() as f64 / calls.count() as f64;
    println!("{:.3} % of the handler exact, {share:.3} of all; {chains:?}", comparison.exact_share() * 100.0);
    assert!(
        comparison.exact_share() >= 0.995 && share >= least,
        "{:.4}, {share:.3} of all; should be\n{chains:?}\n{}",
        comparison.exact_share(),
        comparison.others.heaviest(6)
    );
}

/// gunicorn with two forked workers, running Django.
#[test]
fn gunicorn_workers_running_django_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let port = free_port();
    let arguments = ["-w", "2", "-b", &format!("127.0.0.1:{port}"), "django_app:application"];
    let target = start(server(&servers(), "gunicorn", &arguments), port);
    let _clients = load(port, "/report/7");
    support::wait_for("a request to be served", || !chains(&target).is_empty());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let calls = see(&target);
    assert_python_from_the_start(&calls);
    assert_handler(&calls, &target, 0.3);
    let under = |stack: &Stack| {
        let python = stack.python();
        ["(sync.py)", "WSGIHandler.__call__ (wsgi.py)", "report (django_app.py)", "totals (django_app.py)"]
            .iter()
            .all(|part| python.iter().any(|label| label.contains(part)))
    };
    assert!(calls.share(under) >= 0.3, "{}", calls.heaviest(4));
}

/// gunicorn with gevent: each request runs in a greenlet, on a native stack that lies upon another one.
#[test]
fn gevent_greenlets_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let port = free_port();
    let arguments = ["-w", "1", "-k", "gevent", "-b", &format!("127.0.0.1:{port}"), "django_app:application"];
    let target = start(server(&servers(), "gunicorn", &arguments), port);
    let _clients = load(port, "/report/7");
    support::wait_for("a request to be served", || !chains(&target).is_empty());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let calls = see(&target);
    assert_handler(&calls, &target, 0.3);
    let serving = calls.filtered(|stack| stack.calls_of("report").next().is_some());
    let begins = serving.share(begins_as_greenlet);
    assert!(begins >= 0.995, "{begins}\n{}", serving.heaviest(4));
}

fn begins_as_greenlet(stack: &Stack) -> bool {
    stack.calls.first().is_some_and(|call| call.function == "[greenlet]")
}

/// A greenlet's calls are its own: none of those of whoever switched to it, nor of the thread on whose stack it lies.
#[test]
fn greenlets_that_switch_are_told_apart() {
    let Some(_turn) = turn() else { return };
    let target = Target::start_command(server(&servers(), "python3", &["-m", "greenlets"]));
    support::wait_for("all greenlets to run", || chains(&target).len() == 3);
    let calls = see(&target);
    let comparison = calls.compare(&chains(&target));
    println!("{:.3} % exact", comparison.exact_share() * 100.0);
    assert!(comparison.exact_share() >= 0.995, "{}", comparison.others.heaviest(6));
    for (leaf, least, most) in [("leaf", 0.995, 1.0), ("key", 0.995, 1.0), ("between", 0.0, 0.005)] {
        let of_leaf = calls.filtered(|stack| stack.calls_of(leaf).next().is_some());
        let begins = of_leaf.share(begins_as_greenlet);
        assert!(
            of_leaf.count() > 500 && (least..=most).contains(&begins),
            "{leaf}: {begins} of {}\n{}",
            of_leaf.count(),
            of_leaf.heaviest(4)
        );
    }
}

/// uwsgi, a C program with Python as a plugin, serving Django.
#[test]
fn python_embedded_in_uwsgi_is_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") || !has("uwsgi") {
        return;
    }
    let (port, folder) = (free_port(), servers());
    let mut command = Command::new("uwsgi");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    command
        .args(["--plugin", "python3", "--master", "--processes", "2", "--module", "django_app:application"])
        .args(["--http-socket", &format!("127.0.0.1:{port}"), "--virtualenv"])
        .arg(&folder)
        .env("PYTHONPATH", format!("{0}/servers:{0}/python", programs.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let target = start(command, port);
    let _clients = load(port, "/report/7");
    support::wait_for("a request to be served", || !chains(&target).is_empty());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let calls = see(&target);
    assert_handler(&calls, &target, 0.3);
    let serving = calls.filtered(|stack| stack.calls_of("report").next().is_some());
    let under_c = serving.share(|stack| stack.has("uwsgi_request_wsgi"));
    assert!(under_c >= 0.995, "{under_c}\n{}", serving.heaviest(4));
}

/// uvicorn: requests are coroutines of one thread.
#[test]
fn uvicorn_coroutines_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let port = free_port();
    let arguments = ["--port", &port.to_string(), "--no-access-log", "asgi_app:application"];
    let target = start(server(&servers(), "uvicorn", &arguments), port);
    let _clients = load(port, "/");
    support::wait_for("a request to be served", || !chains(&target).is_empty());
    std::thread::sleep(std::time::Duration::from_secs(1));
    let calls = see(&target);
    assert_python_from_the_start(&calls);
    assert_handler(&calls, &target, 0.3);
    let awaited =
        ["application (asgi_app.py)", "handle (asgi_app.py)", "answer (asgi_app.py)", "totals (asgi_app.py)"];
    let ends = |stack: &Stack| stack.python().ends_with(&awaited.map(str::to_owned));
    assert!(calls.share(ends) >= 0.3, "{}", calls.heaviest(4));
}

/// trytond: a new thread for each connection, a database below.
#[test]
fn tryton_requests_are_seen() {
    let Some(_turn) = turn() else { return };
    let folder = servers();
    let database = support::scratch();
    let path = database.path().display();
    std::fs::copy(folder.join("tryton.sqlite"), database.path().join("tryton.sqlite"))
        .expect("scratch is writable");
    let port = free_port();
    let text = format!("[database]\nuri = sqlite://\npath = {path}\n[web]\nlisten = 127.0.0.1:{port}\n");
    let config = database.path().join("tryton.conf");
    std::fs::write(&config, text).expect("scratch is writable");
    let arguments = ["-c", &config.to_string_lossy(), "-d", "tryton"];
    let target = start(server(&folder, "trytond", &arguments), port);
    let _clients = Target::start_command(server(
        &folder,
        "python3",
        &["-m", "tryton_load", &port.to_string(), "2", "60"],
    ));
    std::thread::sleep(std::time::Duration::from_secs(2));
    let calls = see(&target);
    assert_python_from_the_start(&calls);
    let way = [
        "Thread._bootstrap (threading.py)",
        "ThreadingMixIn.process_request_thread (socketserver.py)",
        "WSGIRequestHandler.run_wsgi (serving.py)",
        "TrytondWSGI.__call__ (wsgi.py)",
        "TrytondWSGI.dispatch_request (wsgi.py)",
        "_dispatch (dispatcher.py)",
        "ModelStorage.search_read (modelstorage.py)",
    ];
    let reads = |stack: &Stack| {
        let python = stack.python();
        let mut labels = python.iter();
        way.iter().all(|part| labels.any(|label| label == part))
    };
    let serving = calls.filtered(|stack| stack.has("search_read"));
    let exact = serving.share(reads);
    println!("{exact:.4} of {} samples of search_read by their way", serving.count());
    assert!(
        serving.count() > 300 && exact >= 0.995,
        "{exact}\n{}\n{}",
        serving.heaviest(3),
        calls.heaviest(5)
    );
    // Its SQL is run by the C library, below the interpreter's extension.
    let sql = |stack: &Stack| stack.calls.iter().any(|call| call.module.starts_with("libsqlite3"));
    assert!(serving.share(sql) > 0.005, "{}", serving.heaviest(3));
}
