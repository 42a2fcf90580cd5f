//! Heaps made by hand as each version makes them, read and then damaged.

use std::cell::Cell;

use super::super::object_layout::{
    Attributes, DICT_KEYS, DICT_VALUES, FLAG_INLINE_VALUES, FLAG_MANAGED_DICT, IntegerForm, KeysForm,
    OBJECT_TYPE, TYPE_BASIC_SIZE, TYPE_DICT_OFFSET, TYPE_FLAGS,
};
use super::*;

const MINORS: std::ops::RangeInclusive<u8> = 7..=15;
const BASE: u64 = 0x10_0000;
const TEXT_TYPE: u64 = 0x5555_0000;

/// Objects one behind the other from [`BASE`] on; nothing is ever freed.
struct Arena {
    version: Version,
    layout: Layout,
    objects: &'static ObjectLayout,
    bytes: Vec<u8>,
    reads: Cell<u64>,
}

impl Memory for Arena {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        let at = address.checked_sub(BASE).and_then(|at| usize::try_from(at).ok());
        let source = at.and_then(|at| self.bytes.get(at..at.checked_add(buffer.len())?));
        source.is_some_and(|source| {
            buffer.copy_from_slice(source);
            true
        })
    }
}

/// A dict's entries: addresses of key and value.
type Pairs<'a> = &'a [(u64, u64)];

impl Arena {
    fn of(minor: u8) -> Self {
        let version = Version { major: 3, minor, micro: 9 };
        let known = Version { minor: minor.min(12), ..version };
        let mut layout = *Layout::of(known).expect("3.7 to 3.12 have rows");
        if minor > 12 {
            layout.interpreter_next = 0x1c60;
            layout.text_kind_shift = if minor > 13 { 16 } else { 2 };
        }
        let objects = ObjectLayout::of(version).expect("versions with rows");
        Self { version, layout, objects, bytes: Vec::new(), reads: Cell::new(0) }
    }

    fn alloc(&mut self, size: u64) -> u64 {
        let address = BASE + self.bytes.len() as u64;
        self.bytes.resize(self.bytes.len() + size.next_multiple_of(16) as usize, 0);
        address
    }

