//! A vector's worth of connections at once: where one translation after the other waits for the
//! memory of its own connection, the memory of all is fetched at the same time.

use std::hint::black_box;

use super::{Nat, Path, SHARDS};
use crate::tuple::Tuple;

/// Packets looked at together, at most.
const VECTOR: usize = 64;

/// A table of fewer connections stays in the cache by itself: 4096 take some 600 KB.
const WORTHWHILE: usize = 1 << 12;

impl Nat {
    /// Brings what these packets will want of the table into the cache, for
    /// [`translate`](Nat::translate) to find it there: of the first 64. A hint: it changes nothing,
    /// leaves out what another thread is busy with, and while the table is small it does nothing,
    /// not even ask for the packets.
    pub fn prefetch(&self, packets: impl IntoIterator<Item = (Path, Tuple)>) {
        if self.len() < WORTHWHILE {
            return;
        }
        let mut wanted = [(0u8, 0u64); VECTOR];
        let mut count = 0;
        for ((path, tuple), wanted) in packets.into_iter().zip(&mut wanted) {
            // Below SHARDS.
            *wanted = (
                self.shard_index(path, &tuple) as u8,
                self.hash.tuple(&tuple),
            );
            count += 1;
        }
        let wanted = &wanted[..count];
        // All locks before all reading, for the processor does not run ahead over one.
        let mut shards = [const { None }; SHARDS];
        for &(shard, _) in wanted {
            let guard = &mut shards[usize::from(shard)];
            if guard.is_none() {
                *guard = self.shards[usize::from(shard)].try_lock();
            }
        }
        let mut read = 0;
        for &(shard, hash) in wanted {
            if let Some(shard) = &shards[usize::from(shard)] {
                read ^= shard.touch(hash);
            }
        }
        black_box(read);
        for &(shard, hash) in wanted {
            if let Some(shard) = &shards[usize::from(shard)] {
                black_box(shard.touch_connection(hash));
            }
        }
    }
}
