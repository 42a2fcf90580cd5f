//! Claim: with `--tasks`, what runs for an asyncio task stands below the task's name, from CPython 3.14 on, whose
//! threads say which task they run; other versions, and what runs between tasks, are shown as ever.

mod support;

use support::{pythons, record, turn};

/// Each named task of `tests/programs/python/coroutines.py` and the coroutine that it alone runs.
const TASKS: [(&str, &str); 3] = [("alpha", "alpha"), ("beta", "beta"), ("gamma", "gamma")];

/// Every stack that holds a task's own coroutine is of that task, and of no other.
#[test]
fn stacks_stand_below_the_name_of_their_task() {
    let Some(_turn) = turn() else { return };
    let newer: Vec<_> = pythons().into_iter().filter(|python| python.minor >= 14).collect();
    if newer.is_empty() {
        support::skip::<()>("needs a CPython 3.14 or later: run scripts/pythons");
    }
    for python in newer {
        let target = python.start("coroutines.py", &[]);
        let shot = record(&["-F", "999", "-d", "2s", "--tasks", "-p", &target.pid()]);
        for (task, coroutine) in TASKS {
            let own = shot.folded.filtered(|line| line.has(&format!("{coroutine} (coroutines.py)")));
            let named =
                own.share(|line| line.frames.iter().any(|frame| *frame == format!("task task {task}")));
            println!("{}: {coroutine}: {} samples, {:.3} below its task", python.name, own.total(), named);
            assert!(own.total() >= 50, "{}", shot.folded.heaviest(8));
            assert!(named >= 0.99, "{}: {coroutine} {named}\n{}", python.name, own.heaviest(8));
            let others = shot.folded.filtered(|line| line.frames.contains(&format!("task task {task}")));
            let foreign = TASKS.iter().filter(|(other, _)| *other != task);
            let wrong: u64 = foreign
                .map(|(_, other)| {
                    others.filtered(|line| line.has(&format!("{other} (coroutines.py)"))).total()
                })
                .sum();
            assert_eq!(wrong, 0, "{}", others.heaviest(8));
        }
    }
}

/// An interpreter that does not tell its tasks is recorded as without the option.
#[test]
fn older_interpreters_are_recorded_all_the_same() {
    let Some(_turn) = turn() else { return };
    let Some(python) = pythons().into_iter().find(|python| python.name.starts_with("system")) else { return };
    let target = python.start("coroutines.py", &[]);
    let shot = record(&["-F", "999", "-d", "1s", "--tasks", "-p", &target.pid()]);
    assert!(shot.folded.share(|line| line.has("leaf (coroutines.py)")) > 0.5, "{}", shot.folded.heaviest(8));
    assert_eq!(shot.folded.filtered(|line| line.has("task task")).total(), 0);
}
