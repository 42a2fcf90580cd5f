//! Inlined calls, files and lines from DWARF, through `addr2line`.
//!
//! A context indexes all units of a file and keeps what it has parsed of the
//! units it was asked about. On large files that is most of a gigabyte, so it
//! is thrown away whenever it has grown by [`READS_PER_CONTEXT`]. Addresses are
//! taken unit by unit, so that little is parsed twice, and two threads share
//! the units of a large batch.

mod guard;
mod sections;
mod split;
mod units;

use addr2line::{Context, LookupContinuation as _, LookupResult};
use gimli::AbbreviationsCacheStrategy;
use object::Object as _;

use self::guard::{Guard, GuardedReader, STACK_BYTES};
use self::sections::{PackageSections, Sections};
use self::split::{Shelf, SplitUnits};
use self::units::Part;
use super::debug_file::Search;
use super::elf::Elf;
use crate::model::Svma;
use crate::sys::file_map::FileMap;

pub(super) use self::sections::{MemoryBudget, Unusable, has_debug_info};

/// Reads after which a context has grown by some 20 MB.
const READS_PER_CONTEXT: u64 = 16 << 20;

/// Reads for one address, or for the index, per byte of debug information.
/// Honest files need less than one: a byte is parsed once for its unit and
/// perhaps again for its function. Parsers keep some 24 bytes per read.
const READS_PER_BYTE: u64 = 2;

/// Reads for a whole module per byte of debug information; behind that, symbol tables answer.
const MODULE_READS_PER_BYTE: u64 = 16;

/// Reads allowed however small the file is.
const MIN_READS: u64 = 1 << 20;

/// Reads allowed however large the file is: some ten seconds.
const MAX_READS: u64 = 2 << 30;

/// Addresses that make a second thread worth its index.
const ADDRESSES_PER_THREAD: usize = 100;

const MAX_THREADS: usize = 2;

/// One call as DWARF tells it.
pub(super) struct SourceFrame<'data> {
    /// Linkage name where there is one, else the plain name.
    pub(super) function: Option<&'data [u8]>,
    /// With the compilation directory where it is relative.
    pub(super) file: Option<&'data str>,
    /// From 1.
    pub(super) line: Option<u32>,
}

/// The debug sections of a module, wherever they lie.
pub(super) struct DebugInfo<'data> {
    main: Sections<'data>,
    supplement: Option<Sections<'data>>,
    /// Bytes in the sections above that are parsed.
    bytes: u64,
    package: Option<PackageSections<'data>>,
    /// Files that the sections lie in.
    maps: Vec<&'data FileMap>,
    search: &'data Search,
    /// What split units may still allocate.
    memory: MemoryBudget,
    /// Why sections beside the main ones are missing, if they are refused.
    pub(super) refused: Option<Unusable>,
}

/// What [`DebugInfo::resolve`] has to say.
pub(super) struct Answers<T> {
    /// One for each address.
    pub(super) found: Vec<T>,
    /// How many addresses were not looked up in DWARF: parsing was given up before.
    pub(super) given_up: usize,
}

/// The files to load from.
pub(super) struct DebugFiles<'data> {
    /// Holds `.debug_info`.
    pub(super) main: &'data Elf<'data>,
    /// What `dwz` moved out of it.
    pub(super) supplement: Option<&'data Elf<'data>>,
    /// Split units, packed.
    pub(super) package: Option<&'data Elf<'data>>,
    /// All files mapped for this module.
    pub(super) maps: Vec<&'data FileMap>,
}

impl<'data> DebugInfo<'data> {
    /// Fails when the main sections cannot be used within `memory`.
    pub(super) fn load(
        files: DebugFiles<'data>,
        search: &'data Search,
        mut memory: MemoryBudget,
    ) -> Result<Self, Unusable> {
        if !files.main.is_little_endian() {
            return Err(Unusable::Damaged);
        }
        let (main, bytes) = sections::load(files.main, &mut memory)?;
        let supplement = files.supplement.map(|elf| sections::load(elf, &mut memory)).transpose();
        let package = files.package.map(|elf| sections::load_package(elf, &mut memory)).transpose();
        let refused = supplement.as_ref().err().or(package.as_ref().err()).copied();
        let (supplement, supplement_bytes) = supplement.ok().flatten().unzip();
        Ok(Self {
            bytes: bytes + supplement_bytes.unwrap_or(0),
            main,
            supplement,
            package: package.ok().flatten(),
            refused,
            maps: files.maps,
            search,
            memory,
        })
    }

