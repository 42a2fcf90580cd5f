//! Claim: Python stacks are true, on every CPython of this machine: whole, never of two moments, at the line
//! that runs, with the shares of CPU time that the program counted itself.
//!
//! Where only chains of calls are compared, the program runs on all interpreters at once and one recording
//! takes them all, told apart by their pids; what one preempts of another makes it the harder. Shares are compared on
//! targets that run alone, as `live_split` tells.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::{
    Calls, History, Python, Stack, Target, chains, lines_of, marked_lines, pythons, pythons_with_packages,
    record_burning, record_burning_json, some_pythons, turn,
};

const TOLERANCE: f64 = 0.01;
const EXACT: f64 = 0.995;

/// A program on one interpreter, what was seen of it, and what it burnt meanwhile.
struct Seen {
    python: Python,
    calls: Calls,
    burnt_ns: [f64; 16],
    chains: BTreeMap<usize, Vec<String>>,
}

/// Records `program` on all of `pythons` at once until each has burnt `milliseconds`.
fn see_each(pythons: Vec<Python>, program: &str, arguments: &[&str], milliseconds: u64) -> Vec<Seen> {
    let running = Python::start_each(pythons, program, arguments);
    let targets: Vec<&Target> = running.iter().map(|(_, target)| target).collect();
    let pids: Vec<String> = targets.iter().map(|target| target.pid()).collect();
    let pids = pids.join(",");
    let histories: Vec<History> = targets.iter().map(|target| History::of(target)).collect();
    let mut options = vec!["--per-thread", "-p", &pids];
    // Native lines cost much and tell nothing here.
    options.extend(program.starts_with("lines").then_some("--lines"));
    let profile = record_burning_json(&targets, Duration::from_millis(milliseconds), &options);
    let calls = Calls::of(&profile);
    let seen = running.into_iter().zip(histories).map(|((python, target), history)| Seen {
        calls: calls.of_pid(&target.pid()),
        burnt_ns: history.burnt_ns(&profile),
        chains: chains(&target),
        python,
    });
    seen.collect()
}

/// As [`see_each`], of one interpreter after the other.
fn see_alone(pythons: Vec<Python>, program: &str, milliseconds: u64) -> impl Iterator<Item = Seen> {
    pythons.into_iter().flat_map(move |python| see_each(vec![python], program, &[], milliseconds))
}

/// Fails with all of `wrong` at once, so that one run tells about all interpreters.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is wrong with the chains of one interpreter: leaves' samples that follow no chain wholly, and leaves that
/// were seen for less than `least` of the time that they burnt.
fn wrong_chains(seen: &Seen, least: f64) -> Vec<String> {
    let comparison = seen.calls.compare(&seen.chains);
    let (name, share) = (&seen.python.name, comparison.exact_share());
    println!("{name:20} {} samples of leaves exact, {:.3} %", comparison.exact.count(), share * 100.0);
    let mut wrong = Vec::new();
    if share < EXACT {
        wrong.push(format!("{name}: {share:.4} exact; others:\n{}", comparison.others.heaviest(4)));
    }
    for (slot, chain) in &seen.chains {
        // Threads may have the same chain; what follows it is counted for the first.
        let same = seen.chains.iter().filter(|(_, other)| *other == chain).map(|(slot, _)| *slot);
        let slots: Vec<usize> = same.collect();
        let burnt: f64 = slots.iter().map(|slot| seen.burnt_ns[*slot]).sum();
        let found = comparison.exact.weight_ns_of(*slot);
        if slots[0] == *slot && found < burnt * least {
            wrong.push(format!("{name}: slot {slot} seen for {:.0} ms of {:.0}", found / 1e6, burnt / 1e6));
        }
    }
    if !wrong.is_empty() {
        wrong.push(seen.calls.heaviest(4));
    }
    wrong
}

