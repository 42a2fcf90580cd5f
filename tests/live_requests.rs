//! Claim: the requests of unmodified servers from PyPI are seen, each once, with the thread that worked for it, the time that
//! it took and where that went: as the application itself has written it down, and as the clients have.

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{
    Agent, Asked, ClockReadings, Clocks, Distances, Folded, Interval, Kept, Noted, Server, SocketCalls,
    Target, ask_many, free_port, gunicorn_threads, has, listening, python_with_packages, scratch,
    start_server, turn, txprof,
};
use txprof::aggregate::FoldOptions;
use txprof::model::{Binding, Frame, FrameKind, Profile, Request, RequestStatus, WeightUnit};
use txprof::store::StoredRequest;

/// What clients ask for in turn: 30 ms asleep, 30 ms of CPU time, and the rest as fast as can be.
const PATHS: [&str; 20] = [
    "/quick",
    "/sleep",
    "/quick",
    "/error",
    "/quick",
    "/stream",
    "/quick",
    "/upload",
    "/quick",
    "/burn",
    "/quick",
    "/sleep",
    "/quick",
    "/error",
    "/quick",
    "/stream",
    "/quick",
    "/upload",
    "/quick",
    "/download",
];
/// What they ask for several at a time: what follows a long body is out of sight, and waitress closes behind a stream.
const PIPELINED: [&str; 6] = ["/quick", "/error", "/quick", "/burn", "/download", "/sleep"];
/// How far a begin or an end may be from the server's own call, or on the wrong side of what must lie before or behind it:
/// conversion between the clocks, which takes a few microseconds, and nothing else.
const TOLERANCE_NS: u64 = 100_000;
/// From the end of a request until the agent converts its time: `decision_wait`.
const DECISION_NS: u64 = 50 * MS;
const MS: u64 = 1_000_000;

/// How a server works for requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request has a thread for itself.
    Threads,
    /// All requests of a process have the same.
    Loop,
}

/// Who tells when a request began and ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Witness {
    /// The server itself, whose calls are written down.
    Server,
    /// The client alone: the server's calls are in C.
    Client,
}

/// Requests of each server: a number fit for a test, or `TXPROF_REQUESTS`.
fn request_count() -> usize {
    let wanted = std::env::var("TXPROF_REQUESTS").ok();
    wanted.map_or(2000, |text| text.parse().expect("TXPROF_REQUESTS is a number"))
}

/// Everything that is known of a run.
struct Evidence {
    name: &'static str,
    kind: Kind,
    asked: Vec<Asked>,
    noted: HashMap<String, Noted>,
    kept: Kept,
    stored: Vec<StoredRequest>,
    clocks: ClockReadings,
    /// For how much longer requests ran than the application burnt.
    taken_ns: Vec<u64>,
    /// For how much longer requests took than until they were received.
    late_ns: Vec<u64>,
    /// Requests that slept for less than they asked for.
    sleepless: usize,
    /// Those whose time is less than what the application burnt or slept, whatever was taken from it.
    missed: Vec<String>,
    wrong: BTreeMap<&'static str, Vec<String>>,
}

/// Watches `server` while clients ask it for all paths, over four connections at once, and by threes at a time if it can do
/// that; then fails with all that is wrong.
fn prove(name: &'static str, kind: Kind, witness: Witness, server: &Server, pipelines: bool) {
    let agent = Agent::watch(&server.target.pid());
    let clocks = Clocks::watch();
    let count = request_count();
    let mut asked = ask_many(server.port, "one", &PATHS, count, 4, 1);
    if pipelines {
        asked.extend(ask_many(server.port, "three", &PIPELINED, count / 20, 4, 3));
    }
    let kept = agent.finish();
    let clocks = clocks.finish();
    let (noted, stored) = (server.noted(), kept.stored());
    let calls = (witness == Witness::Server).then(|| server.socket_calls());
    let (wrong, taken_ns, late_ns, sleepless, missed) =
        (BTreeMap::new(), Vec::new(), Vec::new(), 0, Vec::new());
    let mut evidence = Evidence {
        name,
        kind,
        asked,
        noted,
        kept,
        stored,
        clocks,
        taken_ns,
        late_ns,
        sleepless,
        missed,
        wrong,
    };
    evidence.judge(calls.as_ref());
    let wrong = evidence.wrong;
    let lines = wrong.iter().map(|(what, cases)| {
        format!("{name}: {} {what}: {}", cases.len(), cases[..cases.len().min(4)].join("\n    "))
    });
    let lines: Vec<String> = lines.collect();
    assert!(lines.is_empty(), "\n{}\n{}", lines.join("\n"), evidence.kept.stderr);
}

