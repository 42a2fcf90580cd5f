//! Claim: Python stacks stay true while the process changes under the profiler: it forks, replaces itself, generates and
//! frees code, runs further interpreters, lets go of the GIL, or destroys what is read of it.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Calls, History, Python, Stack, Target, chains, python_versions, pythons, record_burning_json,
    some_pythons, turn, txprof,
};

const EXACT: f64 = 0.995;

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Records one running target alone until it has burnt `milliseconds`: its stacks and what it burnt meanwhile.
fn see(target: &Target, arguments: &[&str], milliseconds: u64) -> (Calls, [f64; 16]) {
    let history = History::of(target);
    let pid = target.pid();
    let mut all = vec!["-p", &pid];
    all.extend_from_slice(arguments);
    let profile = record_burning_json(&[target], Duration::from_millis(milliseconds), &all);
    (Calls::of(&profile), history.burnt_ns(&profile))
}

/// Children that live for 20 ms, by multiprocessing and by os.fork without exec, are seen with their parents' calls.
#[test]
fn short_children_without_exec_are_seen() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let target = python.start("forks.py", &[]);
        let (calls, burnt_ns) = see(&target, &[], 2500);
        let comparison = calls.compare(&chains(&target));
        let (name, share) = (&python.name, comparison.exact_share());
        let others = comparison.others.heaviest(3);
        println!("{name:20} {} exact, {:.3} %, others:\n{others}", comparison.exact.count(), share * 100.0);
        if share < EXACT {
            wrong.push(format!("{name}: {share:.4} exact\n{}", comparison.others.heaviest(5)));
        }
        for (slot, burnt) in burnt_ns.iter().enumerate().take(2) {
            let found = comparison.exact.weight_ns_of(slot);
            if found < burnt * 0.85 {
                wrong.push(format!(
                    "{name}: slot {slot} seen for {:.0} ms of {:.0}",
                    found / 1e6,
                    burnt / 1e6
                ));
            }
        }
    }
    assert_none(&wrong);
}

/// What a stack says of generated functions; see `tests/programs/python/churn.py`.
#[derive(Default)]
struct Generated {
    /// Samples whose generated function has the name, the file, the line and the callee of one and the same function.
    right: u64,
    /// Samples in which they are of different ones.
    wrong: Vec<String>,
    /// Samples in a callee of generated functions, without one.
    unnamed: u64,
}

fn generated(calls: &Calls, file_changes: bool) -> Generated {
    let mut found = Generated::default();
    for stack in &calls.stacks {
        let python: Vec<&support::Call> =
            stack.calls.iter().map(AsRef::as_ref).filter(|call: &&support::Call| call.is_python()).collect();
        let Some(at) = python.iter().position(|call| call.function.starts_with("gen_")) else {
            found.unnamed += if stack.has("burn_") { stack.count } else { 0 };
            continue;
        };
        let call = python[at];
        let number: u32 = call.function["gen_".len()..].parse().unwrap_or(u32::MAX);
        let first = number % 40 + 1;
        let file = if file_changes { format!("<{}>", call.function) } else { "volatile.py".to_owned() };
        let called = python.get(at + 1).is_none_or(|next| next.function == format!("burn_{}", number % 10));
        // The first line is where a function that was just entered stands.
        let lines = [first, first + 1];
        let caller = at.checked_sub(1).is_some_and(|caller| python[caller].function == "main");
        if number < 1_000_000 && call.file.ends_with(&file) && called && caller && lines.contains(&call.line)
        {
            found.right += stack.count;
        } else {
            found.wrong.push(format!("{} ({}:{})", stack.text(), call.file, call.line));
        }
    }
    found
}

/// Functions that are generated, called once for 1.5 ms and freed, so that each takes the memory of the one before,
/// never have the name, file or line of another; nor have those of a module that is reloaded each time.
#[test]
fn freed_code_never_lends_its_name() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for (arguments, file_changes) in [(&["1500"][..], true), (&["3000", "reload"], false)] {
        let pythons = if file_changes { pythons() } else { some_pythons() };
        for pair in pythons.chunks(2) {
            let running = Python::start_each(pair.to_vec(), "churn.py", arguments);
            let pids: Vec<String> = running.iter().map(|(_, target)| target.pid()).collect();
            let pids_list = pids.join(",");
            let targets: Vec<&Target> = running.iter().map(|(_, target)| target).collect();
            let options = ["--per-thread", "--lines", "-p", &pids_list];
            let profile = record_burning_json(&targets, Duration::from_millis(2000), &options);
            for (python, target) in &running {
                let found = generated(&Calls::of(&profile).of_pid(&target.pid()), file_changes);
                let (name, unnamed) = (&python.name, found.unnamed);
                println!(
                    "{name:20} {arguments:?} {} right, {} wrong, {unnamed} unnamed",
                    found.right,
                    found.wrong.len()
                );
                if !found.wrong.is_empty() {
                    let examples: Vec<String> = found.wrong.iter().take(5).cloned().collect();
                    wrong.push(format!(
                        "{name}: {} stacks wrong\n{}",
                        found.wrong.len(),
                        examples.join("\n")
                    ));
                }
                // Which names are had in time is no matter of truth, but a profiler has most of them.
                if found.right < 500 || found.unnamed > found.right {
                    wrong.push(format!("{name} {arguments:?}: only {} named, {unnamed} not", found.right));
                }
            }
        }
    }
    assert_none(&wrong);
}

