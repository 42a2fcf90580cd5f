//! Is our walk of an instant what perf's copy of it says?

use framehop::x86_64::{CacheX86_64, Reg, UnwindRegsX86_64};
use framehop::{Error, FrameAddress, Unwinder};
use txprof::model::Outcome;
use txprof::sys::abi::MAX_USER_FRAMES;

use super::{Kept, Ours, Space, programs};

/// A judge's own walk.
pub struct Walk {
    /// Leaf first.
    pub pcs: Vec<u64>,
    pub end: End,
}

/// Why a judge's walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// At the thread's start.
    Start,
    /// Where the copied stack ends, or at the limit.
    Copy,
    /// It knows no further.
    GaveUp(&'static str),
}

/// What comes out, of the stack and of its frames.
#[derive(Debug)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Our frames from the leaf on of which a judge says the same caller, or that they have none. Of the one behind
    /// them the judges say another one where the verdict is [`Verdict::Wrong`], and else nothing.
    pub same_callers: usize,
}

/// What comes out of a stack.
#[derive(Debug)]
pub enum Verdict {
    /// framehop reached the start by the same pcs.
    Exact,
    /// framehop came to the end of the copy by the same pcs.
    Cut,
    /// framehop knew no further or went elsewhere, and the unwind programs say what we say.
    Confirmed(Finding),
    /// framehop knew no further, nor have the programs another word; as far as they came, we say the same.
    Open(Finding),
    /// We said ourselves that mappings or rows were not known yet, and say the same as far as we came.
    Late,
    /// framehop went elsewhere and the programs do not confirm us, or they themselves went elsewhere.
    Wrong(Finding),
}

/// A verdict that needs an explanation.
#[derive(Debug)]
pub struct Finding {
    pub class: Class,
    /// Where framehop and we part, and what each says then.
    pub example: String,
    /// framehop took itself to have reached the start.
    pub framehop_ended: bool,
}

/// What findings with one explanation have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// Module of the last frame that framehop and we have in common.
    pub module: String,
    pub outcome: Outcome,
    pub framehop: End,
    pub programs: End,
}

/// DWARF's order.
const ORDER: [Reg; 16] = [
    Reg::RAX,
    Reg::RDX,
    Reg::RCX,
    Reg::RBX,
    Reg::RSI,
    Reg::RDI,
    Reg::RBP,
    Reg::RSP,
    Reg::R8,
    Reg::R9,
    Reg::R10,
    Reg::R11,
    Reg::R12,
    Reg::R13,
    Reg::R14,
    Reg::R15,
];

/// Judges one pair.
pub fn judge(space: &Space, cache: &mut CacheX86_64, ours: &Ours, kept: &Kept) -> Judgement {
    let framehop = walk_by_framehop(space, cache, kept);
    if follows(ours, &framehop) {
        match framehop.end {
            End::Start => return Judgement::of(Verdict::Exact, ours, &[&framehop]),
            End::Copy => return Judgement::of(Verdict::Cut, ours, &[&framehop]),
            End::GaveUp(_) => {}
        }
    }
    let programs = programs::walk(space, kept, MAX_USER_FRAMES);
    let common = ours.pcs.iter().zip(&framehop.pcs).take_while(|(one, other)| one == other).count();
    let last = common.checked_sub(1).and_then(|index| ours.pcs.get(index)).copied().unwrap_or(kept.pc);
    let name = space.name(last);
    let next = |pcs: &[u64]| pcs.get(common).map_or("-".to_owned(), |pc| space.name(*pc));
    let finding = Finding {
        class: Class {
            module: name.split('+').next().unwrap_or_default().to_owned(),
            outcome: ours.outcome,
            framehop: framehop.end,
            programs: programs.end,
        },
        example: format!(
            "frame {common} behind {name}: ours {} of {}, framehop {} of {}, programs {} of {}",
            next(&ours.pcs),
            ours.pcs.len(),
            next(&framehop.pcs),
            framehop.pcs.len(),
            next(&programs.pcs),
            programs.pcs.len()
        ),
        framehop_ended: framehop.end == End::Start,
    };
    let is_prefix = |pcs: &[u64]| pcs.starts_with(&ours.pcs);
    let knows_more = programs.pcs.len() > common || programs.end == End::Start;
    let verdict = match (follows(ours, &programs), programs.end) {
        _ if is_late(ours) && (is_prefix(&framehop.pcs) || is_prefix(&programs.pcs)) => Verdict::Late,
        (true, End::Start | End::Copy) if knows_more => Verdict::Confirmed(finding),
        (true, _) if follows(ours, &framehop) || skips_caller(space, ours, &framehop) => {
            Verdict::Open(finding)
        }
        _ => Verdict::Wrong(finding),
    };
    Judgement::of(verdict, ours, &[&framehop, &programs])
}

impl Judgement {
    fn of(verdict: Verdict, ours: &Ours, walks: &[&Walk]) -> Self {
        let same = walks.iter().map(|walk| same_callers(ours, walk)).max();
        Self { verdict, same_callers: same.unwrap_or(0) }
    }
}

/// Of how many of our frames, from the leaf on, `theirs` says the same caller, or that they have none.
fn same_callers(ours: &Ours, theirs: &Walk) -> usize {
    let common = ours.pcs.iter().zip(&theirs.pcs).take_while(|(one, other)| one == other).count();
    let is_same_end = theirs.end == End::Start && follows(ours, theirs);
    if is_same_end { common } else { common.saturating_sub(1) }
}

