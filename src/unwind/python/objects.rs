//! Python objects in another process's memory: dicts, attributes, numbers, strings.
//!
//! The memory changes while it is read and may hold anything. What does not look like what it
//! should be is absent, no number read is believed beyond a bound, and nothing recurses. A wrong
//! object that looks right is possible, as in any reading of a live heap.

use super::object_layout::{
    Attributes, DICT_KEYS, DICT_VALUES, FLAG_INLINE_VALUES, FLAG_MANAGED_DICT, IntegerForm, KeysForm,
    OBJECT_TYPE, ObjectLayout, TYPE_BASIC_SIZE, TYPE_DICT_OFFSET, TYPE_FLAGS,
};
use super::{Layout, text};

/// Entries of a dict that are looked at; of larger ones nothing is known. A process of 10,000
/// modules or threads is far below.
const MAX_ENTRIES: u64 = 65_536;
/// Characters of a string that are read.
const MAX_CHARACTERS: u64 = 200;
/// Bytes of the indices of a dict of [`MAX_ENTRIES`], of 4 bytes at twice as many places, twice over.
const MAX_INDEX_BYTES: u64 = 1 << 20;

/// The memory of a process.
pub trait Memory {
    /// Fills `buffer` from `address`; `false` when any part cannot be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;
}

/// Entries of a dict in the order of insertion: addresses of key and value.
pub type Entries = Vec<(u64, u64)>;

/// The objects of an interpreter.
pub struct Heap<'a> {
    memory: &'a dyn Memory,
    layout: &'a Layout,
    objects: &'a ObjectLayout,
    text_type: u64,
}

/// What a dict or an object's attributes consist of: keys, and values apart from them if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    keys: u64,
    /// Address of the first.
    values: Option<u64>,
}

impl<'a> Heap<'a> {
    /// Objects in `memory`, made as the two layouts say; `text_type` is the address of `PyUnicode_Type`.
    pub fn new(
        memory: &'a dyn Memory,
        layout: &'a Layout,
        objects: &'a ObjectLayout,
        text_type: u64,
    ) -> Self {
        Self { memory, layout, objects, text_type }
    }

