//! Out into the world: the way that the host's routing gives a packet, and its next hop.
//!
//! A packet of a container is routed as the host's kernel would route it if it forwarded for the
//! container: by its own source, before translation, and by the interface of its network.
//!
//! The answers of a published port are routed as those of a program on the host would be: by the
//! address that the client dialled. Where that is not the uplink that the client comes by, they go
//! back by that uplink and the router on it that the client's packets came from: another provider
//! would drop a source address that is not its own. The engine keeps that origin with the
//! connection, and only for such connections. Fragments go where the first one of their datagram
//! goes, and ICMP errors where the flow goes that they are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nat::{Direction, Kind, Origin, Packet, Path, Translated};

use super::{parse, route_hop};
use crate::config::{PortId, Uplink};
use crate::datapath::{Egress, Narrow, Pass};
use crate::drop::DropReason;
use crate::frame::{self, Frame, MacAddr};
use crate::icmp::{self, Complaint};
use crate::ipv6;
use crate::mtu::{self, Fit};
use crate::neighbor::{QUESTIONS_PER_SECOND, Question, Resolution};
use crate::routing::{Lookup, Way};
use crate::topology::{Role, Segment};

/// How a packet leaves.
struct Exit<'a> {
    uplink: &'a Uplink,
    /// What masqueraded flows leave with.
    source: Option<IpAddr>,
    next: Next,
    mtu: u32,
}

/// The next hop.
#[derive(Clone, Copy)]
enum Next {
    Ask(Question),
    Known(MacAddr),
}

impl<'a> Pass<'a> {
    /// Routes a packet into the world, translates it and hands it to its next hop.
    pub(super) fn leave(
        &mut self,
        segment: &Segment,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        let vnet = frame.vnet();
        let mut packet = parse(frame)?;
        let exit = match self.exit(segment, &mut packet) {
            Ok(Some(exit)) => exit,
            Ok(None) => {
                let host = segment.network.host_port;
                return host.map(Egress::Port).ok_or(DropReason::HostUnreachable);
            }
            // A fragment that came before the first one of its datagram waits for it, and then
            // takes its way, which may be one that the routes do not know.
            Err(reason @ (DropReason::NoRoute | DropReason::NotAnUplink))
                if packet.fragment_offset().is_some_and(|offset| offset > 0)
                    && self.datapath.nat().flow(&mut packet).is_none() =>
            {
                let external = unspecified(packet.dst());
                let held = self.translate(Path::Outbound { external }, &mut packet)?;
                return held.map_or(Ok(Egress::Consumed), |_| Err(reason));
            }
            Err(reason) => return Err(reason),
        };
        let Exit {
            uplink,
            source,
            next,
            mtu,
        } = exit;
        if packet.ttl() <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        // Asked before the translation, so that the sender hears of the packet that it sent.
        let fit = mtu::fit(&packet, vnet, mtu);
        if fit == Fit::Never {
            self.narrow = Narrow {
                mtu,
                entering: None,
            };
            return Err(DropReason::MtuExceeded);
        }
        let path = Path::Outbound {
            external: source.unwrap_or(unspecified(packet.dst())),
        };
        if self.translate(path, &mut packet)?.is_none() {
            return Ok(Egress::Consumed);
        }
        if uplink.clamp_mss || segment.network.clamp_mss {
            packet.clamp_mss(mtu);
        }
        route_hop(&mut packet)?;
        frame::set_source(frame.bytes_mut(), uplink.mac);
        let pieces = match fit {
            Fit::Divided => self.divide(frame, mtu),
            Fit::AsItIs | Fit::Never => Vec::new(),
        };
        let egress = self.to_next(uplink, next, ingress, frame)?;
        for mut piece in pieces {
            let outcome = self.to_next(uplink, next, ingress, &mut piece);
            self.release(outcome, piece);
        }
        Ok(egress)
    }

