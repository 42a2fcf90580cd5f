//! What CFI says about one range of pcs, reduced to what a rule can hold: the
//! CFA, and where rbx, rbp, rsp and the return address of the caller are.
//!
//! DWARF register numbers are those of the x86-64 psABI, figure 3.36.

use super::reader::Reader;
use super::rule::{Rule, Slot};

pub(super) const RBX: u8 = 3;
pub(super) const RBP: u8 = 6;
pub(super) const RSP: u8 = 7;
pub(super) const RETURN_ADDRESS: u8 = 16;

/// Why a range got [`Rule::UNSUPPORTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unsupported {
    /// The CFA is an expression of a form that no rule kind has.
    CfaExpression,
    /// The CFA was never defined, counts from a register that is no general one, or is too far from it.
    CfaRegister,
    /// The return address is neither at CFA − 8 nor in a register of a frame that saves nothing else.
    ReturnAddress,
    /// The caller's rsp is not the CFA.
    StackPointer,
    /// An instruction is unknown, truncated or out of place.
    Instruction,
    /// `DW_CFA_remember_state` nested deeper than 32.
    RememberDepth,
    /// The work allowed for one build was used up: FDEs overlap in a hostile way.
    Budget,
    /// More distinct rules than a row can name.
    TooManyRules,
}

impl Unsupported {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::CfaExpression,
        Self::CfaRegister,
        Self::ReturnAddress,
        Self::StackPointer,
        Self::Instruction,
        Self::RememberDepth,
        Self::Budget,
        Self::TooManyRules,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cfa {
    Unset,
    Register {
        register: u8,
        offset: i64,
    },
    Plt {
        push_end: u8,
    },
    /// `*(register + load_offset) + add`
    Deref {
        register: u8,
        load_offset: i64,
        add: i64,
    },
    /// `*(rsp + load_offset + 8 * register) + add`
    Indexed {
        load_offset: i64,
        register: u8,
        add: u8,
    },
    Other,
}

/// Where a register of the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// Never mentioned: for a callee-saved register this means unchanged.
    Unspecified,
    Undefined,
    Same,
    /// In memory at CFA + offset.
    AtCfa(i64),
    /// It is the value CFA + offset.
    IsCfa(i64),
    /// In memory at `register + offset`.
    AtRegister {
        register: u8,
        offset: i64,
    },
    /// It is the value of another register.
    InRegister(u8),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) cfa: Cfa,
    pub(super) rbx: Saved,
    pub(super) rbp: Saved,
    pub(super) rsp: Saved,
    pub(super) return_address: Saved,
}

impl State {
    pub(super) const EMPTY: Self = Self {
        cfa: Cfa::Unset,
        rbx: Saved::Unspecified,
        rbp: Saved::Unspecified,
        rsp: Saved::Unspecified,
        return_address: Saved::Unspecified,
    };

    /// The place for `register`, if it is one that rules know.
    #[inline]
    pub(super) fn saved(&self, register: u64) -> Saved {
        match u8::try_from(register) {
            Ok(RBX) => self.rbx,
            Ok(RBP) => self.rbp,
            Ok(RSP) => self.rsp,
            Ok(RETURN_ADDRESS) => self.return_address,
            _ => Saved::Unspecified,
        }
    }

    /// Notes where `register` is; registers that rules do not know are ignored.
    #[inline]
    pub(super) fn set_saved(&mut self, register: u64, saved: Saved) {
        match u8::try_from(register) {
            Ok(RBX) => self.rbx = saved,
            Ok(RBP) => self.rbp = saved,
            Ok(RSP) => self.rsp = saved,
            Ok(RETURN_ADDRESS) => self.return_address = saved,
            _ => {}
        }
    }

    /// The rule for this state; `signal_frame` as the CIE's augmentation says.
    #[inline]
    pub(super) fn rule(&self, signal_frame: bool) -> Result<Rule, Unsupported> {
        if self.return_address == Saved::Undefined {
            return Ok(Rule::END);
        }
        if signal_frame && self.is_sigreturn() {
            return Ok(Rule::SIGNAL);
        }
        if let Saved::InRegister(register) = self.return_address {
            return self.return_register_rule(register).ok_or(Unsupported::ReturnAddress);
        }
        let (rule, base) = self.cfa_rule()?;
        if self.at_cfa(self.return_address) != Saved::AtCfa(-8) {
            return Err(Unsupported::ReturnAddress);
        }
        if !matches!(self.rsp, Saved::Unspecified | Saved::IsCfa(0)) {
            return Err(Unsupported::StackPointer);
        }
        Ok(rule.with_rbx(self.slot(self.rbx, base)).with_rbp(self.slot(self.rbp, base)))
    }

    /// For the one frame of this kind that is met: vfork, which saves nothing.
    fn return_register_rule(&self, register: u8) -> Option<Rule> {
        let Cfa::Register { register: RSP, offset } = self.cfa else { return None };
        let is_bare = [self.rbx, self.rbp, self.rsp].iter().all(|saved| *saved == Saved::Unspecified);
        let offset = u16::try_from(offset).ok()?;
        (is_bare && register < 16).then_some(Rule::return_register(register, offset))
    }

    /// Whether rsp and pc come from where the kernel puts them in a signal
    /// frame: `uc_mcontext.gregs` begins 40 bytes into `struct ucontext`, rsp is
    /// number 15 and rip number 16 in it (Linux, asm/sigcontext.h).
    fn is_sigreturn(&self) -> bool {
        self.cfa == Cfa::Deref { register: RSP, load_offset: 160, add: 0 }
            && self.return_address == Saved::AtRegister { register: RSP, offset: 168 }
    }

