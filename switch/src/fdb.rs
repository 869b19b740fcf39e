//! The forwarding database of one network: which MAC was last seen behind which port (802.1D
//! clause 7.8, "filtering database").
//!
//! Addresses are learned from the source of every frame, age out after [`AGEING`], and move when
//! they are seen elsewhere. Each port may hold so many addresses; past that, and when the whole
//! table is full, the entry that goes is the oldest of the port that holds most, so a container
//! that invents addresses evicts only its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nat::Time;
use parking_lot::RwLock;

use crate::config::PortId;
use crate::frame::MacAddr;

/// How long an address is remembered after it was last seen: the 802.1D default.
pub const AGEING: Duration = Duration::from_secs(300);

/// An entry is refreshed at most this often, so that a busy flow reads the table and rarely
/// writes to it.
const REFRESH: Duration = Duration::from_secs(1);

/// How many addresses one network's table holds in all.
pub const CAPACITY: usize = 65_536;

/// What learning one source address did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known on this port.
    Known,
    /// Seen for the first time; an older entry may have made room.
    New,
    /// Was behind another port until now.
    Moved { from: PortId },
}

#[derive(Debug)]
struct Entry {
    port: PortId,
    /// [`Time`] in nanoseconds; atomic, so that refreshing needs no write lock.
    seen: AtomicU64,
}

/// See the module's description. Shared by all workers.
#[derive(Debug)]
pub struct Fdb {
    table: RwLock<Table>,
    per_port: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<MacAddr, Entry, RandomState>,
    held: HashMap<PortId, usize, RandomState>,
}

/// One row of [`Fdb::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub mac: MacAddr,
    pub port: PortId,
    pub age: Duration,
}

impl Fdb {
    pub fn new(per_port: usize) -> Fdb {
        Fdb {
            table: RwLock::default(),
            per_port: per_port.max(1),
        }
    }

    /// Remembers that `mac` is behind `port`.
    pub fn learn(&self, now: Time, mac: MacAddr, port: PortId) -> Learned {
        if let Some(entry) = self.table.read().entries.get(&mac)
            && entry.port == port
        {
            let seen = Time::from_nanos(entry.seen.load(Ordering::Relaxed));
            if now - seen > REFRESH {
                entry.seen.store(now.as_nanos(), Ordering::Relaxed);
            }
            return Learned::Known;
        }
        self.table.write().learn(now, mac, port, self.per_port)
    }

    /// The port `mac` was last seen on, unless it has aged out.
    pub fn lookup(&self, now: Time, mac: MacAddr) -> Option<PortId> {
        let table = self.table.read();
        let entry = table.entries.get(&mac)?;
        (entry.age(now) < AGEING).then_some(entry.port)
    }

    /// Forgets what has aged out.
    pub fn age(&self, now: Time) {
        self.table.write().retain(|entry| entry.age(now) < AGEING);
    }

    /// Forgets everything behind `port`.
    pub fn forget_port(&self, port: PortId) {
        self.table.write().retain(|entry| entry.port != port);
    }

    /// Every entry that has not aged out, in order of address.
    pub fn rows(&self, now: Time) -> Vec<Row> {
        let table = self.table.read();
        let mut rows: Vec<Row> = table
            .entries
            .iter()
            .map(|(&mac, entry)| Row {
                mac,
                port: entry.port,
                age: entry.age(now),
            })
            .filter(|row| row.age < AGEING)
            .collect();
        rows.sort_by_key(|row| row.mac);
        rows
    }
}

impl Entry {
    fn age(&self, now: Time) -> Duration {
        now - Time::from_nanos(self.seen.load(Ordering::Relaxed))
    }
}

impl Table {
    fn learn(&mut self, now: Time, mac: MacAddr, port: PortId, per_port: usize) -> Learned {
        let seen = AtomicU64::new(now.as_nanos());
        if let Some(entry) = self.entries.get_mut(&mac) {
            let from = entry.port;
            *entry = Entry { port, seen };
            if from == port {
                return Learned::Known;
            }
            self.release(from);
            *self.held.entry(port).or_default() += 1;
            return Learned::Moved { from };
        }
        if self.held.get(&port).copied().unwrap_or(0) >= per_port {
            self.evict_oldest_of(port);
        } else if self.entries.len() >= CAPACITY
            && let Some(greediest) = self
                .held
                .iter()
                .max_by_key(|&(_, held)| *held)
                .map(|(&port, _)| port)
        {
            self.evict_oldest_of(greediest);
        }
        self.entries.insert(mac, Entry { port, seen });
        *self.held.entry(port).or_default() += 1;
        Learned::New
    }

    /// Makes room at the expense of `port`. Looks at a bounded number of its entries: a sender of
    /// random addresses must not make each of its frames cost a walk of the whole table.
    fn evict_oldest_of(&mut self, port: PortId) {
        const SAMPLE: usize = 16;
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.port == port)
            .take(SAMPLE)
            .min_by_key(|(_, entry)| entry.seen.load(Ordering::Relaxed))
            .map(|(&mac, _)| mac);
        if let Some(mac) = oldest {
            self.entries.remove(&mac);
            self.release(port);
        }
    }

    fn release(&mut self, port: PortId) {
        if let Some(held) = self.held.get_mut(&port) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&port);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let mut released = Vec::new();
        self.entries.retain(|_, entry| {
            let kept = keep(entry);
            if !kept {
                released.push(entry.port);
            }
            kept
        });
        for port in released {
            self.release(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);

    // Conforms: SWITCH-learning
    #[test]
    fn learns_refreshes_moves_and_ages() {
        let fdb = Fdb::new(8);
        assert_eq!(fdb.learn(at(0), mac(1), A), Learned::New);
        assert_eq!(fdb.learn(at(200), mac(1), A), Learned::Known);
        assert_eq!(fdb.lookup(at(499), mac(1)), Some(A));
        assert_eq!(fdb.learn(at(499), mac(1), B), Learned::Moved { from: A });
        assert_eq!(fdb.lookup(at(500), mac(1)), Some(B));
        assert_eq!(fdb.lookup(at(799), mac(1)), None);
        fdb.age(at(799));
        assert!(fdb.rows(at(500)).is_empty());
        assert!(fdb.table.read().held.is_empty());
    }

    // Conforms: LINUX-bridge-fdb-learning-limit
    #[test]
    fn a_port_over_its_limit_loses_only_its_own_entries() {
        let fdb = Fdb::new(4);
        fdb.learn(at(0), mac(1000), B);
        for n in 0..100 {
            fdb.learn(at(1), mac(n), A);
        }
        assert_eq!(fdb.lookup(at(1), mac(1000)), Some(B));
        assert_eq!(fdb.rows(at(1)).len(), 5);
    }

    // Conforms: OVS-mac-table-fairness
    #[test]
    fn a_full_table_evicts_from_whoever_holds_most() {
        let fdb = Fdb::new(CAPACITY);
        fdb.learn(at(0), mac(u32::MAX), B);
        for n in 0..CAPACITY as u32 + 50 {
            fdb.learn(at(1), mac(n), A);
        }
        assert_eq!(fdb.rows(at(1)).len(), CAPACITY);
        assert_eq!(fdb.lookup(at(1), mac(u32::MAX)), Some(B));
    }

    #[test]
    fn a_removed_port_takes_its_entries_along() {
        let fdb = Fdb::new(8);
        fdb.learn(at(0), mac(1), A);
        fdb.learn(at(0), mac(2), B);
        fdb.forget_port(A);
        assert_eq!(fdb.lookup(at(0), mac(1)), None);
        assert_eq!(fdb.lookup(at(0), mac(2)), Some(B));
    }
}
