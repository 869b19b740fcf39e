//! The forwarding database of one network: which MAC was last seen behind which port (802.1D
//! clause 7.8, "filtering database").
//!
//! Here are only *learned* addresses, those of stations behind an endpoint that nobody configured.
//! An endpoint's own MAC and the gateway's stand in the [`Segment`](crate::topology::Segment): they
//! neither age nor move, and looking them up takes no lock.
//!
//! Addresses age out after [`AGEING`], and move when they are seen elsewhere. Each port may hold so
//! many; past that, and when the whole table is full, the one that goes is an old one of the port
//! that holds most, so a container that invents addresses evicts only its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nat::Time;
use parking_lot::RwLock;

use crate::config::{Bridge, PortId};
use crate::frame::MacAddr;

/// How long an address is remembered after it was last seen: the 802.1D default.
pub const AGEING: Duration = Duration::from_secs(300);

/// An entry is refreshed at most this often, so that a busy flow reads the table and rarely
/// writes to it.
const REFRESH: Duration = Duration::from_secs(1);

/// How many of a port's addresses are looked at to find an old one. A sender of random addresses
/// must not make each of its frames cost a walk of the whole table.
const SAMPLE: usize = 16;

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

/// See the module's description. Shared by all workers.
#[derive(Debug, Default)]
pub struct Fdb {
    table: RwLock<Table>,
    moved: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    port: PortId,
    /// Its index in [`Table::held`].
    slot: usize,
    /// [`Time`] in nanoseconds; atomic, so that refreshing needs no write lock.
    seen: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<MacAddr, Entry, RandomState>,
    /// The addresses of each port that has any.
    held: HashMap<PortId, Held, RandomState>,
}

#[derive(Debug, Default)]
struct Held {
    macs: Vec<MacAddr>,
    /// Where the next search for an old one starts.
    hand: usize,
}

/// One row of [`Fdb::rows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub mac: MacAddr,
    pub port: PortId,
    pub age: Duration,
}

/// How a table fares; see [`Fdb::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbStats {
    /// Addresses in it now, some of them perhaps too old to be used.
    pub learned: usize,
    /// How often an address was seen on another port than before.
    pub moved: u64,
    /// How many addresses had to go before their time.
    pub evicted: u64,
}

impl Fdb {
    /// Remembers that `mac` is behind `port`, within the bounds of `limits`.
    pub fn learn(&self, now: Time, mac: MacAddr, port: PortId, limits: &Bridge) -> Learned {
        if let Some(entry) = self.table.read().entries.get(&mac)
            && entry.port == port
        {
            let seen = Time::from_nanos(entry.seen.load(Ordering::Relaxed));
            if now - seen > REFRESH {
                entry.seen.store(now.as_nanos(), Ordering::Relaxed);
            }
            return Learned::Known;
        }
        let mut table = self.table.write();
        let from = table.remove(mac);
        while let Some(greedy) = table.over(port, limits) {
            table.evict_an_old_one_of(greedy);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        table.insert(now, mac, port);
        match from {
            None => Learned::New,
            // Another worker was faster.
            Some(from) if from == port => Learned::Known,
            Some(from) => {
                self.moved.fetch_add(1, Ordering::Relaxed);
                Learned::Moved { from }
            }
        }
    }

    /// The port `mac` was last seen on, unless it has aged out.
    pub fn lookup(&self, now: Time, mac: MacAddr) -> Option<PortId> {
        let table = self.table.read();
        let entry = table.entries.get(&mac)?;
        (entry.age(now) < AGEING).then_some(entry.port)
    }

    /// Forgets what has aged out.
    pub fn age(&self, now: Time) {
        let old = |entry: &Entry| entry.age(now) >= AGEING;
        if self.table.read().entries.values().any(old) {
            self.table.write().remove_all(old);
        }
    }

    /// Forgets everything behind the ports that `keep` does not hold for.
    pub fn retain_ports(&self, keep: impl Fn(PortId) -> bool) {
        if !self.table.read().held.keys().all(|&port| keep(port)) {
            self.table.write().remove_all(|entry| !keep(entry.port));
        }
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

    pub fn stats(&self) -> FdbStats {
        FdbStats {
            learned: self.table.read().entries.len(),
            moved: self.moved.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}

impl Entry {
    fn age(&self, now: Time) -> Duration {
        now - Time::from_nanos(self.seen.load(Ordering::Relaxed))
    }
}

impl Table {
    /// Who must give an entry up before `port` may have one more.
    fn over(&self, port: PortId, limits: &Bridge) -> Option<PortId> {
        let holds = |port| self.held.get(&port).map_or(0, |held| held.macs.len());
        if holds(port) >= limits.macs_per_port.max(1) {
            return Some(port);
        }
        if self.entries.len() < limits.macs.max(1) {
            return None;
        }
        // Of several that hold as much it is the asker, who gains nothing by asking more.
        let greediest = self
            .held
            .iter()
            .max_by_key(|&(&other, held)| (held.macs.len(), other == port));
        greediest.map(|(&greediest, _)| greediest)
    }

    fn insert(&mut self, now: Time, mac: MacAddr, port: PortId) {
        let macs = &mut self.held.entry(port).or_default().macs;
        let entry = Entry {
            port,
            slot: macs.len(),
            seen: AtomicU64::new(now.as_nanos()),
        };
        macs.push(mac);
        self.entries.insert(mac, entry);
    }

    /// Forgets `mac`, and tells where it was.
    fn remove(&mut self, mac: MacAddr) -> Option<PortId> {
        let Entry { port, slot, .. } = self.entries.remove(&mac)?;
        if let Some(held) = self.held.get_mut(&port) {
            held.macs.swap_remove(slot);
            if let Some(moved) = held.macs.get(slot)
                && let Some(entry) = self.entries.get_mut(moved)
            {
                entry.slot = slot;
            }
            if held.macs.is_empty() {
                self.held.remove(&port);
            }
        }
        Some(port)
    }

    fn remove_all(&mut self, unwanted: impl Fn(&Entry) -> bool) {
        let unwanted: Vec<MacAddr> = self
            .entries
            .iter()
            .filter(|(_, entry)| unwanted(entry))
            .map(|(&mac, _)| mac)
            .collect();
        for mac in unwanted {
            self.remove(mac);
        }
    }

    /// The one seen longest ago of the next few that `port` holds. The hand goes round, so each is
    /// looked at in its turn, and one that is still in use survives.
    fn evict_an_old_one_of(&mut self, port: PortId) {
        let Some(held) = self.held.get_mut(&port) else {
            return;
        };
        let count = held.macs.len();
        let seen = |mac: &MacAddr| {
            let entry = self.entries.get(mac);
            entry.map(|entry| entry.seen.load(Ordering::Relaxed))
        };
        let oldest = (held.hand..held.hand + SAMPLE.min(count))
            .map(|slot| held.macs[slot % count])
            .min_by_key(seen);
        held.hand = (held.hand + SAMPLE) % count;
        if let Some(mac) = oldest {
            self.remove(mac);
        }
    }
}

#[cfg(test)]
mod tests;
