//! The spoof guard: a container speaks with its own MAC and addresses, or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::Packet;
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;

use crate::arp;
use crate::config::Endpoint;
use crate::drop::DropReason;
use crate::frame::{self, ethertype};

/// Passes a frame whose sender is who `endpoint` is.
///
/// The unspecified address passes where protocols need it: ARP probes (RFC 5227) and IPv6
/// duplicate address detection (RFC 4862). So do IPv6 link-local addresses, which a host gives
/// itself. The addresses of a tagged frame are looked at behind its tags.
pub(crate) fn check(endpoint: &Endpoint, frame: &[u8]) -> Result<(), DropReason> {
    let source = frame::source(frame).ok_or(DropReason::Malformed)?;
    let (ethertype, at) = frame::ethertype_behind_tags(frame).ok_or(DropReason::Malformed)?;
    if source != endpoint.mac {
        return Err(DropReason::SpoofedSource);
    }
    let own = |address: IpAddr| endpoint.addresses.contains(&address);
    let passes = match ethertype {
        ethertype::ARP => {
            let arp = arp::parse_at(frame, at).ok_or(DropReason::Malformed)?;
            arp.sender_mac == endpoint.mac
                && (own(arp.sender.into()) || arp.sender == Ipv4Addr::UNSPECIFIED)
        }
        ethertype::IPV4 => {
            let packet = Ipv4Packet::new(&frame[at..]).ok_or(DropReason::Malformed)?;
            own(packet.get_source().into())
        }
        ethertype::IPV6 => {
            let packet = Ipv6Packet::new(&frame[at..]).ok_or(DropReason::Malformed)?;
            if is_router_advertisement(&packet) {
                return Err(DropReason::UnwantedAdvertisement);
            }
            let source = packet.get_source();
            own(source.into()) || source.is_unicast_link_local() || source == Ipv6Addr::UNSPECIFIED
        }
        _ => true,
    };
    if passes {
        Ok(())
    } else {
        Err(DropReason::SpoofedSource)
    }
}

/// RFC 6105: a port towards a host carries no router advertisements (CVE-2020-13401).
fn is_router_advertisement(packet: &Ipv6Packet) -> bool {
    packet.get_next_header() == IpNextHeaderProtocols::Icmpv6
        && packet.payload().first() == Some(&Icmpv6Types::RouterAdvert.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NetworkId, PortId};
    use crate::frame::{Frame, MacAddr};

    const MINE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn endpoint() -> Endpoint {
        Endpoint {
            port: PortId(1),
            network: NetworkId(1),
            mac: MINE,
            addresses: vec![IpAddr::from([10, 0, 0, 2]), "fd00::2".parse().unwrap()],
            guard: true,
        }
    }

    fn ipv4(source_mac: MacAddr, source: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(source_mac.0);
        frame.extend([0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend(source);
        frame.extend([10, 0, 0, 3]);
        frame
    }

    fn ipv6(source: Ipv6Addr, next_header: u8, first: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend(MINE.0);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, next_header, 255]);
        frame.extend(source.octets());
        frame.extend(Ipv6Addr::LOCALHOST.octets());
        frame.extend([first, 0, 0, 0, 0, 0, 0, 0]);
        frame
    }

    // Conforms: LINUX-bridge-locked-port SWITCH-guard
    #[test]
    fn only_its_own_mac_and_address() {
        let other = MacAddr([2, 0, 0, 0, 0, 9]);
        assert_eq!(check(&endpoint(), &ipv4(MINE, [10, 0, 0, 2])), Ok(()));
        let spoofed = Err(DropReason::SpoofedSource);
        assert_eq!(check(&endpoint(), &ipv4(MINE, [10, 0, 0, 9])), spoofed);
        assert_eq!(check(&endpoint(), &ipv4(other, [10, 0, 0, 2])), spoofed);
        let global: Ipv6Addr = "2001:db8::9".parse().unwrap();
        assert_eq!(check(&endpoint(), &ipv6(global, 17, 0)), spoofed);
        assert_eq!(
            check(&endpoint(), &ipv6("fd00::2".parse().unwrap(), 17, 0)),
            Ok(())
        );
        assert_eq!(
            check(&endpoint(), &ipv6("fe80::9".parse().unwrap(), 17, 0)),
            Ok(())
        );
    }

    // Conforms: SWITCH-guard
    #[test]
    fn arp_speaks_for_nobody_else() {
        let mut frame = Frame::new();
        let target = Ipv4Addr::new(10, 0, 0, 3);
        arp::ask(&mut frame, (MINE, Ipv4Addr::new(10, 0, 0, 2)), target);
        assert_eq!(check(&endpoint(), frame.bytes()), Ok(()));
        arp::ask(&mut frame, (MINE, Ipv4Addr::UNSPECIFIED), target);
        assert_eq!(check(&endpoint(), frame.bytes()), Ok(()));
        arp::ask(&mut frame, (MINE, Ipv4Addr::new(10, 0, 0, 1)), target);
        assert_eq!(
            check(&endpoint(), frame.bytes()),
            Err(DropReason::SpoofedSource)
        );
    }

    #[test]
    fn a_tag_hides_nothing() {
        let mut tagged = ipv4(MINE, [10, 0, 0, 9]);
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        assert_eq!(check(&endpoint(), &tagged), Err(DropReason::SpoofedSource));
    }

    // Conforms: CVE-2020-13401
    #[test]
    fn router_advertisements_are_stopped() {
        let advertisement = ipv6("fe80::9".parse().unwrap(), 58, 134);
        assert_eq!(
            check(&endpoint(), &advertisement),
            Err(DropReason::UnwantedAdvertisement)
        );
    }

    #[test]
    fn a_truncated_header_is_malformed() {
        let frame = ipv4(MINE, [10, 0, 0, 2]);
        for len in 0..frame.len() {
            assert_eq!(
                check(&endpoint(), &frame[..len]),
                Err(DropReason::Malformed),
                "{len}"
            );
        }
    }
}
