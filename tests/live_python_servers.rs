//! Claim: real servers from PyPI, under load, are seen in Python, on every CPython of this machine: at least 99 of 100 samples
//! have Python frames from the program's or a thread's start on, and the code that serves the request stands in the chain of
//! calls that is its own.
//!
//! A server runs on all interpreters at once, each with clients of its own, and one recording takes them all.

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{
    Calls, Python, Stack, Target, chains, has, pythons_with_packages, record_burning_json, record_json, turn,
};

/// The slot of an account that counts.
const UNITS: usize = 15;

/// A server on one interpreter, and whoever asks it.
struct Server {
    // They end before it does.
    clients: Option<Target>,
    python: Python,
    target: Target,
    port: u16,
}

/// A server and what was seen of it.
struct Seen {
    server: Server,
    calls: Calls,
}

/// Ports that nothing listens on, all different.
fn free_ports(number: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..number).map(|_| TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound").port()).collect()
}

/// Starts `start` on all interpreters, and waits until each listens on the port that it was given.
fn start_each(start: impl Fn(&Python, u16) -> Target) -> Vec<Server> {
    let pythons = pythons_with_packages();
    let ports = free_ports(pythons.len());
    let mut given = ports.iter();
    let servers = Python::start_each_unwaited(pythons, |python| {
        start(python, *given.next().expect("there is a port for each"))
    });
    let servers = servers.into_iter().zip(ports).map(|((python, target), port)| {
        // The first time, Tryton makes a database, and all of them compile what they import.
        let limit = Duration::from_secs(180);
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        support::wait_within(limit, &format!("the server to listen on {}", python.name), listens);
        Server { python, target, port, clients: None }
    });
    servers.collect()
}

/// Starts `program` of the packages on all interpreters; `{port}` in its arguments is the port.
fn start_programs(program: &str, arguments: &[&str]) -> Vec<Server> {
    start_each(|python, port| {
        let program = format!("{}/bin/{program}", python.packages());
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace("{port}", &port.to_string())).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        python.start_unwaited(&program, &arguments)
    })
}

fn load(port: u16, path: &str) -> Target {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "4", "-d", "150", &format!("http://127.0.0.1:{port}{path}")]);
    Target::start_command(command)
}

/// Asks all servers for `path` until each has served something, and for a second more.
fn load_each(servers: &mut [Server], path: &str) {
    for server in &mut *servers {
        server.clients = Some(load(server.port, path));
    }
    for server in servers {
        support::wait_for(&format!("a request to be served on {}", server.python.name), || {
            !chains(&server.target).is_empty()
        });
    }
    std::thread::sleep(Duration::from_secs(1));
}

/// Records all servers with their workers until the handlers of each have burnt `milliseconds`.
fn see_each(servers: Vec<Server>, milliseconds: u64) -> Vec<Seen> {
    let targets: Vec<&Target> = servers.iter().map(|server| &server.target).collect();
    let pids = pids(&servers);
    let options = ["--per-thread", "-p", &pids];
    let profile = record_burning_json(&targets, Duration::from_millis(milliseconds), &options);
    tell_apart(servers, &Calls::of(&profile))
}

fn pids(servers: &[Server]) -> String {
    servers.iter().map(|server| server.target.pid()).collect::<Vec<_>>().join(",")
}

fn tell_apart(servers: Vec<Server>, calls: &Calls) -> Vec<Seen> {
    let seen = servers.into_iter().map(|server| {
        let family = server.target.family();
        Seen { calls: calls.filtered(|stack| family.contains(&stack.pid)), server }
    });
    seen.collect()
}

/// Fails with all of `wrong` at once, so that one run tells about all interpreters.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

impl Seen {
    fn name(&self) -> &str {
        &self.server.python.name
    }

    /// Whether the Python calls of `stack` hold those of `way`, in that order, others between them.
    fn goes(&self, stack: &Stack, way: &[&str]) -> bool {
        let python = stack.python();
        let mut labels = python.iter();
        way.iter().all(|part| labels.any(|label| *label == self.label(part)))
    }

    /// `label` as this interpreter tells it: functions have qualified names from 3.11 on.
    fn label(&self, label: &str) -> String {
        let (name, file) = label.split_once(' ').expect("labels are `name (file)`");
        let plain = name.rsplit('.').next().unwrap_or(name);
        format!("{} {file}", if self.server.python.minor < 11 { plain } else { name })
    }

    /// Nearly all samples of threads that have begun to evaluate Python, and have not ended it, have Python frames, and
    /// these begin where a program or a thread does. A thread's birth and death in C are not Python's.
    fn wrong_starts(&self) -> Vec<String> {
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
        let (name, calls) = (self.name(), &self.calls);
        let evaluating = calls.filtered(evaluates);
        let (evaluate, begin) = (calls.share(evaluates), evaluating.share(from_the_start));
        println!(
            "{name:20} {} samples, {:.3} % evaluate, {:.3} % of these from the start",
            calls.count(),
            evaluate * 100.0,
            begin * 100.0
        );
        let mut wrong = Vec::new();
        if evaluating.count() <= 1000 {
            wrong.push(format!("{name}: only {} samples of {}", evaluating.count(), calls.count()));
        }
        if evaluate < 0.9 {
            let others = calls.filtered(|stack| !evaluates(stack));
            wrong.push(format!("{name}: {evaluate:.3} evaluate; others:\n{}", others.heaviest(8)));
        }
        if begin < 0.99 {
            let others = evaluating.filtered(|stack| !from_the_start(stack));
            wrong.push(format!("{name}: {begin:.4} from the start; others:\n{}", others.heaviest(8)));
        }
        wrong
    }

