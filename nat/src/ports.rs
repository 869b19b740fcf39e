//! External ports: who has which, and who gets the next one.
//!
//! A mapping belongs to an inside endpoint (address and port) for one protocol and one external
//! address, whatever the peer: endpoint-independent mapping (RFC 4787 REQ-1, RFC 5382 REQ-1). The
//! connections of the endpoint share and count it; the last one to end frees the port, which then
//! rests while others are free (RFC 6888 REQ-8).
//!
//! A port is chosen at random among the free ones of the same parity (RFC 4787 REQ-4), then of the
//! other parity, then the one that has rested longest. Only TCP, when none of these is left or the
//! endpoint's address has its quota, gives one port to several endpoints, towards different peers.
//! Whether a peer knows a port already is for the connection table to know: it says which ports
//! fit, and chooses the one to share. The counts are kept here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use crate::time::Time;
use crate::tuple::Protocol;

/// Ports of one sort that are tried for one flow. Bounds the time a packet can take; with nine of
/// ten ports taken towards a peer, the chance that all of these are is 10^-12.
const ATTEMPTS: usize = 256;

/// An inside endpoint, and the external address it is to be seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) protocol: Protocol,
    pub(crate) external: IpAddr,
    pub(crate) address: IpAddr,
    /// Port or ICMP identifier.
    pub(crate) port: u16,
}

/// All external ports, of every protocol and address.
pub(crate) struct Ports {
    /// What the caller holds for us on every external address, without overlaps.
    reserved: HashMap<Protocol, Vec<RangeInclusive<u16>>>,
    pools: HashMap<(Protocol, IpAddr), Pool>,
    random: Random,
    rest: Duration,
}

impl Ports {
    pub(crate) fn new(seed: u64, rest: Duration) -> Ports {
        // ICMP identifiers are nobody's: the host's own echoes find their process by it, and a
        // reply that it did not ask for goes nowhere. So all may be used but 0, with which a
        // tuple does not tell a reply from a request.
        let identifiers = || vec![1..=u16::MAX];
        let reserved = HashMap::from_iter([
            (Protocol::ICMP, identifiers()),
            (Protocol::ICMPV6, identifiers()),
        ]);
        Ports {
            reserved,
            pools: HashMap::new(),
            random: Random::new(seed),
            rest,
        }
    }

    /// Adds ports to all external addresses. Those already there stay as they are.
    pub(crate) fn reserve(&mut self, protocol: Protocol, ports: RangeInclusive<u16>) {
        let reserved = self.reserved.entry(protocol).or_default();
        for port in ports {
            let known = reserved.iter().any(|range| range.contains(&port));
            if known || (port == 0 && !is_identifier(protocol)) {
                continue;
            }
            match reserved
                .iter_mut()
                .find(|range| range.end().checked_add(1) == Some(port))
            {
                Some(range) => *range = *range.start()..=port,
                None => reserved.push(port..=port),
            }
            for ((of, _), pool) in &mut self.pools {
                if *of == protocol {
                    pool.free[usize::from(port % 2)].push(port);
                }
            }
        }
    }

