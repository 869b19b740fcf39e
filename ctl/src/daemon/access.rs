//! Who may ask what, and how much of it at once: the socket's mode says who may connect at all, and
//! the kernel's word on the peer (SO_PEERCRED, unix(7)) who may change something.
//!
//! Root, and the user that the daemon runs as, may do everything; everyone else who can connect,
//! the socket's group, may look.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;
use nix::unistd::geteuid;
use tokio::net::UnixStream;

use super::command;
use super::failure::Failure;
use super::server::{busy, forbidden};
use super::shares::{Holder, Permit, Shares};

/// The path of the one answer that has no end.
const EVENTS: &str = "/v1/events";

/// The process at the other end of a connection, as the kernel knows it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// None if the kernel does not tell.
    uid: Option<u32>,
    /// Its number as the daemon counts processes; none if it is in no PID namespace that the
    /// daemon sees into.
    pid: Option<u32>,
    /// Keeps the number from being taken for a later process's. None before Linux 6.5.
    process: Option<Arc<OwnedFd>>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Peer {
        let credentials = stream.peer_cred().ok();
        let pid = credentials.as_ref().and_then(|it| it.pid());
        Peer {
            uid: credentials.as_ref().map(|it| it.uid()),
            pid: pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|pid| *pid != 0),
            process: getsockopt(stream, PeerPidfd).ok().map(Arc::new),
        }
    }

    /// Whom what it has of the API is counted against.
    pub(super) fn holder(&self) -> Holder {
        match self.may_change(geteuid().as_raw()) {
            true => Holder::Owner,
            false => Holder::Other(self.uid),
        }
    }

    fn may_change(&self, owner: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == owner)
    }
}

impl Peer {
    /// The daemon's number of the process that the client calls `told`. The same in one PID
    /// namespace; in another one, of a container or of `unshare --pid`, the client's numbers are
    /// those of other processes here.
    ///
    /// # Errors
    /// The client, or that process, can't be seen from the daemon's PID namespace.
    pub(super) fn number(&self, told: u32) -> Result<u32, Failure> {
        let unseen = |what: &str| {
            Failure::Invalid(format!(
                "{what} can't be seen from the daemon's PID namespace, in which its number would \
                 be another process's: start it in the daemon's, or attach its network namespace \
                 by path"
            ))
        };
        let client = self.pid.ok_or_else(|| unseen("the client"))?;
        let own = command::inode(std::process::id(), "pid");
        let theirs = command::inode(client, "pid");
        let levels = command::levels(client).ok_or_else(|| unseen("the client"))?;
        if self.has_ended() {
            return Err(unseen("a client that has ended"));
        }
        if own == theirs {
            return Ok(told);
        }
        let level = levels.len();
        let is_it = |pid: &u32| {
            command::inode(*pid, "pid") == theirs
                && command::levels(*pid).is_some_and(|it| it.get(level - 1) == Some(&told))
        };
        // Mostly it speaks of itself.
        std::iter::once(client)
            .chain(command::processes())
            .find(is_it)
            .ok_or_else(|| unseen(&format!("process {told} of the client")))
    }

    /// Whether the client has ended: its number may be another process's then. A pidfd turns
    /// readable at the end of its process (pidfd_open(2)).
    fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        })
    }
}

/// An answer whose place is free again once it is handed over.
struct Held {
    body: Body,
    _permit: Permit,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Lets through what only looks, and what comes from someone who may do more; in its turn.
pub(super) async fn guard(
    State(shares): State<Arc<Shares>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    let owner = geteuid().as_raw();
    if looks || peer.may_change(owner) {
        let permit = match request.uri().path() {
            // Changes wait for each other anyway, and their answers are small.
            _ if !looks => return next.run(request).await,
            EVENTS => shares.listener(peer.holder()),
            _ => shares.request(peer.holder()).await,
        };
        return match permit {
            None => busy("requests"),
            Some(permit) => next.run(request).await.map(|body| {
                Body::new(Held {
                    body,
                    _permit: permit,
                })
            }),
        };
    }
    let who = peer
        .uid
        .map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    let owner = match owner {
        0 => String::new(),
        owner => format!(" or user {owner}, who runs the daemon"),
    };
    forbidden(format!(
        "{who} may read, but not change anything: do it as root{owner}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_the_same_pid_namespace_is_believed() {
        let me = std::process::id();
        let peer = |pid| Peer {
            uid: Some(0),
            pid,
            process: None,
        };
        assert_eq!(peer(Some(me)).number(4711).unwrap(), 4711);
        assert!(
            peer(None).number(me).is_err(),
            "its numbers mean nothing here"
        );
    }

    #[test]
    fn root_and_the_owner_may_change() {
        let may = |uid, owner| {
            let (pid, process) = (None, None);
            Peer { uid, pid, process }.may_change(owner)
        };
        assert!(may(Some(0), 0) && may(Some(0), 1000) && may(Some(1000), 1000));
        assert!(!may(Some(1000), 0) && !may(Some(1001), 1000) && !may(None, 0));
    }
}
