//! Claim: a thread that waits for Python's lock is told who holds it and in which function, and a Python server's threads
//! add up to the time that passed, with waits under the functions that wait.

#![cfg(feature = "bpf")]

mod support;

use support::{Python, Waits, python_versions, pythons_with_packages, record_json, turn};

/// At least 95 % of the time in which threads wait for the lock is told to be for the other thread, and for the function
/// that it computes in, none for the one that waits; together with running and queueing it is all of their time.
fn wrong_holders(python: &Python, threads: usize) -> Vec<String> {
    let target = python.start("contend.py", &[&threads.to_string()]);
    let waits = Waits::of(&record_json(&["--per-thread", "--mode", "wall", "-d", "2s", "-p", &target.pid()]));
    let mut wrong = waits.wrong_sums(|_| true);
    let (mut waited, mut told, mut accounted, mut own) = (0.0, 0.0, 1.0_f64, 0.0);
    for number in 0..threads {
        let thread = waits.thread(&format!("hold_{number}"));
        let tid = thread["tid"].as_u64().expect("a tid");
        let is_own = |stack: &support::Wait| stack.tid == tid && stack.state == "gil";
        waited += waits.time_ns(is_own);
        let by_itself = format!("[held by hold_{number} (");
        own += waits.time_ns(|stack| is_own(stack) && stack.goes(&[&by_itself]));
        for other in (0..threads).filter(|other| *other != number) {
            let name = format!("hold_{other}");
            let holder = format!("[held by {name} (");
            let way = [&*format!("hold_{number}"), "[waiting for the GIL]", &holder, &name];
            told += waits.time_ns(|stack| is_own(stack) && stack.goes(&way));
        }
        let parts: f64 =
            ["run_ns", "queue_ns", "gil_ns", "short_ns"].iter().map(|name| Waits::ns(thread, name)).sum();
        accounted = accounted.min(parts / waits.elapsed_ns);
    }
    println!(
        "{:20} {threads} threads: {:.2} s waited for the lock, {:.2} % told by whom, {accounted:.4} accounted",
        python.name,
        waited / 1e9,
        told / waited * 100.0
    );
    // All but one wait at any time, but for what nobody runs on a busy machine.
    if own > 0.0
        || told / waited < 0.95
        || accounted < 0.97
        || waited < 0.3 * (threads - 1) as f64 * waits.elapsed_ns
    {
        let mut others: Vec<_> = waits.stacks.iter().filter(|stack| stack.state == "gil").collect();
        others.sort_by_key(|stack| std::cmp::Reverse(stack.weight_ns));
        wrong.push(format!(
            "{}: {told} of {waited}, {own} by who waits, {accounted}\n{:#?}",
            python.name,
            &others[..others.len().min(6)]
        ));
    }
    wrong
}

/// Two and four threads contend, on every version.
#[test]
fn holders_of_the_lock_are_told() {
    let Some(_turn) = turn() else { return };
    let pythons = python_versions();
    let wrong: Vec<String> = pythons
        .iter()
        .flat_map(|python| [2, 4].map(|threads| wrong_holders(python, threads)))
        .flatten()
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// trytond under load: sums, and waits inside of the requests' functions.
#[test]
fn tryton_adds_up() {
    let Some(_turn) = turn() else { return };
    let pythons = pythons_with_packages();
    let python = pythons.iter().find(|python| python.name.starts_with("system")).unwrap_or(&pythons[0]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    drop(listener);
    let server = python.start_unwaited("tryton_server.py", &[python.packages(), &port]);
    let address = format!("127.0.0.1:{port}");
    support::wait_within(std::time::Duration::from_secs(60), "the server to listen", || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    let clients = python.start_unwaited("tryton_load.py", &[&port, "2", "60"]);
    support::wait_for("a request to be served", || clients.account()[15] > 0);
    let waits = Waits::of(&record_json(&["--per-thread", "--mode", "wall", "-d", "4s", "-p", &server.pid()]));
    let pid: u64 = server.pid().parse().expect("a pid");
    let wrong = waits.wrong_sums(|thread| thread["tid"] == pid);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let serving = |stack: &support::Wait| stack.has("WSGIRequestHandler.run_wsgi");
    let (served, waited) =
        (waits.time_ns(serving), waits.time_ns(|stack| serving(stack) && stack.state != "running"));
    println!(
        "{:.2} s in requests, {:.2} s of it waiting, {} threads",
        served / 1e9,
        waited / 1e9,
        waits.threads.len()
    );
    assert!(served > 0.5e9 && waited > 0.0 && waits.threads.len() > 1, "{served} {waited}");
}
