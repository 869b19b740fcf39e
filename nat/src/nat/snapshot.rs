//! Connections that outlive the process: stored while they live, restored by the next one.
//!
//! The engine writes no file. [`Nat::store`] hands out records, each with its place, for whoever
//! keeps them: those of connections that were established or ended since the last call, and a part
//! of all others, so that a round of calls refreshes every record. Nothing of it is on the way of a
//! packet. A death costs the connections that were established after the last call; they behave as
//! all did before: a published one is picked up, a masqueraded one is reset by its peer.
//!
//! [`Nat::restore`] believes a record only where the world is still the one it was made in: its
//! owner is the same endpoint, today's rules would let it begin, its external address is the host's
//! and its external port is reserved and not another's, and quotas have room. Everything else is
//! dropped and counted by reason, and costs no more than the connection.
//!
//! Restore after the rules are set and before the first packet: a packet of a connection that is
//! not restored yet opens one of its own, with another external port.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use super::ledger::endpoint;
use super::{Nat, SHARDS};
use crate::conntrack::{Connection, Kind, Record, Shard, Stored, VACANT};
use crate::rule::{RuleIndex, Target};
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// Records that are next to each other in a store, and of one shard.
const RUN: u64 = 512;

/// A record, and the place in the store that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// Counted in records. Below the largest number of connections there ever were, about.
    pub place: u64,
    pub record: Record,
}

/// The external ports that stored connections had, to be held before they are restored.
pub fn external_ports(records: &[Record]) -> HashMap<Protocol, BTreeSet<u16>> {
    let mut ports = HashMap::<Protocol, BTreeSet<u16>>::new();
    let stored = records.iter().filter_map(|it| Connection::restore(it, 0));
    for connection in stored.map(|stored| stored.connection) {
        let reply = connection.reply();
        let of_host = matches!(reply.protocol, Protocol::TCP | Protocol::UDP);
        if connection.has_external_port() && of_host {
            ports
                .entry(reply.protocol)
                .or_default()
                .insert(reply.dst_port);
        }
    }
    ports
}

/// What became of the records of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Connections that go on.
    pub kept: usize,
    /// Not written whole, or damaged.
    pub damaged: usize,
    /// Their time was up.
    pub expired: usize,
    /// Their endpoint is gone, or its address is another's.
    pub strangers: usize,
    /// The rules of today would not have let them begin, or not with that external address.
    pub forbidden: usize,
    /// Their external port is not reserved, or another connection has it or one of their tuples.
    pub taken: usize,
    /// The table or the endpoint's share of it was full.
    pub crowded: usize,
}

impl Restored {
    /// Records that did not become connections.
    pub fn dropped(&self) -> usize {
        self.damaged + self.expired + self.strangers + self.forbidden + self.taken + self.crowded
    }
}

/// Why a record did not become a connection.
enum Obstacle {
    Expired,
    Stranger,
    Forbidden,
    Taken,
    Crowded,
}

impl Nat {
    /// Adds to `changes` the records that must change: see the module's description. A `part`th of
    /// all connections is looked at besides; all of them when it is 1.
    ///
    /// `epoch` is what the caller's clock, which the next process must have too, showed at
    /// [`Time::ZERO`]. `owner` tells an inside address's owner from every other it may get; a
    /// connection of nobody is not stored.
    pub fn store(
        &self,
        now: Time,
        epoch: u64,
        part: usize,
        owner: impl Fn(IpAddr) -> Option<u64>,
        changes: &mut Vec<StoredAt>,
    ) {
        for (index, shard) in (0..).zip(&self.shards) {
            shard.lock().store(now, part, |slot, connection| {
                let record = connection.and_then(|connection| {
                    let owner = owners(connection, &owner)?;
                    Some(connection.store(owner, epoch))
                });
                changes.push(StoredAt {
                    place: place(index, slot),
                    record: record.unwrap_or(VACANT),
                });
            });
        }
    }