/// Two chains of three calls alternate some five million times a second: no stack has calls of both, nor one without its caller.
#[test]
fn no_stack_is_of_two_moments() {
    let Some(_turn) = turn() else { return };
    let possible: Vec<Vec<String>> = ["a", "b"]
        .iter()
        .map(|chain| {
            let calls = (1..=3).map(|depth| format!("{chain}{depth} (torn.py)"));
            ["<module> (torn.py)".to_owned(), "main (torn.py)".to_owned()].into_iter().chain(calls).collect()
        })
        .collect();
    let mut wrong = Vec::new();
    // Two at a time have a CPU each: 1,500 samples in 1.5 s and what starting takes.
    for pair in pythons().chunks(2) {
        for seen in see_each(pair.to_vec(), "torn.py", &[], 1500) {
            let name = &seen.python.name;
            let is_possible = |stack: &Stack| {
                let python = stack.python();
                !python.is_empty() && possible.iter().any(|chain| chain.starts_with(&python))
            };
            let whole = seen.calls.filtered(|stack| stack.complete || !stack.python().is_empty());
            let impossible = whole.filtered(|stack| !is_possible(stack));
            let deep = seen.calls.share(|stack| stack.python().len() > 2);
            println!(
                "{name:20} {} samples, {} impossible, {deep:.2} deep",
                seen.calls.count(),
                impossible.count()
            );
            if impossible.count() > 0 {
                wrong.push(format!(
                    "{name}: {} impossible stacks:\n{}",
                    impossible.count(),
                    impossible.heaviest(4)
                ));
            }
            if seen.calls.count() < 800 || seen.calls.share(is_possible) < EXACT || deep < 0.2 {
                let text = seen.calls.heaviest(4);
                wrong.push(format!("{name}: {} samples, {deep:.2} in calls\n{text}", seen.calls.count()));
            }
        }
    }
    assert_none(&wrong);
}

/// The folded form, as the command line gives it by default: the process, `<module>`, sixty recursions, the leaf, or fewer
/// recursions on the way there or back, some 0.3 % of the time; no frame of the interpreter or of the thread's start; and the
/// shares are those that the program counted, to one point.
#[test]
fn shares_are_true_and_folded_lines_are_python() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in pythons() {
        let target = python.start("split.py", &[]);
        let history = History::of(&target);
        let profile = record_burning_json(&[&target], Duration::from_secs(5), &["-p", &target.pid()]);
        let name = &python.name;
        wrong.extend(split_errors(name, &Calls::of(&profile), &history.burnt_ns(&profile)));
        let shot = record_burning(&[&target], Duration::from_secs(1), &["-p", &target.pid()]);
        let recursions = vec!["recurse (split.py)"; 60];
        let formed = shot.folded.share(|line| {
            let frames: Vec<&str> = line.frames.iter().map(String::as_str).collect();
            let begins = frames.len() >= 3
                && frames[0].starts_with("python3")
                && frames[1..3] == ["<module> (split.py)", "main (split.py)"];
            let is_leaf = |frame: &str| frame.starts_with("leaf_") && frame.ends_with(" (split.py)");
            begins
                && match frames.len() {
                    ..64 => frames[3..] == recursions[..frames.len() - 3],
                    _ => frames[3..63] == recursions && is_leaf(frames[63]),
                }
        });
        let whole = shot.folded.share(|line| line.frames.len() >= 64);
        println!("{name:20} {formed:.4} well formed, {whole:.4} in a leaf");
        if formed < EXACT || whole < 0.98 {
            wrong.push(format!("{name}: {formed:.4} well formed\n{}", shot.folded.heaviest(5)));
        }
    }
    assert_none(&wrong);
}

fn split_errors(name: &str, calls: &Calls, burnt_ns: &[f64; 16]) -> Vec<String> {
    let burnt: f64 = burnt_ns[..3].iter().sum();
    let mut wrong = Vec::new();
    for (slot, leaf) in ["leaf_60", "leaf_30", "leaf_10"].iter().enumerate() {
        let (seen, expected) = (calls.share(|stack| stack.has(leaf)), burnt_ns[slot] / burnt);
        println!("{name:20} {leaf} {:6.2} % expected {:6.2} %", seen * 100.0, expected * 100.0);
        if (seen - expected).abs() > TOLERANCE {
            wrong.push(format!("{name}: {leaf} {:.2} %, should be {:.2} %", seen * 100.0, expected * 100.0));
        }
    }
    wrong
}

