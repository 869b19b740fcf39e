//! Where flows from outside come from, for those whose answers would leave by another way.
//!
//! The caller decides which those are, and what an origin means; the engine keeps it with the
//! connection, and asks for no memory for the others.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::{Nat, Path};
use crate::conntrack::{Direction, Kind};
use crate::tuple::Tuple;

/// Where a flow comes from, in words of the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(pub u128);

/// What a packet from inside answers: a flow from outside to a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The address that was dialled, which the answer leaves with.
    pub host: IpAddr,
    pub port: u16,
    pub origin: Option<Origin>,
}

impl Nat {
    /// The flow from outside that a packet with this tuple, from inside, belongs to.
    pub fn answered(&self, tuple: &Tuple) -> Option<Answered> {
        // Containers that publish nothing of this protocol answer nobody.
        if !self.rules.load().claims_any(tuple.protocol, tuple.src) {
            return None;
        }
        let path = Path::Outbound {
            external: tuple.src,
        };
        let shard = self.shard(path, tuple).lock();
        let (slot, direction) = shard.find(self.hash.tuple(tuple), tuple)?;
        let connection = shard.get(slot)?;
        if direction != Direction::Reply || !matches!(connection.kind(), Kind::Publish(_)) {
            return None;
        }
        let dialled = connection.original();
        Some(Answered {
            host: dialled.dst,
            port: dialled.dst_port,
            origin: shard.origin(slot),
        })
    }

    /// Keeps the origin of a flow from outside, by its original tuple, or that it needs none.
    pub fn set_origin(&self, original: &Tuple, origin: Option<Origin>) {
        match origin {
            None if !self.has_origins.load(Ordering::Relaxed) => return,
            None => {}
            Some(_) => self.has_origins.store(true, Ordering::Relaxed),
        }
        let mut shard = self.shard(Path::Inbound, original).lock();
        if let Some((slot, Direction::Original)) = shard.find(self.hash.tuple(original), original) {
            shard.set_origin(slot, origin);
        }
    }
}
