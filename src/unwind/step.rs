//! One step from a frame to its caller, exactly as the BPF walker takes it:
//! that program's executable specification, and the tests' own walker.
//!
//! ```text
//!   high addresses
//!        │ caller's frame        │
//!   CFA ►├───────────────────────┤  the caller's rsp after the return
//!        │ return address        │  CFA − 8
//!        │ saved registers       │  CFA + 8 · slot
//!        │ locals                │
//!   rsp ►└───────────────────────┘
//! ```

use crate::model::Outcome;

use super::rule::{Rule, RuleKind, Slot};
use super::state::{RBP, RBX, RSP};

/// The general registers of one frame, as far as known, and its pc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The next instruction: interrupted in the first frame, returned to in the others.
    pub pc: u64,
    values: [u64; 16],
    known: u16,
}

impl Registers {
    /// All sixteen known, in the order of DWARF's numbers:
    /// rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 … r15.
    pub fn new(pc: u64, values: [u64; 16]) -> Self {
        Self { pc, values, known: u16::MAX }
    }

    /// The value of the register with this DWARF number; `None` where unknown.
    pub fn get(&self, register: u8) -> Option<u64> {
        let known = register < 16 && self.known & 1 << register != 0;
        self.values.get(usize::from(register)).copied().filter(|_| known)
    }

    /// The stack pointer, known in every frame.
    pub fn rsp(&self) -> u64 {
        self.values[usize::from(RSP)]
    }

    fn with(mut self, register: u8, value: Option<u64>) -> Self {
        if let (Some(value), Some(place)) = (value, self.values.get_mut(usize::from(register))) {
            *place = value;
            self.known |= 1 << register;
        }
        self
    }
}

/// What one step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the caller: its pc is a return address and only rsp, rbp and rbx may be known.
    Caller(Registers),
    /// To the code a signal interrupted: its pc is exact and all registers are known.
    Interrupted(Registers),
    /// Nothing called this frame: the stack is complete.
    End,
    /// No further, for this reason.
    Failed(Outcome),
}

/// Offset of `uc_mcontext.gregs` in `struct ucontext` (Linux, asm/ucontext.h and asm/sigcontext.h).
const UCONTEXT_REGISTERS: u64 = 40;
/// DWARF numbers of the registers in the order of `struct sigcontext`: r8 … r15, rdi, rsi, rbp,
/// rbx, rdx, rax, rcx, rsp; rip follows.
const SIGCONTEXT_ORDER: [u8; 16] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7];

