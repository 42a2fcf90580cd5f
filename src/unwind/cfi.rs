//! The CFI interpreter: runs a CIE's and an FDE's instructions (DWARF 5,
//! 6.4.2, and the GNU extensions) and tells from which address on which
//! [`State`] holds.

use super::frames::{Cie, Fde};
use super::reader::Reader;
use super::rule::Rule;
use super::state::{Cfa, Saved, State, Unsupported, cfa_of_expression, place_of_expression};

/// Deepest nesting of remembered states. Compilers nest one or two deep, hand-written assembly
/// up to four; beyond, the rest of the function is unsupported.
pub(super) const MAX_REMEMBERED: usize = 32;

/// Runs `fde` and calls `emit(from, to, rule)` for consecutive, non-empty ranges that together
/// are `[fde.start, end)`; neighbours may have equal rules. `remembered` is scratch space.
pub(super) fn run_fde(
    cie: &Cie,
    fde: &Fde<'_>,
    end: u64,
    remembered: &mut Vec<State>,
    mut emit: impl FnMut(u64, u64, Result<Rule, Unsupported>),
) {
    remembered.clear();
    let mut program = Program {
        code: Reader::new(fde.instructions),
        state: cie.initial,
        initial: &cie.initial,
        remembered,
        code_align: cie.code_align,
        data_align: cie.data_align,
    };
    let mut at = fde.start;
    while at < end {
        let (next, failure) = match program.run_to_advance(at) {
            Ok(next) => (next.unwrap_or(end).min(end), None),
            Err(reason) => (end, Some(reason)),
        };
        if next > at {
            emit(at, next, failure.map_or_else(|| program.state.rule(cie.signal_frame), Err));
        }
        at = next;
    }
}

/// The state that a CIE's instructions leave. A CIE has no addresses to advance over.
pub(super) fn run_cie(code: &[u8], code_align: u64, data_align: i64) -> Result<State, Unsupported> {
    let mut program = Program {
        code: Reader::new(code),
        state: State::EMPTY,
        initial: &State::EMPTY,
        remembered: &mut Vec::new(),
        code_align,
        data_align,
    };
    match program.run_to_advance(0)? {
        None => Ok(program.state),
        Some(_) => Err(Unsupported::Instruction),
    }
}

struct Program<'a> {
    code: Reader<'a>,
    state: State,
    initial: &'a State,
    remembered: &'a mut Vec<State>,
    code_align: u64,
    data_align: i64,
}

/// What one instruction did.
enum Done {
    State,
    /// The state so far holds up to this address.
    Advance(u64),
}

