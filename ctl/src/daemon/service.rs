//! The daemon as a service of systemd, or of anything that speaks as it does: a socket that is
//! there before the daemon (sd_listen_fds(3)), and word of the daemon's state (sd_notify(3)).
//!
//! Started by hand, all of this finds nothing in the environment and does nothing.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The API's socket, if whoever started the daemon has bound it already. Its path and mode are
/// theirs to choose and to remove.
///
/// # Errors
/// What was passed is no listening Unix socket, or it is more than one.
pub(super) fn inherited_socket() -> anyhow::Result<Option<UnixListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 1 {
        bail!(
            "{} sockets were passed (LISTEN_FDS), and pontoon has use for one: let the socket unit \
             name a single ListenStream",
            passed.len()
        );
    }
    let listener = match passed.len() {
        0 => None,
        _ => passed
            .take_unix_listener(0)
            .context("the socket that was passed (LISTEN_FDS) is no listening Unix socket")?,
    };
    if let Some(listener) = &listener {
        listener.set_nonblocking(true)?;
    }
    Ok(listener)
}

/// Tells that requests are answered from now on.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells that the end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Ticks twice as often as whoever watches wants to hear of the daemon (WATCHDOG_USEC); none if
/// nobody watches.
pub(super) fn watchdog() -> Option<Interval> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

/// Tells that the daemon still turns.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("can't reach the service manager (NOTIFY_SOCKET): {error}");
    }
}
