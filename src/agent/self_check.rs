//! The check of an interpreter at attach: the first stacks that the walker delivers of it are compared with what the
//! interpreter's memory says by other ways, as [`SelfCheck`](crate::unwind::python::self_check) tells.
//!
//! Once per interpreter and on the recording's own time: 250 small reads for a stack of 60 frames, 2,000 at worst, while
//! nothing is stopped. Where nothing could be compared, nothing is concluded: the samples themselves are judged on and on.

use super::codes::Codes;
use crate::sampler::Python;
use crate::sys::abi::{PythonFrame, SampleRecord};
use crate::sys::remote_memory;
use crate::unwind::python::objects::Memory;
use crate::unwind::python::self_check::{Root, SelfCheck, Verdict};
use crate::unwind::python::walk::Interpreter;

/// Stacks looked at, if nothing can be compared on any of them.
const MAX_STACKS: u8 = 32;
/// A thread that runs is read at several moments, which contradict each other once in eight readings where it calls
/// millions of functions a second. What so many readings say one after the other is not by chance.
const READINGS: usize = 8;
/// Still, what contradicts on so many stacks and agrees on none is wrong; on fewer it may have been a disturbance.
const MAX_CONTRADICTIONS: u8 = 8;

/// How far the check of an interpreter is.
#[derive(Clone, Debug, Default)]
pub(super) struct AttachCheck {
    are_types_sound: bool,
    stacks: u8,
    contradictions: u8,
    is_done: bool,
}

/// What a stack is worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Nothing speaks against it.
    Trusted,
    /// It is contradicted, perhaps by chance.
    Doubted,
    /// The interpreter is not as it was taken to be; this says how.
    Lost(String),
}

impl AttachCheck {
    /// Compares the stack of `sample`, whose Python part is `frames`, leaf first, unless that is decided. Of a thread
    /// that runs Python and in which the walker found none, the types alone are compared.
    pub(super) fn judge(
        &mut self,
        sample: &SampleRecord<'_>,
        frames: &[PythonFrame],
        python: &Python,
        codes: &Codes,
    ) -> Trust {
        if self.is_done || (self.are_types_sound && frames.is_empty()) {
            return Trust::Trusted;
        }
        self.stacks += 1;
        let check = SelfCheck {
            memory: &Remote(sample.pid),
            interpreter: Interpreter {
                layout: &python.layout,
                runtime: python.runtime.0,
                code_type: python.code_type.0,
            },
            version: python.version,
            text_type: python.text_type.0,
        };
        let types = if self.are_types_sound { Verdict::Agrees } else { check.types() };
        self.are_types_sound = types == Verdict::Agrees;
        let root = frames.last().map_or(Verdict::Unknown, |root| compare_root(&check, root, python, codes));
        for verdict in [types, root] {
            if let Verdict::Differs(how) = verdict {
                return Trust::Lost(how);
            }
        }
        self.note(match frames {
            [] => Verdict::Unknown,
            _ => persistent(|| check.frames(sample.thread_pointer)),
        })
    }

    fn note(&mut self, links: Verdict) -> Trust {
        self.is_done = links == Verdict::Agrees || self.stacks >= MAX_STACKS;
        match links {
            Verdict::Differs(how) => {
                self.contradictions += 1;
                match self.contradictions >= MAX_CONTRADICTIONS {
                    true => Trust::Lost(how),
                    false => Trust::Doubted,
                }
            }
            Verdict::Agrees | Verdict::Unknown => Trust::Trusted,
        }
    }
}

/// What `read` says unless it is a contradiction that another reading does not have.
fn persistent(mut read: impl FnMut() -> Verdict) -> Verdict {
    let mut verdict = read();
    for _ in 1..READINGS {
        match verdict {
            Verdict::Differs(_) => verdict = read(),
            Verdict::Agrees | Verdict::Unknown => break,
        }
    }
    verdict
}

fn compare_root(check: &SelfCheck<'_>, root: &PythonFrame, python: &Python, codes: &Codes) -> Verdict {
    match codes.find(python.instance, root.code, root.cookie).filter(|_| !root.is_unread) {
        None => Verdict::Unknown,
        Some(id) => {
            let code = codes.get(id);
            check.root(Root {
                code: root.code,
                cookie: root.cookie,
                function: &code.function,
                file: &code.file,
            })
        }
    }
}

/// The memory of a process as it is at each reading.
struct Remote(u32);

impl Memory for Remote {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        remote_memory::read(self.0, address, buffer).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs() -> Verdict {
        Verdict::Differs("x".to_owned())
    }

    /// A contradiction counts where all readings have one; the first that has none is what counts otherwise.
    #[test]
    fn readings_of_a_running_thread_are_repeated() {
        let mut readings = 0;
        let mut read = |agreeing| {
            persistent(|| {
                readings += 1;
                if readings == agreeing { Verdict::Agrees } else { differs() }
            })
        };
        assert_eq!(read(READINGS), Verdict::Agrees);
        assert_eq!(read(0), differs());
        assert_eq!(readings, 2 * READINGS);
    }

    /// Contradictions that chance may explain are doubts until there are eight; one agreement ends the check.
    #[test]
    fn chance_is_told_from_error() {
        let mut check = AttachCheck::default();
        for _ in 1..MAX_CONTRADICTIONS {
            assert_eq!(check.note(differs()), Trust::Doubted);
        }
        assert_eq!(check.clone().note(differs()), Trust::Lost("x".to_owned()));
        assert_eq!(check.note(Verdict::Agrees), Trust::Trusted);
        assert!(check.is_done);
    }
}
