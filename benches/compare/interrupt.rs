//! Ctrl-C, SIGTERM and SIGHUP, turned into an error that takes every topology down in good order.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// The number of the first signal, 0 before it.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// Blocks the signals in this thread and all it starts, and waits for them on one of its own.
///
/// # Errors
///
/// The mask can't be set, or no thread started.
pub(crate) fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("block signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                let relaxed = Ordering::Relaxed;
                // Later ones change nothing: the run ends as fast as it can.
                let _ = INTERRUPTED.compare_exchange(0, signal as i32, relaxed, relaxed);
            }
        })
        .context("start the signal thread")?;
    Ok(())
}

/// Undoes the mask that a child inherits.
pub(crate) fn unblock() -> Result<()> {
    SigSet::all().thread_unblock().context("unblock signals")
}

/// The signal that came, if one did.
pub(crate) fn interrupted() -> Option<Signal> {
    Signal::try_from(INTERRUPTED.load(Ordering::Relaxed)).ok()
}

/// # Errors
///
/// A signal came.
pub(crate) fn check() -> Result<()> {
    match interrupted() {
        Some(signal) => bail!("interrupted by {signal}"),
        None => Ok(()),
    }
}
