//! Rows for machine code without CFI, by following it from where functions
//! begin and keeping count of the stack's depth.
//!
//! A first sweep decodes the code from end to end and notes where functions
//! certainly begin: at the entry point, where calls lead, where an address is
//! taken and a function's first instruction stands. From there all paths are
//! followed. What they leave unvisited begins behind padding or behind a jump;
//! it is tried as a function, then as a further case of the switch before it.
//!
//! A try stands or falls as a whole. Where paths meet they must agree about
//! the depth, each return must find the return address alone on the stack,
//! and what is only supposed to be a function must show such a return or flow
//! into code that is known. So data in the code, other calling conventions
//! and misreadings give no rows rather than wrong ones. A call behind which
//! nothing fits is one that does not return.
//!
//! This is for musl, see `FdeIndex::starts_like_musl`. On glibc's code, with its CFI taken away, the
//! distance differs for 1.4 bytes in a thousand; on code with parts split off (python3) for 38, which is
//! why no other file is treated so.
//!
//! Work is bounded: [`STEPS_PER_BYTE`] for the bytes given, whatever they are.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind};

use super::rule::Rule;
use super::stack_depth::Depth;
use super::stubs;

/// Instructions followed for each byte of code, on average. Sound code takes less than one.
const STEPS_PER_BYTE: usize = 6;
/// Calls taken for ones that do not return, for each function; assertions in one function share their end.
const MAX_DEAD_CALLS: usize = 16;
/// States at a switch that the code behind it is tried with.
const MAX_SWITCHES: usize = 2;
/// Functions are aligned to this where their address is taken or padding goes before them.
const FUNCTION_ALIGNMENT: u64 = 16;
/// Longest run of zeros, nops and traps that is padding and not data.
const MAX_PADDING_BYTES: usize = 64;

/// `rule` holds for a range of stated addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) svma: Range<u64>,
    pub(super) rule: Rule,
    /// A function begins here.
    pub(super) begins: bool,
    /// Known by its bytes alone.
    pub(super) stub: bool,
}

/// The pieces of `code`, which begins at `svma` and which no FDE covers; ascending and without
/// overlaps. `entry` is the file's entry point. Without `follow` only stubs known by their bytes are told.
pub(super) fn pieces(code: &[u8], svma: u64, entry: u64, follow: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    stubs::find(code, svma, entry, |from, to, rule| {
        pieces.push(Piece { svma: from..to, rule, begins: false, stub: true });
    });
    if !follow || code.iter().all(|byte| is_padding(*byte)) || u32::try_from(code.len()).is_err() {
        return pieces;
    }
    let mut flow = Flow::new(code, svma);
    for stub in &pieces {
        flow.block(&stub.svma);
    }
    flow.sweep();
    flow.follow_known(entry);
    flow.follow_supposed();
    pieces.extend(flow.known_pieces());
    pieces.sort_by_key(|piece| piece.svma.start);
    for index in 1..pieces.len() {
        let next = pieces.get(index).map_or(u64::MAX, |next| next.svma.start);
        if let Some(piece) = pieces.get_mut(index - 1) {
            piece.svma.end = piece.svma.end.min(next);
        }
    }
    pieces.retain(|piece| !piece.svma.is_empty());
    pieces
}

/// The bytes of nops, traps and zeros; also those of some instructions, which is why longer runs do not count.
fn is_padding(byte: u8) -> bool {
    matches!(byte, 0x00 | 0x0f | 0x1f | 0x2e | 0x40 | 0x44 | 0x66 | 0x80 | 0x84 | 0x90 | 0xcc)
}

/// What the sweep saw at one offset.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Seen(u8);

impl Seen {
    const STARTS: u8 = 1;
    /// A nop or a trap.
    const PADDING: u8 = 2;
    /// Nothing flows to the next instruction.
    const ENDS: u8 = 4;
    /// A call or an address names it.
    const CALLED: u8 = 8;
    const ADDRESSED: u8 = 16;
    /// `push` or `endbr64`, as compiled functions begin.
    const OPENING: u8 = 32;