    /// All ports that were reserved, as ranges without overlaps; identifiers too.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = (Protocol, RangeInclusive<u16>)> {
        let ranges = self.reserved.iter();
        ranges.flat_map(|(&protocol, ranges)| {
            ranges.iter().map(move |range| (protocol, range.clone()))
        })
    }

    /// Ports without a mapping, on the external address that has fewest.
    pub(crate) fn free(&self, protocol: Protocol) -> usize {
        let pools = self.pools.iter().filter(|((of, _), _)| *of == protocol);
        pools
            .map(|(_, pool)| pool.available())
            .min()
            .unwrap_or_else(|| {
                self.reserved
                    .get(&protocol)
                    .into_iter()
                    .flatten()
                    .map(ExactSizeIterator::len)
                    .sum()
            })
    }

    /// The port of an endpoint for one more connection: the one it has, or a free one. None when
    /// that does not fit.
    pub(crate) fn acquire(
        &mut self,
        now: Time,
        endpoint: &Endpoint,
        mut fits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let key = (endpoint.protocol, endpoint.external);
        if !self.pools.contains_key(&key) {
            let reserved = self.reserved.get(&endpoint.protocol)?;
            self.pools.insert(key, Pool::new(reserved));
        }
        let pool = self.pools.get_mut(&key)?;
        let inside = (endpoint.address, endpoint.port);
        if let Some(mapping) = pool.mappings.get_mut(&inside) {
            if !fits(mapping.port) {
                return None;
            }
            mapping.connections += 1;
            return Some(mapping.port);
        }
        let port = pool.take(now, endpoint.port % 2, self.rest, &mut self.random, fits)?;
        pool.owned.insert(port);
        pool.mappings.insert(
            inside,
            Mapping {
                connections: 1,
                port,
            },
        );
        Some(port)
    }

    /// The port that an endpoint has.
    pub(crate) fn port(&self, endpoint: &Endpoint) -> Option<u16> {
        let pool = self.pools.get(&(endpoint.protocol, endpoint.external))?;
        let mapping = pool.mappings.get(&(endpoint.address, endpoint.port))?;
        Some(mapping.port)
    }

    /// Whether the end of one connection of an endpoint frees its port.
    pub(crate) fn is_last(&self, endpoint: &Endpoint) -> bool {
        let pool = self.pools.get(&(endpoint.protocol, endpoint.external));
        pool.is_some_and(|pool| {
            let mapping = pool.mappings.get(&(endpoint.address, endpoint.port));
            mapping.is_some_and(|mapping| {
                mapping.connections == 1 && !pool.shared.contains_key(&mapping.port)
            })
        })
    }

    /// One connection less for an endpoint; its last one ends the mapping, which is then true.
    pub(crate) fn release(&mut self, now: Time, endpoint: &Endpoint) -> bool {
        let Some(pool) = self.pools.get_mut(&(endpoint.protocol, endpoint.external)) else {
            return false;
        };
        let inside = (endpoint.address, endpoint.port);
        let Some(mapping) = pool.mappings.get_mut(&inside) else {
            return false;
        };
        mapping.connections = mapping.connections.saturating_sub(1);
        if mapping.connections > 0 {
            return false;
        }
        let port = mapping.port;
        pool.mappings.remove(&inside);
        pool.owned.remove(&port);
        match pool.shared.get_mut(&port) {
            Some(sharers) => sharers.has_owner = false,
            None => pool.resting.push_back((port, now)),
        }
        true
    }

    /// A free port for one flow of an endpoint that has one, but whose own is taken towards the
    /// flow's peer. None when none fits; [`unshare`](Ports::unshare) gives it back.
    pub(crate) fn lend(
        &mut self,
        now: Time,
        endpoint: &Endpoint,
        fits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let pool = self
            .pools
            .get_mut(&(endpoint.protocol, endpoint.external))?;
        if !pool
            .mappings
            .contains_key(&(endpoint.address, endpoint.port))
        {
            return None;
        }
        let port = pool.take(now, endpoint.port % 2, self.rest, &mut self.random, fits)?;
        let sharers = Sharers {
            count: 1,
            has_owner: false,
        };
        pool.shared.insert(port, sharers);
        Some(port)
    }

    /// Ports to try for sharing, when `acquire` gave none: some of those reserved, from a random
    /// one on. Not all of them are in use.
    pub(crate) fn candidates_to_share(
        &mut self,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + use<> {
        let ranges = self.reserved.get(&protocol).cloned().unwrap_or_default();
        let count: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let start = self.random.below(count.max(1));
        (0..count.min(ATTEMPTS)).filter_map(move |step| {
            let mut at = (start + step) % count;
            for range in &ranges {
                if at < range.len() {
                    // Below the length of a range of ports.
                    return Some(range.start() + at as u16);
                }
                at -= range.len();
            }
            None
        })
    }

    /// Whether an endpoint has this port as its own, or connections share it.
    pub(crate) fn is_in_use(&self, protocol: Protocol, external: IpAddr, port: u16) -> bool {
        self.pools
            .get(&(protocol, external))
            .is_some_and(|pool| pool.owned.contains(&port) || pool.shared.contains_key(&port))
    }

    /// One more connection of an endpoint that does not own `port`, which is in use, but whose
    /// peer nobody else has reached from it.
    pub(crate) fn share(&mut self, protocol: Protocol, external: IpAddr, port: u16) {
        let Some(pool) = self.pools.get_mut(&(protocol, external)) else {
            return;
        };
        let has_owner = pool.owned.contains(&port);
        let sharers = pool.shared.entry(port).or_insert(Sharers {
            count: 0,
            has_owner,
        });
        sharers.count += 1;
    }

    /// One such connection less.
    pub(crate) fn unshare(&mut self, now: Time, protocol: Protocol, external: IpAddr, port: u16) {
        let Some(pool) = self.pools.get_mut(&(protocol, external)) else {
            return;
        };
        let Some(sharers) = pool.shared.get_mut(&port) else {
            return;
        };
        sharers.count = sharers.count.saturating_sub(1);
        if sharers.count == 0 {
            let has_owner = sharers.has_owner;
            pool.shared.remove(&port);
            if !has_owner {
                pool.resting.push_back((port, now));
            }
        }
    }
}