    /// Takes up what [`store`](Nat::store) gave out in an earlier process. Never panics, whatever
    /// the records hold.
    pub fn restore<'a>(
        &self,
        now: Time,
        epoch: u64,
        records: impl IntoIterator<Item = &'a Record>,
        owner: impl Fn(IpAddr) -> Option<u64>,
    ) -> Restored {
        let rules = self.rules.load();
        let mut outcome = Restored::default();
        for record in records {
            if *record == VACANT {
                continue;
            }
            let Some(stored) = Connection::restore(record, epoch) else {
                outcome.damaged += 1;
                continue;
            };
            let count = match self.revive(now, &rules, stored, &owner) {
                Ok(()) => &mut outcome.kept,
                Err(Obstacle::Expired) => &mut outcome.expired,
                Err(Obstacle::Stranger) => &mut outcome.strangers,
                Err(Obstacle::Forbidden) => &mut outcome.forbidden,
                Err(Obstacle::Taken) => &mut outcome.taken,
                Err(Obstacle::Crowded) => &mut outcome.crowded,
            };
            *count += 1;
        }
        outcome
    }

    fn revive(
        &self,
        now: Time,
        rules: &RuleIndex,
        stored: Stored,
        owner: &impl Fn(IpAddr) -> Option<u64>,
    ) -> Result<(), Obstacle> {
        let mut connection = stored.connection;
        if !connection.is_storable(now) {
            return Err(Obstacle::Expired);
        }
        if owners(&connection, owner) != Some(stored.owner) {
            return Err(Obstacle::Stranger);
        }
        let [original, reply] = stored.tuples;
        if let Kind::Publish(_) | Kind::Hairpin(_) = connection.kind() {
            let target = rules.published(original.protocol, original.dst, original.dst_port);
            let target = target.ok_or(Obstacle::Forbidden)?;
            connection.set_rule(Kind::Publish(target.id));
        }
        if !is_consistent(&connection) || !is_allowed(rules, &connection) {
            return Err(Obstacle::Forbidden);
        }
        // No rule names the address that a route's source was; it must be the host's still.
        if matches!(connection.kind(), Kind::Masquerade | Kind::HairpinMapped)
            && !rules.is_external(original.src, reply.dst)
        {
            return Err(Obstacle::Forbidden);
        }
        // What a timeout of today would not allow has been set by the limits of yesterday.
        connection.limit_life(now, &self.limits.timeouts);
        let mut shard = self.shards[self.home(&connection)].lock();
        self.place_restored(&mut shard, connection)
    }

    /// The last step: ports, quotas, and a place in the shard, which is locked.
    fn place_restored(&self, shard: &mut Shard, connection: Connection) -> Result<(), Obstacle> {
        let (original, reply) = (connection.original(), connection.reply());
        let is_known = |tuple: &Tuple| shard.find(self.hash.tuple(tuple), tuple).is_some();
        if is_known(&original) || is_known(&reply) {
            return Err(Obstacle::Taken);
        }
        let mut ledger = self.ledger.lock();
        if self.len() >= self.limits.max_connections
            || ledger.count(connection.inside()) >= self.limits.max_per_address
        {
            return Err(Obstacle::Crowded);
        }
        let endpoint = endpoint(&original, reply.dst);
        if connection.has_external_port() {
            let (port, shares) = (reply.dst_port, connection.shares_port);
            if !shares && ledger.has_port_quota(&endpoint) {
                return Err(Obstacle::Crowded);
            }
            if !ledger.claim(&endpoint, port, shares) {
                return Err(Obstacle::Taken);
            }
        }
        ledger.open(&connection);
        // Fails with four billion slots.
        if shard.insert(connection, &self.hash).is_none() {
            return Err(Obstacle::Crowded);
        }
        self.len.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The shard of a connection, which is the one that packets of its original direction go to.
    fn home(&self, connection: &Connection) -> usize {
        let original = connection.original();
        let (address, port) = match connection.kind() {
            Kind::Masquerade | Kind::Routed => (original.dst, original.dst_port),
            Kind::Publish(_) => (original.src, original.src_port),
            Kind::Hairpin(_) | Kind::HairpinMapped => (original.dst, 0),
        };
        let port = if original.is_icmp() { 0 } else { port };
        self.hash.peer(address, port) as usize % SHARDS
    }
}

/// Where the record of a slot is kept: runs of one shard take turns, so that the store is no longer
/// than the fullest shard makes it.
fn place(shard: u64, slot: u32) -> u64 {
    let slot = u64::from(slot);
    (slot / RUN * SHARDS as u64 + shard) * RUN + slot % RUN
}

/// Whose a connection is: the inside endpoint's, of a hairpin also that of the one it dialled.
fn owners(connection: &Connection, owner: &impl Fn(IpAddr) -> Option<u64>) -> Option<u64> {
    let inside = owner(connection.inside())?;
    match connection.kind() {
        Kind::Hairpin(_) => Some(inside.rotate_left(1) ^ owner(connection.reply().src)?),
        _ => Some(inside),
    }
}

/// Whether the two tuples could be those of a connection of this kind. The checksum says that a
/// record is as it was written, and not that an engine wrote it.
fn is_consistent(connection: &Connection) -> bool {
    let (original, reply) = (connection.original(), connection.reply());
    let has_ports = matches!(
        original.protocol,
        Protocol::TCP | Protocol::UDP | Protocol::SCTP
    );
    let ports_match = match connection.kind() {
        Kind::Masquerade | Kind::HairpinMapped => reply.src_port == original.dst_port,
        Kind::Routed => reply == original.reversed(),
        Kind::Publish(_) => reply.dst_port == original.src_port,
        Kind::Hairpin(_) => true,
    };
    let ports_are_some = !has_ports || (reply.src_port != 0 && reply.dst_port != 0);
    let keeps_ports = original.protocol.has_translated_ports()
        || (original.src_port, original.dst_port) == (reply.dst_port, reply.src_port);
    reply != original && ports_match && ports_are_some && keeps_ports
}

/// Whether the rules would let a connection begin.
pub(super) fn is_allowed(rules: &RuleIndex, connection: &Connection) -> bool {
    let (original, reply) = (connection.original(), connection.reply());
    let Tuple {
        protocol,
        src,
        src_port,
        dst,
        dst_port,
    } = original;
    match connection.kind() {
        Kind::Publish(id) | Kind::Hairpin(id) => {
            let target = Target {
                id,
                address: reply.src,
                port: reply.src_port,
            };
            rules.published_to(src, protocol, dst, dst_port) == Ok(Some(target))
        }
        Kind::Masquerade | Kind::HairpinMapped => {
            let claimed = rules.published_as(dst, protocol, src, src_port, reply.dst);
            rules
                .masquerade(src)
                .is_some_and(|rule| rule.to.is_none_or(|to| to == reply.dst) && claimed.is_none())
        }
        Kind::Routed => {
            rules.masquerade(src).is_none() && !rules.is_published(dst, protocol, src, src_port)
        }
    }
}
