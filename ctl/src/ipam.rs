//! Addresses: which subnets a new network gets, which addresses an endpoint, which MAC.
//!
//! Pure bookkeeping in memory: no I/O, no clock. What is to survive a restart is the caller's to
//! store, and to give back through [`Pools::hold`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv6Net};
use switch::frame::MacAddr;

mod subnet;

pub(crate) use subnet::{
    AddressPool, Occupied, check_subnet, choose_subnet, choose_ula, ula_prefix,
};

/// Why there is no subnet or no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpamError {
    #[error(
        "no subnet is free in {0}: each overlaps a route of the host or another network; name one \
         with --subnet, or give the daemon other pools (--pool)"
    )]
    NoSubnetFree(String),
    #[error(
        "no IPv6 subnet is free: each /64 of this daemon's {0} overlaps a route of the host or \
         another network; name one with --subnet, or do without (--ipv6=false)"
    )]
    NoUlaFree(Ipv6Net),
    #[error("subnet {wanted} overlaps {other}, {what}; choose another one")]
    Overlap {
        wanted: IpNet,
        other: IpNet,
        what: &'static str,
    },
    #[error(
        "subnet {0} is too small: it needs room for a gateway and a container (at most /30, \
         or /126 for IPv6)"
    )]
    TooSmall(IpNet),
    #[error("subnet {0} is not one that hosts may have addresses in")]
    NotUnicast(IpNet),
    #[error("address {address} is in no subnet of the network, which has {subnets}")]
    Outside { address: IpAddr, subnets: String },
    #[error("range {range} is in no subnet of the network, which has {subnets}")]
    RangeOutside { range: IpNet, subnets: String },
    #[error("address {address} is {why} of {subnet}; choose another one")]
    Reserved {
        address: IpAddr,
        subnet: IpNet,
        why: &'static str,
    },
    #[error("address {address} belongs to {holder}; choose another one, or remove {holder}")]
    Held { address: IpAddr, holder: String },
    #[error("subnet {subnet} is full: all of its {held} addresses are in use")]
    Full { subnet: IpNet, held: u128 },
}

/// The gateway of a network unless the user names one: the first address of its hosts.
pub(crate) fn default_gateway(subnet: IpNet) -> IpAddr {
    nth(subnet, 1)
}

/// The addresses of one network and who holds them: a pool a subnet, IPv4 ones first.
#[derive(Clone, Debug)]
pub(crate) struct Pools(Vec<Allocator>);

impl Pools {
    /// `gateways` has one for each of `subnets`, in their order.
    pub(crate) fn new(subnets: &[IpNet], gateways: &[IpAddr]) -> Result<Pools, IpamError> {
        let pools = subnets.iter().zip(gateways);
        let mut pools = pools
            .map(|(&subnet, &gateway)| Allocator::new(subnet, gateway))
            .collect::<Result<Vec<_>, _>>()?;
        pools.sort_by_key(|pool| pool.subnet.addr().is_ipv6());
        Ok(Pools(pools))
    }

    /// Keeps the addresses that are chosen for those who name none within `ranges`, and gives
    /// `reserved` ones to nobody.
    pub(crate) fn limit(&mut self, ranges: &[IpNet], reserved: &[IpAddr]) -> Result<(), IpamError> {
        let subnets = self.subnets();
        if let Some(&range) = ranges
            .iter()
            .find(|range| !self.0.iter().any(|it| it.subnet.contains(*range)))
        {
            return Err(IpamError::RangeOutside { range, subnets });
        }
        for pool in &mut self.0 {
            pool.limit(ranges);
        }
        for &address in reserved {
            let mut pools = self.0.iter_mut();
            let pool = pools.find(|it| it.subnet.contains(&address));
            let pool = pool.ok_or_else(|| IpamError::Outside {
                address,
                subnets: subnets.clone(),
            })?;
            pool.reserved.insert(address);
        }
        Ok(())
    }

    /// Gives `holder` the addresses that it asks for, and one of each other family that the
    /// network has; IPv4 ones first. All of them, or none.
    ///
    /// The IPv6 address lies as far from the beginning of its subnet as the IPv4 one, so that people
    /// see who is who, and so that both rest equally long when they are released. If that one is
    /// taken, or the network has no IPv4, the next free one is given.
    pub(crate) fn allocate(
        &mut self,
        wanted: &[IpAddr],
        holder: &str,
    ) -> Result<Vec<IpNet>, IpamError> {
        let mut given = self.hold(wanted, holder)?;
        for is_ipv6 in [false, true] {
            if given.iter().any(|net| net.addr().is_ipv6() == is_ipv6) {
                continue;
            }
            let distance = given.first().copied().map(distance);
            match self.next_free(is_ipv6, distance, holder) {
                Ok(net) => given.extend(net),
                Err(error) => {
                    self.release(&given);
                    return Err(error);
                }
            }
        }
        given.sort_by_key(|net| net.addr().is_ipv6());
        Ok(given)
    }

