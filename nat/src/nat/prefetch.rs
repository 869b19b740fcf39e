//! A vector's worth of connections at once: where one translation after the other waits for the
//! memory of its own connection, the memory of all is fetched at the same time.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use super::{Nat, Path, SHARDS};
use crate::tuple::{Protocol, Tuple};

/// Packets looked at together, at most.
const VECTOR: usize = 64;

/// A table of fewer connections stays in the cache by itself: 16,384 take some 2 MB.
const WORTHWHILE: usize = 1 << 14;

/// The end of a list.
const NONE: u8 = u8::MAX;

impl Nat {
    /// Brings what these packets will want of the table into the cache, for
    /// [`translate`](Nat::translate) to find it there: of the first 64. A hint: it changes nothing,
    /// leaves out what another thread is busy with, and while the table is small it does nothing,
    /// not even ask for the packets.
    pub fn prefetch(&self, packets: impl IntoIterator<Item = (Path, Tuple)>) {
        if self.len() < WORTHWHILE {
            return;
        }
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let mut tuples = [Tuple {
            src: nobody,
            dst: nobody,
            src_port: 0,
            dst_port: 0,
            protocol: Protocol(0),
        }; VECTOR];
        // By shard, so that each is locked once: a lock keeps the processor from running ahead.
        let mut first = [NONE; SHARDS];
        let mut next = [NONE; VECTOR];
        for (at, (path, tuple)) in packets.into_iter().take(VECTOR).enumerate() {
            tuples[at] = tuple;
            let shard = self.shard_index(path, &tuple);
            next[at] = first[shard];
            // Below VECTOR.
            first[shard] = at as u8;
        }
        for (shard, mut at) in self.shards.iter().zip(first) {
            if at == NONE {
                continue;
            }
            let Some(shard) = shard.try_lock() else {
                continue;
            };
            while at != NONE {
                let tuple = &tuples[usize::from(at)];
                let found = shard.find(self.hash.tuple(tuple), tuple);
                let connection = found.and_then(|(slot, _)| shard.get(slot));
                // The lookup has read the first of its two cache lines, this is in the second.
                black_box(connection.map(|connection| connection.expires));
                at = next[usize::from(at)];
            }
        }
    }
}
