//! What one machine instruction does to the stack: how far the CFA is from
//! rsp and rbp, and where the caller's rbp and rbx are kept.
//!
//! ```text
//!   CFA ►├────────────────┤
//!        │ return address │  a call leaves CFA − rsp = 8
//!        │ pushed         │  each push adds 8 to the depth, each pop takes 8
//!   rsp ►└────────────────┘
//! ```
//!
//! What an instruction may do to a register beyond that makes the register
//! unknown. Calls are taken to keep rsp, rbp and rbx, as the psABI has it
//! (3.2.1); whether that is true of the code at hand, the caller checks by the
//! depth at its returns.

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess,
    OpKind, Register,
};

use super::rule::{Rule, Slot};
use super::state::{RBP, RSP};

/// Deepest stack followed, 16 MiB; a frame beyond it is taken for a misreading.
const MAX_DEPTH: i64 = 16 << 20;
/// The return address alone.
const ENTRY_DEPTH: i64 = 8;

/// Where the caller's value of a callee-saved register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Saved {
    /// The register still, or again, holds it.
    intact: bool,
    /// CFA − address of the copy on the stack.
    depth: Option<i64>,
}

impl Saved {
    const INTACT: Self = Self { intact: true, depth: None };

    fn slot(self) -> Slot {
        match self.depth {
            _ if self.intact => Slot::Same,
            Some(depth) if depth % 8 == 0 => i16::try_from(-depth / 8).map_or(Slot::Lost, Slot::At),
            _ => Slot::Lost,
        }
    }

    fn join(self, other: Self) -> Self {
        let depth = self.depth.filter(|_| self.depth == other.depth);
        Self { intact: self.intact && other.intact, depth }
    }
}

/// The stack in front of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// CFA − rsp, where known.
    rsp: Option<i64>,
    /// CFA − rbp, where rbp points into the frame.
    rbp: Option<i64>,
    saved_rbp: Saved,
    saved_rbx: Saved,
}

impl Depth {
    /// Behind a call.
    pub(super) const ENTRY: Self =
        Self { rsp: Some(ENTRY_DEPTH), rbp: None, saved_rbp: Saved::INTACT, saved_rbx: Saved::INTACT };

    /// Nothing but the return address is on the stack; `None` when the depth is not known.
    pub(super) fn is_at_return(&self) -> Option<bool> {
        self.rsp.map(|depth| depth == ENTRY_DEPTH)
    }

    /// Calls are made with the stack aligned to 16 bytes (psABI, 3.2.2), and so is the CFA.
    pub(super) fn is_aligned(&self) -> bool {
        self.rsp.is_none_or(|depth| depth % 16 == 0)
    }

    /// The return address itself was taken off the stack.
    pub(super) fn is_below_return(&self) -> bool {
        self.rsp.is_some_and(|depth| depth < ENTRY_DEPTH)
    }

    /// Whether a frame could be found from here.
    pub(super) fn is_known(&self) -> bool {
        self.rsp.is_some() || self.rbp.is_some()
    }

    /// The rule for this state. A proper frame pointer comes first: it stays right where callees
    /// take their arguments off the stack.
    pub(super) fn rule(&self) -> Rule {
        let from = |register, depth: i64| {
            i32::try_from(depth).map_or(Rule::NONE, |depth| {
                Rule::cfa_register(register, depth)
                    .with_rbp(self.saved_rbp.slot())
                    .with_rbx(self.saved_rbx.slot())
            })
        };
        match (self.rsp, self.rbp) {
            (_, Some(frame)) if self.is_frame(frame) => from(RBP, frame),
            (Some(depth), _) => from(RSP, depth),
            (None, Some(frame)) => from(RBP, frame),
            (None, None) => Rule::NONE,
        }
    }

    /// `push %rbp; mov %rsp, %rbp` was done, or as much.
    fn is_frame(&self, frame: i64) -> bool {
        self.saved_rbp.depth == Some(frame)
    }

    /// What holds whichever of two ways led here; `None` when they contradict each other.
    pub(super) fn join(self, other: Self) -> Option<Self> {
        let rbp = self.rbp.filter(|_| self.rbp == other.rbp);
        let framed = rbp.is_some_and(|frame| self.is_frame(frame) && other.is_frame(frame));
        if self.rsp != other.rsp && !framed {
            return None;
        }
        Some(Self {
            rsp: self.rsp.filter(|_| self.rsp == other.rsp),
            rbp,
            saved_rbp: self.saved_rbp.join(other.saved_rbp),
            saved_rbx: self.saved_rbx.join(other.saved_rbx),
        })
    }

