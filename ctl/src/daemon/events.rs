//! What happens, for those who listen: the stream behind `GET /v1/events`.
//!
//! Most events are not told where they happen but found by comparing what readers saw before a
//! change with what they see after it ([`between`]), so that no change can forget to tell. What the
//! difference can't say (why a container has ended) the daemon notes itself.
//!
//! The last [`KEPT`] events are kept once, for all listeners. One who reads too slowly is told how
//! many it has missed; it costs neither memory nor anybody else's time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::{HashMap, HashSet};
use tokio::sync::watch;

use super::identity;
use super::publish::ports_of;
use super::view::View;
use crate::api::{Container, Event, EventAction, EventKind, Network, PortMapping, Status};

/// How many events a listener may lag behind.
const KEPT: usize = 1024;

/// Events that a listener is given at once.
const BATCH: usize = 64;

#[derive(Default)]
struct Log {
    kept: VecDeque<Event>,
    /// The number that the next event gets.
    next: u64,
}

impl Log {
    /// Those from number `from` on, preceded by how many of them are lost.
    fn since(&self, from: u64) -> Vec<Event> {
        let first = self.next - self.kept.len() as u64;
        let mut events = Vec::new();
        if from < first {
            let mut lost = event(EventKind::Stream, EventAction::Lost, "");
            lost.seq = first - 1;
            lost.lost = Some(first - from);
            events.push(lost);
        }
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        events.extend(self.kept.iter().skip(skipped).take(BATCH).cloned());
        events
    }
}

pub(super) struct Events(watch::Sender<Log>);

impl Events {
    pub(super) fn new() -> Events {
        Events(watch::Sender::new(Log::default()))
    }

    /// Numbers the events, keeps them, and wakes who listens.
    pub(super) fn tell(&self, news: Vec<Event>) {
        if news.is_empty() {
            return;
        }
        self.0.send_modify(|log| {
            for mut event in news {
                event.seq = log.next;
                log.next += 1;
                if log.kept.len() == KEPT {
                    log.kept.pop_front();
                }
                log.kept.push_back(event);
            }
        });
    }

    /// Hears events from number `since` on, or from now on. A number that was not given yet is one
    /// of an earlier daemon: all that this one knows is told then.
    pub(super) fn listen(&self, since: Option<u64>) -> Listener {
        let log = self.0.subscribe();
        let now = log.borrow().next;
        let next = match since {
            None => now,
            Some(since) if since > now => 0,
            Some(since) => since,
        };
        Listener { log, next }
    }
}

pub(super) struct Listener {
    log: watch::Receiver<Log>,
    next: u64,
}

impl Listener {
    /// Waits for the next events, in their order and at least one; none when the daemon stops.
    pub(super) async fn heard(&mut self) -> Option<Vec<Event>> {
        loop {
            let events = self.log.borrow_and_update().since(self.next);
            if let Some(last) = events.last() {
                self.next = last.seq + 1;
                return Some(events);
            }
            self.log.changed().await.ok()?;
        }
    }
}

/// An event of now, without particulars.
pub(super) fn event(kind: EventKind, action: EventAction, name: &str) -> Event {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Event {
        seq: 0,
        time: now.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        kind,
        action,
        name: name.to_owned(),
        id: None,
        network: None,
        addresses: Vec::new(),
        port: None,
        exit_code: None,
        reason: None,
        lost: None,
    }
}

/// What has changed from one view to the next. `appeared` is what is said of what is new.
pub(super) fn between(before: &View, after: &View, appeared: EventAction) -> Vec<Event> {
    let mut news = Vec::new();
    let (old, new) = (network_ids(before), network_ids(after));
    for network in after.networks().filter(|it| !old.contains(it.id.as_str())) {
        news.push(network_event(network, appeared));
    }
    // Most have not changed, and are shared.
    let (was, is) = (shown(before), shown(after));
    let left: Vec<&Arc<Container>> = before
        .containers()
        .filter(|it| !is.contains(&identity(it)))
        .collect();
    let come: Vec<&Arc<Container>> = after
        .containers()
        .filter(|it| !was.contains(&identity(it)))
        .collect();
    let known: HashMap<&str, &Arc<Container>> =
        left.iter().map(|it| (it.id.as_str(), *it)).collect();
    for container in &come {
        match known.get(container.id.as_str()) {
            None if container.status == Status::Running => {
                news.push(container_event(container, appeared));
                tell_connections(None, Some(container), &mut news);
            }
            None => {}
            Some(known) => tell_connections(Some(known), Some(container), &mut news),
        }
    }
    let now: HashSet<&str> = come.iter().map(|it| it.id.as_str()).collect();
    for container in left.into_iter().filter(|it| !now.contains(it.id.as_str())) {
        tell_connections(Some(container), None, &mut news);
        news.push(container_event(container, EventAction::Removed));
    }
    for network in before.networks().filter(|it| !new.contains(it.id.as_str())) {
        news.push(network_event(network, EventAction::Removed));
    }
    news
}