/// Takes one step by `rule`, reading the stack through `read`, which is given an address and
/// returns the 8 bytes there or `None`. `is_first` tells the interrupted frame from its callers.
pub fn step(
    registers: &Registers,
    rule: Rule,
    is_first: bool,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> Step {
    let outcome = match rule.kind() {
        Some(RuleKind::End) => return Step::End,
        Some(RuleKind::Signal) => return signal_return(registers, read),
        Some(RuleKind::ReturnRegister { register, offset }) => {
            return return_register_step(registers, is_first, register, offset);
        }
        Some(RuleKind::None) => frame_pointer_step(registers, is_first, &mut read),
        Some(RuleKind::Unsupported) | None => Err(Outcome::UnsupportedRule),
        Some(kind) => rule_step(registers, rule, kind, &mut read),
    };
    match outcome {
        Ok(None) => Step::End,
        Ok(Some(caller)) if caller.pc == 0 => Step::End,
        // The return address alone takes 8 bytes, so the stack pointer must grow.
        Ok(Some(caller)) if caller.rsp() <= registers.rsp() => Step::Failed(Outcome::NoProgress),
        Ok(Some(caller)) => Step::Caller(caller),
        Err(outcome) => Step::Failed(outcome),
    }
}

type Walked = Result<Option<Registers>, Outcome>;

fn rule_step(
    registers: &Registers,
    rule: Rule,
    kind: RuleKind,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Walked {
    let known = |register| registers.get(register).ok_or(Outcome::RegisterUnknown);
    let (cfa, base) = match kind {
        RuleKind::Plt { push_end } => {
            let pushed = if registers.pc & 15 >= u64::from(push_end) { 8 } else { 0 };
            let cfa = registers.rsp().wrapping_add(8 + pushed);
            (cfa, cfa)
        }
        RuleKind::CfaRegister { register, offset } => {
            let cfa = add(known(register)?, offset.into());
            (cfa, cfa)
        }
        RuleKind::CfaDerefRsp { load_offset, add: addend } => {
            let loaded = read(add(registers.rsp(), load_offset.into())).ok_or(Outcome::ReadFailed)?;
            let cfa = add(loaded, addend.into());
            (cfa, cfa)
        }
        RuleKind::CfaDerefRbp { load_offset, add: addend } => {
            let rbp = known(RBP)?;
            let loaded = read(add(rbp, load_offset.into())).ok_or(Outcome::ReadFailed)?;
            (add(loaded, addend.into()), rbp)
        }
        RuleKind::CfaDerefRspIndexed { load_offset, register, add: addend } => {
            let index = known(register)?.wrapping_mul(8);
            let place = add(registers.rsp(), load_offset.into()).wrapping_add(index);
            let cfa = add(read(place).ok_or(Outcome::ReadFailed)?, addend.into());
            (cfa, cfa)
        }
        RuleKind::None
        | RuleKind::End
        | RuleKind::Signal
        | RuleKind::ReturnRegister { .. }
        | RuleKind::Unsupported => {
            return Err(Outcome::UnsupportedRule);
        }
    };
    let pc = read(cfa.wrapping_sub(8)).ok_or(Outcome::ReadFailed)?;
    let mut restore = |register, slot| match slot {
        Slot::Same => Ok(registers.get(register)),
        Slot::At(slot) => read(add(base, i64::from(slot) * 8)).map(Some).ok_or(Outcome::ReadFailed),
        Slot::Lost => Ok(None),
    };
    let (rbp, rbx) = (restore(RBP, rule.rbp())?, restore(RBX, rule.rbx())?);
    let caller = Registers { pc, values: [0; 16], known: 0 };
    Ok(Some(caller.with(RSP, Some(cfa)).with(RBP, rbp).with(RBX, rbx)))
}

/// The stack pointer may stay where it is, because no walk takes this step twice in a row.
fn return_register_step(registers: &Registers, is_first: bool, register: u8, offset: u16) -> Step {
    match registers.get(register).filter(|_| is_first) {
        None => Step::Failed(Outcome::RegisterUnknown),
        Some(0) => Step::End,
        Some(pc) => {
            let caller = Registers { pc, values: [0; 16], known: 0 };
            let kept = caller.with(RBP, registers.get(RBP)).with(RBX, registers.get(RBX));
            Step::Caller(kept.with(RSP, Some(registers.rsp().wrapping_add(offset.into()))))
        }
    }
}

/// Without a rule, hope that rbp points to the saved rbp with the return address above it
/// (psABI, 3.2.2). The frame's own rbp of 0 marks the deepest frame (3.4.1); in the interrupted
/// frame it may as well be a number, so there it proves nothing.
fn frame_pointer_step(
    registers: &Registers,
    is_first: bool,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Walked {
    // Hand-written leaf functions use no stack: their return address is on top.
    let rsp = registers.rsp();
    if let Some(pc) = read(rsp).filter(|pc| is_first && follows_call(*pc, read)) {
        let caller = Registers { pc, values: [0; 16], known: 0 };
        let kept = caller.with(RBP, registers.get(RBP)).with(RBX, registers.get(RBX));
        return Ok(Some(kept.with(RSP, Some(rsp.wrapping_add(8)))));
    }
    let rbp = registers.get(RBP).ok_or(Outcome::FramePointerLost)?;
    if rbp == 0 && !is_first {
        return Ok(None);
    }
    if rbp < registers.rsp() || rbp % 8 != 0 {
        return Err(Outcome::FramePointerLost);
    }
    let saved = read(rbp).ok_or(Outcome::FramePointerLost)?;
    let pc = read(rbp.wrapping_add(8)).ok_or(Outcome::FramePointerLost)?;
    let caller = Registers { pc, values: [0; 16], known: 0 };
    Ok(Some(caller.with(RSP, Some(rbp.wrapping_add(16))).with(RBP, Some(saved))))
}

/// Whether the instruction before `pc` is a call; opcodes E8 and FF /2, Intel SDM volume 2, CALL.
fn follows_call(pc: u64, read: &mut impl FnMut(u64) -> Option<u64>) -> bool {
    if !(4097..1 << 63).contains(&pc) {
        return false;
    }
    let Some(word) = read(pc - 7) else { return false };
    match word.to_le_bytes() {
        [_, _, 0xe8, ..] => true,
        // call *reg, call *(reg)
        [_, _, _, _, _, 0xff, modrm, _] if modrm & 0x38 == 0x10 => true,
        // call *disp8(reg), call *(reg,reg)
        [_, _, _, _, 0xff, modrm, ..] if modrm & 0xf8 == 0x50 || modrm == 0x14 => true,
        // call *disp8(reg,reg)
        [_, _, _, 0xff, 0x54, ..] => true,
        // call *disp32(reg), call *disp32(rip)
        [_, 0xff, modrm, ..] if modrm & 0xf8 == 0x90 || modrm == 0x15 => true,
        // call *disp32(reg,reg)
        [0xff, 0x94, ..] => true,
        _ => false,
    }
}

/// All registers are in the `struct ucontext` at rsp. The stack may change to any other one.
fn signal_return(registers: &Registers, mut read: impl FnMut(u64) -> Option<u64>) -> Step {
    let base = registers.rsp().wrapping_add(UCONTEXT_REGISTERS);
    let mut values = [0; 16];
    let mut next = |index: u64| read(base.wrapping_add(8 * index));
    for (index, register) in (0..).zip(SIGCONTEXT_ORDER) {
        let Some(value) = next(index) else { return Step::Failed(Outcome::ReadFailed) };
        values[usize::from(register)] = value;
    }
    match next(16) {
        Some(pc) => Step::Interrupted(Registers::new(pc, values)),
        None => Step::Failed(Outcome::ReadFailed),
    }
}

fn add(address: u64, distance: i64) -> u64 {
    address.wrapping_add_signed(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSP_AT: u64 = 0x1000;

    fn frame(pc: u64, rbp: u64) -> Registers {
        let mut values = [7; 16];
        values[usize::from(RSP)] = RSP_AT;
        values[usize::from(RBP)] = rbp;
        Registers::new(pc, values)
    }

    /// Reading an address yields the address plus 5, so that values tell where they came from.
    fn memory(address: u64) -> Option<u64> {
        Some(address + 5)
    }

    /// Where there is no rule the frame pointer leads on; only rsp and rbp are known behind it.
    #[test]
    fn frame_pointer_leads_on_without_a_rule() {
        let Step::Caller(caller) = step(&frame(1, RSP_AT + 32), Rule::NONE, true, memory) else {
            panic!("no caller")
        };
        assert_eq!((caller.pc, caller.rsp()), (RSP_AT + 45, RSP_AT + 48));
        assert_eq!((caller.get(RBP), caller.get(RBX)), (Some(RSP_AT + 37), None));
    }

    /// A frame pointer of 0 ends a stack, but not when it is found in the interrupted frame.
    #[test]
    fn zero_frame_pointer_ends_only_behind_the_first_frame() {
        assert_eq!(step(&frame(1, 0), Rule::NONE, false, memory), Step::End);
        assert_eq!(step(&frame(1, 0), Rule::NONE, true, memory), Step::Failed(Outcome::FramePointerLost));
        assert_eq!(step(&frame(1, 8), Rule::NONE, false, memory), Step::Failed(Outcome::FramePointerLost));
    }

    /// A lazy-binding stub has 8 bytes more on the stack once its push is done.
    #[test]
    fn linkage_stub_counts_its_push() {
        for (pc, cfa) in [(0x40, RSP_AT + 8), (0x4a, RSP_AT + 8), (0x4b, RSP_AT + 16), (0x4f, RSP_AT + 16)] {
            let Step::Caller(caller) = step(&frame(pc, 0), Rule::plt(11), true, memory) else {
                panic!("no caller")
            };
            assert_eq!((caller.rsp(), caller.pc), (cfa, cfa - 3));
            assert_eq!(caller.get(RBX), Some(7));
        }
    }

    /// vfork has popped its return address into rdi (5): its caller is found, with rsp, rbp and rbx as they are; but
    /// only where it was interrupted, since nobody else keeps rdi.
    #[test]
    fn return_address_in_a_register_leads_on_from_an_interrupted_frame() {
        let vfork = Rule::return_register(5, 0);
        let Step::Caller(caller) = step(&frame(1, 9), vfork, true, memory) else { panic!("no caller") };
        assert_eq!((caller.pc, caller.rsp()), (7, RSP_AT));
        assert_eq!((caller.get(RBP), caller.get(RBX), caller.get(5)), (Some(9), Some(7), None));
        let failed = step(&frame(1, 9), vfork, false, memory);
        assert_eq!(failed, Step::Failed(Outcome::RegisterUnknown));
    }

    /// Each way in which a step fails has its own outcome.
    #[test]
    fn failures_say_why() {
        let failed = |rule, read: fn(u64) -> Option<u64>| step(&frame(1, 0), rule, true, read);
        assert_eq!(failed(Rule::UNSUPPORTED, memory), Step::Failed(Outcome::UnsupportedRule));
        assert_eq!(failed(Rule::cfa_register(RSP, 8), |_| None), Step::Failed(Outcome::ReadFailed));
        assert_eq!(failed(Rule::cfa_register(RSP, 0), memory), Step::Failed(Outcome::NoProgress));
        assert_eq!(failed(Rule::cfa_register(RSP, 8), |_| Some(0)), Step::End);
        let Step::Caller(caller) = failed(Rule::cfa_register(RSP, 8), memory) else { panic!("no caller") };
        let next = step(&caller, Rule::cfa_register(10, 0), false, memory);
        assert_eq!(next, Step::Failed(Outcome::RegisterUnknown));
    }

    /// The kernel's signal frame holds every register; the interrupted pc is exact.
    #[test]
    fn signal_frame_restores_every_register() {
        let Step::Interrupted(registers) = step(&frame(1, 0), Rule::SIGNAL, false, memory) else {
            panic!("not interrupted")
        };
        assert_eq!(registers.rsp(), RSP_AT + 160 + 5);
        assert_eq!(registers.pc, RSP_AT + 168 + 5);
        assert_eq!(registers.get(RBP), Some(RSP_AT + 120 + 5));
        assert_eq!(registers.get(RBX), Some(RSP_AT + 128 + 5));
    }
}