impl Evidence {
    fn blame(&mut self, what: &'static str, case: impl Into<String>) {
        self.wrong.entry(what).or_default().push(case.into());
    }

    fn judge(&mut self, calls: Option<&HashMap<String, SocketCalls>>) {
        for line in self.kept.losses().into_iter().map(str::to_owned).collect::<Vec<_>>() {
            self.blame("losses", line);
        }
        if self.kept.ended_itself {
            self.blame("early end", "");
        }
        let found = self.match_requests();
        let mut counts = [0_usize; 4];
        for (asked, request) in &found {
            self.judge_what(asked, request);
            self.judge_times(asked, request);
            if !asked.id.starts_with("three") {
                counts[request.binding as usize] += 1;
                self.judge_thread(asked, request);
            }
        }
        self.judge_disturbance();
        match calls {
            Some(calls) => self.judge_boundaries(&found, calls),
            None => self.judge_ends(),
        }
        self.judge_bindings(&found, counts);
        self.judge_profiles();
        self.judge_exports(&found);
    }

    /// What interrupts and the host take from threads while they run is little as a rule: on a busy machine it may hit
    /// some of them, not most.
    fn judge_disturbance(&mut self) {
        self.taken_ns.sort_unstable();
        let median_ns = self.taken_ns.get(self.taken_ns.len() / 2).copied().unwrap_or(0);
        println!("{}: {median_ns} ns of 30 ms were taken, {} slept for less", self.name, self.sleepless);
        if median_ns > 3 * MS {
            self.blame("ran otherwise", format!("{:?}", self.taken_ns));
        }
        for missed in std::mem::take(&mut self.missed) {
            self.blame("ran or slept for less", missed);
        }
    }

    /// When it began and ended, `CLOCK_MONOTONIC`.
    fn interval_of(&self, request: &Request) -> (u64, u64) {
        let later_ns = request.duration_ns + DECISION_NS;
        let began_ns = self.clocks.monotonic_ns(request.began_unix_ns, later_ns);
        (began_ns, began_ns + request.duration_ns)
    }

    /// Each request begins in the server's call that received its first byte, and ends in the one that sent the last of its
    /// answer, as the server itself has written them down. A receive may have begun long before there was something to be
    /// received.
    fn judge_boundaries(&mut self, found: &[(Asked, Request)], calls: &HashMap<String, SocketCalls>) {
        let (mut begins, mut ends) = (Distances::default(), Distances::default());
        for (asked, request) in found.iter().filter(|(asked, _)| asked.id.starts_with("one")) {
            let Some(&SocketCalls { receive, send }) = calls.get(&asked.id) else {
                self.blame("without a call of the server", asked.id.clone());
                continue;
            };
            let receive = Interval { from_ns: receive.from_ns.max(asked.sent_ns), ..receive };
            let (began_ns, ended_ns) = self.interval_of(request);
            for (what, call, at_ns, distances) in [
                ("begin beside the server's call", receive, began_ns, &mut begins),
                ("end beside the server's call", send, ended_ns, &mut ends),
            ] {
                if distances.add(call, at_ns) > TOLERANCE_NS {
                    self.blame(what, format!("at {at_ns}, not {call:?}: {asked:?}\n    {request:?}"));
                }
            }
        }
        for (what, distances) in [("begins", &begins), ("ends", &ends)] {
            println!("{}: {what}: {distances}", self.name);
            // A call includes what its thread waits for before and behind it, mostly the interpreter's lock: such tell little.
            if distances.width_ns(1) > TOLERANCE_NS {
                self.blame("calls too long to judge by", format!("{what}: {distances}"));
            }
        }
        println!("{}: the clocks' difference stayed within {} ns", self.name, self.clocks.spread_ns());
    }

    /// A response may be received before the call that sends it is at its end: where another thread, or the client
    /// itself, takes the CPU in between, that is as late as the thread comes back.
    fn judge_ends(&mut self) {
        self.late_ns.sort_unstable();
        let of_thousand =
            |part: usize| self.late_ns.get(self.late_ns.len() * part / 1000).copied().unwrap_or(0);
        let (most_ns, nearly_all_ns) = (of_thousand(900), of_thousand(990));
        println!("{}: of ten responses nine are received {most_ns} ns before their end at most", self.name);
        if most_ns > TOLERANCE_NS || nearly_all_ns > MS {
            self.blame("end after they were received", format!("by {most_ns} ns, {nearly_all_ns} ns"));
        }
    }