    /// The rule without slots, and what its slots count from.
    fn cfa_rule(&self) -> Result<(Rule, Base), Unsupported> {
        let small = |number: i64| i16::try_from(number).map_err(|_| Unsupported::CfaExpression);
        match self.cfa {
            Cfa::Register { register, offset } if register < 16 => {
                let offset = i32::try_from(offset).map_err(|_| Unsupported::CfaRegister)?;
                Ok((Rule::cfa_register(register, offset), Base::Cfa))
            }
            Cfa::Plt { push_end } => Ok((Rule::plt(push_end), Base::Cfa)),
            Cfa::Deref { register: RSP, load_offset, add } => {
                Ok((Rule::cfa_deref_rsp(small(load_offset)?, small(add)?), Base::Cfa))
            }
            Cfa::Deref { register: RBP, load_offset, add } => {
                Ok((Rule::cfa_deref_rbp(small(load_offset)?, small(add)?), Base::Rbp))
            }
            Cfa::Indexed { load_offset, register, add } => {
                let add = i8::try_from(add).map_err(|_| Unsupported::CfaExpression)?;
                Ok((Rule::cfa_deref_rsp_indexed(small(load_offset)?, register, add), Base::Cfa))
            }
            Cfa::Unset | Cfa::Register { .. } => Err(Unsupported::CfaRegister),
            Cfa::Deref { .. } | Cfa::Other => Err(Unsupported::CfaExpression),
        }
    }

    /// A place told relative to the register that the CFA counts from is one relative to the CFA.
    fn at_cfa(&self, saved: Saved) -> Saved {
        match (saved, self.cfa) {
            (Saved::AtRegister { register, offset }, Cfa::Register { register: base, offset: distance })
                if register == base =>
            {
                offset.checked_sub(distance).map_or(Saved::Other, Saved::AtCfa)
            }
            _ => saved,
        }
    }

    fn slot(&self, saved: Saved, base: Base) -> Slot {
        let offset = match (self.at_cfa(saved), base) {
            (Saved::Unspecified | Saved::Same, _) => return Slot::Same,
            (Saved::AtCfa(offset), Base::Cfa) => offset,
            (Saved::AtRegister { register: RBP, offset }, Base::Rbp) => offset,
            _ => return Slot::Lost,
        };
        match i16::try_from(offset / 8) {
            Ok(slot) if offset % 8 == 0 => Slot::At(slot),
            _ => Slot::Lost,
        }
    }
}

#[derive(Clone, Copy)]
enum Base {
    Cfa,
    Rbp,
}

const DW_OP_DEREF: u8 = 0x06;
const DW_OP_PLUS_UCONST: u8 = 0x23;
const DW_OP_LIT0: u8 = 0x30;
const DW_OP_BREG0: u8 = 0x70;
const DW_OP_BREG15: u8 = 0x7f;

/// The CFA that a DWARF expression computes, if it has one of the known forms:
/// `breg r, off [plus_uconst n]`, `breg r, off; deref [plus_uconst n]`, the
/// one that linkers write for lazy-binding stubs, or that of OpenSSL's frames of variable size.
pub(super) fn cfa_of_expression(expression: &[u8]) -> Cfa {
    plt_form(expression)
        .or_else(|| indexed_form(expression))
        .or_else(|| cfa_form(expression))
        .unwrap_or(Cfa::Other)
}

/// `breg7 8; breg16 0; lit15; and; lit k; ge; lit3; shl; plus`
fn plt_form(expression: &[u8]) -> Option<Cfa> {
    let [0x77, 8, 0x80, 0, 0x3f, 0x1a, lit, 0x2a, 0x33, 0x24, 0x22] = expression else { return None };
    let push_end = lit.checked_sub(DW_OP_LIT0).filter(|k| *k < 32)?;
    Some(Cfa::Plt { push_end })
}

/// `breg7 off; breg r 0; lit8; mul; plus; deref; plus_uconst n`
fn indexed_form(expression: &[u8]) -> Option<Cfa> {
    let mut ops = Reader::new(expression);
    let (base, load_offset) = base_register(&mut ops)?;
    let (register, 0) = base_register(&mut ops)? else { return None };
    let [0x38, 0x1e, 0x22, DW_OP_DEREF, DW_OP_PLUS_UCONST, add @ 0..0x80] = *ops.rest() else { return None };
    (base == RSP).then_some(Cfa::Indexed { load_offset, register, add })
}

fn cfa_form(expression: &[u8]) -> Option<Cfa> {
    let mut ops = Reader::new(expression);
    let (register, offset) = base_register(&mut ops)?;
    let mut op = ops.u8();
    let deref = op == Some(DW_OP_DEREF);
    if deref {
        op = ops.u8();
    }
    let add = match op {
        None => 0,
        Some(DW_OP_PLUS_UCONST) => i64::try_from(ops.uleb()?).ok()?,
        Some(_) => return None,
    };
    if !ops.is_empty() {
        return None;
    }
    Some(match deref {
        true => Cfa::Deref { register, load_offset: offset, add },
        false => Cfa::Register { register, offset: offset.checked_add(add)? },
    })
}

/// The place that a `DW_CFA_expression` computes, if it is `breg r, off`.
pub(super) fn place_of_expression(expression: &[u8]) -> Saved {
    let mut ops = Reader::new(expression);
    match base_register(&mut ops) {
        Some((register, offset)) if ops.is_empty() => Saved::AtRegister { register, offset },
        _ => Saved::Other,
    }
}

fn base_register(ops: &mut Reader<'_>) -> Option<(u8, i64)> {
    match ops.u8()? {
        op @ DW_OP_BREG0..=DW_OP_BREG15 => Some((op - DW_OP_BREG0, ops.sleb()?)),
        _ => None,
    }
}