fn is_identifier(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// The ports of one protocol on one external address. Each is in one place: free, resting, or with
/// an owner, sharers or both.
struct Pool {
    mappings: HashMap<(IpAddr, u16), Mapping>,
    /// The ports of the mappings.
    owned: HashSet<u16>,
    /// Rested ports, even ones and odd ones.
    free: [Vec<u16>; 2],
    /// Freed ports with the time they were freed, oldest first.
    resting: VecDeque<(u16, Time)>,
    shared: HashMap<u16, Sharers>,
}

struct Mapping {
    connections: u32,
    port: u16,
}

struct Sharers {
    /// Connections of endpoints other than the owner.
    count: u32,
    has_owner: bool,
}

impl Pool {
    fn new(reserved: &[RangeInclusive<u16>]) -> Pool {
        let ports = || reserved.iter().cloned().flatten();
        let free = [0, 1].map(|parity| ports().filter(|port| port % 2 == parity).collect());
        Pool {
            mappings: HashMap::new(),
            owned: HashSet::new(),
            free,
            resting: VecDeque::new(),
            shared: HashMap::new(),
        }
    }

    fn available(&self) -> usize {
        self.free[0].len() + self.free[1].len() + self.resting.len()
    }

    fn take(
        &mut self,
        now: Time,
        parity: u16,
        rest: Duration,
        random: &mut Random,
        mut fits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        while let Some(&(port, freed)) = self.resting.front() {
            if now - freed < rest {
                break;
            }
            self.resting.pop_front();
            self.free[usize::from(port % 2)].push(port);
        }
        for parity in [parity, 1 - parity] {
            let free = &mut self.free[usize::from(parity)];
            if free.is_empty() {
                continue;
            }
            let start = random.below(free.len());
            let mut places = (start..free.len()).chain(0..start).take(ATTEMPTS);
            if let Some(at) = places.find(|&at| fits(free[at])) {
                return Some(free.swap_remove(at));
            }
        }
        let mut resting = self.resting.iter().take(ATTEMPTS);
        let at = resting.position(|&(port, _)| fits(port))?;
        self.resting.remove(at).map(|(port, _)| port)
    }
}

/// Numbers that nobody outside can guess from those seen before (RFC 6888 REQ-15): SipHash of a
/// counter under a secret key.
struct Random {
    key: (u64, u64),
    counter: u64,
}

impl Random {
    fn new(seed: u64) -> Random {
        // The second half of the key need not be secret on its own.
        Random {
            key: (seed, seed.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15),
            counter: 0,
        }
    }

    /// A number below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        use std::hash::Hasher;
        #[expect(
            deprecated,
            reason = "the standard library's only hasher that takes a key"
        )]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(self.counter);
        self.counter = self.counter.wrapping_add(1);
        // The bias for a bound of at most 2^16 is 2^-48.
        (hasher.finish() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests;
