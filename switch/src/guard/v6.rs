//! The spoof guard's rules for IPv6.
//!
//! | a container may send | if |
//! |---|---|
//! | packets | the source is its own, or a link-local address that it gave itself |
//! | from `::` | it is ICMPv6 to a group: duplicate address detection, RFC 4862; MLD, RFC 3590 |
//! | neighbour and router solicitations | their link-layer option is its MAC; from `::`, their target its own address |
//! | neighbour advertisements | their target is its own address, and their link-layer option its MAC |
//! | router advertisements, redirects | never (RFC 6105, CVE-2020-13401) |
//! | any of these in fragments | never (RFC 6980) |
//! | answers of a DHCPv6 server | never (RFC 7610) |
//!
//! Extension headers hide nothing: they are walked (RFC 7113), and where they are cut off, by the
//! packet's end or by its first fragment's (RFC 7112), nobody need guess what they hid.
//!
//! A link-local address is a host's own choice, which Linux makes from the MAC, or from a secret
//! where `addr_gen_mode` says so (RFC 7217). One made from a MAC must be made from the container's,
//! which protects the gateway's and those of all who choose likewise. Any other passes: who owns
//! it, if two claim it, only they could say.

use std::net::Ipv6Addr;

use pnet_packet::ipv6::Ipv6Packet;

use super::{owns, verdict};
use crate::config::Endpoint;
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::ipv6::{self, Payload};
use crate::nd;

/// A router solicitation's options begin behind type, code, checksum and a reserved word.
const ROUTER_SOLICITATION_HEADER: usize = 8;

pub(super) fn check(endpoint: &Endpoint, packet: &[u8]) -> Result<(), DropReason> {
    let header = Ipv6Packet::new(packet).ok_or(DropReason::Malformed)?;
    let source = header.get_source();
    verdict(is_own(endpoint, source) || source.is_unspecified())?;
    let next_header = header.get_next_header().0;
    if next_header == ipv6::TCP && !source.is_unspecified() {
        return Ok(());
    }
    let payload = ipv6::payload(packet).ok_or(DropReason::Malformed)?;
    if source.is_unspecified() {
        let is_icmp =
            matches!(payload, Payload::Upper { protocol, .. } if protocol == ipv6::ICMPV6);
        verdict(is_icmp && header.get_destination().is_multicast())?;
    }
    match payload {
        Payload::Upper {
            protocol: ipv6::ICMPV6,
            bytes,
            fragmented,
            ..
        } => check_icmp(endpoint, source, bytes, fragmented),
        Payload::Upper {
            protocol: ipv6::UDP,
            bytes,
            ..
        } => check_udp(bytes),
        Payload::Upper { .. } | Payload::LaterFragment => Ok(()),
    }
}

fn is_own(endpoint: &Endpoint, address: Ipv6Addr) -> bool {
    if !address.is_unicast_link_local() {
        return owns(endpoint, address);
    }
    !ipv6::is_from_mac(address) || address == ipv6::link_local(endpoint.mac)
}

fn check_icmp(
    endpoint: &Endpoint,
    source: Ipv6Addr,
    message: &[u8],
    fragmented: bool,
) -> Result<(), DropReason> {
    let &kind = message.first().ok_or(DropReason::Malformed)?;
    match kind {
        nd::ROUTER_ADVERTISEMENT | nd::REDIRECT => Err(DropReason::RogueRouter),
        nd::ROUTER_SOLICITATION | nd::SOLICITATION | nd::ADVERTISEMENT if fragmented => {
            Err(DropReason::Malformed)
        }
        nd::ROUTER_SOLICITATION => {
            let options = message.get(ROUTER_SOLICITATION_HEADER..);
            check_options(
                nd::options_from(options.ok_or(DropReason::Malformed)?),
                nd::SOURCE_LINK_LAYER,
                endpoint.mac,
            )
        }
        nd::SOLICITATION => {
            let target = nd::target(message).ok_or(DropReason::Malformed)?;
            // Who asks for an address that it is about to take tells everyone else that it is
            // taken (RFC 4862 section 5.4.3).
            verdict(!source.is_unspecified() || is_own(endpoint, target))?;
            check_options(nd::options(message), nd::SOURCE_LINK_LAYER, endpoint.mac)
        }
        nd::ADVERTISEMENT => {
            let target = nd::target(message).ok_or(DropReason::Malformed)?;
            verdict(is_own(endpoint, target))?;
            check_options(nd::options(message), nd::TARGET_LINK_LAYER, endpoint.mac)
        }
        _ => Ok(()),
    }
}

/// Every option of the type `wanted` must carry `mac`.
fn check_options<'a>(
    options: impl Iterator<Item = Option<(u8, &'a [u8])>>,
    wanted: u8,
    mac: MacAddr,
) -> Result<(), DropReason> {
    for option in options {
        let (kind, value) = option.ok_or(DropReason::Malformed)?;
        verdict(kind != wanted || nd::link_layer_address(value) == Some(mac))?;
    }
    Ok(())
}

fn check_udp(datagram: &[u8]) -> Result<(), DropReason> {
    /// From 547 to 546, RFC 8415 section 7.2.
    const ANSWER: [u8; 4] = [2, 35, 2, 34];
    match datagram.first_chunk() {
        Some(&ANSWER) => Err(DropReason::RogueDhcp),
        Some(_) => Ok(()),
        None => Err(DropReason::Malformed),
    }
}
