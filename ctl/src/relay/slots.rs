//! How many flows all relays carry, and who gives way when that is used up.
//!
//! Each flow is one published port's and one [`Owner`]'s. When all slots are taken, the port with
//! most flows gives some up, and of its owners the one with most: first flows that never carried a
//! byte, then those silent for longest. Whoever has the largest share itself displaces only what is
//! idle, or is refused. So one client can't take the slots of others, and nobody's busy flow ends
//! for somebody greedier.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;

use super::owner::Owner;

/// Flows at the most, however many descriptors there are: some 8 KiB each.
const MOST: usize = 8192;
/// A flow that was silent for so long may be displaced by its owner's next one.
const IDLE: Duration = Duration::from_secs(1);

/// Whom a flow is counted against: a published port, and one who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Share {
    pub(super) port: u64,
    pub(super) owner: Owner,
}

/// See the module's description.
pub(super) struct Slots {
    capacity: usize,
    started: Instant,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    flows: HashMap<u64, (Share, Arc<Activity>)>,
    last_id: u64,
    of_port: HashMap<u64, usize>,
    of_share: HashMap<Share, usize>,
}

#[derive(Default)]
struct Activity {
    /// Milliseconds since the slots' start.
    last: AtomicU64,
    carried: AtomicBool,
    displaced: Notify,
}

/// One flow's slot, free again when this is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    activity: Arc<Activity>,
}

impl Slot {
    /// The flow carried something.
    pub(super) fn touch(&self) {
        self.activity.carried.store(true, Relaxed);
        self.activity.last.store(self.slots.now(), Relaxed);
    }

    /// Done once the flow has to give way.
    pub(super) async fn displaced(&self) {
        self.activity.displaced.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.book().remove(self.id);
    }
}

/// Those of this process. A flow has two descriptors at most, so flows take half of what the
/// process may open, and the API, the switch and new listeners find some whatever a client does.
pub(super) fn slots() -> Arc<Slots> {
    static SLOTS: OnceLock<Arc<Slots>> = OnceLock::new();
    let slots = SLOTS.get_or_init(|| {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let flows = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        Slots::new(flows.clamp(16, MOST))
    });
    slots.clone()
}

impl Slots {
    fn new(capacity: usize) -> Arc<Slots> {
        Arc::new(Slots {
            capacity,
            started: Instant::now(),
            book: Mutex::default(),
        })
    }

    /// A slot for one more flow; none if its owner has the largest share already, and nothing of it
    /// is idle.
    pub(super) fn take(self: &Arc<Self>, share: Share) -> Option<Slot> {
        let now = self.now();
        let mut book = self.book();
        if book.flows.len() >= self.capacity && !book.displace(share, now, self.capacity) {
            return None;
        }
        let activity = Arc::new(Activity::default());
        activity.last.store(now, Relaxed);
        let id = book.add(share, activity.clone());
        Some(Slot {
            slots: self.clone(),
            id,
            activity,
        })
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn add(&mut self, share: Share, activity: Arc<Activity>) -> u64 {
        self.last_id += 1;
        self.flows.insert(self.last_id, (share, activity));
        *self.of_port.entry(share.port).or_default() += 1;
        *self.of_share.entry(share).or_default() += 1;
        self.last_id
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Activity>> {
        let (share, activity) = self.flows.remove(&id)?;
        subtract(&mut self.of_port, share.port);
        subtract(&mut self.of_share, share);
        Some(activity)
    }

    /// Ends flows of the greediest share; false if that is `new`'s own and all of them are busy.
    fn displace(&mut self, new: Share, now: u64, capacity: usize) -> bool {
        let of_port = |port: u64| self.of_port.get(&port).copied().unwrap_or(0);
        let of_share = |share: Share| self.of_share.get(&share).copied().unwrap_or(0);
        let Some((&port, &most)) = self.of_port.iter().max_by_key(|(_, count)| **count) else {
            return false;
        };
        // Of equals the newcomer's own gives way, so that nothing swings to and fro.
        let port = if of_port(new.port) + 1 >= most {
            new.port
        } else {
            port
        };
        let shares = self.of_share.keys().filter(|share| share.port == port);
        let Some(&greediest) = shares.max_by_key(|share| of_share(**share)) else {
            return false;
        };
        let own = port == new.port && of_share(new) + 1 >= of_share(greediest);
        let greediest = if own { new } else { greediest };

        let mut candidates: Vec<(bool, u64, u64)> = self
            .flows
            .iter()
            .filter(|(_, (share, _))| *share == greediest)
            .map(|(&id, (_, it))| (it.carried.load(Relaxed), it.last.load(Relaxed), id))
            .filter(|&(_, last, _)| !own || now.saturating_sub(last) >= IDLE.as_millis() as u64)
            .collect();
        candidates.sort_unstable();
        // Several at once, or each newcomer would look at all flows.
        let excess = match own {
            true => 1,
            false => (capacity / 16).min(of_share(greediest) / 4).max(1),
        };
        let displaced: Vec<u64> = candidates.iter().take(excess).map(|it| it.2).collect();
        for &id in &displaced {
            if let Some(activity) = self.remove(id) {
                activity.displaced.notify_one();
            }
        }
        !displaced.is_empty()
    }
}

fn subtract<K: std::hash::Hash + Eq + Copy>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(port: u64, user: u32) -> Share {
        Share {
            port,
            owner: Owner::User(user),
        }
    }

    fn count(slots: &Slots, share: Share) -> usize {
        slots.book().of_share.get(&share).copied().unwrap_or(0)
    }

    #[test]
    fn one_client_of_one_port_takes_no_slots_of_others() {
        let slots = Slots::new(64);
        let (greedy, other, neighbour) = (share(1, 7), share(2, 8), share(1, 9));
        let held: Vec<Slot> = (0..64).map(|_| slots.take(greedy).unwrap()).collect();
        // It is as busy as can be, and so gets no more itself.
        held.iter().for_each(Slot::touch);
        assert!(slots.take(greedy).is_none());
        let mine: Vec<Slot> = (0..20).map(|_| slots.take(other).unwrap()).collect();
        let same_port: Vec<Slot> = (0..10).map(|_| slots.take(neighbour).unwrap()).collect();
        assert_eq!((mine.len(), count(&slots, other)), (20, 20));
        assert_eq!((same_port.len(), count(&slots, neighbour)), (10, 10));
        assert!(slots.book().flows.len() <= 64);
        // Nobody gets beyond an equal share at the cost of the busy.
        let more: Vec<Option<Slot>> = (0..64).map(|_| slots.take(other)).collect();
        assert!(more.iter().any(Option::is_none));
        assert!(count(&slots, other) <= 34 && count(&slots, neighbour) == 10);
        drop((held, mine, same_port, more));
        assert!(slots.book().flows.is_empty() && slots.book().of_port.is_empty());
    }

    #[tokio::test]
    async fn what_never_carried_anything_goes_first() {
        let slots = Slots::new(16);
        let busy: Vec<Slot> = (0..8).map(|_| slots.take(share(1, 7)).unwrap()).collect();
        busy.iter().for_each(Slot::touch);
        let idle: Vec<Slot> = (0..8).map(|_| slots.take(share(1, 7)).unwrap()).collect();
        let _new = slots.take(share(2, 8)).unwrap();
        idle[0].displaced().await;
        assert_eq!(slots.book().flows.len(), 16);
        assert!(
            busy.iter()
                .all(|it| slots.book().flows.contains_key(&it.id))
        );
    }
}
