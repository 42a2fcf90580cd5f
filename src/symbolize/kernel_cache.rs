//! The kernel's own symbols, kept on disk for as long as the machine is up.
//!
//! The file `symbols-BOOT_ID` holds one line per code symbol of the kernel
//! itself, ascending by address, 16 hexadecimal digits, a space and the name:
//!
//! ```text
//! ffffffff81000000 startup_64
//! ```
//!
//! It is searched by bisection as it lies in the page cache: naming the 200
//! addresses of a recording touches some 3000 of its lines. Modules come and go
//! and are not in it; an address outside its range is not answered from it.

use std::fs;

use super::kernel::KernelSymbols;
use crate::model::Avma;
use crate::sys::file_map::FileMap;
use crate::sys::private_folder::PrivateFolder;

/// Symbols of this boot.
#[derive(Debug)]
pub(super) struct KernelCache {
    folder: PrivateFolder,
    file_name: String,
}

impl KernelCache {
    /// `None` when there can be no cache.
    pub(super) fn open() -> Option<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        let boot_id = Some(boot_id.trim()).filter(|id| !id.is_empty() && id.chars().all(plain))?;
        Some(Self { folder: PrivateFolder::open("kernel")?, file_name: format!("symbols-{boot_id}") })
    }

    /// The symbols that cover `addresses`; `None` when one lies outside what is stored.
    pub(super) fn read(&self, addresses: &[Avma]) -> Option<KernelSymbols> {
        let map = FileMap::map(&self.folder.open_file(&self.file_name)?).ok()?;
        let mut found: Vec<(u64, &str)> =
            addresses.iter().map(|address| find(&map, address.0)).collect::<Option<_>>()?;
        found.sort_unstable();
        found.dedup();
        Some(KernelSymbols::from_core(found.into_iter()))
    }

    /// Stores the kernel's own symbols; those of earlier boots are removed.
    pub(super) fn write(&self, symbols: &KernelSymbols) {
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let _best_effort = fs::remove_file(entry.path());
        }
        let lines: String = symbols.core().map(|(start, name)| format!("{start:016x} {name}\n")).collect();
        self.folder.write(&self.file_name, lines.as_bytes());
    }
}

/// The last line at or below `address`, by bisection over bytes; `None` when there is none before
/// or none after it, or the text is not of our form.
fn find(text: &[u8], address: u64) -> Option<(u64, &str)> {
    let (mut low, mut high) = (0, text.len());
    let mut best = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let start = text[low..middle].iter().rposition(|byte| *byte == b'\n').map_or(low, |at| low + at + 1);
        let end = text[middle..high].iter().position(|byte| *byte == b'\n').map_or(high, |at| middle + at);
        let (symbol, name) = std::str::from_utf8(&text[start..end]).ok()?.split_once(' ')?;
        let symbol = u64::from_str_radix(symbol, 16).ok()?;
        if symbol <= address {
            best = Some((symbol, name));
            low = end + 1;
        } else {
            high = start;
        }
    }
    // Behind the last symbol modules may follow, of which nothing is known here.
    best.filter(|_| low < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"0000000000001000 a\n0000000000002000 bb\n0000000000003000 c\n";

    /// The symbol at or below an address is found; before the first and behind the last there is none.
    #[test]
    fn addresses_are_found_by_bisection() {
        assert_eq!(find(TEXT, 0xfff), None);
        assert_eq!(find(TEXT, 0x1000), Some((0x1000, "a")));
        assert_eq!(find(TEXT, 0x2fff), Some((0x2000, "bb")));
        assert_eq!(find(TEXT, 0x3000), None);
        assert_eq!(find(b"", 1), None);
    }

    /// Stored and read again, symbols name the same; another module's address is left to kallsyms.
    #[test]
    fn stored_symbols_name_the_same() {
        let place = tempfile::tempdir().expect("temporary folder");
        let folder = PrivateFolder::at(place.path().join("kernel")).expect("a folder");
        let cache = KernelCache { folder, file_name: "symbols".to_owned() };
        assert!(cache.read(&[]).is_none(), "nothing is stored yet");
        let text = b"ffffffff81000000 T one\nffffffff81000100 t two\nffffffff81000200 T end\n\
            ffffffffc0000000 t other\t[module]\n";
        let symbols = KernelSymbols::parse(text);
        cache.write(&symbols);
        let address = Avma(0xffff_ffff_8100_0142);
        let read = cache.read(&[address]).expect("it is covered");
        assert_eq!(read.resolve(address), symbols.resolve(address));
        assert!(cache.read(&[address, Avma(0xffff_ffff_c000_0001)]).is_none());
    }

    proptest::proptest! {
        /// A damaged file gives some answer or none, and no panic.
        #[test]
        fn damaged_text_is_survived(text in proptest::collection::vec(proptest::num::u8::ANY, 0..300), address: u64) {
            let _any_answer = find(&text, address);
        }
    }
}
