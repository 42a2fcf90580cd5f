//! Hand-made files, each with one form of CFI or of machine code, against the
//! rule that it must become; and mutilated files, which must do no harm.

use proptest::prelude::*;
use txprof::unwind::{FdeIndex, Rule, RuleKind, Slot, Table, codec};

const BASE: u64 = 0x40_0000;
/// Where the code begins in the hand-made files, and how long it is.
const CODE: usize = 0x1000;
const CODE_BYTES: usize = 0x200;
const FRAMES: usize = 0x200;

/// DW_CFA_def_cfa rsp+8; DW_CFA_offset ra at CFA-8.
const USUAL_CIE: &[u8] = &[0x0c, 7, 8, 0x90, 1];

fn entry(id: u32, body: &[u8]) -> Vec<u8> {
    let mut body = [&id.to_le_bytes(), body].concat();
    body.resize(body.len().next_multiple_of(8) + 4, 0);
    [&(body.len() as u32).to_le_bytes(), &*body].concat()
}

/// An ELF file without section headers: one executable segment with `code`, and an `.eh_frame` found
/// through its header, with one CIE and one FDE for each of `fdes` (offset in the code, length, instructions).
fn elf(augmentation: &str, cie: &[u8], fdes: &[(u32, u32, &[u8])], code: &[u8]) -> Vec<u8> {
    let mut frames = vec![];
    let mut body = vec![1];
    body.extend(augmentation.as_bytes());
    body.extend([0, 1, 0x78, 16, 1, 0x1b]);
    body.extend(cie);
    frames.extend(entry(0, &body));
    for (start, len, instructions) in fdes {
        let field = FRAMES + frames.len() + 8;
        let distance = (CODE as u32 + start).wrapping_sub(field as u32);
        let body = [&distance.to_le_bytes()[..], &len.to_le_bytes(), &[0], instructions].concat();
        frames.extend(entry(frames.len() as u32 + 4, &body));
    }
    frames.extend([0; 4]);
    let hdr_at = 0x180_usize;
    let hdr = [&[1, 0x1b, 0xff, 0xff][..], &((FRAMES - hdr_at - 4) as u32).to_le_bytes()].concat();

    let mut bytes = vec![0; CODE + CODE_BYTES];
    bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let put =
        |bytes: &mut Vec<u8>, at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(&mut bytes, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut bytes, 24, &(BASE + CODE as u64 + 0x100).to_le_bytes());
    put(&mut bytes, 32, &64_u64.to_le_bytes());
    put(&mut bytes, 52, &[64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
    let segments = [(1_u32, 4_u32, 0, CODE), (1, 5, CODE, CODE_BYTES), (0x6474_e550, 4, hdr_at, hdr.len())];
    for (number, (kind, flags, at, len)) in segments.into_iter().enumerate() {
        let words = [at as u64, BASE + at as u64, BASE + at as u64, len as u64, len as u64, 8];
        let header =
            [&kind.to_le_bytes()[..], &flags.to_le_bytes(), &words.map(u64::to_le_bytes).concat()].concat();
        put(&mut bytes, 64 + 56 * number, &header);
    }
    put(&mut bytes, hdr_at, &hdr);
    put(&mut bytes, FRAMES, &frames);
    put(&mut bytes, CODE, code);
    bytes
}

fn table(elf: &[u8]) -> Table {
    let index = FdeIndex::parse(elf).expect("a sound ELF file");
    index.build_pages(elf, index.page_range())
}

fn rule_at(table: &Table, offset: u64) -> Rule {
    table.find(BASE + CODE as u64 + offset).expect("inside the code")
}

/// The rule of a function whose FDE has these instructions.
fn rule_of(instructions: &[u8]) -> Rule {
    rule_at(&table(&elf("zR", USUAL_CIE, &[(0, 32, instructions)], &[])), 0)
}

/// A push, a frame pointer and the epilogue give CFA and slots; behind the function there is no rule.
#[test]
fn ordinary_function_becomes_rows() {
    // push rbp; mov rsp, rbp; push rbx; …; remember; pop both; restore.
    let instructions = [
        0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x41, 0x83, 3, 0x0a, 0x44, 0xc3, 0xc6, 0x0c, 7, 8, 0x41, 0x0b,
    ];
    let table = table(&elf("zR", USUAL_CIE, &[(16, 32, &instructions)], &[]));
    let rule = |register, offset, rbp, rbx| Rule::cfa_register(register, offset).with_rbp(rbp).with_rbx(rbx);
    assert_eq!(rule_at(&table, 0), Rule::NONE);
    assert_eq!(rule_at(&table, 16), rule(7, 8, Slot::Same, Slot::Same));
    assert_eq!(rule_at(&table, 17), rule(7, 16, Slot::At(-2), Slot::Same));
    assert_eq!(rule_at(&table, 20), rule(6, 16, Slot::At(-2), Slot::Same));
    assert_eq!(rule_at(&table, 24), rule(6, 16, Slot::At(-2), Slot::At(-3)));
    assert_eq!(rule_at(&table, 25), rule(7, 8, Slot::Same, Slot::Same));
    assert_eq!(rule_at(&table, 26), rule(6, 16, Slot::At(-2), Slot::At(-3)));
    assert_eq!(rule_at(&table, 47), rule(6, 16, Slot::At(-2), Slot::At(-3)));
    assert_eq!(rule_at(&table, 48), Rule::NONE);
}

/// The expression that linkers write for lazy-binding stubs, with any threshold.
#[test]
fn linkage_table_expression_becomes_the_stub_rule() {
    for push_end in [9, 10, 11] {
        let form = [0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x30 + push_end, 0x2a, 0x33, 0x24, 0x22];
        assert_eq!(rule_of(&form), Rule::plt(push_end));
    }
}

/// gcc's realigned stack: CFA loaded from below rbp, rbp at rbp, rbx told from rbp.
#[test]
fn realigned_stack_counts_from_rbp() {
    let form = [0x10, 6, 2, 0x76, 0, 0x0f, 3, 0x76, 0x78, 0x06, 0x10, 3, 2, 0x76, 0x70];
    let rule = rule_of(&form);
    assert_eq!(rule.kind(), Some(RuleKind::CfaDerefRbp { load_offset: -8, add: 0 }));
    assert_eq!((rule.rbp(), rule.rbx()), (Slot::At(0), Slot::At(-2)));
}

/// OpenSSL's assembly keeps the caller's stack pointer in its frame.
#[test]
fn saved_stack_pointer_is_loaded_from_the_frame() {
    let form = [0x0f, 6, 0x77, 0xc0, 0x00, 0x06, 0x23, 8, 0x83, 2];
    let rule = rule_of(&form);
    assert_eq!(rule.kind(), Some(RuleKind::CfaDerefRsp { load_offset: 64, add: 8 }));
    assert_eq!((rule.rbp(), rule.rbx()), (Slot::Same, Slot::At(-2)));
}

/// glibc's trampoline is a signal frame only with both the augmentation and the kernel's layout.
#[test]
fn trampoline_becomes_the_signal_rule() {
    let form = [0x0f, 4, 0x77, 0xa0, 0x01, 0x06, 0x10, 16, 3, 0x77, 0xa8, 0x01];
    let rule = |augmentation| rule_at(&table(&elf(augmentation, USUAL_CIE, &[(0, 32, &form)], &[])), 0);
    assert_eq!(rule("zRS"), Rule::SIGNAL);
    assert_eq!(rule("zR"), Rule::UNSUPPORTED);
}

/// Undefined return address: the end. Elsewhere than at CFA - 8: unsupported, and counted as that.
#[test]
fn return_address_decides() {
    assert_eq!(rule_of(&[0x07, 16]), Rule::END);
    assert_eq!(rule_of(&[0x90, 2]), Rule::UNSUPPORTED);
    let table = table(&elf("zR", USUAL_CIE, &[(0, 32, &[0x90, 2])], &[]));
    assert_eq!(table.stats.unsupported_rows, [0, 0, 1, 0, 0, 0, 0, 0]);
}

/// glibc's vfork: `pop %rdi`, behind which its return address (16) is in rdi (5) and its CFA is rsp. With anything
/// saved beside that, or a CFA elsewhere, there is no rule.
#[test]
fn return_address_in_a_register_becomes_its_rule() {
    assert_eq!(rule_of(&[0x0e, 0, 0x09, 16, 5]), Rule::return_register(5, 0));
    assert_eq!(rule_of(&[0x0e, 0, 0x09, 16, 5, 0x86, 2]), Rule::UNSUPPORTED);
    assert_eq!(rule_of(&[0x0c, 6, 0, 0x09, 16, 5]), Rule::UNSUPPORTED);
}

/// Undefined, value, register and far-away rules of a callee-saved register are losses, not guesses.
#[test]
fn unrecoverable_registers_are_lost() {
    let lost: [&[u8]; 6] = [
        &[0x07, 6],
        &[0x14, 6, 2],
        &[0x09, 6, 0],
        &[0x16, 6, 2, 0x77, 0],
        &[0x11, 6, 0],
        &[0x10, 6, 2, 0x70, 0],
    ];
    for form in lost {
        assert_eq!(rule_of(form).rbp(), Slot::Lost, "{form:x?}");
    }
    assert_eq!(rule_of(&[0x08, 6]).rbp(), Slot::Same);
    assert_eq!(rule_of(&[0x09, 6, 6]).rbp(), Slot::Same);
    // CFA = rsp + 8, so that rsp - 8 is CFA - 16.
    assert_eq!(rule_of(&[0x10, 6, 2, 0x77, 0x78]).rbp(), Slot::At(-2));
    assert_eq!(rule_of(&[0x83, 0x80, 0x01]).rbx(), Slot::Lost);
}

/// A truncated or unknown instruction makes the rest of its function unsupported, not what came before.
#[test]
fn broken_instructions_spoil_only_what_follows() {
    let table = table(&elf("zR", USUAL_CIE, &[(0, 16, &[0x44, 0x3f]), (16, 16, &[])], &[]));
    assert_eq!(rule_at(&table, 0), Rule::cfa_register(7, 8));
    assert_eq!(rule_at(&table, 4), Rule::UNSUPPORTED);
    assert_eq!(rule_at(&table, 16), Rule::cfa_register(7, 8));
}

/// Where FDEs overlap the one that begins later has its range, and its end is the end of both.
#[test]
fn later_start_wins_an_overlap() {
    let table = table(&elf("zR", USUAL_CIE, &[(0, 64, &[0x0e, 32]), (16, 16, &[])], &[]));
    assert_eq!(rule_at(&table, 15), Rule::cfa_register(7, 32));
    assert_eq!(rule_at(&table, 16), Rule::cfa_register(7, 8));
    assert_eq!(rule_at(&table, 40), Rule::NONE);
}

/// Stubs without CFI are known by their bytes: musl's trampoline, a lazy linkage table, the entry point.
#[test]
fn stubs_without_cfi_are_recognised() {
    let mut code = [0x90; CODE_BYTES];
    code[0x21..0x2a].copy_from_slice(&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    code[0x40..0x4c].copy_from_slice(&[0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0]);
    code[0x50..0x60].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0]);
    code[0x60..0x6a].copy_from_slice(&[0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 0, 0, 0]);
    code[0x100..0x108].copy_from_slice(&[0x31, 0xed, 0xe8, 0, 0, 0x10, 0, 0xf4]);
    let table = table(&elf("zR", USUAL_CIE, &[(0, 16, &[])], &code));
    let expected = [
        (0x20, Rule::NONE),
        (0x21, Rule::SIGNAL),
        (0x2a, Rule::NONE),
        (0x40, Rule::cfa_register(7, 16)),
        (0x46, Rule::cfa_register(7, 24)),
        (0x50, Rule::plt(11)),
        (0x60, Rule::cfa_register(7, 8)),
        (0x70, Rule::NONE),
        (0x100, Rule::END),
        (0x106, Rule::END),
        (0x107, Rule::NONE),
    ];
    for (offset, rule) in expected {
        assert_eq!(rule_at(&table, offset), rule, "{offset:#x}");
    }
}

/// An entry point inside a stub changes nothing: rows ascend, and the stub's rule stands.
#[test]
fn entry_point_inside_a_stub_is_ignored() {
    let mut code = [0x90; CODE_BYTES];
    code[0xf0..0xfc].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9]);
    let mut bytes = elf("zR", USUAL_CIE, &[], &code);
    bytes[24..32].copy_from_slice(&(BASE + CODE as u64 + 0xf4).to_le_bytes());
    let table = table(&bytes);
    assert_eq!(rule_at(&table, 0xf4), Rule::plt(11));
    assert_eq!(codec::decode(&codec::encode(&table, b""), b"").as_ref(), Ok(&table));
}

