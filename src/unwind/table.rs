//! A file's rows, page by page, with the rules they refer to.

use std::ops::Range;

use super::row::Row;
use super::rule::{Rule, Slot};
use super::state::Unsupported;

/// `PAGE_SHIFT_SVMA` of `ebpf/shared.h`: a page is 64 KiB of stated addresses.
pub const PAGE_SHIFT: u32 = 16;

/// The rows of one 64 KiB page: `rows[first_row .. first_row + row_count]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Index into [`Table::rows`].
    pub first_row: u32,
    /// At least 1: the first row has offset 0.
    pub row_count: u32,
}

/// Rows for consecutive pages, of a whole file or a part of it.
///
/// In each page rows ascend strictly by offset and the first has offset 0;
/// neighbours in a page differ in their rules. Every row's rule is in `rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Number of the first page: stated address >> [`PAGE_SHIFT`].
    pub first_page: u64,
    /// One for each page, ascending, without holes; empty when the file has no code.
    pub pages: Vec<Page>,
    /// The rows of all pages, in the pages' order.
    pub rows: Vec<Row>,
    /// Distinct rules, at most 65,535; [`Rule::NONE`] and [`Rule::UNSUPPORTED`] are the first two.
    pub rules: Vec<Rule>,
    /// What was met while building.
    pub stats: Stats,
}

/// What a table covers and what it could not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// FDEs turned into rows.
    pub fdes: u32,
    /// FDEs that are malformed or contradict the index; their code has no rows.
    pub bad_fdes: u32,
    /// Unsupported rows by reason, in the order of [`Unsupported::ALL`].
    pub unsupported_rows: [u32; Unsupported::ALL.len()],
    /// Rows that lose the caller's rbp.
    pub rbp_lost_rows: u32,
    /// Rows that lose the caller's rbx.
    pub rbx_lost_rows: u32,
    /// Rules made from machine code where no FDE covers it.
    pub recognised_stubs: u32,
    /// Functions whose rows come from following their machine code.
    pub detected_functions: u32,
}

impl Stats {
    fn add(&mut self, other: &Self) {
        let sum = |to: &mut u32, by: u32| *to = to.saturating_add(by);
        sum(&mut self.fdes, other.fdes);
        sum(&mut self.bad_fdes, other.bad_fdes);
        sum(&mut self.rbp_lost_rows, other.rbp_lost_rows);
        sum(&mut self.rbx_lost_rows, other.rbx_lost_rows);
        sum(&mut self.recognised_stubs, other.recognised_stubs);
        sum(&mut self.detected_functions, other.detected_functions);
        for (to, by) in self.unsupported_rows.iter_mut().zip(other.unsupported_rows) {
            sum(to, by);
        }
    }
}

impl Table {
    /// The pages covered.
    pub fn page_range(&self) -> Range<u64> {
        self.first_page..self.first_page.saturating_add(self.pages.len() as u64)
    }

    /// The rows of the page numbered `page`; `None` outside the table.
    pub fn rows_of(&self, page: u64) -> Option<&[Row]> {
        let index = usize::try_from(page.checked_sub(self.first_page)?).ok()?;
        let page = self.pages.get(index)?;
        let first = page.first_row as usize;
        self.rows.get(first..first.checked_add(page.row_count as usize)?)
    }

    /// The rule at a stated address, found as the BPF walker finds it; `None` outside the table.
    pub fn find(&self, svma: u64) -> Option<Rule> {
        let rows = self.rows_of(svma >> PAGE_SHIFT)?;
        let behind = rows.partition_point(|row| u64::from(row.offset()) <= svma & 0xffff);
        let row = rows.get(behind.checked_sub(1)?)?;
        self.rules.get(usize::from(row.rule())).copied()
    }

    /// Joins tables of adjacent page ranges, given in order, to one. `None` when the ranges are not
    /// adjacent. Where more than 65,535 rules come together the excess is unsupported.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let Some(mut joined) = parts.next() else { return Some(Self::default()) };
        let mut rules = RuleSet::of(&joined.rules);
        for part in parts {
            if part.first_page != joined.page_range().end {
                return None;
            }
            let base = u32::try_from(joined.rows.len()).ok()?;
            let map: Vec<u16> = part.rules.iter().map(|rule| rules.intern(*rule)).collect();
            let renamed =
                |row: &Row| Row::new(row.offset(), map.get(usize::from(row.rule())).map_or(0, |id| *id));
            joined.rows.extend(part.rows.iter().map(renamed));
            for page in &part.pages {
                let first_row = page.first_row.checked_add(base)?;
                joined.pages.push(Page { first_row, row_count: page.row_count });
            }
            joined.stats.add(&part.stats);
        }
        joined.rules = rules.rules;
        Some(joined)
    }

    /// Bytes that pages, rows and rules take in the walker's maps.
    pub fn size_bytes(&self) -> usize {
        size_of_val(&*self.pages) + size_of_val(&*self.rows) + size_of_val(&*self.rules)
    }
}

/// The distinct rules of a table, each found again by hashing: open addressing, linear probing, at
/// most half full.
struct RuleSet {
    rules: Vec<Rule>,
    /// Indices into `rules`, [`RuleSet::FREE`] where free; a power of two long.
    slots: Vec<u16>,
}

