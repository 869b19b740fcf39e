//! The spoof guard: a container speaks with its own MAC and addresses, or not at all, and never as
//! a router or a DHCP server.
//!
//! Its rules for IPv6, where neighbour discovery can be hidden behind extension headers and
//! fragments, are in `v6`.

mod v6;

use std::net::{IpAddr, Ipv4Addr};

use pnet_packet::Packet;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::Ipv4Packet;

use crate::arp;
use crate::config::Endpoint;
use crate::drop::DropReason;
use crate::frame::{self, ethertype};

/// Passes a frame whose sender is who `endpoint` is.
///
/// The unspecified address passes where protocols need it: ARP probes (RFC 5227) and IPv6
/// duplicate address detection (RFC 4862). The addresses of a tagged frame are looked at behind its
/// tags.
///
/// Answers of DHCP servers are dropped for the reason that router advertisements are (RFC 7610):
/// whoever answers first decides where a neighbour sends its packets. Addresses here are given by
/// the control plane, so no container serves them to another.
pub(crate) fn check(endpoint: &Endpoint, frame: &[u8]) -> Result<(), DropReason> {
    let source = frame::source(frame).ok_or(DropReason::Malformed)?;
    let (ethertype, at) = frame::ethertype_behind_tags(frame).ok_or(DropReason::Malformed)?;
    if source != endpoint.mac {
        return Err(DropReason::SpoofedSource);
    }
    let packet = &frame[at..];
    match ethertype {
        ethertype::ARP => {
            let arp = arp::parse_at(frame, at).ok_or(DropReason::Malformed)?;
            let own = owns(endpoint, arp.sender) || arp.sender == Ipv4Addr::UNSPECIFIED;
            verdict(arp.sender_mac == endpoint.mac && own)
        }
        ethertype::IPV4 => {
            let packet = Ipv4Packet::new(packet).ok_or(DropReason::Malformed)?;
            verdict(owns(endpoint, packet.get_source()))?;
            if is_dhcp_answer(&packet) {
                return Err(DropReason::RogueDhcp);
            }
            Ok(())
        }
        ethertype::IPV6 => v6::check(endpoint, packet),
        _ => Ok(()),
    }
}

fn owns(endpoint: &Endpoint, address: impl Into<IpAddr>) -> bool {
    endpoint.addresses.contains(&address.into())
}

fn verdict(is_own: bool) -> Result<(), DropReason> {
    if is_own {
        Ok(())
    } else {
        Err(DropReason::SpoofedSource)
    }
}

fn is_dhcp_answer(packet: &Ipv4Packet) -> bool {
    /// From 67 to 68, RFC 2131 section 4.1.
    const PORTS: [u8; 4] = [0, 67, 0, 68];
    packet.get_next_level_protocol() == IpNextHeaderProtocols::Udp
        && packet.get_fragment_offset() == 0
        && packet.payload().starts_with(&PORTS)
}

#[cfg(test)]
mod tests;
