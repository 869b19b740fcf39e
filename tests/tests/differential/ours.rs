//! Pontoon's data path on ports in memory.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nat::{Masquerade, Protocol, Publish, Rules, Time};
use pontoon_tests::wire::ethernet;
use switch::config::{Bridge, Endpoint, Network, Route, Uplink};
use switch::frame::MacAddr;
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::Worker;
use switch::{Config, Datapath, NetworkId, PortId, Settings};

use crate::net::{GATEWAY_MAC, PUBLISHED, SERVED, Side, UPLINK_MAC, Who, gateway, host};

pub(crate) struct Ours {
    worker: Worker,
    ports: Vec<(PortId, MemoryPeer)>,
    now: Time,
}

const SIDES: [Side; 3] = [Side::A, Side::B, Side::Outside];

impl Ours {
    pub(crate) fn new(seed: u64) -> Ours {
        let settings = Settings {
            workers: 1,
            seed,
            ..Settings::default()
        };
        let (datapath, _events) = Datapath::new(&settings);
        for protocol in [Protocol::TCP, Protocol::UDP] {
            datapath.nat().add_external_ports(protocol, 61_000..=61_999);
        }
        let ports: Vec<(PortId, MemoryPeer)> = (0..4)
            .map(|_| {
                let (queue, peer) = memory_port(64).expect("an eventfd");
                let port = datapath.add_port(vec![Queue::Memory(queue)]);
                (port.expect("one queue, as there is one worker"), peer)
            })
            .collect();
        let uplink = ports[2].0;
        let families = [false, true];
        let network = NetworkId(1);
        let endpoint = |who: Who| Endpoint {
            port: ports[who.side() as usize].0,
            network,
            mac: MacAddr(who.mac()),
            addresses: families.map(|ipv6| who.address(ipv6)).into(),
            guard: true,
            isolated: false,
        };
        let subnets = ["10.88.0.0/16", "fd88::/64"].map(|net| net.parse().expect("a subnet"));
        let publish = [Protocol::TCP, Protocol::UDP]
            .into_iter()
            .flat_map(|protocol| families.map(|ipv6| (protocol, ipv6)))
            .enumerate();
        let config = Config {
            names: None,
            networks: vec![Network {
                id: network,
                gateway_mac: MacAddr(GATEWAY_MAC),
                gateway_addresses: families.map(gateway).into(),
                subnets: subnets.into(),
                host_port: Some(ports[3].0),
                mtu: 1500,
                internal: false,
                names: false,
                clamp_mss: false,
                bridge: Bridge::default(),
            }],
            endpoints: vec![endpoint(Who::A), endpoint(Who::B)],
            treatments: Vec::new(),
            uplinks: vec![Uplink {
                port: uplink,
                newcomers: None,
                mac: MacAddr(UPLINK_MAC),
                mtu: 1500,
                clamp_mss: false,
            }],
            host_subnets: Vec::new(),
            rules: Vec::new(),
            host_addresses: families
                .iter()
                .flat_map(|&ipv6| [host(ipv6), gateway(ipv6)])
                .collect(),
            routes: ["192.0.2.0/24", "2001::/64"]
                .map(|destination| {
                    Route::by(
                        destination.parse().expect("a subnet"),
                        uplink,
                        None,
                        host(destination.contains("::")),
                    )
                })
                .into(),
            neighbors: [Who::P, Who::Q]
                .iter()
                .flat_map(|who| families.map(|ipv6| (who.address(ipv6), MacAddr(who.mac()))))
                .map(|(address, mac): (IpAddr, MacAddr)| (uplink, address, mac))
                .collect(),
            nat: Rules {
                masquerade: subnets.map(|source| Masquerade { source, to: None }).into(),
                publish: publish
                    .map(|(id, (protocol, ipv6))| Publish {
                        id: id as u32,
                        protocol,
                        host: None,
                        ports: PUBLISHED..=PUBLISHED,
                        to: Who::B.address(ipv6),
                        to_port: SERVED,
                        allow: nat::Sources::default(),
                    })
                    .collect(),
                local: families.map(host).into(),
                ..Rules::default()
            },
        };
        datapath.configure(Time::ZERO, config);
        Ours {
            worker: Worker::new(Arc::clone(&datapath), 0),
            ports,
            now: Time::ZERO,
        }
    }

    /// Sends a packet in as `from`; what comes out, by side. What goes to the host is not told.
    pub(crate) fn send(&mut self, from: Who, packet: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.now += Duration::from_millis(1);
        let to = match from.side() {
            Side::Outside => UPLINK_MAC,
            Side::A | Side::B => GATEWAY_MAC,
        };
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let (port, peer) = &self.ports[from.side() as usize];
        assert!(peer.send(&ethernet(to, from.mac(), ethertype, packet)));
        let polled = self.worker.poll(self.now, *port);
        assert_eq!(polled.expect("a port in memory stays"), 1);
        let mut out = Vec::new();
        for side in SIDES {
            let peer = &self.ports[side as usize].1;
            while let Some(frame) = peer.recv() {
                assert!(!frame.vnet().needs_csum(), "the sums were whole");
                out.push((side, frame.bytes()[14..].to_vec()));
            }
        }
        while self.ports[3].1.recv().is_some() {}
        out
    }
}
