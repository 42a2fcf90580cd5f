//! Names of the running kernel's code, modules and BPF programs, from
//! `/proc/kallsyms`.
//!
//! One line per symbol, in no promised order:
//!
//! ```text
//! ffffffff8107fc20 T wake_up_process
//! ffffffffc0a31040 t nft_do_chain<TAB>[nf_tables]
//! ```
//!
//! Address in hexadecimal, type (`t`/`T` code, `w`/`W` weak code, others data),
//! name, and the module in brackets. The kernel prints zeros to those who may
//! not know its addresses (`kernel.kptr_restrict`). Sizes are not told, so a
//! symbol covers up to the next, but no more than [`MAX_SYMBOL_BYTES`].

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::demangle::demangle;
use super::kernel_cache;
use crate::model::{Avma, Frame, FrameKind};
use crate::{Result, ResultExt};

/// Largest kernel function believed in; the largest known are some 100 kB.
const MAX_SYMBOL_BYTES: u64 = 1 << 20;

/// Bytes of kallsyms that are read. A large distribution kernel has 15 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// The module name of the kernel's own code.
pub const KERNEL_MODULE: &str = "[kernel]";

/// What was listed last, and when, or when it was begun to be listed anew: some 8 MB, once an address lies in a module or a
/// BPF program.
static LAST_LISTED: Mutex<Option<(Instant, Arc<KernelSymbols>)>> = Mutex::new(None);
/// For how long that serves without being listed anew.
const LISTED_FOR: Duration = Duration::from_secs(60);

/// Code symbols of the kernel, sorted, in about 40 bytes each.
#[derive(Debug, Default)]
pub struct KernelSymbols {
    symbols: Vec<Symbol>,
    /// All names, one after the other.
    names: String,
    /// Module names as displayed; index 0 is the kernel itself.
    modules: Vec<Box<str>>,
    hidden: bool,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u64,
    name_offset: u32,
    name_bytes: u16,
    module: u16,
    rank: u8,
}

impl KernelSymbols {
    /// Reads `/proc/kallsyms`. Fails only when the file cannot be read; hidden
    /// addresses are an [absence](Self::absence).
    pub fn read() -> Result<Self> {
        let intent = || "failed to read `/proc/kallsyms`".to_owned();
        let mut text = Vec::new();
        let file = File::open("/proc/kallsyms").context(intent)?;
        file.take(MAX_TEXT_BYTES).read_to_end(&mut text).context(intent)?;
        Ok(Self::parse(&text))
    }

    /// The symbols of `/proc/kallsyms`, or, if they are enough for `addresses`, those of the kernel itself
    /// as an earlier call of this boot has stored them: listing 120,000 symbols takes the kernel 70 ms, and up to 400 where
    /// the machine is busy. So who asks again gets what was listed last, and at most once a minute a thread lists it
    /// anew: a module or a BPF program that was loaded since has no names until then.
    pub fn read_for(addresses: &[Avma]) -> Result<Arc<Self>> {
        let cache = kernel_cache::KernelCache::open();
        match cache.and_then(|cache| cache.read(addresses)) {
            Some(symbols) => Ok(Arc::new(symbols)),
            None => Self::list(),
        }
    }

