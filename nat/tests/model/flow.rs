//! A connection of the reference.

use std::net::IpAddr;
use std::time::Duration;

use nat::{ConnectionInfo, Direction, Kind, Limits, Protocol, Time, Tuple};

use super::tcp::{Heard, Tcp};
use super::wire::Wire;

#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    pub(crate) kind: Kind,
    pub(crate) expires: Time,
    /// Its external port is its endpoint's mapping, not one that it shares or has for itself.
    pub(crate) owns: bool,
    packets: [u64; 2],
    bytes: [u64; 2],
    tcp: Tcp,
}

impl Flow {
    pub(crate) fn new(original: Tuple, reply: Tuple, kind: Kind, owns: bool) -> Flow {
        Flow {
            original,
            reply,
            kind,
            expires: Time::ZERO,
            owns,
            packets: [0; 2],
            bytes: [0; 2],
            tcp: Tcp::default(),
        }
    }

    /// A new connection of the same addresses and ports.
    pub(crate) fn begin_again(&mut self) {
        let new = Flow::new(self.original, self.reply, self.kind, self.owns);
        (self.packets, self.bytes, self.tcp) = (new.packets, new.bytes, new.tcp);
    }

    pub(crate) fn tuple(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }

    pub(crate) fn is(&self, info: &ConnectionInfo) -> bool {
        (self.original, self.reply, self.kind) == (info.original, info.reply, info.kind)
    }

    pub(crate) fn has(&self, tuple: &Tuple) -> bool {
        self.original == *tuple || self.reply == *tuple
    }

    pub(crate) fn inside(&self) -> IpAddr {
        match self.kind {
            Kind::Publish(_) => self.reply.src,
            _ => self.original.src,
        }
    }

    pub(crate) fn touches(&self, address: IpAddr) -> bool {
        let target = matches!(self.kind, Kind::Hairpin(_)) && self.reply.src == address;
        self.inside() == address || target
    }

    pub(crate) fn is_hairpin(&self) -> bool {
        matches!(self.kind, Kind::Hairpin(_) | Kind::HairpinMapped)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.original.protocol == Protocol::TCP && matches!(self.tcp.state(), "time-wait" | "reset")
    }

    /// Only the container has spoken, so by which published port its peer comes is a guess.
    pub(crate) fn is_presumed(&self) -> bool {
        matches!(self.kind, Kind::Publish(_)) && self.packets[0] == 0
    }

    /// Nobody is kept from its tuples.
    pub(crate) fn gives_way(&self) -> bool {
        self.is_over() || self.is_presumed()
    }

    pub(crate) fn is_half_open(&self) -> bool {
        if self.original.protocol == Protocol::TCP {
            matches!(self.tcp.state(), "picked-up" | "syn-sent" | "syn-received")
        } else {
            self.packets.contains(&0)
        }
    }

    /// The external port it holds: protocol, address, port.
    pub(crate) fn external(&self) -> Option<External> {
        let held = matches!(
            self.kind,
            Kind::Masquerade | Kind::Hairpin(_) | Kind::HairpinMapped
        );
        let held = held && has_external_ports(self.reply.protocol);
        held.then_some((self.reply.protocol, self.reply.dst, self.reply.dst_port))
    }

    /// The mapping it needs: protocol, external address, inside address and port.
    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(&self.original, &self.reply)
    }

    pub(crate) fn info(&self, now: Time) -> ConnectionInfo {
        let state = match (self.original.protocol, self.is_half_open()) {
            (Protocol::TCP, _) => self.tcp.state(),
            (_, true) => "unreplied",
            (_, false) => "replied",
        };
        ConnectionInfo {
            original: self.original,
            reply: self.reply,
            kind: self.kind,
            state,
            out_of_window: self.tcp.has_strayed(),
            expires_in: self.expires - now,
            packets: self.packets,
            bytes: self.bytes,
            inside: self.inside(),
        }
    }

    /// Counts a packet. What is not believed changes nothing else.
    pub(crate) fn hear(
        &mut self,
        now: Time,
        direction: Direction,
        wire: &Wire,
        limits: &Limits,
    ) -> Heard {
        self.packets[direction.index()] += 1;
        self.bytes[direction.index()] += wire.bytes().len() as u64;
        if let Some(segment) = wire.segment() {
            let heard = self.tcp.hear(direction, segment);
            if heard != Heard::Believed {
                return heard;
            }
        }
        // RFC 4787 REQ-6: what comes from outside does not keep a mapping open. It does keep TCP,
        // which has states, and what was published for it.
        let refreshes = match self.kind {
            Kind::Publish(_) | Kind::Hairpin(_) => true,
            Kind::Masquerade | Kind::Routed | Kind::HairpinMapped => {
                direction == Direction::Original || wire.segment().is_some()
            }
        };
        if refreshes {
            self.expires = now + self.timeout(limits);
        }
        Heard::Believed
    }

    /// If it ends now: until when its peer may still send to its external port, and who may have
    /// that all the same: an inside address, with one port or any.
    pub(crate) fn unquiet(&self, now: Time, limits: &Limits) -> Option<Unquiet> {
        let reset = self.is_over() && self.tcp.state() == "reset";
        if self.expires <= now || (self.is_over() && !reset) {
            return None;
        }
        let idle = self.timeout(limits).saturating_sub(self.expires - now);
        let timeouts = &limits.timeouts;
        let until = match (reset, self.is_half_open()) {
            (true, _) => now + timeouts.port_reset.saturating_sub(idle),
            (_, true) => now + timeouts.port_quarantine.saturating_sub(idle),
            _ => now + timeouts.port_quarantine,
        };
        let port = (!reset).then_some(self.original.src_port);
        (until > now).then_some((until, self.original.src, port))
    }

    fn timeout(&self, limits: &Limits) -> Duration {
        let timeouts = &limits.timeouts;
        match (self.original.protocol, self.original.dst_port) {
            (Protocol::TCP, _) => match self.tcp.state() {
                "established" | "fin-wait" => timeouts.tcp_established,
                _ => timeouts.tcp_transitory,
            },
            (Protocol::UDP, 53) => timeouts.udp_dns,
            (Protocol::UDP, _) => timeouts.udp,
            (Protocol::ICMP | Protocol::ICMPV6, _) => timeouts.icmp,
            _ => timeouts.other,
        }
    }
}

/// The others keep their ports, or have none.
pub(crate) fn has_external_ports(protocol: Protocol) -> bool {
    [
        Protocol::TCP,
        Protocol::UDP,
        Protocol::ICMP,
        Protocol::ICMPV6,
    ]
    .contains(&protocol)
}

/// Until when, and an endpoint for which it does not count.
pub(crate) type Unquiet = (Time, IpAddr, Option<u16>);

pub(crate) type External = (Protocol, IpAddr, u16);
pub(crate) type Endpoint = (Protocol, IpAddr, IpAddr, u16);

pub(crate) fn endpoint(original: &Tuple, reply: &Tuple) -> Endpoint {
    (
        original.protocol,
        reply.dst,
        original.src,
        original.src_port,
    )
}
