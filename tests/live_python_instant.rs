//! Claim: the walk along an interpreter's frames, in the interrupt, is frame-exact. The thread is stopped
//! before its next instruction and its frames are read from outside.

#![cfg(feature = "bpf")]

mod instant;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use instant::{Account, Instants, Trapped};
use support::{pythons, turn};

/// Stacks of each program on each interpreter; `TXPROF_ORACLE_STACKS` makes it any other number.
const STACKS: u64 = 500;

/// Of those that are said to be complete.
const EXACT: f64 = 0.999;

/// Every kind of frame, C between Python, deep ones, generators that await, and threads that fight for the lock.
const PROGRAMS: [(&str, &[&str]); 5] = [
    ("shapes.py", &[]),
    ("callbacks.py", &[]),
    ("recursion.py", &["200", "mixed"]),
    ("coroutines.py", &[]),
    ("threads.py", &["4", "3", "10"]),
];

/// Of all stacks, those that are said to be complete. The rest was caught as its first frame was being entered.
const COMPLETE: f64 = 0.99;

/// At least 99.9 % of the stacks that the walk holds to be complete are the same frame by frame: code object, its content,
/// offset of the instruction, which frames entered the loop from C, and whether the thread held the lock. The others
/// are so as far as they go. The native leaf is where the thread was stopped, each time; and a stack is hardly ever
/// that of the stop before, so that another instant would be noticed.
#[test]
fn python_frames_are_those_of_the_stopped_thread() {
    let Some(_turn) = turn() else { return };
    let wanted = std::env::var("TXPROF_ORACLE_STACKS").ok();
    let wanted = wanted.map_or(STACKS, |wanted| wanted.parse().expect("TXPROF_ORACLE_STACKS is a number"));
    let mut instants = Instants::open();
    let mut versions: BTreeMap<u8, Account> = BTreeMap::new();
    println!("{:36} {}", "interpreter and program", Account::HEAD);
    for python in pythons() {
        for (program, arguments) in PROGRAMS {
            let target = python.start(program, arguments);
            let pid = target.pid().parse().expect("pids are numbers");
            let mut account = Account::default();
            let limit = Duration::from_millis(20_000 + 10 * wanted);
            Trapped::seize(pid, &mut instants).judge(wanted, limit, &mut account);
            println!("{:36} {account}", format!("{} {program}", python.name));
            assert!(account.stacks() >= wanted, "too few for a judgement");
            versions.entry(python.minor).or_default().sum(&account);
        }
    }
    for (minor, account) in &versions {
        println!("{:36} {account}", format!("CPython 3.{minor}"));
    }
    for (minor, account) in versions {
        assert!(account.exact_share() >= EXACT, "3.{minor}: {account}");
        assert!(account.complete_share() >= COMPLETE, "3.{minor}: {account}");
        assert!(account.apart_share() > 0.5, "3.{minor}: instants look alike: {account}");
        assert!(account.lonely * 100 < account.stacks(), "3.{minor}: stops without a sample: {account}");
    }
}
