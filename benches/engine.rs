//! The NAT engine alone, on one thread: no frames, no ports, no clock.
//!
//! An established flow is measured beside its limit, a bare lookup in a `hashbrown` map of the same
//! key and the same size, in the same order. A vector of packets is laid out before the time runs,
//! as a receive call leaves it: in the cache.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use nat::{
    Checksum, Limits, Masquerade, Nat, Packet, Path, Protocol, Publish, Rules, Sources, Time, Tuple,
};

/// Packets of one vector.
const VECTOR: usize = 64;

const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const OUTBOUND: Path = Path::Outbound {
    external: IpAddr::V4(HOST),
};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Inside ports that the flows share, so that their external ports are few.
const PORTS: u32 = 1000;

fn rules(ranges: u16) -> Rules {
    let publish = |at: u16| Publish {
        id: u32::from(at),
        protocol: Protocol::TCP,
        host: None,
        ports: 10_000 + at * 2..=10_000 + at * 2,
        to: CONTAINER.into(),
        to_port: 1 + at,
        allow: Sources::default(),
    };
    Rules {
        masquerade: vec![Masquerade {
            source: "10.0.0.0/8".parse().expect("a subnet"),
            to: None,
        }],
        publish: (0..ranges).map(publish).collect(),
        local: vec![HOST.into()],
        ..Rules::default()
    }
}

fn engine() -> Nat {
    let limits = Limits {
        max_connections: 4 << 20,
        max_per_address: 4 << 20,
        max_ports_per_address: 1 << 16,
        ..Limits::default()
    };
    let nat = Nat::new(limits, 1);
    nat.set_rules(Time::ZERO, rules(1));
    for protocol in [Protocol::TCP, Protocol::UDP] {
        nat.add_external_ports(protocol, 32_768..=65_535);
    }
    nat
}

/// A packet of 64 bytes without its frame. Nobody looks at checksums, which are followed blindly.
#[derive(Clone, Copy)]
struct Bytes([u8; 50]);

fn bytes(tuple: &Tuple, flags: u8) -> Bytes {
    let mut bytes = [0; 50];
    bytes[0] = 0x45;
    bytes[3] = 50;
    bytes[6] = 0x40;
    bytes[8..10].copy_from_slice(&[64, tuple.protocol.0]);
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (tuple.src, tuple.dst) else {
        unreachable!("the experiments are of IPv4")
    };
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..20].copy_from_slice(&dst.octets());
    if tuple.is_icmp() {
        let asks = tuple.dst_port == 0;
        bytes[20] = if asks { 8 } else { 0 };
        bytes[24..26].copy_from_slice(&tuple.src_port.max(tuple.dst_port).to_be_bytes());
        return Bytes(bytes);
    }
    bytes[20..22].copy_from_slice(&tuple.src_port.to_be_bytes());
    bytes[22..24].copy_from_slice(&tuple.dst_port.to_be_bytes());
    if tuple.protocol == Protocol::TCP {
        // Both sides begin at 1000, so that all of these fit.
        bytes[26..28]
            .copy_from_slice(&(if flags & SYN != 0 { 1000u16 } else { 1001 }).to_be_bytes());
        bytes[30..32].copy_from_slice(&1001u16.to_be_bytes());
        bytes[32..36].copy_from_slice(&[0x50, flags, 0x20, 0]);
    }
    Bytes(bytes)
}

