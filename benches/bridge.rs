//! The bridge: what a frame costs that stays within its network, and what does not grow with it.
//!
//! Each experiment stands beside its limit: a table beside a bare map of the same keys, a frame's
//! way beside a copy of its bytes, a flood beside the same frames over as many bare cables.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nat::Time;
use pontoon_benches::{GATEWAY, World, udp_frame};
use switch::config::{Bridge, Config, Endpoint, Network, NetworkId, PortId};
use switch::fdb::Fdb;
use switch::frame::{self, Frame, MacAddr};
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::topology::Topology;
use switch::worker::VECTOR;

const ENTRIES: [u32; 3] = [10, 1_000, 60_000];

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 9, a, b, c, d])
}

/// Numbers in an order that no prefetcher guesses, each once.
fn shuffled(count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut state = 0x9e37_79b9_u32;
    for at in (1..numbers.len()).rev() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        numbers.swap(at, state as usize % (at + 1));
    }
    numbers
}

fn headers(c: &mut Criterion) {
    let frame = udp_frame(
        (mac(1), mac(2)),
        (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)),
        (1000, 2000),
        64,
    );
    let mut tagged = frame.clone();
    tagged.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]);
    let mut group = c.benchmark_group("Ethernet header");
    for (name, frame) in [("untagged", &frame), ("two tags", &tagged)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let frame = black_box(&frame[..]);
                (
                    frame::destination(frame),
                    frame::source(frame),
                    switch::layers::Layers::of(frame),
                )
            });
        });
    }
    group.finish();
}

/// Addresses that were learned, on 64 ports.
fn learned(c: &mut Criterion) {
    let mut group = c.benchmark_group("FDB");
    let limits = Bridge {
        macs_per_port: 1 << 20,
        macs: 1 << 20,
        ..Bridge::default()
    };
    let now = Time::ZERO + Duration::from_millis(500);
    for count in ENTRIES {
        let mut bare: HashMap<MacAddr, PortId, RandomState> = HashMap::default();
        let fdb = Fdb::default();
        for n in 0..count {
            bare.insert(mac(n), PortId(n % 64));
            fdb.learn(Time::ZERO, mac(n), PortId(n % 64), &limits);
        }
        let order = shuffled(count);
        let mut known = order.iter().copied().cycle();
        let mut next = move || known.next().expect("it goes round");
        group.bench_function(BenchmarkId::new("bare map, hit", count), |b| {
            b.iter(|| bare.get(&mac(next())).copied());
        });
        group.bench_function(BenchmarkId::new("lookup, hit", count), |b| {
            b.iter(|| fdb.lookup(now, mac(next())));
        });
        group.bench_function(BenchmarkId::new("lookup, miss", count), |b| {
            b.iter(|| fdb.lookup(now, mac(next() | 1 << 31)));
        });
        group.bench_function(BenchmarkId::new("learn, known", count), |b| {
            b.iter(|| {
                let n = next();
                fdb.learn(now, mac(n), PortId(n % 64), &limits)
            });
        });
        // A full table, and a port that shows a new address with every frame.
        let full = Bridge {
            macs: count as usize,
            ..limits.clone()
        };
        let mut invented = 1 << 24;
        group.bench_function(BenchmarkId::new("learn, new for old", count), |b| {
            b.iter(|| {
                invented += 1;
                fdb.learn(now, mac(invented), PortId(0), &full)
            });
        });
    }
    group.finish();
}

