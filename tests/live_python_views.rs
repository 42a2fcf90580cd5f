//! Claim: the options that choose what is shown of Python stacks show that and nothing else: all native frames with the
//! Python ones in their places, Python ones alone, or without files that the user does not want to see.

mod support;

use support::{
    Calls, Folded, Line, Python, Target, python_versions, record, record_json, some_pythons, turn,
};

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// `callbacks.py`, which has Python, the interpreter, C extensions, libraries and the kernel in its stacks.
fn callbacks(python: &Python) -> Target {
    let target = python.start("callbacks.py", &[]);
    support::wait_for("all kinds of calls", || target.account()[4..13].iter().all(|slot| *slot > 0));
    target
}

fn fold(target: &Target, arguments: &[&str]) -> Folded {
    let pid = target.pid();
    let mut all = vec!["-F", "999", "-d", "2s", "-p", &pid];
    all.extend_from_slice(arguments);
    record(&all).folded
}

/// Whether a folded frame reads `name (file)`, the file being Python's.
fn is_python(frame: &str) -> bool {
    let file = frame.rsplit_once(" (").and_then(|(_, file)| file.strip_suffix(')'));
    file.is_some_and(|file| file.contains(".py") || file.starts_with('<'))
}

/// The interpreter's evaluation loop, where its name is known.
fn is_loop(frame: &str) -> bool {
    frame.starts_with("_PyEval_EvalFrameDefault")
}

/// Frames read `name (file.py)` or are native and of the kernel; the test's own eye.
#[test]
fn python_frames_are_told_from_others() {
    assert!(is_python("<module> (prog.py)") && is_python("f.<locals>.<lambda> (x.py:12)"));
    assert!(is_python("made (<string>)") && is_python("_find_and_load (<frozen importlib._bootstrap>)"));
    assert!(!is_python("memcpy") && !is_python("copy_page_[k]") && !is_python("f(int (*)(char))"));
    assert!(!is_python("deflate (deflate.c:12)") && !is_python("operator() (x.cc:3)"));
}

/// By default neither the evaluation loop, nor `main`, nor anything of the interpreter is shown, but extensions,
/// libraries and the kernel are; in stacks that are whole, 99 % of them at least.
#[test]
fn interpreter_is_folded_away_by_default() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let folded = fold(&callbacks(&python), &[]);
        let name = &python.name;
        let start =
            folded.share(|line| line.frames.get(1).is_some_and(|frame| frame == "<module> (callbacks.py)"));
        // Extensions have copies of their own of what the headers define, as `PyObject_CallOneArg`.
        let shown = [
            "_PyEval_",
            "PyEval_",
            "pymain_",
            "Py_RunMain",
            "Py_BytesMain",
            "_PyFunction_",
            "__libc_start_main",
            "_start",
        ];
        // Amid the call of a function, one in 20,000, the stack says that it cannot be told which frames are Python's.
        let is_whole = |line: &Line| {
            line.frames.get(1).is_some_and(|frame| !frame.starts_with("[Python callers missing"))
        };
        let interpreter = folded.filtered(|line| {
            is_whole(line) && line.frames.iter().any(|frame| shown.iter().any(|part| frame.starts_with(part)))
        });
        println!(
            "{name:20} {start:.3} begin with <module>, {} lines show the interpreter",
            interpreter.lines.len()
        );
        if start < 0.99 || !interpreter.lines.is_empty() {
            wrong.push(format!("{name}: {start}\n{}{}", interpreter.heaviest(5), folded.heaviest(5)));
        }
        let deflating = folded.filtered(|line| line.has("by_zlib (callbacks.py)"));
        let in_library = deflating.share(|line| line.frames.last().is_some_and(|frame| !is_python(frame)));
        if deflating.total() < 50 || in_library < 0.95 {
            wrong.push(format!("{name}: {in_library} in libz\n{}", deflating.heaviest(5)));
        }
    }
    assert_none(&wrong);
}

/// `--native` shows everything from the thread's start on. Up to 3.10 each Python frame is one run of the evaluation loop;
/// from 3.11 on several may share one; in all of them the outermost is behind `main` and each callback from C has its own.
#[test]
fn native_frames_stand_between_python_frames() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let folded = fold(&callbacks(&python), &["--native"]);
        let name = &python.name;
        let start = folded.share(|line| line.reads(&["_start", "main", "Py_", "<module> (callbacks.py)"]));
        if start < 0.99 {
            wrong.push(format!("{name}: {start:.3} from the start\n{}", folded.heaviest(4)));
        }
        let burning = folded.filtered(|line| line.has("burn (callbacks.py)"));
        let between = |line: &Line, caller: &str, callee: &str| {
            let at = |part: &str| line.frames.iter().position(|frame| frame.starts_with(part));
            let (from, to) = (at(caller)?, at(callee)?);
            Some(line.frames.get(from + 1..to)?.iter().any(|frame| !is_python(frame)))
        };
        for (caller, callee) in [
            ("by_sorted ", "sort_key "),
            ("by_map ", "mapped "),
            ("by_reduce ", "combined "),
            ("by_qsort ", "compared "),
        ] {
            let of_these = burning.filtered(|line| line.has(callee));
            let good = of_these.share(|line| between(line, caller, callee) == Some(true));
            if of_these.total() < 20 || good < 0.99 {
                wrong.push(format!("{name}: {caller}… {callee}: {good:.3}\n{}", of_these.heaviest(3)));
            }
        }
        // Debian's interpreters are stripped to their exported symbols, and newer ones split the loop in two.
        if python.name.starts_with("pyenv") {
            let counts = |line: &Line| {
                let loops = line.frames.iter().filter(|frame| is_loop(frame)).count();
                let calls = line.frames.iter().filter(|frame| is_python(frame)).count();
                if python.minor < 11 { loops == calls } else { (2..=calls).contains(&loops) }
            };
            let good = burning.share(counts);
            println!("{name:20} {start:.3} from the start, {good:.3} with a loop for each");
            if good < 0.99 {
                wrong.push(format!("{name}: {good:.3} with a loop for each\n{}", burning.heaviest(4)));
            }
        }
    }
    assert_none(&wrong);
}

