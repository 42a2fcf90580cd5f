//! Writes kept requests down, on a thread of its own: the store, and a line of JSON for each.

use std::io::Write;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::Serialize;
use tracing::warn;

use super::troubles::Troubles;
use crate::model::Request;
use crate::store::{StoreWriter, StoredRequest};
use crate::sys::clock::monotonic_ns;
use crate::{Error, Result, ResultExt};

/// Requests that wait to be written, some 20 KiB each; further ones are dropped and counted by who hands them on.
const MAX_WAITING: usize = 1024;
/// Requests in one transaction of the store.
const MAX_BATCH: usize = 256;
/// Between two looks at what is too old.
const MINUTE: Duration = Duration::from_secs(60);

/// How long, and how much, is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since it began.
    pub max_age: Duration,
    /// On disk.
    pub max_bytes: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// Requests that are in the store.
    pub written: u64,
    /// Requests that the store refused, as for want of room.
    pub refused: u64,
    /// Requests with more samples than the store takes of one.
    pub too_large: u64,
}

/// The thread.
#[derive(Debug)]
pub struct Keeper {
    thread: JoinHandle<KeptCounts>,
}

/// What is handed on to be kept.
#[derive(Debug)]
pub enum Kept {
    /// A request.
    Request(StoredRequest),
    /// What a service ran in a minute.
    Minute(StoredRequest),
}

/// A kept request, as it is logged.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    request: &'a Request,
    policy: &'a str,
}

impl Keeper {
    /// Starts it. Each minute sent is written to `minutes`, each request to `store` and, as a line of JSON, to `log`.
    /// What goes wrong is told, see `troubles`.
    pub fn start(
        store: StoreWriter,
        minutes: StoreWriter,
        retention: Retention,
        log: Box<dyn Write + Send>,
    ) -> Result<(Self, Sender<Kept>)> {
        let (sender, kept) = bounded(MAX_WAITING);
        let writer = Writer {
            store,
            minutes,
            retention,
            log,
            troubles: Troubles::default(),
            counts: KeptCounts::default(),
        };
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        let thread =
            thread.spawn(move || writer.run(&kept)).context(|| "failed to start a thread".to_owned())?;
        Ok((Self { thread }, sender))
    }

    /// Waits until everything that was sent is written; the sender must be gone.
    pub fn finish(self) -> KeptCounts {
        self.thread.join().unwrap_or_default()
    }
}

struct Writer {
    store: StoreWriter,
    minutes: StoreWriter,
    retention: Retention,
    log: Box<dyn Write + Send>,
    troubles: Troubles,
    counts: KeptCounts,
}

impl Writer {
    fn run(mut self, kept: &Receiver<Kept>) -> KeptCounts {
        self.retain();
        let mut retained = Instant::now();
        loop {
            match kept.recv_timeout(MINUTE) {
                Ok(first) => {
                    let (mut requests, mut minutes) = (Vec::new(), Vec::new());
                    for kept in std::iter::once(first).chain(kept.try_iter()).take(MAX_BATCH) {
                        match kept {
                            Kept::Request(stored) => requests.push(stored),
                            Kept::Minute(stored) => minutes.push(stored),
                        }
                    }
                    self.write(&requests);
                    self.write_minutes(&minutes);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.counts,
            }
            if retained.elapsed() >= MINUTE {
                self.retain();
                retained = Instant::now();
            }
        }
    }

    fn write(&mut self, batch: &[StoredRequest]) {
        if batch.is_empty() {
            return;
        }
        let written = self.store.write(batch);
        for warning in self.store.take_warnings() {
            // Damage is rare, and each is of another file.
            warn!("{warning}");
        }
        let stats = match written {
            Ok(stats) => stats,
            Err(error) => {
                self.counts.refused += batch.len() as u64;
                return self.troubles.tell_refused(self.counts.refused, &error, monotonic_ns());
            }
        };
        self.troubles.tell_taken(self.counts.refused);
        self.counts.too_large += stats.too_large;
        self.troubles.tell_too_large(self.counts.too_large, monotonic_ns());
        self.counts.written += (batch.len() as u64).saturating_sub(stats.too_large);
        for (stored, name) in batch.iter().zip(stats.names) {
            let Some(name) = name else { continue };
            let request = Request { name, ..stored.request.clone() };
            let line = serde_json::to_vec(&Line { request: &request, policy: &stored.policy });
            let written = line.map_err(std::io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                self.log.write_all(&line)
            });
            if let Err(error) = written.and_then(|()| self.log.flush()) {
                let error = Error::from_io("failed to write their lines of JSON", error);
                return self.troubles.log.tell("kept requests are not logged", &error, monotonic_ns());
            }
        }
    }

    fn write_minutes(&mut self, batch: &[StoredRequest]) {
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.minutes.write(batch) {
            let what = "what services ran in a minute was not kept";
            self.troubles.minutes.tell(what, &error, monotonic_ns());
        }
    }

    fn retain(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ns = now.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let Retention { max_age, max_bytes } = self.retention;
        // Minutes take a fifth of the room.
        let minutes_bytes = max_bytes / 5;
        let stores = [(&mut self.store, max_bytes - minutes_bytes), (&mut self.minutes, minutes_bytes)];
        let retained = stores.map(|(store, bytes)| store.retain(now_ns, max_age, bytes));
        if let Some(error) = retained.into_iter().find_map(Result::err) {
            self.troubles.retention.tell("old requests were not removed", &error, monotonic_ns());
        }
    }
}
