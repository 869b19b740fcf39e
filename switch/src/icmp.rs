//! ICMP errors of the gateway's own: what tells a sender why its packet went no further.
//!
//! Written in place over the packet they are about, in the words of its family (`v4`, `v6`), and
//! rate-limited (RFC 1812 4.3.2.8, RFC 4443 2.4 f), so that a flood of hopeless packets costs no
//! more than the drops.

mod v4;
mod v6;

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use nat::{Refused, Time};

use crate::drop::DropReason;
use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr, VnetHeader, ethertype};
use crate::rate::RateLimit;

/// What the sender of a dropped packet should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    TimeExceeded,
    NoRoute,
    /// A route says so: of IPv4 it is the host that is unreachable, of IPv6 there is no route.
    Unreachable,
    AddressUnreachable,
    Prohibited,
    /// The packet may not be fragmented, and the next link carries this many bytes.
    TooBig(u32),
    /// The source address is good on its own link only (RFC 4291 2.5.6).
    BeyondScope,
}

impl Complaint {
    /// The complaint about a packet dropped for `reason`; none where silence is right, and none
    /// about its size, which takes the size that would do.
    pub(crate) fn about(reason: DropReason) -> Option<Complaint> {
        match reason {
            DropReason::TtlExceeded => Some(Complaint::TimeExceeded),
            // As the kernel does (fib_props): a blackhole says nothing.
            DropReason::NoRoute
            | DropReason::NotAnUplink
            | DropReason::Nat(Refused::NoExternalAddress) => Some(Complaint::NoRoute),
            DropReason::RouteUnreachable => Some(Complaint::Unreachable),
            DropReason::UnknownEndpoint => Some(Complaint::AddressUnreachable),
            DropReason::BeyondScope => Some(Complaint::BeyondScope),
            DropReason::RouteProhibited
            | DropReason::OtherNetwork
            | DropReason::InternalNetwork
            | DropReason::Isolated => Some(Complaint::Prohibited),
            // A NAT without resources says nothing, though RFC 5508 REQ-8 and RFC 6888 REQ-11
            // suggest it: the shortage passes, and a sender that is told gives up a flow which its
            // next segment would open.
            _ => None,
        }
    }
}

/// An error's type and code, and the four bytes behind its checksum.
type Header = (u8, u8, u32);

/// Turns the dropped packet in `frame` into the error about it, to its sender, from the router with
/// this MAC and these addresses. False, and the frame as it was, where none may be sent: about
/// errors, later fragments, and anything to or from a group or nobody.
pub(crate) fn turn_into_error(
    frame: &mut Frame,
    complaint: Complaint,
    router: (MacAddr, &[IpAddr]),
) -> bool {
    let (mac, addresses) = router;
    let bytes = frame.bytes();
    let Some((sender, destination)) = frame::source(bytes).zip(frame::destination(bytes)) else {
        return false;
    };
    if destination.is_multicast() {
        return false;
    }
    let written = match frame::ethertype_of(bytes) {
        Some(ethertype::IPV4) => v4::write(frame, complaint, addresses),
        Some(ethertype::IPV6) => v6::write(frame, complaint, (mac, addresses)),
        _ => false,
    };
    if written {
        frame::set_destination(frame.bytes_mut(), sender);
        frame::set_source(frame.bytes_mut(), mac);
    }
    written
}

/// Puts `headers` bytes, all zero, in front of the first `quoted` bytes of the packet in `frame`.
/// Returns the packet that this makes.
fn put_before(frame: &mut Frame, headers: usize, quoted: usize) -> &mut [u8] {
    frame.set_len(ETHERNET_HEADER + headers + quoted);
    frame.set_vnet(VnetHeader::default());
    let packet = &mut frame.bytes_mut()[ETHERNET_HEADER..];
    packet.copy_within(..quoted, headers);
    packet[..headers].fill(0);
    packet
}

/// Errors that each port, and each group of hosts beyond the uplinks, is told a second whatever the
/// others provoke; and how many it is told if they leave room. Traceroute and path MTU discovery
/// need a few.
const ASSURED: u32 = 50;
const AT_MOST: u32 = 250;
/// Errors a second beyond what is assured, to all.
const SHARED: u32 = 1000;
/// Groups of hosts beyond the uplinks, by their addresses: memory stays the same, whoever asks.
const GROUPS: usize = 256;

/// What one port was told.
#[derive(Debug, Default)]
pub(crate) struct ErrorClocks {
    assured: RateLimit,
    all: RateLimit,
}

/// How many errors the gateway tells (RFC 1812 4.3.2.8, RFC 4443 2.4 f): each of its neighbours has
/// a share that no other one can use up.
#[derive(Debug)]
pub(crate) struct ErrorLimits {
    shared: RateLimit,
    groups: Box<[ErrorClocks]>,
    /// Keyed, so that nobody can choose to share a group with somebody.
    hasher: RandomState,
}

impl Default for ErrorLimits {
    fn default() -> ErrorLimits {
        ErrorLimits {
            shared: RateLimit::default(),
            groups: (0..GROUPS).map(|_| ErrorClocks::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl ErrorLimits {
    /// Whether the one behind a port may be told one more now.
    pub(crate) fn admit(&self, now: Time, clocks: &ErrorClocks) -> bool {
        clocks.assured.admit(now, ASSURED)
            || clocks.all.admit(now, AT_MOST) && self.shared.admit(now, SHARED)
    }

    /// Whether a host beyond the uplinks may be told one more now.
    pub(crate) fn admit_peer(&self, now: Time, peer: IpAddr) -> bool {
        let group = self.hasher.hash_one(peer) as usize % GROUPS;
        self.admit(now, &self.groups[group])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_uses_up_the_errors_of_another() {
        let limits = ErrorLimits::default();
        let second = |n: u64| Time::ZERO + std::time::Duration::from_secs(10 + n);
        let greedy: Vec<ErrorClocks> = (0..100).map(|_| ErrorClocks::default()).collect();
        let victim = ErrorClocks::default();
        for n in 0..3 {
            let told = |clocks| {
                (0..3000)
                    .filter(|_| limits.admit(second(n), clocks))
                    .count()
            };
            let told: Vec<usize> = greedy.iter().map(told).collect();
            // What one has in store at the start comes on top.
            assert!(told.iter().all(|&it| it <= (ASSURED + AT_MOST) as usize));
            assert!(told.iter().sum::<usize>() <= 100 * ASSURED as usize + SHARED as usize);
            let own = (0..ASSURED)
                .filter(|_| limits.admit(second(n), &victim))
                .count();
            assert_eq!(own, ASSURED as usize);
        }
        let peer = |n: u32| IpAddr::V4(n.into());
        for n in 0..100_000 {
            limits.admit_peer(second(9), peer(n % 20));
        }
        let quiet = (1000..1100)
            .filter(|&n| limits.admit_peer(second(9), peer(n)))
            .count();
        assert!(quiet > 60, "{quiet}: few share a group with the loud");
    }

    #[test]
    fn only_what_helps_is_told() {
        assert_eq!(Complaint::about(DropReason::SpoofedSource), None);
        assert_eq!(Complaint::about(DropReason::EgressFull), None);
        assert!(Complaint::about(DropReason::Isolated).is_some());
        for passing in [
            Refused::PortsExhausted,
            Refused::TableFull,
            Refused::QuotaExceeded,
        ] {
            assert_eq!(Complaint::about(DropReason::Nat(passing)), None);
        }
    }
}
