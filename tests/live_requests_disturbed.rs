//! Claim: requests are seen right when something goes wrong: the agent comes late or is killed, the server is killed, clients
//! vanish; and while they are served.

mod support;

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use support::{
    Agent, Client, Kept, ask_many, gunicorn_threads, python_with_packages, request_text, scratch,
    start_server, stored, turn, txprof, wait_for,
};
use txprof::model::{Request, RequestStatus};

const MS: u64 = 1_000_000;

fn only<'a>(kept: &'a Kept, id: &str) -> &'a Request {
    let of_id: Vec<&Request> = kept.requests.iter().filter(|request| request.id == id).collect();
    assert_eq!(of_id.len(), 1, "{id}: {:?}\n{}", kept.requests, kept.stderr);
    of_id[0]
}

/// `txprof ps` shows a request while it is served, with the thread that serves it.
#[test]
fn requests_in_flight_are_shown() {
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let agent = Agent::watch(&server.target.pid());
    let port = server.port;
    let client = std::thread::spawn(move || Client::new(port).ask("long".to_owned(), "/long"));
    std::thread::sleep(Duration::from_millis(700));
    let run = txprof(&["ps", "--json", "--socket", &agent.socket()]);
    let asked = client.join().expect("it does not panic").expect("the server answers");
    assert_eq!((run.code, run.stdout.lines().count()), (0, 1), "{run:?}");
    let row: serde_json::Value = serde_json::from_str(&run.stdout).expect("lines are JSON");
    let noted = server.noted()["long"];
    assert_eq!((&row["id"], &row["subject"]), (&"long".into(), &"/long".into()), "{row}");
    assert_eq!((&row["tid"], &row["is_partial"]), (&noted.tid.into(), &false.into()), "{row} {noted:?}");
    let elapsed_ns = row["elapsed_ns"].as_u64().expect("a number");
    assert!((500 * MS..2000 * MS).contains(&elapsed_ns), "{row}");
    assert!(row["state"].as_str().is_some_and(|state| state.contains("nanosleep")), "{row}");
    let kept = agent.finish();
    assert!(
        only(&kept, "long").duration_ns.abs_diff(asked.received_ns - asked.sent_ns) < 50 * MS,
        "{kept:?}"
    );
    let row = txprof(&["ps", "--json", "--socket", "/nonexistent"]);
    assert_ne!(row.code, 0, "{row:?}");
}

/// A request that was under way when it was met is kept, and said to be partial.
#[test]
fn request_under_way_is_partial() {
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    // What is read of files is cached by then.
    drop(Agent::watch(&server.target.pid()));
    let port = server.port;
    let client = std::thread::spawn(move || Client::new(port).ask("long".to_owned(), "/long"));
    std::thread::sleep(Duration::from_millis(50));
    let agent = Agent::watch(&server.target.pid());
    client.join().expect("it does not panic").expect("the server answers");
    Client::new(port).ask("next".to_owned(), "/quick").expect("the server answers");
    let kept = agent.finish();
    let [first, next] = &kept.requests[..] else { panic!("{kept:?}") };
    assert!(first.is_partial && first.pid == next.pid, "{first:?}");
    assert_eq!(first.attribute("http.response.status_code"), Some("200"), "{first:?}");
    assert!(!next.is_partial && next.id == "next", "{next:?}");
}

/// Clients that vanish while they send and while they receive: their requests are there once, no other is disturbed.
#[test]
fn vanishing_clients_disturb_nothing() {
    use std::io::{Read, Write};
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let agent = Agent::watch(&server.target.pid());
    let connect = || TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    let pause = || std::thread::sleep(Duration::from_millis(20));
    for n in 0..10 {
        let mut halves = connect();
        let text = request_text(&format!("half-{n}"), "/upload");
        halves.write_all(&text[..20_000]).expect("the server reads");
        let mut heads = connect();
        heads.write_all(b"GET /quick HTT").expect("the server reads");
        let mut answers = connect();
        answers.write_all(&request_text(&format!("answer-{n}"), "/download")).expect("the server reads");
        answers.read_exact(&mut [0; 100]).expect("the server answers");
        let mut sleeps = connect();
        sleeps.write_all(&request_text(&format!("sleep-{n}"), "/sleep")).expect("the server reads");
        pause();
        drop((halves, heads, answers, sleeps));
        pause();
        Client::new(server.port).ask(format!("whole-{n}"), "/quick").expect("the server answers");
    }
    std::thread::sleep(Duration::from_millis(200));
    let kept = agent.finish();
    for n in 0..10 {
        for (what, statuses) in [
            ("whole", &[RequestStatus::Ok][..]),
            ("half", &[RequestStatus::Error]),
            ("sleep", &[RequestStatus::Ok, RequestStatus::Error]),
            ("answer", &[RequestStatus::Ok, RequestStatus::Error]),
        ] {
            let request = only(&kept, &format!("{what}-{n}"));
            assert!(statuses.contains(&request.status) && !request.is_partial, "{request:?}");
        }
    }
    assert!(kept.losses().is_empty(), "{}", kept.stderr);
    let known = |request: &Request| {
        ["whole", "half", "sleep", "answer"].iter().any(|what| request.id.starts_with(what))
    };
    // Of half of a first line nothing is known but that it came to nothing.
    let others: Vec<&Request> = kept.requests.iter().filter(|request| !known(request)).collect();
    assert!(others.iter().all(|request| request.status == RequestStatus::Error), "{others:?}");
}

