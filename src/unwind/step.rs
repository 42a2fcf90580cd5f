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
        RuleKind::None | RuleKind::End | RuleKind::Signal | RuleKind::Unsupported => {
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

/// Without a rule, hope that rbp points to the saved rbp with the return address above it
/// (psABI, 3.2.2). The frame's own rbp of 0 marks the deepest frame (3.4.1); in the interrupted
/// frame it may as well be a number, so there it proves nothing.
fn frame_pointer_step(
    registers: &Registers,
    is_first: bool,
    read: &mut impl FnMut(u64) -> Option<u64>,
) -> Walked {
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
