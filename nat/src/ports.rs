//! External ports: who has which, and who gets the next one.
//!
//! A mapping belongs to an inside endpoint (address and port) for one protocol and one external
//! address, whatever the peer: endpoint-independent mapping (RFC 4787 REQ-1, RFC 5382 REQ-1). The
//! connections of the endpoint share and count it; the last one to end frees the port, which then
//! rests while others are free (RFC 6888 REQ-8).
//!
//! A port is chosen at random among the free ones of the same parity (RFC 4787 REQ-4), then of the
//! other parity, then the one that has rested longest. When none of these is left or the endpoint's
//! address has its quota, one port is given to several endpoints, towards different peers: mappings
//! are endpoint-independent while there are enough ports for that. Whether a peer knows a port
//! already is for the connection table to know: it says which ports fit, and chooses the one to
//! share. The counts are kept here.
//!
//! An inside port below 1024 is given one below 1024, if the caller has reserved such (RFC 4787
//! REQ-3a): servers take it for a sign of a privileged client. No other gets those.
//!
//! A flow that ends while its peer may still answer (it was evicted, or its endpoint was removed)
//! leaves its port *unquiet* for a time. No other endpoint gets that port before, whatever the
//! shortage, so no answer reaches anybody but the endpoint that asked.

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

/// Until when packets to the port of a flow that has ended may still come in, and who may have the
/// port all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unquiet {
    pub(crate) until: Time,
    /// An inside address.
    pub(crate) except: Option<IpAddr>,
    /// The port of the endpoint at that address; every one of the address if there is none.
    pub(crate) except_port: Option<u16>,
}

impl Unquiet {
    /// Whether the endpoint of this address and port may have the port now.
    pub(crate) fn allows(&self, now: Time, (address, port): (IpAddr, u16)) -> bool {
        self.until <= now
            || self.except == Some(address) && self.except_port.is_none_or(|only| only == port)
    }

