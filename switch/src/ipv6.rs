//! IPv6 as the switch needs it: the addresses that follow from a MAC or from each other, and what a
//! packet carries behind its extension headers.

use std::net::Ipv6Addr;

use nat::Layout;
use nat::layout::{Fragment, Version};

use crate::frame::MacAddr;

/// Bytes of the fixed header (RFC 8200 section 3).
pub(crate) const HEADER: usize = 40;

pub(crate) const ICMPV6: u8 = 58;

/// The link-local address that an interface with this MAC gives itself: fe80::/64 and the MAC as a
/// modified EUI-64 (RFC 4291 appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&interface);
    octets.into()
}

/// Whether the interface identifier of `address` is made from a MAC.
pub(crate) fn is_from_mac(address: Ipv6Addr) -> bool {
    address.octets()[11..13] == [0xff, 0xfe]
}

/// The group that solicitations for `address` are sent to (RFC 4291 section 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let mut octets = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    octets[13..].copy_from_slice(&address.octets()[13..]);
    octets.into()
}

/// The MAC that a multicast packet is sent to (RFC 2464 section 7).
pub(crate) fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., c, d, e, f] = group.octets();
    MacAddr([0x33, 0x33, c, d, e, f])
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    /// An upper layer's header, and what follows of it in this packet.
    Upper {
        protocol: u8,
        /// Where it begins, in bytes from the packet's start.
        at: usize,
        bytes: &'a [u8],
        /// Behind a fragment header: perhaps only the first piece, perhaps all (RFC 6946).
        fragmented: bool,
    },
    /// A piece of a packet other than its first, so nobody can tell.
    LaterFragment,
}

/// Finds what a packet carries, which may end with link padding. None when the packet or one of its
/// headers is cut off, or when there are too many: see [`Layout`].
pub(crate) fn payload(packet: &[u8]) -> Option<Payload<'_>> {
    let layout = Layout::of(packet).ok()?;
    if layout.version != Version::Six {
        return None;
    }
    let layout = match layout.fragment {
        Fragment::None | Fragment::Atomic => layout,
        Fragment::First => layout.head(packet).ok()?,
        Fragment::Later => return Some(Payload::LaterFragment),
    };
    Some(Payload::Upper {
        protocol: layout.upper.protocol.0,
        at: layout.upper.at,
        bytes: packet.get(layout.upper.at..layout.end)?,
        fragmented: layout.fragment != Fragment::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of these headers, each with its own number.
    fn packet(headers: &[(u8, &[u8])], last: u8) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet[0] = 0x60;
        let nexts = headers[1..].iter().map(|header| header.0).chain([last]);
        packet[6] = headers.first().map_or(last, |header| header.0);
        for ((_, bytes), next) in headers.iter().zip(nexts) {
            let start = packet.len();
            packet.extend(*bytes);
            packet[start] = next;
        }
        packet.extend([0xaa; 8]);
        let length = packet.len() - HEADER;
        packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        packet
    }

    #[test]
    fn addresses_follow_from_the_mac() {
        let mac = MacAddr([0x02, 0x42, 0xac, 0x11, 0x00, 0x01]);
        assert_eq!(link_local(mac).to_string(), "fe80::42:acff:fe11:1");
        assert!(is_from_mac(link_local(mac)));
        let address = "fd00::12:3456".parse().unwrap();
        assert!(!is_from_mac(address));
        assert_eq!(solicited_node(address).to_string(), "ff02::1:ff12:3456");
        assert_eq!(
            multicast_mac(solicited_node(address)).to_string(),
            "33:33:ff:12:34:56"
        );
    }

    // Conforms: IPV6-extension-headers
    #[test]
    fn every_extension_header_is_walked() {
        let eight = [0; 8];
        let sixteen = [[0, 1].as_slice(), &[0; 14]].concat();
        let twelve = [[0, 1].as_slice(), &[0; 10]].concat();
        let headers: [(u8, &[u8]); 5] = [
            (0, &eight),
            (60, &sixteen),
            (43, &[0, 0, 0, 1, 0, 0, 0, 0]),
            (51, &twelve),
            (44, &[0, 0, 0, 1, 0, 0, 0, 7]),
        ];
        let chained = packet(&headers, ICMPV6);
        let expected = Payload::Upper {
            protocol: ICMPV6,
            at: chained.len() - 8,
            bytes: &[0xaa; 8],
            fragmented: true,
        };
        assert_eq!(payload(&chained), Some(expected));
        let mut padded = chained.clone();
        padded.extend([0; 20]);
        assert_eq!(payload(&padded), Some(expected));
        for len in 0..chained.len() {
            assert_eq!(payload(&chained[..len]), None, "{len}");
        }
        // The same when the length field agrees: the chain itself is cut off.
        for len in HEADER..chained.len() - 8 {
            let mut cut = chained[..len].to_vec();
            cut[4..6].copy_from_slice(&((len - HEADER) as u16).to_be_bytes());
            assert_eq!(payload(&cut), None, "{len}");
        }
    }

    #[test]
    fn later_fragments_and_endless_chains_tell_nothing() {
        let later = packet(&[(44, &[0, 0, 0, 8, 0, 0, 0, 7])], ICMPV6);
        assert_eq!(payload(&later), Some(Payload::LaterFragment));
        let eight: (u8, &[u8]) = (60, &[0; 8]);
        assert!(payload(&packet(&[eight; 8], 17)).is_some());
        assert_eq!(payload(&packet(&[eight; 9], 17)), None);
    }
}
