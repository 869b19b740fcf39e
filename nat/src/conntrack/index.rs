//! The index of a shard: from the hash of a tuple to the number of what has it.
//!
//! A bucket is one cache line of twelve entries, each with eight bits of its hash, so that a lookup
//! costs one miss here and one for the connection. A bucket that is full sends an entry on to the
//! next one and counts it; a lookup goes on only where something was sent on, and nothing is left
//! behind by what was taken out.
//!
//! That a lookup falls into two steps, each with an address known before, is what it is for: a
//! vector's worth of either can wait for memory at the same time
//! ([`prefetch`](crate::Nat::prefetch)). With a table that answers in one step the processor runs
//! ahead by two or three lookups.

/// Entries of one bucket.
const WIDTH: usize = 12;

/// The tag of an empty place.
const EMPTY: u8 = 0;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    entries: [u32; WIDTH],
    tags: [u8; WIDTH],
    /// Entries that found no place here and are in a bucket further on.
    sent_on: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

const VACANT: Bucket = Bucket {
    entries: [0; WIDTH],
    tags: [EMPTY; WIDTH],
    sent_on: 0,
};

/// See the module's description. Entries of equal hashes are told apart by the caller.
#[derive(Default)]
pub(super) struct Index {
    /// None, or a power of two.
    buckets: Vec<Bucket>,
    len: usize,
}

impl Index {
    /// The entry of this hash that `is_it` holds for, which may be asked about others too, and about
    /// some that were taken out.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        // Every bucket may have been full at some time.
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.get(at)?;
            let mut places = bucket.places(tag);
            while let Some(&entry) = bucket.entries.get(first_of(places)) {
                if is_it(entry) {
                    return Some(entry);
                }
                places &= places - 1;
            }
            if bucket.sent_on == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Reads the bucket that a lookup of this hash begins with.
    #[inline]
    pub(super) fn touch(&self, hash: u64) -> u32 {
        let bucket = self.buckets.get(self.home(hash));
        bucket.map_or(0, |bucket| bucket.sent_on)
    }

    /// The first entry that [`find`](Index::find) would ask about, if it is where the lookup begins.
    #[inline]
    pub(super) fn first(&self, hash: u64) -> Option<u32> {
        let bucket = self.buckets.get(self.home(hash))?;
        let place = first_of(bucket.places(tag(hash)));
        bucket.entries.get(place).copied()
    }

    /// Adds an entry that is not in it. `hash_of` tells the hash of every entry that is.
    pub(super) fn insert(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        // Four fifths full: hardly anything is sent on.
        if self.len * 5 >= self.buckets.len() * WIDTH * 4 {
            self.grow(hash_of);
        }
        self.place(hash, entry);
        self.len += 1;
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let home = self.home(hash);
        let tag = tag(hash);
        let mut at = home;
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            let place = (0..WIDTH)
                .find(|&place| bucket.tags[place] == tag && bucket.entries[place] == entry);
            if let Some(place) = place {
                bucket.tags[place] = EMPTY;
                self.len -= 1;
                let mut passed = home;
                while passed != at {
                    self.buckets[passed].sent_on -= 1;
                    passed = self.next(passed);
                }
                return;
            }
            if bucket.sent_on == 0 {
                return;
            }
            at = self.next(at);
        }
    }

    fn place(&mut self, hash: u64, entry: u32) {
        let mut at = self.home(hash);
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(place) = bucket.tags.iter().position(|&tag| tag == EMPTY) {
                bucket.tags[place] = tag(hash);
                bucket.entries[place] = entry;
                return;
            }
            bucket.sent_on += 1;
            at = self.next(at);
        }
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let buckets = (self.buckets.len() * 2).max(1);
        let old = std::mem::replace(&mut self.buckets, vec![VACANT; buckets]);
        for bucket in old {
            for (entry, tag) in bucket.entries.into_iter().zip(bucket.tags) {
                if tag != EMPTY {
                    self.place(hash_of(entry), entry);
                }
            }
        }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.buckets.len().wrapping_sub(1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.buckets.len() - 1)
    }
}

impl Bucket {
    /// The highest bit of each byte whose place has this tag, and sometimes that of one above such
    /// a byte. All tags are compared at once: a byte without a difference borrows from its highest bit.
    #[inline]
    fn places(&self, tag: u8) -> u128 {
        const ONES: u128 = (u128::MAX / 0xff) >> (8 * (16 - WIDTH));
        let mut tags = [0; 16];
        tags[..WIDTH].copy_from_slice(&self.tags);
        let wanted = u128::from(u64::from(tag) * (u64::MAX / 0xff));
        let differing = u128::from_le_bytes(tags) ^ (wanted | wanted << 64);
        differing.wrapping_sub(ONES) & !differing & ONES << 7
    }
}

/// The first of such places; beyond all when there is none.
#[inline]
fn first_of(places: u128) -> usize {
    places.trailing_zeros() as usize / 8
}

/// Of the hash's other end, so that it tells apart what shares a bucket.
#[inline]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(EMPTY + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Entries as they are asked for again, by few hashes, so that buckets overflow.
    #[derive(Default)]
    struct Both {
        index: Index,
        model: HashMap<u32, u64>,
    }

    impl Both {
        fn insert(&mut self, hash: u64, entry: u32) {
            if self.model.contains_key(&entry) {
                return;
            }
            let Both { index, model } = self;
            index.insert(hash, entry, |entry| model[&entry]);
            model.insert(entry, hash);
        }

        fn remove(&mut self, entry: u32) {
            if let Some(hash) = self.model.remove(&entry) {
                self.index.remove(hash, entry);
            }
        }

        fn check(&self) {
            assert_eq!(self.index.len, self.model.len());
            for (&entry, &hash) in &self.model {
                assert_eq!(self.index.find(hash, |found| found == entry), Some(entry));
            }
            if self.model.is_empty() {
                let mut buckets = self.index.buckets.iter();
                assert!(buckets.all(|bucket| bucket.sent_on == 0 && bucket.tags == [EMPTY; WIDTH]));
            }
        }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(
            hashes in vec(0u64..8, 1..8),
            steps in vec((any::<bool>(), 0usize..8, 0u32..200), 0..600),
        ) {
            let mut both = Both::default();
            for (adds, hash, entry) in steps {
                let hash = hashes[hash % hashes.len()];
                // Half of them differ in their tags alone.
                let hash = hash << 60 | hash & 3;
                if adds {
                    both.insert(hash, entry);
                } else {
                    both.remove(entry);
                }
                both.check();
            }
            for entry in 0..200 {
                both.remove(entry);
            }
            both.check();
        }
    }

    #[test]
    fn what_is_not_in_it_is_not_found() {
        let mut index = Index::default();
        assert_eq!(index.find(7, |_| true), None);
        assert_eq!(index.first(7), None);
        index.remove(7, 1);
        index.insert(7, 1, |_| 7);
        assert_eq!(index.find(7, |_| true), Some(1));
        assert_eq!(index.first(7), Some(1));
        assert_eq!(index.find(7, |_| false), None);
        assert_eq!(index.find(7 | 9 << 56, |_| true), None);
        index.remove(7, 2);
        assert_eq!(index.first(7), Some(1));
    }
}
