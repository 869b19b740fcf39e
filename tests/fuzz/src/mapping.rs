//! The `nat` target: packets through [`Nat::translate`], among them ICMP errors about those before,
//! while rules come and go and time passes.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use nat::{
    Checksum, Kind, Limits, Masquerade, Nat, Packet, Path, Protocol, Publish, Rules, Sources, Time,
    Tuple,
};

use crate::packet::{HOST4, HOST6, Shape, address, answer};
use crate::sums::{self, Errors};

/// External ports of each protocol: few, so that they run out.
const PORTS: std::ops::RangeInclusive<u16> = 61000..=61015;
const ACK: u8 = 0x10;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    pick_up_tcp: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Packet {
        path: Way,
        partial: bool,
        shape: Shape<'a>,
        /// Whether the answer is tried if it is translated.
        answered: bool,
    },
    /// Answers a packet that went through before, the way back, maybe damaged.
    Answer {
        to: u8,
        flags: u8,
        shape: Shape<'a>,
    },
    Wait {
        seconds: u16,
    },
    Rules {
        which: u8,
        masquerade: u8,
    },
    Forget {
        who: u8,
        ipv6: bool,
    },
    Expire,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    Out,
    In,
    Hairpin,
}

impl Way {
    fn path(self, ipv6: bool) -> Path {
        let external = if ipv6 { HOST6.into() } else { HOST4.into() };
        match self {
            Way::Out => Path::Outbound { external },
            Way::In => Path::Inbound,
            Way::Hairpin => Path::Hairpin,
        }
    }

    fn back(self) -> Way {
        match self {
            Way::Out => Way::In,
            Way::In => Way::Out,
            Way::Hairpin => Way::Hairpin,
        }
    }
}

/// An engine, the packets that went through it, and which way.
struct World {
    nat: Nat,
    now: Time,
    generation: u32,
    went: Vec<(Way, Vec<u8>)>,
}

/// See the crate's description.
pub fn nat(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let limits = Limits {
        max_connections: 24,
        max_per_address: 10,
        pick_up_tcp: input.pick_up_tcp,
        ..Limits::default()
    };
    let mut world = World {
        nat: Nat::new(limits, 1),
        now: Time::ZERO,
        generation: 0,
        went: Vec::new(),
    };
    for protocol in [Protocol::TCP, Protocol::UDP] {
        world.nat.add_external_ports(protocol, PORTS);
    }
    world.set_rules(0xff, 3);
    for step in input.steps.iter().take(100) {
        world.step(step);
    }
    world.end();
}

