//! From addresses to names, once, when the recording ends: one module at a
//! time, so that memory is that of the largest one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ahash::AHashMap;

use super::capture::{Capture, RawFrame, Sum};
use super::codes::Codes;
use super::module::{Module, ModuleId, Modules};
use super::wait_names::WaitNames;
use crate::model::{Avma, Frame, FrameKind, Sample, StackId, Svma};
use crate::sampler::table_builder::Source;
use crate::symbolize::{Config, KernelSymbols, ModuleFile, PerfMapReader, Symbolizer};
use crate::unwind::python::line_table;

/// Perf maps of the processes in which generated code was seen.
pub type JitMaps = HashMap<u32, PerfMapReader>;

/// Frames, stacks and samples of a profile.
#[derive(Debug, Default)]
pub struct Named {
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Stacks, leaf first.
    pub stacks: Vec<Vec<u32>>,
    /// Samples.
    pub samples: Vec<Sample>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Where frames have their names from.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub modules: &'a Modules,
    pub jit: &'a JitMaps,
    pub codes: &'a Codes,
    pub waits: &'a WaitNames,
}

/// Names each frame of `capture` and spells out its stacks. `step` is told what is being read.
pub(super) fn name(
    capture: &Capture,
    places: Places<'_>,
    config: Config,
    step: &mut dyn FnMut(&str),
) -> Named {
    let raw: BTreeSet<RawFrame> = capture.frames().collect();
    let Names { numbers, of_raw, warnings } = names_of(&raw, places, config, step);
    let (stacks, samples) =
        spell_out(capture, |raw, spelled| spelled.extend(of_raw.get(&raw).into_iter().flatten()));
    Named { frames: by_number(numbers), stacks, samples, warnings }
}

/// What each of `raw` is called; some are several calls, inlined into one another.
pub(super) fn name_each(
    raw: &BTreeSet<RawFrame>,
    places: Places<'_>,
    config: Config,
) -> Vec<(RawFrame, Vec<Frame>)> {
    let Names { numbers, of_raw, .. } = names_of(raw, places, config, &mut |_| {});
    let frames = by_number(numbers);
    let frame_of = |number: &u32| frames[*number as usize].clone();
    of_raw.iter().map(|(raw, numbers)| (*raw, numbers.iter().map(frame_of).collect())).collect()
}

fn names_of(
    raw: &BTreeSet<RawFrame>,
    places: Places<'_>,
    config: Config,
    step: &mut dyn FnMut(&str),
) -> Names {
    let modules = places.modules;
    let mut names = Names::default();
    // About one frame for each address; growing would hash all names again.
    names.numbers.reserve(raw.len());
    let mut symbolizer = Symbolizer::new(config);
    let in_module = |frame: &RawFrame| match frame {
        RawFrame::Module(id, svma) => Some((*id, *svma)),
        _ => None,
    };
    // The set is sorted by module, then address, which is what the symbolizer wants.
    let in_modules: Vec<(ModuleId, Svma)> = raw.iter().filter_map(in_module).collect();
    for group in in_modules.chunk_by(|a, b| a.0 == b.0) {
        let id = group[0].0;
        let module = modules.get(id);
        step(&module.display);
        let addresses: Vec<Svma> = group.iter().map(|(_, svma)| *svma).collect();
        let mut named = resolve(&mut symbolizer, module, &addresses);
        if module.python.is_some() {
            named.iter_mut().flatten().filter(|frame| frame.kind == FrameKind::Native).for_each(|frame| {
                frame.kind = FrameKind::Interpreter;
            });
        }
        for (svma, frames) in addresses.into_iter().zip(named) {
            names.insert(RawFrame::Module(id, svma), frames);
        }
    }
    names.warnings.extend(symbolizer.refusals());
    name_others(&mut names, raw, places);
    name_python(&mut names, raw, places.codes);
    names
}

fn resolve(symbolizer: &mut Symbolizer, module: &Module, addresses: &[Svma]) -> Vec<Vec<Frame>> {
    match &module.source {
        Some(Source::Image(image)) => symbolizer.resolve_bytes(&module.display, image, addresses),
        Some(Source::File(file)) => match file.try_clone() {
            Ok(file) => {
                let file = ModuleFile { display: module.display.clone(), file, root: module.root.clone() };
                symbolizer.resolve_module(&file, addresses)
            }
            Err(_) => symbolizer.resolve_bytes(&module.display, &[], addresses),
        },
        None => symbolizer.resolve_bytes(&module.display, &[], addresses),
    }
}