    /// As [`Self::read_for`] of an address that is not the kernel's own. Before requests are waited for, so that none waits
    /// for this.
    pub fn list() -> Result<Arc<Self>> {
        let mut last = LAST_LISTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, symbols)) = last.as_mut() {
            if at.elapsed() >= LISTED_FOR {
                *at = Instant::now();
                let list = || Self::list_anew().map(drop);
                let _later = std::thread::Builder::new().name("kernel symbols".to_owned()).spawn(list);
            }
            return Ok(Arc::clone(symbols));
        }
        drop(last);
        Self::list_anew()
    }

    fn list_anew() -> Result<Arc<Self>> {
        let symbols = Arc::new(Self::read()?);
        if let (Some(cache), None) = (kernel_cache::KernelCache::open(), symbols.absence()) {
            cache.write(&symbols);
        }
        let mut last = LAST_LISTED.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), Arc::clone(&symbols)));
        Ok(symbols)
    }

    /// Address and name of the kernel's own code symbols, ascending; modules come and go and are left out.
    pub(super) fn core(&self) -> impl Iterator<Item = (u64, &str)> {
        self.symbols
            .iter()
            .filter(|symbol| symbol.module == 0)
            .map(|symbol| (symbol.start, self.name(symbol)))
    }

    /// Symbols of the kernel itself, ascending by address.
    pub(super) fn from_core<'a>(core: impl Iterator<Item = (u64, &'a str)>) -> Self {
        let mut symbols = Self { modules: vec![KERNEL_MODULE.into()], ..Self::default() };
        core.for_each(|(start, name)| symbols.push(start, b'T', name, None));
        symbols
    }

    /// Symbols from the text of kallsyms; lines of any other form are skipped.
    pub fn parse(text: &[u8]) -> Self {
        let mut symbols = Self { modules: vec![KERNEL_MODULE.into()], ..Self::default() };
        let mut zeros = false;
        for line in text.split(|byte| *byte == b'\n') {
            let Some((start, kind, name, module)) = split_line(line) else { continue };
            if !matches!(kind, b't' | b'T' | b'w' | b'W') {
                continue;
            }
            if start == 0 {
                zeros = true;
                continue;
            }
            symbols.push(start, kind, name, module);
        }
        symbols.hidden = zeros && symbols.symbols.is_empty();
        symbols.sort();
        symbols
    }

    /// Why no kernel address can be named; `None` when symbols are there.
    pub fn absence(&self) -> Option<&'static str> {
        match (self.symbols.is_empty(), self.hidden) {
            (false, _) => None,
            (true, true) => Some("kernel addresses are hidden by `kernel.kptr_restrict`"),
            (true, false) => Some("`/proc/kallsyms` lists no code"),
        }
    }

    /// Number of code symbols.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether nothing can be resolved; [`Self::absence`] says why.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The function at `address`, `[kernel]+0x…` with the address itself where none is known.
    pub fn resolve(&self, address: Avma) -> Frame {
        let symbol = self.find(address.0);
        let module = symbol.and_then(|symbol| self.modules.get(usize::from(symbol.module)));
        let module = module.map_or(KERNEL_MODULE, |module| module);
        let function = match symbol.map(|symbol| self.name(symbol)) {
            Some(name) if name.starts_with("_R") || name.starts_with("_ZN") => demangle(name),
            Some(name) => name.to_owned(),
            None => format!("{module}+{address}"),
        };
        Frame { module: Some(module.into()), ..Frame::named(FrameKind::Kernel, function) }
    }

    fn find(&self, address: u64) -> Option<&Symbol> {
        let index = self.symbols.partition_point(|symbol| symbol.start <= address).checked_sub(1)?;
        self.symbols.get(index).filter(|symbol| address - symbol.start < MAX_SYMBOL_BYTES)
    }

    fn name(&self, symbol: &Symbol) -> &str {
        let start = symbol.name_offset as usize;
        self.names.get(start..start + usize::from(symbol.name_bytes)).unwrap_or_default()
    }

    fn push(&mut self, start: u64, kind: u8, name: &str, module: Option<&str>) {
        let (Ok(name_offset), Ok(name_bytes)) = (u32::try_from(self.names.len()), u16::try_from(name.len()))
        else {
            return;
        };
        let module = module.map_or(Some(0), |module| self.module_index(module));
        let Some(module) = module else { return };
        let rank = match kind {
            b'T' => 2,
            b't' => 1,
            _ => 0,
        };
        self.names.push_str(name);
        self.symbols.push(Symbol { start, name_offset, name_bytes, module, rank });
    }

    /// Symbols of a module follow each other, so the last module is usually the right one.
    fn module_index(&mut self, module: &str) -> Option<u16> {
        let known = self.modules.iter().rposition(|known| **known == *module);
        let index = known.unwrap_or(self.modules.len());
        if known.is_none() {
            // Far more modules than any kernel loads; the search above stays short.
            const MAX_MODULES: usize = 4096;
            if index >= MAX_MODULES {
                return None;
            }
            self.modules.push(module.into());
        }
        u16::try_from(index).ok()
    }

    /// Sorts by address and keeps one symbol per address: the more public, then the plainer, then
    /// the alphabetically first.
    fn sort(&mut self) {
        let mut symbols = std::mem::take(&mut self.symbols);
        symbols.sort_unstable_by(|left, right| {
            let plainness = |symbol: &Symbol| {
                let name = self.name(symbol);
                (name.len() - name.trim_start_matches('_').len(), name.len())
            };
            let order = left.start.cmp(&right.start).then(right.rank.cmp(&left.rank));
            let order = order.then_with(|| plainness(left).cmp(&plainness(right)));
            order.then_with(|| self.name(left).cmp(self.name(right)))
        });
        symbols.dedup_by_key(|symbol| symbol.start);
        symbols.shrink_to_fit();
        self.symbols = symbols;
        self.names.shrink_to_fit();
    }
}