    /// Each request that was asked is there once, and no other.
    fn match_requests(&mut self) -> Vec<(Asked, Request)> {
        let mut kept: HashMap<String, Vec<Request>> = HashMap::new();
        for request in std::mem::take(&mut self.kept.requests) {
            kept.entry(request.id.clone()).or_default().push(request);
        }
        let mut found = Vec::new();
        for asked in self.asked.clone() {
            let mut of_id = kept.remove(&asked.id).unwrap_or_default();
            match (of_id.pop(), of_id.len()) {
                (Some(request), 0) => found.push((asked, request)),
                (None, _) => self.blame("missing", format!("{asked:?}")),
                (Some(_), _) => self.blame("double", format!("{asked:?}")),
            }
        }
        for request in kept.into_values().flatten() {
            self.blame("invented", format!("{request:?}"));
        }
        found
    }

    fn judge_what(&mut self, asked: &Asked, request: &Request) {
        let told = |name| request.attribute(name).unwrap_or("?");
        let told =
            (told("http.request.method"), told("url.path"), told("http.response.status_code").to_owned());
        let status = if asked.status >= 500 { RequestStatus::Error } else { RequestStatus::Ok };
        if told != (asked.method, asked.path, asked.status.to_string())
            || request.status != status
            || request.is_partial
        {
            self.blame("told wrong", format!("{asked:?}\n    {request:?}"));
        }
    }

    /// The client's interval holds the request's, and that holds the handler's.
    fn judge_times(&mut self, asked: &Asked, request: &Request) {
        let Some(noted) = self.noted.get(&asked.id) else {
            return self.blame("not written down", asked.id.clone());
        };
        let (began_ns, ended_ns) = self.interval_of(request);
        let late = |earlier: u64, later: u64| earlier.saturating_sub(later);
        for (what, late_ns) in [
            ("begin before they were sent", late(asked.sent_ns, began_ns)),
            ("begin after their handler", late(began_ns, noted.began_ns)),
            ("end before their handler", late(noted.ended_ns, ended_ns)),
        ] {
            if late_ns > TOLERANCE_NS {
                self.blame(what, format!("{} {} by {late_ns} ns", asked.id, asked.path));
            }
        }
        self.late_ns.push(late(ended_ns, asked.received_ns));
    }

    fn judge_thread(&mut self, asked: &Asked, request: &Request) {
        let Some(noted) = self.noted.get(&asked.id).copied() else { return };
        let Request { run_ns, blocked_ns, queue_ns, gil_ns, duration_ns, .. } = *request;
        if request.binding != Binding::Unknown && run_ns + blocked_ns + queue_ns + gil_ns != duration_ns {
            self.blame("do not add up", format!("{request:?}"));
        }
        if request.tid != noted.tid {
            self.blame("on a wrong thread", format!("{noted:?}\n    {request:?}"));
        }
        if self.kind != Kind::Threads || request.binding != Binding::Thread {
            return;
        }
        // What the host and interrupts take while a thread runs is its own in one account and nobody's in the other.
        let taken_ns = run_ns.saturating_sub(noted.burnt_ns);
        if asked.path == "/burn" {
            self.taken_ns.push(taken_ns);
            // Where the thread came to its CPU unseen, the host's taking the CPU away is in one clock alone.
            if run_ns + MS < noted.burnt_ns {
                let stored = self.stored.iter().find(|stored| stored.request.id == request.id);
                let stacks = stored.map(|stored| folded(&stored.profile)).unwrap_or_default();
                self.missed.push(format!("{noted:?}\n    {request:?}\n{stacks}"));
            }
        }
        // It sleeps until a certain time: what it waits for before it does so, or is taken from it, shortens that.
        let waited_ns = blocked_ns + queue_ns + gil_ns;
        if asked.path == "/sleep" && waited_ns + taken_ns < 29 * MS {
            self.missed.push(format!("{noted:?}\n    {request:?}"));
        }
        if asked.path == "/sleep" && waited_ns < 29 * MS {
            self.sleepless += 1;
        }
    }

