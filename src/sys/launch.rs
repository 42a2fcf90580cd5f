//! A child process that waits between `fork` and `exec`.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigHandler, Signal};

/// The byte that lets a held child execute its program.
pub const GO: u8 = 1;

/// Exit code of a held child that was not wanted any more.
const ABANDONED: i32 = 125;

/// Has `command` stop right before `exec`: the child writes its pid, four bytes, to
/// `ready` and goes on when it reads [`GO`] from `release`. It ends when it reads anything else,
/// or when that pipe's other end, `releaser`, is closed because whoever held it is gone.
/// Signal handlers of the parent do not run in the waiting child.
pub fn hold_before_exec(
    command: &mut Command,
    mut ready: PipeWriter,
    mut release: PipeReader,
    releaser: RawFd,
) {
    let hold = move || {
        reset_signal_handlers();
        // SAFETY: runs in the forked child alone, which execs or exits without running the
        // destructor of the descriptor's owner. Kept open, it would hide that the parent is gone.
        unsafe { libc::close(releaser) };
        ready.write_all(&std::process::id().to_ne_bytes())?;
        let mut word = [0];
        if release.read_exact(&mut word).is_ok() && word == [GO] {
            return Ok(());
        }
        // SAFETY: ends the forked child, running nothing of the parent's. An error could not be
        // reported: whoever would read it may be gone.
        unsafe { libc::_exit(ABANDONED) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are made: sigaction, close,
    // getpid, write, read, _exit. Nothing allocates or locks; errors of these calls are numbers and
    // constants.
    unsafe { command.pre_exec(hold) };
}

/// Gives every signal with a handler its default action, as `exec` will; ignored ones stay ignored.
fn reset_signal_handlers() {
    for signal in Signal::iterator() {
        // SAFETY: an all-zero sigaction is a valid value of this plain C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` is a valid place for the answer.
        let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), &mut action) };
        if asked == 0 && action.sa_sigaction != libc::SIG_IGN {
            // SAFETY: installs no code of ours; SIGKILL and SIGSTOP are refused without effect.
            let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
        }
    }
}