impl RuleSet {
    const FREE: u16 = u16::MAX;
    const MAX_RULES: usize = u16::MAX as usize;
    const NONE: u16 = 0;
    const UNSUPPORTED: u16 = 1;

    fn new() -> Self {
        let mut set = Self { rules: Vec::new(), slots: vec![Self::FREE; 256] };
        set.intern(Rule::NONE);
        set.intern(Rule::UNSUPPORTED);
        set
    }

    fn of(rules: &[Rule]) -> Self {
        let mut set = Self::new();
        for rule in rules {
            set.intern(*rule);
        }
        set
    }

    /// The slot where `rule` is or would go.
    #[inline]
    fn slot(&self, rule: Rule) -> usize {
        /// 2^64 divided by the golden ratio, odd: Knuth's multiplicative hashing spreads best with it.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mask = self.slots.len() - 1;
        let mut slot = (rule.to_bits().wrapping_mul(SPREAD) >> 40) as usize & mask;
        while let Some(index) = self.slots.get(slot).filter(|index| **index != Self::FREE) {
            if self.rules.get(usize::from(*index)) == Some(&rule) {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The index of `rule`, new or not; [`RuleSet::UNSUPPORTED`] when there is no room for it.
    #[inline]
    fn intern(&mut self, rule: Rule) -> u16 {
        let slot = self.slot(rule);
        match self.slots.get(slot) {
            Some(&index) if index != Self::FREE => index,
            _ => self.insert(rule, slot),
        }
    }

    #[cold]
    fn insert(&mut self, rule: Rule, slot: usize) -> u16 {
        if self.rules.len() >= Self::MAX_RULES {
            return Self::UNSUPPORTED;
        }
        let index = self.rules.len() as u16;
        self.rules.push(rule);
        if let Some(free) = self.slots.get_mut(slot) {
            *free = index;
        }
        if self.rules.len() * 2 > self.slots.len() {
            self.slots = vec![Self::FREE; self.slots.len() * 2];
            for (index, rule) in self.rules.iter().enumerate() {
                let slot = self.slot(*rule);
                if let Some(free) = self.slots.get_mut(slot) {
                    *free = index as u16;
                }
            }
        }
        index
    }
}

/// Appends rows in ascending order of address.
pub(super) struct TableWriter {
    table: Table,
    rules: RuleSet,
    /// Index of the current page's first row.
    page_start: usize,
    /// The current page's number.
    page: u64,
    /// The rule in force, as an index.
    current: u16,
}

impl TableWriter {
    /// Begins with [`Rule::NONE`] at the start of `first_page`.
    pub(super) fn new(first_page: u64) -> Self {
        let mut writer = Self {
            table: Table { first_page, ..Table::default() },
            rules: RuleSet::new(),
            page_start: 0,
            page: first_page,
            current: RuleSet::NONE,
        };
        writer.table.rows.push(Row::new(0, RuleSet::NONE));
        writer
    }

    pub(super) fn stats(&mut self) -> &mut Stats {
        &mut self.table.stats
    }

    /// From the stated address `at` on, until told otherwise, `rule` holds. Addresses never descend;
    /// of several rules for one address the last stands.
    #[inline]
    pub(super) fn set(&mut self, at: u64, rule: Result<Rule, Unsupported>) {
        let id = match rule {
            Ok(rule) => self.rules.intern(rule),
            Err(_) => RuleSet::UNSUPPORTED,
        };
        if id == self.current {
            return;
        }
        self.turn_to(at >> PAGE_SHIFT);
        self.current = id;
        let offset = at as u16;
        let rows = &mut self.table.rows;
        if rows.last().is_some_and(|last| last.offset() == offset) {
            rows.pop();
            if rows.len() > self.page_start && rows.last().is_some_and(|last| last.rule() == id) {
                return;
            }
        }
        rows.push(Row::new(offset, id));
        self.count(rule, id);
    }

    #[inline]
    fn count(&mut self, rule: Result<Rule, Unsupported>, id: u16) {
        let stats = &mut self.table.stats;
        let reason = match rule {
            Ok(rule) if id != RuleSet::UNSUPPORTED => {
                stats.rbp_lost_rows += u32::from(rule.rbp() == Slot::Lost);
                stats.rbx_lost_rows += u32::from(rule.rbx() == Slot::Lost);
                return;
            }
            Ok(_) => Unsupported::TooManyRules,
            Err(reason) => reason,
        };
        if let Some(count) = stats.unsupported_rows.get_mut(reason as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Closes pages up to `page`, repeating the rule in force at the start of each that follows.
    #[inline]
    fn turn_to(&mut self, page: u64) {
        while self.page < page {
            self.close_page();
            self.page += 1;
            self.page_start = self.table.rows.len();
            self.table.rows.push(Row::new(0, self.current));
        }
    }

    fn close_page(&mut self) {
        let row_count = self.table.rows.len() - self.page_start;
        self.table.pages.push(Page { first_row: self.page_start as u32, row_count: row_count as u32 });
    }

    /// The table up to `end_page`, exclusive and behind everything set.
    pub(super) fn finish(mut self, end_page: u64) -> Table {
        self.turn_to(end_page.saturating_sub(1));
        self.close_page();
        self.table.rules = self.rules.rules;
        self.table.rows.shrink_to_fit();
        self.table
    }
}
