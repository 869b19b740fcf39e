//! ICMP errors of the gateway's own: what tells a sender why its packet went no further.
//!
//! Written in place over the packet they are about, in the words of its family (`v4`, `v6`), and
//! rate-limited (RFC 1812 4.3.2.8, RFC 4443 2.4 f), so that a flood of hopeless packets costs no
//! more than the drops.

mod v4;
mod v6;

use std::net::IpAddr;

use nat::Refused;

use crate::drop::DropReason;
use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr, VnetHeader, ethertype};

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

/// At most so many errors of the gateway's a second, all told.
pub(crate) const ERRORS_PER_SECOND: u32 = 1000;

#[cfg(test)]
mod tests {
    use nat::Refused;

    use super::*;

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
