//! Claim: what a thread of a pool did for a request whose coroutine gave it that work stands in that request, below its
//! awaiting or the wait of its thread, and in no other one.

#![cfg(feature = "bpf")]

mod support;

use support::{Agent, Server, ask_many, python_versions, python_with_packages, start_server, turn};
use txprof::model::{Binding, Frame, FrameKind};
use txprof::store::StoredRequest;

/// As many as have a function of their own.
const PATHS: usize = 100;
/// Before a thread was sampled in a coroutine it is not known to run any, nor is a pool complete.
const FIRST: usize = 200;

/// What requests of the same kind have of their pool's threads.
#[derive(Debug, Default)]
struct Sums {
    bound: usize,
    /// Requests that have some of their own work.
    worked: usize,
    /// Stacks of such.
    stacks: usize,
    own_ns: u64,
    latency_ns: u64,
    foreign: Vec<String>,
    /// Threads of pools, in stacks, that are not called as `threading` calls them.
    unnamed: Vec<String>,
    uneven: Vec<String>,
}

impl Sums {
    fn add(&mut self, stored: &StoredRequest) {
        let StoredRequest { request, profile, .. } = stored;
        let whole_ns: u64 = profile.samples.iter().map(|sample| sample.weight_ns).sum();
        let parts_ns = request.run_ns + request.queue_ns + request.blocked_ns + request.gil_ns;
        if (parts_ns, whole_ns) != (request.duration_ns, request.duration_ns) {
            self.uneven.push(format!("{whole_ns} {request:?}"));
        }
        self.bound += usize::from(matches!(request.binding, Binding::Thread | Binding::Coroutine));
        let path = request.attribute("url.path").unwrap_or("?");
        let (own, mut own_ns) = (path.replace('/', "work_"), 0);
        for sample in &profile.samples {
            let frames: Vec<&Frame> = profile.frames_of(sample.stack).collect();
            // What has the interpreter's lock while another waits is in that one's stack, too.
            let others = frames.iter().rposition(|frame| frame.kind == FrameKind::Gil).map_or(0, |at| at + 1);
            let is_work = |frame: &&&Frame| frame.function.starts_with("work_");
            let Some(work) = frames[others..].iter().find(is_work) else { continue };
            let worker = frames.iter().find(|frame| frame.function.ends_with(" worked]"));
            let is_below = worker.is_some();
            let unnamed = worker.filter(|worker| worker.function.starts_with("[python"));
            self.unnamed.extend(unnamed.map(|worker| worker.function.to_string()));
            self.stacks += 1;
            if *work.function == *own && is_below {
                own_ns += sample.weight_ns;
            } else {
                self.foreign.push(format!("{} in {path}", work.function));
            }
        }
        self.worked += usize::from(own_ns > 0);
        self.own_ns += own_ns;
        self.latency_ns += request.duration_ns;
    }

    fn prove(&self, name: &str, load: Load) {
        let Load { count, connections } = load;
        println!(
            "{name}, {connections} at once: {} of {count} bound, {} with their work, {} stacks, {} of others; {:.0} ms of {:.0}",
            self.bound,
            self.worked,
            self.stacks,
            self.foreign.len(),
            self.own_ns as f64 / 1e6,
            self.latency_ns as f64 / 1e6,
        );
        assert!(self.uneven.is_empty(), "{}: {:.3?}", self.uneven.len(), self.uneven);
        assert!(self.foreign.is_empty(), "{} of {}: {:.8?}", self.foreign.len(), self.stacks, self.foreign);
        // Python is asked for the name of a new thread within a fifth of a second.
        assert!(
            self.unnamed.len() * 20 <= self.stacks,
            "{} of {}: {:.8?}",
            self.unnamed.len(),
            self.stacks,
            self.unnamed
        );
        // A loop that hardly runs may be met in a coroutine late.
        assert!(self.bound * 3 >= count, "{} of {count} are bound", self.bound);
    }

    fn are_whole(&self) -> bool {
        self.worked * 100 >= self.bound * 95
    }
}

/// As many as are told apart, and how many at once.
#[derive(Clone, Copy, Debug)]
struct Load {
    count: usize,
    connections: usize,
}

const ONE: Load = Load { count: 40, connections: 1 };

