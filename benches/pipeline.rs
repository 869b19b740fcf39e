//! The whole pipeline on in-memory ports: a vector of frames in, the same vector out. The cable's
//! own cost (two copies of the frame and a lock) is measured beside it.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nat::Time;
use pontoon_benches::{GATEWAY, REMOTE, World, udp_frame};
use switch::frame::{Frame, MacAddr};
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::VECTOR;

const SIZES: [usize; 3] = [64, 1514, 65_000];

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

/// The limit: the same frames over a cable, without a switch.
fn cable(c: &mut Criterion) {
    let mut group = c.benchmark_group("cable alone");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for size in SIZES {
        let (queue, peer) = memory_port(VECTOR).unwrap();
        let (queue, frame) = (Queue::Memory(queue), vec![0; size]);
        let mut frames: Vec<Frame> = (0..VECTOR).map(|_| Frame::new()).collect();
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |b, _| {
            b.iter(|| {
                send_vector(&peer, &frame);
                assert_eq!(queue.receive(&mut frames).unwrap(), VECTOR);
                let frames: Vec<&Frame> = frames.iter().collect();
                assert_eq!(queue.transmit(&frames).sent, VECTOR);
                assert_eq!(drain(&peer), VECTOR);
            });
        });
    }
    group.finish();
}

fn bridge(c: &mut Criterion) {
    let mut group = c.benchmark_group("bridge, container to container");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for size in SIZES {
        let mut world = World::new(2);
        let [a, b] = &world.containers[..] else {
            unreachable!("two were asked for")
        };
        let frame = udp_frame((a.mac, b.mac), (a.address, b.address), (1000, 2000), size);
        let hello = udp_frame(
            (b.mac, MacAddr::BROADCAST),
            (b.address, a.address),
            (1, 1),
            64,
        );
        b.cables[0].send(&hello);
        world.workers[0].poll(Time::ZERO, b.port).unwrap();
        drain(&a.cables[0]);
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| {
                send_vector(&a.cables[0], &frame);
                world.workers[0].poll(Time::ZERO, a.port).unwrap();
                assert_eq!(drain(&b.cables[0]), VECTOR);
            });
        });
    }
    group.finish();
}

/// A masqueraded flow that is established, among so many others.
fn outbound(c: &mut Criterion) {
    let mut group = c.benchmark_group("masquerade, container to uplink, 64 B");
    group.throughput(Throughput::Elements(VECTOR as u64));
    for flows in [1u32, 1_000, 64_000, 256_000] {
        let mut world = World::new(1);
        let a = &world.containers[0];
        let frames: Vec<Vec<u8>> = (0..flows)
            .map(|flow| {
                let peer = Ipv4Addr::from(u32::from(REMOTE) + flow / 1000);
                let ports = (1024 + (flow % 32_000) as u16, 80);
                udp_frame((a.mac, GATEWAY), (a.address, peer), ports, 64)
            })
            .collect();
        for vector in frames.chunks(VECTOR) {
            vector
                .iter()
                .for_each(|frame| assert!(a.cables[0].send(frame)));
            world.workers[0].poll(Time::ZERO, a.port).unwrap();
            assert_eq!(drain(&world.uplink.1[0]), vector.len());
        }
        // In an order that no cache foresees: an odd step through a power of two visits all of it.
        let size = frames.len().next_power_of_two();
        let mut at = 0;
        let mut next = std::iter::repeat_with(|| {
            at = (at * 1_664_525 + 1_013_904_223) % size;
            frames.get(at)
        })
        .flatten();
        group.bench_with_input(BenchmarkId::from_parameter(flows), &flows, |bencher, _| {
            bencher.iter(|| {
                for frame in next.by_ref().take(VECTOR) {
                    assert!(a.cables[0].send(frame));
                }
                world.workers[0].poll(Time::ZERO, a.port).unwrap();
                assert_eq!(drain(&world.uplink.1[0]), VECTOR);
            });
        });
    }
    group.finish();
}

/// The same by several threads, each with a lane and a container of its own: what a lane adds.
fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("masquerade, a thread a lane, 64 B");
    for lanes in [1, 2] {
        let mut world = World::with_lanes(lanes, lanes);
        group.throughput(Throughput::Elements((lanes * VECTOR) as u64));
        group.bench_function(BenchmarkId::from_parameter(lanes), |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                thread::scope(|scope| {
                    let of_lane = world.workers.iter_mut().zip(&world.containers).enumerate();
                    for (lane, (worker, from)) in of_lane {
                        let (cable, uplink) = (&from.cables[lane], &world.uplink.1[lane]);
                        scope.spawn(move || {
                            let macs = (from.mac, GATEWAY);
                            let frame = udp_frame(macs, (from.address, REMOTE), (1000, 80), 64);
                            for _ in 0..rounds {
                                send_vector(cable, &frame);
                                worker.poll(Time::ZERO, from.port).unwrap();
                                assert_eq!(drain(uplink), VECTOR);
                            }
                        });
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(pipeline, cable, bridge, outbound, lanes);
criterion_main!(pipeline);
