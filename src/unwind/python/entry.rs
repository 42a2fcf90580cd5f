//! The instant at which the evaluation loop of 3.11 and 3.12 must not be believed.
//!
//! On entry the loop puts a `_PyCFrame` on the C stack, makes the thread state
//! point to it, and fills it in some instructions later (Python/ceval.c,
//! `_PyEval_EvalFrameDefault`):
//!
//! ```text
//!     lea  X(%rsp),%rax
//!     mov  %rax,cframe(%rdi)        tstate->cframe = &cframe
//!     …                         ◄── here cframe.current_frame is whatever was there
//!     movaps %xmm0,X(%rsp)          cframe = { current_frame, previous }
//! ```
//!
//! A thread interrupted in between has a pointer to a frame that is long gone.
//! Whoever is interrupted there must be told from others by its pc.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Instructions looked at. Compilers put the two stores among the first 40.
const MAX_INSTRUCTIONS: usize = 120;

/// The pcs at which `current_frame` of the structure that the thread state points to is not yet
/// written, in `code`, the loop's first bytes, which begin at `start`. `cframe_offset` is the
/// pointer's place in the thread state, `current_frame_offset` the frame's in the structure.
/// Where the stores cannot be told, all up to the first indirect jump.
pub fn unready_pcs(code: &[u8], start: u64, cframe_offset: u32, current_frame_offset: u32) -> Range<u64> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut addresses: Vec<(Register, u64)> = Vec::new();
    let mut published: Option<(u64, u64)> = None;
    let mut end = start;
    for _ in 0..MAX_INSTRUCTIONS {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        end = instruction.next_ip();
        if instruction.mnemonic() == Mnemonic::Jmp && instruction.op0_kind() != OpKind::NearBranch64 {
            break;
        }
        if let Some((first_pc, slot)) = published {
            if writes(&instruction, slot + u64::from(current_frame_offset)) {
                return first_pc..instruction.ip() + 1;
            }
        } else if let Some(slot) = published_slot(&instruction, &addresses, cframe_offset) {
            published = Some((instruction.next_ip(), slot));
        }
        note_address(&instruction, &mut addresses);
    }
    published.map_or(start, |(first_pc, _)| first_pc)..end
}

/// Remembers registers that hold an address on the stack, and forgets those that are overwritten.
fn note_address(instruction: &Instruction, addresses: &mut Vec<(Register, u64)>) {
    if instruction.op_count() == 0 || instruction.op0_kind() != OpKind::Register {
        return;
    }
    let target = instruction.op0_register().full_register();
    addresses.retain(|(register, _)| *register != target);
    if instruction.mnemonic() == Mnemonic::Lea && instruction.memory_base() == Register::RSP {
        addresses.push((target, instruction.memory_displacement64()));
    }
}

/// The place on the stack whose address `instruction` stores in the thread state.
fn published_slot(
    instruction: &Instruction,
    addresses: &[(Register, u64)],
    cframe_offset: u32,
) -> Option<u64> {
    let is_store = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register;
    if !is_store
        || instruction.memory_base() == Register::RSP
        || instruction.memory_displacement64() != u64::from(cframe_offset)
    {
        return None;
    }
    let source = instruction.op1_register();
    addresses.iter().find(|(register, _)| *register == source).map(|(_, slot)| *slot)
}

/// Whether `instruction` stores to the stack over `place`.
fn writes(instruction: &Instruction, place: u64) -> bool {
    if instruction.op0_kind() != OpKind::Memory || instruction.memory_base() != Register::RSP {
        return false;
    }
    let (first, size) = (instruction.memory_displacement64(), instruction.memory_size().size() as u64);
    (first..first.saturating_add(size)).contains(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From gcc's code of 3.12.1, shortened: the range begins behind the store of the pointer and
    /// ends with the store of the frame, which was not executed yet when it is interrupted.
    #[test]
    fn range_lies_between_the_two_stores() {
        let code = [
            &[0x48, 0x8d, 0x84, 0x24, 0x80, 0, 0, 0][..], // lea 0x80(%rsp),%rax
            &[0x48, 0x89, 0x47, 0x38],                    // mov %rax,0x38(%rdi)
            &[0x48, 0x8b, 0x47, 0x10],                    // mov 0x10(%rdi),%rax
            &[0x0f, 0x29, 0x84, 0x24, 0x80, 0, 0, 0],     // movaps %xmm0,0x80(%rsp)
            &[0xff, 0xe0],                                // jmp *%rax
        ]
        .concat();
        assert_eq!(unready_pcs(&code, 0x1000, 0x38, 0), 0x100c..0x1011);
        assert_eq!(unready_pcs(&code, 0x1000, 0x38, 8), 0x100c..0x1011);
        assert_eq!(unready_pcs(&code, 0x1000, 0x38, 64), 0x100c..0x101a);
        assert_eq!(unready_pcs(&code, 0x1000, 0x40, 0), 0x1000..0x101a);
    }

    proptest::proptest! {
        /// Any bytes: a range inside what was looked at.
        #[test]
        fn any_code_is_survived(code in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let range = unready_pcs(&code, 0x1000, 0x38, 0);
            proptest::prop_assert!(range.start >= 0x1000 && range.end <= 0x1000 + 320);
        }
    }
}
