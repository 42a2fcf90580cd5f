//! `txprof doctor`: what this machine allows, and the command that fixes the rest.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::sys::rights::{Check, Facts, Verdict, backend, check_all};
use crate::{Error, ErrorKind, Result};

/// Looks at the machine and prints what was found to stdout, as a table or as JSON. Works
/// for every user; that nothing can be recorded is an answer, not a failure.
pub fn run(json: bool) -> Result<()> {
    let facts = Facts::gather();
    let checks = check_all(&facts);
    let text = if json { render_json(&facts, &checks)? } else { render_table(&checks) };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|cause| Error::from_io("failed to write to stdout", cause).with_kind(ErrorKind::Output))
}

/// One object: `backend` (a name), `checks` in the order of the table, `facts`.
fn render_json(facts: &Facts, checks: &[Check]) -> Result<String> {
    #[derive(serde::Serialize)]
    struct Report<'a> {
        backend: &'static str,
        checks: &'a [Check],
        facts: &'a Facts,
    }
    let report = Report { backend: backend(checks), checks, facts };
    let text = serde_json::to_string_pretty(&report)
        .map_err(|cause| Error::new(ErrorKind::Output, format!("failed to write JSON: {cause}")))?;
    Ok(text + "\n")
}

/// A line for each check, then each fix once with what it is for, then the backend.
fn render_table(checks: &[Check]) -> String {
    let width = |text: fn(&Check) -> usize| checks.iter().map(text).max().unwrap_or_default();
    let subject_width = width(|check| check.subject.chars().count());
    let purpose_width = width(|check| check.purpose.chars().count());
    let mut text = String::new();
    for Check { subject, verdict, found, purpose, .. } in checks {
        let (sign, word) = sign_and_word(*verdict);
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "{sign} {word:<8} {subject:<subject_width$}  {purpose:<purpose_width$}  {found}");
    }
    let mut fixes: Vec<(&str, Vec<&str>)> = Vec::new();
    for check in checks {
        let Some(fix) = check.fix.as_deref() else { continue };
        match fixes.iter_mut().find(|(known, _)| *known == fix) {
            Some((_, subjects)) => subjects.push(check.subject),
            None => fixes.push((fix, vec![check.subject])),
        }
    }
    for (fix, subjects) in fixes {
        let _ = write!(text, "\nfor {}:\n    {fix}\n", subjects.join(", "));
    }
    let _ = match backend(checks) {
        "ptrace" => {
            writeln!(text, "\nbackend: ptrace: running threads of your own processes are stopped for moments")
        }
        name => writeln!(text, "\nbackend: {name}"),
    };
    text
}

/// The word says all; the sign only helps the eye.
fn sign_and_word(verdict: Verdict) -> (char, &'static str) {
    match verdict {
        Verdict::Ok => ('✓', "ok"),
        Verdict::Limited => ('–', "limited"),
        Verdict::Refused => ('✗', "refused"),
        Verdict::Unknown => ('–', "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subject: &'static str, verdict: Verdict, fix: Option<&str>) -> Check {
        let fix = fix.map(str::to_owned);
        Check { subject, verdict, found: "found".to_owned(), purpose: "purpose", fix, is_machine: false }
    }

    /// Signs come with words, a fix for several checks is shown once, the backend last.
    #[test]
    fn table_shows_each_fix_once() {
        let checks = [
            check("kernel", Verdict::Ok, None),
            check("CAP_BPF", Verdict::Refused, Some("sudo x")),
            check("BTF", Verdict::Unknown, None),
            check("CAP_SYSLOG", Verdict::Limited, Some("sudo x")),
        ];
        let expected = "\
✓ ok       kernel      purpose  found
✗ refused  CAP_BPF     purpose  found
– unknown  BTF         purpose  found
– limited  CAP_SYSLOG  purpose  found

for CAP_BPF, CAP_SYSLOG:
    sudo x

backend: ptrace: running threads of your own processes are stopped for moments
";
        assert_eq!(render_table(&checks), expected);
        assert!(render_table(&checks[..1]).ends_with("\nbackend: ebpf\n"));
    }

    /// The JSON has backend, checks and facts of this very machine.
    #[test]
    fn json_is_complete() {
        let facts = Facts::gather();
        let checks = check_all(&facts);
        let text = render_json(&facts, &checks).expect("plain values");
        let value: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(value["checks"].as_array().map(Vec::len), Some(checks.len()));
        assert_eq!(value["facts"]["kernel_release"], facts.kernel_release);
        assert!(value.get("backend").is_some());
    }
}
