//! What can happen to a NAT, from small worlds of addresses and ports, so that things collide.

use std::net::IpAddr;

use nat::Protocol;
use proptest::prelude::*;

use super::wire::{ACK, Damage, FIN, Keep, RST, SYN, Segment};

/// Three containers of IPv4, two of IPv6.
pub(crate) const INSIDE: [&str; 5] = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::2", "fd00::3"];
pub(crate) const INSIDE_PORTS: [u16; 4] = [80, 81, 4242, 4243];
/// Beyond the uplink, two of each family.
pub(crate) const PEERS: [&str; 4] = ["192.0.2.9", "192.0.2.10", "2001:db8::9", "2001:db8::a"];
pub(crate) const PEER_PORTS: [u16; 3] = [53, 80, 5000];
/// The host's own: two of each family, the last of which is not listed as local.
pub(crate) const HOSTS: [&str; 4] = [
    "198.51.100.1",
    "198.51.100.2",
    "2001:db8:1::1",
    "2001:db8:1::2",
];
pub(crate) const LOCAL: [&str; 3] = [HOSTS[0], HOSTS[1], HOSTS[2]];
/// The first host port that is ever published, and the first external port.
pub(crate) const PUBLISHED: u16 = 8000;
pub(crate) const EXTERNAL: u16 = 61000;
/// Lists of those whom a published port is for: a peer and two containers, and one of each family.
pub(crate) const ALLOWED: [&[&str]; 2] = [
    &["192.0.2.9/32", "10.0.0.2/31"],
    &["192.0.2.10/32", "2001:db8::9/128", "fd00::2/128"],
];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One of the addresses with the family of `like`.
pub(crate) fn pick(addresses: &[&str], like: IpAddr, at: usize) -> IpAddr {
    let same = || {
        addresses
            .iter()
            .map(|text| ip(text))
            .filter(|it| it.is_ipv4() == like.is_ipv4())
    };
    same().nth(at % same().count()).unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    Tcp(Segment),
    Udp { payload: u8, unsummed: bool },
    Echo { request: bool, id: u16 },
    Sctp,
    Gre,
    Other,
    Fragment,
}

impl Content {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Content::Tcp(_) => Protocol::TCP,
            Content::Sctp => Protocol::SCTP,
            _ => Protocol::UDP,
        }
    }
}

/// Numbers are indices, taken modulo what there is; `nth` counts back from the last packet that
/// passed.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// From inside to a peer.
    Send {
        inside: usize,
        port: usize,
        peer: usize,
        peer_port: usize,
        external: usize,
        content: Content,
    },
    /// From inside to an external port, mostly one that is in use, from where the last packet came
    /// that passed to the world.
    Meet {
        nth: usize,
        with: usize,
        segment: Segment,
    },
    /// From inside to an address of the host.
    Dial {
        inside: usize,
        port: usize,
        host: usize,
        host_port: usize,
        content: Content,
    },
    /// From a peer to an address of the host, or straight to one inside.
    Arrive {
        peer: usize,
        peer_port: usize,
        host: usize,
        host_port: usize,
        straight: bool,
        content: Content,
    },
    /// From the same place inside to another peer, or by another published port.
    Elsewhere {
        nth: usize,
        to: usize,
        to_port: usize,
    },
    Again {
        nth: usize,
        segment: Segment,
    },
    Answer {
        nth: usize,
        segment: Segment,
    },
    /// SYN, SYN-ACK, ACK.
    Handshake {
        nth: usize,
    },
    /// FIN, FIN, ACK, and a new SYN if it is to begin again.
    Close {
        nth: usize,
        again: bool,
    },
    /// An ICMP error about a packet.
    Complain {
        nth: usize,
        which: usize,
        /// From a router instead of the receiver.
        router: bool,
        /// Not to the sender.
        astray: bool,
        keep: Keep,
        damage: Damage,
    },
    /// What passed, or what came in, once more, and from the uplink.
    Forge {
        nth: usize,
        translated: bool,
    },
    Wait {
        seconds: u64,
    },
    Sweep,
    Publish {
        protocol: Protocol,
        host: Option<usize>,
        first: u16,
        width: u16,
        to: usize,
        to_port: usize,
        allow: Option<usize>,
        /// Before the other rules.
        ahead: bool,
    },
    Withdraw {
        nth: usize,
    },
    Masquerade {
        mode: usize,
    },
    Forget {
        inside: usize,
    },
    AddPorts {
        udp: bool,
        first: u16,
        width: u16,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) pick_up_tcp: bool,
    pub(crate) max_connections: usize,
    pub(crate) max_per_address: usize,
    pub(crate) max_ports_per_address: usize,
    pub(crate) tcp_ports: u16,
    pub(crate) udp_ports: u16,
}

