//! What `tests/programs/servers/socket_log.py` wrote down: a server's own calls, by its own clock.

use std::collections::HashMap;
use std::fmt;

use super::Server;

/// When a call was under way, `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Just before it.
    pub from_ns: u64,
    /// Just after it, and after whatever the thread waited for then.
    pub to_ns: u64,
}

/// The calls between which a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketCalls {
    /// That which received its first byte.
    pub receive: Interval,
    /// That which sent the last of its answer.
    pub send: Interval,
}

impl Interval {
    /// How far `at_ns` is from it; 0 inside.
    pub fn distance_ns(self, at_ns: u64) -> u64 {
        self.from_ns.saturating_sub(at_ns).max(at_ns.saturating_sub(self.to_ns))
    }
}

impl Server {
    /// The calls so far, by the requests' IDs.
    pub fn socket_calls(&self) -> HashMap<String, SocketCalls> {
        let text = std::fs::read_to_string(self.target.directory.path().join("sockets")).unwrap_or_default();
        let calls = text.lines().map(|line| {
            let (id, numbers) = line.split_once(' ').expect("the log has numbers");
            let numbers: Vec<u64> =
                numbers.split(' ').map(|word| word.parse().expect("the log has numbers")).collect();
            let &[received_ns, after_receive_ns, sent_ns, after_send_ns] = &numbers[..] else {
                panic!("not a line of four numbers: {line}")
            };
            let receive = Interval { from_ns: received_ns, to_ns: after_receive_ns };
            (
                id.to_owned(),
                SocketCalls { receive, send: Interval { from_ns: sent_ns, to_ns: after_send_ns } },
            )
        });
        // Of an ID the last line counts.
        calls.collect()
    }
}

/// How far moments are from the calls in which they should be.
#[derive(Debug, Default)]
pub struct Distances {
    distances_ns: Vec<u64>,
    widths_ns: Vec<u64>,
}

impl Distances {
    /// Adds that of `at_ns` from `call`, and returns it.
    pub fn add(&mut self, call: Interval, at_ns: u64) -> u64 {
        let distance_ns = call.distance_ns(at_ns);
        self.distances_ns.push(distance_ns);
        self.widths_ns.push(call.to_ns.saturating_sub(call.from_ns));
        distance_ns
    }

    /// So many percent of the calls took that long at most.
    pub fn width_ns(&self, percent: usize) -> u64 {
        let mut widths_ns = self.widths_ns.clone();
        widths_ns.sort_unstable();
        widths_ns.get(widths_ns.len() * percent / 100).copied().unwrap_or(0)
    }
}

impl fmt::Display for Distances {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.distances_ns.len();
        let inside = self.distances_ns.iter().filter(|distance_ns| **distance_ns == 0).count();
        let most_ns = self.distances_ns.iter().max().copied().unwrap_or(0);
        let [tenth_ns, half_ns, most_of_ns] = [10, 50, 90].map(|percent| self.width_ns(percent));
        write!(
            formatter,
            "{inside} of {count} inside the server's calls, others {most_ns} ns beside them at most; "
        )?;
        write!(
            formatter,
            "of ten calls one took {tenth_ns} ns at most, five {half_ns} ns, nine {most_of_ns} ns"
        )
    }
}
