//! Turns linker names into the names people wrote: Rust (v0 and legacy,
//! without the hash) and C++ (without return type). Leaves every other name as
//! it is.
//!
//! Names come from hostile files, and a short mangled name can describe an
//! exponentially long one, so length and recursion are bounded here.

use std::fmt::{self, Write as _};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longest mangled name that is demangled, in bytes. Names of deeply templated
/// C++ reach some 20 kB; longer ones stay mangled and are cut.
const MAX_MANGLED_BYTES: usize = 32 * 1024;

/// Longest name returned, in bytes: more than any box of a flamegraph or
/// screen shows. Longer ones end in `…`.
pub const MAX_NAME_BYTES: usize = 2048;

/// Nesting accepted in C++ names: parsing takes about 1 KiB of stack per level
/// (several times that without optimization), and threads have 2 MiB.
const MAX_CPP_DEPTH: u32 = 160;

/// The readable form of `mangled`; `mangled` itself where it is not mangled.
/// Never empty unless `mangled` is, at most [`MAX_NAME_BYTES`] and an ellipsis.
pub fn demangle(mangled: &str) -> String {
    if mangled.len() > MAX_MANGLED_BYTES {
        return bounded(mangled);
    }
    demangle_rust(mangled).or_else(|| demangle_cpp(mangled)).unwrap_or_else(|| bounded(mangled))
}

fn demangle_rust(mangled: &str) -> Option<String> {
    if !mangled.starts_with("_R") && !mangled.starts_with("_ZN") {
        return None;
    }
    let demangled = rustc_demangle::try_demangle(mangled).ok()?;
    let mut name = Bounded::default();
    // A full buffer stops the formatter; what was written is kept.
    let _ = write!(name, "{demangled:#}");
    name.finish()
}

fn demangle_cpp(mangled: &str) -> Option<String> {
    // GCC and clang append what they did to a clone: `.cold`, `.part.0`, `.constprop.1`.
    if !mangled.starts_with("_Z") && !mangled.starts_with("__Z") {
        return None;
    }
    let parse = ParseOptions::default().recursion_limit(MAX_CPP_DEPTH);
    let symbol = Symbol::new_with_options(mangled, &parse).ok()?;
    let options = DemangleOptions::new().no_return_type().recursion_limit(MAX_CPP_DEPTH);
    let mut name = Bounded::default();
    let written = symbol.structured_demangle(&mut name, &options);
    if written.is_err() && !name.cut {
        return None;
    }
    name.finish()
}

fn bounded(name: &str) -> String {
    let mut bounded = Bounded::default();
    let _ = bounded.write_str(name);
    bounded.finish().unwrap_or_default()
}

/// A string that refuses to grow beyond [`MAX_NAME_BYTES`], which also ends
/// the formatting that fills it.
#[derive(Default)]
struct Bounded {
    text: String,
    cut: bool,
}

impl Bounded {
    fn finish(mut self) -> Option<String> {
        if self.cut {
            self.text.push('…');
        }
        (!self.text.is_empty()).then_some(self.text)
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = MAX_NAME_BYTES - self.text.len().min(MAX_NAME_BYTES);
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| part.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(part.get(..end).unwrap_or_default());
        self.cut = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One name per scheme, with the form that is promised.
    #[test]
    fn each_scheme_gives_its_readable_form() {
        let cases = [
            ("main", "main"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_ZN3foo3barEi", "foo::bar(int)"),
            ("_Z3addIiET_S0_S0_", "add<int>(int, int)"),
            ("_Z", "_Z"),
        ];
        for (mangled, readable) in cases {
            assert_eq!(demangle(mangled), readable);
        }
        let clone = demangle("_ZN3foo3barEi.constprop.0");
        assert!(clone.starts_with("foo::bar(int)"), "{clone}");
    }

    /// Names that describe something exponentially long, or nest endlessly, come back bounded and soon.
    #[test]
    fn bombs_are_bounded() {
        let mut doubling = String::from("_Z1fSt4pairIiiE");
        for index in 0..200 {
            let _ = write!(doubling, "St4pairIS{index}_S{index}_E");
        }
        let bombs = [
            doubling,
            format!("_Z1f{}", "P".repeat(30_000)),
            format!("_Z1f{}i", "P".repeat(30_000)),
            format!("_Z1f{}", "St4pairI".repeat(4000)),
            format!("_R{}", "I".repeat(30_000)),
            format!("_RNvC1a{}", "B_".repeat(10_000)),
            "x".repeat(10_000_000),
            "é".repeat(2000),
        ];
        for bomb in bombs {
            let began = std::time::Instant::now();
            assert!(demangle(&bomb).len() <= MAX_NAME_BYTES + '…'.len_utf8());
            assert!(began.elapsed().as_secs() < 5);
        }
    }

    proptest::proptest! {
        /// Any bytes after a mangling prefix give a bounded name.
        #[test]
        fn any_name_is_bounded(prefix in "(_Z|_ZN|_R|__Z|)", rest in "[0-9A-Za-z_.$]{0,200}") {
            let name = demangle(&format!("{prefix}{rest}"));
            proptest::prop_assert!(name.len() <= MAX_NAME_BYTES + '…'.len_utf8());
        }
    }
}