    /// The word of 8 bytes at `address`.
    pub fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes).then(|| u64::from_ne_bytes(bytes))
    }

    /// The word at `address`, unless it is 0.
    pub fn pointer(&self, address: u64) -> Option<u64> {
        self.word(address).filter(|pointer| *pointer != 0)
    }

    /// The entries of the dict at `address`, those without a value left out.
    pub fn entries(&self, address: u64) -> Option<Entries> {
        let table = self.table_of_dict(address)?;
        let mut entries = self.entries_of(&table)?;
        entries.retain(|(key, value)| *key != 0 && *value != 0);
        Some(entries)
    }

    /// The value of the string `name` in the dict at `address`.
    pub fn item(&self, address: u64, name: &str) -> Option<u64> {
        self.find(&self.table_of_dict(address)?, name)
    }

    /// The attribute `name` that the object at `address` has itself, not through its class.
    pub fn attribute(&self, address: u64, name: &str) -> Option<u64> {
        self.find(&self.table_of_object(address)?, name)
    }

    fn find(&self, table: &Table, name: &str) -> Option<u64> {
        let entries = self.entries_of(table)?;
        let found = entries.iter().find(|(key, value)| *value != 0 && self.is_text(*key, name));
        found.map(|(_, value)| *value)
    }

    fn table_of_dict(&self, dict: u64) -> Option<Table> {
        let keys = self.pointer(dict.checked_add(DICT_KEYS)?)?;
        let values = match self.word(dict.checked_add(DICT_VALUES)?)? {
            0 => None,
            values => Some(values.checked_add(self.objects.values_header())?),
        };
        Some(Table { keys, values })
    }

    /// See [`Attributes`].
    fn table_of_object(&self, object: u64) -> Option<Table> {
        let of_type = self.pointer(object.checked_add(OBJECT_TYPE)?)?;
        let flags = self.word(of_type.checked_add(TYPE_FLAGS)?)?;
        if self.objects.attributes == Attributes::Dict || flags & FLAG_MANAGED_DICT == 0 {
            let offset = self.word(of_type.checked_add(TYPE_DICT_OFFSET)?)?;
            // 0: no attributes of its own; beyond: negative, of objects of variable size.
            let is_usable = (16..=0xffff).contains(&offset);
            return self.table_of_dict(self.pointer(object.checked_add(offset)?).filter(|_| is_usable)?);
        }
        let cached_keys = || self.pointer(of_type.checked_add(self.objects.type_cached_keys.into())?);
        let bare = |values| Some(Table { keys: cached_keys()?, values: Some(values) });
        let dict = self.word(object.checked_sub(24)?)?;
        match self.objects.attributes {
            Attributes::Beside => match self.word(object.checked_sub(32)?)? {
                0 => self.table_of_dict(dict),
                values => bare(values),
            },
            Attributes::Tagged if dict & 1 != 0 => bare(dict.checked_add(1)?),
            Attributes::Inline if dict == 0 && flags & FLAG_INLINE_VALUES != 0 => {
                let size = self.word(of_type.checked_add(TYPE_BASIC_SIZE)?)?;
                bare(object.checked_add(size)?.checked_add(self.objects.values_header())?)
            }
            Attributes::Dict | Attributes::Tagged | Attributes::Inline => self.table_of_dict(dict),
        }
    }

    /// All entries of `table`, also those without key or value: the place of an entry is that of its value.
    fn entries_of(&self, table: &Table) -> Option<Entries> {
        let mut head = [0; 40];
        if !self.memory.read(table.keys, &mut head) {
            return None;
        }
        let word = |offset: usize| Some(u64::from_ne_bytes(head.get(offset..offset + 8)?.try_into().ok()?));
        let (count, first, has_hash) = match self.objects.keys {
            KeysForm::Sized => {
                let places = word(8)?;
                let bytes = match places {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    _ => 4,
                };
                (word(32)?, 40 + places.checked_mul(bytes).filter(|all| *all <= MAX_INDEX_BYTES)?, true)
            }
            KeysForm::Logarithmic => {
                let bytes = 1u64.checked_shl(u32::from(head[9])).filter(|all| *all <= MAX_INDEX_BYTES)?;
                (word(24)?, 32 + bytes, head[10] == 0)
            }
        };
        if count > MAX_ENTRIES {
            return None;
        }
        let words_each = if has_hash { 3 } else { 2 };
        let words = self.words(table.keys.checked_add(first)?, count * words_each)?;
        let pairs = words.chunks_exact(words_each as usize).map(|entry| match *entry {
            [_, key, value] | [key, value] => (key, value),
            _ => (0, 0),
        });
        let Some(values) = table.values else { return Some(pairs.collect()) };
        let values = self.words(values, count)?;
        Some(pairs.zip(values).map(|((key, _), value)| (key, value)).collect())
    }

    /// `count` words, at most three times [`MAX_ENTRIES`].
    fn words(&self, address: u64, count: u64) -> Option<Vec<u64>> {
        let mut bytes = vec![0; usize::try_from(count.checked_mul(8)?).ok()?];
        if !self.memory.read(address, &mut bytes) {
            return None;
        }
        let words = bytes.as_chunks::<8>().0;
        Some(words.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }

    /// The `int` at `address`, if it is positive and below 2⁶⁴.
    pub fn integer(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 36];
        // Small numbers have fewer digits, but objects take multiples of 16 bytes.
        if !self.memory.read(address, &mut bytes[..32]) {
            return None;
        }
        let size = u64::from_ne_bytes(bytes[16..24].try_into().ok()?);
        let digits = match self.objects.integer {
            IntegerForm::Signed => size,
            IntegerForm::Tagged if size & 3 == 0 => size >> 3,
            IntegerForm::Tagged => return None,
        };
        if !(1..=3).contains(&digits) || (digits == 3 && !self.memory.read(address, &mut bytes)) {
            return None;
        }
        let digits = bytes[24..].as_chunks::<4>().0.iter().take(digits as usize);
        let value = digits.rev().try_fold(0u128, |value, digit| {
            let digit = u32::from_ne_bytes(*digit);
            (digit < 1 << 30).then_some(value << 30 | u128::from(digit))
        });
        u64::try_from(value?).ok()
    }

    /// The `str` at `address`, not of a class derived from it; of a longer one 200 characters and an ellipsis.
    pub fn text(&self, address: u64) -> Option<String> {
        text::decode(&self.text_bytes(address, MAX_CHARACTERS)?, self.layout)
    }

    fn is_text(&self, address: u64, wanted: &str) -> bool {
        let length =
            address.checked_add(self.layout.text_length.into()).and_then(|address| self.word(address));
        length == Some(wanted.len() as u64) && self.text(address).is_some_and(|text| text == wanted)
    }

    /// The head of the `str` at `address` and its characters behind it, at most `limit` of them.
    fn text_bytes(&self, address: u64, limit: u64) -> Option<Vec<u8>> {
        if self.word(address.checked_add(OBJECT_TYPE)?)? != self.text_type {
            return None;
        }
        let length = self.word(address.checked_add(self.layout.text_length.into())?)?.min(limit);
        let mut state = [0; 4];
        if !self.memory.read(address.checked_add(self.layout.text_state.into())?, &mut state) {
            return None;
        }
        let state = u32::from_ne_bytes(state).checked_shr(self.layout.text_kind_shift)?;
        let (kind, is_ascii) = (u64::from(state & 7), state & 16 != 0);
        let size = match (is_ascii, kind) {
            (true, _) => u64::from(self.layout.text_ascii) + length,
            (false, 1 | 2 | 4) => u64::from(self.layout.text_compact) + kind * length,
            _ => return None,
        };
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.memory.read(address, &mut bytes).then_some(bytes)
    }
}