fn split_line(line: &[u8]) -> Option<(u64, u8, &str, Option<&str>)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let start = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = *words.next()?.as_bytes().first()?;
    let name = words.next()?;
    let module = words.next().map(|word| word.trim_start_matches('[').trim_end_matches(']'));
    Some((start, kind, name, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was listed for an address outside the kernel itself serves again: it is the very same.
    #[test]
    fn listing_is_remembered() {
        let outside = [Avma(u64::MAX)];
        let listed = [0; 2].map(|_| KernelSymbols::read_for(&outside).expect("there is /proc"));
        assert!(Arc::ptr_eq(&listed[0], &listed[1]));
    }

    const TEXT: &[u8] = b"ffffffff81000010 T wake_up_process\n\
        ffffffff81000000 T _text\n\
        ffffffff81000000 T startup_64\n\
        ffffffff81000000 t __aaa\n\
        ffffffff82000000 D jiffies\n\
        garbage\n\
        ffffffffc0a31040 t nft_do_chain\t[nf_tables]\n\
        ffffffffc0b00000 t bpf_prog_6deef7357e7b4530_on_cpu\t[bpf]\n";

    /// Kernel, module and BPF code are named, data is not code, and of several names for one
    /// address the public and plain one is taken.
    #[test]
    fn code_is_named_with_its_module() {
        let symbols = KernelSymbols::parse(TEXT);
        let named = |address| {
            let frame = symbols.resolve(Avma(address));
            (frame.function.into_string(), frame.module.expect("kernel frames have a module").into_string())
        };
        let expected = |name: &str, module: &str| (name.to_owned(), module.to_owned());
        assert_eq!(symbols.absence(), None);
        assert_eq!(named(0xffff_ffff_8100_0005), expected("startup_64", "[kernel]"));
        assert_eq!(named(0xffff_ffff_8100_0010), expected("wake_up_process", "[kernel]"));
        assert_eq!(named(0xffff_ffff_c0a3_1044), expected("nft_do_chain", "nf_tables"));
        assert_eq!(named(0xffff_ffff_c0b0_0001), expected("bpf_prog_6deef7357e7b4530_on_cpu", "bpf"));
        assert_eq!(named(0xffff_ffff_8200_0000), expected("[kernel]+0xffffffff82000000", "[kernel]"));
        assert_eq!(named(0x10), expected("[kernel]+0x10", "[kernel]"));
    }

    /// Zeros instead of addresses are told apart from an empty file.
    #[test]
    fn hidden_addresses_are_an_absence_with_a_reason() {
        let hidden = KernelSymbols::parse(b"0000000000000000 T _text\n0000000000000000 t foo\n");
        assert!(hidden.absence().expect("no symbols").contains("kptr_restrict"));
        assert!(KernelSymbols::parse(b"").absence().expect("no symbols").contains("no code"));
    }

    proptest::proptest! {
        /// Any bytes parse, and any address resolves to a name.
        #[test]
        fn any_text_is_survived(text in proptest::collection::vec(proptest::num::u8::ANY, 0..300), at: u64) {
            proptest::prop_assert!(!KernelSymbols::parse(&text).resolve(Avma(at)).function.is_empty());
        }

        /// Text made of kallsyms' own alphabet parses as well.
        #[test]
        fn any_similar_text_is_survived(text in "([0-9a-f]{1,17} [tTwWd] [a-z_]{0,5}(\t\\[[a-z]{0,3}\\])?\n){0,20}") {
            let symbols = KernelSymbols::parse(text.as_bytes());
            proptest::prop_assert!(!symbols.resolve(Avma(u64::MAX)).function.is_empty());
        }
    }
}
