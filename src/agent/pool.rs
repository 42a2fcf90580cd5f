//! Threads of pools: where they wait for work, and how they tell a loop that they have done it.
//!
//! By the functions that they are in then, leaf first:
//!
//! ```text
//!             waits                      tells
//! anyio       wait, get, run             …, call_soon_threadsafe, run     its queue is its own
//!             (on uvloop)                run
//! concurrent  _worker                    …, set_result, run, _worker      all of a pool take from one queue
//! ```
//!
//! What stands in another place is not known to be either: it may be a lock that is released amid other work.

use crate::transaction::errands::Item;

/// A call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    /// Qualified where the interpreter says so, else the plain name.
    pub function: &'a str,
    /// The file, as the interpreter was told.
    pub file: &'a str,
    /// Address of the object that is its first local variable; 0: not known.
    pub first_local: u64,
}

impl Call<'_> {
    fn is(&self, function: &str, file: &str) -> bool {
        let plain = self.function.rsplit('.').next().unwrap_or(self.function);
        let before = self.file.strip_suffix(file);
        plain == function && before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    }

    /// `WorkerThread.run` of anyio, which has a queue for each of its threads.
    fn is_anyio(&self) -> bool {
        self.is("run", "anyio/_backends/_asyncio.py")
    }

    /// `_WorkItem.run`, whose `self` is what was put into the queue.
    fn is_item(&self) -> bool {
        self.is("run", "concurrent/futures/thread.py")
    }
}

/// Whose queue it is that a thread waits at for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// The thread's own: it is woken for what it takes.
    Own,
    /// All threads of a pool take from it, first come, first served: not always who was woken.
    Shared,
}

impl Queue {
    /// That at which a thread waits that is in `calls`, leaf first.
    pub(super) fn waited_at(calls: &[Call<'_>]) -> Option<Self> {
        if calls.first()?.is("_worker", "concurrent/futures/thread.py") {
            return Some(Self::Shared);
        }
        let at = calls.iter().position(Call::is_anyio)?;
        let is_queue = |call: &Call<'_>| call.is("get", "queue.py") || call.is("wait", "threading.py");
        (at > 0 && calls[..at].iter().all(is_queue)).then_some(Self::Own)
    }
}

/// A thread tells that it has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// What it took out of a shared queue for that: the `_WorkItem`, and its `Future`.
    pub item: Option<Item>,
}

impl Told {
    /// What a thread tells a loop that is in `calls`, leaf first; `None`: that is a part of its work.
    pub(super) fn by(calls: &[Call<'_>]) -> Option<Self> {
        // The work itself is called by either.
        let at = calls.iter().position(|call| call.is_anyio() || call.is_item())?;
        let (callee, own) = (calls[..at].last(), calls[at]);
        if own.is_anyio() {
            // uvloop's is not in Python.
            let is_soon = |callee: &Call<'_>| callee.is("call_soon_threadsafe", "asyncio/base_events.py");
            return callee.is_none_or(is_soon).then_some(Self { item: None });
        }
        let callee = callee?;
        let results = ["set_result", "set_exception"];
        let is_result = results.iter().any(|result| callee.is(result, "concurrent/futures/_base.py"));
        is_result.then_some(Self { item: Some([own.first_local, callee.first_local]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYIO: (&str, &str) = ("WorkerThread.run", "/packages/anyio/_backends/_asyncio.py");
    const WORKER: (&str, &str) = ("_worker", "/usr/lib/python3.11/concurrent/futures/thread.py");
    const ITEM: (&str, &str) = ("_WorkItem.run", "/usr/lib/python3.11/concurrent/futures/thread.py");
    const RESULT: (&str, &str) = ("Future.set_result", "/usr/lib/python3.11/concurrent/futures/_base.py");
    const SOON: (&str, &str) =
        ("BaseEventLoop.call_soon_threadsafe", "/usr/lib/python3.11/asyncio/base_events.py");
    const OTHER: (&str, &str) = ("get", "/app/app.py");

    fn calls(calls: &[(&'static str, &'static str)]) -> Vec<Call<'static>> {
        let call = |(n, (function, file)): (usize, &(&'static str, &'static str))| {
            let first_local = 8 * (n as u64 + 1);
            Call { function, file, first_local }
        };
        calls.iter().enumerate().map(call).collect()
    }

    /// anyio's queue is told by both of its functions, the pool's by the innermost; any function of another file, or between
    /// them, is other work. Before 3.11 names are plain.
    #[test]
    fn places_are_told_by_functions() {
        let (get, wait) = (("Queue.get", "/usr/lib/python3.11/queue.py"), ("wait", "threading.py"));
        for (in_calls, queue) in [
            (&[wait, get, ANYIO, OTHER][..], Some(Queue::Own)),
            (&[("wait", "/x/threading.py"), ("get", "/x/queue.py"), ANYIO], Some(Queue::Own)),
            (&[WORKER, OTHER], Some(Queue::Shared)),
            (&[ANYIO], None),
            (&[wait, get, OTHER, ANYIO], None),
            (&[OTHER, ANYIO], None),
            (&[wait, ITEM, WORKER], None),
            (&[("wait", "/x/my_threading.py"), ANYIO], None),
            (&[wait, get], None),
            (&[], None),
        ] {
            assert_eq!(Queue::waited_at(&calls(in_calls)), queue, "{in_calls:?}");
        }
    }

    /// What the pool's own functions tell is the end of the work, and of which; what the work tells is not.
    #[test]
    fn work_is_done_when_the_pool_says_so() {
        let told = |item| Some(Told { item });
        for (in_calls, expected) in [
            (&[OTHER, SOON, ANYIO][..], told(None)),
            (&[ANYIO], told(None)),
            (&[OTHER, SOON, OTHER, RESULT, ITEM, WORKER], told(Some([40, 32]))),
            (&[SOON, OTHER, ("set_exception", RESULT.1), ITEM], told(Some([32, 24]))),
            (&[OTHER, SOON, OTHER, ANYIO], None),
            (&[OTHER, SOON, OTHER, ITEM, WORKER], None),
            (&[ITEM, WORKER], None),
            (&[OTHER, SOON, OTHER], None),
        ] {
            assert_eq!(Told::by(&calls(in_calls)), expected, "{in_calls:?}");
        }
    }
}