/// The line of a frame is the one that runs there: for callers, for bytecode, and under C. Shares by line are those
/// that the program counted, to one point, and no line is seen that the function does not have.
#[test]
fn lines_are_those_that_run() {
    let Some(_turn) = turn() else { return };
    let marked = marked_lines("lines.py");
    let mut wrong = Vec::new();
    for seen in see_alone(pythons(), "lines.py", 4000) {
        let total = seen.calls.weight_ns();
        let burnt: f64 = seen.burnt_ns[..4].iter().sum();
        let name = &seen.python.name;
        let mut unmarked: f64 = 1.0;
        for (slot, lines) in &marked {
            let function = if *slot < 3 { "calls" } else { "loops" };
            let at = |stack: &Stack| stack.calls_of(function).any(|call| lines.contains(&call.line));
            let (share, expected) = (seen.calls.share(at), seen.burnt_ns[*slot] / burnt);
            unmarked -= share;
            println!("{name:20} slot {slot} {:6.2} % expected {:6.2} %", share * 100.0, expected * 100.0);
            if (share - expected).abs() > TOLERANCE {
                wrong.push(format!(
                    "{name}: slot {slot} {:.2} %, should be {:.2} %",
                    share * 100.0,
                    expected * 100.0
                ));
            }
        }
        if unmarked > TOLERANCE {
            wrong.push(format!("{name}: {:.2} % at other lines", unmarked * 100.0));
        }
        for function in ["calls", "loops", "main", "inner", "spent"] {
            let own = lines_of("lines.py", function);
            let foreign = |stack: &Stack| stack.calls_of(function).any(|call| !own.contains(&call.line));
            let strange = seen.calls.filtered(foreign);
            if strange.count() > 0 {
                let line = strange
                    .stacks
                    .iter()
                    .flat_map(|stack| stack.calls_of(function))
                    .map(|call| call.line)
                    .max();
                wrong.push(format!(
                    "{name}: {} samples of {function} at line {line:?}, not {own:?}",
                    strange.count()
                ));
            }
        }
        if total < burnt * 0.9 {
            wrong.push(format!(
                "{name}: {:.1} s seen of {:.1}\n{}",
                total / 1e9,
                burnt / 1e9,
                seen.calls.heaviest(5)
            ));
        }
    }
    assert_none(&wrong);
}

/// `--lines` writes the line into the folded form, as `name (file.py:123)`.
#[test]
fn folded_lines_have_line_numbers_when_asked() {
    let Some(_turn) = turn() else { return };
    let python = some_pythons().pop().expect("there is an interpreter");
    let target = python.start("split.py", &["3"]);
    let shot = record_burning(&[&target], Duration::from_secs(1), &["-p", &target.pid(), "--lines"]);
    let own = lines_of("split.py", "leaf_60");
    let line_of =
        |frame: &String| frame.strip_prefix("leaf_60 (split.py:")?.strip_suffix(')')?.parse::<u32>().ok();
    let of_leaf = shot.folded.filtered(|line| line.has("leaf_60"));
    let numbered =
        of_leaf.share(|line| line.frames.iter().filter_map(line_of).any(|number| own.contains(&number)));
    assert!(of_leaf.total() > 300 && numbered > EXACT, "{numbered}\n{}", shot.folded.heaviest(5));
}

/// Generators, `yield from`, decorators, comprehensions, methods of all kinds, lambdas, exec'ed code, closures and
/// operators: the chain of calls is the one that the interpreter itself tells.
#[test]
fn chains_of_every_shape_are_exact() {
    let Some(_turn) = turn() else { return };
    let seen = see_each(pythons(), "shapes.py", &[], 1500);
    assert_none(&seen.iter().flat_map(|seen| wrong_chains(seen, 0.6)).collect::<Vec<_>>());
}

/// numpy sorts, multiplies in the BLAS and calls back: shares to one point, and its C stands under what called it. Where four
/// seconds disagree, which they may by chance on a busy machine, twenty more decide.
#[test]
fn numpy_stands_under_its_callers() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for seen in see_alone(pythons_with_packages(), "arrays.py", 4000) {
        if wrong_arrays(&seen).is_empty() {
            continue;
        }
        println!("{} again, for longer", seen.python.name);
        let again = see_each(vec![seen.python], "arrays.py", &[], 20_000);
        wrong.extend(again.iter().flat_map(wrong_arrays));
    }
    assert_none(&wrong);
}

fn wrong_arrays(seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let comparison = seen.calls.compare(&seen.chains);
    let burnt: f64 = seen.burnt_ns[..3].iter().sum();
    let name = &seen.python.name;
    for (slot, leaf) in ["order", "product", "scaled"].iter().enumerate() {
        let share = seen.calls.share(|stack| stack.calls_of(leaf).next().is_some());
        let expected = seen.burnt_ns[slot] / burnt;
        let (exact, without) = (comparison.exact.count_of(slot), comparison.without_native.count_of(slot));
        let told = format!(
            "{name:20} {leaf:8} {share:.3} expected {expected:.3}; {exact} exact, {without} without their C"
        );
        println!("{told}");
        // What Python does between the calls of C is little.
        if (share - expected).abs() > TOLERANCE || without as f64 > (exact + without) as f64 * 0.03 {
            wrong.push(format!("{told}\n{}", seen.calls.heaviest(6)));
        }
    }
    let others = comparison.others.count() as f64;
    if others > seen.calls.count() as f64 * (1.0 - EXACT) {
        wrong.push(format!("{name}: {others} others\n{}", comparison.others.heaviest(6)));
    }
    wrong
}