pub(crate) fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::UDP } else { Protocol::TCP }
}

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let roomy = Just((1000, 1000, 1000));
    let tight = (3..20usize, 2..8usize, Just(1000));
    let few_ports = (Just(1000), Just(1000), 1..5usize);
    (
        any::<u64>(),
        prop::bool::weighted(0.7),
        prop_oneof![6 => roomy, 2 => tight, 1 => few_ports],
        prop_oneof![4 => 0..4u16, 2 => 3..12u16, 1 => Just(300u16)],
        prop_oneof![1 => 0..3u16, 2 => 3..12u16, 1 => Just(300u16)],
    )
        .prop_map(|(seed, pick_up_tcp, limits, tcp_ports, udp_ports)| Setup {
            seed,
            pick_up_tcp,
            max_connections: limits.0,
            max_per_address: limits.1,
            max_ports_per_address: limits.2,
            tcp_ports,
            udp_ports,
        })
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![
        6 => Just(SYN),
        4 => Just(SYN | ACK),
        6 => Just(ACK),
        4 => Just(FIN | ACK),
        2 => Just(RST),
        1 => Just(RST | ACK),
        1 => prop::sample::select(vec![0, FIN, SYN | FIN, SYN | RST, 8]),
    ];
    // Ends of what the other side may have sent, the wrap, and what is too far from everything.
    let sequence = prop_oneof![
        4 => 99..104u32,
        4 => 899..904u32,
        1 => Just(u32::MAX),
        1 => Just(1 << 13),
        1 => Just(1 << 21),
        1 => Just(3 << 30),
    ];
    let window = prop_oneof![4 => Just(0x2000u16), 1 => 0..4u16, 1 => Just(u16::MAX)];
    let scale = prop_oneof![3 => Just(None), 2 => Just(Some(7)), 1 => (0..16u8).prop_map(Some)];
    (flags, sequence.clone(), sequence, 0..3u8, window, scale).prop_map(
        |(flags, sequence, acknowledgement, payload, window, scale)| Segment {
            flags,
            sequence,
            acknowledgement,
            payload,
            window,
            scale: scale.filter(|_| flags & SYN != 0),
        },
    )
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        8 => segment().prop_map(Content::Tcp),
        8 => (0..9u8, prop::bool::weighted(0.2))
            .prop_map(|(payload, unsummed)| Content::Udp { payload, unsummed }),
        3 => (prop::bool::weighted(0.8), 1..4u16)
            .prop_map(|(request, id)| Content::Echo { request, id }),
        2 => Just(Content::Sctp),
        1 => Just(Content::Gre),
        1 => Just(Content::Other),
        1 => Just(Content::Fragment),
    ]
}

fn publish() -> impl Strategy<Value = Op> {
    (
        prop_oneof![4 => Just(Protocol::TCP), 4 => Just(Protocol::UDP), 1 => Just(Protocol::SCTP)],
        prop::option::weighted(0.4, 0..HOSTS.len()),
        PUBLISHED..PUBLISHED + 6,
        prop_oneof![3 => Just(1u16), 1 => 2..6u16],
        (
            prop_oneof![2 => 0..2usize, 1 => 0..INSIDE.len()],
            prop_oneof![3 => Just(0usize), 1 => Just(1usize)],
        ),
        prop::option::weighted(0.3, 0..ALLOWED.len()),
        any::<bool>(),
    )
        .prop_map(
            |(protocol, host, first, width, (to, to_port), allow, ahead)| Op::Publish {
                protocol,
                host,
                first,
                width,
                to,
                to_port,
                allow,
                ahead,
            },
        )
}

