//! Verdicts, summed by program.

use std::collections::BTreeMap;
use std::fmt;

use super::judge::{Class, Finding, Judgement, Verdict};

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

/// Our frames in one module. A frame is judged where a judge knows its caller, or that it has none, and exact where
/// we say the same. Not judged are those behind the first on which the judges have no word, or another one: of a
/// `cut` stack the frames from the end of the copy on, of an `open` or `late` one all from that place on.
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    all: u64,
    judged: u64,
    exact: u64,
}

impl Frames {
    fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.judged += other.judged;
        self.exact += other.exact;
    }
}

/// All verdicts.
#[derive(Debug, Default)]
pub struct Account {
    programs: BTreeMap<String, Sums>,
    modules: BTreeMap<String, Frames>,
    findings: BTreeMap<(&'static str, String, Class), (u64, String)>,
    /// Readings whose other half was lost.
    pub lost: u64,
}

impl Account {
    /// `modules` are those of our frames, leaf first.
    pub fn add<'a>(&mut self, program: &str, judgement: Judgement, modules: impl Iterator<Item = &'a str>) {
        let Judgement { verdict, same_callers } = judgement;
        let is_wrong = matches!(verdict, Verdict::Wrong(_));
        for (index, module) in modules.enumerate() {
            let exact = u64::from(index < same_callers);
            let wrong = u64::from(index == same_callers && is_wrong);
            let frames = Frames { all: 1, judged: exact + wrong, exact };
            self.modules.entry(module.to_owned()).or_default().add(&frames);
        }
        self.add_verdict(program, verdict);
    }

    fn add_verdict(&mut self, program: &str, verdict: Verdict) {
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
        self.show_programs(f)?;
        self.show_modules(f)?;
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

impl Account {
    /// Programs, versions of CPython, and all.
    fn show_programs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:26} {:>7} {:>7} {:>8} {:>7} {:>9} {:>6} {:>6} {:>6} {:>6}",
            "program", "stacks", "exact", "of ended", "cut", "confirmed", "open", "WRONG", "late", "gone"
        )?;
        let mut versions: BTreeMap<u8, Sums> = BTreeMap::new();
        for (program, sums) in &self.programs {
            if let Some(minor) = minor_of(program) {
                versions.entry(minor).or_default().add(sums);
            }
        }
        let versions = versions.into_iter().map(|(minor, sums)| (format!("all of CPython 3.{minor}"), sums));
        let programs = self.programs.iter().map(|(name, sums)| (name.clone(), *sums));
        for (name, sums) in programs.chain(versions).chain([("all".to_owned(), self.total())]) {
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
        Ok(())
    }

    /// Modules, those with the most frames first; ones with few are summed.
    fn show_modules(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: u64 = 500;
        writeln!(f, "{:34} {:>8} {:>8} {:>8} {:>9}", "module", "frames", "judged", "exact", "of judged")?;
        let (mut many, few): (Vec<_>, Vec<_>) = self
            .modules
            .iter()
            .map(|(name, frames)| (name.clone(), *frames))
            .partition(|(_, f)| f.all >= FEW);
        many.sort_by_key(|(_, frames)| std::cmp::Reverse(frames.all));
        let mut rest = Frames::default();
        few.iter().for_each(|(_, frames)| rest.add(frames));
        let rest = (format!("{} with fewer than {FEW}", few.len()), rest);
        for (name, Frames { all, judged, exact }) in many.into_iter().chain([rest]) {
            let share = exact as f64 * 100.0 / judged.max(1) as f64;
            writeln!(f, "{name:34} {all:>8} {judged:>8} {exact:>8} {share:>8.3}%")?;
        }
        Ok(())
    }
}

/// 8 of `pyenv-3.8.18 shapes`.
fn minor_of(program: &str) -> Option<u8> {
    let (_, version) = program.split_once(' ')?.0.split_once("-3.")?;
    version.split('.').next()?.parse().ok()
}
