//! The second judge: it runs the whole unwind program of each frame's function, with all
//! registers and any expression, as libgcc's unwinder does, by gimli. It guesses nothing:
//! where there is no program, it stops.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, EvaluationResult, FrameDescriptionEntry,
    LittleEndian, Location, Operation, Register, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection, UnwindTableRow, Value,
};

use super::judge::{End, Walk};
use super::{Image, Kept, Space};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = FrameDescriptionEntry<Bytes<'a>>;

const RSP: usize = 7;
const RETURN: usize = 16;
/// What calls preserve: rbx, rbp, r12 to r15 (psABI, figure 3.4).
const PRESERVED: [usize; 6] = [3, 6, 12, 13, 14, 15];

/// Leaf first, at most `limit` pcs, up to where there is no program or no copy of the stack.
pub fn walk(space: &Space, kept: &Kept, limit: usize) -> Walk {
    let mut frame = Frame { registers: [None; 17], is_interrupted: true };
    frame.registers.iter_mut().zip(kept.registers).for_each(|(place, value)| *place = Some(value));
    frame.registers[RETURN] = Some(kept.pc);
    let mut pcs = Vec::new();
    loop {
        let Some(pc) = frame.registers[RETURN].filter(|pc| *pc != 0) else {
            return Walk { pcs, end: End::Start };
        };
        if pcs.len() == limit {
            return Walk { pcs, end: End::Copy };
        }
        pcs.push(pc);
        let at = if frame.is_interrupted { pc } else { pc - 1 };
        frame = match frame.caller(space, at, kept) {
            Ok(caller) => caller,
            Err(end) => return Walk { pcs, end },
        };
    }
}

/// Whether the program for the code at `at` asks for no more than framehop keeps and reads: a CFA from rsp and rbp
/// alone, and a return address in its place. `None` without a program.
pub fn is_plain(space: &Space, at: u64) -> Option<bool> {
    let (image, svma) = space.find(at)?;
    let (eh_frame, bases) = sections(image);
    let fde = find_fde(image, &eh_frame, &bases, svma)?;
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(&eh_frame, &bases, &mut context, svma).ok()?;
    let kept = |register: Register| [6, 7, 16].contains(&register.0);
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, .. } => kept(*register),
        CfaRule::Expression(expression) => {
            let mut operations = expression.get(&eh_frame).ok()?.operations(fde.cie().encoding());
            std::iter::from_fn(|| operations.next().ok()?).all(|operation| match operation {
                Operation::Deref { .. } => false,
                Operation::RegisterOffset { register, .. } => kept(register),
                _ => true,
            })
        }
    };
    Some(!calls(row) || cfa && matches!(row.register(Register(16)), Some(RegisterRule::Offset(_))))
}

/// Whether there is a program for the code at `at`.
pub fn is_known(space: &Space, at: u64) -> bool {
    is_plain(space, at).is_some()
}

fn calls(row: &UnwindTableRow<usize>) -> bool {
    !matches!(row.register(Register(16)), None | Some(RegisterRule::Undefined))
}

/// What is known in a frame.
struct Frame {
    /// By DWARF number, `None` where a call has not preserved them; the last is the pc.
    registers: [Option<u64>; 17],
    is_interrupted: bool,
}

impl Frame {
    fn caller(&self, space: &Space, at: u64, kept: &Kept) -> Result<Self, End> {
        let no_program = || End::GaveUp("no program");
        let (image, svma) = space.find(at).ok_or_else(no_program)?;
        let (eh_frame, bases) = sections(image);
        let fde = find_fde(image, &eh_frame, &bases, svma).ok_or_else(no_program)?;
        let mut context = UnwindContext::new();
        let row = fde.unwind_info_for_address(&eh_frame, &bases, &mut context, svma);
        let row = row.map_err(|_| End::GaveUp("program without a row"))?;
        if !calls(row) {
            return Err(End::Start);
        }
        let step = Step { frame: self, kept, eh_frame: &eh_frame, fde: &fde };
        let cfa = step.cfa(row)?;
        let mut registers = [None; 17];
        for (number, place) in registers.iter_mut().enumerate() {
            *place = step.register(row, number, cfa);
        }
        if registers[RETURN].is_none() {
            return Err(step.failure(cfa));
        }
        Ok(Self { registers, is_interrupted: fde.is_signal_trampoline() })
    }
}

/// One run of a program.
struct Step<'a> {
    frame: &'a Frame,
    kept: &'a Kept,
    eh_frame: &'a EhFrame<Bytes<'a>>,
    fde: &'a Fde<'a>,
}

impl Step<'_> {
    fn cfa(&self, row: &UnwindTableRow<usize>) -> Result<u64, End> {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                let value = self.frame.registers.get(usize::from(register.0)).copied().flatten();
                value.map(|value| value.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None),
        };
        cfa.ok_or_else(|| self.failure(self.frame.registers[RSP].unwrap_or(0)))
    }

    /// Why the frame above `address` is out of reach.
    fn failure(&self, address: u64) -> End {
        let is_elsewhere = self.kept.read(self.frame.registers[RSP].unwrap_or(0)).is_none();
        if is_elsewhere || self.kept.is_behind_copy(address) {
            End::Copy
        } else {
            End::GaveUp("program failed")
        }
    }

    fn register(&self, row: &UnwindTableRow<usize>, number: usize, cfa: u64) -> Option<u64> {
        let registers = &self.frame.registers;
        match row.register(Register(number as u16)) {
            None if number == RSP => Some(cfa),
            None => registers[number].filter(|_| PRESERVED.contains(&number)),
            Some(RegisterRule::SameValue) => registers[number],
            Some(RegisterRule::Offset(offset)) => self.kept.read(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => registers.get(usize::from(other.0)).copied().flatten(),
            Some(RegisterRule::Expression(at)) => self.kept.read(self.evaluate(&at, Some(cfa))?),
            Some(RegisterRule::ValExpression(value)) => self.evaluate(&value, Some(cfa)),
            Some(_) => None,
        }
    }

    fn evaluate(&self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Option<u64> {
        let expression = expression.get(self.eh_frame).ok()?;
        let mut evaluation = expression.evaluation(self.fde.cie().encoding());
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.frame.registers.get(usize::from(register.0)).copied().flatten()?;
                    evaluation.resume_with_register(Value::Generic(value)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.kept.read(address)?)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }
}

fn sections(image: &Image) -> (EhFrame<Bytes<'_>>, BaseAddresses) {
    let mut eh_frame = EhFrame::new(&image.eh_frame.bytes, LittleEndian);
    eh_frame.set_address_size(8);
    let bases = BaseAddresses::default()
        .set_eh_frame(image.eh_frame.svma.start)
        .set_eh_frame_hdr(image.eh_frame_hdr.svma.start)
        .set_text(image.text.svma.start)
        .set_got(image.got.svma.start);
    (eh_frame, bases)
}

fn find_fde<'a>(
    image: &'a Image,
    eh_frame: &EhFrame<Bytes<'a>>,
    bases: &BaseAddresses,
    svma: u64,
) -> Option<Fde<'a>> {
    let get_cie = EhFrame::cie_from_offset;
    if image.eh_frame_hdr.bytes.is_empty() {
        return eh_frame.fde_for_address(bases, svma, get_cie).ok();
    }
    let header = EhFrameHdr::new(&image.eh_frame_hdr.bytes, LittleEndian).parse(bases, 8).ok()?;
    header.table()?.fde_for_address(eh_frame, bases, svma, get_cie).ok()
}