/// Kernel, generated code and what lies nowhere.
fn name_others(names: &mut Names, raw: &BTreeSet<RawFrame>, places: Places<'_>) {
    let Places { modules, jit, codes, waits } = places;
    let in_kernel = |frame: &RawFrame| match frame {
        RawFrame::Kernel(address) => Some(*address),
        _ => None,
    };
    let addresses: Vec<Avma> = raw.iter().filter_map(in_kernel).collect();
    let kernel = match (!addresses.is_empty()).then(|| KernelSymbols::read_for(&addresses)) {
        Some(Ok(symbols)) => {
            if let Some(reason) = symbols.absence() {
                let fix = "run as root or with CAP_SYSLOG, or: sysctl kernel.kptr_restrict=0";
                names.warnings.push(format!("kernel functions are not named: {reason} ({fix})"));
            }
            symbols
        }
        Some(Err(error)) => {
            names.warnings.push(format!("kernel functions are not named: {error}"));
            Arc::default()
        }
        None => Arc::default(),
    };
    for frame in raw {
        let named = match frame {
            RawFrame::Module(..) | RawFrame::Python(..) => continue,
            RawFrame::Task(task) => {
                Frame::named(FrameKind::Python, format!("task {}", codes.task_name(*task)))
            }
            RawFrame::Greenlet => Frame::named(FrameKind::Native, "[greenlet]"),
            RawFrame::PythonGap(gap) => Frame::named(FrameKind::Marker, gap.text()),
            RawFrame::Offset(id, offset) => {
                let path = &modules.get(*id).display;
                let base = path.rsplit('/').next().unwrap_or(path);
                Frame {
                    module: Some(base.into()),
                    ..Frame::named(FrameKind::Native, format!("{base}+{offset:#x}"))
                }
            }
            RawFrame::Kernel(address) => kernel.resolve(*address),
            RawFrame::Jit(pid, address) => {
                let known = jit.get(pid).and_then(|reader| reader.map().resolve(*address));
                known.unwrap_or_else(|| Frame::named(FrameKind::Jit, "[generated code]"))
            }
            RawFrame::Unknown => Frame::named(FrameKind::Marker, "[unknown address]"),
            RawFrame::Wait(frame) => waits.frame(*frame),
        };
        names.insert(*frame, vec![named]);
    }
}

/// Python functions, at the line that each executed.
fn name_python(names: &mut Names, raw: &BTreeSet<RawFrame>, codes: &Codes) {
    for frame in raw {
        let RawFrame::Python(id, offset) = frame else { continue };
        let code = codes.get(*id);
        let line = match offset {
            Some(offset) => code
                .lines
                .as_ref()
                .and_then(|lines| line_table::line(code.version, lines, code.first_line, *offset)),
            None => Some(code.first_line),
        };
        let named = Frame {
            file: Some(code.file.clone()),
            line,
            ..Frame::named(FrameKind::Python, code.function.clone())
        };
        names.insert(*frame, vec![named]);
    }
}

/// Which frames each raw frame stands for.
#[derive(Debug, Default)]
struct Names {
    numbers: AHashMap<Frame, u32>,
    of_raw: HashMap<RawFrame, Box<[u32]>>,
    warnings: Vec<String>,
}

impl Names {
    fn insert(&mut self, raw: RawFrame, frames: Vec<Frame>) {
        let numbers = frames.into_iter().map(|frame| {
            let next = self.numbers.len() as u32;
            *self.numbers.entry(frame).or_insert(next)
        });
        let numbers = numbers.collect();
        self.of_raw.insert(raw, numbers);
    }
}

fn by_number(numbers: AHashMap<Frame, u32>) -> Vec<Frame> {
    let mut frames: Vec<(Frame, u32)> = numbers.into_iter().collect();
    frames.sort_unstable_by_key(|(_, number)| *number);
    frames.into_iter().map(|(frame, _)| frame).collect()
}

/// The stacks of `capture`, leaf first, each once, and its samples. `spell` adds the numbers of what a frame stands for.
pub(super) fn spell_out(
    capture: &Capture,
    mut spell: impl FnMut(RawFrame, &mut Vec<u32>),
) -> (Vec<Vec<u32>>, Vec<Sample>) {
    let (mut stacks, mut samples) = (Vec::new(), Vec::new());
    let mut stack_ids = HashMap::new();
    for Sum { root, node, outcome, state, holds_gil, is_idle, tally } in capture.samples() {
        let stack = *stack_ids.entry(node).or_insert_with(|| {
            let mut spelled = Vec::new();
            capture.stack(node).for_each(|raw| spell(raw, &mut spelled));
            stacks.push(spelled);
            StackId(stacks.len() as u32 - 1)
        });
        let (count, weight_ns) = (tally.count, tally.weight_ns);
        let root = root.clone();
        samples.push(Sample { root, stack, outcome, state, holds_gil, is_idle, count, weight_ns });
    }
    (stacks, samples)
}
