//! The opening of a connection: its quota, its place in the table, its external port.
//!
//! Everything is asked for before anything is taken, and the connection is inserted last, so a
//! refused packet leaves nothing behind. Only what is dead already, expired or over, may be gone.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::{Ledger, Nat, endpoint};
use crate::conntrack::{Connection, Direction, Kind, Shard};
use crate::refused::Refused;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

/// Slots looked at when something must give way. Bounds the time a packet can take.
const SAMPLE: usize = 256;

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
        let mut ledger = self.ledger.lock();
        let inside = match kind {
            Kind::Publish(_) => reply.src,
            Kind::Masquerade | Kind::Routed | Kind::Hairpin(_) => original.src,
        };
        let victim = self.victim(now, shard, &ledger, inside)?;
        if !self.is_vacant(now, shard, &mut ledger, &original) {
            return Err(Refused::TupleInUse);
        }
        let mut shares_port = false;
        if opening.wants_port {
            (reply.dst_port, shares_port) =
                self.external_port(now, shard, &mut ledger, &original, &reply)?;
        } else if !self.is_vacant(now, shard, &mut ledger, &reply) {
            return Err(Refused::TupleInUse);
        }
        if let Some(victim) = victim
            && self.end(now, shard, &mut ledger, victim)
        {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let connection = Connection::new(original, reply, kind, shares_port);
        ledger.open(&connection);
        let closing = connection.clone();
        let Some(slot) = shard.insert(connection, &self.hash) else {
            ledger.close(now, &closing);
            return Err(Refused::TableFull);
        };
        self.len.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    /// The connection that must give way to a new one of `inside`, if the table or the address's
    /// share of it is full. A full share costs its own address; a full table the greediest.
    fn victim(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &Ledger,
        inside: IpAddr,
    ) -> Result<Option<u32>, Refused> {
        // Whether, and if so how willingly, a connection is given up: what is expired first, then
        // what is half open, then what is over.
        let worth = |connection: &Connection| {
            if connection.is_expired(now) {
                Some(2)
            } else if connection.is_half_open() {
                Some(1)
            } else {
                connection.is_over().then_some(0)
            }
        };
        if ledger.count(inside) >= self.limits.max_per_address {
            return shard
                .worst(SAMPLE, |connection| {
                    worth(connection).filter(|_| connection.inside() == inside)
                })
                .map(|(_, slot)| Some(slot))
                .ok_or(Refused::QuotaExceeded);
        }
        if self.len.load(Ordering::Relaxed) >= self.limits.max_connections {
            return shard
                .worst(SAMPLE, |connection| {
                    Some((worth(connection)?, ledger.count(connection.inside())))
                })
                .map(|(_, slot)| Some(slot))
                .ok_or(Refused::TableFull);
        }
        Ok(None)
    }

    /// Whether no connection of the shard has this tuple, one that is expired or over having given
    /// way.
    fn is_vacant(&self, now: Time, shard: &mut Shard, ledger: &mut Ledger, tuple: &Tuple) -> bool {
        let Some((slot, _)) = shard.find(self.hash.tuple(tuple), tuple) else {
            return true;
        };
        let spent = shard
            .get(slot)
            .is_none_or(|connection| connection.is_expired(now) || connection.is_over());
        if spent {
            self.end(now, shard, ledger, slot);
        }
        spent
    }

    /// An external port for a flow, and whether it is somebody else's.
    fn external_port(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        original: &Tuple,
        reply: &Tuple,
    ) -> Result<(u16, bool), Refused> {
        let endpoint = endpoint(original, reply.dst);
        let with = |port| Tuple {
            dst_port: port,
            ..*reply
        };
        let mut port = ledger.ports.acquire(now, &endpoint);
        if port.is_none() {
            // A connection that is over, and that is the last of its mapping, gives it up.
            let recyclable = shard.worst(SAMPLE, |connection| {
                let holder = self::endpoint(&connection.original(), connection.reply().dst);
                let fits = connection.has_external_port()
                    && !connection.shares_port
                    && (connection.is_over() || connection.is_expired(now))
                    && (holder.protocol, holder.external) == (endpoint.protocol, endpoint.external)
                    && ledger.ports.connections(&holder) == 1;
                fits.then_some(())
            });
            if let Some(((), slot)) = recyclable {
                self.end(now, shard, ledger, slot);
                self.counters.recycled.fetch_add(1, Ordering::Relaxed);
                port = ledger.ports.acquire(now, &endpoint);
            }
        }
        if let Some(port) = port {
            // Taken only if somebody shares this port towards this very peer, or if the endpoint
            // dials two published ports that lead to one port of a container.
            if self.is_vacant(now, shard, ledger, &with(port)) {
                return Ok((port, false));
            }
            ledger.ports.release(now, &endpoint);
            if let Some(port) = ledger.ports.lend(now, &endpoint) {
                return Ok((port, true));
            }
        }
        if original.protocol == Protocol::TCP {
            for port in ledger.ports.candidates_to_share(Protocol::TCP) {
                if self.is_vacant(now, shard, ledger, &with(port)) {
                    // What gave way may have been the last to hold a port, which is then free.
                    let mapped = ledger.ports.connections(&endpoint) > 0;
                    let freed = if mapped {
                        ledger.ports.lend(now, &endpoint)
                    } else {
                        ledger.ports.acquire(now, &endpoint)
                    };
                    if let Some(port) = freed {
                        return Ok((port, mapped));
                    }
                    ledger.ports.share(Protocol::TCP, endpoint.external, port);
                    self.counters.shared.fetch_add(1, Ordering::Relaxed);
                    return Ok((port, true));
                }
            }
        }
        Err(Refused::PortsExhausted)
    }
}