    /// The handler's samples follow the chain that it told, and are at least 0.3 of all.
    fn wrong_handlers(&self) -> Vec<String> {
        wrong_handlers(self.name(), &self.calls, &self.server.target)
    }

    /// At least 0.3 of the samples are of a request, on its way.
    fn wrong_ways(&self, way: &[&str]) -> Vec<String> {
        let share = self.calls.share(|stack| self.goes(stack, way));
        let wrong = (share < 0.3)
            .then(|| format!("{}: {share:.3} by {way:?}\n{}", self.name(), self.calls.heaviest(4)));
        wrong.into_iter().collect()
    }
}

fn wrong_handlers(name: &str, calls: &Calls, target: &Target) -> Vec<String> {
    let chains = chains(target);
    let comparison = calls.compare(&chains);
    let (exact, share) =
        (comparison.exact_share(), comparison.exact.count() as f64 / calls.count().max(1) as f64);
    println!(
        "{name:20} {} samples, {:.3} % of the handler's exact, {share:.3} of all",
        calls.count(),
        exact * 100.0
    );
    let wrong = (exact < 0.995 || share < 0.3).then(|| {
        format!(
            "{name}: {exact:.4} exact, {share:.3} of all; should be\n{chains:?}\n{}",
            comparison.others.heaviest(6)
        )
    });
    wrong.into_iter().collect()
}

/// gunicorn with two forked workers, running Django.
#[test]
fn gunicorn_workers_running_django_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let mut servers = start_programs(
        "gunicorn",
        &["-w", "2", "-b", "127.0.0.1:{port}", "--log-level", "critical", "django_app:application"],
    );
    load_each(&mut servers, "/report/7");
    let way = [
        "SyncWorker.handle_request (sync.py)",
        "WSGIHandler.__call__ (wsgi.py)",
        "report (django_app.py)",
        "totals (django_app.py)",
    ];
    let mut wrong = Vec::new();
    for seen in see_each(servers, 1500) {
        wrong.extend(seen.wrong_starts());
        wrong.extend(seen.wrong_handlers());
        wrong.extend(seen.wrong_ways(&way));
    }
    assert_none(&wrong);
}

/// gunicorn with gevent: each request runs in a greenlet, on a native stack that lies upon another one.
#[test]
fn gevent_greenlets_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let arguments = ["-w", "1", "-k", "gevent", "-b", "127.0.0.1:{port}", "--log-level", "critical"];
    let mut servers = start_programs("gunicorn", &[&arguments[..], &["django_app:application"]].concat());
    load_each(&mut servers, "/report/7");
    let mut wrong = Vec::new();
    for seen in see_each(servers, 1500) {
        wrong.extend(seen.wrong_handlers());
        let serving = seen.calls.filtered(|stack| stack.calls_of("report").next().is_some());
        let begins = serving.share(begins_as_greenlet);
        if begins < 0.995 {
            wrong.push(format!("{}: {begins:.4} begin as greenlets\n{}", seen.name(), serving.heaviest(4)));
        }
    }
    assert_none(&wrong);
}

fn begins_as_greenlet(stack: &Stack) -> bool {
    stack.calls.first().is_some_and(|call| call.function == "[greenlet]")
}

/// A greenlet's calls are its own: none of those of whoever switched to it, nor of the thread on whose stack it lies.
#[test]
fn greenlets_that_switch_are_told_apart() {
    let Some(_turn) = turn() else { return };
    let started = Python::start_each(pythons_with_packages(), "greenlets.py", &[]);
    let targets: Vec<&Target> = started.iter().map(|(_, target)| target).collect();
    support::wait_for("all greenlets to run", || targets.iter().all(|target| chains(target).len() == 3));
    let pids = targets.iter().map(|target| target.pid()).collect::<Vec<_>>().join(",");
    let profile = record_burning_json(&targets, Duration::from_secs(2), &["--per-thread", "-p", &pids]);
    let all = Calls::of(&profile);
    let mut wrong = Vec::new();
    for (python, target) in &started {
        let (name, calls) = (&python.name, all.of_pid(&target.pid()));
        wrong.extend(wrong_handlers(name, &calls, target));
        for (leaf, least, most) in [("leaf", 0.995, 1.0), ("key", 0.995, 1.0), ("between", 0.0, 0.005)] {
            let of_leaf = calls.filtered(|stack| stack.calls_of(leaf).next().is_some());
            let begins = of_leaf.share(begins_as_greenlet);
            if of_leaf.count() <= 500 || !(least..=most).contains(&begins) {
                let (count, stacks) = (of_leaf.count(), of_leaf.heaviest(4));
                wrong.push(format!("{name}: {begins:.4} of {count} of {leaf} begin as greenlets\n{stacks}"));
            }
        }
    }
    assert_none(&wrong);
}

