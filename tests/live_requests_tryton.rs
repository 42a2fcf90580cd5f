//! Claim: what is asked of trytond, Tryton's own server, has its database, user, method and outcome, though its body is
//! compressed and its error stands inside of status 200; passwords and sessions are nowhere.

#![cfg(feature = "bpf")]

mod support;

use std::collections::HashMap;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use support::{Agent, free_port, pythons_with_packages, turn, wait_within};
use txprof::model::{Binding, Request, RequestStatus};

const COUNT: usize = 400;

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

/// Each call is there once, as its client says; nothing secret is in what is kept.
#[test]
fn calls_of_tryton_are_told_as_they_were() {
    let Some(_turn) = turn() else { return };
    let pythons = pythons_with_packages();
    let python = pythons.iter().find(|python| python.name.starts_with("system")).unwrap_or(&pythons[0]);
    let port = free_port();
    let server = python.start_unwaited("tryton_server.py", &[python.packages(), &port.to_string()]);
    wait_within(Duration::from_secs(60), "the server to listen", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    let agent = Agent::watch(&server.pid());
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/servers/tryton_ask.py");
    let client = Command::new("python3").arg(program).args([port.to_string(), COUNT.to_string()]).output();
    let client = client.expect("the system has a Python");
    let told = String::from_utf8_lossy(&client.stdout).into_owned();
    assert!(client.status.success(), "{}", String::from_utf8_lossy(&client.stderr));
    let kept = agent.finish();
    assert_eq!(kept.losses(), [""; 0]);
    let text = format!("{:?}", kept.requests);
    assert!(!text.contains("password") && !text.contains("Session "), "{text}");
    let mut by_id: HashMap<&str, Vec<&Request>> = HashMap::new();
    for request in &kept.requests {
        by_id
            .entry(request.attribute("http.request.header.x-request-id").unwrap_or("?"))
            .or_default()
            .push(request);
    }
    let asked: Vec<Asked> = told.lines().map(Asked::parse).collect();
    assert_eq!(asked.len(), COUNT);
    let wrong = |asked: &&Asked| !matches!(by_id.get(asked.id).map(Vec::as_slice), Some([request]) if asked.is(request));
    let wrong: Vec<String> = asked
        .iter()
        .filter(wrong)
        .map(|asked| format!("{} {} {:?}", asked.id, asked.method, by_id.get(asked.id)))
        .collect();
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
