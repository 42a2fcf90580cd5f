//! From what the user named to processes that can be recorded, or the reason why not.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::candidate::{Target, examine};
use super::cgroup::Cgroup;
use super::closest_names::closest_names;
use super::procfs;
use crate::{Error, ErrorKind, Result};

/// What the user named; a process is selected if any of it applies.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Processes by pid; a thread's id stands for its process.
    pub pids: Vec<u32>,
    /// Processes by `comm`, or by the base name of their executable or `argv[0]`.
    pub names: Vec<String>,
    /// Processes by control group, see [`Cgroup::find`].
    pub cgroups: Vec<PathBuf>,
    /// Whether children of selected processes are selected, theirs too.
    pub with_children: bool,
}

/// What is selected at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ascending by pid, never empty.
    pub targets: Vec<Target>,
    /// What the user should know, each a sentence without a full stop.
    pub notes: Vec<String>,
}

/// A checked [`Wish`]: decides about processes that are there and those that come.
#[derive(Clone, Debug)]
pub struct Selector {
    named: Vec<Target>,
    names: Vec<String>,
    cgroups: Vec<Cgroup>,
    with_children: bool,
    notes: Vec<String>,
}

impl Selector {
    /// Checks each pid and control group; names are looked up by [`Selector::find`].
    ///
    /// Fails when nothing is wished for, and for each pid as [`examine`] does.
    pub fn new(wish: &Wish) -> Result<Self> {
        if wish.pids.is_empty() && wish.names.is_empty() && wish.cgroups.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no process to record was given")
                .with_hint("give one with -p PID, --name NAME, --cgroup PATH or -- COMMAND"));
        }
        if wish.names.iter().any(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, "a process name cannot be empty"));
        }
        let mut notes = Vec::new();
        let mut named = Vec::new();
        for pid in &wish.pids {
            let target = examine(*pid).map_err(|error| error.context(format!("cannot record {pid}")))?;
            if target.pid != *pid {
                let Target { pid: process, comm, .. } = &target;
                notes.push(format!(
                    "{pid} is a thread of process {process} ({comm}), which is recorded as a whole"
                ));
            }
            named.push(target);
        }
        let cgroups = wish.cgroups.iter().map(|name| Cgroup::find(name)).collect::<Result<_>>()?;
        Ok(Self { named, names: wish.names.clone(), cgroups, with_children: wish.with_children, notes })
    }

    /// The processes selected now, with children if wished for. Those that a name, a control
    /// group or their parent selects but that cannot be recorded are left out with a note.
    ///
    /// Fails with `NotFound` when a name or control group selects nothing or all have ended,
    /// and with the first one's reason when nothing that is selected can be recorded.
    pub fn find(&self) -> Result<Selection> {
        let (roots, absence) = self.find_roots()?;
        if let Some(error) = absence {
            return Err(error);
        }
        let (targets, left_out) = self.examine_all(&roots)?;
        let mut notes = self.notes.clone();
        notes.extend(left_out.iter().map(|error| format!("left out: {error}")));
        if targets.is_empty() {
            let gone = || Error::new(ErrorKind::NotFound, "the selected processes have ended");
            return Err(left_out.into_iter().next().unwrap_or_else(gone));
        }
        Ok(Selection { targets, notes })
    }

    /// As [`Self::find`], of what there is: it may be nothing, and a name or control group that selects nothing hides
    /// nothing that another one selects.
    pub fn find_present(&self) -> Result<Vec<Target>> {
        let (roots, _) = self.find_roots()?;
        Ok(self.examine_all(&roots)?.0)
    }

    /// Of `roots`, with their children if wished for, those that can be recorded, ascending, and why others cannot.
    fn examine_all(&self, roots: &BTreeSet<u32>) -> Result<(Vec<Target>, Vec<Error>)> {
        let mut pids = roots.clone();
        if self.with_children {
            pids.extend(procfs::descendants(&Vec::from_iter(roots.iter().copied()))?);
        }
        pids.remove(&std::process::id());
        let mut targets = Vec::new();
        let mut left_out = Vec::new();
        for pid in pids {
            // Children that have ended are every shell's daily business.
            if !roots.contains(&pid) && procfs::read_stat(pid).is_ok_and(|stat| stat.has_ended()) {
                continue;
            }
            match examine(pid) {
                Ok(target) => targets.push(target),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => left_out.push(error),
            }
        }
        Ok((targets, left_out))
    }

    /// The processes that are selected by themselves, and what is the matter with the first name or control group that
    /// selects none.
    fn find_roots(&self) -> Result<(BTreeSet<u32>, Option<Error>)> {
        let named = self.named.iter().map(|target| target.pid);
        let mut roots: BTreeSet<u32> = named.filter(|pid| self.is_named(*pid)).collect();
        let mut absence = None;
        if self.names.is_empty() && self.cgroups.is_empty() {
            return Ok((roots, absence));
        }
        let mut others = procfs::pids()?;
        others.retain(|pid| *pid != std::process::id());
        for name in &self.names {
            let mut matching = others.iter().filter(|pid| is_called(**pid, name)).peekable();
            if matching.peek().is_none() {
                absence.get_or_insert_with(|| nothing_called(name, &others));
            }
            roots.extend(matching);
        }
        for cgroup in &self.cgroups {
            let mut matching = others.iter().filter(|pid| cgroup.contains(**pid)).peekable();
            if matching.peek().is_none() {
                absence.get_or_insert_with(|| nothing_in(cgroup));
            }
            roots.extend(matching);
        }
        Ok((roots, absence))
    }

    /// Whether `pid` is selected by itself; to be asked again after each `exec`, which changes
    /// names. Children of selected processes are the caller's to follow. Our own process never matches.
    pub fn matches(&self, pid: u32) -> bool {
        pid != std::process::id()
            && (self.is_named(pid)
                || self.names.iter().any(|name| is_called(pid, name))
                || self.cgroups.iter().any(|cgroup| cgroup.contains(pid)))
    }

    fn is_named(&self, pid: u32) -> bool {
        let mut named = self.named.iter().filter(|target| target.pid == pid);
        named.any(|target| procfs::start_time_ticks(pid).is_ok_and(|ticks| ticks == target.start_time_ticks))
    }
}

