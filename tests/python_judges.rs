//! Claim: what judges txprof's Python stacks is right itself: the programs keep their accounts on each interpreter,
//! and the judges tell true stacks from false ones, written by hand.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use support::{Calls, Follows, Python, chains, lines_of, marked_lines, pythons};

/// A profile whose stacks are of Python calls `name (file)`, or native ones `function@module`, root first.
fn profile(stacks: &[(&str, u64)]) -> Value {
    let mut frames = Vec::new();
    let mut listed = Vec::new();
    let mut samples = Vec::new();
    for (number, (stack, count)) in stacks.iter().enumerate() {
        let mut indices: Vec<usize> = Vec::new();
        for word in stack.split(';') {
            let frame = match (word.split_once(" ("), word.split_once('@')) {
                (Some((function, file)), _) => {
                    let file = format!("/some/where/{}", file.trim_end_matches(')'));
                    json!({"kind": "python", "function": function, "file": file, "line": 7})
                }
                (None, Some((function, module))) => {
                    json!({"kind": "native", "function": function, "module": module})
                }
                (None, None) => json!({"kind": "interpreter", "function": word, "module": "python3.11"}),
            };
            indices.push(frames.len());
            frames.push(frame);
        }
        indices.reverse();
        listed.push(indices);
        samples.push(
            json!({"root": 0, "stack": number, "outcome": 0, "count": count, "weight_ns": count * 1_000_000}),
        );
    }
    json!({
        "outcomes": [{"number": 0, "complete": true, "text": "complete"}],
        "roots": [{"process": "python3", "thread": {"name": "MainThread", "pid": 41, "tid": 41}}],
        "frames": frames, "stacks": listed, "samples": samples,
    })
}

fn words(chain: &str) -> Vec<String> {
    chain.split(';').map(str::to_owned).collect()
}

/// The chain itself, with natives between and helpers behind, follows; parts begin; mixtures do not.
#[test]
fn stacks_are_compared_with_chains() {
    let chain = words("<module> (x.py);main (x.py);{libz};leaf (x.py)");
    let follows = |stack: &str| Calls::of(&profile(&[(stack, 1)])).stacks[0].follows(&chain);
    let good = "eval;<module> (x.py);main (x.py);compress@libz.so.1;callback@libffi.so;leaf (x.py)";
    assert_eq!(follows(good), Follows::Wholly);
    assert_eq!(follows(&format!("{good};jitter (oracle.py);memcpy@libc.so.6")), Follows::Wholly);
    assert_eq!(follows(&format!("{good};tell (oracle.py);join (posixpath.py)")), Follows::Wholly);
    assert_eq!(follows("<module> (x.py);main (x.py);leaf (x.py)"), Follows::WithoutNative);
    assert_eq!(follows("<module> (x.py);main (x.py);leaf (x.py);compress@libz.so.1"), Follows::WithoutNative);
    assert_eq!(follows("<module> (x.py);compress@libz.so.1;main (x.py);leaf (x.py)"), Follows::WithoutNative);
    assert_eq!(follows("<module> (x.py);main (x.py)"), Follows::Begins);
    assert_eq!(follows("compress@libz.so.1"), Follows::Begins);
    assert_eq!(follows("<module> (x.py);leaf (x.py)"), Follows::Not);
    assert_eq!(follows("main (x.py);compress@libz.so.1;leaf (x.py)"), Follows::Not);
    assert_eq!(follows(&format!("{good};leaf (x.py)")), Follows::Not);
    assert_eq!(follows("<module> (x.py);main (x.py);compress@libz.so.1;leaf (y.py)"), Follows::Not);
}

/// Only the leaves' samples are compared, and each is counted once, where it belongs.
#[test]
fn samples_are_counted_by_slot() {
    let truth: BTreeMap<usize, Vec<String>> = [
        (0, words("<module> (x.py);one (x.py);burn (x.py)")),
        (4, words("<module> (x.py);two (x.py);burn (x.py);{libz}")),
    ]
    .into();
    let calls = Calls::of(&profile(&[
        ("<module> (x.py);one (x.py);burn (x.py)", 50),
        ("<module> (x.py);two (x.py);burn (x.py);deflate@libz.so.1", 30),
        ("<module> (x.py);two (x.py);burn (x.py)", 5),
        ("<module> (x.py);burn (x.py)", 2),
        ("<module> (x.py);two (x.py)", 40),
    ]));
    let comparison = calls.compare(&truth);
    assert_eq!([comparison.exact.count_of(0), comparison.exact.count_of(4)], [50, 30]);
    assert_eq!([comparison.without_native.count(), comparison.others.count()], [5, 2]);
    assert!((comparison.exact_share() - 80.0 / 87.0).abs() < 1e-9);
    assert!((comparison.exact.weight_ns_of(4) - 30e6).abs() < 1.0);
    assert_eq!(calls.of_pid("41").count(), 127);
    assert_eq!(calls.of_pid("42").count(), 0);
}

