//! What the engine takes from the allocator: nothing for a packet of an established flow, and at
//! most 160 bytes a connection all told: its slot, both index entries, what the tables have in
//! reserve, and its share of the external ports.

use std::alloc::System;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use nat::{
    Checksum, Limits, Masquerade, Nat, Packet, Path, Protocol, Publish, Rules, Sources, Time,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The counts are of the whole process, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

const HOST: &str = "198.51.100.1";
const HOST6: &str = "2001:db8:1::1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn engine() -> Nat {
    let limits = Limits {
        max_connections: 1 << 20,
        max_per_address: 1 << 20,
        ..Limits::default()
    };
    let nat = Nat::new(limits, 7);
    let masquerade = |source: &str| Masquerade {
        source: source.parse().unwrap(),
        to: None,
    };
    nat.set_rules(
        Time::ZERO,
        Rules {
            masquerade: vec![masquerade("10.0.0.0/8"), masquerade("fd00::/64")],
            publish: (0..PUBLISHED)
                .map(|at| Publish {
                    id: 1 + u32::from(at),
                    protocol: Protocol::TCP,
                    host: None,
                    ports: 8080 + at..=8080 + at,
                    to: ip("10.0.0.2"),
                    to_port: 80,
                    allow: Sources::default(),
                })
                .collect(),
            local: vec![ip(HOST), ip(HOST6)],
            ..Rules::default()
        },
    );
    for protocol in [Protocol::TCP, Protocol::UDP] {
        nat.add_external_ports(protocol, 61000..=65535);
    }
    nat
}

