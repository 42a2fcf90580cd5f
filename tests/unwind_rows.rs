//! The rows of real binaries against gimli: for each row of each FDE, both
//! ends of its range are stepped from with made-up registers over a made-up
//! memory, once by our rule and once by evaluating what gimli says.

use std::os::unix::fs::FileExt;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, EvaluationResult, Expression, LittleEndian, Location,
    Register, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow, Value, X86_64,
};
use object::{Object, ObjectSection};
use txprof::unwind::{FdeIndex, Registers, RuleKind, Slot, Step, Table, step};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

const FILES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib64/ld-linux-x86-64.so.2",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/usr/bin/python3",
    "/usr/lib/postgresql/15/bin/postgres",
    "/usr/sbin/nginx",
    "/usr/bin/node",
    "/proc/self/exe",
];

const STACK: u64 = 0x7ffe_0000_0000;

/// Every address of the made-up memory holds a multiple of 8 that depends on the
/// address and lies above the made-up stack pointer.
fn memory(address: u64) -> u64 {
    let mixed = (address ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    STACK + 0x10_0000_0000 + (mixed & 0xf_ffff_fff8)
}

fn made_up_registers(pc: u64) -> Registers {
    let mut values = [0; 16];
    for (number, value) in (0..).zip(values.iter_mut()) {
        *value = STACK + 0x10_0000 * (number + 1);
    }
    values[7] = STACK;
    Registers::new(pc, values)
}

/// What gimli says about the caller; `None` for what it leaves undefined or cannot evaluate.
#[derive(Debug, PartialEq)]
struct Expected {
    pc: Option<u64>,
    cfa: Option<u64>,
    rbp: Option<u64>,
    rbx: Option<u64>,
}

struct Oracle<'a> {
    section: EhFrame<Reader<'a>>,
    encoding: gimli::Encoding,
}

impl<'a> Oracle<'a> {
    fn expected(&self, row: &UnwindTableRow<usize>, frame: &Registers) -> Expected {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => u8::try_from(register.0)
                .ok()
                .and_then(|number| frame.get(number))
                .map(|value| value.wrapping_add_signed(*offset)),
            CfaRule::Expression(expression) => {
                expression.get(&self.section).ok().and_then(|ops| self.evaluate(ops, frame, None))
            }
        };
        let value = |register: Register| match (row.register(register), cfa) {
            (None | Some(RegisterRule::SameValue), _) => frame.get(register.0 as u8),
            (Some(RegisterRule::Offset(offset)), Some(cfa)) => Some(memory(cfa.wrapping_add_signed(offset))),
            (Some(RegisterRule::ValOffset(offset)), Some(cfa)) => Some(cfa.wrapping_add_signed(offset)),
            (Some(RegisterRule::Register(other)), _) => frame.get(other.0 as u8),
            (Some(RegisterRule::Expression(ops)), _) => {
                self.evaluate(ops.get(&self.section).ok()?, frame, cfa).map(memory)
            }
            (Some(RegisterRule::ValExpression(ops)), _) => {
                self.evaluate(ops.get(&self.section).ok()?, frame, cfa)
            }
            _ => None,
        };
        Expected { pc: value(X86_64::RA), cfa, rbp: value(X86_64::RBP), rbx: value(X86_64::RBX) }
    }

    fn evaluate(&self, ops: Expression<Reader<'a>>, frame: &Registers, initial: Option<u64>) -> Option<u64> {
        let mut evaluation = ops.evaluation(self.encoding);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let number = register.0 as u8;
                    let value = if register == X86_64::RA { Some(frame.pc) } else { frame.get(number) };
                    evaluation.resume_with_register(Value::Generic(value?)).ok()?
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(Value::Generic(memory(address))).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Some(address),
                _ => None,
            },
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    compared: u64,
    unsupported: u64,
    rbp_lost: u64,
    rbx_lost: u64,
    differing: u64,
}

impl Tally {
    fn compare(&mut self, table: &Table, pc: u64, expected: &Expected, is_undefined: bool) {
        let Some(rule) = table.find(pc) else { return self.differs(pc, "no row", expected) };
        self.compared += 1;
        let frame = made_up_registers(pc);
        let caller = match step(&frame, rule, true, |address| Some(memory(address))) {
            _ if rule.kind() == Some(RuleKind::Unsupported) => return self.unsupported += 1,
            Step::End if is_undefined => return,
            Step::Caller(caller) | Step::Interrupted(caller) => caller,
            other => return self.differs(pc, &format!("{other:?}"), expected),
        };
        let found =
            Expected { pc: Some(caller.pc), cfa: Some(caller.rsp()), rbp: caller.get(6), rbx: caller.get(3) };
        self.rbp_lost += u64::from(rule.rbp() == Slot::Lost);
        self.rbx_lost += u64::from(rule.rbx() == Slot::Lost);
        let same = found.pc == expected.pc
            && found.cfa == expected.cfa
            && (found.rbp == expected.rbp || rule.rbp() == Slot::Lost)
            && (found.rbx == expected.rbx || rule.rbx() == Slot::Lost);
        if !same {
            self.differs(pc, &format!("{rule:?} {found:x?}"), expected);
        }
    }