fn shown(view: &View) -> HashSet<usize> {
    view.containers().map(identity).collect()
}

fn network_ids(view: &View) -> HashSet<&str> {
    view.networks().map(|it| it.id.as_str()).collect()
}

/// Networks that a container joins and leaves, and ports that it publishes and withdraws.
fn tell_connections(before: Option<&Container>, after: Option<&Container>, news: &mut Vec<Event>) {
    let Some(container) = after.or(before) else {
        return;
    };
    let (old, new) = (
        before.map_or(&[][..], |it| &it.endpoints),
        after.map_or(&[][..], |it| &it.endpoints),
    );
    let mut tell = |endpoint: &crate::api::Endpoint, action| {
        let mut told = event(EventKind::Endpoint, action, &container.name);
        told.id = Some(container.id.clone());
        told.network = Some(endpoint.network.clone());
        told.addresses = endpoint.addresses.iter().map(|it| it.addr()).collect();
        news.push(told);
    };
    let same = |one: &crate::api::Endpoint, other: &crate::api::Endpoint| {
        one.network == other.network && one.interface == other.interface
    };
    for endpoint in old.iter().filter(|it| !new.iter().any(|new| same(it, new))) {
        tell(endpoint, EventAction::Disconnected);
    }
    for endpoint in new.iter().filter(|it| !old.iter().any(|old| same(it, old))) {
        tell(endpoint, EventAction::Connected);
    }

    let nothing: &[_] = &[];
    let old = before.map_or(nothing, |it| &it.published);
    let new = after.map_or(nothing, |it| &it.published);
    if old == new {
        return;
    }
    let mut tell = |mapping: &PortMapping, action| {
        let mut told = event(EventKind::Port, action, &container.name);
        told.id = Some(container.id.clone());
        told.port = Some(mapping.clone());
        news.push(told);
    };
    let was: HashSet<_> = old.iter().collect();
    // By the ports alone, of which whom they are for may change.
    let ports = |of: &[PortMapping]| -> HashSet<_> { of.iter().map(ports_of).collect() };
    let (had, has) = (ports(old), ports(new));
    for mapping in old.iter().filter(|it| !has.contains(&ports_of(it))) {
        tell(mapping, EventAction::Withdrawn);
    }
    for mapping in new.iter().filter(|it| !was.contains(it)) {
        let action = match had.contains(&ports_of(mapping)) {
            true => EventAction::Changed,
            false => EventAction::Published,
        };
        tell(mapping, action);
    }
}

pub(super) fn container_event(container: &Container, action: EventAction) -> Event {
    let mut told = event(EventKind::Container, action, &container.name);
    told.id = Some(container.id.clone());
    told.exit_code = container.exit_code;
    told
}

fn network_event(network: &Network, action: EventAction) -> Event {
    let mut told = event(EventKind::Network, action, &network.name);
    told.id = Some(network.id.clone());
    told.addresses = network.gateways.clone();
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Vec<Event> {
        let one = event(EventKind::Network, EventAction::Created, "n");
        vec![one; count]
    }

    // Feature: events
    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let events = Events::new();
        events.tell(some(3));
        let mut slow = events.listen(None);
        events.tell(some(KEPT + 7));
        let heard = slow.heard().await.unwrap();
        assert_eq!(heard[0].action, EventAction::Lost);
        assert_eq!((heard[0].lost, heard[1].seq), (Some(7), 10));
        let mut last = heard.last().unwrap().seq;
        while last + 1 < 3 + KEPT as u64 + 7 {
            for event in slow.heard().await.unwrap() {
                assert_eq!(event.seq, last + 1, "none twice, none missing");
                last = event.seq;
            }
        }
        events.tell(some(1));
        assert_eq!(slow.heard().await.unwrap()[0].seq, last + 1);
    }

    // Feature: events
    #[tokio::test]
    async fn the_past_is_told_on_request() {
        let events = Events::new();
        events.tell(some(5));
        let seqs = |heard: Vec<Event>| -> Vec<u64> { heard.iter().map(|it| it.seq).collect() };
        assert_eq!(seqs(events.listen(Some(3)).heard().await.unwrap()), [3, 4]);
        let of_another_life = events.listen(Some(99)).heard().await.unwrap();
        assert_eq!(seqs(of_another_life), [0, 1, 2, 3, 4]);
        let mut listener = events.listen(Some(5));
        drop(events);
        assert!(listener.heard().await.is_none(), "the daemon has stopped");
    }
}
