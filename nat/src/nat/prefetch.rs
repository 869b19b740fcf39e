//! A vector's worth of connections at once: where one translation after the other waits for the
//! memory of its own connection, the memory of all is fetched at the same time.

use std::hint::black_box;

use super::{Nat, Path, SHARDS};
use crate::tuple::Tuple;

/// Packets looked at together.
const VECTOR: usize = 64;

/// A table of fewer connections stays in the cache by itself: 16,384 take some 2 MB.
const WORTHWHILE: usize = 1 << 14;

/// The end of a list.
const NONE: u8 = u8::MAX;

impl Nat {
    /// Brings what these packets will want of the table into the cache, for
    /// [`translate`](Nat::translate) to find it there. A hint: it changes nothing, leaves out what
    /// another thread is busy with, and does nothing while the table is small.
    pub fn prefetch(&self, packets: &[(Path, Tuple)]) {
        if self.len() < WORTHWHILE {
            return;
        }
        for packets in packets.chunks(VECTOR) {
            // By shard, so that each is locked once: a lock keeps the processor from running ahead.
            let mut first = [NONE; SHARDS];
            let mut next = [NONE; VECTOR];
            let mut hashes = [0; VECTOR];
            for (at, (path, tuple)) in packets.iter().enumerate() {
                let shard = self.shard_index(*path, tuple);
                hashes[at] = self.hash.tuple(tuple);
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
                    let (_, tuple) = &packets[usize::from(at)];
                    let found = shard.find(hashes[usize::from(at)], tuple);
                    let connection = found.and_then(|(slot, _)| shard.get(slot));
                    // The lookup has read the first of its two cache lines, this is in the second.
                    black_box(connection.map(|connection| connection.expires));
                    at = next[usize::from(at)];
                }
            }
        }
    }
}
