//! What goes wrong with an interface, in words.

use std::io;

use nix::errno::Errno;

use crate::netns::Netns;

/// Something about an interface failed: what, on which one, in which namespace, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} in {namespace}: {}{advice}", describe(.cause))]
pub(crate) struct LinkError {
    /// What was tried, the interface included: `set the MTU of eth0 to 9000`.
    pub(super) action: String,
    pub(super) namespace: String,
    pub(super) cause: io::Error,
    /// What to do about it: empty, or beginning with a colon.
    pub(super) advice: &'static str,
}

impl LinkError {
    /// The kernel's reason; `NotFound` for an interface that isn't there, `AlreadyExists`, …
    pub(crate) fn kind(&self) -> io::ErrorKind {
        match self.cause.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENODEV | Errno::ENXIO) => io::ErrorKind::NotFound,
            _ => self.cause.kind(),
        }
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

impl From<io::Error> for LinkError {
    /// For failures before any interface is touched: no thread, no descriptor, no netlink.
    fn from(cause: io::Error) -> LinkError {
        let namespace = match Netns::current() {
            Ok(netns) => netns.to_string(),
            Err(_) => "this namespace".into(),
        };
        LinkError {
            action: "talk to rtnetlink".into(),
            namespace,
            cause,
            advice: "",
        }
    }
}

/// The words of an errno without the number that `io::Error` adds.
fn describe(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(code) => {
            let errno = Errno::from_raw(code);
            format!("{} ({errno:?})", errno.desc())
        }
        None => cause.to_string(),
    }
}

/// The errno that the kernel answered with, if it answered.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message
            .code
            .map(|code| Errno::from_raw(code.get().saturating_abs())),
        _ => None,
    }
}