/// The JSON form knows the interpreter's own frames as such, and where Python ones are.
#[test]
fn kinds_are_told_in_json() {
    let Some(_turn) = turn() else { return };
    for python in some_pythons() {
        let target = callbacks(&python);
        let calls = Calls::of(&record_json(&["-F", "999", "-d", "2s", "--native", "-p", &target.pid()]));
        let share = |kind: &str| calls.share(|stack| stack.calls.iter().any(|call| call.kind == kind));
        let (python_share, interpreter) = (share("python"), share("interpreter"));
        println!("{:20} {python_share:.3} python, {interpreter:.3} interpreter", python.name);
        assert!(python_share > 0.99 && interpreter > 0.95, "{}: {}", python.name, calls.heaviest(4));
        let strange = calls.filtered(|stack| {
            stack
                .calls
                .iter()
                .any(|call| call.is_python() && (call.file.is_empty() || call.function.is_empty()))
        });
        assert_eq!(strange.count(), 0, "{}: {}", python.name, strange.heaviest(4));
    }
}

/// `--python-only` shows Python frames and nothing else, and keeps all samples.
#[test]
fn python_only_shows_python_alone() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in python_versions() {
        let target = callbacks(&python);
        let shot = record(&["-F", "999", "-d", "2s", "--python-only", "-p", &target.pid()]);
        let folded = shot.folded;
        let taken = shot
            .stderr
            .lines()
            .find_map(|line| line.trim().split_once(" samples in ")?.0.replace(',', "").parse().ok());
        let taken: u64 = taken.expect("the end line tells how many samples were taken");
        let name = &python.name;
        let other = folded.filtered(|line| line.frames[1..].iter().any(|frame| !is_python(frame)));
        let roots =
            folded.share(|line| line.frames.get(1).is_some_and(|frame| frame == "<module> (callbacks.py)"));
        let deflating =
            folded.share(|line| line.frames.last().is_some_and(|frame| frame.starts_with("by_zlib ")));
        println!("{name:20} {} samples of {taken}, {deflating:.3} in by_zlib", folded.total());
        if other.total() as f64 > folded.total() as f64 * 0.005 || roots < 0.99 || deflating < 0.03 {
            wrong.push(format!(
                "{name}: {roots:.3} from <module>\n{}{}",
                other.heaviest(4),
                folded.heaviest(4)
            ));
        }
        if folded.total() != taken {
            wrong.push(format!("{name}: {} samples of {taken}", folded.total()));
        }
    }
    assert_none(&wrong);
}

/// `--hide` leaves out Python frames by path, and those around them stay.
#[test]
fn hidden_files_are_left_out() {
    let Some(_turn) = turn() else { return };
    for python in some_pythons() {
        let target = callbacks(&python);
        let folded = fold(&target, &["--hide", "json/"]);
        let name = &python.name;
        assert!(!folded.lines.iter().any(|line| line.has("(encoder.py)")), "{name}\n{}", folded.heaviest(4));
        let around = folded.filtered(|line| line.has("stand_in (callbacks.py)"));
        let kept = around
            .share(|line| line.reads(&["<module> ", "main ", "by_json_default ", "stand_in ", "burn "]));
        assert!(around.total() > 50 && kept > 0.99, "{name}: {kept}\n{}", around.heaviest(4));
    }
}

/// `--hide imports` leaves out the import machinery of a program that imports all the time.
#[test]
fn import_machinery_is_hidden_when_asked() {
    let Some(_turn) = turn() else { return };
    for python in some_pythons() {
        let target = python.start("churn.py", &["500", "reload"]);
        let machinery = |line: &Line| line.has("importlib");
        let shown = fold(&target, &[]);
        let name = &python.name;
        assert!(shown.share(machinery) > 0.01, "{name}: imports are seen\n{}", shown.heaviest(4));
        let hidden = fold(&target, &["--hide", "imports"]);
        assert!(hidden.share(machinery) < 0.0001, "{name}\n{}", hidden.filtered(machinery).heaviest(4));
        assert!(
            hidden.share(|line| line.reads(&["<module> ", "main "])) > 0.95,
            "{name}\n{}",
            hidden.heaviest(4)
        );
    }
}
