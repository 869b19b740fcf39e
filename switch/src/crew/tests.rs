use std::thread;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::balance::Load;
use super::*;
use crate::config::{Bridge, Config, Endpoint, Network, NetworkId};
use crate::frame::MacAddr;
use crate::io::{MemoryPeer, Queue, memory_port};
use crate::{DropReason, Settings};

const LANES: usize = 2;
const FRAMES: u32 = 20_000;

/// How many threads should work, of threads that always find something.
fn threads<const N: usize>(lanes: [f64; N], active: usize) -> usize {
    let load = Load {
        lanes: lanes.to_vec(),
        idle: vec![0.0; N],
    };
    load.threads(active)
}

#[test]
fn one_thread_while_it_keeps_up() {
    assert_eq!(threads([0.0, 0.0], 1), 1);
    assert_eq!(threads([0.4, 0.4], 1), 1);
    assert_eq!(threads([1.0], 1), 1);
    // What saturates it is one lane, which can't be shared.
    assert_eq!(threads([0.96, 0.03], 1), 1);
    // Busy all the time, it seems; but frames do not wait for it.
    let waited_for_cpu = Load {
        lanes: vec![0.5, 0.5],
        idle: vec![0.4, 0.0],
    };
    assert_eq!(waited_for_cpu.threads(1), 1);
}

#[test]
fn one_more_when_one_is_saturated_by_several_lanes() {
    assert_eq!(threads([0.5, 0.45], 1), 2);
    assert_eq!(threads([0.7, 0.7], 2), 2, "there are no more");
    // The first thread has lanes 0 and 2.
    assert_eq!(threads([0.5, 0.1, 0.45, 0.0], 2), 3);
    assert_eq!(threads([0.5, 0.95, 0.1, 0.0], 2), 2);
}

#[test]
fn fewer_when_fewer_are_comfortable() {
    assert_eq!(threads([0.3, 0.2], 2), 1);
    assert_eq!(threads([0.4, 0.4], 2), 2);
    assert_eq!(threads([0.1, 0.1, 0.1, 0.1], 4), 1);
    assert_eq!(threads([0.5, 0.5, 0.0, 0.0], 4), 2);
}

#[test]
fn the_deal_follows_the_load_and_does_not_flutter() {
    let (crew, _datapath) = crew();
    let mut now = Time::ZERO;
    let mut load = |millis: u64, parts: [f64; LANES]| {
        for _ in 0..millis {
            now += Duration::from_millis(1);
            for (lane, part) in crew.lanes.iter().zip(parts) {
                lane.busy.fetch_add((part * 1e6) as u64, Ordering::Relaxed);
            }
            crew.balance(now);
        }
        crew.active()
    };
    assert_eq!(load(1000, [0.4, 0.3]), 1);
    assert_eq!(load(15, [0.5, 0.5]), 1, "as after a wait for the CPU");
    assert_eq!(load(1000, [0.4, 0.3]), 1);
    assert_eq!(load(101, [0.5, 0.5]), 2);
    assert_eq!(load(1000, [0.5, 0.3]), 2, "one could, but would strain");
    assert_eq!(load(100, [0.3, 0.1]), 2, "it may come back");
    assert_eq!(load(101, [0.7, 0.3]), 2);
    assert_eq!(load(300, [0.3, 0.1]), 1);
    crew.dismiss();
    assert_eq!(load(100, [0.5, 0.5]), NONE);
}

// Conforms: SWITCH-order-across-threads
#[test]
fn a_flow_keeps_its_order_while_its_lane_changes_hands() {
    let (crew, datapath) = crew();
    let ports = [0, 1].map(|_| attach(&crew, &datapath));
    configure(&datapath, ports.each_ref().map(|(port, _)| *port));
    let [(from, senders), (to, receivers)] = &ports;
    let until = Instant::now() + Duration::from_secs(60);
    let mut received = [const { Vec::new() }; LANES];
    thread::scope(|scope| {
        for me in 0..LANES {
            let crew = &crew;
            scope.spawn(move || crew.serve(me, None));
        }
        for peer in senders {
            let send = |number| assert!(peer.send(&frame(*from, *to, number)));
            scope.spawn(move || (0..FRAMES).for_each(send));
        }
        let mut active = 1;
        while received.iter().any(|of| of.len() < FRAMES as usize) && Instant::now() < until {
            active = LANES + 1 - active;
            crew.deal(active);
            for (peer, received) in receivers.iter().zip(&mut received) {
                let waiting = std::iter::from_fn(|| peer.recv_bytes()).take(50);
                received.extend(waiting.map(|bytes| number(&bytes)));
            }
        }
        crew.dismiss();
    });
    for received in received {
        assert!(received.into_iter().eq(0..FRAMES));
    }
}

