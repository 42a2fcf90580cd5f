//! Claim: what is asked of trytond, Tryton's own server, on SQLite and on PostgreSQL, has its database, user, method and
//! outcome, though its body is compressed and its error stands inside of status 200; passwords and sessions are nowhere.
//! Requests that hang in PostgreSQL have the backends that PostgreSQL says.

#![cfg(feature = "bpf")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Agent, Cluster, Kept, Target, free_port, python_with_packages, turn, wait_within};
use txprof::model::{Binding, Request, RequestStatus};

const COUNT: usize = 400;
/// What the client asks first, and the table of each that nothing before it has to do with: not that of sessions, which
/// trytond checks for one call after another on Python 3.11 (`functools.cached_property` has a lock).
const HELD: [(&str, &str); 4] = [
    ("ask-0", "ir_model_field"),
    ("ask-1", "res_user"),
    ("ask-2", "res_group"),
    ("ask-3", "res_user_login_attempt"),
];
/// For what hangs while the machine is busy with something else, too.
const PATIENCE: Duration = Duration::from_secs(30);

/// One that was asked, by its client's word.
struct Asked<'a> {
    id: &'a str,
    method: &'a str,
    user: Option<&'a str>,
    status: RequestStatus,
}

impl<'a> Asked<'a> {
    fn parse(line: &'a str) -> Self {
        let parts: Vec<&str> = line.split('\t').collect();
        let [id, method, user, failed] = parts[..] else { panic!("not as told: {line}") };
        let status = if failed == "-" { RequestStatus::Ok } else { RequestStatus::Error };
        Self { id, method, user: Some(user).filter(|user| *user != "-"), status }
    }

    /// Whether `request` says the same.
    fn is(&self, request: &Request) -> bool {
        let told = |name| request.attribute(name);
        told("rpc.method") == Some(self.method)
            && told("user.name") == self.user
            && told("db.namespace") == Some("tryton")
            && told("http.response.status_code") == Some("200")
            && request.status == self.status
            && request.binding == Binding::Thread
    }
}

/// A server that listens.
struct Tryton {
    server: Target,
    port: u16,
}

impl Tryton {
    /// On a database of SQLite, or in `cluster`.
    fn start(cluster: Option<&Cluster>) -> Self {
        let python = python_with_packages();
        let port = free_port();
        let mut arguments = vec![python.packages().to_owned(), port.to_string()];
        arguments.extend(cluster.map(|cluster| cluster.over_unix("")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = python.start_unwaited("tryton_server.py", &arguments);
        wait_within(Duration::from_secs(60), "the server to listen", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { server, port }
    }

    /// The client that asks `count` times, with further words for it.
    fn client(&self, count: usize, words: &[&str]) -> Command {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/servers/tryton_ask.py");
        let mut command = Command::new("python3");
        command.arg(program).args([self.port.to_string(), count.to_string()]).args(words);
        command
    }

    /// Each call is there once, as its client says; nothing secret is in what is kept.
    fn tells_calls_as_they_were(&self) {
        let agent = Agent::watch(&self.server.pid());
        let client = self.client(COUNT, &[]).output().expect("the system has a Python");
        let told = String::from_utf8_lossy(&client.stdout).into_owned();
        assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
        let kept = agent.finish();
        assert_eq!(kept.losses(), [""; 0]);
        let text = format!("{:?}", kept.requests);
        assert!(!text.contains("password") && !text.contains("Session "), "{text}");
        let asked: Vec<Asked> = told.lines().map(Asked::parse).collect();
        assert_eq!(asked.len(), COUNT);
        let wrong = wrong(&asked, &kept);
        assert!(
            wrong.is_empty(),
            "{} of {COUNT}:\n{}\n{}",
            wrong.len(),
            wrong[..wrong.len().min(5)].join("\n"),
            kept.stderr
        );
        // And how it found the path and logged in.
        assert!((COUNT + 2..=COUNT + 3).contains(&kept.requests.len()), "{text}");
    }

    /// Four calls hang, each in a table of its own: each has the backend that says to wait for that table.
    fn names_backends_that_wait(&self, cluster: &Cluster) {
        let agent = Agent::watch(&self.server.pid());
        let mut client = self.client(HELD.len(), &["held"]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().expect("the system has a Python");
        let mut words = BufReader::new(client.stdout.take().expect("it is a pipe"));
        let mut ready = String::new();
        words.read_line(&mut ready).expect("it is text");
        assert_eq!(ready, "ready\n");
        let lock = cluster.lock("tryton", &HELD.map(|(_, table)| table));
        let input = client.stdin.as_mut().expect("it is a pipe");
        input.write_all(b"go\n").expect("the client reads");
        wait_within(PATIENCE, "the calls to hang", || cluster.waiters().len() == HELD.len());
        let waiters = cluster.waiters();
        let of_table = |(id, table): (&str, &str)| {
            let wanted = format!("\"{table}\" AS \"a\"");
            let waiter = waiters.iter().find(|waiter| waiter.query.contains(&wanted));
            (id.to_owned(), waiter.unwrap_or_else(|| panic!("{table}: {waiters:?}")).pid)
        };
        let truth = BTreeMap::from(HELD.map(of_table));
        wait_within(PATIENCE, &format!("{truth:?}"), || {
            let rows = agent.in_flight();
            let pair = |row: &serde_json::Value| Some((row["id"].as_str()?.to_owned(), pid_of(row)?));
            rows.iter().filter_map(pair).collect::<BTreeMap<String, u32>>() == truth
        });
        drop(lock);
        assert!(client.wait().expect("it was started here").success());
        assert_eq!(agent.finish().losses(), [""; 0]);
    }
}

fn pid_of(row: &serde_json::Value) -> Option<u32> {
    u32::try_from(row["postgres_pid"].as_u64()?).ok()
}

/// What was asked and is not told once, and so.
fn wrong(asked: &[Asked<'_>], kept: &Kept) -> Vec<String> {
    let mut by_id: HashMap<&str, Vec<&Request>> = HashMap::new();
    for request in &kept.requests {
        let id = request.attribute("http.request.header.x-request-id").unwrap_or("?");
        by_id.entry(id).or_default().push(request);
    }
    let is_wrong = |asked: &&Asked<'_>| !matches!(by_id.get(asked.id).map(Vec::as_slice), Some([request]) if asked.is(request));
    let wrong = asked.iter().filter(is_wrong);
    wrong.map(|asked| format!("{} {} {:?}", asked.id, asked.method, by_id.get(asked.id))).collect()
}

/// On SQLite, every call is told as it was.
#[test]
fn calls_of_tryton_are_told_as_they_were() {
    let Some(_turn) = turn() else { return };
    Tryton::start(None).tells_calls_as_they_were();
}

/// On PostgreSQL, every call is told as it was, and those that hang have their backends.
#[test]
fn calls_of_tryton_on_postgresql_are_told_with_their_backends() {
    let Some(_turn) = turn() else { return };
    let Some(cluster) = Cluster::start() else { return };
    let tryton = Tryton::start(Some(&cluster));
    tryton.tells_calls_as_they_were();
    tryton.names_backends_that_wait(&cluster);
}
