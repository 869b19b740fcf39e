//! The spoof guard's rules for IPv4.
//!
//! | a container may send | if |
//! |---|---|
//! | packets | the source is its own |
//! | ICMP redirects, router advertisements (RFC 1256) | never |
//! | IGMP queries | never: they make it the querier, or a multicast router (RFC 3376 section 6.6.2) |
//! | IGMP in fragments | never: nobody could tell what it is |
//! | UDP to port 68 | never: a client of DHCP takes an answer from any source port (RFC 7610) |

use std::net::Ipv4Addr;

use nat::layout::Fragment;
use nat::{Layout, Protocol};

use super::{owns, verdict};
use crate::config::Endpoint;
use crate::drop::DropReason;

const IGMP: Protocol = Protocol(2);
const IGMP_QUERY: u8 = 0x11;
const ROUTER_ADVERTISEMENT: u8 = 9;
const REDIRECT: u8 = 5;

/// RFC 2131 section 4.1: the port of a client.
const DHCP_CLIENT: [u8; 2] = [0, 68];

pub(super) fn check(endpoint: &Endpoint, layout: Layout, packet: &[u8]) -> Result<(), DropReason> {
    let source: [u8; 4] = *packet[12..].first_chunk().ok_or(DropReason::Malformed)?;
    verdict(owns(endpoint, Ipv4Addr::from(source)))?;
    let message = &packet[layout.upper.at..layout.end];
    match layout.upper.protocol {
        IGMP if layout.fragment != Fragment::None => Err(DropReason::Malformed),
        _ if layout.fragment == Fragment::Later => Ok(()),
        IGMP if message.first() == Some(&IGMP_QUERY) => Err(DropReason::RogueRouter),
        Protocol::ICMP if matches!(message.first(), Some(&(REDIRECT | ROUTER_ADVERTISEMENT))) => {
            Err(DropReason::RogueRouter)
        }
        Protocol::UDP if message.get(2..4) == Some(&DHCP_CLIENT) => Err(DropReason::RogueDhcp),
        _ => Ok(()),
    }
}