/// A process that replaces itself by another script five times a second is seen as what it is at each moment.
#[test]
fn exec_replaces_all_names() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let target = python.start("replace.py", &[]);
        support::wait_for("both scripts to have told", || chains(&target).len() == 2);
        let (calls, burnt_ns) = see(&target, &[], 2500);
        let (comparison, name) = (calls.compare(&chains(&target)), &python.name);
        let of = |stack: &Stack, file: &str| stack.python().iter().any(|label| label.ends_with(file));
        let mixed = calls.filtered(|stack| of(stack, "(replace.py)") && of(stack, "(replaced.py)"));
        if mixed.count() > 0 || comparison.exact_share() < EXACT {
            let others = comparison.others.heaviest(4);
            wrong.push(format!("{name}: {} of both scripts; others:\n{others}", mixed.count()));
        }
        for (slot, burnt) in burnt_ns.iter().enumerate().take(2) {
            let found = comparison.exact.weight_ns_of(slot);
            println!("{name:20} slot {slot} seen for {:.0} ms of {:.0}", found / 1e6, burnt / 1e6);
            if found < burnt * 0.8 {
                wrong.push(format!(
                    "{name}: slot {slot} seen for {:.0} ms of {:.0}\n{}",
                    found / 1e6,
                    burnt / 1e6,
                    calls.heaviest(4)
                ));
            }
        }
    }
    assert_none(&wrong);
}

/// With `--mode gil`, what holds the GIL is seen for as long as it burns, and what runs without it is not seen at all.
#[test]
fn gil_mode_shows_holders_alone() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let target = python.start("gil.py", &[]);
        support::wait_for("all threads to burn", || target.account()[..4].iter().all(|slot| *slot > 0));
        let (calls, burnt_ns) = see(&target, &["--mode", "gil"], 4000);
        let name = &python.name;
        let time_of =
            |function: &str| calls.filtered(|stack| stack.calls_of(function).next().is_some()).weight_ns();
        // Waiting for the GIL is not burning, and turns of 5 ms are cut off at a random place.
        for (slot, function) in [(0, "compute"), (3, "digest")] {
            let (found, burnt) = (time_of(function), burnt_ns[slot]);
            println!("{name:20} {function} {:.0} ms of {:.0}", found / 1e6, burnt / 1e6);
            if (found / burnt.max(1.0) - 1.0).abs() > 0.10 {
                wrong.push(format!(
                    "{name}: {function} seen for {:.0} ms of {:.0}",
                    found / 1e6,
                    burnt / 1e6
                ));
            }
        }
        let without = calls.filtered(|stack| {
            let inside = |call: &support::Call| {
                call.module.starts_with("libz.")
                    || (call.module.starts_with("libcrypto") && stack.has("digest_much"))
            };
            // The hash's context is made and freed with the GIL; what hashes is in none of these.
            let with_gil = |call: &support::Call| {
                ["EVP_MD_CTX_", "EVP_DigestInit", "CRYPTO_"]
                    .iter()
                    .any(|name| call.function.starts_with(name))
            };
            stack.calls.iter().any(|call| inside(call)) && !stack.calls.iter().any(|call| with_gil(call))
        });
        if without.weight_ns() > burnt_ns[1] * 0.005 {
            wrong.push(format!(
                "{name}: {} samples without the GIL\n{}",
                without.count(),
                without.heaviest(4)
            ));
        }
    }
    assert_none(&wrong);
}

/// Started by the dynamic linker rather than by the kernel, and in namespaces of its own, where its pid is 1.
#[test]
fn interpreters_started_in_other_ways_are_seen() {
    let Some(_turn) = turn() else { return };
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/python/split.py");
    for words in [
        &["/lib64/ld-linux-x86-64.so.2", "/usr/bin/python3"][..],
        &["unshare", "--pid", "--mount", "--fork", "/usr/bin/python3"],
    ] {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([program, "5"]);
        let target = Target::start_burning(command);
        let (calls, _) = see(&target, &[], 1000);
        let comparison = calls.compare(&chains(&target));
        let (exact, count) = (comparison.exact_share(), comparison.exact.count());
        println!("{words:?}: {:.3} % exact of {count}", exact * 100.0);
        assert!(exact >= 0.995 && count > 500, "{words:?}: {exact} of {count}\n{}", calls.heaviest(4));
    }
}

