//! What must hold at every moment, whatever happens: of each frame that the switch sends, and of
//! its table of connections.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nat::{ConnectionInfo, Kind, Limits, Nat, Protocol, Time};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Packet, IpProtocol,
    Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use super::plan::{HOST, HOST6, Party};
use crate::simulation::UPLINK_MAC;

/// Where a port of the switch leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Inside(Party),
    Uplink,
}

/// The network of a container's address. A gateway's is the host's, which may be seen in any
/// network as the source of a hairpin.
fn inside(address: Ipv4Addr) -> Option<usize> {
    match address.octets() {
        [10, network @ 80..=255, _, 2..=255] => Some(usize::from(network - 80)),
        _ => None,
    }
}

/// A frame that the switch sends at `place`. `sound` wires damage no frame, so whatever leaves has
/// right checksums.
pub(super) fn sent(place: Place, bytes: &[u8], sound: bool) -> Result<(), String> {
    let frame = EthernetFrame::new_checked(bytes).map_err(|_| "shorter than a header")?;
    let from = frame.src_addr().0;
    match place {
        Place::Inside(party) => {
            let network = party.network().expect("an inside port has a network");
            if (from[1], usize::from(from[2])) != (1, network) {
                return Err(format!("comes from {}, of no one here", frame.src_addr()));
            }
        }
        Place::Uplink if from != UPLINK_MAC.0 => {
            return Err(format!("comes from {}, not the uplink", frame.src_addr()));
        }
        Place::Uplink => {}
    }
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => ipv4(place, from, frame.payload(), sound),
        EthernetProtocol::Ipv6 => ipv6(place, from, frame.payload(), sound),
        EthernetProtocol::Arp => {
            let sender: Option<[u8; 4]> = bytes.get(28..32).and_then(|at| at.try_into().ok());
            match place {
                Place::Uplink if sender != Some(HOST.octets()) => {
                    Err(format!("ARP on the uplink in the name of {sender:?}"))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn ipv4(place: Place, from: [u8; 6], bytes: &[u8], sound: bool) -> Result<(), String> {
    let Ok(packet) = Ipv4Packet::new_checked(bytes) else {
        // The bridge looks into no packet, so it carries a damaged one within a network.
        return if sound { Err("no IPv4".into()) } else { Ok(()) };
    };
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    match place {
        Place::Uplink => {
            if source != HOST {
                return Err(format!("leaves by the uplink from {source}"));
            }
            if inside(destination).is_some() {
                return Err(format!("leaves by the uplink to {destination}"));
            }
            if let Some((from, to)) = quoted(&packet)
                && (inside(from).is_some() || inside(to).is_some())
            {
                return Err(format!(
                    "tells the outside of {from} > {to}, in an ICMP error"
                ));
            }
        }
        Place::Inside(party) => {
            let routed = from
                == Party::Host {
                    network: party.network().unwrap_or(0),
                }
                .mac(0)
                .0;
            let foreign = inside(source).is_some_and(|network| Some(network) != party.network());
            if foreign {
                return Err(format!("comes from {source}, of another network"));
            }
            // An error is about what its receiver sent, as it sent it.
            if let Some((from, _)) = quoted(&packet).filter(|_| routed && sound)
                && from != party.address()
            {
                return Err(format!("has an ICMP error about a packet of {from}"));
            }
            // A container has one address; what the router brings it is for that one, or for a group:
            // the switch asks who listens.
            let to_all = destination.is_broadcast() || destination.is_multicast();
            let misled = party.is_container() && destination != party.address() && !to_all;
            if misled && routed && sound {
                return Err(format!(
                    "is routed to {}, for {destination}",
                    party.address()
                ));
            }
        }
    }
    if sound { whole(&packet) } else { Ok(()) }
}

/// The network of a container's address of IPv6.
fn inside6(address: Ipv6Addr) -> Option<usize> {
    match address.segments() {
        [0xfd00, 0, 0, network, 0, 0, 0, 2..=0xffff] => Some(usize::from(network)),
        _ => None,
    }
}

fn ipv6(place: Place, from: [u8; 6], bytes: &[u8], sound: bool) -> Result<(), String> {
    let Ok(packet) = Ipv6Packet::new_checked(bytes) else {
        return if sound { Err("no IPv6".into()) } else { Ok(()) };
    };
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let near = source.is_unicast_link_local() || source.is_unspecified();
    match place {
        Place::Uplink => {
            if source != HOST6 && !near {
                return Err(format!("leaves by the uplink from {source}"));
            }
            if inside6(destination).is_some() {
                return Err(format!("leaves by the uplink to {destination}"));
            }
            if let Some((from, to)) = quoted6(&packet)
                && (inside6(from).is_some() || inside6(to).is_some())
            {
                return Err(format!(
                    "tells the outside of {from} > {to}, in an ICMP error"
                ));
            }
        }
        Place::Inside(party) => {
            let network = party.network().unwrap_or(0);
            let routed = from == Party::Host { network }.mac(0).0;
            if inside6(source).is_some_and(|other| other != network) {
                return Err(format!("comes from {source}, of another network"));
            }
            if let Some((from, _)) = quoted6(&packet).filter(|_| routed && sound)
                && from != party.address6()
            {
                return Err(format!("has an ICMP error about a packet of {from}"));
            }
            let to_it = destination == party.address6() || destination.is_unicast_link_local();
            if party.is_container() && routed && sound && !to_it && !destination.is_multicast() {
                return Err(format!(
                    "is routed to {}, for {destination}",
                    party.address6()
                ));
            }
        }
    }
    if sound { whole6(&packet) } else { Ok(()) }
}

/// The source and the destination that an ICMPv6 error quotes.
fn quoted6(packet: &Ipv6Packet<&[u8]>) -> Option<(Ipv6Addr, Ipv6Addr)> {
    // Errors are the types below 128 (RFC 4443 section 2.1).
    let is_error = packet.next_header() == IpProtocol::Icmpv6 && *packet.payload().first()? < 128;
    let address = |at: usize| -> Option<Ipv6Addr> {
        let bytes: [u8; 16] = packet.payload().get(at..at + 16)?.try_into().ok()?;
        Some(bytes.into())
    };
    is_error.then_some((address(16)?, address(32)?))
}

fn whole6(packet: &Ipv6Packet<&[u8]>) -> Result<(), String> {
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let payload = packet.payload();
    let right = match packet.next_header() {
        IpProtocol::Tcp => TcpPacket::new_checked(payload)
            .is_ok_and(|segment| segment.verify_checksum(&source.into(), &destination.into())),
        IpProtocol::Udp => UdpPacket::new_checked(payload)
            .is_ok_and(|datagram| datagram.verify_checksum(&source.into(), &destination.into())),
        IpProtocol::Icmpv6 => Icmpv6Packet::new_checked(payload)
            .is_ok_and(|message| message.verify_checksum(&source, &destination)),
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(format!(
            "a checksum is wrong, from {source} to {destination}"
        ))
    }
}

/// The source and the destination that an ICMP error quotes.
fn quoted(packet: &Ipv4Packet<&[u8]>) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if packet.next_header() != IpProtocol::Icmp {
        return None;
    }
    let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let is_error = matches!(
        icmp.msg_type(),
        Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded | Icmpv4Message::ParamProblem
    );
    let address = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = packet.payload().get(at..at + 4)?.try_into().ok()?;
        Some(bytes.into())
    };
    is_error.then_some((address(20)?, address(24)?))
}

fn whole(packet: &Ipv4Packet<&[u8]>) -> Result<(), String> {
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let payload = packet.payload();
    let right = packet.verify_checksum()
        && match packet.next_header() {
            IpProtocol::Tcp => TcpPacket::new_checked(payload)
                .is_ok_and(|segment| segment.verify_checksum(&source, &destination)),
            IpProtocol::Udp => UdpPacket::new_checked(payload)
                .is_ok_and(|datagram| datagram.verify_checksum(&source, &destination)),
            IpProtocol::Icmp => {
                Icmpv4Packet::new_checked(payload).is_ok_and(|message| message.verify_checksum())
            }
            _ => true,
        };
    if right {
        Ok(())
    } else {
        Err(format!(
            "a checksum is wrong, from {source} to {destination}"
        ))
    }
}

/// The table of connections: within its limits, no two entries for one packet, and the mappings of
/// inside ports to external ones a bijection.
pub(super) fn table(nat: &Nat, now: Time) -> Result<(), String> {
    let connections = nat.connections(now);
    let stats = nat.stats();
    let Limits {
        max_connections,
        max_per_address,
        ..
    } = *nat.limits();
    if connections.len() > max_connections {
        return Err(format!("{} connections in all", connections.len()));
    }
    let mut held: HashMap<IpAddr, usize> = HashMap::new();
    let mut tuples = HashSet::new();
    for connection in &connections {
        let held = held.entry(connection.inside).or_default();
        *held += 1;
        if *held > max_per_address {
            return Err(format!("{held} connections of {}", connection.inside));
        }
        for tuple in [connection.original, connection.reply] {
            if !tuples.insert(tuple) {
                return Err(format!("{tuple} belongs to two connections"));
            }
        }
    }
    // Ports under pressure are shared among peers, or given up early; then one inside port may have
    // several. What is true of every tuple, above, stays so.
    if stats.shared == 0 && stats.recycled == 0 {
        bijection(&connections)?;
    }
    Ok(())
}

/// Of a container that went no connection remains, for the next one with its address to inherit.
pub(super) fn forgotten(nat: &Nat, now: Time, gone: [IpAddr; 2]) -> Result<(), String> {
    let connections = nat.connections(now);
    let left = connections.iter().find(|of| {
        [of.original, of.reply]
            .iter()
            .any(|of| gone.contains(&of.src) || gone.contains(&of.dst))
    });
    left.map_or(Ok(()), |left| {
        Err(format!("{} outlives its container", left.original))
    })
}

fn bijection(connections: &[ConnectionInfo]) -> Result<(), String> {
    type Side = (Protocol, IpAddr, IpAddr, u16);
    let mut outward: HashMap<Side, u16> = HashMap::new();
    let mut inward: HashMap<(Protocol, IpAddr, u16), (IpAddr, u16)> = HashMap::new();
    for connection in connections {
        if matches!(connection.kind, Kind::Routed | Kind::Publish(_)) {
            continue;
        }
        let (original, reply) = (connection.original, connection.reply);
        let source = (original.src, original.src_port);
        let protocol = original.protocol;
        let port = *outward
            .entry((protocol, reply.dst, source.0, source.1))
            .or_insert(reply.dst_port);
        if port != reply.dst_port {
            let other = reply.dst_port;
            return Err(format!(
                "{original} has {other}, and {port} to another peer"
            ));
        }
        let owner = *inward
            .entry((protocol, reply.dst, reply.dst_port))
            .or_insert(source);
        if owner != source {
            return Err(format!("{original} has {port}, and so has {owner:?}"));
        }
    }
    Ok(())
}
