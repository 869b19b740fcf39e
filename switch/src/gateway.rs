//! The router of a network: answers ARP and neighbour discovery for its addresses, and routes
//! between its containers, the host and the world.
//!
//! It knows its containers from the configuration and never asks for them. It holds no addresses
//! of its own: the gateway's address is the host's, on the host port, so whatever is meant for the
//! host and is not published goes there untouched.
//!
//! It advertises no routes to IPv6 hosts, and is silent to their router solicitations: addresses and
//! default routes are given by the control plane.

use std::net::IpAddr;

use nat::{Checksum, Packet, Path, Refused, Translated};

use crate::config::{Network, PortId, Uplink};
use crate::datapath::{Egress, Narrow, Pass};
use crate::drop::DropReason;
use crate::frame::{self, ETHERNET_HEADER, Frame, ethertype};
use crate::mtu::{self, Fit};
use crate::neighbor::Heard;
use crate::topology::{Role, Segment};
use crate::{arp, nd};

mod leaving;

impl Pass<'_> {
    /// Tells the engine what packets it will see, for it to fetch their connections from memory all
    /// at once.
    pub(crate) fn prefetch(&self, ingress: PortId, frames: &mut [Frame]) {
        let gateway_mac = match self.topology.role(ingress) {
            Role::Container { network, .. } => {
                Some(self.topology.networks[network].network.gateway_mac)
            }
            Role::Uplink { .. } => None,
            Role::Host { .. } | Role::Names | Role::Unassigned => return,
        };
        self.datapath
            .nat()
            .prefetch(frames.iter_mut().filter_map(|frame| {
                let destination = frame::destination(frame.bytes());
                if gateway_mac.is_some_and(|mac| destination != Some(mac)) {
                    return None;
                }
                let tuple = parse(frame).ok()?.tuple()?;
                let path = match gateway_mac {
                    // Any: it does not matter here.
                    Some(_) => Path::Outbound {
                        external: tuple.src,
                    },
                    None => Path::Inbound,
                };
                Some((path, tuple))
            }));
    }

    /// Answers a multicast frame that asks for the gateway: in place, back to where it came from.
    pub(crate) fn gateway_answers(
        &self,
        segment: &Segment,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Option<Egress> {
        let network = &segment.network;
        match frame::ethertype_of(frame.bytes())? {
            ethertype::ARP => {
                let request = arp::parse(frame.bytes()).filter(|arp| arp.is_request)?;
                network.is_gateway(request.target.into()).then(|| {
                    arp::answer(frame, request, network.gateway_mac);
                    Egress::Port(ingress)
                })
            }
            ethertype::IPV6 => {
                let nd::Message::Solicitation(asked) = nd::parse(frame)? else {
                    return None;
                };
                network.is_gateway(asked.target.into()).then(|| {
                    nd::answer(frame, &asked, network.gateway_mac);
                    Egress::Port(ingress)
                })
            }
            _ => None,
        }
    }

    /// A container's frame to the gateway's MAC: for the host, for the world, or, through a
    /// published port, for another container.
    pub(crate) fn gateway_from_inside(
        &mut self,
        segment: &Segment,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        let host = segment.network.host_port.ok_or(DropReason::HostUnreachable);
        match frame::ethertype_of(frame.bytes()) {
            Some(ethertype::IPV4) => {}
            Some(ethertype::IPV6) => {
                // "Are you still there?" comes by unicast (RFC 4861 7.3.3).
                if let Some(answer) = self.gateway_answers(segment, ingress, frame) {
                    return Ok(answer);
                }
            }
            Some(ethertype::ARP) => {
                // A unicast request confirms what the container already believes; an answer is
                // one to the host's own question.
                return match self.gateway_answers(segment, ingress, frame) {
                    Some(answer) => Ok(answer),
                    None => host.map(Egress::Port),
                };
            }
            _ => return Err(DropReason::NotIp),
        }
        let mut packet = parse(frame)?;
        let (source, destination) = (packet.src(), packet.dst());
        if is_link_local(destination) {
            return host.map(Egress::Port);
        }
        if is_martian(source) || is_martian(destination) {
            let asked = (!is_martian(source)).then(|| self.ask_names(segment, ingress, frame));
            return asked.flatten().ok_or(DropReason::Martian);
        }
        if segment.network.internal {
            // To the host itself, whatever is published there: nothing is translated.
            if segment.network.is_gateway(destination) {
                let asked = self.ask_names(segment, ingress, frame);
                return asked.map_or(host.map(Egress::Port), Ok);
            }
            let neighbor = self.topology.endpoint_at(destination);
            if neighbor.is_none_or(|endpoint| endpoint.network != segment.network.id) {
                return Err(DropReason::InternalNetwork);
            }
        }
        if self.topology.is_host_address(destination) {
            // On its last hop, or from an address of this link alone, it can reach the host, and
            // nothing behind it.
            if packet.ttl() <= 1 || is_link_local(source) {
                return host.map(Egress::Port);
            }
            if let Some(asked) = self.ask_names(segment, ingress, frame) {
                return Ok(asked);
            }
            let mut packet = parse(frame)?;
            return match self.translate(Path::Hairpin, &mut packet) {
                Ok(Some(_)) => {
                    let inside = route_hop(&mut packet)?;
                    // Translated as it is, an error would quote to its sender what it never sent.
                    // One about its size is translated back.
                    self.deliver(inside, frame).map_err(|reason| match reason {
                        DropReason::UnknownEndpoint => DropReason::EgressGone,
                        other => other,
                    })
                }
                Ok(None) => Ok(Egress::Consumed),
                Err(Refused::NotPublished | Refused::UnsupportedProtocol) => host.map(Egress::Port),
                Err(refused) => Err(refused.into()),
            };
        }
        if is_link_local(source) {
            return Err(DropReason::BeyondScope);
        }
        if let Some(endpoint) = self.topology.endpoint_at(destination) {
            if endpoint.network != segment.network.id {
                return Err(DropReason::OtherNetwork);
            }
            if endpoint.isolated && self.topology.is_isolated(ingress) {
                return Err(DropReason::Isolated);
            }
            let inside = route_hop(&mut packet)?;
            return self.deliver(inside, frame);
        }
        if self.topology.is_inside(destination) {
            return Err(DropReason::UnknownEndpoint);
        }

        self.leave(segment, ingress, frame)
    }

    /// A frame seen on an uplink, which the host sees too: ours if it answers our ARP or neighbour
    /// discovery, belongs to a connection or is for a published port; otherwise the host's own
    /// business.
    pub(crate) fn gateway_from_uplink(
        &mut self,
        uplink: &Uplink,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        match frame::ethertype_of(frame.bytes()) {
            Some(ethertype::ARP) => {
                let heard = arp::parse(frame.bytes()).ok_or(DropReason::Malformed)?;
                let answer = Heard::answer(heard.sender_mac);
                self.observe(uplink, heard.sender.into(), answer);
                return Ok(Egress::Consumed);
            }
            Some(ethertype::IPV6) => {
                if let Some(message) = nd::parse(frame) {
                    self.hear(uplink, message);
                    return Ok(Egress::Consumed);
                }
            }
            Some(ethertype::IPV4) => {}
            _ => return Ok(Egress::HostsOwn),
        }
        if frame::destination(frame.bytes()) != Some(uplink.mac) {
            return Ok(Egress::HostsOwn);
        }
        let hop = frame::source(frame.bytes()).unwrap_or_default();
        let mut packet = parse(frame)?;
        // A packet from the wire that claims to come from a container, from this host or from no
        // host at all (moby#41872: match the ingress as well as the address).
        let source = packet.src();
        if is_link_local(source) {
            // A neighbour of the host, whom no container could answer.
            return Ok(Egress::HostsOwn);
        }
        if is_martian(source)
            || self.topology.is_inside(source)
            || self.topology.is_host_address(source)
        {
            return Err(DropReason::Martian);
        }
        match self.translate(Path::Inbound, &mut packet) {
            Ok(Some(translated)) => self.note_origin(uplink, hop, &translated),
            Ok(None) => return Ok(Egress::Consumed),
            Err(Refused::NoMapping | Refused::NotPublished) => return Ok(Egress::HostsOwn),
            Err(refused) => return Err(refused.into()),
        }
        if uplink.clamp_mss || self.topology.clamps_mss(packet.dst()) {
            packet.clamp_mss(uplink.mtu);
        }
        if packet.ttl() <= 1 {
            self.narrow = Narrow {
                mtu: 0,
                entering: self.network_of(packet.dst()),
            };
        }
        let inside = route_hop(&mut packet)?;
        self.deliver(inside, frame)
    }

    /// Learns from neighbour discovery on an uplink (RFC 4861 7.2.3, 7.2.5).
    fn hear(&mut self, uplink: &Uplink, message: nd::Message) {
        match message {
            nd::Message::Solicitation(asked) => {
                let heard = Heard {
                    mac: asked.source_mac,
                    solicited: false,
                    overrides: true,
                };
                self.observe(uplink, asked.source.into(), heard);
            }
            nd::Message::Advertisement(advertised) => {
                let heard = Heard {
                    mac: advertised.target_mac,
                    solicited: advertised.solicited,
                    overrides: advertised.overrides,
                };
                self.observe(uplink, advertised.target.into(), heard);
            }
        }
    }

    /// A neighbour spoke: sets free what waited for it.
    fn observe(&mut self, uplink: &Uplink, neighbor: IpAddr, heard: Heard) {
        let neighbors = self.datapath.neighbors();
        let waited = neighbors.observe(self.now, uplink.port, neighbor, heard);
        if let Some(mac) = heard.mac {
            for mut frame in waited {
                frame::set_destination(frame.bytes_mut(), mac);
                self.released.push((uplink.port, frame));
            }
        }
    }

    /// Translates a packet. None when it is a fragment that waits for the first one of its
    /// datagram.
    fn translate(
        &mut self,
        path: Path,
        packet: &mut Packet,
    ) -> Result<Option<Translated>, Refused> {
        let nat = self.datapath.nat();
        let translated = if packet.is_fragment() {
            nat.translate_fragment(self.now, path, packet, self.followers)
        } else {
            nat.translate(self.now, path, packet).map(Some)
        };
        if let Err(Refused::PortsExhausted | Refused::QuotaExceeded) = translated {
            self.datapath.lacks_ports(self.now, packet.protocol());
        }
        let translated = translated?;
        if let Some(translated) = translated.filter(|translated| translated.new) {
            self.datapath.opened(self.now, &translated, packet);
        }
        Ok(translated)
    }

    /// Cuts the packet in a frame, and returns what does not stay in it.
    fn divide(&self, frame: &mut Frame, mtu: u32) -> Vec<Frame> {
        let nat = self.datapath.nat();
        mtu::divide(frame, mtu, || nat.fresh_identification())
    }

    /// Hands a routed frame to the container that has `address`.
    pub(crate) fn deliver(
        &mut self,
        address: IpAddr,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        let endpoint = self
            .topology
            .endpoint_at(address)
            .ok_or(DropReason::UnknownEndpoint)?;
        let Role::Container { network, .. } = self.topology.role(endpoint.port) else {
            return Err(DropReason::EgressGone);
        };
        let &Network {
            gateway_mac, mtu, ..
        } = &self.topology.networks[network].network;
        let fit = if frame.len() <= ETHERNET_HEADER + mtu as usize {
            Fit::AsItIs
        } else {
            let vnet = frame.vnet();
            mtu::fit(&parse(frame)?, vnet, mtu)
        };
        if fit == Fit::Never {
            self.narrow = Narrow {
                mtu,
                entering: Some(network),
            };
            return Err(DropReason::MtuExceeded);
        }
        frame::set_destination(frame.bytes_mut(), endpoint.mac);
        frame::set_source(frame.bytes_mut(), gateway_mac);
        if fit == Fit::Divided {
            let pieces = self.divide(frame, mtu).into_iter();
            self.released
                .extend(pieces.map(|piece| (endpoint.port, piece)));
        }
        Ok(Egress::Port(endpoint.port))
    }
}