/// uwsgi, a C program with Python as a plugin, serving Django. Debian's plugin is built against Debian's interpreter: there
/// is none for the others.
#[test]
fn python_embedded_in_uwsgi_is_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") || !has("uwsgi") {
        return;
    }
    let found = pythons_with_packages().into_iter().find(|python| python.name.starts_with("system"));
    let Some(python) = found else {
        support::skip::<()>("needs the system's Python");
        return;
    };
    let port = free_ports(1)[0];
    let mut command = Command::new("uwsgi");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    command
        .args(["--plugin", "python3", "--master", "--processes", "2", "--module", "django_app:application"])
        .args(["--http-socket", &format!("127.0.0.1:{port}")])
        .env("PYTHONPATH", format!("{1}:{0}/servers:{0}/python", programs.display(), python.packages()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let target = Target::start_server(command);
    support::wait_for("uwsgi to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut servers = vec![Server { python, target, port, clients: None }];
    load_each(&mut servers, "/report/7");
    for seen in see_each(servers, 3000) {
        assert_none(&seen.wrong_handlers());
        let serving = seen.calls.filtered(|stack| stack.calls_of("report").next().is_some());
        let under_c = serving.share(|stack| stack.has("uwsgi_request_wsgi"));
        assert!(under_c >= 0.995, "{under_c}\n{}", serving.heaviest(4));
    }
}

/// uvicorn: requests are coroutines of one thread.
#[test]
fn uvicorn_coroutines_are_seen() {
    let Some(_turn) = turn() else { return };
    if !has("wrk") {
        return;
    }
    let mut servers = start_programs(
        "uvicorn",
        &["--port", "{port}", "--no-access-log", "--log-level", "critical", "asgi_app:application"],
    );
    load_each(&mut servers, "/");
    let awaited =
        ["application (asgi_app.py)", "handle (asgi_app.py)", "answer (asgi_app.py)", "totals (asgi_app.py)"];
    let mut wrong = Vec::new();
    for seen in see_each(servers, 1500) {
        wrong.extend(seen.wrong_starts());
        wrong.extend(seen.wrong_handlers());
        let ends = seen.calls.share(|stack| stack.python().ends_with(&awaited.map(str::to_owned)));
        if ends < 0.3 {
            wrong.push(format!("{}: {ends:.3} end as awaited\n{}", seen.name(), seen.calls.heaviest(4)));
        }
    }
    assert_none(&wrong);
}

/// trytond: a new thread for each connection, a database below.
#[test]
fn tryton_requests_are_seen() {
    let Some(_turn) = turn() else { return };
    let mut servers = start_each(|python, port| {
        python.start_unwaited("tryton_server.py", &[python.packages(), &port.to_string()])
    });
    for server in &mut servers {
        let arguments = [&server.port.to_string(), "2", "150"];
        server.clients = Some(server.python.start_unwaited("tryton_load.py", &arguments));
    }
    for server in &servers {
        support::wait_for(&format!("a request to be served on {}", server.python.name), || {
            server.clients.as_ref().is_some_and(|clients| clients.account()[UNITS] > 0)
        });
    }
    let calls = Calls::of(&record_json(&["-F", "999", "-d", "30s", "--per-thread", "-p", &pids(&servers)]));
    let mut wrong = Vec::new();
    for seen in tell_apart(servers, &calls) {
        wrong.extend(seen.wrong_starts());
        wrong.extend(wrong_searches(&seen));
    }
    assert_none(&wrong);
}

fn wrong_searches(seen: &Seen) -> Vec<String> {
    let way = [
        "Thread._bootstrap (threading.py)",
        "ThreadingMixIn.process_request_thread (socketserver.py)",
        "WSGIRequestHandler.run_wsgi (serving.py)",
        "TrytondWSGI.__call__ (wsgi.py)",
        "TrytondWSGI.dispatch_request (wsgi.py)",
        "_dispatch (dispatcher.py)",
        "ModelStorage.search_read (modelstorage.py)",
    ];
    let (name, serving) = (seen.name(), seen.calls.filtered(|stack| stack.has("search_read")));
    let exact = serving.share(|stack| seen.goes(stack, &way));
    // Its SQL is run by the C library, below the interpreter's extension.
    let sql = serving.share(|stack| stack.calls.iter().any(|call| call.module.starts_with("libsqlite3")));
    println!(
        "{name:20} {exact:.4} of {} samples of search_read by their way, {sql:.3} in SQL",
        serving.count()
    );
    let mut wrong = Vec::new();
    if serving.count() <= 300 || exact < 0.995 {
        let (count, stacks) = (serving.count(), serving.heaviest(3) + &seen.calls.heaviest(5));
        wrong.push(format!("{name}: {exact:.4} of {count} of search_read by their way\n{stacks}"));
    }
    if sql <= 0.005 {
        wrong.push(format!("{name}: {sql:.4} in SQL\n{}", serving.heaviest(3)));
    }
    wrong
}