    fn put<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        let at = (address - BASE) as usize;
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }

    fn word(&mut self, address: u64, value: u64) {
        self.put(address, value.to_ne_bytes());
    }

    fn text(&mut self, text: &str) -> u64 {
        let address = self.alloc(u64::from(self.layout.text_ascii) + text.len() as u64 + 1);
        self.word(address + OBJECT_TYPE, TEXT_TYPE);
        self.word(address + u64::from(self.layout.text_length), text.len() as u64);
        let state = (1u32 | 8 | 16) << self.layout.text_kind_shift;
        self.put(address + u64::from(self.layout.text_state), state.to_ne_bytes());
        for (at, byte) in text.bytes().enumerate() {
            self.put(address + u64::from(self.layout.text_ascii) + at as u64, [byte]);
        }
        address
    }

    fn integer(&mut self, value: u64) -> u64 {
        let address = self.alloc(48);
        let digits: Vec<u64> = (0..3).map(|place| value >> (30 * place) & ((1 << 30) - 1)).collect();
        let count = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last as u64 + 1);
        let size = if self.objects.integer == IntegerForm::Signed { count } else { count << 3 };
        self.word(address + 16, size);
        for (place, digit) in digits.iter().enumerate() {
            self.put(address + 24 + 4 * place as u64, (*digit as u32).to_ne_bytes());
        }
        address
    }

    /// Keys of 8 places, general or, from 3.11 on, of kind `kind`.
    fn keys(&mut self, pairs: Pairs<'_>, kind: u8) -> u64 {
        let address = self.alloc(40 + 8 + 24 * pairs.len() as u64);
        let (first, words) = if self.objects.keys == KeysForm::Sized {
            self.word(address + 8, 8);
            self.word(address + 32, pairs.len() as u64);
            (address + 48, 3)
        } else {
            self.put(address + 8, [3, 3, kind]);
            self.word(address + 24, pairs.len() as u64);
            (address + 40, if kind == 0 { 3 } else { 2 })
        };
        for (number, (key, value)) in pairs.iter().enumerate() {
            let end = first + 8 * words * (number as u64 + 1);
            self.word(end - 16, *key);
            self.word(end - 8, *value);
        }
        address
    }

    fn dict(&mut self, pairs: Pairs<'_>, kind: u8) -> u64 {
        let address = self.alloc(64);
        let keys = self.keys(pairs, kind);
        self.word(address + DICT_KEYS, keys);
        address
    }

    /// A dict with strings as keys.
    fn named(&mut self, pairs: &[(&str, u64)]) -> u64 {
        let pairs: Vec<(u64, u64)> = pairs.iter().map(|(name, value)| (self.text(name), *value)).collect();
        self.dict(&pairs, 1)
    }

    /// Values apart from their keys: the address for `DICT_VALUES`.
    fn values(&mut self, values: &[u64]) -> u64 {
        let address = self.alloc(8 + 8 * values.len() as u64);
        for (at, value) in (0..).zip(values) {
            self.word(address + self.objects.values_header() + 8 * at, *value);
        }
        address
    }

    fn class(&mut self, keys: u64) -> u64 {
        let class = self.alloc(1024);
        self.word(class + u64::from(self.objects.type_cached_keys), keys);
        self.word(class + TYPE_BASIC_SIZE, 16);
        let flags = match self.objects.attributes {
            Attributes::Dict => 0,
            Attributes::Beside | Attributes::Tagged => FLAG_MANAGED_DICT,
            Attributes::Inline => FLAG_MANAGED_DICT | FLAG_INLINE_VALUES,
        };
        self.word(class + TYPE_FLAGS, flags);
        if flags == 0 {
            self.word(class + TYPE_DICT_OFFSET, 16);
        }
        class
    }

    /// An instance of `class` with values for its shared keys.
    fn shared(&mut self, class: u64, keys: u64, values: &[u64]) -> u64 {
        let object = self.alloc(32 + 32 + 8 * values.len() as u64) + 32;
        self.word(object + OBJECT_TYPE, class);
        match self.objects.attributes {
            Attributes::Dict => {
                let dict = self.alloc(64);
                self.word(dict + DICT_KEYS, keys);
                let values = self.values(values);
                self.word(dict + DICT_VALUES, values);
                self.word(object + 16, dict);
            }
            Attributes::Beside => {
                let values = self.values(values);
                self.word(object - 32, values);
            }
            Attributes::Tagged => {
                let values = self.values(values);
                self.word(object - 24, values - 1);
            }
            Attributes::Inline => {
                for (at, value) in (0..).zip(values) {
                    self.word(object + 24 + 8 * at, *value);
                }
            }
        }
        object
    }

    /// An instance of `class` with a dict of its own.
    fn apart(&mut self, class: u64, dict: u64) -> u64 {
        let object = self.alloc(32 + 32) + 32;
        self.word(object + OBJECT_TYPE, class);
        let place = if self.objects.attributes == Attributes::Dict { object + 16 } else { object - 24 };
        self.word(place, dict);
        object
    }

    /// An interpreter in front of `next`, whose `threading` knows `threads`.
    fn interpreter(&mut self, next: u64, threads: Pairs<'_>) -> u64 {
        let active = self.dict(threads, 0);
        let content = self.named(&[("Thread", 1), ("_active", active)]);
        let threading = self.alloc(64);
        self.word(threading + MODULE_DICT, content);
        let modules = self.named(&[("sys", 1), ("threading", threading)]);
        let interpreter = self.alloc(0x2000);
        self.word(interpreter + self.modules_offset(), modules);
        self.word(interpreter + u64::from(self.layout.interpreter_next), next);
        interpreter
    }

    fn modules_offset(&self) -> u64 {
        match self.objects.modules {
            Modules::At(offset) => offset.into(),
            Modules::Told(_) => 0x1e08,
        }
    }

    fn runtime(&mut self, interpreter: u64) -> u64 {
        let runtime = self.alloc(0x1000);
        if let Modules::Told(word) = self.objects.modules {
            self.put(runtime, *b"xdebugpy");
            let offset = self.modules_offset();
            self.word(runtime + 8 * u64::from(word), offset);
            self.layout.runtime_interpreters_head = 0x320;
        }
        self.word(runtime + u64::from(self.layout.runtime_interpreters_head), interpreter);
        runtime
    }

    fn names(&self, runtime: u64) -> Vec<(u64, String)> {
        let mut names: Vec<(u64, String)> =
            thread_names(self, self.version, &self.layout, runtime, TEXT_TYPE, &|_| true)
                .into_iter()
                .collect();
        names.sort();
        names
    }
}

const POINTERS: [u64; 3] = [0x7f12_3456_7000, 0x5000, 0x7fff_ffff_f6c0];

/// A program with two interpreters, whose threads have their attributes in both ways.
fn program(minor: u8) -> (Arena, u64) {
    let mut arena = Arena::of(minor);
    let names = ["worker", "MainThread", "of another interpreter"].map(|name| arena.text(name));
    let keys = [arena.text("_target"), arena.text("_name")];
    let shared_keys = arena.keys(&keys.map(|key| (key, 0)), 2);
    let class = arena.class(shared_keys);
    let worker = arena.shared(class, shared_keys, &[0, names[0]]);
    let own = arena.dict(&[(keys[1], names[1]), (keys[0], 1)], 1);
    let main = arena.apart(class, own);
    let other = arena.shared(class, shared_keys, &[1, names[2]]);
    let numbers = POINTERS.map(|pointer| arena.integer(pointer));
    let first = arena.interpreter(0, &[(numbers[0], worker), (0, 0), (numbers[1], main)]);
    let second = arena.interpreter(first, &[(numbers[2], other)]);
    let runtime = arena.runtime(second);
    (arena, runtime)
}

