//! Claim: where one thread serves many requests at once by coroutines, each request has the time of its own coroutine: no
//! stack of another one, its own waits, and on the whole as much CPU time as the application says that it took.

#![cfg(feature = "bpf")]

mod support;

use std::collections::HashMap;

use support::{Agent, Noted, Server, ask_many, python_with_packages, some_pythons, start_server, turn};
use txprof::model::{Binding, Request};
use txprof::store::StoredRequest;

const CONNECTIONS: usize = 100;
const COUNT: usize = 1000;
/// Before a thread was sampled in a coroutine it is not known to run any.
const FIRST: usize = 200;

/// What all requests that have a coroutine's time add up to.
#[derive(Debug, Default)]
struct Sums {
    bound: usize,
    stacks: usize,
    foreign: Vec<String>,
    run_ns: u64,
    burnt_ns: u64,
    uneven: Vec<String>,
}

impl Sums {
    fn add(&mut self, stored: &StoredRequest, noted: &HashMap<String, Noted>) {
        let StoredRequest { request, profile, .. } = stored;
        let Request { run_ns, queue_ns, blocked_ns, gil_ns, duration_ns, .. } = *request;
        let whole_ns: u64 = profile.samples.iter().map(|sample| sample.weight_ns).sum();
        if run_ns + queue_ns + blocked_ns + gil_ns != duration_ns || whole_ns != duration_ns {
            self.uneven.push(format!("{whole_ns} {request:?}"));
        }
        let Some(noted) = noted.get(&request.id) else { return };
        self.bound += 1;
        self.run_ns += run_ns;
        self.burnt_ns += noted.burnt_ns;
        let path = request.attribute("url.path").unwrap_or("?");
        let own = path.replace('/', "work_");
        for sample in &profile.samples {
            let mut works = profile
                .frames_of(sample.stack)
                .map(|frame| &frame.function)
                .filter(|function| function.starts_with("work_"));
            let Some(work) = works.next() else { continue };
            self.stacks += 1;
            if **work != *own {
                self.foreign.push(format!("{work} in {path}"));
            }
        }
    }
}

/// Fails with all that is wrong with what `server` was asked.
fn prove(name: &str, server: &Server) {
    let paths: Vec<&'static str> =
        (0..CONNECTIONS).map(|number| &*Box::leak(format!("/{number}").into_boxed_str())).collect();
    let agent = Agent::watch(&server.target.pid());
    ask_many(server.port, "first", &paths, FIRST, CONNECTIONS, 1);
    ask_many(server.port, "then", &paths, COUNT, CONNECTIONS, 1);
    let kept = agent.finish();
    assert_eq!(kept.losses(), [""; 0], "{}", kept.stderr);
    let (noted, mut sums) = (server.noted(), Sums::default());
    for stored in kept.stored().iter().filter(|stored| stored.request.id.starts_with("then")) {
        if stored.request.binding == Binding::Coroutine {
            sums.add(stored, &noted);
        }
    }
    let Sums { bound, stacks, foreign, run_ns, burnt_ns, uneven } = sums;
    println!(
        "{name}: {bound} of {COUNT} bound, {stacks} stacks, {} of others; {:.0} ms of {:.0} burnt",
        foreign.len(),
        run_ns as f64 / 1e6,
        burnt_ns as f64 / 1e6,
    );
    assert!(uneven.is_empty(), "{}: {:.3?}", uneven.len(), uneven);
    assert!(bound * 100 >= COUNT * 99, "{bound} of {COUNT} are bound");
    assert!(stacks > COUNT / 2, "{stacks} stacks");
    // A coroutine's address may be another one's as soon as it is gone.
    assert!(foreign.len() * 1000 <= stacks, "{} of {stacks}: {:.8?}", foreign.len(), foreign);
    // Beside `work_N` there is what the server does for the request; ticks are some 3 per request.
    let share = run_ns as f64 / burnt_ns as f64;
    assert!((0.97..1.3).contains(&share), "{share:.3} of what the application burnt");
}

/// uvicorn on asyncio: a request has a coroutine, which writes the answer.
#[test]
fn coroutines_of_uvicorn_are_told_apart() {
    let Some(_turn) = turn() else { return };
    let arguments =
        ["--port", "{port}", "--loop", "asyncio", "--log-level", "critical", "task_app:asynchronous"];
    prove("uvicorn", &start_server(&python_with_packages(), "uvicorn", &arguments));
}

/// The standard library's streams, on interpreters with each form of frames: a coroutine serves a connection.
#[test]
fn coroutines_of_connections_are_told_apart() {
    let Some(_turn) = turn() else { return };
    for python in some_pythons() {
        prove(&python.name, &start_server(&python, "stream_server.py", &["{port}"]));
    }
}
