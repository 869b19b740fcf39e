//! Names at 127.0.0.11, where configurations made for Docker ask for them.
//!
//! Nobody listens in the container, so its port 53 is its own. It routes the address to the gateway,
//! and here what it asks there gets the address and port of the host at which the network's names are
//! answered; the answer goes back from where it was asked for. The port tells such answers from
//! others, so nothing has to be remembered.
//!
//! To take such answers a container must believe its interface where loopback addresses are
//! concerned (route_localnet). What its neighbours send to them is dropped, or they would reach what
//! the container offers to itself alone (CVE-2020-8558).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use nat::{Packet, Protocol, Tuple};

use crate::frame::{self, ETHERNET_HEADER, Frame, ethertype};
use crate::gateway::parse;
use crate::layers::Layers;

/// Where containers ask.
const ASKED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// Of an IPv4 packet in an untagged frame.
const SOURCE: usize = ETHERNET_HEADER + 12;
/// Without options, which no answer has.
const SOURCE_PORT: usize = ETHERNET_HEADER + 20;

/// Sends a question on to `server`. False for whatever is none.
pub(crate) fn lead_in(packet: &mut Packet, server: SocketAddrV4) -> bool {
    let Some(asked) = packet.tuple() else {
        return false;
    };
    let is_question = (asked.dst, asked.dst_port) == (IpAddr::V4(*ASKED.ip()), ASKED.port())
        && has_ports(asked.protocol);
    if is_question {
        packet.readdress(&Tuple {
            dst: IpAddr::V4(*server.ip()),
            dst_port: server.port(),
            ..asked
        });
    }
    is_question
}

/// Makes an answer of `server` one from where it was asked for. Whatever is none stays as it is.
pub(crate) fn lead_out(frame: &mut Frame, server: SocketAddrV4) {
    let bytes = frame.bytes();
    let is_answer = frame::ethertype_of(bytes) == Some(ethertype::IPV4)
        && bytes.get(SOURCE..SOURCE + 4) == Some(&server.ip().octets())
        && bytes.get(SOURCE_PORT..SOURCE_PORT + 2) == Some(&server.port().to_be_bytes());
    if !is_answer {
        return;
    }
    // What is no packet is the kernel's to refuse.
    let Ok(mut packet) = parse(frame) else {
        return;
    };
    let Some(answer) = packet.tuple() else {
        return;
    };
    if answer.src_port == server.port() && has_ports(answer.protocol) {
        packet.readdress(&Tuple {
            src: IpAddr::V4(*ASKED.ip()),
            src_port: ASKED.port(),
            ..answer
        });
    }
}

fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// Whether a frame has a packet for a loopback address, which none on a wire may be for (RFC 1122
/// section 3.2.1.3, RFC 4291 section 2.5.3), tagged or not.
pub(crate) fn is_for_loopback(frame: &[u8], layers: Layers) -> bool {
    let destination = |at: usize, length: usize| frame.get(layers.at + at..)?.get(..length);
    match layers.ethertype {
        ethertype::IPV4 => destination(16, 1) == Some(&[127]),
        ethertype::IPV6 => destination(24, 16) == Some(&Ipv6Addr::LOCALHOST.octets()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
