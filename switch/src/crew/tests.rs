use std::thread;

use super::*;
use crate::Settings;
use crate::config::{Bridge, Config, Endpoint, Network, NetworkId};
use crate::frame::{Frame, MacAddr};
use crate::io::{MemoryPeer, Queue, memory_port};

const LANES: usize = 2;
const FRAMES: u32 = 20_000;

#[test]
fn one_thread_while_it_keeps_up() {
    assert_eq!(threads_for(&[0.0, 0.0], 1), 1);
    assert_eq!(threads_for(&[0.4, 0.4], 1), 1);
    assert_eq!(threads_for(&[1.0], 1), 1);
    // What saturates it is one lane, which can't be shared.
    assert_eq!(threads_for(&[0.96, 0.03], 1), 1);
}

#[test]
fn one_more_when_one_is_saturated_by_several_lanes() {
    assert_eq!(threads_for(&[0.5, 0.45], 1), 2);
    assert_eq!(threads_for(&[0.7, 0.7], 2), 2, "there are no more");
    // The first thread has lanes 0 and 2.
    assert_eq!(threads_for(&[0.5, 0.1, 0.45, 0.0], 2), 3);
    assert_eq!(threads_for(&[0.5, 0.95, 0.1, 0.0], 2), 2);
}

#[test]
fn fewer_when_fewer_are_comfortable() {
    assert_eq!(threads_for(&[0.3, 0.2], 2), 1);
    assert_eq!(threads_for(&[0.4, 0.4], 2), 2);
    assert_eq!(threads_for(&[0.1, 0.1, 0.1, 0.1], 4), 1);
    assert_eq!(threads_for(&[0.5, 0.5, 0.0, 0.0], 4), 2);
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
    assert_eq!(load(1000, [0.7, 0.3]), 2, "one could, but would strain");
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
            scope.spawn(move || crew.serve(me));
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
                let waiting = std::iter::from_fn(|| peer.recv()).take(50);
                received.extend(waiting.map(|frame| number(&frame)));
            }
        }
        crew.dismiss();
    });
    for received in received {
        assert!(received.into_iter().eq(0..FRAMES));
    }
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

fn configure(datapath: &Datapath, ports: [PortId; 2]) {
    let network = Network {
        id: NetworkId(1),
        gateway_mac: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        gateway_addresses: Vec::new(),
        subnets: Vec::new(),
        host_port: None,
        mtu: 1500,
        internal: false,
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

fn number(frame: &Frame) -> u32 {
    frame
        .bytes()
        .last_chunk()
        .map_or(u32::MAX, |number| u32::from_be_bytes(*number))
}