    fn is(self, what: u8) -> bool {
        self.0 & what != 0
    }
}

/// An instruction that was reached.
#[derive(Clone, Copy)]
struct Node {
    at: u32,
    len: u8,
    begins: bool,
    /// The call to doubt when what follows does not fit; [`NO_CALL`] for none.
    behind_call: u32,
    state: Depth,
}

const NO_CALL: u32 = u32::MAX;
/// Set in `behind_call`: that call is doubted before those behind it.
const DOUBTED: u32 = 1 << 31;
const UNREACHED: u32 = u32::MAX;
const BLOCKED: u32 = u32::MAX - 1;

struct Flow<'a> {
    code: &'a [u8],
    svma: u64,
    decoder: Decoder<'a>,
    info: InstructionInfoFactory,
    seen: Vec<Seen>,
    /// Index into `nodes` for each offset, or [`UNREACHED`] or [`BLOCKED`].
    reached: Vec<u32>,
    nodes: Vec<Node>,
    /// Nodes of the tries that stood.
    settled: usize,
    /// Calls that do not return; few.
    dead_calls: Vec<u32>,
    /// The jumps through a register in settled code, as indices into `nodes`, the latest last.
    switches: Vec<usize>,
    steps_left: usize,
}

/// The way on behind a call that padding follows: it may be the function's last instruction, and so is
/// gone last.
#[derive(Clone, Copy)]
struct Deferred {
    call: u32,
    next: usize,
    state: Depth,
}

/// Why a try fell: the paths contradict each other behind this call, or without one.
struct Contradiction {
    behind_call: u32,
}

/// What a try that stands has shown.
#[derive(Default)]
struct Shown {
    /// A sound return, or a way into known code.
    evidence: bool,
    /// Nothing but consistency speaks for this try.
    is_supposed: bool,
    /// Something lay on the stack besides the return address.
    deepened: bool,
    switches: Vec<usize>,
    deferred: Vec<Deferred>,
}

impl<'a> Flow<'a> {
    fn new(code: &'a [u8], svma: u64) -> Self {
        Self {
            code,
            svma,
            decoder: Decoder::with_ip(64, code, svma, DecoderOptions::NONE),
            info: InstructionInfoFactory::new(),
            seen: vec![Seen::default(); code.len()],
            reached: vec![UNREACHED; code.len()],
            nodes: Vec::new(),
            settled: 0,
            dead_calls: Vec::new(),
            switches: Vec::new(),
            steps_left: code.len().saturating_mul(STEPS_PER_BYTE),
        }
    }

    fn offset_of(&self, svma: u64) -> Option<usize> {
        let offset = usize::try_from(svma.checked_sub(self.svma)?).ok()?;
        (offset < self.code.len()).then_some(offset)
    }

    fn block(&mut self, stub: &Range<u64>) {
        let start = self.offset_of(stub.start).unwrap_or(self.code.len());
        let end = self.offset_of(stub.end).unwrap_or(self.code.len());
        self.reached.get_mut(start..end).into_iter().flatten().for_each(|place| *place = BLOCKED);
    }

    fn seen(&self, offset: usize) -> Seen {
        self.seen.get(offset).copied().unwrap_or_default()
    }

    fn note(&mut self, offset: usize, what: u8) {
        if let Some(seen) = self.seen.get_mut(offset) {
            seen.0 |= what;
        }
    }

    fn decode(&mut self, offset: usize, instruction: &mut Instruction) -> Option<()> {
        self.decoder.set_position(offset).ok()?;
        self.decoder.set_ip(self.svma.wrapping_add(offset as u64));
        self.decoder.decode_out(instruction);
        (!instruction.is_invalid()).then_some(())
    }

