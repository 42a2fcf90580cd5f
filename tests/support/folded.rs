//! Folded stacks as a test reads them.

use std::collections::BTreeMap;

/// One line: frames root first, the process's name being the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// At least one; root first.
    pub frames: Vec<String>,
    /// Samples.
    pub weight: u64,
}

impl Line {
    /// Whether any frame's name contains `part`.
    pub fn has(&self, part: &str) -> bool {
        self.frames.iter().any(|frame| frame.contains(part))
    }

    /// Whether the native stack reaches the thread's start. The one moment in which 3.11 and 3.12 have no readable
    /// Python frames leaves it whole.
    pub fn is_complete(&self) -> bool {
        let is_marker = |frame: &String| {
            frame.starts_with('[') && !frame.starts_with("[Python callers missing: interpreter was linking")
        };
        !self.frames.iter().take(3).any(is_marker)
    }

    /// Whether each of `parts` is in a frame's name, in this order from the root; others may stand between.
    pub fn reads(&self, parts: &[&str]) -> bool {
        let mut frames = self.frames.iter();
        parts.iter().all(|part| frames.any(|frame| frame.contains(part)))
    }
}

/// A whole profile in folded form.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// In the order of the file.
    pub lines: Vec<Line>,
}

impl Folded {
    /// Parses what `txprof` wrote; panics on what is not folded stacks.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| {
            let (stack, weight) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no weight in `{line}`"));
            let weight = weight.parse().unwrap_or_else(|error| panic!("weight of `{line}`: {error}"));
            Line { frames: stack.split(';').map(str::to_owned).collect(), weight }
        });
        Self { lines: lines.collect() }
    }

    /// The samples whose process is called `name`.
    pub fn of_process(&self, name: &str) -> Self {
        self.filtered(|line| line.frames.first().is_some_and(|root| root == name))
    }

    /// The lines for which `wanted` holds.
    pub fn filtered(&self, wanted: impl Fn(&Line) -> bool) -> Self {
        Self { lines: self.lines.iter().filter(|line| wanted(line)).cloned().collect() }
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.weight).sum()
    }

    /// The part of the samples for which `wanted` holds, from 0 to 1; 0 when there are none.
    pub fn share(&self, wanted: impl Fn(&Line) -> bool) -> f64 {
        self.filtered(wanted).total() as f64 / self.total().max(1) as f64
    }

    /// The part of the samples whose stack reaches the thread's start.
    pub fn complete_share(&self) -> f64 {
        self.share(Line::is_complete)
    }

    /// The markers of incomplete stacks with their samples, for messages.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for line in self.lines.iter().filter(|line| !line.is_complete()) {
            let marker = line.frames.iter().find(|frame| frame.starts_with('[')).cloned().unwrap_or_default();
            *reasons.entry(marker).or_default() += line.weight;
        }
        reasons
    }

    /// The heaviest lines, for messages; deep stacks shortened.
    pub fn heaviest(&self, count: usize) -> String {
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.weight));
        let shown = lines.iter().take(count).map(|line| {
            let text = line.frames.join(";");
            let head: String = text.chars().take(200).collect();
            let tail: String = text.chars().skip(200.max(text.chars().count().saturating_sub(200))).collect();
            format!("{:8} {head} … {tail}\n", line.weight)
        });
        shown.collect()
    }
}
