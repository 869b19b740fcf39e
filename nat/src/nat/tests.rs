//! The engine from outside: packets in, packets out. `World` has the usual addresses and checks
//! with every packet that checksums are right, and that a refused packet is untouched.

mod allowed;
mod behaviour;
mod by_address;
mod conformance;
mod fragments;
mod hairpin;
mod icmp_errors;
mod limits;
mod prefetch;
mod random;
mod rules;
mod snapshot;
mod tcp_states;
mod traffic;

use std::time::Duration;

use super::*;
use crate::checksum::Checksum;
use crate::icmp::Quote;
use crate::limits::Timeouts;
use crate::packet::Packet;
use crate::refused::Refused;
use crate::rule::{Masquerade, Publish};
use crate::sources::Sources;
use crate::testing::*;

/// The host's address on the uplink.
const HOST: &str = "198.51.100.1";
const HOST6: &str = "2001:db8:1::1";
/// A server, or a client, beyond the uplink.
const PEER: &str = "192.0.2.9";

struct World {
    nat: Nat,
    now: Time,
}

impl World {
    /// Containers in 10.0.0.0/24 and fd00::/64, masqueraded, with external ports 61000-61999.
    fn new() -> World {
        World::with(Limits::default(), 61000..=61999)
    }

    fn with(limits: Limits, ports: RangeInclusive<u16>) -> World {
        let world = World {
            nat: Nat::new(limits, 42),
            now: Time::ZERO,
        };
        world.nat.add_external_ports(Protocol::TCP, ports.clone());
        world.nat.add_external_ports(Protocol::UDP, ports);
        world.publish(vec![]);
        world
    }

    fn rules(publish: Vec<Publish>) -> Rules {
        let masquerade = |source: &str| Masquerade {
            source: source.parse().unwrap(),
            to: None,
        };
        Rules {
            masquerade: vec![masquerade("10.0.0.0/24"), masquerade("fd00::/64")],
            publish,
            local: vec![ip(HOST), ip("198.51.100.2"), ip(HOST6)],
            ..Rules::default()
        }
    }

    fn publish(&self, publish: Vec<Publish>) {
        self.nat.set_rules(self.now, World::rules(publish));
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    #[track_caller]
    fn translate(
        &self,
        path: Path,
        bytes: &[u8],
    ) -> Result<(Translated, Option<Tuple>, Vec<u8>), Refused> {
        let mut out = bytes.to_vec();
        let mut packet = Packet::parse(&mut out, Checksum::Complete).unwrap();
        match self.nat.translate(self.now, path, &mut packet) {
            Ok(translated) => {
                let tuple = packet.tuple();
                assert_valid(&out, Checksum::Complete);
                Ok((translated, tuple, out))
            }
            Err(refused) => {
                assert_eq!(out, bytes, "a refused packet was changed");
                Err(refused)
            }
        }
    }

    fn outbound() -> Path {
        Path::Outbound { external: ip(HOST) }
    }

    /// The tuple that leaves by the uplink.
    #[track_caller]
    fn out(&self, bytes: &[u8]) -> Result<Tuple, Refused> {
        let external = if bytes[0] >> 4 == 4 {
            ip(HOST)
        } else {
            ip(HOST6)
        };
        self.translate(Path::Outbound { external }, bytes)
            .map(|(_, tuple, _)| tuple.unwrap())
    }

    /// The tuple that comes inside.
    #[track_caller]
    fn inside(&self, bytes: &[u8]) -> Result<Tuple, Refused> {
        self.translate(Path::Inbound, bytes)
            .map(|(_, tuple, _)| tuple.unwrap())
    }

    #[track_caller]
    fn hairpin(&self, bytes: &[u8]) -> Result<Tuple, Refused> {
        self.translate(Path::Hairpin, bytes)
            .map(|(_, tuple, _)| tuple.unwrap())
    }

    fn state(&self) -> &'static str {
        let connections = self.nat.connections(self.now);
        assert_eq!(connections.len(), 1);
        connections[0].state
    }
}

fn rule(id: u32, protocol: Protocol, ports: RangeInclusive<u16>, to: &str) -> Publish {
    let to = socket(to);
    Publish {
        id,
        protocol,
        host: None,
        ports,
        to: to.ip(),
        to_port: to.port(),
        allow: Sources::default(),
    }
}

/// The packet of a tuple, with ACK if it is TCP.
fn packet(tuple: &Tuple) -> Vec<u8> {
    packet_with(tuple, ACK)
}

fn packet_with(tuple: &Tuple, flags: u8) -> Vec<u8> {
    let src = std::net::SocketAddr::from((tuple.src, tuple.src_port)).to_string();
    let dst = std::net::SocketAddr::from((tuple.dst, tuple.dst_port)).to_string();
    match tuple.protocol {
        Protocol::TCP if flags & (SYN | RST) != 0 => tcp(&src, &dst, flags, b""),
        Protocol::TCP => tcp(&src, &dst, flags, b"data"),
        Protocol::UDP => udp(&src, &dst, b"data"),
        Protocol::SCTP => sctp(&src, &dst),
        _ => {
            let (src, dst) = (tuple.src.to_string(), tuple.dst.to_string());
            echo(
                &src,
                &dst,
                tuple.dst_port == 0,
                tuple.src_port.max(tuple.dst_port),
            )
        }
    }
}
