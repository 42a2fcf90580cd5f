//! Claim: the walk in the interrupt is frame-exact. perf writes registers and stack of the
//! very same instants, and framehop unwinds them to the same pcs.

#![cfg(feature = "bpf")]

mod oracle;
mod support;

use std::any::Any;
use std::collections::BTreeSet;
use std::time::Duration;

use oracle::{Account, Session};
use support::{Postgres, Python, Target, has, pythons, shell, turn};

/// Stacks of all programs together; `TXPROF_ORACLE_STACKS` makes it any other number.
const STACKS: u64 = 8000;

/// Of those whose start framehop itself reaches.
const EXACT: f64 = 0.999;

/// Modules with code that no judge can follow, see the test.
const OPEN: [&str; 6] =
    ["ld-linux-x86-64.so.2", "libc.so", "split-muslstat", "node", "[generated]", "libcrypto.so.3"];

fn wanted() -> u64 {
    let wanted = std::env::var("TXPROF_ORACLE_STACKS").ok();
    wanted.map_or(STACKS, |wanted| wanted.parse().expect("TXPROF_ORACLE_STACKS is a number"))
}

/// A program to be judged, not started yet.
struct Case {
    name: String,
    start: Box<dyn Fn() -> Running>,
}

/// A started one: whose stacks, and what must live for that.
struct Running {
    pid: String,
    _guard: Box<dyn Any>,
}

fn case(name: impl Into<String>, start: impl Fn() -> Target + 'static) -> Case {
    let start = move || {
        let target = start();
        Running { pid: target.pid(), _guard: Box::new(target) }
    };
    Case { name: name.into(), start: Box::new(start) }
}

/// As many at once as keep two CPUs busy without starving one another.
const AT_ONCE: usize = 4;

/// Judges `cases`, a few at a time.
fn judge_all(cases: &[Case], each: u64, account: &mut Account) {
    for group in cases.chunks(AT_ONCE) {
        let started: Vec<Running> = group.iter().map(|case| (case.start)()).collect();
        let mut session = Session::open();
        for (case, running) in group.iter().zip(&started) {
            session.add(&running.pid, &case.name);
        }
        let names: Vec<&str> = group.iter().map(|case| case.name.as_str()).collect();
        session.run(&names, each, Duration::from_millis(2000 + 20 * each), account);
    }
}

/// Programs of the table: every compiler, linking and language variant, and odd frames.
fn compiled() -> Vec<Case> {
    let names = [
        "split-o2",
        "split-o0",
        "split-fp",
        "split-nopie",
        "split-static",
        "split-statpie",
        "split-lto",
        "split-clang",
        "split-lld",
        "split-noehhdr",
        "split-musl",
        "split-muslstat",
        "split-stripped",
        "split-cxx",
        "split-rust",
        "signals",
        "jit",
        "vdso",
        "syscalls",
        "threads",
        "frames",
        "edges",
        "deep",
    ];
    names.iter().map(|name| case(*name, || Target::start(name, &[]))).collect()
}

/// Programs that nobody prepared and that live in the C library and their own.
fn unprepared() -> Vec<Case> {
    let lines = [
        (
            "perl",
            "exec perl -e 'while (1) { my %h; $h{$_ % 97} .= sprintf(\"%d,\", $_) for 1..20000; join q(), map { s/7/x/gr } sort values %h }'",
        ),
        (
            "awk",
            "exec awk 'BEGIN { while (1) { for (i = 0; i < 9999; i++) a[i % 99] = sprintf(\"%d %s\", i, substr(a[i % 99], 1, 40)); gsub(/1+/, \"x\", a[5]) } }'",
        ),
        ("sort", "while :; do seq 300000 | sort -R | sort -n >/dev/null; done"),
        ("xz", "exec xz -c /dev/urandom >/dev/null"),
        ("gzip", "exec gzip -c /dev/urandom >/dev/null"),
        ("openssl", "exec openssl speed -seconds 100 rsa2048 2>/dev/null"),
        (
            "node",
            "exec node -e 'function f(n) { let s = 0; for (let i = 0; i < n; i++) s += JSON.stringify({a: [i, String(i)], b: /a+b/.test(\"aab\" + i)}).length; return s } function turn() { f(3000); setImmediate(turn) } turn()'",
        ),
        ("dash", "while :; do /bin/true; done"),
    ];
    let cases = lines.into_iter().filter(|(name, _)| has(name));
    cases
        .map(|(name, line)| {
            case(name, move || {
                let target = Target::start_command(shell(line));
                std::thread::sleep(Duration::from_millis(300));
                target
            })
        })
        .collect()
}