    /// Of two flows that have ended on one port.
    fn and(self, other: Unquiet) -> Unquiet {
        let until = self.until.max(other.until);
        let ports = (self.except_port, other.except_port);
        let (except, except_port) = match ports {
            _ if self.except != other.except => (None, None),
            (Some(one), Some(another)) if one != another => (None, None),
            (one, another) => (self.except, one.or(another)),
        };
        Unquiet {
            until,
            except,
            except_port,
        }
    }
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
                    pool.free[sort(protocol, port)].push(port);
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
            .unwrap_or_else(|| self.count(protocol))
    }

    /// Ports without a mapping on one external address, those below 1024 left out.
    pub(crate) fn available(&self, protocol: Protocol, external: IpAddr) -> usize {
        match self.pools.get(&(protocol, external)) {
            Some(pool) => pool.free[0].len() + pool.free[1].len() + pool.resting.len(),
            None => self.count(protocol),
        }
    }

    fn count(&self, protocol: Protocol) -> usize {
        let reserved = self.reserved.get(&protocol).into_iter().flatten();
        reserved.map(ExactSizeIterator::len).sum()
    }

    /// Takes ports back from all external addresses. One that is in use goes with its last
    /// connection, which the caller ends.
    pub(crate) fn withdraw(&mut self, protocol: Protocol, ports: &RangeInclusive<u16>) {
        let Some(reserved) = self.reserved.get_mut(&protocol) else {
            return;
        };
        let left = reserved.iter().flat_map(|range| {
            let below = *range.start()..=(*range.end()).min(ports.start().saturating_sub(1));
            let above = (*range.start()).max(ports.end().saturating_add(1))..=*range.end();
            let whole = range.end() < ports.start() || ports.end() < range.start();
            if whole {
                [Some(range.clone()), None]
            } else {
                // Nothing is below port 0, nor above the last one.
                let is_below = range.start() < ports.start();
                let is_above = range.end() > ports.end();
                [is_below.then_some(below), is_above.then_some(above)]
            }
        });
        *reserved = left.flatten().collect();
        for ((of, _), pool) in &mut self.pools {
            if *of == protocol {
                for free in &mut pool.free {
                    free.retain(|port| !ports.contains(port));
                }
                pool.resting.retain(|(port, _)| !ports.contains(port));
            }
        }
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
            self.pools
                .insert(key, Pool::new(endpoint.protocol, reserved));
        }
        let pool = self.pools.get_mut(&key)?;
        let inside = (endpoint.address, endpoint.port);
        if let Some(mapping) = pool.mappings.get_mut(&inside) {
            let unquiet = pool.unquiet.get(&mapping.port);
            if !unquiet.is_none_or(|it| it.allows(now, inside)) || !fits(mapping.port) {
                return None;
            }
            mapping.connections += 1;
            return Some(mapping.port);
        }
        let port = pool.take(now, inside, self.rest, &mut self.random, fits)?;
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
            None => self.lay_to_rest(now, endpoint.protocol, endpoint.external, port),
        }
        true
    }

    /// A flow on a port has ended whose peer may still send. Call it before the port is released.
    pub(crate) fn disquiet(
        &mut self,
        protocol: Protocol,
        external: IpAddr,
        port: u16,
        unquiet: Unquiet,
    ) {
        if let Some(pool) = self.pools.get_mut(&(protocol, external)) {
            let known = pool.unquiet.entry(port).or_insert(unquiet);
            *known = known.and(unquiet);
        }
    }

    /// Whether an endpoint may use a port, or packets for another may still come in there.
    pub(crate) fn is_quiet(&self, now: Time, endpoint: &Endpoint, port: u16) -> bool {
        let pool = self.pools.get(&(endpoint.protocol, endpoint.external));
        pool.and_then(|pool| pool.unquiet.get(&port))
            .is_none_or(|it| it.allows(now, (endpoint.address, endpoint.port)))
    }

    /// Nobody has this port any more.
    fn lay_to_rest(&mut self, now: Time, protocol: Protocol, external: IpAddr, port: u16) {
        let reserved = self.reserved.get(&protocol).into_iter().flatten();
        let is_held = reserved.into_iter().any(|range| range.contains(&port));
        if let Some(pool) = self.pools.get_mut(&(protocol, external))
            && is_held
        {
            pool.resting.push_back((port, now));
        }
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
        let inside = (endpoint.address, endpoint.port);
        let port = pool.take(now, inside, self.rest, &mut self.random, fits)?;
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
                self.lay_to_rest(now, protocol, external, port);
            }
        }
    }

    /// A certain port for one more connection of an endpoint, which had it in an earlier process;
    /// false when the endpoint has another, another endpoint has it, or it is not reserved.
    pub(crate) fn claim(&mut self, endpoint: &Endpoint, port: u16) -> bool {
        let Some(pool) = self.pool(endpoint.protocol, endpoint.external) else {
            return false;
        };
        let inside = (endpoint.address, endpoint.port);
        if let Some(mapping) = pool.mappings.get_mut(&inside) {
            let same = mapping.port == port;
            mapping.connections += u32::from(same);
            return same;
        }
        if pool.owned.contains(&port) {
            return false;
        }
        if let Some(sharers) = pool.shared.get_mut(&port) {
            sharers.has_owner = true;
        } else if !pool.take_out(port) {
            return false;
        }
        pool.owned.insert(port);
        let connections = 1;
        pool.mappings.insert(inside, Mapping { connections, port });
        true
    }

    /// The same for one that shared the port, whoever else is there again already.
    pub(crate) fn claim_shared(&mut self, endpoint: &Endpoint, port: u16) -> bool {
        let Some(pool) = self.pool(endpoint.protocol, endpoint.external) else {
            return false;
        };
        let has_owner = pool.owned.contains(&port);
        if !has_owner && !pool.shared.contains_key(&port) && !pool.take_out(port) {
            return false;
        }
        let count = 0;
        let sharers = pool.shared.entry(port);
        sharers.or_insert(Sharers { count, has_owner }).count += 1;
        true
    }

    fn pool(&mut self, protocol: Protocol, external: IpAddr) -> Option<&mut Pool> {
        let reserved = self.reserved.get(&protocol)?;
        let pool = self.pools.entry((protocol, external));
        Some(pool.or_insert_with(|| Pool::new(protocol, reserved)))
    }
}

