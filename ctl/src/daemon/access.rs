//! Who may ask what: the socket's mode says who may connect at all, and the kernel's word on the
//! peer (SO_PEERCRED, unix(7)) who may change something.
//!
//! Root, and the user that the daemon runs as, may do everything; everyone else who can connect,
//! the socket's group, may look.

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use nix::unistd::geteuid;
use tokio::net::UnixListener;

use super::server::forbidden;

/// The user at the other end of a connection, by number; none if the kernel does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        let credentials = stream.io().peer_cred();
        Peer {
            uid: credentials.ok().map(|credentials| credentials.uid()),
        }
    }
}

impl Peer {
    fn may_change(self, owner: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == owner)
    }
}

/// Lets through what only looks, and what comes from someone who may do more.
pub(super) async fn guard(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    let owner = geteuid().as_raw();
    if looks || peer.may_change(owner) {
        return next.run(request).await;
    }
    let who = peer
        .uid
        .map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    let owner = match owner {
        0 => String::new(),
        owner => format!(" or user {owner}, who runs the daemon"),
    };
    forbidden(format!(
        "{who} may look, but not change anything: do it as root{owner}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_owner_may_change() {
        let may = |uid, owner| Peer { uid }.may_change(owner);
        assert!(may(Some(0), 0) && may(Some(0), 1000) && may(Some(1000), 1000));
        assert!(!may(Some(1000), 0) && !may(Some(1001), 1000) && !may(None, 0));
    }
}
