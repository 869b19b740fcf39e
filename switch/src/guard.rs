//! The spoof guard: a container speaks with its own MAC and addresses, or not at all, and never as
//! a router or a DHCP server.
//!
//! Its rules for IPv4 are in `v4`, those for IPv6 in `v6`. What the frame is comes from [`layers`],
//! and where the parts of a packet lie from [`nat::Layout`]: the same for every stage.

mod v4;
mod v6;

use std::net::{IpAddr, Ipv4Addr};

use crate::arp;
use crate::config::Endpoint;
use crate::drop::DropReason;
use crate::frame::{self, ethertype};
use crate::layers::{self, Layers};

/// Passes a frame whose sender is who `endpoint` is.
///
/// The unspecified address passes where protocols need it: ARP probes (RFC 5227) and IPv6
/// duplicate address detection (RFC 4862). The addresses of a tagged frame are looked at behind its
/// tags.
///
/// Answers of DHCP servers are dropped for the reason that router advertisements are (RFC 7610):
/// whoever answers first decides where a neighbour sends its packets. Addresses here are given by
/// the control plane, so no container serves them to another, by DHCP or by reverse ARP.
pub(crate) fn check(endpoint: &Endpoint, frame: &[u8], layers: Layers) -> Result<(), DropReason> {
    let source = frame::source(frame).ok_or(DropReason::Malformed)?;
    if source != endpoint.mac {
        return Err(DropReason::SpoofedSource);
    }
    match layers.ethertype {
        ethertype::ARP => {
            let arp = arp::parse_at(frame, layers.at).ok_or(DropReason::Malformed)?;
            // Only a question may come from nobody.
            let is_probe = arp.is_request && arp.sender == Ipv4Addr::UNSPECIFIED;
            let own = owns(endpoint, arp.sender) || is_probe;
            verdict(arp.sender_mac == endpoint.mac && own)
        }
        ethertype::RARP => Err(DropReason::RogueDhcp),
        _ => match layers::packet(frame, layers)? {
            Some((layout, _)) if layout.source_routed => Err(DropReason::SourceRouted),
            Some((layout, packet)) if layers.ethertype == ethertype::IPV4 => {
                v4::check(endpoint, layout, packet)
            }
            Some((layout, packet)) => v6::check(endpoint, layout, packet),
            None => Ok(()),
        },
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

#[cfg(test)]
mod tests;