/// Whether the process has `name` as its `comm`, or as base name of its executable or `argv[0]`.
/// Kernel threads and processes that are gone have none.
fn is_called(pid: u32, name: &str) -> bool {
    let is_base_name = |path: &Path| path.file_name() == Some(OsStr::new(name));
    procfs::read_stat(pid).is_ok_and(|stat| !stat.is_kernel_thread)
        && (procfs::comm(pid).is_ok_and(|comm| comm == name)
            || procfs::executable_path(pid).is_ok_and(|path| is_base_name(&path))
            || procfs::argument_zero(pid)
                .is_ok_and(|first| first.is_some_and(|first| is_base_name(first.as_ref()))))
}

fn nothing_called(name: &str, pids: &[u32]) -> Error {
    let is_program = |pid: &u32| procfs::read_stat(*pid).is_ok_and(|stat| !stat.is_kernel_thread);
    let comms = pids.iter().filter(|pid| is_program(pid)).filter_map(|pid| procfs::comm(*pid).ok());
    let close: Vec<_> = closest_names(name, comms).iter().map(|name| format!("`{name}`")).collect();
    let hint = match close.is_empty() {
        true => format!("`pgrep -af {name}` lists processes with {name} anywhere in the command line"),
        false => format!("did you mean {}?", close.join(" or ")),
    };
    Error::new(ErrorKind::NotFound, format!("no process is called `{name}`")).with_hint(hint)
}

fn nothing_in(cgroup: &Cgroup) -> Error {
    let directory = cgroup.directory().display();
    Error::new(ErrorKind::NotFound, format!("no process in control group `{directory}`"))
        .with_hint(format!("`find {directory} -name cgroup.procs -exec cat {{}} +` lists them"))
}