    /// What `name` makes of the calls at each of `addresses`, which ascend. `name`
    /// is given the index of the address and the calls, leaf first; none where
    /// DWARF tells nothing. `fresh` gives each thread its own scratch space.
    pub(super) fn resolve<T: Send, S>(
        &self,
        addresses: &[Svma],
        fresh: impl Fn() -> S + Sync,
        name: impl Fn(&mut S, usize, &[SourceFrame<'_>]) -> T + Sync,
    ) -> Answers<T> {
        let (fresh, name) = (&fresh, &name);
        let mut answers: Vec<Option<T>> = std::iter::repeat_with(|| None).take(addresses.len()).collect();
        std::thread::scope(|scope| {
            let on_thread = |part: Part| {
                let work = move || {
                    let mut scratch = fresh();
                    self.resolve_part(addresses, &part, |index, calls| name(&mut scratch, index, calls))
                };
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)
            };
            let divide = || self.divide(addresses);
            let divided = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, divide);
            // Without a thread, or behind a panic in a parser, these addresses have no DWARF.
            let divided = divided.ok().and_then(|thread| thread.join().ok()).unwrap_or_default();
            let threads: Vec<_> = divided.into_iter().map(on_thread).collect();
            for thread in threads {
                let found = thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default();
                for (index, answer) in found {
                    answers[index] = Some(answer);
                }
            }
        });
        let given_up = answers.iter().filter(|answer| answer.is_none()).count();
        let mut scratch = fresh();
        let complete = answers.into_iter().enumerate();
        let complete =
            complete.map(|(index, answer)| answer.unwrap_or_else(|| name(&mut scratch, index, &[])));
        Answers { found: complete.collect(), given_up }
    }

    fn divide(&self, addresses: &[Svma]) -> Vec<Part> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (addresses.len() / ADDRESSES_PER_THREAD).clamp(1, MAX_THREADS.min(cores));
        let release = || self.release();
        let guard = Guard::new(&release);
        guard.allow(self.reads(READS_PER_BYTE));
        units::divide(&self.dwarf(&guard), &guard, addresses, threads)
    }

    /// One thread's share: index and answer of each address of `part`, in this
    /// order; not all when the budget is spent.
    fn resolve_part<T>(
        &self,
        addresses: &[Svma],
        part: &[usize],
        mut name: impl FnMut(usize, &[SourceFrame<'_>]) -> T,
    ) -> Vec<(usize, T)> {
        let release = || self.release();
        let guard = Guard::new(&release);
        let mut answers = Vec::with_capacity(part.len());
        let reads = self.reads(MODULE_READS_PER_BYTE);
        while answers.len() < part.len() && guard.spent() < reads {
            let (files, sections) = (Shelf::new(), Shelf::new());
            let units = self.split_units(&guard, &files, &sections);
            let began = guard.spent();
            guard.allow(self.reads(READS_PER_BYTE));
            let Ok(context) = Context::from_dwarf(self.dwarf(&guard)) else { break };
            let indexed = guard.spent();
            while let Some(index) = part.get(answers.len()) {
                guard.allow(self.reads(READS_PER_BYTE));
                let calls = frames(&context, &units, addresses[*index]);
                answers.push((*index, name(*index, &calls)));
                // The index is paid again with each context, so use one for at least as long.
                if guard.spent() - indexed > READS_PER_CONTEXT.max(indexed - began) || files.is_full() {
                    break;
                }
            }
        }
        self.release();
        answers
    }

    fn dwarf<'all>(&'all self, guard: &'all Guard<'all>) -> gimli::Dwarf<Reader<'all>> {
        let reader = |section| GuardedReader::new(section, guard);
        let mut dwarf = self.main.borrow_with_sup(self.supplement.as_ref(), |section| reader(section));
        // Many units may share one table, which would be parsed and kept for each.
        dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
        dwarf
    }

    fn reads(&self, per_byte: u64) -> u64 {
        self.bytes.saturating_mul(per_byte).clamp(MIN_READS, MAX_READS)
    }

    fn release(&self) {
        self.maps.iter().for_each(|map| map.release());
    }

    fn split_units<'all>(
        &'all self,
        guard: &'all Guard<'all>,
        files: &'all Shelf<FileMap>,
        sections: &'all Shelf<Sections<'all>>,
    ) -> SplitUnits<'all> {
        guard.allow(self.reads(READS_PER_BYTE));
        let reader = |section| GuardedReader::new(section, guard);
        let package = self
            .package
            .as_ref()
            .and_then(|package| package.borrow(|section| reader(section), reader(&[])).ok());
        SplitUnits { search: self.search, package, files, sections, memory: self.memory.into(), guard }
    }
}

type Reader<'data> = GuardedReader<'data>;

/// Calls at `address`, leaf first; those found before an error.
fn frames<'data>(
    context: &'data Context<Reader<'data>>,
    units: &SplitUnits<'data>,
    address: Svma,
) -> Vec<SourceFrame<'data>> {
    let mut found = Vec::new();
    // The last address of all has no end that could be computed.
    if address.0 == u64::MAX {
        return found;
    }
    let mut lookup = context.find_frames(address.0);
    let calls = loop {
        match lookup {
            LookupResult::Output(calls) => break calls,
            LookupResult::Load { load, continuation } => {
                let unit = units.load(&load);
                lookup = continuation.resume(unit);
            }
        }
    };
    let Ok(mut calls) = calls else { return found };
    while let Ok(Some(call)) = calls.next() {
        let (file, line) = call.location.map_or((None, None), |at| (at.file, at.line));
        found.push(SourceFrame { function: call.function.map(|name| name.name.bytes()), file, line });
    }
    found
}
