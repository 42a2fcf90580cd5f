//! Where the machine code of CPython's evaluation loop is, also where the
//! compiler has split it.
//!
//! GCC moves code that it takes for unlikely out of a function
//! (`-freorder-blocks-and-partition`), and BOLT does so with what was
//! seldom run when it watched. Such a part has an FDE of its own, but in a
//! stripped file no symbol. It is reached by jumps, and a jump leaves the
//! stack as it is:
//!
//! ```text
//! CFA rule at the jump = CFA rule at its target, and not `rsp + 8`
//! ```
//!
//! says that both are parts of one function. A tail call is a jump, too, but
//! the frame is gone by then: there the rule is `rsp + 8`, as at every
//! function's entry. The loop dispatches through tables of addresses; these
//! are not looked at, since a part that is worth splitting off is reached by
//! direct jumps as well.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use crate::model::Svma;
use crate::unwind::FdeIndex;
use crate::unwind::index::FunctionRules;
use crate::unwind::rule::{Rule, RuleKind};
use crate::unwind::state::RSP;

/// Most parts found; GCC makes two, BOLT three.
const MAX_PARTS: usize = 8;
/// Most code decoded. The loop of an unoptimised 3.14 has 139 KB; what lies beyond the limit is searched for
/// no further parts.
const MAX_CODE_BYTES: u64 = 1 << 20;
/// Most functions that are looked at because something jumps to them from within the frame; in sound files
/// each is a part.
const MAX_CANDIDATES: usize = 64;

/// The loop's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EvalLoop {
    /// Stated addresses; ascending and without overlaps, not empty.
    pub(super) parts: Vec<Range<u64>>,
    /// It dispatches instructions itself, by jumps through a table.
    pub(super) dispatches: bool,
}

/// The parts of the function at `start`, which its symbol says to be `len` bytes long. `index` must be
/// of `elf`.
pub(super) fn find(elf: &[u8], index: &FdeIndex, start: Svma, len: u64) -> EvalLoop {
    let named = start.0..start.0.saturating_add(len.max(1));
    let first = index.function_range(elf, start.0).unwrap_or(named);
    let mut search = Search { elf, index, parts: vec![first], candidates: Vec::new(), dispatches: false };
    let mut code_bytes = 0;
    let mut searched = 0;
    while let Some(part) = search.parts.get(searched).cloned() {
        code_bytes += part.end - part.start;
        if code_bytes > MAX_CODE_BYTES {
            break;
        }
        search.follow(&part);
        searched += 1;
    }
    search.parts.sort_by_key(|part| part.start);
    EvalLoop { parts: search.parts, dispatches: search.dispatches }
}

struct Search<'a> {
    elf: &'a [u8],
    index: &'a FdeIndex,
    parts: Vec<Range<u64>>,
    /// The functions that were looked at, parts or not.
    candidates: Vec<Range<u64>>,
    dispatches: bool,
}

impl Search<'_> {
    /// Looks at all jumps in `part`.
    fn follow(&mut self, part: &Range<u64>) {
        let (elf, index) = (self.elf, self.index);
        let Some(rules) = index.function_rules(elf, part.start, part.end) else { return };
        for (svma, code) in index.image.code(elf, part.clone()) {
            let mut decoder = Decoder::with_ip(64, code, svma, DecoderOptions::NONE);
            let mut instruction = Instruction::default();
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                match instruction.flow_control() {
                    FlowControl::IndirectBranch => {
                        self.dispatches |= frame_at(&rules, instruction.ip()).is_some();
                    }
                    FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
                        if instruction.op0_kind() == OpKind::NearBranch64 =>
                    {
                        self.jump(instruction.near_branch_target(), frame_at(&rules, instruction.ip()));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Notes the function at `target` as a part if it has the frame that the jump to it leaves.
    fn jump(&mut self, target: u64, frame: Option<(u8, i32)>) {
        let known = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&target));
        if frame.is_none()
            || known(&self.parts)
            || known(&self.candidates)
            || self.parts.len() >= MAX_PARTS
            || self.candidates.len() >= MAX_CANDIDATES
        {
            return;
        }
        let rules = self.index.function_rules(self.elf, target, target.saturating_add(1));
        let nothing = target..target.saturating_add(1);
        self.candidates.push(rules.as_ref().map_or(nothing, |rules| rules.range.clone()));
        if let Some(rules) = rules.filter(|rules| frame_at(rules, target) == frame) {
            self.parts.push(rules.range);
        }
    }
}

/// How the CFA is found at `svma`, unless as at a function's entry.
fn frame_at(rules: &FunctionRules, svma: u64) -> Option<(u8, i32)> {
    let rule = rules.at(svma)?;
    let has_cfa = matches!(rule.kind(), Some(RuleKind::CfaRegister { .. }));
    let frame = |rule: Rule| (rule.kind, rule.cfa_offset);
    (has_cfa && frame(rule) != frame(Rule::cfa_register(RSP, 8))).then(|| frame(rule))
}
