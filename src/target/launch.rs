//! `-- COMMAND`: a child that is held right before `exec` until sampling is on.
//!
//! ```text
//! txprof   find the command, fork ──► sampling on ──► release ──► wait ──► end, if the time is over
//! child                      hold: read a pipe ..............► exec ...........SIGTERM, 2 s, SIGKILL
//! ```
//!
//! The child inherits environment, directory, standard streams and process group, so that
//! Ctrl-C reaches both. If txprof dies while holding it, the child ends; once released it
//! lives on, whatever happens to txprof, unless [`end`] is called.

use std::ffi::{OsStr, OsString};
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};

use crate::sys::launch::{GO, hold_before_exec};
use crate::{Error, ErrorKind, Result, ResultExt};

/// How long a command that was asked to end has for that: servers close what they have open in less.
pub const GRACE: Duration = Duration::from_secs(2);

/// Between two looks at whether it has ended.
const STEP: Duration = Duration::from_millis(10);

/// A started child that waits; it ends when this is dropped.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    program: PathBuf,
    releaser: Option<PipeWriter>,
    spawning: Option<JoinHandle<std::io::Result<Child>>>,
}

impl Held {
    /// Starts `command`, the program's name or path and its arguments, up to the point
    /// right before `exec`. Limits and signal masks changed before are inherited.
    ///
    /// Fails, without having started anything, with `NotFound` when there is no such command,
    /// `PermissionDenied` when it may not be executed, `InvalidInput` when `command` is empty.
    pub fn start(command: &[OsString]) -> Result<Self> {
        let (name, arguments) =
            command.split_first().ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no command given"))?;
        let program = find_program(name)?;
        let intent = || format!("failed to start `{}`", program.display());
        let (mut ready, ready_writer) = std::io::pipe().context(intent)?;
        let (release, releaser) = std::io::pipe().context(intent)?;
        let mut child = Command::new(&program);
        child.arg0(name).args(arguments);
        hold_before_exec(&mut child, ready_writer, release, releaser.as_raw_fd());
        // `spawn` returns once the child has executed the program, so it waits on a thread of its own.
        let spawning = std::thread::Builder::new().name("launch".to_owned()).spawn(move || child.spawn());
        let mut held = Self {
            pid: 0,
            program: program.clone(),
            releaser: Some(releaser),
            spawning: Some(spawning.context(intent)?),
        };
        let mut pid = [0; 4];
        if ready.read_exact(&mut pid).is_err() {
            // The child could not be forked, or was killed at once.
            held.finish(&[])?;
            return Err(Error::new(ErrorKind::System, intent()));
        }
        held.pid = u32::from_ne_bytes(pid);
        Ok(held)
    }

    /// The child's pid, before and after its `exec`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file it will execute.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Lets the child execute its program and waits until it does. Dropping the answer
    /// neither ends the child nor waits for it.
    ///
    /// Fails when the kernel refuses to execute the program after all. A file without any known
    /// format is a script for `sh`, as in shells.
    pub fn release(mut self) -> Result<Child> {
        self.finish(&[GO])
    }

    /// Lets go of the child with `word` and waits for `spawn`.
    fn finish(&mut self, word: &[u8]) -> Result<Child> {
        if let Some(mut releaser) = self.releaser.take() {
            // A child that was killed meanwhile does not read; waiting for it will tell.
            let _ = releaser.write_all(word);
        }
        let intent = || format!("failed to execute `{}`", self.program.display());
        let spawned = self.spawning.take().and_then(|spawning| spawning.join().ok());
        let spawned = spawned.ok_or_else(|| Error::new(ErrorKind::System, intent()))?;
        spawned.map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENOENT) => Error::from_io(intent(), cause)
                .with_hint("the interpreter that its first line names, or its dynamic linker, is missing"),
            _ => Error::from_io(intent(), cause),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.spawning.is_some()
            && let Ok(mut child) = self.finish(&[!GO])
        {
            let _ = child.wait();
        }
    }
}

/// How [`end`] ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It had ended before.
    Itself,
    /// It was asked to, by SIGTERM, and did.
    Asked,
    /// It went on for [`GRACE`] after it was asked to, and was killed.
    Killed,
}

/// Ends a command that was released, and waits until it has ended: at most twice [`GRACE`]. What it has started is left
/// alone, as is what nobody waits for in a shell.
///
/// Fails when the signal is not allowed, as to a command that has become another user's, and when even SIGKILL does not
/// end it in time, as in a system call that cannot be interrupted.
pub fn end(child: &mut Child) -> Result<Ending> {
    let pid = child.id();
    let intent = || format!("failed to end the command (pid {pid})");
    if child.try_wait().context(intent)?.is_some() {
        return Ok(Ending::Itself);
    }
    for (signal, ending) in [(Signal::SIGTERM, Ending::Asked), (Signal::SIGKILL, Ending::Killed)] {
        // It is waited for here alone, so its pid is its own even if it has ended meanwhile.
        kill(Pid::from_raw(pid.cast_signed()), signal).context(|| format!("{}: {signal}", intent()))?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if child.try_wait().context(intent)?.is_some() {
                return Ok(ending);
            }
            std::thread::sleep(STEP);
        }
    }
    Err(Error::new(ErrorKind::System, format!("{}: it goes on after SIGKILL", intent())))
}

/// The exit code that stands for `status`: the child's own, or 128 + signal as shells have it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The file that the shell would execute for `name`: itself if it holds a slash,
/// else the first executable one in `PATH`.
fn find_program(name: &OsStr) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let program = PathBuf::from(name);
        return check_executable(&program).map(|()| program);
    }
    let directories = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut failure = None;
    for directory in std::env::split_paths(&directories) {
        // An empty entry means the current directory.
        let program = Path::new(".").join(directory).join(name);
        match check_executable(&program) {
            Ok(()) => return Ok(program),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let name = Path::new(name).display();
    let missing = || {
        Error::new(ErrorKind::NotFound, format!("command `{name}` not found in PATH"))
            .with_hint(format!("give its path, as in `-- ./{name}`"))
    };
    Err(failure.unwrap_or_else(missing))
}

fn check_executable(program: &Path) -> Result<()> {
    let shown = program.display();
    let metadata = std::fs::metadata(program).map_err(|cause| {
        Error::from_io(format!("failed to find command `{shown}`"), cause)
            .with_hint("`--` is followed by the path of a program, or by a name to look up in PATH")
    })?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::PermissionDenied, format!("`{shown}` is no program")));
    }
    access(program, AccessFlags::X_OK).map_err(|errno| {
        Error::from_io(format!("failed to execute `{shown}`"), errno.into())
            .with_hint(format!("chmod +x '{shown}'"))
    })
}
