//! What comes out, summed.

use std::collections::BTreeMap;
use std::fmt;

use txprof::model::Outcome;
use txprof::sys::abi::PythonFrame;

use super::{Frames, Reading};

#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The walk says that it is complete, and is equal: frames, code objects, their content, offsets, lock.
    pub exact: u64,
    /// It says so, and is not.
    pub differing: u64,
    /// It says that it is not complete, and is equal as far as it goes.
    pub marked: u64,
    /// Neither knows the thread.
    pub outside: u64,
    /// Stops of which there was no sample.
    pub lonely: u64,
    /// Frames of the exact ones.
    pub frames: u64,
    /// Stacks compared with what was read at the stop before, and how many of those differed: what shows that
    /// an instant is told from another.
    pub apart: (u64, u64),
    /// What was marked, and what differed, with an example.
    findings: BTreeMap<String, (u64, String)>,
}

impl Account {
    pub fn stacks(&self) -> u64 {
        self.exact + self.differing + self.marked
    }

    /// Of the stacks that we hold to be complete.
    pub fn exact_share(&self) -> f64 {
        self.exact as f64 / (self.exact + self.differing).max(1) as f64
    }

    /// Of all stacks, those that we hold to be complete.
    pub fn complete_share(&self) -> f64 {
        (self.exact + self.differing) as f64 / self.stacks().max(1) as f64
    }

    /// Of the stacks compared with another instant, those that differed.
    pub fn apart_share(&self) -> f64 {
        self.apart.1 as f64 / self.apart.0.max(1) as f64
    }

    pub fn sum(&mut self, other: &Self) {
        self.exact += other.exact;
        self.differing += other.differing;
        self.marked += other.marked;
        self.outside += other.outside;
        self.lonely += other.lonely;
        self.frames += other.frames;
        self.apart.0 += other.apart.0;
        self.apart.1 += other.apart.1;
        for (class, (count, example)) in &other.findings {
            self.findings.entry(class.clone()).or_insert_with(|| (0, example.clone())).0 += count;
        }
    }

    /// Judges a sample by what was read at the same instant.
    pub fn add(&mut self, ours: &Reading, theirs: &Reading) {
        if ours.pc != theirs.pc {
            return self.add_differing("another pc", format!("{:x?}, stopped at {:x?}", ours.pc, theirs.pc));
        }
        let (ours, theirs) = match (&ours.python, &theirs.python) {
            (None, None) => {
                self.outside += 1;
                return;
            }
            (Some(ours), Some(theirs)) => (ours, theirs),
            (ours, theirs) => {
                return self.add_differing("known to one", format!("{ours:x?}, read {theirs:x?}"));
            }
        };
        if ours.outcome != Outcome::Complete && is_beginning(ours, theirs) {
            self.marked += 1;
            self.note(format!("marked {:?}, read {:?}", ours.outcome, theirs.outcome), String::new());
        } else if ours == theirs && ours.frames.iter().all(|frame| !frame.is_unread) {
            self.exact += 1;
            self.frames += ours.frames.len() as u64;
        } else {
            let outcomes = format!("{:?}, read {:?}", ours.outcome, theirs.outcome);
            self.add_differing(&outcomes, difference(ours, theirs));
        }
    }

    /// Compares a sample with what was read at the stop before.
    pub fn add_apart(&mut self, ours: &Reading, before: &Reading) {
        self.apart.0 += 1;
        self.apart.1 += u64::from(ours.python != before.python);
    }

    fn add_differing(&mut self, class: &str, example: String) {
        self.differing += 1;
        self.note(class.to_owned(), example);
    }

    fn note(&mut self, class: String, example: String) {
        self.findings.entry(class).or_insert_with(|| (0, example)).0 += 1;
    }
}

/// Whether what we have is the same as far as it goes; that the last frame entered the loop may not have been seen.
fn is_beginning(ours: &Frames, theirs: &Frames) -> bool {
    let Some((last, callees)) = ours.frames.split_last() else { return true };
    let Some((their_last, their_callees)) =
        theirs.frames.get(..ours.frames.len()).and_then(|same| same.split_last())
    else {
        return false;
    };
    let entered = PythonFrame { is_entry: their_last.is_entry, ..*last };
    callees == their_callees && entered == *their_last
}

fn difference(ours: &Frames, theirs: &Frames) -> String {
    let common = ours.frames.iter().zip(&theirs.frames).take_while(|(one, other)| one == other).count();
    format!(
        "frame {common} of {} and {}: {:x?} {:x?}, lock {} {}",
        ours.frames.len(),
        theirs.frames.len(),
        ours.frames.get(common),
        theirs.frames.get(common),
        ours.holds_gil,
        theirs.holds_gil
    )
}

impl Account {
    /// The words above the columns.
    pub const HEAD: &'static str = " stacks     exact  WRONG marked   frames outside lonely  apart";
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { differing, marked, outside, lonely, frames, .. } = self;
        let (stacks, exact, apart) = (self.stacks(), self.exact_share() * 100.0, self.apart_share() * 100.0);
        write!(
            f,
            "{stacks:>7} {exact:>8.3}% {differing:>6} {marked:>6} {frames:>8} {outside:>7} {lonely:>6} {apart:>5.1}%"
        )?;
        for (class, (count, example)) in &self.findings {
            write!(f, "\n    {count} × {class} {example}")?;
        }
        Ok(())
    }
}