/// Ports that are published, from 8080 on.
const PUBLISHED: u16 = 100;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A packet without payload; checksums are nobody's concern here.
fn packet(protocol: Protocol, src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Vec<u8> {
    let mut transport = vec![0; if protocol == Protocol::TCP { 20 } else { 8 }];
    match protocol {
        Protocol::TCP | Protocol::UDP => {
            transport[..2].copy_from_slice(&src.1.to_be_bytes());
            transport[2..4].copy_from_slice(&dst.1.to_be_bytes());
        }
        _ => {
            transport[0] = match (protocol, flags == SYN) {
                (Protocol::ICMP, true) => 8,
                (Protocol::ICMP, false) => 0,
                (_, true) => 128,
                (_, false) => 129,
            };
            transport[4..6].copy_from_slice(&src.1.max(dst.1).to_be_bytes());
        }
    }
    if protocol == Protocol::TCP {
        let sequence: u32 = if flags & SYN != 0 { 1000 } else { 1001 };
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        transport[8..12].copy_from_slice(&1001u32.to_be_bytes());
        transport[12..16].copy_from_slice(&[0x50, flags, 0x20, 0]);
    }
    let mut bytes = match (src.0, dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = (20 + transport.len()) as u16;
            let mut bytes = vec![0x45, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend((transport.len() as u16).to_be_bytes());
            bytes.extend([protocol.0, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes
        }
        _ => panic!("two families"),
    };
    bytes.extend(transport);
    bytes
}

/// Translates a copy of the packet in `buffer`; false when it is refused.
fn translate(nat: &Nat, path: Path, bytes: &[u8], buffer: &mut [u8]) -> bool {
    let buffer = &mut buffer[..bytes.len()];
    buffer.copy_from_slice(bytes);
    let mut packet = Packet::parse(buffer, Checksum::Complete).unwrap();
    nat.translate(Time::ZERO, path, &mut packet).is_ok()
}

/// The bytes that `count` connections of `open` take, each.
fn bytes_a_connection(count: u32, open: impl Fn(u32) -> (Path, Vec<u8>)) -> f64 {
    let _one = ONE.lock();
    let nat = engine();
    let mut buffer = [0; 256];
    let region = Region::new(ALLOCATOR);
    for at in 0..count {
        let (path, bytes) = open(at);
        assert!(
            translate(&nat, path, &bytes, &mut buffer),
            "connection {at}"
        );
    }
    assert_eq!(nat.len(), count as usize);
    let stats = region.change();
    let bytes = stats.bytes_allocated - stats.bytes_deallocated;
    bytes as f64 / f64::from(count)
}

// Conforms: RFC6888-4
#[test]
fn a_connection_takes_at_most_160_bytes() {
    let outbound = |external: &str| Path::Outbound {
        external: ip(external),
    };
    // 32 containers dial 32 servers from ports of their own, by all external ports of the default
    // range; and as many clients come to a published port; of either family.
    let masqueraded = |at: u32| {
        let src = Ipv4Addr::from(0x0a00_0002 + at % 32);
        let dst = Ipv4Addr::from(0xc000_0200 + at % 1024);
        let port = 1024 + (at / 32) as u16;
        let bytes = packet(Protocol::TCP, (src.into(), port), (dst.into(), 443), SYN);
        (outbound(HOST), bytes)
    };
    let masqueraded6 = |at: u32| {
        let src = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(2 + at % 32));
        let dst = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(at % 1024));
        let port = 1024 + (at / 32) as u16;
        let bytes = packet(Protocol::TCP, (src.into(), port), (dst.into(), 443), SYN);
        (outbound(HOST6), bytes)
    };
    let published = |at: u32| {
        let src = Ipv4Addr::from(0x0b00_0000 + at / 64);
        let port = 1024 + (at % 64) as u16;
        // To so many ports that none has more half-open ones than it may.
        let to = (ip(HOST), 8080 + (at % u32::from(PUBLISHED)) as u16);
        let bytes = packet(Protocol::TCP, (src.into(), port), to, SYN);
        (Path::Inbound, bytes)
    };
    // Where the hash tables are well filled, and where they have just doubled.
    for (what, bytes) in [
        (
            "200,000 masqueraded",
            bytes_a_connection(200_000, masqueraded),
        ),
        (
            "240,000 masqueraded",
            bytes_a_connection(240_000, masqueraded6),
        ),
        ("240,000 published", bytes_a_connection(240_000, published)),
    ] {
        println!("{what}: {bytes:.1} bytes each");
        assert!(bytes <= 160.0, "{what}: {bytes:.1} bytes each");
    }
}

#[test]
fn an_established_flow_allocates_nothing() {
    let _one = ONE.lock();
    let nat = engine();
    let mut buffer = [0; 256];
    let host = (ip(HOST), 8080);
    let outbound = Path::Outbound { external: ip(HOST) };
    let outbound6 = Path::Outbound {
        external: ip(HOST6),
    };
    let inside = (ip("10.0.0.3"), 4242);
    let inside6 = (ip("fd00::3"), 4242);
    let peer = (ip("192.0.2.9"), 443);
    let peer6 = (ip("2001:db8::9"), 443);
    let mut flows = vec![];
    for (path, protocol, src, dst) in [
        (outbound, Protocol::TCP, inside, peer),
        (outbound, Protocol::UDP, inside, peer),
        (outbound, Protocol::ICMP, inside, (peer.0, 0)),
        (outbound6, Protocol::TCP, inside6, peer6),
        (outbound6, Protocol::UDP, inside6, peer6),
        (outbound6, Protocol::ICMPV6, inside6, (peer6.0, 0)),
        (Path::Inbound, Protocol::TCP, peer, host),
        (Path::Hairpin, Protocol::TCP, inside, host),
    ] {
        let first = packet(protocol, src, dst, SYN);
        assert!(translate(&nat, path, &first, &mut buffer));
        let opened = &mut buffer[..first.len()];
        let tuple = Packet::parse(opened, Checksum::Complete).unwrap();
        let back = tuple.tuple().unwrap().reversed();
        let answer = |flags| {
            let (src, dst) = ((back.src, back.src_port), (back.dst, back.dst_port));
            packet(protocol, src, dst, flags)
        };
        let way_back = match path {
            Path::Inbound => outbound,
            Path::Outbound { .. } => Path::Inbound,
            Path::Hairpin => Path::Hairpin,
        };
        assert!(translate(&nat, way_back, &answer(SYN | ACK), &mut buffer));
        let again = if protocol == Protocol::ICMP || protocol == Protocol::ICMPV6 {
            SYN
        } else {
            ACK
        };
        flows.push((path, packet(protocol, src, dst, again)));
        flows.push((way_back, answer(ACK)));
    }
    // The harness tells of the other test meanwhile, which allocates too, but not every time.
    let tries = (0..5).map(|_| {
        let region = Region::new(ALLOCATOR);
        for _ in 0..1000 {
            for (path, bytes) in &flows {
                assert!(translate(&nat, *path, bytes, &mut buffer));
            }
        }
        let stats = region.change();
        (stats.allocations, stats.reallocations)
    });
    assert_eq!(tries.min(), Some((0, 0)));
    assert_eq!(nat.stats().out_of_window, 0);
}
