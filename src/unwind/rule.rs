//! One step from a frame to its caller, in the 8 bytes that the BPF walker
//! reads (`struct rule` in `ebpf/shared.h`), and the same as typed values.

/// `struct rule`: the raw form. Build it with the constructors, look at it
/// with [`kind`](Rule::kind), [`rbp`](Rule::rbp) and [`rbx`](Rule::rbx).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rule {
    /// Meaning depends on the kind; 0 where the kind has no CFA.
    pub cfa_offset: i32,
    /// Where the caller's rbp is, see [`Rule::rbp`].
    pub rbp_slot: i16,
    /// Where the caller's rbx is, see [`Rule::rbx`].
    pub rbx_slot: i8,
    /// `enum rule_kind`.
    pub kind: u8,
}

/// How the CFA (the caller's rsp) is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleKind {
    /// No unwind information here.
    None,
    /// The thread's first function: nothing called it.
    End,
    /// A sigreturn trampoline: a `struct ucontext` is at rsp.
    Signal,
    /// There is information that a rule cannot hold.
    Unsupported,
    /// `CFA = rsp + 8 + ((pc & 15) >= push_end ? 8 : 0)`.
    Plt {
        /// Offset in the 16-byte stub behind its `push`, 0..=31.
        push_end: u8,
    },
    /// `CFA = *(rsp + load_offset) + add`.
    CfaDerefRsp {
        /// Signed distance from rsp in bytes.
        load_offset: i16,
        /// Added to the loaded value.
        add: i16,
    },
    /// `CFA = *(rbp + load_offset) + add`; both slots count from rbp, not from the CFA.
    CfaDerefRbp {
        /// Signed distance from rbp in bytes.
        load_offset: i16,
        /// Added to the loaded value.
        add: i16,
    },
    /// `CFA = *(rsp + load_offset + 8 * register) + add`.
    CfaDerefRspIndexed {
        /// Signed distance from rsp in bytes.
        load_offset: i16,
        /// DWARF register number, 0..=15.
        register: u8,
        /// Added to the loaded value.
        add: i8,
    },
    /// `CFA = rsp + offset`; the return address is in `register`, which is known in interrupted frames alone.
    ReturnRegister {
        /// DWARF register number, 0..=15.
        register: u8,
        /// Distance from rsp in bytes.
        offset: u16,
    },
    /// `CFA = register + offset`.
    CfaRegister {
        /// DWARF register number, 0..=15.
        register: u8,
        /// Signed distance in bytes.
        offset: i32,
    },
}

/// Where the caller's value of a callee-saved register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// Not saved: it is the current value.
    Same,
    /// At `base + 8 * n`, where the base is the CFA (rbp for [`RuleKind::CfaDerefRbp`]).
    At(i16),
    /// Not recoverable through this frame.
    Lost,
}

const RULE_PLT: u8 = 4;
const RULE_CFA_DEREF_RSP: u8 = 5;
const RULE_CFA_DEREF_RBP: u8 = 6;
const RULE_CFA_DEREF_RSP_INDEXED: u8 = 7;
const RULE_RETURN_REGISTER: u8 = 8;
const RULE_CFA_REGISTER: u8 = 16;
const REGISTERS: u8 = 16;
const SLOT_RBX_LOST: i8 = i8::MIN;
const SLOT_RBP_LOST: i16 = i16::MIN;

impl Rule {
    /// [`RuleKind::None`].
    pub const NONE: Self = Self::bare(0);
    /// [`RuleKind::End`].
    pub const END: Self = Self::bare(1);
    /// [`RuleKind::Signal`].
    pub const SIGNAL: Self = Self::bare(2);
    /// [`RuleKind::Unsupported`].
    pub const UNSUPPORTED: Self = Self::bare(3);

    const fn bare(kind: u8) -> Self {
        Self { cfa_offset: 0, rbp_slot: 0, rbx_slot: 0, kind }
    }

    /// A lazy-binding stub that pushes 8 bytes ending at `push_end` of its 16.
    pub const fn plt(push_end: u8) -> Self {
        Self { cfa_offset: push_end as i32, ..Self::bare(RULE_PLT) }
    }

