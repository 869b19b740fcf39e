//! ICMP: which messages are which, and the translation of errors.
//!
//! An error goes against the flow it is about, and carries the head of a packet of that flow as
//! its sender saw it. Take a masqueraded flow, with X an outside router:
//!
//! ```text
//!              inside             │ NAT │             outside
//!   packet     I:p > P:q          │     │  E:e > P:q
//!   error      X > I              │  <  │  X > E
//!     quoting    I:p > P:q        │     │    E:e > P:q
//! ```
//!
//! The quoted packet reversed is `P:q > E:e`, the reply tuple, under which the connection is
//! found; so the quoted packet becomes the original tuple, and the error goes to its source. The
//! same holds with the directions exchanged, for published ports and for hairpins (RFC 5508 REQ-4,
//! REQ-5, REQ-7). An error neither refreshes nor ends a connection (REQ-6).

use std::net::IpAddr;

use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;

use crate::checksum::{Checksum, fold, pseudo_header, sum};
use crate::layout::{self, Fragment, Header};
use crate::packet::{Packet, set_addresses, set_word, word};
use crate::rewrite::rewrite_transport;
use crate::tuple::{Protocol, Tuple};

/// Bytes of an ICMP error before the packet it quotes (RFC 792, RFC 4443).
const ERROR_HEADER: usize = 8;

/// Bytes of its transport header that a quote must have (RFC 792).
const QUOTED_TRANSPORT: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpKind {
    EchoRequest,
    EchoReply,
    Error,
    Other,
}

/// The kind of a message of ICMP or ICMPv6 by its type.
pub(crate) fn kind(protocol: Protocol, message: u8) -> IcmpKind {
    match (protocol, message) {
        (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => IcmpKind::EchoRequest,
        (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => IcmpKind::EchoReply,
        // Destination unreachable, time exceeded, parameter problem; of ICMPv6 packet too big as
        // well. Source quench and redirect are not for others to pass on (RFC 6633, RFC 1812
        // section 5.2.7.2).
        (Protocol::ICMP, 3 | 11 | 12) | (Protocol::ICMPV6, 1..=4) => IcmpKind::Error,
        _ => IcmpKind::Other,
    }
}

/// The packet quoted in an ICMP error, found and checked for length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quote {
    /// The tuple of the quoted packet, as it was sent.
    pub(crate) tuple: Tuple,
    /// Offset of its transport header from its own beginning.
    transport: usize,
}

impl Quote {
    /// Finds the quoted packet in an ICMP error. None when it is cut off before the eighth byte of
    /// its transport header, of another IP version, not of a flow, or not a packet of the error's
    /// receiver.
    pub(crate) fn parse(error: &Packet<'_>) -> Option<Quote> {
        let bytes = error.transport().get(ERROR_HEADER..)?;
        let (src, dst, transport, protocol): (IpAddr, IpAddr, usize, Protocol) = if error.is_ipv4()
        {
            let quoted = Ipv4Packet::new(bytes)?;
            let transport = usize::from(quoted.get_header_length()) * 4;
            // The first fragment has the ports, the others have none.
            let usable = quoted.get_version() == 4
                && transport >= Ipv4Packet::minimum_packet_size()
                && quoted.get_fragment_offset() == 0;
            if !usable {
                return None;
            }
            let protocol = Protocol(quoted.get_next_level_protocol().0);
            let (src, dst) = (quoted.get_source(), quoted.get_destination());
            (src.into(), dst.into(), transport, protocol)
        } else {
            let quoted = Ipv6Packet::new(bytes)?;
            let walked = layout::walk(bytes, layout::first_header(bytes)?)?;
            let is_whole = matches!(walked.fragment, Fragment::None | Fragment::Atomic);
            if quoted.get_version() != 6 || !is_whole {
                return None;
            }
            let Header {
                protocol,
                at: transport,
            } = walked.binding.unwrap_or(walked.upper);
            let (src, dst) = (quoted.get_source(), quoted.get_destination());
            (src.into(), dst.into(), transport, protocol)
        };
        let header = bytes.get(transport..transport + QUOTED_TRANSPORT)?;
        let (src_port, dst_port) = match protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => (word(header, 0), word(header, 2)),
            Protocol::ICMP | Protocol::ICMPV6 if protocol == error.protocol() => {
                match kind(protocol, header[0]) {
                    IcmpKind::EchoRequest => (word(header, 4), 0),
                    IcmpKind::EchoReply => (0, word(header, 4)),
                    IcmpKind::Error | IcmpKind::Other => return None,
                }
            }
            protocol if protocol.is_translated_by_address() => (0, 0),
            _ => return None,
        };
        if src != error.dst() {
            return None;
        }
        Some(Quote {
            tuple: Tuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol,
            },
            transport,
        })
    }

    /// Whether the header checksum of the quoted packet is right (RFC 5508 REQ-3a). IPv6 has none.
    pub(crate) fn has_valid_checksum(&self, error: &Packet<'_>) -> bool {
        let bytes = &error.transport()[ERROR_HEADER..];
        !error.is_ipv4() || fold(sum(&bytes[..self.transport.min(bytes.len())])) == 0xffff
    }

    /// Translates an error: its addresses become `src` and `dst`, the quoted packet one of the
    /// tuple `quoted`, and the checksum is computed anew.
    pub(crate) fn rewrite(&self, error: &mut Packet<'_>, quoted: &Tuple, src: IpAddr, dst: IpAddr) {
        error.set_addresses(src, dst);
        let inner = &mut error.transport_mut()[ERROR_HEADER..];
        set_addresses(inner, quoted.src, quoted.dst);
        let transport = &mut inner[self.transport..];
        rewrite_transport(transport, &self.tuple, quoted, Checksum::Complete);

        let (partial, ipv4) = (error.checksum() == Checksum::Partial, error.is_ipv4());
        let bytes = error.transport_mut();
        let pseudo = pseudo_header(src, dst, Protocol::ICMPV6, bytes.len());
        let checksum = match (partial, ipv4) {
            // Whoever completes it sums over the message from the field's value on.
            (true, true) => 0,
            (true, false) => fold(pseudo),
            (false, _) => {
                set_word(bytes, 2, 0);
                !fold(sum(bytes) + if ipv4 { 0 } else { pseudo })
            }
        };
        set_word(bytes, 2, checksum);
    }
}

/// Whether the checksum of an ICMP message is right; a partial one is taken on trust.
pub(crate) fn has_valid_checksum(message: &Packet<'_>) -> bool {
    if message.checksum() == Checksum::Partial {
        return true;
    }
    let bytes = message.transport();
    let pseudo = if message.is_ipv4() {
        0
    } else {
        pseudo_header(message.src(), message.dst(), Protocol::ICMPV6, bytes.len())
    };
    fold(sum(bytes) + pseudo) == 0xffff
}

#[cfg(test)]
mod tests;