impl Program<'_> {
    /// Executes up to and including the next advance and returns its target, at least `at`;
    /// `None` at the end of the instructions.
    #[inline]
    fn run_to_advance(&mut self, at: u64) -> Result<Option<u64>, Unsupported> {
        while let Some(opcode) = self.code.u8() {
            let low = u64::from(opcode & 0x3f);
            match opcode >> 6 {
                1 => return self.target(at, low).map(Some),
                2 => {
                    let offset = self.code.uleb().ok_or(Unsupported::Instruction)?;
                    self.state.set_saved(low, self.factored(offset)?);
                }
                3 => self.state.set_saved(low, self.initial.saved(low)),
                _ => match self.extended(opcode, at) {
                    Some(Ok(Done::State)) => {}
                    Some(Ok(Done::Advance(to))) => return Ok(Some(to)),
                    Some(Err(reason)) => return Err(reason),
                    None => return Err(Unsupported::Instruction),
                },
            }
        }
        Ok(None)
    }

    /// Instructions with a whole byte of opcode; `None` when operands are missing or make no sense.
    #[inline]
    fn extended(&mut self, opcode: u8, at: u64) -> Option<Result<Done, Unsupported>> {
        let code = &mut self.code;
        match opcode {
            0x00 => {}
            0x02 => return self.code.u8().map(|delta| self.advance(at, delta.into())),
            0x03 => return self.code.u16().map(|delta| self.advance(at, delta.into())),
            0x04 => return self.code.u32().map(|delta| self.advance(at, delta.into())),
            0x05 | 0x11 | 0x2f => {
                // DW_CFA_offset_extended, _sf, and GNU_negative_offset_extended
                let register = code.uleb()?;
                let factor = match opcode {
                    0x11 => code.sleb()?,
                    0x05 => i64::try_from(code.uleb()?).ok()?,
                    _ => i64::try_from(code.uleb()?).ok()?.checked_neg()?,
                };
                self.state.set_saved(register, Saved::AtCfa(factor.checked_mul(self.data_align)?));
            }
            0x06 => {
                let register = code.uleb()?;
                self.state.set_saved(register, self.initial.saved(register));
            }
            0x07 => self.state.set_saved(code.uleb()?, Saved::Undefined),
            0x08 => self.state.set_saved(code.uleb()?, Saved::Same),
            0x09 => {
                // DW_CFA_register
                let register = code.uleb()?;
                let other = code.uleb()?;
                let saved =
                    if other == register { Saved::Same } else { Saved::InRegister(register_number(other)) };
                self.state.set_saved(register, saved);
            }
            0x0a => return Some(self.remember()),
            0x0b => self.state = self.remembered.pop()?,
            0x0c..=0x0f | 0x12 | 0x13 => self.define_cfa(opcode)?,
            0x10 => {
                let register = code.uleb()?;
                self.state.set_saved(register, place_of_expression(block(code)?));
            }
            0x14 | 0x15 => {
                // DW_CFA_val_offset, _sf
                let register = code.uleb()?;
                let factor = if opcode == 0x14 { i64::try_from(code.uleb()?).ok()? } else { code.sleb()? };
                self.state.set_saved(register, Saved::IsCfa(factor.checked_mul(self.data_align)?));
            }
            0x16 => {
                let register = code.uleb()?;
                block(code)?;
                self.state.set_saved(register, Saved::Other);
            }
            0x2e => {
                // DW_CFA_GNU_args_size: of interest to those who resume, not to those who walk.
                code.uleb()?;
            }
            // DW_CFA_set_loc among them: no compiler for x86-64 writes it.
            _ => return None,
        }
        Some(Ok(Done::State))
    }

    fn define_cfa(&mut self, opcode: u8) -> Option<()> {
        let code = &mut self.code;
        self.state.cfa = match (opcode, self.state.cfa) {
            (0x0c, _) => {
                let register = register_number(code.uleb()?);
                Cfa::Register { register, offset: i64::try_from(code.uleb()?).ok()? }
            }
            (0x12, _) => {
                let register = register_number(code.uleb()?);
                Cfa::Register { register, offset: code.sleb()?.checked_mul(self.data_align)? }
            }
            (0x0d, Cfa::Register { offset, .. }) => {
                Cfa::Register { register: register_number(code.uleb()?), offset }
            }
            (0x0e, Cfa::Register { register, .. }) => {
                Cfa::Register { register, offset: i64::try_from(code.uleb()?).ok()? }
            }
            (0x13, Cfa::Register { register, .. }) => {
                Cfa::Register { register, offset: code.sleb()?.checked_mul(self.data_align)? }
            }
            (0x0f, _) => cfa_of_expression(block(code)?),
            _ => return None,
        };
        Some(())
    }

    fn remember(&mut self) -> Result<Done, Unsupported> {
        if self.remembered.len() >= MAX_REMEMBERED {
            return Err(Unsupported::RememberDepth);
        }
        self.remembered.push(self.state);
        Ok(Done::State)
    }

    #[inline]
    fn factored(&self, offset: u64) -> Result<Saved, Unsupported> {
        let factor = i64::try_from(offset).ok().and_then(|offset| offset.checked_mul(self.data_align));
        factor.map(Saved::AtCfa).ok_or(Unsupported::Instruction)
    }

    fn advance(&self, at: u64, delta: u64) -> Result<Done, Unsupported> {
        self.target(at, delta).map(Done::Advance)
    }

    #[inline]
    fn target(&self, at: u64, delta: u64) -> Result<u64, Unsupported> {
        let bytes = delta.checked_mul(self.code_align).and_then(|bytes| at.checked_add(bytes));
        bytes.ok_or(Unsupported::Instruction)
    }
}

/// Numbers beyond a byte are no register of this CPU; 255 is none either.
fn register_number(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn block<'a>(code: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(code.uleb()?).ok()?;
    code.take(len)
}