/// Marks of `lines.py` lie in the functions that burn there.
#[test]
fn marked_lines_are_lines_of_their_functions() {
    let marked = marked_lines("lines.py");
    assert_eq!(marked.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(marked[&6].len(), 3);
    let (calls, loops) = (lines_of("lines.py", "calls"), lines_of("lines.py", "loops"));
    for (slot, lines) in &marked {
        let function = if *slot < 3 { &calls } else { &loops };
        assert!(lines.iter().all(|line| function.contains(line)), "slot {slot}: {lines:?} {function:?}");
    }
    assert!(calls.end() < loops.start());
}

/// Runs a program on each interpreter at once until each has burnt in every one of `slots`; what they told, oldest first.
fn run_each(
    program: &str,
    arguments: &[&str],
    slots: &[usize],
) -> Vec<(Python, BTreeMap<usize, Vec<String>>)> {
    let running = Python::start_each(pythons(), program, arguments);
    for (python, target) in &running {
        support::wait_for(&format!("{program}'s slots {slots:?} on {}", python.name), || {
            let account = target.account();
            slots.iter().all(|slot| account[*slot] > 0)
        });
    }
    std::thread::sleep(Duration::from_millis(100));
    running.into_iter().map(|(python, target)| (python, chains(&target))).collect()
}

/// Every program starts on every interpreter and burns in all of its leaves.
#[test]
fn programs_burn_on_every_interpreter() {
    let programs: &[(&str, &[&str], &[usize])] = &[
        ("split.py", &[], &[0, 1, 2, 15]),
        ("torn.py", &[], &[0, 15]),
        ("lines.py", &[], &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("shapes.py", &[], &[0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
        ("callbacks.py", &[], &[0, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("recursion.py", &[], &[0]),
        ("recursion.py", &["600", "mixed"], &[0]),
        ("threads.py", &["20", "2"], &[0, 1]),
        ("coroutines.py", &[], &[0, 1, 2]),
        ("forks.py", &[], &[0, 1]),
        ("churn.py", &[], &[0]),
        ("churn.py", &["500", "reload"], &[0]),
        ("replace.py", &[], &[0, 1]),
        ("gil.py", &[], &[0, 1, 2, 3]),
        ("hostile.py", &[], &[0, 4, 5]),
    ];
    for (program, arguments, slots) in programs {
        for (python, told) in run_each(program, arguments, slots) {
            for (slot, chain) in told {
                // A program that tells chains ends them in its own frames, or in C.
                let last = chain.last().expect("chains have frames");
                assert!(
                    last.contains(".py)") || last.starts_with('{'),
                    "{} {program} {slot} {chain:?}",
                    python.name
                );
            }
        }
    }
}

/// What the interpreters tell of `shapes.py` is what its source says.
#[test]
fn shapes_tell_the_chains_of_their_source() {
    for (python, told) in run_each("shapes.py", &[], &[14]) {
        let end = |slot: usize| told[&slot][2..].join(";").replace(" (shapes.py)", "");
        let qualified = python.minor >= 11;
        let want = |before: &str, since: &str| if qualified { since.to_owned() } else { before.to_owned() };
        assert_eq!(end(4), "by_generator;numbers");
        assert_eq!(end(5), "by_yield_from;outermost;middle;innermost");
        let wrapper = want("wrapper", "decorate.<locals>.wrapper");
        assert_eq!(end(6), format!("by_decorator;{wrapper};{wrapper};decorated;burn"));
        // From 3.12 on list comprehensions are part of the function around them.
        let comprehension = if python.minor >= 12 {
            String::new()
        } else {
            want("<listcomp>;", "by_comprehension.<locals>.<listcomp>;")
        };
        assert_eq!(end(7), format!("by_comprehension;{comprehension}burn"));
        let expression = want("<genexpr>", "by_generator_expression.<locals>.<genexpr>");
        assert_eq!(end(8), format!("by_generator_expression;{expression};burn"));
        let methods =
            want("method;method;fixed;of_class", "Shape.method;Base.method;Base.fixed;Base.of_class");
        assert_eq!(end(9), format!("by_methods;{methods};burn"));
        assert_eq!(end(10), format!("by_property;{};burn", want("worth", "Shape.Inner.worth")));
        assert_eq!(end(12), "by_exec;<module> (<string>);made (<made>);inner (<made>);burn");
        assert_eq!(
            end(13),
            format!(
                "by_closure;{};burn",
                want("__init__;enclosed", "Holder.__init__;Holder.__init__.<locals>.enclosed")
            )
        );
        assert_eq!(end(14), format!("by_operator;{};burn", want("__add__", "Shape.__add__")));
    }
}