// Conforms: SWITCH-full-port-holds-up-nobody
#[test]
fn a_port_that_nobody_reads_holds_up_no_other() {
    let (crew, datapath) = crew();
    let ports = [0, 1, 2].map(|_| attach(&crew, &datapath));
    configure(&datapath, ports.each_ref().map(|(port, _)| *port));
    let [(from, senders), (stopped, _unread), (to, receivers)] = &ports;
    let until = Instant::now() + Duration::from_secs(60);
    let mut received = 0;
    thread::scope(|scope| {
        for me in 0..LANES {
            let crew = &crew;
            scope.spawn(move || crew.serve(me, None));
        }
        let send = |to: PortId, number| {
            while !senders[0].send(&frame(*from, to, number)) && Instant::now() < until {
                thread::yield_now();
            }
        };
        // Twice what the stopped one's wire takes, with what is for the other in between.
        for number in 0..2 * FRAMES {
            send(*stopped, number);
            if number.is_multiple_of(10) {
                send(*to, number);
            }
        }
        while received < FRAMES / 5 && Instant::now() < until {
            received += receivers[0].recv_bytes().map_or(0, |_| 1);
        }
        crew.dismiss();
    });
    assert_eq!(received, FRAMES / 5);
    let mut dropped = datapath.counters().drops;
    dropped.retain(|(_, frames)| *frames > 0);
    assert_eq!(dropped, [(DropReason::EgressFull, FRAMES.into())]);
}

#[test]
fn an_idle_crew_uses_no_cpu() {
    let (crew, datapath) = crew();
    let ports = [0, 1].map(|_| attach(&crew, &datapath));
    configure(&datapath, ports.each_ref().map(|(port, _)| *port));
    let [(from, senders), (to, receivers)] = &ports;
    let used = thread::scope(|scope| {
        let threads = [0, 1].map(|me| {
            let crew = &crew;
            scope.spawn(move || {
                crew.serve(me, None);
                getrusage(UsageWho::RUSAGE_THREAD).unwrap()
            })
        });
        // Close enough for it to poll.
        for number in 0..100 {
            assert!(senders[0].send(&frame(*from, *to, number)));
            thread::sleep(Duration::from_micros(20));
        }
        thread::sleep(Duration::from_millis(500));
        crew.dismiss();
        threads.map(|thread| {
            let usage = thread.join().unwrap();
            let times = [usage.user_time(), usage.system_time()];
            times.map(|time| time.num_microseconds()).iter().sum()
        })
    });
    let received = std::iter::from_fn(|| receivers[0].recv_bytes()).count();
    assert_eq!(received, 100);
    let used: i64 = used.iter().sum();
    assert!(used < 100_000, "{used} µs of CPU in half an idle second");
}

fn crew() -> (Crew, Arc<Datapath>) {
    let settings = Settings {
        workers: LANES,
        ..Settings::default()
    };
    let (datapath, _events) = Datapath::new(&settings);
    let crew = Crew::new(&datapath, Duration::from_micros(50)).unwrap();
    (crew, datapath)
}

/// A port with a queue in each lane, and the far sides of these.
fn attach(crew: &Crew, datapath: &Datapath) -> (PortId, Vec<MemoryPeer>) {
    let (queues, peers) = (0..LANES)
        .map(|_| memory_port(FRAMES as usize).unwrap())
        .unzip();
    let queues: Vec<_> = queues;
    let port = datapath
        .add_port(queues.into_iter().map(Queue::Memory).collect())
        .unwrap();
    crew.attach(datapath.topology().port(port).unwrap())
        .unwrap();
    (port, peers)
}

fn configure<const N: usize>(datapath: &Datapath, ports: [PortId; N]) {
    let network = Network {
        id: NetworkId(1),
        gateway_mac: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        gateway_addresses: Vec::new(),
        subnets: Vec::new(),
        host_port: None,
        mtu: 1500,
        internal: false,
        names: false,
        clamp_mss: false,
        bridge: Bridge::default(),
    };
    let endpoints = ports.map(|port| Endpoint {
        port,
        network: NetworkId(1),
        mac: mac(port),
        addresses: Vec::new(),
        guard: true,
        isolated: false,
    });
    let config = Config {
        networks: vec![network],
        endpoints: endpoints.to_vec(),
        ..Config::default()
    };
    datapath.configure(Time::ZERO, config);
}

fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, port.0 as u8])
}

/// A frame with a number at its end.
fn frame(from: PortId, to: PortId, number: u32) -> Vec<u8> {
    let mut bytes = [mac(to).0, mac(from).0].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.resize(60, 0);
    bytes.extend(number.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .last_chunk()
        .map_or(u32::MAX, |number| u32::from_be_bytes(*number))
}