    /// `CFA = register + offset`; `register` is reduced to 0..=15. Nothing saved but the return address.
    pub const fn cfa_register(register: u8, offset: i32) -> Self {
        Self { cfa_offset: offset, ..Self::bare(RULE_CFA_REGISTER + register % REGISTERS) }
    }

    /// `CFA = *(rsp + load_offset) + add`.
    pub const fn cfa_deref_rsp(load_offset: i16, add: i16) -> Self {
        Self { cfa_offset: pack(load_offset, add), ..Self::bare(RULE_CFA_DEREF_RSP) }
    }

    /// `CFA = *(rsp + load_offset + 8 * register) + add`; `register` is reduced to 0..=15.
    pub const fn cfa_deref_rsp_indexed(load_offset: i16, register: u8, add: i8) -> Self {
        let high = i16::from_le_bytes([add as u8, register % REGISTERS]);
        Self { cfa_offset: pack(load_offset, high), ..Self::bare(RULE_CFA_DEREF_RSP_INDEXED) }
    }

    /// `CFA = *(rbp + load_offset) + add`, rbp saved at `rbp + 0`.
    pub const fn cfa_deref_rbp(load_offset: i16, add: i16) -> Self {
        Self { cfa_offset: pack(load_offset, add), ..Self::bare(RULE_CFA_DEREF_RBP) }
    }

    /// `CFA = rsp + offset`, with the return address in `register`, which is reduced to 0..=15. Nothing is saved.
    pub const fn return_register(register: u8, offset: u16) -> Self {
        let packed = pack(offset as i16, (register % REGISTERS) as i16);
        Self { cfa_offset: packed, ..Self::bare(RULE_RETURN_REGISTER) }
    }

    /// The same rule with rbx at `slot`. A slot beyond ±127 is lost, as is slot
    /// 0, which means "same" (at the CFA itself lies nothing of this frame).
    pub fn with_rbx(mut self, slot: Slot) -> Self {
        self.rbx_slot = match slot {
            Slot::Same => 0,
            Slot::At(n) => i8::try_from(n).ok().filter(|n| *n != 0).unwrap_or(SLOT_RBX_LOST),
            Slot::Lost => SLOT_RBX_LOST,
        };
        self
    }

    /// The same rule with rbp at `slot`. Slot 0 means "at rbp" for
    /// [`RuleKind::CfaDerefRbp`], where `Same` cannot be told and is lost; for
    /// the other kinds it means "same", and a register saved there is lost.
    pub fn with_rbp(mut self, slot: Slot) -> Self {
        let zero_is_a_place = self.kind == RULE_CFA_DEREF_RBP;
        self.rbp_slot = match slot {
            Slot::Same if zero_is_a_place => SLOT_RBP_LOST,
            Slot::Same => 0,
            Slot::At(0) if !zero_is_a_place => SLOT_RBP_LOST,
            Slot::At(n) => n,
            Slot::Lost => SLOT_RBP_LOST,
        };
        self
    }

    /// The typed kind; `None` for numbers that no kind has.
    pub fn kind(&self) -> Option<RuleKind> {
        let [low, high] = unpack(self.cfa_offset);
        Some(match self.kind {
            0 => RuleKind::None,
            1 => RuleKind::End,
            2 => RuleKind::Signal,
            3 => RuleKind::Unsupported,
            RULE_PLT => RuleKind::Plt { push_end: u8::try_from(self.cfa_offset).ok().filter(|k| *k < 32)? },
            RULE_CFA_DEREF_RSP => RuleKind::CfaDerefRsp { load_offset: low, add: high },
            RULE_CFA_DEREF_RBP => RuleKind::CfaDerefRbp { load_offset: low, add: high },
            RULE_CFA_DEREF_RSP_INDEXED => {
                let [add, register] = high.to_le_bytes();
                RuleKind::CfaDerefRspIndexed {
                    load_offset: low,
                    register: register % REGISTERS,
                    add: add as i8,
                }
            }
            RULE_RETURN_REGISTER => {
                let [register, _] = high.to_le_bytes();
                RuleKind::ReturnRegister { register: register % REGISTERS, offset: low as u16 }
            }
            kind @ RULE_CFA_REGISTER..32 => {
                RuleKind::CfaRegister { register: kind - RULE_CFA_REGISTER, offset: self.cfa_offset }
            }
            _ => return None,
        })
    }