/// Whether our walk is the same as far as the judge's goes, and ends where that does.
fn follows(ours: &Ours, theirs: &Walk) -> bool {
    match theirs.end {
        End::Start => ours.pcs == theirs.pcs && ours.outcome.is_complete(),
        End::Copy | End::GaveUp(_) => ours.pcs.starts_with(&theirs.pcs),
    }
}

/// Whether framehop misses the caller of the interrupted frame and nothing else: where that has no unwind program
/// and has not pushed the frame pointer yet, this is still its caller's and leads to the caller's caller.
fn skips_caller(space: &Space, ours: &Ours, framehop: &Walk) -> bool {
    let (Some((leaf, callers)), Some((same_leaf, rest))) =
        (ours.pcs.split_first(), framehop.pcs.split_first())
    else {
        return false;
    };
    let is_same = leaf == same_leaf && callers.get(1..) == Some(rest);
    is_same && ours.outcome.is_complete() && framehop.end == End::Start && !programs::is_known(space, *leaf)
}

/// Whether our walk ended because a new program or library was not known to it yet.
fn is_late(ours: &Ours) -> bool {
    matches!(ours.outcome, Outcome::MappingsNotLoaded | Outcome::TableNotLoaded | Outcome::UnknownMapping)
}

/// framehop's walk, as far as it is one: framehop does not tell that it cannot hold a rule or knows none, but takes
/// the frame pointer or the top of the stack instead. So its walk ends before a frame with such a rule and before a
/// pc where no code is, and an interrupted frame without a program is not found to be the first one.
fn walk_by_framehop(space: &Space, cache: &mut CacheX86_64, kept: &Kept) -> Walk {
    let mut walk = raw_walk_by_framehop(space, cache, kept);
    if let Some(wild) = walk.pcs.iter().skip(1).position(|pc| !space.is_mapped(pc - 1)) {
        walk.pcs.truncate(wild + 1);
        walk.end = End::GaveUp("went where no code is");
    }
    if walk.end == End::Start && walk.pcs.len() == 1 && !programs::is_known(space, kept.pc) {
        walk.end = End::GaveUp("took a number for the start");
    }
    walk
}

/// Signal frames, whose unwind programs read memory, which framehop's do not, are passed by hand:
/// it is set down on the other side with the registers that the kernel saved.
fn raw_walk_by_framehop(space: &Space, cache: &mut CacheX86_64, kept: &Kept) -> Walk {
    let mut registers = registers_of(kept.pc, |number| kept.registers[number]);
    let mut address = FrameAddress::from_instruction_pointer(kept.pc);
    let mut pcs = Vec::new();
    let mut is_elsewhere = false;
    while pcs.len() < MAX_USER_FRAMES {
        pcs.push(address.address());
        if is_signal_return(space, address) {
            let Some((pc, interrupted)) = interrupted(kept, registers.sp()) else {
                return Walk { pcs, end: End::GaveUp("signal frame not copied") };
            };
            (registers, address) = (interrupted, FrameAddress::from_instruction_pointer(pc));
            is_elsewhere = kept.read(registers.sp()).is_none();
            continue;
        }
        if !space.is_plain(address.address_for_lookup()) {
            return Walk { pcs, end: End::GaveUp("cannot hold the rule") };
        }
        let mut read = |at| kept.read(at).ok_or(());
        let end = match space.framehop.unwind_frame(address, &mut registers, cache, &mut read) {
            Ok(Some(pc)) => match FrameAddress::from_return_address(pc) {
                Some(caller) => {
                    address = caller;
                    continue;
                }
                None => End::Start,
            },
            Ok(None) => End::Start,
            Err(Error::CouldNotReadStack(at)) if is_elsewhere || kept.is_behind_copy(at) => End::Copy,
            Err(error) => End::GaveUp(why(error)),
        };
        return Walk { pcs, end };
    }
    Walk { pcs, end: End::Copy }
}

fn why(error: Error) -> &'static str {
    match error {
        Error::CouldNotReadStack(_) => "could not read",
        Error::FramepointerUnwindingMovedBackwards => "frame pointer moved backwards",
        Error::DidNotAdvance => "did not advance",
        Error::IntegerOverflow => "overflow",
        Error::ReturnAddressIsNull => "null",
    }
}

fn registers_of(pc: u64, value: impl Fn(usize) -> u64) -> UnwindRegsX86_64 {
    let mut registers = UnwindRegsX86_64::new(pc, 0, 0);
    ORDER.iter().enumerate().for_each(|(number, place)| registers.set(*place, value(number)));
    registers
}

/// Whether `address` is in the code that handlers return to, `mov $15, %rax; syscall`, which is `rt_sigreturn`. A
/// thread may be interrupted at its second instruction, and in the kernel behind it.
fn is_signal_return(space: &Space, address: FrameAddress) -> bool {
    const CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05];
    let begins_at = |pc| space.find(pc).is_some_and(|(image, svma)| image.code(svma).starts_with(&CODE));
    let behind: &[u64] = if address.is_return_address() { &[0] } else { &[0, 7, 9] };
    behind.iter().any(|behind| begins_at(address.address().wrapping_sub(*behind)))
}

/// The registers in the `struct ucontext` at `rsp`: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip from
/// byte 40 on (`arch/x86/include/uapi/asm/sigcontext.h`).
fn interrupted(kept: &Kept, rsp: u64) -> Option<(u64, UnwindRegsX86_64)> {
    /// Places there of DWARF's registers.
    const PLACES: [u64; 16] = [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
    let word = |index: u64| kept.read(rsp.wrapping_add(40 + 8 * index));
    let pc = word(16)?;
    let mut values = [0; 16];
    for (value, place) in values.iter_mut().zip(PLACES) {
        *value = word(place)?;
    }
    Some((pc, registers_of(pc, |number| values[number])))
}