    /// Decodes everything once, from instruction to instruction.
    fn sweep(&mut self) {
        let mut instruction = Instruction::default();
        let mut offset = 0;
        while offset < self.code.len() {
            if self.decode(offset, &mut instruction).is_none() {
                self.note(offset, Seen::ENDS);
                offset += 1;
                continue;
            }
            let mut what = Seen::STARTS;
            what |= match instruction.mnemonic() {
                Mnemonic::Nop | Mnemonic::Int3 => Seen::PADDING,
                Mnemonic::Push | Mnemonic::Endbr64 => Seen::OPENING,
                Mnemonic::Hlt => Seen::ENDS,
                _ => 0,
            };
            match instruction.flow_control() {
                FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Exception => what |= Seen::ENDS,
                FlowControl::Call if instruction.is_call_near() => {
                    self.note_target(instruction.near_branch_target(), Seen::CALLED);
                }
                _ if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() => {
                    self.note_target(instruction.ip_rel_memory_address(), Seen::ADDRESSED);
                }
                _ => {}
            }
            self.note(offset, what);
            offset += instruction.len().max(1);
        }
    }

    fn note_target(&mut self, svma: u64, what: u8) {
        if let Some(offset) = self.offset_of(svma) {
            self.note(offset, what);
        }
    }

    /// Follows what certainly is a function.
    fn follow_known(&mut self, entry: u64) {
        let entry = self.offset_of(entry);
        for offset in 0..self.code.len() {
            let seen = self.seen(offset);
            let aligned = self.svma.wrapping_add(offset as u64).is_multiple_of(FUNCTION_ALIGNMENT);
            let opens = seen.is(Seen::OPENING) || aligned;
            let named = seen.is(Seen::CALLED) || seen.is(Seen::ADDRESSED) && opens || entry == Some(offset);
            if named && seen.is(Seen::STARTS) {
                self.attempt(offset, Depth::ENTRY, false);
            }
        }
    }

    /// Tries what is left behind padding and jumps.
    fn follow_supposed(&mut self) {
        let mut may_begin = true;
        let mut offset = 0;
        let mut settled_to = 0;
        while offset < self.code.len() {
            let seen = self.seen(offset);
            if seen.is(Seen::ENDS) && !seen.is(Seen::STARTS) {
                may_begin = true;
            }
            if !seen.is(Seen::STARTS) {
                offset += 1;
                continue;
            }
            let is_free = self.reached.get(offset) == Some(&UNREACHED);
            if !is_free {
                settled_to = offset;
            } else if !seen.is(Seen::PADDING)
                && (may_begin || settled_to + 15 >= offset && self.ends_before(offset))
            {
                let stood = self.attempt(offset, Depth::ENTRY, true);
                if !stood {
                    self.attempt_case(offset);
                }
            }
            may_begin = seen.is(Seen::ENDS) || seen.is(Seen::PADDING);
            offset += 1;
        }
    }

    /// Tries what is at `offset` as a case of the switches settled last.
    fn attempt_case(&mut self, offset: usize) {
        let mut tried = Vec::with_capacity(MAX_SWITCHES);
        for index in self.switches.iter().rev().take(8) {
            let state = self.nodes.get(*index).map(|node| node.state);
            tried.extend(state.filter(|state| !tried.contains(state)));
        }
        tried.iter().take(MAX_SWITCHES).any(|state| self.attempt(offset, *state, true));
    }

    /// Whether a settled instruction ends at `offset`, so that it is one that does not go on there.
    fn ends_before(&self, offset: usize) -> bool {
        (1..=15).any(|len| {
            let place = offset.checked_sub(len).and_then(|at| self.reached.get(at));
            let node = place.and_then(|index| self.nodes.get(*index as usize));
            node.is_some_and(|node| usize::from(node.len) == len)
        })
    }

