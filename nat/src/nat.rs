//! The engine: one table of connections, in shards, with the rules and the external ports. This
//! page has its types and what the control plane does with it; a packet's way is in `translate`,
//! the opening of a connection in `admission`.

mod admission;
mod fragments;
mod hairpin;
mod ledger;
mod origin;
mod prefetch;
mod snapshot;
mod translate;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use self::ledger::Ledger;
pub use self::origin::{Answered, Origin};
pub use self::snapshot::{Restored, StoredAt, external_ports};
use crate::conntrack::{Connection, ConnectionInfo, Direction, Kind, Shard, Traffic};
use crate::fragment::Fragments;
use crate::limits::Limits;
use crate::ports::Ports;
use crate::rule::{RuleIndex, Rules};
use crate::time::Time;
use crate::tuple::{Protocol, Tuple, TupleHash};

/// Shards of the table, a power of two: some times the number of workers, so that they seldom want
/// the same one.
const SHARDS: usize = 16;

/// Where a packet comes from and where it is about to go, which the caller knows from its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// From inside to an uplink.
    Outbound {
        /// The source address of the route taken.
        external: IpAddr,
    },
    /// From an uplink.
    Inbound,
    /// From inside to one of the host's own addresses.
    Hairpin,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// The original tuple of its connection, or of the one it is an ICMP error about. Of a packet
    /// that passed untracked its own, with ports 0 if it has none.
    pub connection: Tuple,
    pub kind: Kind,
    pub direction: Direction,
    /// It opened the connection.
    pub new: bool,
}

/// Totals since the engine began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections now in the table, expired ones included until they are swept.
    pub connections: usize,
    pub opened: u64,
    /// Connections ended by time, by a rule, by an endpoint's going or by force.
    pub ended: u64,
    /// Of these, half-open ones that made room in a full table or quota.
    pub evicted: u64,
    /// Of these, half-open ones and ones that were over that gave up their external port, when
    /// there was no other.
    pub recycled: u64,
    /// Flows that had to share an external port with another endpoint's.
    pub shared: u64,
    /// TCP RSTs passed on, but not believed: not exactly where the receiver expects the next
    /// byte (RFC 5961 section 3), which is for the receiver to challenge.
    pub implausible_resets: u64,
    /// TCP segments passed on that no window allowed: marked, and never answered.
    pub out_of_window: u64,
}

#[derive(Default)]
struct Counters {
    opened: AtomicU64,
    ended: AtomicU64,
    evicted: AtomicU64,
    recycled: AtomicU64,
    shared: AtomicU64,
    implausible_resets: AtomicU64,
    out_of_window: AtomicU64,
}

/// The NAT engine. All methods take `&self`, and any thread may call them.
///
/// Locks: a packet of a known flow takes its shard's; a new flow, and the end of one, also the
/// ledger's, always after the shard's. Who needs room looks for it in other shards too, but takes
/// only locks that are free. A fragment takes that of the fragments before all others; a
/// whole packet never does.
pub struct Nat {
    limits: Limits,
    hash: TupleHash,
    rules: ArcSwap<RuleIndex>,
    /// What [`Ports`] has been given, for looking up without its lock.
    external_ports: ArcSwap<Vec<(Protocol, RangeInclusive<u16>)>>,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    ledger: Mutex<Ledger>,
    fragments: Mutex<Fragments>,
    /// Connections in all shards.
    len: AtomicUsize,
    /// Some connection has an [`Origin`], or had one.
    has_origins: AtomicBool,
    counters: CachePadded<Counters>,
}

impl Nat {
    /// An engine without rules. `seed` is the secret behind hashes and port choice: random in
    /// production, fixed for a reproducible run.
    pub fn new(limits: Limits, seed: u64) -> Nat {
        let ports = Ports::new(seed, limits.timeouts.port_rest);
        Nat {
            hash: TupleHash::new(seed),
            rules: ArcSwap::from_pointee(RuleIndex::default()),
            shards: (0..SHARDS)
                .map(|_| CachePadded::new(Mutex::default()))
                .collect(),
            external_ports: ArcSwap::default(),
            ledger: Mutex::new(Ledger::new(ports, limits.max_ports_per_address)),
            limits,
            fragments: Mutex::new(Fragments::new(seed)),
            len: AtomicUsize::new(0),
            has_origins: AtomicBool::new(false),
            counters: CachePadded::default(),
        }
    }