    /// Gives `holder` just these addresses, all of them or none. To ask again for what one holds is
    /// no error.
    pub(crate) fn hold(
        &mut self,
        wanted: &[IpAddr],
        holder: &str,
    ) -> Result<Vec<IpNet>, IpamError> {
        let mut given = Vec::with_capacity(wanted.len());
        for &address in wanted {
            let outcome = match self.0.iter_mut().find(|it| it.subnet.contains(&address)) {
                Some(pool) => pool
                    .allocate_specific(address, holder)
                    .map(|()| pool.net(address)),
                None => Err(IpamError::Outside {
                    address,
                    subnets: self.subnets(),
                }),
            };
            match outcome {
                Ok(net) => given.push(net),
                Err(error) => {
                    self.release(&given);
                    return Err(error);
                }
            }
        }
        given.sort_by_key(|net| net.addr().is_ipv6());
        Ok(given)
    }

    /// Takes addresses back.
    pub(crate) fn release(&mut self, addresses: &[IpNet]) {
        for address in addresses {
            for pool in &mut self.0 {
                pool.release(address.addr());
            }
        }
    }

    /// An address of a family; none where the network has no such subnet.
    fn next_free(
        &mut self,
        is_ipv6: bool,
        distance: Option<u128>,
        holder: &str,
    ) -> Result<Option<IpNet>, IpamError> {
        let mut full = None;
        for pool in &mut self.0 {
            if pool.subnet.addr().is_ipv6() != is_ipv6 {
                continue;
            }
            if let Some(address) = distance.and_then(|distance| pool.at(distance))
                && !pool.held.contains_key(&address)
            {
                pool.held.insert(address, holder.to_owned());
                return Ok(Some(pool.net(address)));
            }
            match pool.allocate(holder) {
                Ok(address) => return Ok(Some(pool.net(address))),
                Err(error) => full = Some(error),
            }
        }
        full.map_or(Ok(None), Err)
    }

    fn subnets(&self) -> String {
        let subnets: Vec<String> = self.0.iter().map(|pool| pool.subnet.to_string()).collect();
        subnets.join(", ")
    }
}

/// The addresses of one subnet and who holds them.
///
/// Addresses are given out in turn, round the subnet, so that one that was released rests as long
/// as possible: peers and caches that remember its last holder get time to forget.
#[derive(Clone, Debug)]
struct Allocator {
    subnet: IpNet,
    gateway: IpAddr,
    /// The addresses that are given to endpoints that name none, as distances from the network
    /// address: ranges in ascending order without overlaps, at least one.
    ranges: Vec<RangeInclusive<u128>>,
    /// The distance to try next.
    next: u128,
    /// Nobody's.
    reserved: BTreeSet<IpAddr>,
    held: BTreeMap<IpAddr, String>,
}