/// Code of another interpreter, in the same thread and in one of its own, is named as the main one's is.
#[test]
fn other_interpreters_are_seen() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        for arguments in [&[][..], &["thread"]] {
            let target = python.start_unwaited("subinterpreters.py", arguments);
            let began = Instant::now();
            while target.account()[1] == 0 && began.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if target.account()[1] == 0 {
                println!("{}: has no further interpreters", python.name);
                continue;
            }
            let (calls, burnt_ns) = see(&target, &[], 1500);
            let name = &python.name;
            let is_inside = |stack: &Stack| {
                // From 3.14 on the code is called `<script>`.
                let python = stack.python().join(";").replace("<script>", "<string>");
                python.ends_with("<module> (<string>);outer (<string>);leaf (<string>)")
            };
            let inside = calls.filtered(is_inside);
            let outside = calls.filtered(|stack| stack.calls_of("own_leaf").next().is_some());
            let other =
                calls.filtered(|stack| stack.has("leaf") && !stack.has("own_leaf") && !is_inside(stack));
            let called = inside.share(|stack| stack.calls_of("by_interpreter").next().is_some());
            println!(
                "{name:20} {arguments:?} {} inside, {called:.2} of them under their caller",
                inside.count()
            );
            // Those of the same thread stand under their caller, in its interpreter.
            if called < if arguments.is_empty() { 0.995 } else { 0.0 } {
                wrong.push(format!(
                    "{name} {arguments:?}: {called:.3} under their caller\n{}",
                    inside.heaviest(3)
                ));
            }
            // Entering, compiling and leaving are in the account too.
            if inside.weight_ns() < burnt_ns[1] * 0.85
                || outside.weight_ns() < burnt_ns[0] * 0.85
                || other.count() > 5
            {
                let (inside, outside) = (inside.weight_ns() / burnt_ns[1], outside.weight_ns() / burnt_ns[0]);
                let stacks = calls.heaviest(6);
                wrong.push(format!(
                    "{name} {arguments:?}: {inside:.2} and {outside:.2} seen, {} odd\n{stacks}",
                    other.count()
                ));
            }
        }
    }
    assert_none(&wrong);
}

/// A target that overwrites its frames, code objects, texts and thread states, and dies of it now and then: the
/// recording ends in time, in bounded memory, with names of bounded length, and counts what was lost.
#[test]
fn hostile_interpreters_are_survived() {
    let Some(_turn) = turn() else { return };
    for python in python_versions() {
        let target = python.start("hostile.py", &[]);
        let directory = support::scratch();
        let output = directory.path().join("out.json");
        let began = Instant::now();
        let run = txprof(&[
            "record",
            "-F",
            "999",
            "-d",
            "3s",
            "-p",
            &target.pid(),
            "-o",
            &output.to_string_lossy(),
        ]);
        let (name, elapsed) = (&python.name, began.elapsed());
        assert_eq!(run.code, 0, "{name}: {}", run.stderr);
        assert!(elapsed < Duration::from_secs(14), "{name}: took {elapsed:?}\n{}", run.stderr);
        let text = std::fs::read_to_string(&output).expect("the profile was written");
        let profile: serde_json::Value = serde_json::from_str(&text).expect("the profile is JSON");
        let peak =
            profile["recording"]["cost"]["peak_rss_bytes"].as_u64().expect("JSON form has this number");
        let calls = Calls::of(&profile);
        let longest =
            calls.stacks.iter().flat_map(|stack| &stack.calls).map(|call| call.function.len()).max();
        let deepest = calls.stacks.iter().map(|stack| stack.calls.len()).max().unwrap_or(0);
        let named = calls.share(|stack| stack.calls_of("burn").next().is_some());
        println!(
            "{name:20} {} samples, {named:.2} with `burn`, {:.2} complete, peak {} MiB, longest name {longest:?}, deepest {deepest}",
            calls.count(),
            calls.share(|stack| stack.complete),
            peak >> 20
        );
        assert!(peak < 256 << 20, "{name}: {} MiB", peak >> 20);
        assert!(text.len() < 64 << 20, "{name}: {} bytes", text.len());
        // What was spoilt is marked in its stack, and counted at the end.
        let spoilt = calls.share(|stack| stack.calls.iter().any(|call| call.kind == "marker"));
        let told = run.stderr.lines().any(|line| line.contains(" × Python ") || line.contains("contradict"));
        assert!(told == (spoilt > 0.0) && told, "{name}: {spoilt} marked\n{}", run.stderr);
        assert!(longest < Some(4096), "{name}: a name of {longest:?} bytes");
        assert!(
            calls.count() > 1000 && named > 0.3,
            "{name}: {named}\n{}\n{}",
            run.stderr,
            calls.heaviest(6)
        );
    }
}