    /// Follows all paths from `offset`; whether what was found was consistent and is kept.
    fn attempt(&mut self, offset: usize, state: Depth, needs_evidence: bool) -> bool {
        if self.reached.get(offset) != Some(&UNREACHED) {
            return false;
        }
        let dead_before = self.dead_calls.len();
        for _ in 0..=MAX_DEAD_CALLS {
            match self.explore(offset, state, needs_evidence) {
                Ok(shown) if shown.evidence || !needs_evidence => {
                    self.settled = self.nodes.len();
                    self.switches.extend(shown.switches);
                    return true;
                }
                Err(Contradiction { behind_call }) if behind_call != NO_CALL => {
                    self.forget_unsettled();
                    self.dead_calls.push(behind_call & !DOUBTED);
                }
                _ => break,
            }
        }
        self.forget_unsettled();
        self.dead_calls.truncate(dead_before);
        false
    }

    fn forget_unsettled(&mut self) {
        for node in self.nodes.drain(self.settled..) {
            if let Some(place) = self.reached.get_mut(node.at as usize) {
                *place = UNREACHED;
            }
        }
    }

    fn explore(&mut self, offset: usize, state: Depth, needs_evidence: bool) -> Result<Shown, Contradiction> {
        let mut shown = Shown { is_supposed: needs_evidence, ..Shown::default() };
        let mut work = Vec::new();
        self.reach(offset, state, NO_CALL, &mut work, &mut shown)?;
        if let Some(node) = self.nodes.get_mut(self.settled) {
            node.begins = state == Depth::ENTRY;
        }
        let mut instruction = Instruction::default();
        loop {
            while let Some(index) = work.pop() {
                self.visit(index, &mut instruction, &mut work, &mut shown)?;
            }
            if shown.deferred.is_empty() {
                return Ok(shown);
            }
            for deferred in std::mem::take(&mut shown.deferred) {
                self.reach(deferred.next, deferred.state, deferred.call | DOUBTED, &mut work, &mut shown)?;
            }
        }
    }