impl World {
    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Packet {
                path,
                partial,
                shape,
                answered,
            } => {
                let seen: Vec<Vec<u8>> =
                    self.went.iter().map(|(_, packet)| packet.clone()).collect();
                let sent = shape.build(&seen);
                let checksum = if *partial {
                    Checksum::Partial
                } else {
                    Checksum::Complete
                };
                let Some((original, translated)) = self.translate(*path, sent, checksum) else {
                    return;
                };
                if *answered {
                    self.answer_comes_back(*path, &original, &translated);
                }
                self.remember(*path, translated);
            }
            Step::Answer { to, flags, shape } => {
                let Some((way, packet)) = self.went.get(usize::from(*to) % self.went.len().max(1))
                else {
                    return;
                };
                let way = way.back();
                let Some(mut sent) = answer(packet, *flags) else {
                    return;
                };
                shape.damage.inflict(&mut sent);
                if let Some((_, translated)) = self.translate(way, sent, Checksum::Complete) {
                    self.remember(way, translated);
                }
            }
            Step::Wait { seconds } => self.now += Duration::from_secs(u64::from(*seconds)),
            Step::Rules { which, masquerade } => self.set_rules(*which, *masquerade),
            Step::Forget { who, ipv6 } => _ = self.nat.forget(self.now, address(*who, *ipv6)),
            Step::Expire => _ = self.nat.expire(self.now),
        }
        self.check_table();
    }

    fn remember(&mut self, way: Way, packet: Vec<u8>) {
        if self.went.len() == 32 {
            self.went.remove(0);
        }
        self.went.push((way, packet));
    }

    /// Publish rules picked by the bits of `which`, with ids that are never used again.
    fn set_rules(&mut self, which: u8, masquerade: u8) {
        self.generation += 1;
        let publish = (0..8u8).filter(|at| which >> at & 1 == 1).map(|at| {
            let ipv6 = at & 4 != 0;
            let first = 8000 + u16::from(at & 1) * 10;
            Publish {
                id: self.generation * 8 + u32::from(at),
                protocol: [Protocol::TCP, Protocol::UDP][usize::from(at >> 1 & 1)],
                host: None,
                ports: first..=first + 9,
                to: address(at & 1, ipv6),
                to_port: 80,
                allow: Sources::default(),
            }
        });
        let sources = [("10.0.0.0/8", "fd00::/8"), ("10.0.0.0/24", "fd00::/64")];
        let masquerade = sources
            .iter()
            .enumerate()
            .filter(|(at, _)| masquerade >> at & 1 == 1)
            .flat_map(|(_, (four, six))| [four, six])
            .map(|source| Masquerade {
                source: source.parse().expect("a subnet"),
                to: None,
            });
        let rules = Rules {
            masquerade: masquerade.collect(),
            publish: publish.collect(),
            local: vec![HOST4.into(), HOST6.into()],
            ..Rules::default()
        };
        self.nat.set_rules(self.now, rules);
    }

    /// Translates a packet. None if it was refused; else the packet as it was, and as it became.
    fn translate(
        &mut self,
        way: Way,
        sent: Vec<u8>,
        checksum: Checksum,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut bytes = sent.clone();
        let ipv6 = sent.first().is_some_and(|byte| byte >> 4 == 6);
        let mut packet = Packet::parse(&mut bytes, checksum).ok()?;
        let path = way.path(ipv6);
        // A gateway hairpins nothing else, but the engine takes whatever it is told.
        let hairpin = way == Way::Hairpin && is_host(packet.dst());
        let was_error = is_icmp_error(&sent);
        match self.nat.translate(self.now, path, &mut packet) {
            Err(_) => {
                assert_eq!(bytes, sent, "a refused packet was changed");
                None
            }
            Ok(translated) => {
                if translated.kind == Kind::Masquerade && way == Way::Out {
                    assert!(is_host(packet.src()), "{} left", packet.src());
                }
                if hairpin {
                    assert!(
                        is_host(packet.src()),
                        "a hairpin came from {}",
                        packet.src()
                    );
                }
                let partial = checksum == Checksum::Partial;
                assert_eq!(bytes.len(), sent.len());
                let (before, after) = (sums::errors(&sent, partial), sums::errors(&bytes, partial));
                if was_error && translated.kind != Kind::Routed {
                    // It is checked, and summed anew.
                    let header = before.and_then(|errors| errors.header);
                    let transport = Some(0);
                    assert_eq!(after, Some(Errors { header, transport }));
                } else {
                    assert_eq!(before, after, "a checksum went wrong");
                }
                Some((sent, bytes))
            }
        }
    }

    /// What went through can be answered, and the answer comes to its sender.
    fn answer_comes_back(&mut self, way: Way, original: &[u8], translated: &[u8]) {
        let (Some(sent), Some(became)) = (tuple(original), tuple(translated)) else {
            return;
        };
        if sent == became && way == Way::Out {
            // Not masqueraded; what opens nothing passes untracked.
            return;
        }
        let Some(back) = answer(translated, ACK) else {
            return;
        };
        let Some((_, returned)) = self.translate(way.back(), back, Checksum::Complete) else {
            panic!("{sent} became {became}, and its answer is refused");
        };
        assert_eq!(tuple(&returned), Some(sent.reversed()));
    }

    /// What comes by one path with one tuple belongs to one flow.
    fn check_table(&self) {
        assert!(self.nat.len() <= self.nat.limits().max_connections);
        let mut taken = HashSet::new();
        let rules = self.nat.rules();
        for info in self.nat.connections(self.now) {
            let (there, back) = match info.kind {
                Kind::Masquerade | Kind::Routed => (Way::Out, Way::In),
                Kind::Publish(_) => (Way::In, Way::Out),
                Kind::Hairpin(_) | Kind::HairpinMapped => (Way::Hairpin, Way::Hairpin),
            };
            assert!(taken.insert((there, info.original)), "{}", info.original);
            assert!(taken.insert((back, info.reply)), "{}", info.reply);
            if let Kind::Publish(id) | Kind::Hairpin(id) = info.kind {
                assert!(rules.publish.iter().any(|rule| rule.id == id));
            }
        }
    }

    /// All that was taken is given back in time.
    fn end(&mut self) {
        self.now += Duration::from_secs(24 * 3600);
        for _ in 0..16 {
            self.nat.expire(self.now);
        }
        assert!(self.nat.is_empty(), "connections outlive their time");
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let free = self.nat.external_ports_free(protocol);
            assert_eq!(free, PORTS.len(), "an external port leaked");
        }
    }
}

fn is_host(address: IpAddr) -> bool {
    address == IpAddr::from(HOST4) || address == IpAddr::from(HOST6)
}

fn tuple(packet: &[u8]) -> Option<Tuple> {
    Packet::parse(&mut packet.to_vec(), Checksum::Complete)
        .ok()?
        .tuple()
}

fn is_icmp_error(packet: &[u8]) -> bool {
    sums::parts(packet).is_some_and(|parts| {
        let message = parts.bytes.get(parts.transport).copied();
        match parts.protocol {
            1 => matches!(message, Some(3 | 11 | 12)),
            58 => matches!(message, Some(1..=4)),
            _ => false,
        }
    })
}
