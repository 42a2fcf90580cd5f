//! Code that linkers and C libraries leave without CFI, recognised by its
//! bytes: procedure linkage tables (lld writes no CFI for them), musl's
//! sigreturn trampoline, its start of a thread, and the start of a program.
//!
//! Only code that no FDE covers is looked at, once, in time linear in its
//! length. Going by bytes rather than by section names works in stripped
//! files, too.

use super::rule::Rule;
use super::state::RSP;

/// How far behind the entry point its call is looked for; musl's and glibc's `_start` have 22 and 38 bytes.
const MAX_START_BYTES: usize = 48;
/// Linkage table entries are aligned to 16 bytes, those of `.plt.got` to 8.
const PLT_ALIGNMENT: u64 = 8;

/// `mov $15, %rax; syscall`: rt_sigreturn, as musl and glibc write it.
const SIGRETURN: &[u8] = &[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// `xor %ebp, %ebp; pop %rdi; call *%r9`: musl's `__clone`, in the new thread.
const CLONE_CHILD: &[u8] = &[0x31, 0xed, 0x5f, 0x41, 0xff, 0xd1];

/// Calls `found(from, to, rule)` for each stub in `code`, which begins at `svma`; ascending and not
/// overlapping. `entry` is the file's entry point.
pub(super) fn find(code: &[u8], svma: u64, entry: u64, mut found: impl FnMut(u64, u64, Rule)) {
    let mut offset = 0;
    while let Some(rest) = code.get(offset..).filter(|rest| !rest.is_empty()) {
        let at = svma.saturating_add(offset as u64);
        offset += stub_at(rest, at, entry, &mut found).unwrap_or_else(|| {
            // Most bytes begin nothing: pass over those that cannot, but not over the entry point.
            let idle = 1 + rest.iter().skip(1).take_while(|byte| !may_begin(**byte)).count();
            let to_entry = entry.checked_sub(at).and_then(|distance| usize::try_from(distance).ok());
            to_entry.filter(|distance| *distance > 0).map_or(idle, |distance| distance.min(idle))
        });
    }
}

fn may_begin(byte: u8) -> bool {
    matches!(byte, 0x48 | 0x31 | 0xff | 0xf3)
}

/// The length of the stub at the start of `code`, if there is one.
fn stub_at(code: &[u8], at: u64, entry: u64, found: &mut impl FnMut(u64, u64, Rule)) -> Option<usize> {
    let mut tell = |from: usize, to: usize, rule: Rule| {
        found(at.saturating_add(from as u64), at.saturating_add(to as u64), rule);
        Some(to)
    };
    let returning = Rule::cfa_register(RSP, 8);
    if at == entry {
        return tell(0, start_len(code), Rule::END);
    }
    if code.starts_with(SIGRETURN) {
        return tell(0, SIGRETURN.len(), Rule::SIGNAL);
    }
    if code.starts_with(CLONE_CHILD) {
        return tell(0, CLONE_CHILD.len(), Rule::END);
    }
    if !at.is_multiple_of(PLT_ALIGNMENT) {
        return None;
    }
    match *code {
        // push GOT+8(%rip); [bnd] jmp *GOT+16(%rip): the head of a lazy table, entered with the
        // relocation's index pushed.
        [0xff, 0x35, _, _, _, _, 0xff | 0xf2, 0x25 | 0xff, ..] if code.len() >= 16 => {
            tell(0, 6, Rule::cfa_register(RSP, 16))?;
            tell(6, 16, Rule::cfa_register(RSP, 24))
        }
        // jmp *slot(%rip); push $index; jmp head
        [0xff, 0x25, _, _, _, _, 0x68, _, _, _, _, 0xe9, ..] if code.len() >= 16 => {
            tell(0, 16, Rule::plt(11))
        }
        // endbr64; push $index; [bnd] jmp head
        [0xf3, 0x0f, 0x1e, 0xfa, 0x68, _, _, _, _, 0xe9 | 0xf2, ..] if code.len() >= 16 => {
            tell(0, 16, Rule::plt(9))
        }
        // endbr64; [bnd] jmp *slot(%rip)
        [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, ..] | [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, ..]
            if code.len() >= 16 =>
        {
            tell(0, 16, returning)
        }
        // jmp *slot(%rip), padded to 8 bytes by `xchg %ax, %ax` or to 16 by int3 or nops
        [0xff, 0x25, _, _, _, _, 0x66, 0x90, ..] => tell(0, 8, returning),
        [0xff, 0x25, _, _, _, _, 0xcc, 0xcc, ..] => tell(0, 8, returning),
        _ => None,
    }
}

/// Length of `_start` at the beginning of `code`: up to and with its call of the C library.
fn start_len(code: &[u8]) -> usize {
    let within = code.get(..MAX_START_BYTES).unwrap_or(code);
    // call rel32, or call *slot(%rip)
    let call = within.windows(2).position(|bytes| bytes[0] == 0xe8 || bytes == [0xff, 0x15]);
    match call {
        Some(at) if within.get(at) == Some(&0xe8) => (at + 5).min(code.len()),
        Some(at) => (at + 6).min(code.len()),
        None => code.len().min(16),
    }
}