    /// Where the caller's rbx is.
    pub fn rbx(&self) -> Slot {
        match self.rbx_slot {
            0 => Slot::Same,
            SLOT_RBX_LOST => Slot::Lost,
            slot => Slot::At(slot.into()),
        }
    }

    /// Where the caller's rbp is.
    pub fn rbp(&self) -> Slot {
        match self.rbp_slot {
            0 if self.kind != RULE_CFA_DEREF_RBP => Slot::Same,
            SLOT_RBP_LOST => Slot::Lost,
            slot => Slot::At(slot),
        }
    }

    /// The 8 bytes as they lie in memory, little-endian.
    pub fn to_bits(self) -> u64 {
        u64::from(self.cfa_offset as u32)
            | u64::from(self.rbp_slot as u16) << 32
            | u64::from(self.rbx_slot as u8) << 48
            | u64::from(self.kind) << 56
    }

    /// The inverse of [`Rule::to_bits`]; any bits give a rule, if perhaps one without a kind.
    pub fn from_bits(bits: u64) -> Self {
        Self {
            cfa_offset: bits as u32 as i32,
            rbp_slot: (bits >> 32) as u16 as i16,
            rbx_slot: (bits >> 48) as u8 as i8,
            kind: (bits >> 56) as u8,
        }
    }
}

const fn pack(low: i16, high: i16) -> i32 {
    (low as u16 as u32 | (high as u16 as u32) << 16) as i32
}

const fn unpack(offset: i32) -> [i16; 2] {
    [offset as u16 as i16, ((offset as u32) >> 16) as u16 as i16]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the C structure and its little-endian layout, field by field.
    #[test]
    fn layout_is_that_of_the_c_structure() {
        assert_eq!(size_of::<Rule>(), 8);
        let rule = Rule { cfa_offset: 0x0403_0201, rbp_slot: 0x0605, rbx_slot: 7, kind: 8 };
        assert_eq!(rule.to_bits().to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Rule::from_bits(rule.to_bits()), rule);
    }

    /// What a constructor was given is what the typed view tells, signs included.
    #[test]
    fn typed_view_returns_what_was_built() {
        let rule = Rule::cfa_register(6, -16).with_rbp(Slot::At(-2)).with_rbx(Slot::At(-127));
        assert_eq!(rule.kind(), Some(RuleKind::CfaRegister { register: 6, offset: -16 }));
        assert_eq!((rule.rbp(), rule.rbx()), (Slot::At(-2), Slot::At(-127)));
        let rule = Rule::cfa_deref_rbp(-8, 300);
        assert_eq!(rule.kind(), Some(RuleKind::CfaDerefRbp { load_offset: -8, add: 300 }));
        assert_eq!(rule.rbp(), Slot::At(0));
        let rule = Rule::cfa_deref_rsp(32_000, -1);
        assert_eq!(rule.kind(), Some(RuleKind::CfaDerefRsp { load_offset: 32_000, add: -1 }));
        let rule = Rule::cfa_deref_rsp_indexed(-8, 9, -1);
        assert_eq!(rule.kind(), Some(RuleKind::CfaDerefRspIndexed { load_offset: -8, register: 9, add: -1 }));
        let rule = Rule::return_register(5, 0xfff0);
        assert_eq!(rule.kind(), Some(RuleKind::ReturnRegister { register: 5, offset: 0xfff0 }));
        assert_eq!(Rule::plt(11).kind(), Some(RuleKind::Plt { push_end: 11 }));
        assert_eq!(Rule { kind: 9, ..Rule::NONE }.kind(), None);
    }

    /// A slot that does not fit, or that would read as "same", is lost rather than wrong.
    #[test]
    fn slots_that_cannot_be_told_are_lost() {
        let rule = Rule::cfa_register(7, 8);
        assert_eq!(rule.with_rbx(Slot::At(-128)).rbx(), Slot::Lost);
        assert_eq!(rule.with_rbx(Slot::At(128)).rbx(), Slot::Lost);
        assert_eq!(rule.with_rbx(Slot::At(0)).rbx(), Slot::Lost);
        assert_eq!(rule.with_rbp(Slot::At(0)).rbp(), Slot::Lost);
        assert_eq!(Rule::cfa_deref_rbp(-8, 0).with_rbp(Slot::Same).rbp(), Slot::Lost);
    }
}
