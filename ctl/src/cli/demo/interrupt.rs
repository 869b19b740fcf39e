//! Ctrl-C, SIGTERM and SIGHUP, turned into an error that ends the demo in good order.

use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// The number of the first signal, 0 before it.
static INTERRUPTED: AtomicI32 = AtomicI32::new(0);

/// Starts the thread that waits for the signals. Children are not affected: a handler does not
/// outlive exec.
pub(super) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime for signals")?;
    let signals = {
        let _entered = runtime.enter();
        [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ]
        .map(signal)
    };
    let [interrupt, terminate, hangup] = signals;
    let mut interrupt = interrupt.context("handle SIGINT")?;
    let mut terminate = terminate.context("handle SIGTERM")?;
    let mut hangup = hangup.context("handle SIGHUP")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let number = tokio::select! {
                        _ = interrupt.recv() => Signal::SIGINT,
                        _ = terminate.recv() => Signal::SIGTERM,
                        _ = hangup.recv() => Signal::SIGHUP,
                    } as i32;
                    // Later ones change nothing: the demo ends as fast as it can.
                    let relaxed = Ordering::Relaxed;
                    let _ = INTERRUPTED.compare_exchange(0, number, relaxed, relaxed);
                }
            });
        })
        .context("start the signal thread")?;
    Ok(())
}

/// The signal that came, if one did.
pub(super) fn interrupted() -> Option<Signal> {
    Signal::try_from(INTERRUPTED.load(Ordering::Relaxed)).ok()
}

pub(super) fn check() -> Result<()> {
    match interrupted() {
        Some(signal) => bail!("interrupted by {signal}"),
        None => Ok(()),
    }
}
