//! The opening of a connection: its quota, its place in the table, its external port.
//!
//! Everything is asked for before anything is taken, and the connection is inserted last, so a
//! refused packet leaves nothing behind. Only what is dead already, expired or over, may be gone.
//!
//! When table, quota or ports are full, one gives way: of a bounded sample from all shards the
//! most dispensable one, of the inside address that holds most. Nobody takes half-open flows from
//! an address that would then hold less than his own, so whoever is greedy spoils it for himself
//! alone. For a port a flow gives way only when its peer has had time to answer. An address that
//! has had many searches fail is refused without a further one for some milliseconds, so that a
//! flood costs little.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::Nat;
use super::ledger::{Ledger, endpoint};
use crate::conntrack::{Admission, Connection, Direction, Kind, Shard};
use crate::ports::{Endpoint, Unquiet, is_privileged};
use crate::refused::Refused;
use crate::rule::{Claim, Target};
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// Slots of each shard looked at when something must give way: at first, and if among them nothing
/// can. Bounds the time a packet can take.
const SAMPLE: usize = 4;
const SECOND_SAMPLE: usize = 16;
const LAST_SAMPLE: usize = 64;

/// A connection about to be opened.
pub(super) struct Opening {
    pub(super) original: Tuple,
    /// With `dst_port` 0 if that is yet to be allocated.
    pub(super) reply: Tuple,
    pub(super) kind: Kind,
    /// Which way the packet that opens it goes.
    pub(super) direction: Direction,
    /// Whether the reply wants an external port.
    pub(super) wants_port: bool,
}

impl Opening {
    /// From inside, untranslated.
    pub(super) fn routed(tuple: &Tuple) -> Opening {
        Opening {
            original: *tuple,
            reply: tuple.reversed(),
            kind: Kind::Routed,
            direction: Direction::Original,
            wants_port: false,
        }
    }

    /// From inside, to be seen as `external` with a port of its own; with the same port if the
    /// protocol's cannot be exchanged.
    pub(super) fn masqueraded(tuple: &Tuple, external: IpAddr, kind: Kind) -> Opening {
        let wants_port = tuple.protocol.has_translated_ports();
        Opening {
            original: *tuple,
            reply: Tuple {
                dst: external,
                dst_port: if wants_port { 0 } else { tuple.src_port },
                ..tuple.reversed()
            },
            kind,
            direction: Direction::Original,
            wants_port,
        }
    }

    /// From outside to a published port.
    pub(super) fn published(tuple: &Tuple, target: Target) -> Opening {
        Opening {
            original: *tuple,
            reply: Tuple {
                src: target.address,
                src_port: target.port,
                ..tuple.reversed()
            },
            kind: Kind::Publish(target.id),
            direction: Direction::Original,
            wants_port: false,
        }
    }

    /// From inside, by a port that is published: a flow from outside, whose answer this is. If
    /// several lead there, the peer may have dialled another, and what it says itself holds.
    pub(super) fn answered(tuple: &Tuple, claim: Claim) -> Opening {
        Opening {
            original: Tuple {
                dst: claim.host,
                dst_port: claim.port,
                ..tuple.reversed()
            },
            reply: *tuple,
            kind: Kind::Publish(claim.id),
            direction: Direction::Reply,
            wants_port: false,
        }
    }

    /// From inside to a published port. The asking side's address becomes the one it dialled (RFC
    /// 4787 REQ-9), so that the answer comes back here even from its own network, or from itself.
    pub(super) fn hairpin(tuple: &Tuple, target: Target) -> Opening {
        let mut opening = Opening::masqueraded(tuple, tuple.dst, Kind::Hairpin(target.id));
        opening.reply.src = target.address;
        opening.reply.src_port = target.port;
        opening
    }
}

/// How willingly a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dispensable {
    /// Nothing more is to be expected of it; but it keeps late segments from a new one.
    Over,
    HalfOpen,
    Expired,
}

