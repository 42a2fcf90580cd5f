//! The agent's words: an event is a line on standard error, whose form depends on who reads it there.
//!
//! ```text
//! a terminal   error: 12 requests not kept: failed to write to …: disk full (loss requests_refused)
//!              hint: make room in …
//! the journal  <3>12 requests not kept loss=requests_refused count=12 reason="failed …" hint="make room …"
//! else         2026-11-29T02:30:00Z ERROR 12 requests not kept loss=requests_refused count=12 reason="…" …
//! ```
//!
//! The message is for people and has all numbers that they need; so a terminal does not show fields that are numbers.
//! For programs each field is `name=value`. Texts may come from targets: control characters are replaced, long ones cut.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::report;
use crate::agent::config::LogLevel;
use crate::model::date::rfc3339;

/// Characters of a text that are shown: more than any of ours has. A path or a mistake in a file may be longer.
const MAX_TEXT_CHARS: usize = 2000;

/// Who reads the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// People: as what other commands say.
    Terminal,
    /// The journal, which knows the time, and takes the level as a priority, `<N>` (sd-daemon(3)).
    Journal,
    /// Who reads a file or a pipe later: with the time, in UTC.
    Plain,
}

impl Form {
    /// The form of what is written to standard error.
    pub(super) fn of_stderr() -> Self {
        let stderr = std::io::stderr();
        if stderr.is_terminal() {
            return Self::Terminal;
        }
        let file = nix::sys::stat::fstat(&stderr).ok().map(|stat| (stat.st_dev, stat.st_ino));
        match is_journal(std::env::var_os("JOURNAL_STREAM").as_deref(), file) {
            true => Self::Journal,
            false => Self::Plain,
        }
    }
}

/// Whether a file, its device and inode, is what `JOURNAL_STREAM` names as `device:inode`. The variable alone says
/// nothing, as processes inherit it that write elsewhere (systemd.exec(5)).
fn is_journal(stream: Option<&OsStr>, file: Option<(u64, u64)>) -> bool {
    let named = stream.and_then(OsStr::to_str).and_then(|stream| {
        let (device, inode) = stream.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    });
    named.is_some() && named == file
}

/// From here on events up to `level` are lines on standard error.
pub(super) fn begin(form: Form, level: LogLevel) {
    // Where this crate is part of another program, that may have said already where events go.
    let _said_already = tracing::subscriber::set_global_default(subscriber(form, level, std::io::stderr));
}

fn subscriber<W>(form: Form, level: LogLevel, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // That nobody listens is no failure; telling it on standard error would panic.
    let builder = tracing_subscriber::fmt().log_internal_errors(false).with_max_level(level);
    builder.with_writer(writer).event_format(form).finish()
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut words = Words::default();
        event.record(&mut words);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_seconds = since.map_or(0, |since| since.as_secs());
        writer.write_str(&words.lines(*self, *event.metadata().level(), unix_seconds))
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Words {
    message: String,
    /// In their order; at most the 32 of an event.
    fields: Vec<Said>,
}

/// A field.
#[derive(Debug)]
struct Said {
    name: &'static str,
    value: String,
    is_number: bool,
}

impl Words {
    fn add(&mut self, field: &Field, value: &str, is_number: bool) {
        let value = shown(value);
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push(Said { name, value, is_number }),
        }
    }

    /// One line; at a terminal a second one for the hint.
    fn lines(&self, form: Form, level: Level, unix_seconds: u64) -> String {
        match form {
            Form::Terminal => self.for_people(level),
            Form::Journal => self.for_programs(&format!("<{}>", priority(level))),
            Form::Plain => self.for_programs(&format!("{} {level} ", rfc3339(unix_seconds))),
        }
    }

    fn for_people(&self, level: Level) -> String {
        let find = |name| self.fields.iter().find(|said| said.name == name).map(|said| said.value.as_str());
        let mut lines = match level {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            _ => "debug: ",
        }
        .to_owned();
        lines.push_str(&self.message);
        if let Some(reason) = find("reason") {
            let _ = write!(lines, ": {reason}");
        }
        let others =
            self.fields.iter().filter(|said| !said.is_number && !matches!(said.name, "reason" | "hint"));
        let others: Vec<String> = others.map(|said| format!("{} {}", said.name, said.value)).collect();
        if !others.is_empty() {
            let _ = write!(lines, " ({})", others.join(", "));
        }
        lines.push('\n');
        if let Some(hint) = find("hint") {
            let _ = writeln!(lines, "hint: {hint}");
        }
        lines
    }

    fn for_programs(&self, head: &str) -> String {
        let mut line = format!("{head}{}", self.message);
        for Said { name, value, .. } in &self.fields {
            let _ = write!(line, " {name}={}", quoted(value));
        }
        line.push('\n');
        line
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"), false);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, false);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string(), true);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string(), true);
    }
}

/// The priority of sd-daemon(3): 3 is an error, 4 a warning, 6 information, 7 debugging.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A text without control characters, cut where it is too long.
fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => report::printable(&text[..end]) + "…",
        None => report::printable(text),
    }
}