    /// Nearly all have a thread of their own where threads serve requests; none where two were under way at once on one.
    fn judge_bindings(&mut self, found: &[(Asked, Request)], [own, coroutine, shared, unknown]: [usize; 4]) {
        println!(
            "{}: {own} on a thread, {coroutine} of a coroutine, {shared} on a shared thread, {unknown} unknown",
            self.name
        );
        if self.kind == Kind::Threads && (own as f64) < 0.999 * (own + shared + unknown) as f64 {
            let others = found.iter().filter(|(_, request)| request.binding != Binding::Thread);
            let others: Vec<_> =
                others.map(|(asked, request)| format!("{} {:?}", asked.path, request.binding)).collect();
            self.blame("bindings", format!("{own}, {shared} shared, {unknown} unknown: {others:.8?}"));
        }
        let mut intervals: Vec<(Noted, &str)> =
            self.noted.iter().map(|(id, noted)| (*noted, id.as_str())).collect();
        intervals.sort_by_key(|(noted, _)| (noted.tid, noted.began_ns));
        let mut overlapping = HashSet::new();
        let mut open: (u32, u64, &str) = (0, 0, "");
        for (noted, id) in &intervals {
            if open.0 == noted.tid && noted.began_ns < open.1 {
                overlapping.extend([open.2.to_owned(), (*id).to_owned()]);
            }
            if open.0 != noted.tid || noted.ended_ns > open.1 {
                open = (noted.tid, noted.ended_ns, id);
            }
        }
        println!("{}: {} handlers overlapped on their thread", self.name, overlapping.len());
        for (asked, request) in found {
            if overlapping.contains(&asked.id) && request.binding == Binding::Thread {
                self.blame("said to have a thread for itself", format!("{request:?}"));
            }
        }
    }

    /// The time of all stacks is the request's, in functions of its own path.
    fn judge_profiles(&mut self) {
        let (mut stacks, mut slept, mut without) = (0, 0, Vec::new());
        for StoredRequest { request, profile, .. } in std::mem::take(&mut self.stored) {
            let path = request.attribute("url.path").unwrap_or("?").to_owned();
            let own = format!("work_{}", path.trim_start_matches('/'));
            let sum_ns: u64 = profile.samples.iter().map(|sample| sample.weight_ns).sum();
            if request.duration_ns >= 20 * MS
                && sum_ns.abs_diff(request.duration_ns) > request.duration_ns / 100
            {
                self.blame("have other sums", format!("{sum_ns} {request:?}"));
            }
            if request.binding != Binding::Thread || self.kind != Kind::Threads {
                continue;
            }
            let mut own_ns = 0;
            for sample in &profile.samples {
                // What has the interpreter's lock is not its own.
                let frames: Vec<&Frame> = profile.frames_of(sample.stack).collect();
                let others =
                    frames.iter().rposition(|frame| frame.kind == FrameKind::Gil).map_or(0, |n| n + 1);
                let mut works = frames[others..].iter().filter(|frame| frame.function.starts_with("work_"));
                stacks += 1;
                match works.next() {
                    Some(frame) if frame.function.split('.').next() != Some(&*own) => {
                        self.blame("have another's stacks", format!("{} {request:?}", frame.function));
                    }
                    Some(_) => own_ns += sample.weight_ns,
                    None => {}
                }
            }
            if path == "/sleep" {
                slept += 1;
                if own_ns + request.queue_ns + request.gil_ns < 29 * MS {
                    without.push(format!("{own_ns} {request:?}\n{}", folded(&profile)));
                }
            }
        }
        // A virtual machine's interrupts may come too late to ask a thread for its stack; the time is there.
        if without.len() * 50 > slept {
            let cases = without.join("\n");
            self.blame("slept elsewhere", cases);
        }
        println!("{}: {} of {slept} slept without their stack", self.name, without.len());
        println!("{}: {stacks} stacks, {slept} asleep", self.name);
    }

    /// What `txprof export` writes adds up exactly, and has the function of the path.
    fn judge_exports(&mut self, found: &[(Asked, Request)]) {
        let (output, store) = (scratch(), self.kept.store.to_string_lossy().into_owned());
        let output = output.path().join("x.folded").to_string_lossy().into_owned();
        let is_bound = |request: &Request| self.kind == Kind::Loop || request.binding == Binding::Thread;
        for path in ["/sleep", "/burn"] {
            let of_path = |(asked, request): &&(Asked, Request)| asked.path == path && is_bound(request);
            let Some((_, request)) = found.iter().find(of_path) else { continue };
            let run = txprof(&["export", &request.id, "--store", &store, "-o", &output]);
            let list = std::fs::read_to_string(&output).unwrap_or_default();
            let folded = Folded::parse(&list);
            let has_work = folded.lines.iter().any(|line| line.has(&path.replace('/', "work_")));
            if run.code != 0
                || folded.total() != request.duration_ns
                || (self.kind == Kind::Threads && path == "/burn" && !has_work)
            {
                self.blame("exported wrong", format!("{request:?} {}\n{list}{}", folded.total(), run.stderr));
                break;
            }
        }
    }
}

