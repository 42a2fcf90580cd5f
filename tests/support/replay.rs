//! Stacks that were captured once: what the walk read of registers, memory and rules, and the frames that framehop
//! found in the same memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use txprof::model::Outcome;
use txprof::unwind::{Registers, Rule, walk};

/// One stack. Addresses are those of the process; numbers are hexadecimal texts, to be read by people.
#[derive(Debug, Serialize, Deserialize)]
pub struct CapturedStack {
    /// The interrupted pc.
    pub pc: String,
    /// The registers in the order of DWARF's numbers.
    pub registers: Vec<String>,
    /// The words that the walk reads.
    pub memory: BTreeMap<String, String>,
    /// The rules that it asks for, as words.
    pub rules: BTreeMap<String, String>,
    /// The pcs from leaf to root.
    pub frames: Vec<String>,
}

/// Those of one program, with its modules.
#[derive(Debug, Serialize, Deserialize)]
pub struct CapturedProgram {
    /// What was mapped where.
    pub modules: Vec<CapturedModule>,
    /// The stacks.
    pub stacks: Vec<CapturedStack>,
}

/// An executable mapping.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CapturedModule {
    /// The file.
    pub path: String,
    /// Its build id.
    pub build_id: String,
    /// Its first address and the first behind it.
    pub range: (String, String),
    /// Address in memory minus address in the file.
    pub bias: String,
}

/// As stored.
pub fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// The value of such a text.
pub fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("fixtures hold hexadecimal numbers")
}

/// Where the stacks of `program` are kept.
pub fn captured_path(program: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/stacks/{program}.json"))
}

impl CapturedStack {
    /// Walks from `first` and takes down all that is read; `frames` are what the judge found.
    pub fn capture(
        first: Registers,
        rule: impl Fn(u64) -> Rule,
        read: impl Fn(u64) -> Option<u64>,
        frames: &[u64],
    ) -> Self {
        let (memory, rules) = (RefCell::new(BTreeMap::new()), RefCell::new(BTreeMap::new()));
        let find_rule = |address| {
            let rule = rule(address);
            rules.borrow_mut().insert(hex(address), hex(rule.to_bits()));
            Ok(rule)
        };
        let read = |address| {
            let word = read(address)?;
            memory.borrow_mut().insert(hex(address), hex(word));
            Some(word)
        };
        let _frames_are_compared_when_replayed = walk(first, 1024, find_rule, read);
        Self {
            pc: hex(first.pc),
            registers: (0..16).map(|number| hex(first.get(number).unwrap_or(0))).collect(),
            memory: memory.into_inner(),
            rules: rules.into_inner(),
            frames: frames.iter().map(|pc| hex(*pc)).collect(),
        }
    }

    /// The pcs that the walk finds now, and how it ends.
    pub fn replay(&self) -> (Vec<u64>, Outcome) {
        let mut values = [0; 16];
        values.iter_mut().zip(&self.registers).for_each(|(slot, text)| *slot = number(text));
        let rule = |address| {
            let bits = self.rules.get(&hex(address)).ok_or(Outcome::TableNotLoaded)?;
            Ok(Rule::from_bits(number(bits)))
        };
        let read = |address| self.memory.get(&hex(address)).map(|text| number(text));
        let (frames, outcome) = walk(Registers::new(number(&self.pc), values), 1024, rule, read);
        (frames.iter().map(|frame| frame.pc).collect(), outcome)
    }

    /// The addresses that rules are asked for.
    pub fn looked_up(&self) -> BTreeSet<u64> {
        self.rules.keys().map(|text| number(text)).collect()
    }
}