/// A value that ends where it seems to: in quotes, unless it is one plain word.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '=' | '\\');
    match !value.is_empty() && value.chars().all(is_plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, warn};

    use super::*;

    /// Takes what is written; each write is an entry.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<String>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).expect("lines are text");
            self.0.lock().expect("one thread").push(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `act` writes.
    fn written(form: Form, level: LogLevel, act: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(form, level, move || writer.clone()), act);
        sink.0.lock().expect("one thread").clone()
    }

    fn refuse() {
        let (reason, hint) = ("line 3: no type `x`", Some("expected \"always\""));
        warn!(config = "/etc/x.toml", count = 2_u64, reason, hint, "the policies in force stay");
    }

    /// Each form of one event: a single write, which for programs is a single line.
    #[test]
    fn one_event_has_three_forms() {
        let of = |form| written(form, LogLevel::Info, refuse).concat();
        assert_eq!(
            of(Form::Terminal),
            "warning: the policies in force stay: line 3: no type `x` (config /etc/x.toml)\n\
             hint: expected \"always\"\n"
        );
        let fields = "the policies in force stay config=/etc/x.toml count=2 reason=\"line 3: no type `x`\" \
                      hint=\"expected \\\"always\\\"\"\n";
        assert_eq!(of(Form::Journal), format!("<4>{fields}"));
        let plain = of(Form::Plain);
        let (time, rest) = plain.split_once(' ').expect("a time comes first");
        assert_eq!(rest, format!("WARN {fields}"));
        assert!(time.len() == "2026-11-29T02:30:00Z".len() && time.ends_with('Z'), "{time}");
        assert_eq!(
            written(Form::Terminal, LogLevel::Info, refuse).len(),
            1,
            "lines of others may not come between"
        );
    }

    /// What was said without any fields, or with a hint that is not there, has none; the time is the one given.
    #[test]
    fn a_bare_message_is_a_bare_line() {
        let words = Words { message: "stopping".to_owned(), fields: Vec::new() };
        assert_eq!(words.lines(Form::Terminal, Level::INFO, 0), "stopping\n");
        assert_eq!(
            words.lines(Form::Plain, Level::INFO, 1_795_919_400),
            "2026-11-29T02:30:00Z INFO stopping\n"
        );
        let no_hint = || error!(hint = None::<&str>, "no");
        assert_eq!(written(Form::Journal, LogLevel::Info, no_hint), ["<3>no\n"]);
    }

    /// Each level lets through itself and what is worse, with the journal's priorities.
    #[test]
    fn levels_filter_events() {
        let all = || {
            debug!("debug");
            info!("info");
            warn!("warn");
            error!("error");
        };
        let lines = ["<7>debug\n", "<6>info\n", "<4>warn\n", "<3>error\n"];
        for (level, first) in
            [(LogLevel::Debug, 0), (LogLevel::Info, 1), (LogLevel::Warn, 2), (LogLevel::Error, 3)]
        {
            assert_eq!(written(Form::Journal, level, all), lines[first..]);
        }
        let people = written(Form::Terminal, LogLevel::Debug, all).concat();
        assert_eq!(people, "debug: debug\ninfo\nwarning: warn\nerror: error\n");
    }

    /// Names of targets cannot make lines, fields or control sequences of their own, nor fill a disk.
    #[test]
    fn hostile_texts_stay_inside_their_field() {
        let act = |text: &'static str| move || info!(name = text, "met {text}");
        let line = |form, text| written(form, LogLevel::Info, act(text)).concat();
        assert_eq!(
            line(Form::Journal, "a\n<0>b\u{1b}[2J"),
            "<6>met a\u{fffd}<0>b\u{fffd}[2J name=a\u{fffd}<0>b\u{fffd}[2J\n"
        );
        assert_eq!(line(Form::Journal, "a loss=1"), "<6>met a loss=1 name=\"a loss=1\"\n");
        assert_eq!(line(Form::Journal, "\\\""), "<6>met \\\" name=\"\\\\\\\"\"\n");
        assert_eq!(line(Form::Terminal, ""), "met  (name )\n");
        let long: &'static str = "é".repeat(100_000).leak();
        let line = line(Form::Plain, long);
        assert!(line.chars().count() < 2 * MAX_TEXT_CHARS + 100 && line.ends_with("é…\n"), "{}", line.len());
    }

    /// The journal is where its variable says, not wherever that is set.
    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let is = |stream: Option<&str>, file| is_journal(stream.map(OsStr::new), file);
        assert!(is(Some("8:4711"), Some((8, 4711))));
        for (stream, file) in [
            (None, Some((8, 4711))),
            (None, None),
            (Some("8:4711"), None),
            (Some("8:4712"), Some((8, 4711))),
            (Some("9:4711"), Some((8, 4711))),
            (Some(""), Some((8, 4711))),
            (Some("8:"), Some((8, 4711))),
            (Some("8"), None),
        ] {
            assert!(!is(stream, file), "{stream:?} {file:?}");
        }
    }
}