/// Asks for the work of all `paths` and for some before that, which make the pool known.
fn ask_for(server: &Server, number: usize, Load { count, connections }: Load) {
    let paths: Vec<&'static str> =
        (0..PATHS).map(|number| &*Box::leak(format!("/{number}").into_boxed_str())).collect();
    ask_many(server.port, &format!("first{number}"), &paths, FIRST.min(count), connections, 1);
    ask_many(server.port, &format!("then{number}"), &paths, count, connections, 1);
}

/// What the requests of each load have of their pool's threads. Fails where a stack is another one's, or the sum is not the
/// latency.
fn ask(name: &str, server: &Server, loads: &[Load]) -> Vec<Sums> {
    let agent = Agent::watch(&server.target.pid());
    loads.iter().enumerate().for_each(|(number, load)| ask_for(server, number, *load));
    let kept = agent.finish();
    assert_eq!(kept.losses(), [""; 0], "{}", kept.stderr);
    let stored = kept.stored();
    let sums = loads.iter().enumerate().map(|(number, load)| {
        let mut sums = Sums::default();
        let prefix = format!("then{number}-");
        stored
            .iter()
            .filter(|stored| stored.request.id.starts_with(&prefix))
            .for_each(|stored| sums.add(stored));
        sums.prove(name, *load);
        sums
    });
    sums.collect()
}

/// A server of endpoints that are plain functions, which run in anyio's pool.
fn starlette(event_loop: &str) -> Server {
    let arguments =
        ["--port", "{port}", "--loop", event_loop, "--log-level", "critical", "starlette_app:application"];
    start_server(&python_with_packages(), "uvicorn", &arguments)
}

/// Nearly all of their requests have that work, whether one or many are served at once.
#[test]
fn endpoints_in_threads_stand_in_their_requests() {
    let Some(_turn) = turn() else { return };
    let many = Load { count: 400, connections: 30 };
    for sums in ask("asyncio", &starlette("asyncio"), &[many, ONE]) {
        assert!(sums.are_whole(), "{} of {} have their work", sums.worked, sums.bound);
    }
}

/// uvloop is told by other means; its requests have their thread's time where one is served at a time.
#[test]
fn endpoints_in_threads_stand_in_their_requests_on_uvloop() {
    let Some(_turn) = turn() else { return };
    for sums in ask("uvloop", &starlette("uvloop"), &[ONE]) {
        assert!(sums.are_whole(), "{} of {} have their work", sums.worked, sums.bound);
    }
}

/// Threads of the standard library's pool take from one queue, before 3.13 also what others were woken for. Of one request at a
/// time all is certain; of several, what is told is right.
#[test]
fn work_from_a_shared_queue_is_never_mistaken() {
    let Some(_turn) = turn() else { return };
    let all = python_versions();
    let [Some(oldest), Some(newest)] = [all.first(), all.last()] else { panic!("there is no Python") };
    let many = Load { count: 250, connections: 10 };
    for python in [oldest, newest] {
        let server = start_server(python, "errand_server.py", &["{port}", "12"]);
        let sums = ask(&python.name, &server, &[many, ONE]);
        let are_certain = |sums: &Sums| sums.are_whole() || (python.minor < 13 && sums.bound > ONE.count);
        for sums in &sums {
            assert!(are_certain(sums), "{} of {} have their work", sums.worked, sums.bound);
        }
    }
}

/// Work that tells its loop more than is looked at is not taken for done, and that its end was not seen is told; what tells a
/// little less is seen.
#[test]
fn work_that_tells_too_much_is_told_as_lost() {
    let Some(_turn) = turn() else { return };
    let all = python_versions();
    let newest = all.last().expect("there is a Python");
    for (tellings, is_lost) in [("60", false), ("70", true)] {
        let server = start_server(newest, "errand_server.py", &["{port}", "12", tellings]);
        let agent = Agent::watch(&server.target.pid());
        ask_for(&server, 0, ONE);
        let kept = agent.finish();
        let losses = kept.losses();
        assert!(losses.iter().all(|line| line.contains(" loss=errands_unseen ")), "{losses:?}");
        assert_eq!(!losses.is_empty(), is_lost, "{tellings}: {losses:?}");
    }
}
