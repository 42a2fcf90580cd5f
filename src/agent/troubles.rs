//! What goes wrong with kept requests, and again and again elsewhere, told so that it is seen and does not flood: each kind
//! at most once a minute, with how often since the last line; and that it is over.

use tracing::{error, info, warn};

use super::growth::Growth;
use crate::Error;
use crate::output::quantity::counted;

/// All kinds, as far as they were told. Times are of `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    refused: Growth,
    /// How many requests had been refused before the store began to refuse; `None` while it takes them, and while that
    /// it does not was not told.
    refused_before: Option<u64>,
    too_large: Growth,
    /// Lines of JSON that were not written.
    pub(super) log: Failures,
    /// Minutes that were not kept.
    pub(super) minutes: Failures,
    /// Old requests that were not removed.
    pub(super) retention: Failures,
}

/// Something that fails again and again.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u64,
    told: Growth,
}

impl Failures {
    /// Once more: `what` happened, because of `error`.
    pub(super) fn tell(&mut self, what: &str, error: &Error, now_ns: u64) {
        self.count += 1;
        if let Some(count) = self.told.due(self.count, now_ns) {
            error!(count, reason = %error, hint = error.hint(), "{what}");
        }
    }
}

/// `error`, which is that this process may open no more files.
pub(super) fn with_files_hint(error: Error) -> Error {
    let pid = std::process::id();
    error.with_hint(format!(
        "`prlimit --nofile --pid {pid}` tells how many files it may have open, and sets that"
    ))
}

impl Troubles {
    /// The store has refused `total` requests by now, the last ones because of `error`.
    pub(super) fn tell_refused(&mut self, total: u64, error: &Error, now_ns: u64) {
        let Some(count) = self.refused.due(total, now_ns) else { return };
        self.refused_before.get_or_insert(total - count);
        let requests = counted(count, "request");
        error!(loss = "requests_refused", count, total, reason = %error, hint = error.hint(), "{requests} not kept");
    }

    /// The store takes requests, after it has refused `total`.
    pub(super) fn tell_taken(&mut self, total: u64) {
        let Some(before) = self.refused_before.take() else { return };
        self.refused.settle(total);
        let count = total.saturating_sub(before);
        info!(count, "requests are kept again; {} lost meanwhile", counted(count, "request"));
    }

    /// Requests had more samples than the store takes of one, `total` by now.
    pub(super) fn tell_too_large(&mut self, total: u64, now_ns: u64) {
        let Some(count) = self.too_large.due(total, now_ns) else { return };
        let requests = counted(count, "request");
        warn!(loss = "requests_too_large", count, total, "{requests} not kept: too many samples");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ErrorKind;

    /// Takes what is written.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `act` tells, in the library's own form without its times.
    fn told(act: impl FnOnce()) -> Vec<String> {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = sink.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("text").lines().map(|line| line.trim().to_owned()).collect()
    }

    /// A store that refuses and takes by turns: what it refused is told at once, then once a minute with all that came
    /// since; that it takes requests again is told with what was lost, where that it did not was.
    #[test]
    fn refusals_and_their_end_are_told_once() {
        const SECOND_NS: u64 = 1_000_000_000;
        let full = Error::new(ErrorKind::Output, "disk full").with_hint("free some");
        let lines = told(|| {
            let mut troubles = Troubles::default();
            troubles.tell_taken(0);
            troubles.tell_refused(1, &full, SECOND_NS);
            troubles.tell_refused(20, &full, 2 * SECOND_NS);
            troubles.tell_taken(20);
            troubles.tell_taken(20);
            troubles.tell_refused(22, &full, 4 * SECOND_NS);
            troubles.tell_taken(22);
            troubles.tell_refused(25, &full, 70 * SECOND_NS);
            troubles.tell_taken(25);
        });
        let refused = |count: u64, total: u64, words: &str| {
            format!(
                "ERROR {words} not kept loss=\"requests_refused\" count={count} total={total} \
                 reason=disk full hint=\"free some\""
            )
        };
        assert_eq!(
            lines,
            [
                refused(1, 1, "1 request"),
                "INFO requests are kept again; 20 requests lost meanwhile count=20".to_owned(),
                refused(5, 25, "5 requests"),
                "INFO requests are kept again; 5 requests lost meanwhile count=5".to_owned(),
            ]
        );
    }

    /// A hundred failures in ten seconds are one line.
    #[test]
    fn failures_are_told_once_a_minute() {
        let error = Error::new(ErrorKind::Output, "no");
        let lines = told(|| {
            let mut failures = Failures::default();
            (1..=100).for_each(|number| failures.tell("nothing works", &error, number * 100_000_000));
        });
        assert_eq!(lines, ["ERROR nothing works count=1 reason=no"]);
    }
}