/// What a case is made of: some publications, then anything.
pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let published = prop::collection::vec(publish(), 0..6);
    let any = prop::collection::vec(op(), 1..120);
    (published, any).prop_map(|(mut ops, any)| {
        ops.extend(any);
        ops
    })
}

fn op() -> impl Strategy<Value = Op> {
    let nth = || prop_oneof![3 => Just(0usize), 3 => 0..4usize, 2 => 0..30usize];
    let host_port = || 0..24usize;
    let inside = || (0..INSIDE.len(), 0..INSIDE_PORTS.len());
    // Mostly the first route out; one of the other family is a broken one.
    let external = prop_oneof![12 => Just(0usize), 3 => Just(1usize), 1 => Just(2usize)];
    prop_oneof![
        14 => (inside(), 0..2usize, 0..PEER_PORTS.len(), external, content()).prop_map(
            |((inside, port), peer, peer_port, external, content)| Op::Send {
                inside, port, peer, peer_port, external, content
            }),
        7 => (inside(), 0..2usize, host_port(), content()).prop_map(
            |((inside, port), host, host_port, content)| Op::Dial {
                inside, port, host, host_port, content
            }),
        8 => (nth(), nth(), segment())
            .prop_map(|(nth, with, segment)| Op::Meet { nth, with, segment }),
        8 => (
            (0..PEERS.len(), 0..PEER_PORTS.len()),
            0..2usize,
            host_port(),
            prop::bool::weighted(0.1),
            content(),
        ).prop_map(|((peer, peer_port), host, host_port, straight, content)| Op::Arrive {
            peer, peer_port, host, host_port, straight, content
        }),
        14 => (nth(), 0..24usize, 0..PEER_PORTS.len())
            .prop_map(|(nth, to, to_port)| Op::Elsewhere { nth, to, to_port }),
        6 => (nth(), segment()).prop_map(|(nth, segment)| Op::Again { nth, segment }),
        12 => (nth(), segment()).prop_map(|(nth, segment)| Op::Answer { nth, segment }),
        6 => nth().prop_map(|nth| Op::Handshake { nth }),
        4 => (nth(), any::<bool>()).prop_map(|(nth, again)| Op::Close { nth, again }),
        6 => (
            nth(),
            0..3usize,
            any::<bool>(),
            prop::bool::weighted(0.1),
            prop_oneof![4 => Just(Keep::All), 2 => Just(Keep::Head), 1 => Just(Keep::Less)],
            prop_oneof![
                6 => Just(Damage::None), 1 => Just(Damage::Message), 1 => Just(Damage::Quote)
            ],
        ).prop_map(|(nth, which, router, astray, keep, damage)| Op::Complain {
            nth, which, router, astray, keep, damage
        }),
        2 => (nth(), any::<bool>()).prop_map(|(nth, translated)| Op::Forge { nth, translated }),
        5 => prop_oneof![
            2 => 1..130u64,
            // Just before and at the timeouts.
            3 => prop::sample::select(vec![29, 30, 59, 60, 119, 120, 239, 240, 299, 300]),
            1 => prop::sample::select(vec![7439, 7440, 100_000]),
        ].prop_map(|seconds| Op::Wait { seconds }),
        4 => Just(Op::Sweep),
        6 => publish(),
        2 => (0..8usize).prop_map(|nth| Op::Withdraw { nth }),
        1 => (0..3usize).prop_map(|mode| Op::Masquerade { mode }),
        2 => (0..INSIDE.len()).prop_map(|inside| Op::Forget { inside }),
        1 => (any::<bool>(), 0..12u16, 1..4u16).prop_map(|(udp, first, width)| Op::AddPorts {
            udp, first: EXTERNAL + first, width
        }),
    ]
}