/// The highest port of those that only privileged processes may use.
const LAST_PRIVILEGED: u16 = 1023;

pub(crate) fn is_privileged(protocol: Protocol, port: u16) -> bool {
    !is_identifier(protocol) && port <= LAST_PRIVILEGED
}

/// Which of a pool's free ports one belongs to: by parity, the privileged ones apart.
fn sort(protocol: Protocol, port: u16) -> usize {
    usize::from(port % 2) + 2 * usize::from(is_privileged(protocol, port))
}

fn is_identifier(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// The ports of one protocol on one external address. Each is in one place: free, resting, or with
/// an owner, sharers or both.
struct Pool {
    protocol: Protocol,
    mappings: HashMap<(IpAddr, u16), Mapping>,
    /// The ports of the mappings.
    owned: HashSet<u16>,
    /// Rested ports, by [`sort`].
    free: [Vec<u16>; 4],
    /// Freed ports with the time they were freed, oldest first.
    resting: VecDeque<(u16, Time)>,
    shared: HashMap<u16, Sharers>,
    /// Ports, in use or not, to which packets for a flow that has ended may come in.
    unquiet: HashMap<u16, Unquiet>,
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
    fn new(protocol: Protocol, reserved: &[RangeInclusive<u16>]) -> Pool {
        let ports = || reserved.iter().cloned().flatten();
        let of_sort = |it| ports().filter(|&port| sort(protocol, port) == it).collect();
        let free = [0, 1, 2, 3].map(of_sort);
        Pool {
            protocol,
            mappings: HashMap::new(),
            owned: HashSet::new(),
            free,
            resting: VecDeque::new(),
            shared: HashMap::new(),
            unquiet: HashMap::new(),
        }
    }

    /// Takes a port out of those that nobody has; false when it is none of them.
    fn take_out(&mut self, port: u16) -> bool {
        let free = &mut self.free[sort(self.protocol, port)];
        if let Some(at) = free.iter().position(|&it| it == port) {
            free.swap_remove(at);
            return true;
        }
        let at = self.resting.iter().position(|&(it, _)| it == port);
        at.is_some_and(|at| self.resting.remove(at).is_some())
    }

    fn available(&self) -> usize {
        let free: usize = self.free.iter().map(Vec::len).sum();
        free + self.resting.len()
    }

    fn take(
        &mut self,
        now: Time,
        inside: (IpAddr, u16),
        rest: Duration,
        random: &mut Random,
        mut fits: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        while let Some(&(port, freed)) = self.resting.front() {
            if now - freed < rest {
                break;
            }
            self.resting.pop_front();
            self.free[sort(self.protocol, port)].push(port);
        }
        let unquiet = &self.unquiet;
        let mut fits =
            |port| unquiet.get(&port).is_none_or(|it| it.allows(now, inside)) && fits(port);
        let privileged = |port| is_privileged(self.protocol, port);
        let parity = usize::from(inside.1 % 2);
        let mut found = None;
        let others = [parity, 1 - parity];
        let sorts = [2 + parity, 3 - parity].into_iter().chain(others);
        for sort in sorts.skip(if privileged(inside.1) { 0 } else { 2 }) {
            let free = &mut self.free[sort];
            if free.is_empty() {
                continue;
            }
            let start = random.below(free.len());
            let mut places = (start..free.len()).chain(0..start).take(ATTEMPTS);
            if let Some(at) = places.find(|&at| fits(free[at])) {
                found = Some(free.swap_remove(at));
                break;
            }
        }
        let port = found.or_else(|| {
            let mut resting = self.resting.iter().take(ATTEMPTS);
            let may_have = |port| privileged(inside.1) || !privileged(port);
            let at = resting.position(|&(port, _)| may_have(port) && fits(port))?;
            self.resting.remove(at).map(|(port, _)| port)
        })?;
        if self.unquiet.get(&port).is_some_and(|it| it.until <= now) {
            self.unquiet.remove(&port);
        }
        Some(port)
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