    fn differs(&mut self, pc: u64, found: &str, expected: &Expected) {
        self.differing += 1;
        if self.differing <= 5 {
            println!("  {pc:#x}: found {found}, expected {expected:x?}");
        }
    }
}

/// Compares all rows of one file; `None` when it has no `.eh_frame`.
fn compare_file(bytes: &[u8]) -> Option<Tally> {
    let index = FdeIndex::parse(bytes).expect("a sound ELF file");
    let table = index.build_pages(bytes, index.page_range());
    let elf = object::File::parse(bytes).expect("a sound ELF file");
    let section = elf.section_by_name(".eh_frame")?;
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let eh_frame = EhFrame::new(section.data().expect("section within the file"), LittleEndian);
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let oracle = Oracle { section: eh_frame, encoding };
    let mut context = UnwindContext::new();
    let mut tally = Tally::default();
    let mut entries = eh_frame.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).expect("a sound FDE");
        let mut rows = fde.rows(&eh_frame, &bases, &mut context).expect("a sound CIE");
        while let Some(row) = rows.next_row().expect("sound instructions") {
            let end = row.end_address().min(fde.initial_address() + fde.len());
            if row.start_address() >= end {
                continue;
            }
            for pc in [row.start_address(), end - 1] {
                let expected = oracle.expected(row, &made_up_registers(pc));
                let is_undefined = row.register(X86_64::RA) == Some(RegisterRule::Undefined);
                tally.compare(&table, pc, &expected, is_undefined);
            }
        }
    }
    Some(tally)
}

/// The kernel's vDSO as it lies in our own memory.
fn vdso() -> Option<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let mut bytes = vec![0; usize::try_from(end - start).ok()?];
    std::fs::File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes)
}

/// Each row of each binary that this machine has leads to the caller that gimli's evaluation gives;
/// not more than one row in a thousand (and twenty in small files) is unsupported or loses a register.
#[test]
fn rows_of_real_binaries_agree_with_gimli() {
    let files = FILES.iter().map(|path| (*path, std::fs::read(path).ok()));
    for (path, bytes) in files.chain([("[vdso]", vdso())]) {
        let Some(bytes) = bytes else {
            println!("skipped `{path}`: not on this machine");
            continue;
        };
        let Some(tally) = compare_file(&bytes) else {
            println!("skipped `{path}`: no .eh_frame");
            continue;
        };
        println!("{path}: {tally:?}");
        assert_eq!(tally.differing, 0, "`{path}`");
        let imprecise = tally.unsupported + tally.rbp_lost + tally.rbx_lost;
        assert!(imprecise * 1000 <= tally.compared.max(20_000), "`{path}`: {tally:?}");
    }
}

/// A table joined from parts, and one built page by page, say for every row what the whole one says.
#[test]
fn pages_built_alone_equal_pages_built_together() {
    for path in ["/proc/self/exe", "/usr/lib/x86_64-linux-gnu/libc.so.6"] {
        let bytes = std::fs::read(path).expect("readable");
        let index = FdeIndex::parse(&bytes).expect("a sound ELF file");
        let whole = index.build_pages(&bytes, index.page_range());
        let split = index.split(5).into_iter().map(|pages| index.build_pages(&bytes, pages));
        let single = index.page_range().map(|page| index.build_pages(&bytes, page..page + 1));
        for parts in [split.collect::<Vec<_>>(), single.collect()] {
            let joined = Table::join(parts).expect("adjacent ranges");
            assert_eq!(joined.pages, whole.pages, "`{path}`");
            assert_eq!(joined.page_range(), whole.page_range(), "`{path}`");
            for (found, expected) in joined.rows.iter().zip(&whole.rows) {
                assert_eq!(found.offset(), expected.offset());
                assert_eq!(
                    joined.rules[usize::from(found.rule())],
                    whole.rules[usize::from(expected.rule())]
                );
            }
        }
    }
}

/// A file whose section headers are stripped gives the rows of the whole file.
#[test]
fn rows_do_not_need_section_headers() {
    let mut bytes = std::fs::read("/proc/self/exe").expect("readable");
    let rows = |bytes: &[u8]| {
        let index = FdeIndex::parse(bytes).expect("a sound ELF file");
        index.build_pages(bytes, index.page_range())
    };
    let with = rows(&bytes);
    // e_shoff, then e_shnum and e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    assert_eq!(rows(&bytes), with);
    assert!(with.rows.len() > 1000);
}

/// Without the search table the walk over `.eh_frame` finds the same functions.
#[test]
fn rows_do_not_need_the_search_table() {
    let mut bytes = std::fs::read("/usr/lib/x86_64-linux-gnu/libc.so.6").expect("readable");
    let index = FdeIndex::parse(&bytes).expect("a sound ELF file");
    let with = index.build_pages(&bytes, index.page_range());
    let headers = usize::from(u16::from_le_bytes([bytes[0x38], bytes[0x39]]));
    for header in 0..headers {
        let at = 0x40 + header * 56;
        if bytes[at..at + 4] == 0x6474_e550_u32.to_le_bytes() {
            bytes[at..at + 4].fill(0);
        }
    }
    let index = FdeIndex::parse(&bytes).expect("a sound ELF file");
    assert_eq!(index.build_pages(&bytes, index.page_range()), with);
}
