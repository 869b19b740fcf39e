//! What an endpoint of an internal network may say to the host: enough to be reached and to ask for
//! names, and nothing by which it reaches a service of the host's or, through one, another network.
//!
//! | to the gateway's own addresses | passes |
//! |---|---|
//! | ARP and neighbour discovery | answers, and what announces the sender |
//! | ICMP and ICMPv6 | echo, and errors |
//! | TCP | to the names' server; otherwise all but the segment that opens a connection |
//! | UDP | to the names' server; otherwise what answers a datagram of the host's |
//! | reports of multicast groups | yes |
//! | anything else, and anything to another address, group or broadcast | no |
//!
//! The host's own packets pass, so it reaches the endpoints, and is answered: TCP tells an answer
//! by its flags, and for UDP the host's flows are remembered ([`Asked`]).
//!
//! This is asked of every frame that is about to leave by the host's port, so neither a broadcast
//! frame nor a learned address is a way around it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nat::{Packet, Protocol, Time};
use parking_lot::Mutex;

use crate::arp;
use crate::config::Network;
use crate::datapath::{Egress, Pass};
use crate::drop::DropReason;
use crate::frame::{self, Frame, ethertype};
use crate::gateway::parse;
use crate::nd;
use crate::topology::Segment;

/// Where the names of a network are asked for, at the gateway's addresses.
const NAMES: u16 = 53;

/// How long a flow of the host's may pause (RFC 4787 REQ-5 asks for two minutes at least).
const REMEMBERED: Duration = Duration::from_secs(180);
/// Flows remembered of one network; the one silent for longest gives way.
const FLOWS: usize = 1024;

const IGMP: Protocol = Protocol(2);
/// TCP's flags: byte and bits.
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// UDP flows that the host began: the endpoint's address, and the host's.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    flows: Mutex<HashMap<(SocketAddr, SocketAddr), Time, RandomState>>,
}

impl Asked {
    /// Remembers what a frame of the host's asks for.
    pub(crate) fn note(&self, now: Time, frame: &mut Frame) {
        let Ok(packet) = parse(frame) else { return };
        if packet.protocol() != Protocol::UDP || packet.fragment_offset().unwrap_or(0) > 0 {
            return;
        }
        let Some((source, destination)) = sockets(&packet) else {
            return;
        };
        let mut flows = self.flows.lock();
        let flow = (destination, source);
        if flows.len() >= FLOWS && !flows.contains_key(&flow) {
            let oldest = flows.iter().min_by_key(|(_, last)| **last);
            if let Some(oldest) = oldest.map(|(&flow, _)| flow) {
                flows.remove(&oldest);
            }
        }
        flows.insert(flow, now);
    }

    /// Whether a datagram from an endpoint answers the host.
    fn is_answer(&self, now: Time, from: SocketAddr, to: SocketAddr) -> bool {
        let mut flows = self.flows.lock();
        let Some(last) = flows.get_mut(&(from, to)) else {
            return false;
        };
        let is_answer = now - *last < REMEMBERED;
        if is_answer {
            *last = now;
        }
        is_answer
    }
}

impl Pass<'_> {
    /// Takes the host's port out of where a frame from an internal network goes, unless the host
    /// may hear it.
    pub(crate) fn keep_from_host(
        &mut self,
        segment: &Segment,
        frame: &mut Frame,
        egress: Egress,
    ) -> Result<Egress, DropReason> {
        let Some(host) = segment.network.host_port else {
            return Ok(egress);
        };
        let goes_there = match egress {
            Egress::Port(port) => port == host,
            Egress::Several => self.egresses.contains(&host),
            Egress::Consumed | Egress::HostsOwn => false,
        };
        if !goes_there || may_reach_host(self.now, segment, frame) {
            return Ok(egress);
        }
        if egress != Egress::Several {
            return Err(DropReason::InternalNetwork);
        }
        self.egresses.retain(|&port| port != host);
        match self.egresses.is_empty() {
            true => Err(DropReason::InternalNetwork),
            false => Ok(Egress::Several),
        }
    }
}

fn may_reach_host(now: Time, segment: &Segment, frame: &mut Frame) -> bool {
    let network = &segment.network;
    match frame::ethertype_of(frame.bytes()) {
        Some(ethertype::ARP) => {
            // Questions for the gateway are answered before they come here.
            arp::parse(frame.bytes()).is_some_and(|it| !it.is_request || it.target == it.sender)
        }
        Some(ethertype::IPV4 | ethertype::IPV6) => {
            parse(frame).is_ok_and(|packet| packet_may(now, segment, network, &packet))
        }
        _ => false,
    }
}

fn packet_may(now: Time, segment: &Segment, network: &Network, packet: &Packet) -> bool {
    let payload = packet.as_bytes().get(packet.header_len()..);
    let payload = payload.unwrap_or_default();
    let kind = payload.first().copied().unwrap_or_default();
    let to_gateway = network.is_gateway(packet.dst());
    let is_later = packet.fragment_offset().unwrap_or(0) > 0;
    match packet.protocol() {
        // Of a datagram whose first fragment is held back, the others are never put together. None
        // of them writes over the first one: Linux discards a datagram with overlaps.
        Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 if is_later => to_gateway,
        Protocol::ICMP => to_gateway && matches!(kind, 0 | 3 | 8 | 11 | 12),
        Protocol::ICMPV6 => match kind {
            1..=4 | 128 | 129 | nd::SOLICITATION => to_gateway,
            nd::ADVERTISEMENT => to_gateway || packet.dst().is_multicast(),
            // Reports of MLD (RFC 2710, RFC 3810).
            131 | 132 | 143 => packet.dst().is_multicast(),
            _ => false,
        },
        IGMP => packet.dst().is_multicast(),
        // In fragments its flags could hide (RFC 1858), and no stack needs them.
        Protocol::TCP => {
            let opens = payload.get(FLAGS).is_none_or(|it| it & (SYN | ACK) == SYN);
            let to_names = sockets(packet).is_some_and(|(_, to)| to.port() == NAMES);
            to_gateway && !packet.is_fragment() && (to_names || !opens)
        }
        Protocol::UDP => sockets(packet).is_some_and(|(from, to)| {
            to_gateway && (to.port() == NAMES || segment.asked.is_answer(now, from, to))
        }),
        _ => false,
    }
}

/// Source and destination of a packet that begins with two ports.
fn sockets(packet: &Packet) -> Option<(SocketAddr, SocketAddr)> {
    let ports = packet.as_bytes().get(packet.header_len()..)?;
    let &[a, b, c, d] = ports.first_chunk()?;
    let at = |address: IpAddr, port: [u8; 2]| SocketAddr::new(address, u16::from_be_bytes(port));
    Some((at(packet.src(), [a, b]), at(packet.dst(), [c, d])))
}

#[cfg(test)]
mod tests;
