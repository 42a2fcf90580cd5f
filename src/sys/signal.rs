//! Ending in good order when the user or a supervisor asks for it.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::{Result, ResultExt};

static RELOAD: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP set the flag that is returned instead of ending
/// the program; a second one of them ends it as usual.
pub fn stop_flag() -> Result<&'static AtomicBool> {
    let handler = SigHandler::Handler(request_stop);
    // Without SA_RESTART a waiting system call returns at once.
    let action = SigAction::new(handler, SaFlags::SA_RESETHAND, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context(|| format!("failed to handle {signal}"))?;
    }
    Ok(&STOP)
}

/// From now on SIGHUP sets the flag that is returned, each time.
pub fn reload_flag() -> Result<&'static AtomicBool> {
    let action = SigAction::new(SigHandler::Handler(request_reload), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe { sigaction(Signal::SIGHUP, &action) }.context(|| "failed to handle SIGHUP".to_owned())?;
    Ok(&RELOAD)
}

extern "C" fn request_reload(_signal: libc::c_int) {
    RELOAD.store(true, Ordering::Relaxed);
}

extern "C" fn request_stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}