fn tuple(protocol: Protocol, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Tuple {
    Tuple {
        src: src.0.into(),
        dst: dst.0.into(),
        src_port: src.1,
        dst_port: dst.1,
        protocol,
    }
}

/// Translates a packet, and returns what it became.
fn translate(nat: &Nat, path: Path, bytes: &mut Bytes) -> Tuple {
    let mut packet = Packet::parse(&mut bytes.0, Checksum::Complete).expect("it is whole");
    let translated = nat.translate(Time::ZERO, path, &mut packet);
    black_box(translated).expect("it passes");
    packet.tuple().expect("it is of a flow")
}

/// The tuple of one of so many flows.
fn flow(at: u32) -> Tuple {
    let peer = Ipv4Addr::from(u32::from(PEER) + at / PORTS);
    let port = 1024 + (at % PORTS) as u16;
    tuple(Protocol::UDP, (CONTAINER, port), (peer, 53_000))
}

/// All flows in an order that no cache foresees.
fn shuffled(flows: u32) -> impl Iterator<Item = u32> {
    // An odd step through a power of two visits all of it.
    let size = flows.next_power_of_two();
    let mut at = 0u32;
    std::iter::repeat_with(move || {
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & (size - 1);
        at
    })
    .filter(move |&at| at < flows)
}

/// Runs `work` on vectors of what `lay_out` makes, and measures the work alone.
fn vectors<T>(
    rounds: u64,
    mut lay_out: impl FnMut() -> T,
    mut work: impl FnMut(&mut [T]),
) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        let mut vector: Vec<T> = (0..VECTOR).map(|_| lay_out()).collect();
        let start = Instant::now();
        work(&mut vector);
        spent += start.elapsed();
    }
    spent
}

/// The limit of `established`: the same keys in a map whose entries are as big as a connection.
fn bare_lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("bare lookup, entries of 128 bytes");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for flows in [1_000u32, 64_000, 1_000_000] {
        let mut map: HashMap<Tuple, [u64; 11], foldhash::quality::RandomState> = HashMap::default();
        map.extend((0..flows).map(|at| (flow(at), [u64::from(at); 11])));
        let mut order = shuffled(flows);
        group.bench_with_input(BenchmarkId::from_parameter(flows), &flows, |bencher, _| {
            bencher.iter_custom(|rounds| {
                let mut next = || flow(order.next().expect("it has no end"));
                vectors(rounds, &mut next, |vector| {
                    for key in vector {
                        if let Some(value) = map.get_mut(key) {
                            value[0] += 1;
                        }
                    }
                })
            });
        });
    }
    group.finish();
}

/// One packet after the other, and with the whole vector prefetched.
fn established(c: &mut Criterion) {
    let mut group = c.benchmark_group("established flow, among so many");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for flows in [1_000u32, 64_000, 1_000_000] {
        let nat = engine();
        for at in 0..flows {
            translate(&nat, OUTBOUND, &mut bytes(&flow(at), SYN));
        }
        let mut order = shuffled(flows);
        for (how, prefetched) in [("singly", false), ("prefetched", true)] {
            group.bench_function(BenchmarkId::new(how, flows), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut next = || bytes(&flow(order.next().expect("it has no end")), ACK);
                    vectors(rounds, &mut next, |vector| {
                        if prefetched {
                            nat.prefetch(vector.iter_mut().filter_map(|bytes| {
                                let packet = Packet::parse(&mut bytes.0, Checksum::Complete);
                                Some((OUTBOUND, packet.ok()?.tuple()?))
                            }));
                        }
                        for bytes in vector {
                            let mut packet = Packet::parse(&mut bytes.0, Checksum::Complete)
                                .expect("it is whole");
                            let translated = nat.translate(Time::ZERO, OUTBOUND, &mut packet);
                            black_box(translated).expect("it passes");
                        }
                    })
                });
            });
        }
    }
    group.finish();
}

/// Each protocol and direction, one flow: what the work itself costs.
fn directions(c: &mut Criterion) {
    let mut group = c.benchmark_group("one established flow");
    group.throughput(Throughput::Elements(VECTOR as u64));
    let inside = (CONTAINER, 4242);
    let asking = (NEIGHBOUR, 4242);
    for (name, path, back, first) in [
        (
            "tcp masqueraded",
            OUTBOUND,
            Path::Inbound,
            tuple(Protocol::TCP, inside, (PEER, 443)),
        ),
        (
            "udp masqueraded",
            OUTBOUND,
            Path::Inbound,
            tuple(Protocol::UDP, inside, (PEER, 443)),
        ),
        (
            "icmp masqueraded",
            OUTBOUND,
            Path::Inbound,
            tuple(Protocol::ICMP, inside, (PEER, 0)),
        ),
        (
            "tcp published",
            Path::Inbound,
            OUTBOUND,
            tuple(Protocol::TCP, (PEER, 5555), (HOST, 10_000)),
        ),
        (
            "tcp hairpin",
            Path::Hairpin,
            Path::Hairpin,
            tuple(Protocol::TCP, asking, (HOST, 10_000)),
        ),
    ] {
        let nat = engine();
        let answer = translate(&nat, path, &mut bytes(&first, SYN)).reversed();
        translate(&nat, back, &mut bytes(&answer, SYN | ACK));
        for (way, path, tuple) in [("there", path, first), ("back", back, answer)] {
            let template = bytes(&tuple, ACK);
            group.bench_function(format!("{name}, {way}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    vectors(
                        rounds,
                        || template,
                        |vector| {
                            for bytes in vector {
                                translate(&nat, path, bytes);
                            }
                        },
                    )
                });
            });
        }
    }
    group.finish();
}