/// `profile` as folded stacks.
fn folded(profile: &Profile) -> String {
    let mut text = Vec::new();
    let options = FoldOptions { unit: WeightUnit::Nanoseconds, ..FoldOptions::default() };
    txprof::output::folded::write(profile, &options, &mut text).expect("memory is writable");
    String::from_utf8_lossy(&text).into_owned()
}

/// gunicorn's workers, one request at a time each.
#[test]
fn requests_of_gunicorn_sync_are_seen() {
    let Some(_turn) = turn() else { return };
    let arguments =
        ["-w", "2", "-b", "127.0.0.1:{port}", "--log-level", "critical", "request_app:application"];
    prove(
        "gunicorn sync",
        Kind::Threads,
        Witness::Server,
        &start_server(&python_with_packages(), "gunicorn", &arguments),
        false,
    );
}

/// gunicorn's threads: one accepts, any of the others reads and answers.
#[test]
fn requests_of_gunicorn_gthread_are_seen() {
    let Some(_turn) = turn() else { return };
    prove("gunicorn gthread", Kind::Threads, Witness::Server, &gunicorn_threads(), false);
}

/// waitress: one thread reads, others answer.
#[test]
fn requests_of_waitress_are_seen() {
    let Some(_turn) = turn() else { return };
    let server = start_server(
        &python_with_packages(),
        "waitress-serve",
        &["--listen=127.0.0.1:{port}", "request_app:application"],
    );
    prove("waitress", Kind::Threads, Witness::Server, &server, true);
}

/// cheroot: one thread accepts, others read and answer.
#[test]
fn requests_of_cheroot_are_seen() {
    let Some(_turn) = turn() else { return };
    let server = start_server(
        &python_with_packages(),
        "cheroot",
        &["--bind", "127.0.0.1:{port}", "request_app:application"],
    );
    prove("cheroot", Kind::Threads, Witness::Server, &server, true);
}

/// werkzeug, which is trytond's server: a thread for each request, one after another with the same number at times.
#[test]
fn requests_of_werkzeug_are_seen() {
    let Some(_turn) = turn() else { return };
    prove(
        "werkzeug",
        Kind::Threads,
        Witness::Server,
        &start_server(&python_with_packages(), "request_server.py", &["werkzeug", "{port}"]),
        false,
    );
}

/// Django's server for developers: a thread for each connection.
#[test]
fn requests_of_runserver_are_seen() {
    let Some(_turn) = turn() else { return };
    prove(
        "runserver",
        Kind::Threads,
        Witness::Server,
        &start_server(&python_with_packages(), "request_server.py", &["runserver", "{port}"]),
        false,
    );
}

/// The standard library's server: a thread for each connection, which writes head and body one after another.
#[test]
fn requests_of_http_server_are_seen() {
    let Some(_turn) = turn() else { return };
    prove(
        "http.server",
        Kind::Threads,
        Witness::Server,
        &start_server(&python_with_packages(), "request_server.py", &["http.server", "{port}"]),
        true,
    );
}

/// uvicorn: coroutines of one thread, by Python's own loop and by uvloop.
#[test]
fn requests_of_uvicorn_are_seen() {
    let Some(_turn) = turn() else { return };
    for (name, event_loop, witness) in
        [("uvicorn asyncio", "asyncio", Witness::Server), ("uvicorn uvloop", "uvloop", Witness::Client)]
    {
        let arguments =
            ["--port", "{port}", "--no-access-log", "--log-level", "critical", "--loop", event_loop];
        let server = start_server(
            &python_with_packages(),
            "uvicorn",
            &[&arguments[..], &["request_app:asynchronous"]].concat(),
        );
        prove(name, Kind::Loop, witness, &server, true);
    }
}

/// uwsgi, which writes by `writev` and ends its connections.
#[test]
fn requests_of_uwsgi_are_seen() {
    let Some(_turn) = turn() else { return };
    let python = python_with_packages();
    if !has("uwsgi") || !python.name.starts_with("system") {
        return;
    }
    let port = free_port();
    let mut command = Command::new("uwsgi");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    command
        .args(["--plugin", "python3", "--master", "--processes", "2", "--module", "request_app:application"])
        .args(["--http-socket", &format!("127.0.0.1:{port}"), "--disable-logging"])
        // It ends connections without a word.
        .args(["--add-header", "Connection: close"])
        .env("PYTHONPATH", format!("{1}:{0}/servers", programs.display(), python.packages()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = listening(Target::start_server(command), port);
    prove("uwsgi", Kind::Threads, Witness::Client, &server, false);
}
