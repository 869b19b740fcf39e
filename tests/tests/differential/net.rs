//! The network that both have: who is where, with which addresses.
//!
//! ```text
//!   A 10.88.0.2 ─┐                                   ┌─ P 192.0.2.2
//!                ├─ 10.88.0.1 [the NAT] 192.0.2.1 ───┤
//!   B 10.88.0.3 ─┘   8080 to B:80, tcp and udp       └─ Q 192.0.2.3
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{TCP, UDP};

/// Where a packet goes in or comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    A,
    B,
    Outside,
}

pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// A host on one of the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    A,
    B,
    P,
    Q,
}

impl Who {
    pub(crate) const ALL: [Who; 4] = [Who::A, Who::B, Who::P, Who::Q];

    pub(crate) fn side(self) -> Side {
        match self {
            Who::A => Side::A,
            Who::B => Side::B,
            Who::P | Who::Q => Side::Outside,
        }
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        match self {
            Who::A => [2, 0, 0, 0, 0, 0xa],
            Who::B => [2, 0, 0, 0, 0, 0xb],
            Who::P => [2, 0, 0, 0, 1, 2],
            Who::Q => [2, 0, 0, 0, 1, 3],
        }
    }

    pub(crate) fn address(self, ipv6: bool) -> IpAddr {
        let (four, six) = match self {
            Who::A => (Ipv4Addr::new(10, 88, 0, 2), v6(0xfd88, 2)),
            Who::B => (Ipv4Addr::new(10, 88, 0, 3), v6(0xfd88, 3)),
            Who::P => (Ipv4Addr::new(192, 0, 2, 2), v6(0x2001, 2)),
            Who::Q => (Ipv4Addr::new(192, 0, 2, 3), v6(0x2001, 3)),
        };
        if ipv6 { six.into() } else { four.into() }
    }
}

pub(crate) const fn v6(first: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)
}

pub(crate) fn gateway(ipv6: bool) -> IpAddr {
    if ipv6 {
        v6(0xfd88, 1).into()
    } else {
        Ipv4Addr::new(10, 88, 0, 1).into()
    }
}

/// The host's address on the uplink.
pub(crate) fn host(ipv6: bool) -> IpAddr {
    if ipv6 {
        v6(0x2001, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

/// The port of the host that leads to [`SERVED`] of B, of TCP and UDP.
pub(crate) const PUBLISHED: u16 = 8080;
pub(crate) const SERVED: u16 = 80;

pub(crate) fn is_host(address: IpAddr) -> bool {
    address == host(address.is_ipv6())
}

pub(crate) fn is_router(address: IpAddr) -> bool {
    is_host(address) || address == gateway(address.is_ipv6())
}

pub(crate) fn is_published(protocol: u8, port: u16) -> bool {
    matches!(protocol, TCP | UDP) && port == PUBLISHED
}
