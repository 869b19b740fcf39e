//! Which subnets a new network gets, beside what the host and the other networks use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::IpamError;

/// Subnets of a pool that are tried for one network. Bounds the time that a choice takes in a pool
/// of 2^56 subnets which another network covers.
const CANDIDATES: usize = 1 << 16;

/// Addresses that networks without a subnet of their own get theirs from: `base` in subnets of
/// prefix length `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressPool {
    base: IpNet,
    size: u8,
}

impl AddressPool {
    fn candidates(self) -> impl Iterator<Item = IpNet> {
        // The length is between that of the base and its family's longest, so there are some.
        let subnets = self.base.subnets(self.size).into_iter().flatten();
        subnets.take(CANDIDATES)
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.base.addr().is_ipv6()
    }

    /// The pools of a daemon that is given none, which Docker's users know: 172.17.0.0/16 to
    /// 172.31.0.0/16, then 192.168.0.0/16 in subnets of /20, then the lower half of 10.0.0.0/8 in
    /// subnets of /16, all of RFC 1918; and where that is not enough its upper half in subnets of
    /// /20, two thousand more.
    pub(crate) fn defaults() -> Vec<AddressPool> {
        let pool = |first: [u8; 4], length, size| AddressPool {
            base: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(first), length)),
            size,
        };
        let docker = (17..=31).map(|second| pool([172, second, 0, 0], 16, 16));
        let others = [
            pool([192, 168, 0, 0], 16, 20),
            pool([10, 0, 0, 0], 9, 16),
            pool([10, 128, 0, 0], 9, 20),
        ];
        docker.chain(others).collect()
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)
    }
}

impl FromStr for AddressPool {
    type Err = String;

    /// `SUBNET`, or `SUBNET,size=N`; Docker's `base=SUBNET,size=N` too.
    fn from_str(text: &str) -> Result<AddressPool, String> {
        let (base, size) = match text.split_once(',') {
            None => (text, None),
            Some((base, rest)) => (base, Some(rest)),
        };
        let base: IpNet =
            base.strip_prefix("base=").unwrap_or(base).parse().map_err(
                |_| "not SUBNET or SUBNET,size=PREFIX_LENGTH, like 10.200.0.0/16,size=24",
            )?;
        let base = base.trunc();
        let longest = base.max_prefix_len() - 2;
        let usual = match base {
            IpNet::V4(_) => 24,
            IpNet::V6(_) => 64,
        };
        let size = match size {
            None => usual.max(base.prefix_len()),
            Some(size) => size
                .strip_prefix("size=")
                .and_then(|size| size.parse().ok())
                .ok_or("behind the comma there must be size=PREFIX_LENGTH, like size=24")?,
        };
        if !(base.prefix_len()..=longest).contains(&size) {
            return Err(format!(
                "subnets of {base} have prefix lengths from {} to {longest}",
                base.prefix_len()
            ));
        }
        Ok(AddressPool { base, size })
    }
}

/// What is in use already, by the host and by other networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Occupied {
    pub(crate) networks: Vec<IpNet>,
    /// What the host's routes lead to.
    pub(crate) routes: Vec<IpNet>,
    /// The subnets of the host's own addresses.
    pub(crate) connected: Vec<IpNet>,
    /// The host's own addresses, and the routers of its routes.
    pub(crate) hosts: Vec<IpAddr>,
}

impl Occupied {
    /// The most specific route or connected subnet of the host that covers a subnet: its part of it
    /// is not reached any more, since the more specific one wins.
    pub(crate) fn covering(&self, subnet: IpNet) -> Option<IpNet> {
        let all = self.routes.iter().chain(&self.connected).copied();
        all.filter(|net| says_something(net) && net.contains(&subnet))
            .max_by_key(IpNet::prefix_len)
    }
}

/// Chooses the subnet of a new network: the first of the pools that overlaps nothing.
///
/// Where the host has routes to all private addresses (a company's network, a VPN) there is none.
/// Then it is the first that only less specific routes cover, of those to other links: it takes
/// nothing away that the host names more precisely.
///
/// Default routes overlap everything and so say nothing; the same goes for the two halves of one
/// (0.0.0.0/1 and 128.0.0.0/1) that VPN clients lay over it.
pub(crate) fn choose_subnet(
    pools: &[AddressPool],
    occupied: &Occupied,
) -> Result<IpNet, IpamError> {
    choose(|| pools.iter().flat_map(|pool| pool.candidates()), occupied).ok_or_else(|| {
        let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
        IpamError::NoSubnetFree(pools.join(", "))
    })
}

/// Chooses the IPv6 subnet of a new network: the first /64 of `prefix` that overlaps nothing, as
/// [`choose_subnet`] does. They go by number, `fd12:3456:789a:0::/64` first.
pub(crate) fn choose_ula(prefix: Ipv6Net, occupied: &Occupied) -> Result<IpNet, IpamError> {
    let pool = AddressPool {
        base: IpNet::V6(prefix),
        size: 64,
    };
    choose(|| pool.candidates(), occupied).ok_or(IpamError::NoUlaFree(prefix))
}