/// Heaps of all versions give the names, from shared values and from dicts, of all interpreters.
#[test]
fn names_are_found_in_heaps_of_all_versions() {
    for minor in MINORS {
        let (arena, runtime) = program(minor);
        let expected = [
            (POINTERS[1], "MainThread".to_owned()),
            (POINTERS[0], "worker".to_owned()),
            (POINTERS[2], "of another interpreter".to_owned()),
        ];
        assert_eq!(arena.names(runtime), expected, "3.{minor}");
        assert_eq!(arena.names(runtime + 16), [], "3.{minor}");
        let only = |pointer| pointer == POINTERS[0];
        let some = thread_names(&arena, arena.version, &arena.layout, runtime, TEXT_TYPE, &only);
        assert_eq!(some.into_iter().collect::<Vec<_>>(), expected[1..2], "3.{minor}");
    }
}

/// A thread in which another interpreter runs is called as the first one, the last of the list, does.
#[test]
fn first_interpreter_has_the_last_word() {
    let mut arena = Arena::of(12);
    let names = ["worker", "MainThread"].map(|name| arena.text(name));
    let key = arena.text("_name");
    let class = arena.class(0);
    let threads = names.map(|name| {
        let dict = arena.dict(&[(key, name)], 1);
        arena.apart(class, dict)
    });
    let number = arena.integer(7);
    let first = arena.interpreter(0, &[(number, threads[0])]);
    let second = arena.interpreter(first, &[(number, threads[1])]);
    let runtime = arena.runtime(second);
    assert_eq!(arena.names(runtime), [(7, "worker".to_owned())]);
}

/// Free-threaded builds have other objects; a list of interpreters in a circle has an end.
#[test]
fn strange_runtimes_are_survived() {
    let (mut arena, runtime) = program(14);
    arena.word(runtime + 16, 1);
    assert_eq!(arena.names(runtime), []);
    let (mut arena, runtime) = program(11);
    let first = arena.interpreter(0, &[]);
    arena.word(first + u64::from(arena.layout.interpreter_next), first);
    arena.word(runtime + u64::from(arena.layout.runtime_interpreters_head), first);
    assert_eq!(arena.names(runtime), []);
    assert!(arena.reads.get() < 2000, "{} reads", arena.reads.get());
}

/// Numbers of one to three digits, and those that are none that a thread could have.
#[test]
fn integers_are_read_to_64_bits() {
    for minor in [11, 12] {
        let mut arena = Arena::of(minor);
        let numbers = [1, (1 << 30) - 1, 1 << 30, 0x7f00_1234_5678, 1 << 60, u64::MAX];
        let at = numbers.map(|number| arena.integer(number));
        let (zero, too_large) = (arena.integer(0), arena.integer(1 << 62));
        arena.put(too_large + 32, [0xff, 0xff, 0xff, 0x3f]);
        let negative = arena.integer(5);
        arena.word(negative + 16, if minor < 12 { u64::MAX } else { 1 << 3 | 2 });
        let heap = Heap::new(&arena, &arena.layout, arena.objects, TEXT_TYPE);
        assert_eq!(at.map(|at| heap.integer(at)), numbers.map(Some), "3.{minor}");
        assert_eq!([zero, too_large, negative, 8].map(|at| heap.integer(at)), [None; 4], "3.{minor}");
    }
}

proptest::proptest! {
    /// Whatever words of a heap are overwritten: bounded names in bounded time, no panic.
    #[test]
    fn damaged_heaps_are_survived(
        minor in MINORS,
        damage in proptest::collection::vec((0usize..20_000, proptest::num::u64::ANY, 0u8..4), 1..40),
    ) {
        let (mut arena, runtime) = program(minor);
        let words = arena.bytes.len() / 8;
        for (at, value, how) in damage {
            // Anything, addresses inside, small numbers, and all bits.
            let value = match how {
                0 => value,
                1 => BASE + value % arena.bytes.len() as u64,
                2 => value % 100,
                _ => u64::MAX,
            };
            arena.word(BASE + 8 * (at % words) as u64, value);
        }
        let names = arena.names(runtime);
        proptest::prop_assert!(names.len() <= MAX_THREADS);
        proptest::prop_assert!(names.iter().all(|(_, name)| name.chars().count() <= 201));
        proptest::prop_assert!(arena.reads.get() < 10_000_000);
    }

    /// A heap that answers each read with noise.
    #[test]
    fn noise_is_survived(minor in MINORS, seed in proptest::num::u64::ANY) {
        struct Noise(Cell<u64>);
        impl Memory for Noise {
            fn read(&self, _: u64, buffer: &mut [u8]) -> bool {
                for byte in buffer {
                    let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    self.0.set(next);
                    // Mostly zeroes, so that counts are small now and then.
                    *byte = if next >> 62 == 0 { (next >> 40) as u8 } else { 0 };
                }
                true
            }
        }
        let arena = Arena::of(minor);
        let names = thread_names(&Noise(Cell::new(seed)), arena.version, &arena.layout, BASE, TEXT_TYPE, &|_| true);
        proptest::prop_assert!(names.len() <= MAX_THREADS);
    }
}