impl Allocator {
    /// All of `subnet` but its network address, its broadcast address (IPv4; in IPv6 the first
    /// address is the routers' anycast address, RFC 4291 clause 2.6.1) and the gateway.
    fn new(subnet: IpNet, gateway: IpAddr) -> Result<Allocator, IpamError> {
        let subnet = subnet.trunc();
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(IpamError::TooSmall(subnet));
        }
        let allocator = Allocator {
            subnet,
            gateway,
            ranges: vec![1..=last(subnet)],
            next: 1,
            reserved: BTreeSet::new(),
            held: BTreeMap::new(),
        };
        match allocator.check(gateway) {
            Ok(()) | Err(IpamError::Reserved { why: GATEWAY, .. }) => Ok(allocator),
            Err(error) => Err(error),
        }
    }

    /// An address with the prefix length of the subnet.
    fn net(&self, address: IpAddr) -> IpNet {
        // The subnet has the length, so it fits the family.
        IpNet::new(address, self.subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
    }

    /// The address at this distance, if an endpoint may have it.
    fn at(&self, distance: u128) -> Option<IpAddr> {
        let given = self.ranges.iter().any(|range| range.contains(&distance));
        let address = given.then(|| nth(self.subnet, distance))?;
        self.check(address).is_ok().then_some(address)
    }

    /// Gives endpoints that name no address those within `ranges` alone, as far as they are of this
    /// subnet. A range that holds no address to give, as the network address alone, is left out.
    fn limit(&mut self, ranges: &[IpNet]) {
        let base = bits(self.subnet.network());
        let own = ranges.iter().filter(|range| self.subnet.contains(*range));
        let mut own: Vec<_> = own
            .map(|range| {
                let first = (bits(range.network()) - base).max(1);
                first..=(bits(range.broadcast()) - base).min(last(self.subnet))
            })
            .filter(|range| !range.is_empty())
            .collect();
        own.sort_by_key(|range| *range.start());
        // Of two CIDR blocks that overlap, one contains the other.
        own.dedup_by(|later, earlier| later.end() <= earlier.end());
        if let Some(first) = own.first() {
            self.next = *first.start();
            self.ranges = own;
        }
    }

    /// How many addresses the ranges have.
    fn size(&self) -> u128 {
        let sizes = self.ranges.iter().map(|it| it.end() - it.start() + 1);
        sizes.fold(0, u128::saturating_add)
    }

    /// The distance behind this one, round all ranges.
    fn after(&self, distance: u128) -> u128 {
        let later = self.ranges.iter().find(|range| *range.end() > distance);
        match later {
            Some(range) => (*range.start()).max(distance + 1),
            None => *self.ranges[0].start(),
        }
    }

    /// Gives `holder` the next free address.
    fn allocate(&mut self, holder: &str) -> Result<IpAddr, IpamError> {
        // Of so many in a row, one is neither held nor reserved nor the subnet's own.
        let enough = (self.held.len() + self.reserved.len() + 4) as u128;
        for _ in 0..enough.min(self.size()) {
            let address = nth(self.subnet, self.next);
            self.next = self.after(self.next);
            if self.check(address).is_ok() && !self.held.contains_key(&address) {
                self.held.insert(address, holder.to_owned());
                return Ok(address);
            }
        }
        Err(IpamError::Full {
            subnet: self.subnet,
            held: self.held.len() as u128,
        })
    }

    /// Gives `holder` the address that it asks for. To ask again for what one holds is no error.
    fn allocate_specific(&mut self, address: IpAddr, holder: &str) -> Result<(), IpamError> {
        self.check(address)?;
        match self.held.get(&address) {
            Some(other) if other != holder => Err(IpamError::Held {
                address,
                holder: other.clone(),
            }),
            _ => {
                self.held.insert(address, holder.to_owned());
                Ok(())
            }
        }
    }

    /// Takes an address back, and tells who held it.
    fn release(&mut self, address: IpAddr) -> Option<String> {
        self.held.remove(&address)
    }

    /// Whether an endpoint may have this address, held or not.
    fn check(&self, address: IpAddr) -> Result<(), IpamError> {
        let subnet = self.subnet;
        if !subnet.contains(&address) {
            return Err(IpamError::Outside {
                address,
                subnets: subnet.to_string(),
            });
        }
        let why = if address == subnet.network() {
            match subnet {
                IpNet::V4(_) => "the network address",
                IpNet::V6(_) => "the routers' anycast address",
            }
        } else if subnet.addr().is_ipv4() && address == subnet.broadcast() {
            "the broadcast address"
        } else if address == self.gateway {
            GATEWAY
        } else if self.reserved.contains(&address) {
            "a reserved address"
        } else {
            return Ok(());
        };
        Err(IpamError::Reserved {
            address,
            subnet,
            why,
        })
    }
}

const GATEWAY: &str = "the gateway";

/// Distance of the last address of a subnet that may be given out.
fn last(subnet: IpNet) -> u128 {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    // `bits` is 128 for ::/0 alone.
    let size_less_one = u128::MAX >> (128 - u32::from(bits));
    match subnet {
        IpNet::V4(_) => size_less_one - 1,
        IpNet::V6(_) => size_less_one,
    }
}

/// The address at a distance from the network address. The distance must lie in the subnet.
fn nth(subnet: IpNet, distance: u128) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + distance as u32)),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + distance)),
    }
}

/// How far an address lies from the network address of its subnet.
fn distance(net: IpNet) -> u128 {
    bits(net.addr()) - bits(net.network())
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The MAC of the endpoint with this address: unicast and locally administered (IEEE 802 clause
/// 8.2: first octet xxxxxx10). The same address gets the same MAC always, so that a peer's ARP
/// cache still holds when a container comes back. Of IPv6 addresses the last 40 bits count, in which
/// those that IPAM chooses differ within a network.
pub(crate) fn mac_for(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            MacAddr([0x02, 0x42, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d, e] = address.octets();
            MacAddr([0x06, a, b, c, d, e])
        }
    }
}

#[cfg(test)]
mod tests;