fn choose<C: Iterator<Item = IpNet>>(
    candidates: impl Fn() -> C,
    occupied: &Occupied,
) -> Option<IpNet> {
    let Occupied {
        networks,
        routes,
        connected,
        hosts,
    } = occupied;
    let hosts: Vec<IpNet> = hosts.iter().copied().map(IpNet::from).collect();
    let neighbors = [&networks[..], connected, &hosts].concat();
    let all = Taken::new(&[&neighbors[..], routes].concat());
    if let Some(free) = candidates().find(|it| !all.overlaps(*it)) {
        return Some(free);
    }
    let neighbors = Taken::new(&neighbors);
    let named = Named::new(routes);
    candidates().find(|it| !neighbors.overlaps(*it) && !named.any_within(*it))
}

/// The site prefix of a daemon: `fd00::/8` with a global id that it drew at random (RFC 4193
/// clause 3.2), so that two daemons' networks may be joined one day. Of `global_id` the last 40
/// bits count.
pub(crate) fn ula_prefix(global_id: u64) -> Ipv6Net {
    let bits = 0xfd_u128 << 120 | u128::from(global_id & 0xff_ffff_ffff) << 80;
    Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), 48)
}

/// Checks a subnet that the user named for a new network, and hands it back without its host bits.
///
/// It may lie within a less specific route of the host, or within the subnet of a link: of two
/// routes the more specific one wins (RFC 1812 clause 5.2.4.3), and the user has said so. It may
/// hold neither an address of the host or of a router, nor what a route of the host names as
/// precisely or more so.
pub(crate) fn check_subnet(wanted: IpNet, occupied: &Occupied) -> Result<IpNet, IpamError> {
    let wanted = wanted.trunc();
    let first = wanted.network();
    // A link-local address means another host on every link.
    let link_local = match first {
        IpAddr::V4(first) => first.is_link_local(),
        IpAddr::V6(first) => first.is_unicast_link_local(),
    };
    if first.is_loopback() || first.is_multicast() || link_local || wanted.prefix_len() == 0 {
        return Err(IpamError::NotUnicast(wanted));
    }
    if wanted.max_prefix_len() - wanted.prefix_len() < 2 {
        return Err(IpamError::TooSmall(wanted));
    }
    let overlap = |other: IpNet, what| {
        Err(IpamError::Overlap {
            wanted,
            other,
            what,
        })
    };
    let mut networks = occupied.networks.iter();
    if let Some(&other) = networks.find(|it| it.contains(&wanted) || wanted.contains(*it)) {
        return overlap(other, "the subnet of another network");
    }
    let mut reached = occupied.routes.iter().chain(&occupied.connected);
    if let Some(&other) = reached.find(|it| says_something(it) && wanted.contains(*it)) {
        return overlap(other, "which the host reaches already");
    }
    let mut hosts = occupied.hosts.iter();
    if let Some(&other) = hosts.find(|it| wanted.contains(*it)) {
        return overlap(
            other.into(),
            "an address of the host or of one of its routers",
        );
    }
    Ok(wanted)
}

/// Default routes overlap everything.
fn says_something(net: &IpNet) -> bool {
    net.prefix_len() > 1
}

/// What is not to be overlapped, for many questions: there are thousands of candidates, and a
/// router knows many routes.
struct Taken {
    /// None overlaps another.
    sorted: Vec<IpNet>,
}

impl Taken {
    fn new(taken: &[IpNet]) -> Taken {
        let taken = taken.iter().copied().filter(says_something);
        let mut sorted = IpNet::aggregate(&taken.collect());
        sorted.sort();
        Taken { sorted }
    }

    fn overlaps(&self, wanted: IpNet) -> bool {
        // Of those that begin before `wanted` ends the last one ends last.
        let later = self
            .sorted
            .partition_point(|net| net.network() <= wanted.broadcast());
        self.sorted[..later]
            .last()
            .is_some_and(|net| net.broadcast() >= wanted.network())
    }
}

/// What routes name, each by itself.
struct Named {
    sorted: Vec<IpNet>,
}

impl Named {
    fn new(routes: &[IpNet]) -> Named {
        let mut sorted: Vec<IpNet> = routes.iter().copied().filter(says_something).collect();
        sorted.sort();
        Named { sorted }
    }

    /// Whether one of them lies within `wanted`, or is the same.
    fn any_within(&self, wanted: IpNet) -> bool {
        let start = self
            .sorted
            .partition_point(|net| net.network() < wanted.network());
        let mut begin_within = self.sorted[start..]
            .iter()
            .take_while(|net| net.network() <= wanted.broadcast());
        begin_within.any(|net| wanted.contains(net))
    }
}