    fn visit(
        &mut self,
        index: usize,
        instruction: &mut Instruction,
        work: &mut Vec<usize>,
        shown: &mut Shown,
    ) -> Result<(), Contradiction> {
        let Some(node) = self.nodes.get(index).copied() else { return Ok(()) };
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Contradiction { behind_call: NO_CALL })?;
        let fell = Contradiction { behind_call: node.behind_call };
        self.decode(node.at as usize, instruction).ok_or(fell)?;
        if let Some(node) = self.nodes.get_mut(index) {
            node.len = instruction.len() as u8;
        }
        shown.deepened |= node.state.is_at_return() == Some(false);
        self.leave(node, instruction, work, shown)
    }

    /// Goes on to all instructions that may follow.
    fn leave(
        &mut self,
        node: Node,
        instruction: &Instruction,
        work: &mut Vec<usize>,
        shown: &mut Shown,
    ) -> Result<(), Contradiction> {
        let fell = Contradiction { behind_call: node.behind_call };
        let after = node.state.after(instruction, &mut self.info);
        let next = node.at as usize + instruction.len();
        let mut behind_call = node.behind_call;
        let branches = has_target(instruction);
        match instruction.flow_control() {
            FlowControl::Return => {
                shown.evidence |= node.state.is_at_return() == Some(true);
                return if node.state.is_at_return() == Some(false) { Err(fell) } else { Ok(()) };
            }
            FlowControl::IndirectBranch => {
                // Popped back to the return address, it calls another function in place of this one.
                shown.evidence |= shown.deepened && node.state.is_at_return() == Some(true);
                shown.switches.extend(self.reached.get(node.at as usize).map(|index| *index as usize));
                return Ok(());
            }
            FlowControl::Exception | FlowControl::Interrupt => return Ok(()),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch if branches => {
                match self.offset_of(instruction.near_branch_target()) {
                    Some(target) => self.reach(target, after, behind_call, work, shown)?,
                    None => shown.evidence |= after.is_at_return() == Some(true),
                }
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                if self.dead_calls.contains(&node.at) {
                    return Ok(());
                }
                if instruction.is_call_near() || instruction.is_call_near_indirect() {
                    if shown.is_supposed && !node.state.is_aligned() {
                        return Err(fell);
                    }
                    if behind_call == NO_CALL || behind_call & DOUBTED == 0 {
                        behind_call = node.at;
                    }
                    let aligned = self.svma.wrapping_add(next as u64).is_multiple_of(FUNCTION_ALIGNMENT);
                    if aligned || self.seen(next).is(Seen::PADDING) {
                        if !self.opens_behind_padding(next) {
                            shown.deferred.push(Deferred { call: node.at, next, state: after });
                        }
                        return Ok(());
                    }
                }
            }
            _ => {}
        }
        let goes_on = instruction.flow_control() != FlowControl::UnconditionalBranch
            && instruction.mnemonic() != Mnemonic::Hlt;
        if goes_on && after.is_known() {
            return self.reach(next, after, behind_call, work, shown);
        }
        Ok(())
    }

    /// Whether a function's usual first instruction is the first one that is no padding.
    fn opens_behind_padding(&self, offset: usize) -> bool {
        let mut behind = (offset..self.code.len()).take(MAX_PADDING_BYTES).map(|offset| self.seen(offset));
        let first = behind.find(|seen| seen.is(Seen::STARTS) && !seen.is(Seen::PADDING));
        first.is_some_and(|first| first.is(Seen::OPENING) || first.is(Seen::CALLED))
    }

    /// Notes that `state` holds at `offset`, and what is to be looked at again because of it.
    fn reach(
        &mut self,
        offset: usize,
        state: Depth,
        behind_call: u32,
        work: &mut Vec<usize>,
        shown: &mut Shown,
    ) -> Result<(), Contradiction> {
        let fell = Contradiction { behind_call };
        if state.is_below_return() {
            return Err(fell);
        }
        let Some(place) = self.reached.get_mut(offset) else { return Ok(()) };
        match *place {
            BLOCKED => {}
            UNREACHED => {
                *place = self.nodes.len() as u32;
                work.push(self.nodes.len());
                self.nodes.push(Node { at: offset as u32, len: 1, begins: false, behind_call, state });
            }
            index => {
                let index = index as usize;
                let Some(node) = self.nodes.get_mut(index) else { return Ok(()) };
                let joined = node.state.join(state).ok_or(fell)?;
                if index < self.settled {
                    shown.evidence = true;
                    return if joined == node.state { Ok(()) } else { Err(Contradiction { behind_call }) };
                }
                if joined != node.state {
                    node.state = joined;
                    work.push(index);
                }
            }
        }
        Ok(())
    }

    /// The settled instructions, equal neighbours joined; padding belongs to what goes before it.
    fn known_pieces(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for offset in 0..self.code.len() {
            let place = self.reached.get(offset).copied().unwrap_or(UNREACHED);
            let at = self.svma.saturating_add(offset as u64);
            let last = pieces.last_mut();
            let Some(node) = self.nodes.get(place as usize) else {
                let padding = place == UNREACHED && self.seen(offset).is(Seen::PADDING);
                if let Some(last) = last.filter(|last| padding && last.svma.end == at) {
                    let len =
                        (1..MAX_PADDING_BYTES).take_while(|len| !self.seen(offset + len).is(Seen::STARTS));
                    last.svma.end = at.saturating_add(1 + len.count() as u64);
                }
                continue;
            };
            let end = at.saturating_add(node.len.into());
            let rule = node.state.rule();
            match last {
                Some(last) if last.svma.end == at && last.rule == rule && !node.begins => last.svma.end = end,
                _ => pieces.push(Piece { svma: at..end, rule, begins: node.begins, stub: false }),
            }
        }
        pieces
    }
}

fn has_target(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}