/// Backends under load; they fork from the server while it is sampled, and before.
fn postgres() -> Vec<Case> {
    let start = || {
        let postgres = Postgres::start().expect("it was looked for");
        Running { pid: postgres.server.pid(), _guard: Box::new(postgres) }
    };
    let case = Case { name: "postgres".to_owned(), start: Box::new(start) };
    if has("/usr/lib/postgresql/15/bin/postgres") { vec![case] } else { Vec::new() }
}

/// Every interpreter that is not in a tree of its own, those in trees whose version there is nowhere else, and more
/// scripts on the system's.
fn interpreted() -> Vec<Case> {
    let (mut found, in_trees): (Vec<Python>, Vec<Python>) =
        pythons().into_iter().partition(|python| python.root.is_none());
    let outside: BTreeSet<u8> = found.iter().map(|python| python.minor).collect();
    found.extend(in_trees.into_iter().filter(|python| !outside.contains(&python.minor)));
    let script = |python: &Python, script: &'static str| {
        let name = format!("{} {}", python.name, script.trim_end_matches(".py"));
        let python = python.clone();
        case(name, move || python.start(script, &[]))
    };
    let system = found.iter().filter(|python| python.name.starts_with("system"));
    let more = ["callbacks.py", "recursion.py", "coroutines.py", "threads.py", "gil.py"];
    let of_system: Vec<Case> = system.flat_map(|python| more.map(|name| script(python, name))).collect();
    found.iter().map(|python| script(python, "shapes.py")).chain(of_system).collect()
}

/// At least 99.9 % of the stacks whose start framehop reaches are the same pc by pc, and none contradicts the
/// unwind programs of its frames.
///
/// What framehop has no word on is told apart, with the reason, in the table that is printed:
///
/// * `cut`: perf copies 64 KiB at most, one stack, and no page that was not touched. Equal up to there.
/// * `confirmed`: framehop follows rsp and rbp alone and takes the frame pointer where the rule names another register
///   or reads memory (realigned frames; OpenSSL's assembly). The programs, run whole, say what we say.
/// * `open`: neither knows. Code without unwind programs: the dynamic linker's first instructions, musl's start and
///   assembly, where we count pushes; V8's functions, where framehop takes the top of the stack for the return address,
///   or skips a caller before the frame pointer is pushed. And rules that read below rsp, where perf copies
///   nothing: OpenSSL's SHA.
/// * `late`: a program or library was so new that its mappings or rows were not loaded; our outcome says so.
/// * `gone`: not judged, because the process was gone or had changed its mappings by then.
#[test]
fn stacks_are_those_of_an_independent_judge() {
    let Some(_turn) = turn() else { return };
    let groups = [postgres(), compiled(), unprepared(), interpreted()];
    let cases: Vec<Case> = groups.into_iter().flatten().collect();
    let mut account = Account::default();
    judge_all(&cases, wanted().div_ceil(cases.len() as u64), &mut account);
    println!("{account}");
    let total = account.total();
    assert!(total.exact + total.differing > wanted() / 2, "too few for a judgement: {total:?}");
    assert!(total.exact_share() >= EXACT, "{:.5} frame-exact", total.exact_share());
    assert_eq!(total.wrong, 0, "our walk stands alone");
    let (unexplained, which) = account.unexplained(&OPEN);
    assert!(unexplained as f64 <= wanted() as f64 * (1.0 - EXACT), "{which:#?}");
    assert!(total.exact + total.cut + total.confirmed > 8 * total.open, "too much is open");
}
