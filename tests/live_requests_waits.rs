//! Claim: what a thread waits for within a request has its stack, also the body behind an answer that is not the request's last;
//! its wait for the next request of a connection has none, which would be to nobody's use.

#![cfg(feature = "bpf")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{Agent, Client, Server, Target, free_port, has, listening, turn};
use txprof::agent::control::{Ask, ask};
use txprof::store::StoredRequest;

const MS: u64 = 1_000_000;
/// How long a client keeps a thread waiting: of each such wait there is room for a stack, two CPUs having 100 a second at least.
const PAUSE: Duration = Duration::from_millis(30);
const COUNT: u64 = 20;

/// Python's own server, a thread for each connection, which answers `Expect: 100-continue`.
fn plain_server() -> Option<Server> {
    const PYTHON: &str = "/usr/bin/python3";
    if !has(PYTHON) {
        return None;
    }
    let port = free_port();
    let mut command = Command::new(PYTHON);
    command.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/servers/request_server.py")]);
    command.args(["http.server", &port.to_string()]);
    Some(listening(Target::start_command(command), port))
}

/// Waits of all targets that have a stack so far.
fn waits(agent: &Agent) -> u64 {
    let status = ask(Path::new(&agent.socket()), &Ask::Status).expect("the agent answers");
    status["waits"].as_u64().expect("it tells their number")
}

/// Reads until what was read ends with `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(end) {
        stream.read_exact(&mut byte).expect("the server answers");
        text.push(byte[0]);
    }
    text
}

/// Uploads a body when the server has asked for it, and `PAUSE` later.
fn upload(stream: &mut TcpStream, id: &str) {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: here\r\nX-Request-ID: {id}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    let interim = read_until(stream, b"\r\n\r\n");
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&interim));
    std::thread::sleep(PAUSE);
    stream.write_all(b"body").expect("the server reads");
    let answer = read_until(stream, b"\r\n\r\n4\n");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// Time of a request in which its handler waited for the body.
fn awaiting_body_ns(stored: &StoredRequest) -> u64 {
    let profile = &stored.profile;
    let awaits = |stack| {
        let has = |part: &str| profile.frames_of(stack).any(|frame| frame.function.starts_with(part));
        has("body_of") && has("[blocked: recv")
    };
    profile.samples.iter().filter(|sample| awaits(sample.stack)).map(|sample| sample.weight_ns).sum()
}

/// Behind the `100 Continue` that the server has sent it waits for the body: the request has that wait, nearly all of its time,
/// below the function that reads.
#[test]
fn wait_for_a_body_behind_an_interim_answer_has_its_stack() {
    let Some(_turn) = turn() else { return };
    let Some(server) = plain_server() else { return };
    let agent = Agent::watch(&server.target.pid());
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    (0..COUNT).for_each(|number| upload(&mut stream, &format!("upload-{number}")));
    let kept = agent.finish();
    assert_eq!(kept.losses(), [""; 0], "{}", kept.stderr);
    let stored = kept.stored();
    let uploads: Vec<&StoredRequest> =
        stored.iter().filter(|stored| stored.request.id.starts_with("upload-")).collect();
    let least_ns = PAUSE.as_nanos() as u64 - 2 * MS;
    let told = uploads.iter().filter(|stored| awaiting_body_ns(stored) >= least_ns).count() as u64;
    assert!(uploads.iter().all(|stored| stored.request.duration_ns >= least_ns), "{uploads:?}");
    println!("{told} of {} have their wait for the body", uploads.len());
    // A virtual machine's interrupts may come too late to ask a thread for its stack; its time is there all the same.
    assert!(uploads.len() as u64 == COUNT && told * 10 >= COUNT * 9, "{told} of {}", uploads.len());
}

/// A connection that rests between its requests: its thread's waits for them have no stack, as the number of stacks tells, which
/// grows as soon as the same waits are within requests.
#[test]
fn wait_for_the_next_request_has_no_stack() {
    let Some(_turn) = turn() else { return };
    assert_stacks_are_of_requests(Agent::watch);
}

/// So it is where threads cannot be asked for their stacks.
#[test]
fn wait_for_the_next_request_has_no_stack_before_linux_6_18() {
    let Some(_turn) = turn() else { return };
    assert_stacks_are_of_requests(Agent::watch_without_task_work);
}

fn assert_stacks_are_of_requests(watch: fn(&str) -> Agent) {
    let Some(server) = plain_server() else { return };
    let agent = watch(&server.target.pid());
    let mut client = Client::new(server.port);
    let mut rest = |number: u64| {
        client.ask(format!("rest-{number}"), "/quick").expect("the server answers");
        std::thread::sleep(PAUSE);
    };
    rest(0);
    let before = waits(&agent);
    (1..=COUNT).for_each(&mut rest);
    let between = waits(&agent) - before;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("the server listens");
    let before = waits(&agent);
    (0..COUNT).for_each(|number| upload(&mut stream, &format!("upload-{number}")));
    let within = waits(&agent) - before;
    println!("{between} stacks of waits beside {COUNT} between requests, {within} beside {COUNT} within");
    // The server's first thread looks twice a second whether it shall end.
    assert!(between <= COUNT / 2 && within >= COUNT * 9 / 10, "{between}, {within}");
    assert_eq!(agent.finish().losses(), [""; 0]);
}