/// Addresses that are configured: so many endpoints.
fn configured(c: &mut Criterion) {
    let mut group = c.benchmark_group("configured station");
    for count in ENTRIES {
        let config = Config {
            networks: vec![Network {
                id: NetworkId(1),
                gateway_mac: GATEWAY,
                gateway_addresses: Vec::new(),
                subnets: Vec::new(),
                host_port: None,
                mtu: 1500,
                internal: false,
                names: false,
                clamp_mss: false,
                bridge: Bridge::default(),
            }],
            endpoints: (0..count)
                .map(|n| Endpoint {
                    port: PortId(n),
                    network: NetworkId(1),
                    mac: mac(n),
                    addresses: Vec::new(),
                    guard: true,
                    isolated: false,
                })
                .collect(),
            ..Config::default()
        };
        let topology = Topology::new(Vec::new(), config, &Topology::default());
        let order = shuffled(count);
        let mut known = order.iter().copied().cycle();
        let mut next = move || known.next().expect("it goes round");
        let segment = &topology.networks[0];
        group.bench_function(BenchmarkId::new("hit", count), |b| {
            b.iter(|| segment.station(mac(next())));
        });
        group.bench_function(BenchmarkId::new("miss", count), |b| {
            b.iter(|| segment.station(mac(next() | 1 << 31)));
        });
    }
    group.finish();
}

fn send_vector(cable: &MemoryPeer, frame: &[u8]) {
    for _ in 0..VECTOR {
        assert!(cable.send(frame));
    }
}

fn drain(cable: &MemoryPeer) -> usize {
    std::iter::from_fn(|| cable.recv_bytes())
        .map(black_box)
        .count()
}

/// A vector between two of so many containers. The cost must not grow.
fn unicast(c: &mut Criterion) {
    let mut group = c.benchmark_group("a frame of 64 B among so many ports");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for ports in [2, 10, 100, 1_000] {
        let mut world = World::new(ports);
        let (a, b) = (&world.containers[0], &world.containers[ports - 1]);
        let frame = udp_frame((a.mac, b.mac), (a.address, b.address), (1000, 2000), 64);
        group.bench_function(BenchmarkId::from_parameter(ports), |bencher| {
            bencher.iter(|| {
                send_vector(&a.cables[0], &frame);
                world.workers[0].poll(Time::ZERO, a.port).unwrap();
                assert_eq!(drain(&b.cables[0]), VECTOR);
            });
        });
    }
    group.finish();
}

/// A broadcast to all the others, beside the same frame over as many cables without a switch.
fn flood(c: &mut Criterion) {
    let mut group = c.benchmark_group("flood of 64 B");
    for ports in [10, 100, 1_000] {
        group.throughput(Throughput::Elements(ports as u64));
        let cables: Vec<(Queue, MemoryPeer)> = (0..ports)
            .map(|_| {
                let (queue, peer) = memory_port(VECTOR).expect("an eventfd");
                (Queue::Memory(queue), peer)
            })
            .collect();
        let broadcast = udp_frame(
            (mac(1), MacAddr::BROADCAST),
            (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
            (68, 67),
            64,
        );
        let frame = Frame::from_bytes(&broadcast);
        group.bench_function(BenchmarkId::new("cables alone", ports), |b| {
            b.iter(|| {
                for (queue, peer) in &cables {
                    assert_eq!(queue.transmit(&[&frame]).sent, 1);
                    assert_eq!(drain(peer), 1);
                }
            });
        });
        drop(cables);

        let mut world = World::new(ports + 1);
        let a = &world.containers[0];
        let broadcast = udp_frame(
            (a.mac, MacAddr::BROADCAST),
            (a.address, Ipv4Addr::BROADCAST),
            (1000, 2000),
            64,
        );
        let mut now = Time::ZERO;
        group.bench_function(BenchmarkId::new("switch", ports), |b| {
            b.iter(|| {
                // Slow enough for storm control.
                now += Duration::from_millis(1);
                assert!(a.cables[0].send(&broadcast));
                world.workers[0].poll(now, a.port).unwrap();
                let heard = world.containers[1..]
                    .iter()
                    .map(|other| drain(&other.cables[0]));
                assert_eq!(heard.sum::<usize>(), ports);
            });
        });
    }
    group.finish();
}

/// What copying a frame costs, which the switch never does.
fn copies(c: &mut Criterion) {
    let mut group = c.benchmark_group("memcpy of a frame");
    for size in [64, 1514, 65_000] {
        let from = Frame::from_bytes(&vec![7; size]);
        let mut to = Frame::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| to.copy_from(black_box(&from)));
        });
    }
    group.finish();
}

criterion_group!(bridge, headers, learned, configured, unicast, flood, copies);
criterion_main!(bridge);
