//! Line tables of real code against what the interpreter itself says of every
//! instruction in it.

mod support;

use support::readable_pythons;
use txprof::unwind::python::{Version, line_table};

/// Of the standard library: long, and of every form of statement.
const MODULES: [&str; 8] = [
    "argparse",
    "json.decoder",
    "asyncio.base_events",
    "dataclasses",
    "inspect",
    "typing",
    "tarfile",
    "xml.etree.ElementTree",
];
/// Instructions of them all: 3.7 has 45,000.
const MANY: usize = 40_000;

/// A code object as `line_tables.py` tells it.
struct Code {
    first_line: u32,
    table: Vec<u8>,
    /// Of each two bytes.
    lines: Vec<Option<u32>>,
}

fn code(line: &str) -> Code {
    let mut fields = line.split(' ');
    let mut field = || fields.next().expect("three fields");
    let first_line = field().parse().expect("a line");
    let hex = field().strip_prefix('=').expect("a table").as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
    let table = hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    let lines = field().split(',').filter(|line| !line.is_empty());
    Code { first_line, table, lines: lines.map(|line| line.parse().ok()).collect() }
}

/// Every instruction of eight modules and of made-up sources, on every interpreter here. Where the table is cut
/// short, an instruction has its line or, from 3.10 on, none.
#[test]
fn lines_are_those_that_the_interpreter_tells() {
    let script = include_str!("programs/python/line_tables.py");
    for python in readable_pythons() {
        let version = Version { major: 3, minor: python.minor, micro: 0 };
        let told = python.print(script, &MODULES);
        let codes: Vec<Code> = told.lines().map(code).collect();
        let mut instructions = 0;
        for (number, code) in codes.iter().enumerate() {
            for (expected, offset) in code.lines.iter().zip((0..).step_by(2)) {
                let seen = line_table::line(version, &code.table, code.first_line, offset);
                assert_eq!(seen, *expected, "{}: code object {number}, offset {offset}", python.name);
                let cut = &code.table[..code.table.len() * 2 / 3];
                let seen = line_table::line(version, cut, code.first_line, offset);
                assert!(python.minor < 10 || seen.is_none() || seen == *expected, "{}: cut", python.name);
                instructions += 1;
            }
        }
        println!("{}: {} code objects, {instructions} instructions", python.name, codes.len());
        assert!(instructions > MANY, "{}: {instructions} instructions", python.name);
    }
}
