//! Who has which address now: told to neighbours that may remember another MAC address.
//!
//! An address that was another container's a moment ago is in the caches of the network's
//! containers and of the host, with the MAC address of that one. So a new endpoint announces its own
//! by gratuitous ARP (RFC 5227 clause 3) and unsolicited neighbour advertisements (RFC 4861 clause
//! 7.2.6), sent from its namespace as its own stack would.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use switch::frame::{Frame, MacAddr};
use switch::io::{PacketOptions, Queue, open_packet};

use super::container::Plug;
use super::store::EndpointRecord;
use crate::netns::Netns;

/// Announces the addresses of endpoints that were just made. Best effort: a cache that hears
/// nothing runs out in time.
pub(super) fn announce(netns: &Netns, endpoints: &[EndpointRecord], plugs: &[Plug]) {
    if endpoints.is_empty() {
        return;
    }
    let sent = netns.run(|| {
        endpoints
            .iter()
            .zip(plugs)
            .try_for_each(|(endpoint, plug)| send(plug.ifindex, endpoint.mac, &endpoint.addresses))
    });
    if let Err(error) = sent.and_then(|sent| sent) {
        tracing::debug!("a new address is not announced: {error}");
    }
}

fn send(ifindex: u32, mac: MacAddr, addresses: &[IpNet]) -> io::Result<()> {
    let options = PacketOptions {
        buffer: 64 << 10,
        ..PacketOptions::default()
    };
    for socket in open_packet(ifindex, 1, options)? {
        let queue = Queue::Packet(socket);
        for address in addresses {
            let bytes = match address.addr() {
                IpAddr::V4(address) => gratuitous_arp(mac, address),
                IpAddr::V6(address) => advertisement(mac, address),
            };
            queue.transmit(&[&Frame::from_bytes(&bytes)]);
        }
    }
    Ok(())
}

/// A request for one's own address, which updates every cache that has it (RFC 826).
fn gratuitous_arp(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &mac.0[..], &[0x08, 0x06]].concat();
    // Ethernet, IPv4, lengths of both kinds of address, request.
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// To all nodes, with the override flag (RFC 4861 clause 4.4).
fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    // The option of the target's link-layer address: its length is one unit of 8 bytes.
    message.extend([2, 1]);
    message.extend(mac.0);
    let length = message.len() as u8;
    let pseudo = [
        &address.octets()[..],
        &all_nodes.octets(),
        &[0, 0, 0, length, 0, 0, 0, 58],
    ]
    .concat();
    let sum = checksum(&[&pseudo[..], &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [&[0x33, 0x33, 0, 0, 0, 1], &mac.0[..], &[0x86, 0xdd]].concat();
    // Version 6, ICMPv6, and the hop limit that shows that no router has forwarded it.
    frame.extend([0x60, 0, 0, 0, 0, length, 58, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|it| u32::from(it[0]) << 8 | u32::from(it[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_as_the_rfcs_have_them() {
        let mac = MacAddr([2, 0x42, 0, 0, 0, 7]);
        let arp = gratuitous_arp(mac, Ipv4Addr::new(172, 17, 0, 9));
        assert_eq!(arp.len(), 42);
        assert_eq!(arp[28..32], arp[38..42], "sender and target are one");
        let advertisement = advertisement(mac, "fd00::9".parse().unwrap());
        assert_eq!(advertisement.len(), 14 + 40 + 32);
        let (packet, message) = (&advertisement[14..54], &advertisement[54..]);
        let pseudo = [&packet[8..40], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(
            checksum(&[&pseudo[..], message].concat()),
            0,
            "its sum is right"
        );
    }
}