    /// The way out of a packet from a container; none if it is for the host.
    fn exit(&self, segment: &Segment, packet: &mut Packet) -> Result<Option<Exit<'a>>, DropReason> {
        let nat = self.datapath.nat();
        let tuple = nat.flow(packet);
        let mut lookup = Lookup {
            source: packet.src(),
            destination: packet.dst(),
            network: Some(segment.network.id),
            tos: type_of_service(packet),
            protocol: packet.protocol().0,
            ports: tuple.map(|tuple| (tuple.src_port, tuple.dst_port)),
        };
        // With one uplink there is one way back.
        if self.topology.uplinks.len() > 1
            && let Some(of) = tuple.or_else(|| packet.quoted_flow())
            && let Some(answered) = nat.answered(&of)
        {
            lookup.source = answered.host;
            lookup.network = None;
            lookup.ports = tuple.map(|tuple| (answered.port, tuple.dst_port));
            if let Some(origin) = answered.origin
                && let Some(exit) = self.exit_to_origin(&lookup, origin)
            {
                return Ok(Some(exit));
            }
        }
        let topology = self.topology;
        let hop = match topology.routing.decide(&lookup)? {
            Way::Host => return Ok(None),
            Way::Out(hop) => hop,
        };
        let uplink = topology.uplink(hop.uplink).ok_or(DropReason::NotAnUplink)?;
        let target = hop.via.unwrap_or(lookup.destination);
        let asker = hop.asks_from.or(hop.source).unwrap_or(match target {
            IpAddr::V4(_) => unspecified(target),
            IpAddr::V6(_) => ipv6::link_local(uplink.mac).into(),
        });
        Ok(Some(Exit {
            uplink,
            source: hop.source,
            next: Next::Ask(Question {
                uplink: hop.uplink,
                source: asker,
                target,
            }),
            mtu: hop.mtu.map_or(uplink.mtu, |mtu| mtu.min(uplink.mtu)),
        }))
    }

    /// The way back to where a flow comes from, unless the host's routes refuse to go there, or
    /// lead by that uplink by now.
    fn exit_to_origin(&self, lookup: &Lookup, origin: Origin) -> Option<Exit<'a>> {
        let (port, mac) = origin_parts(origin);
        match self.topology.routing.decide(lookup) {
            Ok(Way::Out(hop)) if hop.uplink != port => {}
            Err(DropReason::NoRoute | DropReason::NotAnUplink) => {}
            _ => return None,
        }
        let uplink = self.topology.uplink(port)?;
        Some(Exit {
            uplink,
            source: Some(lookup.source),
            next: Next::Known(mac),
            mtu: uplink.mtu,
        })
    }

    /// Keeps in mind by which uplink and router a flow to a published port comes, if the host's
    /// routes lead back by another uplink.
    pub(super) fn note_origin(&self, uplink: &Uplink, router: MacAddr, translated: &Translated) {
        if self.topology.uplinks.len() <= 1
            || !matches!(translated.kind, Kind::Publish(_))
            || translated.direction != Direction::Original
        {
            return;
        }
        let dialled = translated.connection;
        let lookup = Lookup {
            source: dialled.dst,
            destination: dialled.src,
            network: None,
            tos: 0,
            protocol: dialled.protocol.0,
            ports: Some((dialled.dst_port, dialled.src_port)),
        };
        let way = self.topology.routing.decide(&lookup);
        let returns = matches!(way, Ok(Way::Out(hop)) if hop.uplink == uplink.port);
        let origin = (!returns).then(|| origin(uplink.port, router));
        self.datapath.nat().set_origin(&dialled, origin);
    }

    /// The network of the container that has `address`.
    pub(super) fn network_of(&self, address: IpAddr) -> Option<usize> {
        let endpoint = self.topology.endpoint_at(address)?;
        match self.topology.role(endpoint.port) {
            Role::Container { network, .. } => Some(network),
            _ => None,
        }
    }

    /// The address of the host that a packet to `destination` leaves with: what the kernel's ICMP
    /// errors come from.
    pub(crate) fn own_address_towards(&self, destination: IpAddr) -> Option<IpAddr> {
        let lookup = Lookup {
            source: unspecified(destination),
            destination,
            network: None,
            tos: 0,
            protocol: nat::Protocol::ICMP.0,
            ports: None,
        };
        match self.topology.routing.decide(&lookup) {
            Ok(Way::Out(hop)) => hop.source,
            _ => None,
        }
    }

    /// Tells the sender of a packet whose next hop did not answer (RFC 4861 7.2.2, RFC 1812
    /// 4.3.3.1): turns the frame into the error, which leaves by the port returned. As that of a
    /// router beyond the uplink it is translated on its way in, for the packet was on its way out.
    pub(crate) fn give_up(&mut self, question: Question, frame: &mut Frame) -> Option<PortId> {
        let mac = self.topology.uplink(question.uplink)?.mac;
        let packet = parse(frame).ok()?;
        // The router may be of the other IP version.
        let own = self.own_address_towards(packet.dst());
        let router = [question.source, own.unwrap_or(packet.src())];
        if !icmp::turn_into_error(frame, Complaint::AddressUnreachable, (mac, &router)) {
            return None;
        }
        let mut packet = parse(frame).ok()?;
        self.translate(Path::Inbound, &mut packet).ok()??;
        let inside = packet.dst();
        match self.deliver(inside, frame) {
            Ok(Egress::Port(port)) if self.may_tell(port, None) => Some(port),
            _ => None,
        }
    }

    /// Hands a routed frame to the next hop, or lets it wait while the next hop is asked for. Its
    /// buffer then carries the question.
    fn to_next(
        &self,
        uplink: &Uplink,
        next: Next,
        asker: PortId,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        let question = match next {
            _ if !uplink.is_ethernet() => {
                frame::set_destination(frame.bytes_mut(), MacAddr::default());
                return Ok(Egress::Port(uplink.port));
            }
            Next::Known(mac) => {
                frame::set_destination(frame.bytes_mut(), mac);
                return Ok(Egress::Port(uplink.port));
            }
            Next::Ask(question) => question,
        };
        let clock = self.topology.port(asker).map(|port| &port.questions);
        let may_ask = || clock.is_none_or(|it| it.admit(self.now, QUESTIONS_PER_SECOND));
        let neighbors = self.datapath.neighbors();
        match neighbors.resolve(self.now, question, asker, may_ask, frame) {
            Resolution::Known(mac) => {
                frame::set_destination(frame.bytes_mut(), mac);
                Ok(Egress::Port(question.uplink))
            }
            Resolution::Waiting { ask } if ask && question.write(uplink.mac, frame) => {
                Ok(Egress::Port(question.uplink))
            }
            Resolution::Waiting { .. } => Ok(Egress::Consumed),
            Resolution::Full => Err(DropReason::NeighborUnresolved),
        }
    }
}

/// The type of service of IPv4, the traffic class of IPv6.
fn type_of_service(packet: &Packet) -> u8 {
    match packet.as_bytes() {
        [_, second, ..] if packet.is_ipv4() => *second,
        [first, second, ..] => first << 4 | second >> 4,
        _ => 0,
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The uplink and the MAC, as the engine keeps them.
fn origin(uplink: PortId, MacAddr(mac): MacAddr) -> Origin {
    let [a, b, c, d, e, f] = mac;
    let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    Origin(u128::from(uplink.0) << 64 | u128::from(mac))
}

fn origin_parts(Origin(origin): Origin) -> (PortId, MacAddr) {
    let [.., a, b, c, d, e, f] = (origin as u64).to_be_bytes();
    (PortId((origin >> 64) as u32), MacAddr([a, b, c, d, e, f]))
}