/// A client that says all that it will say at once is answered all the same, which is no error.
#[test]
fn half_closing_clients_are_answered() {
    use std::io::{Read, Write};
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let agent = Agent::watch(&server.target.pid());
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    stream.write_all(&request_text("half-closed", "/sleep")).expect("the server reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers");
    assert!(answer.ends_with("slept\n"), "{answer}");
    assert_eq!(txprof(&["ps", "--socket", &agent.socket()]).stderr, "");
    let kept = agent.finish();
    let request = only(&kept, "half-closed");
    assert_eq!((request.status, kept.losses().len()), (RequestStatus::Ok, 0), "{request:?}");
    assert!(request.duration_ns > 29 * MS, "{request:?}");
}

/// Requests that cannot be seen, as TLS hides them from who looks at sockets, are told to be there.
#[test]
fn what_tls_hides_is_counted() {
    use std::io::{Read, Write};
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let agent = Agent::watch(&server.target.pid());
    for first in [&b"\x16\x03\x01\x00\x05hello\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
        stream.write_all(first).expect("the server reads");
        let _refused = stream.read(&mut [0; 100]);
    }
    let run = txprof(&["ps", "--socket", &agent.socket()]);
    for words in ["note: 1 connections with TLS", "note: 1 connections with HTTP/2"] {
        assert!(run.stderr.contains(words), "{run:?}");
    }
    assert!(agent.finish().losses().len() >= 2);
}

/// A server that is killed: the request that it did not answer has failed, with where its time went until then.
#[test]
fn requests_of_a_killed_server_have_failed() {
    let Some(_turn) = turn() else { return };
    let server = start_server(&python_with_packages(), "request_server.py", &["http.server", "{port}"]);
    let agent = Agent::watch(&server.target.pid());
    let port = server.port;
    let client = std::thread::spawn(move || Client::new(port).ask("long".to_owned(), "/long"));
    std::thread::sleep(Duration::from_millis(700));
    server.target.signal(nix::sys::signal::Signal::SIGKILL);
    client.join().expect("it does not panic").expect_err("nobody answers");
    std::thread::sleep(Duration::from_millis(300));
    let kept = agent.finish();
    let request = only(&kept, "long");
    assert_eq!((request.status, request.is_partial), (RequestStatus::Error, false), "{request:?}");
    assert!((500 * MS..900 * MS).contains(&request.duration_ns), "{request:?}");
}

/// An agent that is killed again and again under load: no request fails, and the store is whole each time.
#[test]
fn killed_agents_leave_server_and_store_whole() {
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let paths = ["/quick", "/sleep", "/upload"];
                ask_many(server.port, &format!("round-{count}"), &paths, 60, 3, 1);
                count += 1;
            }
            count
        });
        let mut directory = scratch();
        let mut seen = 0;
        for round in 0..12 {
            let agent = Agent::start_in(&server.target.pid(), directory);
            let watches = || agent.stderr().matches("watching ").count() > seen;
            // Some are killed before they watch.
            if round % 3 > 0 {
                wait_for("the agent to watch", watches);
                std::thread::sleep(Duration::from_millis(100 + 37 * round));
            } else {
                std::thread::sleep(Duration::from_millis(20 * round));
            }
            seen = agent.stderr().matches("watching ").count();
            directory = agent.kill();
            assert_whole(&directory.path().join("store"));
        }
        let agent = Agent::start_in(&server.target.pid(), directory);
        wait_for("the agent to watch", || agent.stderr().matches("watching ").count() > seen);
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(load.join().expect("no request fails") > 0);
        let kept = agent.finish();
        assert_whole(&kept.store);
        assert!(kept.stored().len() > 100, "{}", kept.stored().len());
    });
}

/// The files of a store are what SQLite calls whole, and can be read.
fn assert_whole(store: &Path) {
    let entries = std::fs::read_dir(store).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("the store is readable").path());
    for path in paths.filter(|path| path.extension().is_some_and(|ending| ending == "db")) {
        let connection = rusqlite::Connection::open(&path).expect("the file opens");
        let answer: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it is checked");
        assert_eq!(answer, "ok", "{}", path.display());
    }
    if store.exists() {
        stored(store);
    }
}
