//! Claim: `txprof ps` names the PostgreSQL backend that a request's thread waits for, also in its first query, over a UNIX
//! socket and over TCP; each thread has its own. PostgreSQL itself says which backend waits with which request's query.

#![cfg(feature = "bpf")]

mod support;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use support::{
    Agent, Asked, Client, Cluster, Server, Waiter, python_with_packages, start_server, turn, txprof,
    wait_for, wait_within,
};

const DATABASE: &str = "postgres";
/// For what hangs while the machine is busy with something else, too.
const PATIENCE: Duration = Duration::from_secs(15);

/// The application, its database, and who watches it.
struct Watched {
    cluster: Cluster,
    server: Server,
    agent: Agent,
}

impl Watched {
    /// `None` without PostgreSQL.
    fn start() -> Option<Self> {
        let cluster = Cluster::start()?;
        cluster.query(DATABASE, "CREATE TABLE held ()");
        let (unix, tcp) = (cluster.over_unix(DATABASE), cluster.over_tcp(DATABASE));
        let server = start_server(&python_with_packages(), "postgres_server.py", &["{port}", &unix, &tcp]);
        let agent = Agent::watch(&server.target.pid());
        Some(Self { cluster, server, agent })
    }

    /// Asks for `path` under the name `id`, over a connection and so on a thread of its own. The answer comes later.
    fn ask(&self, id: &str, path: &'static str) -> Receiver<Asked> {
        let (port, id) = (self.server.port, id.to_owned());
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let asked = Client::new(port).ask(id, path).expect("the server answers");
            let _nobody_waits = tell.send(asked);
        });
        told
    }

    /// Which backend PostgreSQL has at each request that waits for a lock.
    fn locked(&self) -> BTreeMap<String, u32> {
        self.cluster.waiters().iter().map(by_id).collect()
    }

    /// Which backend `txprof ps` names for each request in flight.
    fn named(&self) -> BTreeMap<String, u32> {
        let rows = self.agent.in_flight();
        let pair = |row: &serde_json::Value| {
            let pid = row["postgres_pid"].as_u64()?;
            Some((row["id"].as_str()?.to_owned(), u32::try_from(pid).expect("it is a pid")))
        };
        rows.iter().filter_map(pair).collect()
    }

    /// Waits until `txprof ps` names for each of `truth` its backend; before, it may name none, but never another one.
    fn wait_for_names(&self, truth: &BTreeMap<String, u32>) {
        wait_within(PATIENCE, &format!("{truth:?}"), || {
            let named = self.named();
            let wrong =
                named.iter().find(|(id, pid)| truth.get(*id).is_some_and(|true_pid| true_pid != *pid));
            assert_eq!(wrong, None, "{truth:?}");
            named == *truth
        });
    }
}

/// The ID in a query's comment, and the backend that has it.
fn by_id(waiter: &Waiter) -> (String, u32) {
    let id = waiter.query.split(' ').rev().nth(1).expect("the application writes it there");
    (id.to_owned(), waiter.pid)
}

fn answer(told: &Receiver<Asked>) {
    assert_eq!(told.recv_timeout(PATIENCE).expect("it is answered").status, 200);
}

/// Four requests hang in their first queries, two over either kind of connection: each has the backend that PostgreSQL says,
/// also after their threads were stopped for a moment. None is left when they are answered.
#[test]
fn first_queries_have_their_backends() {
    let Some(_turn) = turn() else { return };
    let Some(watched) = Watched::start() else { return };
    let lock = watched.cluster.lock(DATABASE, &["held"]);
    let asked = [("a", "/unix/first"), ("b", "/tcp/first"), ("c", "/unix/first"), ("d", "/tcp/first")]
        .map(|(id, path)| watched.ask(id, path));
    wait_within(PATIENCE, "four queries to hang", || watched.locked().len() == 4);
    let truth = watched.locked();
    let mut pids: Vec<u32> = truth.values().copied().collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "{truth:?}");
    watched.wait_for_names(&truth);
    // Calls that were interrupted go on under another name.
    let dump = txprof(&["dump", "-p", &watched.server.target.pid()]);
    assert_eq!(dump.code, 0, "{dump:?}");
    watched.wait_for_names(&truth);
    assert_eq!(watched.locked(), truth);
    drop(lock);
    asked.iter().for_each(answer);
    wait_for("the end of all", || watched.agent.in_flight().is_empty());
    let kept = watched.agent.finish();
    assert_eq!(kept.losses(), [""; 0]);
}

/// A request that has had an answer of one backend and hangs at another has that one; one that waits for something else has
/// the one that answered it.
#[test]
fn backends_are_those_of_now_then_the_last() {
    let Some(_turn) = turn() else { return };
    let Some(watched) = Watched::start() else { return };
    let lock = watched.cluster.lock(DATABASE, &["held"]);
    let second = [("e", "/unix/second"), ("f", "/tcp/second")].map(|(id, path)| watched.ask(id, path));
    wait_within(PATIENCE, "two queries to hang", || watched.locked().len() == 2);
    watched.wait_for_names(&watched.locked());
    drop(lock);
    second.iter().for_each(answer);
    let after = [("g", "/unix/after"), ("h", "/tcp/after")].map(|(id, path)| watched.ask(id, path));
    let answered = || -> BTreeMap<String, u32> {
        let idle = watched.cluster.backends("state = 'idle' AND query LIKE 'SELECT pg_sleep%'");
        idle.iter().map(by_id).filter(|(id, _)| ["g", "h"].contains(&id.as_str())).collect()
    };
    wait_within(PATIENCE, "two answers", || answered().len() == 2);
    watched.wait_for_names(&answered());
    std::fs::write(watched.server.target.directory.path().join("go"), "").expect("it is the server's own");
    after.iter().for_each(answer);
}