    /// The state behind `instruction`, where the next one is not a branch's target.
    pub(super) fn after(mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) -> Self {
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {}
            _ => self.execute(instruction, info),
        }
        self
    }

    fn execute(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let [to, from] = [instruction.op0_register(), instruction.op1_register()];
        match instruction.mnemonic() {
            Mnemonic::Push => {
                self.push(-i64::from(instruction.stack_pointer_increment()));
                if let Some(depth) = self.rsp
                    && let Some(saved) = saved_of(self, to)
                {
                    saved.note_copy(depth);
                }
            }
            Mnemonic::Pop => self.pop(to, i64::from(instruction.stack_pointer_increment())),
            Mnemonic::Leave => {
                self.rsp = self.rbp;
                self.pop(Register::RBP, 8);
            }
            Mnemonic::Sub if to == Register::RSP && is_immediate(instruction) => {
                self.push(instruction.immediate(1) as i64);
            }
            Mnemonic::Add if to == Register::RSP && is_immediate(instruction) => {
                self.push((instruction.immediate(1) as i64).saturating_neg());
            }
            Mnemonic::Lea if matches!(to, Register::RSP | Register::RBP) => {
                let depth = self.address(instruction);
                self.set(to, depth);
            }
            Mnemonic::Mov if matches!((to, from), (Register::RSP, Register::RBP)) => self.set(to, self.rbp),
            Mnemonic::Mov if matches!((to, from), (Register::RBP, Register::RSP)) => self.set(to, self.rsp),
            Mnemonic::Mov if instruction.code() == Code::Mov_rm64_r64 => {
                let place = self.address(instruction).filter(|_| instruction.op0_kind() == OpKind::Memory);
                match (place, saved_of(self, from)) {
                    (Some(depth), Some(saved)) => saved.note_copy(depth),
                    _ => self.forget_written(instruction, info),
                }
            }
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Memory => {
                let place = self.address(instruction);
                self.forget_written(instruction, info);
                if let (Some(depth), Some(saved)) = (place, saved_of(self, to)) {
                    saved.intact = saved.depth == Some(depth);
                }
            }
            _ => self.forget_written(instruction, info),
        }
    }

    /// rsp goes down by `bytes`, or up by minus them.
    fn push(&mut self, bytes: i64) {
        let depth = self.rsp.and_then(|depth| depth.checked_add(bytes));
        self.set(Register::RSP, depth);
    }

    fn pop(&mut self, to: Register, bytes: i64) {
        let place = self.rsp;
        if let Some(saved) = saved_of(self, to) {
            saved.intact = saved.depth.is_some() && saved.depth == place;
        }
        self.push(-bytes);
        match to {
            Register::RSP => self.rsp = None,
            Register::RBP => self.rbp = None,
            _ => {}
        }
    }

    /// CFA − the address of the memory operand, where it is rsp or rbp and a displacement.
    fn address(&self, instruction: &Instruction) -> Option<i64> {
        let base = match instruction.memory_base() {
            Register::RSP => self.rsp?,
            Register::RBP => self.rbp?,
            _ => return None,
        };
        let plain =
            instruction.memory_index() == Register::None && instruction.segment_prefix() == Register::None;
        base.checked_sub(instruction.memory_displacement64() as i64).filter(|_| plain)
    }

    fn set(&mut self, register: Register, depth: Option<i64>) {
        let depth = depth.filter(|depth| (-MAX_DEPTH..=MAX_DEPTH).contains(depth));
        if register == Register::RSP {
            self.rsp = depth;
            self.drop_popped();
        } else {
            self.rbp = depth;
            self.saved_rbp.intact = false;
        }
    }

    /// Copies above which rsp has gone are no more.
    fn drop_popped(&mut self) {
        let Some(rsp) = self.rsp else { return };
        for saved in [&mut self.saved_rbp, &mut self.saved_rbx] {
            saved.depth = saved.depth.filter(|depth| *depth <= rsp);
        }
    }

    fn forget_written(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let moved = instruction.stack_pointer_increment();
        let options = InstructionInfoOptions::NO_MEMORY_USAGE;
        for used in info.info_options(instruction, options).used_registers() {
            if matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
            ) {
                continue;
            }
            match used.register().full_register() {
                Register::RSP if moved == 0 => self.rsp = None,
                Register::RBP => self.set(Register::RBP, None),
                Register::RBX => self.saved_rbx.intact = false,
                _ => {}
            }
        }
        if moved != 0 {
            self.push(-i64::from(moved));
        }
    }
}

impl Saved {
    /// The register was copied to the stack.
    fn note_copy(&mut self, depth: i64) {
        if self.intact && self.depth.is_none() && depth > ENTRY_DEPTH {
            self.depth = Some(depth);
        }
    }
}

fn saved_of(depth: &mut Depth, register: Register) -> Option<&mut Saved> {
    match register {
        Register::RBP => Some(&mut depth.saved_rbp),
        Register::RBX => Some(&mut depth.saved_rbx),
        _ => None,
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    matches!(instruction.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64)
}