/// Python calls C calls Python: sorted, map, filter, reduce, re.sub, json and the C library's qsort stand where they
/// were called; and what burns in C (json, libz, OpenSSL) stands under the function that called it.
#[test]
fn calls_through_c_stand_in_their_order() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for seen in see_each(pythons(), "callbacks.py", &[], 2000) {
        let comparison = seen.calls.compare(&seen.chains);
        let name = &seen.python.name;
        for slot in seen.chains.keys() {
            let (exact, without) =
                (comparison.exact.count_of(*slot), comparison.without_native.count_of(*slot));
            // What burns in C is for moments elsewhere: the interpreter makes room for its results.
            let allowed = if (10..=12).contains(slot) { 0.10 } else { 0.005 };
            println!("{name:20} slot {slot:2}: {exact} exact, {without} without their C");
            let (found, burnt) = (comparison.exact.weight_ns_of(*slot), seen.burnt_ns[*slot]);
            if without as f64 > (exact + without) as f64 * allowed || found < burnt * 0.6 {
                wrong.push(format!(
                    "{name}: slot {slot} ({}) {exact} exact, {without} without their C; {:.0} ms of {:.0}",
                    seen.chains[slot].join(";"),
                    found / 1e6,
                    burnt / 1e6
                ));
            }
        }
        let others = comparison.others.count() as f64;
        if others > seen.calls.count() as f64 * (1.0 - EXACT) {
            wrong.push(format!("{name}: {others} others\n{}", comparison.others.heaviest(4)));
        }
    }
    assert_none(&wrong);
}

/// 900 recursions are 900 frames, in Python alone and through 600 calls of `map`, each an evaluation loop of its own.
#[test]
fn deep_recursion_is_complete() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for arguments in [&["900"][..], &["600", "mixed"]] {
        for seen in see_each(some_pythons(), "recursion.py", arguments, 800) {
            // Stacks of up to 4,000 frames fill the ring of a busy machine; what is lost then is no lie.
            let mut found = wrong_chains(&seen, 0.3);
            found.iter_mut().for_each(|text| text.insert_str(0, &format!("{arguments:?} ")));
            wrong.extend(found);
        }
    }
    assert_none(&wrong);
}

/// Coroutines that await one another are a chain of calls under the event loop, for each task its own.
#[test]
fn await_chains_are_exact() {
    let Some(_turn) = turn() else { return };
    let seen = see_each(pythons(), "coroutines.py", &[], 1200);
    assert_none(&seen.iter().flat_map(|seen| wrong_chains(seen, 0.85)).collect::<Vec<_>>());
}

/// Each target's account alone says how long a thread burnt: the threads have the names that `threading` gave them, also
/// those too long for the kernel, and sleepers are seen on a CPU for no longer than they woke.
#[test]
fn threads_have_the_names_of_threading() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for seen in see_each(pythons(), "threads.py", &["128", "2"], 1500) {
        let name = &seen.python.name;
        wrong.extend(wrong_chains(&seen, 0.85));
        let burnt: f64 = seen.burnt_ns[..3].iter().sum();
        for slot in 0..2 {
            let thread = format!("burner with a long name {slot}");
            let share = seen.calls.share(|stack| stack.thread == thread);
            let expected = seen.burnt_ns[slot] / burnt;
            if (share - expected).abs() > 0.05 {
                wrong.push(format!("{name}: `{thread}` {share:.3}, should be {expected:.3}"));
            }
        }
        let awake = seen.calls.share(|stack| !stack.thread.starts_with("burner"));
        let expected = seen.burnt_ns[2] / burnt;
        // They are woken by the timers' interrupt, in which the sampling one may come before they run: seen less, not more.
        if awake > expected + 0.02 || awake < expected * 0.4 {
            let threads: Vec<&String> = seen.calls.stacks.iter().map(|stack| &stack.thread).take(8).collect();
            wrong.push(format!(
                "{name}: {awake:.3} of other threads, should be {expected:.3}, among {threads:?}"
            ));
        }
    }
    assert_none(&wrong);
}

/// The same in the folded form: the second frame is the thread.
#[test]
fn folded_roots_are_threads_by_name() {
    let Some(_turn) = turn() else { return };
    let python = some_pythons().pop().expect("there is an interpreter");
    let target: Target = python.start("threads.py", &["4", "1"]);
    let shot = record_burning(&[&target], Duration::from_secs(1), &["-p", &target.pid(), "--per-thread"]);
    let named = shot.folded.share(|line| {
        line.frames.len() > 2
            && line.frames[1].contains("burner with a long name 0")
            && line.frames[2].contains("_bootstrap (threading.py)")
    });
    assert!(named > 0.97, "{named}\n{}", shot.folded.heaviest(5));
}
