//! The spoof guard's rules for IPv6.
//!
//! | a container may send | if |
//! |---|---|
//! | packets | the source is its own, or a link-local address that it gave itself |
//! | from `::` | it is ICMPv6 to a group: duplicate address detection, RFC 4862; MLD, RFC 3590 |
//! | neighbour and router solicitations | their link-layer option is its MAC; from `::`, their target its own address |
//! | neighbour advertisements | their target is its own address, and their link-layer option its MAC |
//! | router advertisements, redirects | never (RFC 6105, CVE-2020-13401) |
//! | MLD queries | never: they make it the querier (RFC 3810 section 7.6.2) |
//! | any of these, or MLD, in fragments | never (RFC 6980) |
//! | UDP to port 546, the answers of a DHCPv6 server | never (RFC 7610) |
//!
//! Extension headers hide nothing: they are walked (RFC 7113), and where they are cut off, by the
//! packet's end or by its first fragment's (RFC 7112), nobody need guess what they hid.
//!
//! A link-local address is a host's own choice, which Linux makes from the MAC, or from a secret
//! where `addr_gen_mode` says so (RFC 7217). One made from a MAC must be made from the container's,
//! which protects the gateway's and those of all who choose likewise. Any other passes: who owns
//! it, if two claim it, only they could say.

use std::net::Ipv6Addr;

use nat::layout::Fragment;
use nat::{Layout, Protocol};
use pnet_packet::ipv6::Ipv6Packet;

use super::{owns, verdict};
use crate::config::Endpoint;
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::ipv6;
use crate::nd;

/// RFC 2710 section 3.1, RFC 3810 section 5.
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

/// A router solicitation's options begin behind type, code, checksum and a reserved word.
const ROUTER_SOLICITATION_HEADER: usize = 8;

pub(super) fn check(endpoint: &Endpoint, layout: Layout, packet: &[u8]) -> Result<(), DropReason> {
    let header = Ipv6Packet::new(packet).ok_or(DropReason::Malformed)?;
    let source = header.get_source();
    verdict(is_own(endpoint, source) || source.is_unspecified())?;
    let layout = match layout.fragment {
        Fragment::First => layout.head(packet).map_err(|_| DropReason::Malformed)?,
        _ => layout,
    };
    let protocol = layout.upper.protocol;
    if source.is_unspecified() {
        let is_icmp = protocol == Protocol::ICMPV6 && layout.fragment != Fragment::Later;
        verdict(is_icmp && header.get_destination().is_multicast())?;
    }
    let message = &packet[layout.upper.at..layout.end];
    match protocol {
        _ if layout.fragment == Fragment::Later => Ok(()),
        Protocol::ICMPV6 => {
            let fragmented = layout.fragment != Fragment::None;
            check_icmp(endpoint, source, message, fragmented)
        }
        Protocol::UDP => check_udp(message),
        _ => Ok(()),
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
        nd::ROUTER_ADVERTISEMENT | nd::REDIRECT | MLD_QUERY => Err(DropReason::RogueRouter),
        MLD_REPORT | MLD_DONE | MLD_REPORT_V2 if fragmented => Err(DropReason::Malformed),
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
    /// RFC 8415 section 7.2: the port of a client, which takes an answer from any other.
    const DHCP_CLIENT: [u8; 2] = [2, 34];
    match datagram.get(2..4) {
        Some(port) if port == DHCP_CLIENT => Err(DropReason::RogueDhcp),
        Some(_) => Ok(()),
        None => Err(DropReason::Malformed),
    }
}