/// The IP packet of an untagged frame.
pub(crate) fn parse(frame: &mut Frame) -> Result<Packet<'_>, DropReason> {
    let vnet = frame.vnet();
    let kind = frame::ethertype_of(frame.bytes());
    let bytes = frame.bytes_mut().get_mut(ETHERNET_HEADER..);
    let mut packet = Packet::parse(bytes.unwrap_or_default(), Checksum::Complete)
        .map_err(|_| DropReason::Malformed)?;
    // The receiver would go by the EtherType, and find another packet.
    let version = if packet.is_ipv4() {
        ethertype::IPV4
    } else {
        ethertype::IPV6
    };
    if kind != Some(version) {
        return Err(DropReason::Malformed);
    }
    // A checksum left open further in belongs to a tunnelled packet; the outer one is then whole.
    let transport = ETHERNET_HEADER + packet.header_len();
    if vnet.needs_csum() && usize::from(vnet.csum_start) == transport {
        packet.set_checksum(Checksum::Partial);
    }
    // A router that goes along carries packets past its own rules (RFC 7126 sections 4.3, 4.4; RFC
    // 5095), and the addresses in the route are not translated.
    if packet.is_source_routed() {
        return Err(DropReason::SourceRouted);
    }
    // No device sums or cuts over the borders of a packet, so no kernel asks for it.
    if packet.is_fragment() && (vnet.needs_csum() || vnet.is_gso()) {
        return Err(DropReason::Malformed);
    }
    Ok(packet)
}

/// Takes one hop off the packet's life (RFC 1812 5.3.1) and returns where it is going.
fn route_hop(packet: &mut Packet) -> Result<IpAddr, DropReason> {
    if packet.ttl() <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    packet.decrement_ttl();
    Ok(packet.dst())
}

/// RFC 1812 5.3.7, RFC 4291 2.7: addresses that no router forwards from or to.
fn is_martian(address: IpAddr) -> bool {
    let unroutable = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    unroutable || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

/// An address that is only good on its own link, so between a container and its host.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
