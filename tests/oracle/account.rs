//! Verdicts, summed by program.

use std::collections::BTreeMap;
use std::fmt;

use super::Verdict;
use super::judge::{Class, Finding};

#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// framehop reached the start and agrees.
    pub exact: u64,
    /// framehop reached the start elsewhere.
    pub differing: u64,
    pub cut: u64,
    pub confirmed: u64,
    pub open: u64,
    pub late: u64,
    pub wrong: u64,
    /// Not judged: the process was gone, or its mappings changed between sample and judgement.
    pub gone: u64,
}

impl Sums {
    pub fn stacks(&self) -> u64 {
        self.exact + self.cut + self.confirmed + self.open + self.wrong
    }

    fn add(&mut self, other: &Self) {
        self.exact += other.exact;
        self.differing += other.differing;
        self.cut += other.cut;
        self.confirmed += other.confirmed;
        self.open += other.open;
        self.late += other.late;
        self.wrong += other.wrong;
        self.gone += other.gone;
    }

    /// Of the stacks whose start framehop took itself to have reached, how many are exactly ours.
    pub fn exact_share(&self) -> f64 {
        self.exact as f64 / (self.exact + self.differing).max(1) as f64
    }
}

/// All verdicts.
#[derive(Debug, Default)]
pub struct Account {
    programs: BTreeMap<String, Sums>,
    findings: BTreeMap<(&'static str, String, Class), (u64, String)>,
    /// Readings whose other half was lost.
    pub lost: u64,
}

impl Account {
    pub fn add(&mut self, program: &str, verdict: Verdict) {
        let sums = self.programs.entry(program.to_owned()).or_default();
        let (name, finding) = match verdict {
            Verdict::Exact => {
                sums.exact += 1;
                return;
            }
            Verdict::Cut => {
                sums.cut += 1;
                return;
            }
            Verdict::Confirmed(finding) => {
                sums.confirmed += 1;
                ("confirmed", finding)
            }
            Verdict::Open(finding) => {
                sums.open += 1;
                ("open", finding)
            }
            Verdict::Late => {
                sums.late += 1;
                return;
            }
            Verdict::Wrong(finding) => {
                sums.wrong += 1;
                ("WRONG", finding)
            }
        };
        let Finding { class, example, framehop_ended } = finding;
        sums.differing += u64::from(framehop_ended);
        let (count, _) =
            self.findings.entry((name, program.to_owned(), class)).or_insert_with(|| (0, example));
        *count += 1;
    }

    pub fn add_gone(&mut self, program: &str) {
        self.programs.entry(program.to_owned()).or_default().gone += 1;
    }

    pub fn of_program(&self, program: &str) -> Sums {
        self.programs.get(program).copied().unwrap_or_default()
    }

    /// Stacks that we hold to be complete and that no judge could follow, in none of these modules: how many, and which.
    pub fn unexplained(&self, modules: &[&str]) -> (u64, Vec<String>) {
        let open = self.findings.iter().filter(|((verdict, _, class), _)| {
            *verdict == "open" && class.outcome.is_complete() && !modules.contains(&class.module.as_str())
        });
        let told = open
            .map(|((_, program, _), (count, example))| (*count, format!("{count} × {program}: {example}")));
        told.fold((0, Vec::new()), |(sum, mut texts), (count, text)| {
            texts.push(text);
            (sum + count, texts)
        })
    }

    pub fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.programs.values().for_each(|sums| total.add(sums));
        total
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:26} {:>7} {:>7} {:>8} {:>7} {:>9} {:>6} {:>6} {:>6} {:>6}",
            "program", "stacks", "exact", "of ended", "cut", "confirmed", "open", "WRONG", "late", "gone"
        )?;
        let total = ("all".to_owned(), self.total());
        for (name, sums) in self.programs.iter().chain([(&total.0, &total.1)]) {
            writeln!(
                f,
                "{name:26} {:>7} {:>7} {:>7.3}% {:>7} {:>9} {:>6} {:>6} {:>6} {:>6}",
                sums.stacks(),
                sums.exact,
                sums.exact_share() * 100.0,
                sums.cut,
                sums.confirmed,
                sums.open,
                sums.wrong,
                sums.late,
                sums.gone
            )?;
        }
        for ((verdict, program, class), (count, example)) in &self.findings {
            let Class { module, outcome, framehop, programs } = class;
            writeln!(
                f,
                "{verdict} {count} × {program} in {module}: {outcome:?}, framehop {framehop:?}, programs {programs:?}; {example}"
            )?;
        }
        writeln!(f, "{} readings without their other half", self.lost)
    }
}