fn new_connection(c: &mut Criterion) {
    let mut group = c.benchmark_group("new connection");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for (name, protocol) in [
        ("udp, mapped already", Protocol::UDP),
        ("tcp, sharing a port", Protocol::TCP),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let nat = engine();
                let mut at = 0u32;
                if protocol == Protocol::TCP {
                    // Every external port has an owner.
                    for port in 0..32_768u16 {
                        let src = (NEIGHBOUR, 1 + port);
                        translate(
                            &nat,
                            OUTBOUND,
                            &mut bytes(&tuple(protocol, src, (PEER, 1)), SYN),
                        );
                    }
                }
                let mut next = || {
                    at += 1;
                    if at.is_multiple_of(500_000) {
                        nat.forget(Time::ZERO, CONTAINER.into());
                    }
                    let flow = Tuple {
                        protocol,
                        ..flow(at)
                    };
                    bytes(&flow, SYN)
                };
                vectors(rounds, &mut next, |vector| {
                    for bytes in vector {
                        translate(&nat, OUTBOUND, bytes);
                    }
                })
            });
        });
    }
    group.finish();
}

/// What publishing costs, and what it costs others.
fn publishing(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.bench_function("a range of 60,000 ports", |bencher| {
        let nat = engine();
        let mut with = rules(1);
        with.publish.push(Publish {
            id: 7,
            protocol: Protocol::UDP,
            host: None,
            ports: 1024..=61_023,
            to: CONTAINER.into(),
            to_port: 1024,
            allow: Sources::default(),
        });
        bencher.iter(|| nat.set_rules(Time::ZERO, with.clone()));
    });
    group.bench_function("10,000 single ports", |bencher| {
        let nat = engine();
        let with = rules(10_000);
        bencher.iter(|| nat.set_rules(Time::ZERO, with.clone()));
    });
    group.finish();

    let mut group = c.benchmark_group("with so many published ranges");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for ranges in [1u16, 100, 10_000] {
        let nat = engine();
        nat.set_rules(Time::ZERO, rules(ranges));
        let first = tuple(Protocol::TCP, (PEER, 5555), (HOST, 10_000));
        translate(&nat, Path::Inbound, &mut bytes(&first, SYN));
        let known = bytes(&first, ACK);
        group.bench_function(format!("established, {ranges}"), |bencher| {
            bencher.iter_custom(|rounds| {
                vectors(
                    rounds,
                    || known,
                    |vector| {
                        for bytes in vector {
                            translate(&nat, Path::Inbound, bytes);
                        }
                    },
                )
            });
        });
        // For nobody: what a packet to the host itself costs.
        let unknown = bytes(&tuple(Protocol::TCP, (PEER, 5555), (HOST, 22)), ACK);
        group.bench_function(format!("refused, {ranges}"), |bencher| {
            bencher.iter_custom(|rounds| {
                vectors(
                    rounds,
                    || unknown,
                    |vector| {
                        for bytes in vector {
                            let mut packet = Packet::parse(&mut bytes.0, Checksum::Complete)
                                .expect("it is whole");
                            let refused = nat.translate(Time::ZERO, Path::Inbound, &mut packet);
                            black_box(refused).expect_err("it is the host's");
                        }
                    },
                )
            });
        });
    }
    group.finish();
}

criterion_group!(
    engine_alone,
    bare_lookup,
    established,
    directions,
    new_connection,
    publishing
);
criterion_main!(engine_alone);
