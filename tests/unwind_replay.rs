//! Claim: real stacks, captured from running programs and judged by framehop then, are walked the same way today, on
//! any machine and without rights; and where the very binaries are there, today's rows are those of then.
//!
//! `TXPROF_BLESS_STACKS=1 cargo test --test unwind_oracle` captures them anew.

mod support;

use std::collections::BTreeMap;

use object::Object;
use support::replay::{CapturedModule, CapturedProgram, captured_path, number};
use txprof::model::Outcome;
use txprof::unwind::{FdeIndex, Rule, Table};

const PROGRAMS: [&str; 3] = ["unwind_walk", "python3", "sleep"];

fn captured(program: &str) -> CapturedProgram {
    let text = std::fs::read_to_string(captured_path(program)).expect("the fixture is in the tree");
    serde_json::from_str(&text).expect("the fixture is of this form")
}

/// Frame by frame, to the thread's start.
#[test]
fn captured_stacks_are_walked_as_then() {
    for program in PROGRAMS {
        let captured = captured(program);
        assert!(!captured.stacks.is_empty(), "{program}");
        for (index, stack) in captured.stacks.iter().enumerate() {
            let (frames, outcome) = stack.replay();
            let expected: Vec<u64> = stack.frames.iter().map(|text| number(text)).collect();
            assert_eq!((frames, outcome), (expected, Outcome::Complete), "{program}, stack {index}");
        }
    }
}

/// The rows of a file that has the build id of then; `None` where there is another one, or none.
fn table_of(module: &CapturedModule) -> Option<Table> {
    let bytes = std::fs::read(&module.path).ok()?;
    let id = object::File::parse(&*bytes).ok()?.build_id().ok()??.to_vec();
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let index = (id == module.build_id).then(|| FdeIndex::parse(&bytes).ok())??;
    Some(index.build_pages(&bytes, index.page_range()))
}

/// Where this machine has the binaries, what is compiled of them leads the walk as it did.
#[test]
fn rows_of_the_same_binaries_are_the_same() {
    let (mut compared, mut absent) = (0, 0);
    for program in PROGRAMS {
        let captured = captured(program);
        let tables: BTreeMap<&str, Option<Table>> =
            captured.modules.iter().map(|module| (module.path.as_str(), table_of(module))).collect();
        for stack in &captured.stacks {
            for address in stack.looked_up() {
                let holds = |module: &&CapturedModule| {
                    (number(&module.range.0)..number(&module.range.1)).contains(&address)
                };
                let Some(module) = captured.modules.iter().find(holds) else { continue };
                let Some(Some(table)) = tables.get(module.path.as_str()) else {
                    absent += 1;
                    continue;
                };
                let today = table.find(address.wrapping_sub(number(&module.bias))).unwrap_or(Rule::NONE);
                let then = Rule::from_bits(number(&stack.rules[&support::replay::hex(address)]));
                assert_eq!(today, then, "{program}: {} at {address:#x}", module.path);
                compared += 1;
            }
        }
    }
    println!("{compared} rules of binaries that are here agree, {absent} are of others");
}