fn dispensable(now: Time, connection: &Connection) -> Option<Dispensable> {
    if connection.is_expired(now) {
        Some(Dispensable::Expired)
    } else if connection.is_half_open() {
        Some(Dispensable::HalfOpen)
    } else {
        connection.is_over().then_some(Dispensable::Over)
    }
}

/// A connection that is to give way.
struct Victim<'a> {
    /// Its shard, if that is not the newcomer's.
    elsewhere: Option<MutexGuard<'a, Shard>>,
    slot: u32,
}

impl Nat {
    /// Opens a connection, making room for it if need be. It expires at once unless a packet is
    /// counted for it.
    pub(super) fn open(
        &self,
        now: Time,
        shard: &mut Shard,
        opening: &Opening,
    ) -> Result<u32, Refused> {
        let Opening {
            original,
            mut reply,
            kind,
            ..
        } = *opening;
        let stranger = match kind {
            Kind::Publish(id) if original.protocol == Protocol::TCP => Some(id),
            _ => None,
        };
        let stranger = stranger.filter(|_| opening.direction == Direction::Original);
        // Before any lock that others want: a flood must cost little.
        let oldest = match stranger.map(|id| shard.admit_stranger(now, id)) {
            Some(Admission::Refused) => return Err(Refused::TooManyHalfOpen),
            Some(Admission::InPlaceOf(slot)) => Some(slot),
            Some(Admission::Free) | None => None,
        };
        let mut ledger = self.ledger.lock();
        if let Some(oldest) = oldest
            && self.end(now, shard, &mut ledger, oldest)
        {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let inside = match kind {
            Kind::Publish(_) => reply.src,
            Kind::Masquerade | Kind::Routed | Kind::Hairpin(_) | Kind::HairpinMapped => {
                original.src
            }
        };
        let victim = self.room(now, shard, &mut ledger, inside)?;
        // What has one of its tuples is in its shard, so a victim elsewhere is in nobody's way.
        let leaving = victim
            .as_ref()
            .filter(|victim| victim.elsewhere.is_none())
            .map(|victim| victim.slot);
        if !self.is_vacant(now, shard, &original, None) {
            return Err(Refused::TupleInUse);
        }
        self.vacate(now, shard, &mut ledger, &original, None);
        let mut shares_port = false;
        if opening.wants_port {
            (reply.dst_port, shares_port) =
                self.external_port(now, shard, &mut ledger, (&original, &reply), leaving)?;
        } else if reply == original || !self.is_vacant(now, shard, &reply, None) {
            return Err(Refused::TupleInUse);
        }
        self.vacate(now, shard, &mut ledger, &reply, leaving);
        if let Some(victim) = victim
            && self.sacrifice(now, shard, &mut ledger, victim)
        {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let connection = Connection::new(original, reply, kind, shares_port);
        ledger.open(&connection);
        let closing = connection.clone();
        let Some(slot) = shard.insert(connection, &self.hash) else {
            ledger.close(now, &closing, &self.limits.timeouts);
            return Err(Refused::TableFull);
        };
        if let Some(id) = stranger {
            shard.add_stranger(id, slot);
        }
        self.len.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    /// The connection that must give way to a new one of `inside`, if the table or the address's
    /// share of it is full. A full share costs its own address.
    fn room(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        inside: IpAddr,
    ) -> Result<Option<Victim<'_>>, Refused> {
        let (own, refused) = if ledger.count(inside) >= self.limits.max_per_address {
            (true, Refused::QuotaExceeded)
        } else if self.len.load(Ordering::Relaxed) >= self.limits.max_connections {
            (false, Refused::TableFull)
        } else {
            return Ok(None);
        };
        if !ledger.may_search(now, inside) {
            return Err(refused);
        }
        let fits = |connection: &Connection| !own || connection.inside() == inside;
        let victim = self.victim(now, shard, ledger, inside, fits);
        if victim.is_none() {
            ledger.search_failed(now, inside);
        }
        victim.map(Some).ok_or(refused)
    }

    /// The most dispensable connection of those that fit, of the address that holds most.
    fn victim(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &Ledger,
        inside: IpAddr,
        fits: impl Fn(&Connection) -> bool,
    ) -> Option<Victim<'_>> {
        // Half-open flows are evened out, but nobody takes from who would then have less.
        let fair = ledger.count(inside) + 2;
        // In a small sample the greedy may not be found: then rather look again than at those who
        // have less than their even share.
        let even = self.len() / ledger.holders().max(1);
        let samples = [
            (SAMPLE, fair.max(even)),
            (SECOND_SAMPLE, fair.max(even)),
            (LAST_SAMPLE, fair),
        ];
        for (sample, least) in samples {
            let score = |connection: &Connection| {
                let how = dispensable(now, connection)?;
                let whose = connection.inside();
                let held = ledger.count(whose);
                let may = how != Dispensable::HalfOpen || whose == inside || held >= least;
                (may && fits(connection)).then_some((how, held))
            };
            let here = shard.worst(sample, score);
            let mut worst = here.map(|(score, slot)| {
                let elsewhere = None;
                (score, Victim { elsewhere, slot })
            });
            for other in &self.shards {
                // The newcomer's own is locked too, by us.
                let Some(mut other) = other.try_lock() else {
                    continue;
                };
                let Some((score, slot)) = other.worst(sample, score) else {
                    continue;
                };
                if worst.as_ref().is_none_or(|(highest, _)| score > *highest) {
                    let elsewhere = Some(other);
                    worst = Some((score, Victim { elsewhere, slot }));
                }
            }
            if let Some((_, victim)) = worst {
                return Some(victim);
            }
        }
        None
    }

    /// Ends a victim; false when it has ended by itself.
    fn sacrifice(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        victim: Victim<'_>,
    ) -> bool {
        match victim.elsewhere {
            Some(mut elsewhere) => self.end(now, &mut elsewhere, ledger, victim.slot),
            None => self.end(now, shard, ledger, victim.slot),
        }
    }

    /// Whether a connection may have this tuple: nobody has it, or somebody who gives way, being
    /// expired, over, no more than presumed, or `leaving` anyway. A tuple with an external port that
    /// is free may be somebody's: a container's that sent to it from where a published port leads.
    fn is_vacant(&self, now: Time, shard: &Shard, tuple: &Tuple, leaving: Option<u32>) -> bool {
        let holder = shard.find(self.hash.tuple(tuple), tuple);
        holder.is_none_or(|(slot, _)| {
            let gives_way = |connection: &Connection| {
                connection.is_expired(now) || connection.is_over() || connection.is_presumed()
            };
            leaving == Some(slot) || shard.get(slot).is_none_or(gives_way)
        })
    }

    /// Ends whoever gives way to a connection with this tuple, which is vacant. Who is `leaving`
    /// does so later.
    fn vacate(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        tuple: &Tuple,
        leaving: Option<u32>,
    ) {
        if let Some((slot, _)) = shard.find(self.hash.tuple(tuple), tuple)
            && leaving != Some(slot)
        {
            self.end(now, shard, ledger, slot);
        }
    }

    /// An external port for a flow, and whether it is shared: a free one, for TCP one that others
    /// have towards other peers, or that of a connection which gives way.
    fn external_port(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        (original, reply): (&Tuple, &Tuple),
        leaving: Option<u32>,
    ) -> Result<(u16, bool), Refused> {
        let endpoint = endpoint(original, reply.dst);
        let with = |port| Tuple {
            dst_port: port,
            ..*reply
        };
        // Who sends to his own address and port is not to have them for the answers too: then
        // nothing would tell the one direction from the other.
        let fits = |shard: &Shard, port| {
            let reply = with(port);
            reply != *original
                && self.is_vacant(now, shard, &reply, leaving)
                && self.is_quiet(now, shard, &reply, &endpoint)
        };
        let free = |shard: &Shard, ledger: &mut Ledger| {
            if let Some(port) = ledger.acquire(now, &endpoint, |port| fits(shard, port)) {
                return Some((port, false));
            }
            // Its own is taken towards this peer: somebody shares it, or the endpoint dials two
            // published ports that lead to one port of a container.
            let lent = ledger.ports.lend(now, &endpoint, |port| fits(shard, port));
            lent.map(|port| (port, true))
        };
        if let Some(found) = free(shard, ledger) {
            return Ok(found);
        }
        if !ledger.may_search(now, endpoint.address) {
            return Err(Refused::PortsExhausted);
        }
        let protocol = endpoint.protocol;
        if matches!(protocol, Protocol::TCP | Protocol::UDP) {
            // Sharing costs less than a search for what can be given up, and costs nobody anything.
            for port in ledger.ports.candidates_to_share(protocol) {
                let in_use = |ledger: &Ledger| ledger.ports.is_in_use(protocol, reply.dst, port);
                let quiet = ledger.ports.is_quiet(now, &endpoint, port);
                if is_privileged(protocol, port) && !is_privileged(protocol, endpoint.port) {
                    continue;
                }
                if !in_use(ledger) || !quiet || !fits(shard, port) {
                    continue;
                }
                self.vacate(now, shard, ledger, &with(port), leaving);
                // What gave way may have been the last to hold a port.
                if let Some(found) = free(shard, ledger) {
                    return Ok(found);
                }
                if in_use(ledger) {
                    ledger.ports.share(protocol, reply.dst, port);
                    self.counters.shared.fetch_add(1, Ordering::Relaxed);
                    return Ok((port, true));
                }
            }
        }
        if ledger.has_port_quota(&endpoint) {
            // What its address itself holds and does not need any more may be exchanged.
            self.reclaim(now, shard, ledger, &endpoint, true);
            if ledger.has_port_quota(&endpoint) {
                ledger.search_failed(now, endpoint.address);
                return Err(Refused::QuotaExceeded);
            }
        } else if ledger.ports.port(&endpoint).is_none() {
            // A mapping that is taken towards this peer is no help, and there can be but one.
            self.reclaim(now, shard, ledger, &endpoint, false);
        }
        let found = free(shard, ledger);
        if found.is_none() {
            ledger.search_failed(now, endpoint.address);
        }
        found.ok_or(Refused::PortsExhausted)
    }

    /// Whether nobody else's packets may still come in by a tuple that is vacant: those to a
    /// connection that a RST has ended.
    fn is_quiet(&self, now: Time, shard: &Shard, reply: &Tuple, endpoint: &Endpoint) -> bool {
        let holder = shard.find(self.hash.tuple(reply), reply);
        let holder = holder.and_then(|(slot, _)| shard.get(slot));
        let holder = holder.filter(|connection| connection.has_external_port());
        let unquiet = holder.and_then(|it| it.unquiet(now, &self.limits.timeouts));
        unquiet.is_none_or(|it| it.allows(now, (endpoint.address, endpoint.port)))
    }

    /// Frees the external port of a connection that gives it up to the endpoint, being dispensable,
    /// without an answer to come, and the last of its mapping; one of the endpoint's own address
    /// alone, if only that helps.
    fn reclaim(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        endpoint: &Endpoint,
        own: bool,
    ) {
        let fits = |connection: &Connection| {
            if !connection.has_external_port()
                || connection.shares_port
                || own && connection.inside() != endpoint.address
            {
                return false;
            }
            let unquiet = connection.unquiet(now, &self.limits.timeouts);
            let may_have =
                |it: &Unquiet| it.except_port.is_none() && it.except == Some(endpoint.address);
            if !unquiet.as_ref().is_none_or(may_have) {
                return false;
            }
            let holder = self::endpoint(&connection.original(), connection.reply().dst);
            (holder.protocol, holder.external) == (endpoint.protocol, endpoint.external)
                && ledger.ports.is_last(&holder)
        };
        if let Some(victim) = self.victim(now, shard, ledger, endpoint.address, fits)
            && self.sacrifice(now, shard, ledger, victim)
        {
            self.counters.recycled.fetch_add(1, Ordering::Relaxed);
        }
    }
}
