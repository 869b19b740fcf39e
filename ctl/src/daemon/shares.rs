//! What each user of the API may have of it at once: connections, requests that are being answered,
//! and streams of events.
//!
//! The socket's group may look, and so must not be able to keep root from working: its members have
//! shares of their own, each and all together, and root and the daemon's own user have theirs
//! besides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// Whom something is counted against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Root, or the user that the daemon runs as.
    Owner,
    /// Another user by number; none if the kernel does not tell.
    Other(Option<u32>),
}

/// How many there may be at once.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    owner: usize,
    /// Of one other user, and of all of them.
    other: usize,
    others: usize,
}

const CONNECTIONS: Bounds = Bounds {
    owner: 256,
    other: 16,
    others: 64,
};
/// Until the answer is handed over: its memory is what this bounds.
const REQUESTS: Bounds = Bounds {
    owner: 32,
    other: 2,
    others: 4,
};
const LISTENERS: Bounds = Bounds {
    owner: 64,
    other: 8,
    others: 32,
};

pub(super) struct Shares {
    connections: Arc<Share>,
    requests: Arc<Share>,
    listeners: Arc<Share>,
}

impl Shares {
    pub(super) fn new() -> Arc<Shares> {
        Arc::new(Shares {
            connections: Share::new(CONNECTIONS),
            requests: Share::new(REQUESTS),
            listeners: Share::new(LISTENERS),
        })
    }

    pub(super) fn connection(&self, holder: Holder) -> Option<Permit> {
        self.connections.take(holder)
    }

    pub(super) fn listener(&self, holder: Holder) -> Option<Permit> {
        self.listeners.take(holder)
    }

    /// Waits for a turn; none if it does not come.
    pub(super) async fn request(&self, holder: Holder) -> Option<Permit> {
        let turn = async {
            loop {
                // Before the look, so that what is freed after it is heard of.
                let freed = self.requests.freed.notified();
                if let Some(permit) = self.requests.take(holder) {
                    return permit;
                }
                freed.await;
            }
        };
        timeout(TURN, turn).await.ok()
    }
}

/// One thing that is shared out.
struct Share {
    bounds: Bounds,
    held: Mutex<HashMap<Holder, usize>>,
    freed: Notify,
}

impl Share {
    fn new(bounds: Bounds) -> Arc<Share> {
        Arc::new(Share {
            bounds,
            held: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn take(self: &Arc<Self>, holder: Holder) -> Option<Permit> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&holder).copied().unwrap_or(0);
        let of_owner = held.get(&Holder::Owner).copied().unwrap_or(0);
        let others = held.values().sum::<usize>() - of_owner;
        let free = match holder {
            Holder::Owner => own < self.bounds.owner,
            Holder::Other(_) => own < self.bounds.other && others < self.bounds.others,
        };
        free.then(|| {
            held.insert(holder, own + 1);
            Permit {
                share: Arc::clone(self),
                holder,
            }
        })
    }
}

/// One place; dropping it leaves it to another.
pub(super) struct Permit {
    share: Arc<Share>,
    holder: Holder,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let held = &self.share.held;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.holder);
            }
        }
        drop(held);
        self.share.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_what_is_anothers() {
        let shares = Shares::new();
        let mut held = Vec::new();
        for user in 0..20 {
            let one = (0..100).map_while(|_| shares.connection(Holder::Other(Some(user))));
            held.push(one.collect::<Vec<_>>());
        }
        let counts: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(counts[..5], [16, 16, 16, 16, 0]);
        let owner: Vec<_> = (0..1000)
            .map_while(|_| shares.connection(Holder::Owner))
            .collect();
        assert_eq!(owner.len(), 256);
        held.remove(0);
        assert!(shares.connection(Holder::Other(None)).is_some());
    }

    #[tokio::test]
    async fn a_request_waits_for_its_turn() {
        let shares = Shares::new();
        let user = Holder::Other(Some(7));
        let first = shares.request(user).await.unwrap();
        let _second = shares.request(user).await.unwrap();
        let waiting = Arc::clone(&shares);
        let third = tokio::spawn(async move { waiting.request(user).await.is_some() });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(first);
        assert!(third.await.unwrap());
    }
}