    /// Replaces the rules, and ends the flows that they would not have let begin: those to a
    /// published port that now leads elsewhere or nowhere, or is not for their source any more,
    /// those from an inside port that is now published, masqueraded or routed, those whose source
    /// is now masqueraded otherwise, or not at all, and those masqueraded as an address that the
    /// host has lost. A routed flow does not say by which address of the host it would have left,
    /// so one from a port that is published on any of them ends. Packets in flight meet the old
    /// rules or the new ones, and no flow that the new ones forbid remains. The rules already in
    /// force end nothing.
    pub fn set_rules(&self, now: Time, rules: Rules) {
        // Most changes of a configuration are none of the rules, and every connection is looked at.
        if *self.rules.load().rules().as_ref() == rules {
            return;
        }
        let lost = self.rules.load().local_without(&rules);
        self.rules.store(Arc::new(RuleIndex::new(rules)));
        // A worker reads the rules under its shard's lock, so whatever it opened by the old ones
        // is in the shard when its turn comes here.
        let rules = self.rules.load();
        self.end_where(now, |connection| {
            let masqueraded = matches!(connection.kind(), Kind::Masquerade | Kind::HairpinMapped);
            let (original, reply) = (connection.original(), connection.reply());
            let is_lost = masqueraded
                && lost.contains(&reply.dst)
                && !rules.is_external(original.src, reply.dst);
            is_lost || !snapshot::is_allowed(&rules, connection)
        });
        let ids: HashSet<u32> = rules.rules().publish.iter().map(|it| it.id).collect();
        for shard in &self.shards {
            shard.lock().retain_traffic(|id| ids.contains(&id));
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(self.rules.load().rules())
    }

    /// An endpoint went: ends all its flows, so that the next one with its address inherits none,
    /// and frees their external ports. Returns how many there were. Detach the endpoint first, or
    /// its last packets open new ones.
    pub fn forget(&self, now: Time, address: IpAddr) -> usize {
        self.fragments.lock().forget_address(address);
        self.end_where(now, |connection| connection.touches(address))
    }

    /// Ends every connection that `keep` does not keep. Returns how many.
    pub fn flush(&self, now: Time, keep: impl Fn(&ConnectionInfo) -> bool) -> usize {
        self.end_where(now, |connection| !keep(&connection.info(now)))
    }

    /// Adds external ports for masquerading and hairpins, on every external address. The caller
    /// holds them with sockets of its own, so that no process of the host can use them. ICMP
    /// identifiers need none. Ports added before are not added twice.
    pub fn add_external_ports(&self, protocol: Protocol, ports: RangeInclusive<u16>) {
        let mut ledger = self.ledger.lock();
        ledger.ports.reserve(protocol, ports);
        self.external_ports
            .store(Arc::new(ledger.ports.reserved().collect()));
    }

    /// Takes external ports back from every external address, and ends the flows that have them:
    /// the host needs them for itself. Returns how many flows ended.
    pub fn remove_external_ports(
        &self,
        now: Time,
        protocol: Protocol,
        ports: &RangeInclusive<u16>,
    ) -> usize {
        {
            let mut ledger = self.ledger.lock();
            ledger.ports.withdraw(protocol, ports);
            self.external_ports
                .store(Arc::new(ledger.ports.reserved().collect()));
        }
        // Whoever has chosen one of the ports before has its connection in a shard by the time that
        // the shard's turn comes, for both happens under the shard's lock.
        self.end_where(now, |connection| {
            let reply = connection.reply();
            connection.has_external_port()
                && reply.protocol == protocol
                && ports.contains(&reply.dst_port)
        })
    }

    /// External ports that no mapping holds, on the address that has fewest. The caller adds a
    /// further block when few are left.
    pub fn external_ports_free(&self, protocol: Protocol) -> usize {
        self.ledger.lock().ports.free(protocol)
    }

    /// Whether a packet to this address and port of the host reaches a container.
    pub fn is_published(&self, protocol: Protocol, host: IpAddr, port: u16) -> bool {
        self.rules.load().published(protocol, host, port).is_some()
    }

    /// Ends connections whose time has passed, and returns how many; forgets fragments too. The work
    /// is bounded: each call looks at a part of each shard, a sixteenth if that is more than a few
    /// hundred, so call it about once a second. Nothing depends on it but memory and free ports: an
    /// expired connection is dead to packets at once.
    pub fn expire(&self, now: Time) -> usize {
        self.fragments.lock().expire(now, &self.limits);
        let mut ended = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let expired = shard.sweep(now);
            if expired.is_empty() {
                continue;
            }
            let mut ledger = self.ledger.lock();
            for slot in expired {
                ended += usize::from(self.end(now, &mut shard, &mut ledger, slot));
            }
        }
        ended
    }

