//! What a connection tells of its requests.

use crate::model::{Attributes, RequestStatus};

/// One thing that happened to a request. `number` counts the requests of a connection upwards from 0.
///
/// Each request is told as `Began`, then any number of `Named`, `Read` and `Written`, then one `Ended`,
/// which [`Connection::close`](super::Connection::close) brings about at the latest. `time_ns` is
/// CLOCK_MONOTONIC and may lie before that of events told earlier: that a request had begun or ended is
/// sometimes known only a segment later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A request begins.
    Began {
        /// Which one.
        number: u64,
        /// When the call returned that read its first byte.
        time_ns: u64,
        /// The thread that read it; for a partial one, that answers.
        tid: u32,
        /// Only its answer is seen: it had begun before the connection was watched, and `time_ns` is
        /// that of the answer's first send.
        is_partial: bool,
    },
    /// Its head was read, and of its body what there is. Comes again where the body told more later.
    Named {
        /// Which one.
        number: u64,
        /// All that is known by now.
        attributes: Attributes,
    },
    /// A later segment of it was read.
    Read {
        /// Which one.
        number: u64,
        /// When the call returned.
        time_ns: u64,
        /// The thread that read.
        tid: u32,
    },
    /// Bytes of its answer were sent. Interim answers, such as `100 Continue`, are not told.
    Written {
        /// Which one.
        number: u64,
        /// When the call returned.
        time_ns: u64,
        /// The thread that answers.
        tid: u32,
    },
    /// It is over.
    Ended {
        /// Which one.
        number: u64,
        /// When the call returned that sent the last byte of its answer; where that never came, when
        /// the connection ended or was lost sight of.
        time_ns: u64,
        /// The thread that did this.
        tid: u32,
        /// `Error` for a status of 500 or more, an error that the body tells, and an answer that was
        /// not sent as a whole; `Unset` where the connection was lost sight of.
        status: RequestStatus,
        /// To be added to what `Named` told, or to replace it.
        attributes: Attributes,
    },
}