/// The promises of a table, checked by the decoder, hold for whatever was built.
fn check_any(bytes: &[u8]) {
    let Ok(index) = FdeIndex::parse(bytes) else { return };
    let pages = index.page_range();
    // A hostile segment may span 65,536 pages; two of them show as much.
    let table = index.build_pages(bytes, pages.start..pages.end.min(pages.start + 2));
    assert!(table.rows.len() <= bytes.len() + 2 * table.pages.len() + 2 * index.function_count() + 2);
    assert_eq!(codec::decode(&codec::encode(&table, b""), b"").as_ref(), Ok(&table));
}

proptest! {
    /// Bit-flipped files, mostly in their frames and headers, build bounded and sound tables.
    #[test]
    fn mutilated_files_do_no_harm(flips in proptest::collection::vec((0..0x400_usize, 0..8_u32), 1..12)) {
        let form = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x0a, 0x44, 0x0f, 6, 0x77, 0xc0, 0, 6, 0x23, 8, 0x0b];
        let stubs = [0xff, 0x25, 0, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0].repeat(CODE_BYTES / 16);
        let fdes: [(u32, u32, &[u8]); 3] = [(0, 100, &form), (112, 90, &form), (384, 64, &[])];
        let mut bytes = elf("zR", USUAL_CIE, &fdes, &stubs);
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        check_any(&bytes);
    }

    /// Any instructions give rows or unsupported ranges.
    #[test]
    fn any_instructions_do_no_harm(instructions in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_any(&elf("zR", USUAL_CIE, &[(0, 256, &instructions)], &[]));
    }

    /// Any bytes at all are refused or harmless.
    #[test]
    fn any_bytes_do_no_harm(tail in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = elf("zR", USUAL_CIE, &[], &[])[..64].to_vec();
        bytes.extend(tail);
        check_any(&bytes);
    }
}