    /// The live connections, in no order. Locks one shard at a time, so it is a picture of no one
    /// moment.
    pub fn connections(&self, now: Time) -> Vec<ConnectionInfo> {
        let mut all = Vec::with_capacity(self.len());
        for shard in 0..self.shards() {
            all.extend(self.connections_of(now, shard));
        }
        all
    }

    /// In how many parts the table can be listed.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The live connections of one part of the table; none of one that is not there.
    pub fn connections_of(&self, now: Time, shard: usize) -> Vec<ConnectionInfo> {
        let Some(shard) = self.shards.get(shard) else {
            return Vec::new();
        };
        let shard = shard.lock();
        let live = shard
            .iter()
            .filter(|(_, connection)| !connection.is_expired(now));
        live.map(|(_, connection)| connection.info(now)).collect()
    }

    /// What each publish rule in force has carried, by its id; one that nobody has used is left out.
    /// Counts begin with the rule and only grow, `active` apart. Looks at every connection, one shard
    /// at a time.
    pub fn traffic(&self, now: Time) -> HashMap<u32, Traffic> {
        let mut traffic = HashMap::new();
        for shard in &self.shards {
            shard.lock().add_traffic(now, &mut traffic);
        }
        traffic
    }

    /// Connections in the table, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: self.len(),
            opened: read(&counters.opened),
            ended: read(&counters.ended),
            evicted: read(&counters.evicted),
            recycled: read(&counters.recycled),
            shared: read(&counters.shared),
            implausible_resets: read(&counters.implausible_resets),
            out_of_window: read(&counters.out_of_window),
        }
    }

    /// The shard of a packet's flow. It is the one of the far end, which is what both directions
    /// have in common before translation: outside it is the peer, of a hairpin the address of the
    /// host that both sides talk to.
    fn shard(&self, path: Path, tuple: &Tuple) -> &Mutex<Shard> {
        &self.shards[self.shard_index(path, tuple)]
    }

    #[inline]
    fn shard_index(&self, path: Path, tuple: &Tuple) -> usize {
        let (address, port) = match path {
            Path::Outbound { .. } => (tuple.dst, tuple.dst_port),
            Path::Inbound => (tuple.src, tuple.src_port),
            Path::Hairpin => (tuple.dst, 0),
        };
        // An ICMP identifier is the asking side's, so the far end has none.
        let port = if tuple.is_icmp() { 0 } else { port };
        self.hash.peer(address, port) as usize % SHARDS
    }

    /// The shard of the hairpins by one address of the host.
    fn hairpin_shard(&self, host: IpAddr) -> &Mutex<Shard> {
        &self.shards[self.hash.peer(host, 0) as usize % SHARDS]
    }

    /// Ends one connection; false when the slot was empty.
    fn end(&self, now: Time, shard: &mut Shard, ledger: &mut Ledger, slot: u32) -> bool {
        let Some(connection) = shard.remove(slot, &self.hash) else {
            return false;
        };
        ledger.close(now, &connection, &self.limits.timeouts);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn end_where(&self, now: Time, condemned: impl Fn(&Connection) -> bool) -> usize {
        let mut ended = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let slots: Vec<u32> = shard
                .iter()
                .filter(|(_, connection)| condemned(connection))
                .map(|(slot, _)| slot)
                .collect();
            if slots.is_empty() {
                continue;
            }
            let mut ledger = self.ledger.lock();
            for slot in slots {
                ended += usize::from(self.end(now, &mut shard, &mut ledger, slot));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests;
