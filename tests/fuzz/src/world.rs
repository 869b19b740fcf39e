//! A data path on ports in memory: two networks of both families, an uplink, published ports.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use nat::{Masquerade, Protocol, Publish, Rules, Sources, Time};
use switch::config::{Bridge, Config, Endpoint, Names, Network, NetworkId, PortId, Route, Uplink};
use switch::frame::{Frame, MacAddr};
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::Worker;
use switch::{Datapath, Settings};

use crate::packet::{HOST4, HOST6, address};

/// Where a frame goes in or comes out.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A1,
    A2,
    B1,
    HostA,
    HostB,
    Uplink,
    /// The stack that answers for A's names, and in odd worlds for B's.
    Names,
}

impl Side {
    pub(crate) const ALL: [Side; 7] = [
        Side::A1,
        Side::A2,
        Side::B1,
        Side::HostA,
        Side::HostB,
        Side::Uplink,
        Side::Names,
    ];

    /// Who sits at the far end.
    pub(crate) fn mac(self) -> MacAddr {
        match self {
            Side::A1 => MacAddr([2, 0, 0, 0, 0, 0xa]),
            Side::A2 => MacAddr([2, 0, 0, 0, 0, 0xb]),
            Side::B1 => MacAddr([2, 0, 0, 0, 0, 0xc]),
            Side::HostA => GATEWAY_A,
            Side::HostB => GATEWAY_B,
            Side::Uplink => NEXT_HOP,
            Side::Names => STACK,
        }
    }

    /// The router that the far end talks to.
    pub(crate) fn router(self) -> MacAddr {
        match self {
            Side::A1 | Side::A2 | Side::HostA => GATEWAY_A,
            Side::B1 | Side::HostB => GATEWAY_B,
            Side::Uplink => UPLINK,
            Side::Names => STACK,
        }
    }

    pub(crate) fn is_container(self) -> bool {
        matches!(self, Side::A1 | Side::A2 | Side::B1)
    }

    /// Its network's number; the uplink has none.
    pub(crate) fn network(self) -> Option<u32> {
        match self {
            Side::A1 | Side::A2 | Side::HostA => Some(0),
            Side::B1 | Side::HostB => Some(1),
            Side::Uplink | Side::Names => None,
        }
    }
}

const GATEWAY_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GATEWAY_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const NEXT_HOP: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);

const STACK: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x35]);

/// Where the stack is asked what was asked of 127.0.0.11.
const REDIRECTED: u16 = 14;

/// External ports of each protocol.
const PORTS: std::ops::RangeInclusive<u16> = 61000..=61015;

pub(crate) struct World {
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) now: Time,
    pub(crate) odd: Odd,
    worker: Worker,
    ends: Vec<(PortId, MemoryPeer)>,
    generation: u32,
}

/// What is unusual about a world.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Odd {
    /// B leads nowhere.
    pub(crate) internal: bool,
    /// A1 and A2 are kept from each other.
    pub(crate) isolated: bool,
    /// A2 may say that it is anybody.
    pub(crate) unguarded: bool,
    /// B's names are answered too.
    names: bool,
    /// What is published is for some only.
    listed: bool,
    /// B keeps its addresses on the way out.
    pub(crate) routed: bool,
}

impl Odd {
    fn new(bits: u8) -> Odd {
        let bit = |at: u8| bits >> at & 1 == 1;
        Odd {
            internal: bit(0),
            isolated: bit(1),
            unguarded: bit(2),
            names: bit(3),
            listed: bit(4),
            routed: bit(5),
        }
    }
}

impl World {
    pub(crate) fn new() -> World {
        let settings = Settings {
            workers: 1,
            busy_poll: Duration::ZERO,
            no_halt: false,
            limits: nat::Limits {
                max_connections: 24,
                max_per_address: 10,
                ..Default::default()
            },
            seed: 1,
        };
        let (datapath, _events) = Datapath::new(&settings);
        for protocol in [Protocol::TCP, Protocol::UDP] {
            datapath.nat().add_external_ports(protocol, PORTS);
        }
        let ends = Side::ALL.map(|_| {
            let (queue, peer) = memory_port(64).expect("an eventfd");
            let port = datapath.add_port(vec![Queue::Memory(queue)]);
            (port.expect("one queue, as there is one worker"), peer)
        });
        let mut world = World {
            worker: Worker::new(Arc::clone(&datapath), 0),
            datapath,
            now: Time::ZERO,
            odd: Odd::default(),
            ends: ends.into(),
            generation: 0,
        };
        world.configure(0xff, 0);
        world
    }

    fn port(&self, side: Side) -> PortId {
        self.ends[side as usize].0
    }

    /// Publishes ports by the bits of `which`, the lowest six; the seventh bit attaches A2, the
    /// eighth makes the next hops known. The bits of `odd` are those of [`Odd`].
    pub(crate) fn configure(&mut self, which: u8, odd: u8) {
        self.generation += 1;
        let odd = Odd::new(odd);
        self.odd = odd;
        let network = |id: u32, host: Side| Network {
            id: NetworkId(id),
            gateway_mac: host.mac(),
            gateway_addresses: [false, true].map(|ipv6| address(3 + id as u8, ipv6)).into(),
            subnets: vec![
                format!("10.{id}.0.0/24").parse().expect("a subnet"),
                format!("fd0{id}::/64").parse().expect("a subnet"),
            ],
            host_port: Some(self.port(host)),
            mtu: 1500,
            internal: odd.internal && id == 1,
            names: odd.names || id == 0,
            clamp_mss: false,
            bridge: Bridge {
                macs_per_port: 4,
                macs: 10,
                ..Bridge::default()
            },
        };
        let endpoint = |index: u8, side: Side| Endpoint {
            port: self.port(side),
            network: NetworkId(side.network().expect("no uplink")),
            mac: side.mac(),
            addresses: [false, true].map(|ipv6| address(index, ipv6)).into(),
            guard: !(odd.unguarded && side == Side::A2),
            isolated: odd.isolated && side.network() == Some(0),
        };
        let mut endpoints = vec![endpoint(0, Side::A1), endpoint(2, Side::B1)];
        if which & 0x40 != 0 {
            endpoints.push(endpoint(1, Side::A2));
        }
        let uplink = self.port(Side::Uplink);
        let route = |destination: &str, via: u8, ipv6: bool| {
            Route::by(
                destination.parse().expect("a subnet"),
                uplink,
                (via > 0).then(|| address(via, ipv6)),
                if ipv6 { HOST6.into() } else { HOST4.into() },
            )
        };
        let allow = if odd.listed {
            let sources = ["192.0.2.9/32", "2001::9/128", "10.0.0.2/32", "fd01::/64"];
            Sources::new(&sources.map(|source| source.parse().expect("a subnet")))
        } else {
            Sources::default()
        };
        // Nothing is published of a network that leads nowhere.
        let publish = (0..6u8)
            .filter(|at| which >> at & 1 == 1 && !(odd.internal && at & 4 != 0))
            .map(|at| Publish {
                id: self.generation * 8 + u32::from(at),
                protocol: [Protocol::TCP, Protocol::UDP][usize::from(at & 1)],
                host: None,
                ports: if at & 4 == 0 {
                    8000..=8009
                } else {
                    8010..=8019
                },
                to: address(if at & 4 == 0 { 0 } else { 2 }, at & 2 != 0),
                to_port: 80,
                allow: allow.clone(),
            });
        let sources: &[&str] = if odd.routed || odd.internal {
            &["10.0.0.0/24", "fd00::/64"]
        } else {
            &["10.0.0.0/24", "fd00::/64", "10.1.0.0/24", "fd01::/64"]
        };
        let neighbors = if which & 0x80 == 0 {
            Vec::new()
        } else {
            [false, true]
                .map(|ipv6| (uplink, address(6, ipv6), NEXT_HOP))
                .into()
        };
        let host = [HOST4.into(), HOST6.into()];
        let config = Config {
            names: Some(Names {
                port: self.port(Side::Names),
                mac: STACK,
                redirected: REDIRECTED,
            }),
            networks: vec![network(0, Side::HostA), network(1, Side::HostB)],
            endpoints,
            treatments: Vec::new(),
            uplinks: vec![Uplink {
                port: uplink,
                newcomers: None,
                mac: UPLINK,
                // Narrower than the networks, so that packets are cut, and refused.
                mtu: 1400,
                clamp_mss: true,
            }],
            host_subnets: Vec::new(),
            rules: Vec::new(),
            host_addresses: [3, 4]
                .iter()
                .flat_map(|&gateway| [false, true].map(|ipv6| address(gateway, ipv6)))
                .chain(host)
                .collect(),
            // One peer by the way of another, and one whom nobody has introduced.
            routes: vec![
                route("198.51.100.0/24", 6, false),
                route("192.0.2.0/24", 0, false),
                route("2002::/16", 6, true),
                route("2001::/64", 0, true),
            ],
            neighbors,
            nat: Rules {
                masquerade: sources
                    .iter()
                    .map(|source| Masquerade {
                        source: source.parse().expect("a subnet"),
                        to: None,
                    })
                    .collect(),
                publish: publish.collect(),
                local: host.into(),
                ..Rules::default()
            },
        };
        self.datapath.configure(self.now, config);
    }

    /// Sends a frame in, and returns what comes out, by side.
    pub(crate) fn send(&mut self, side: Side, frame: &Frame) -> Vec<(Side, Frame)> {
        let (port, peer) = &self.ends[side as usize];
        assert!(peer.send_frame(frame), "the wire is empty");
        let polled = self.worker.poll(self.now, *port);
        assert_eq!(polled.expect("a port in memory stays"), 1);
        self.collect()
    }

    /// Lets time pass, and returns what the data path says of its own.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<(Side, Frame)> {
        self.now += time;
        self.datapath.tick(self.now);
        self.collect()
    }

    fn collect(&self) -> Vec<(Side, Frame)> {
        let mut all = Vec::new();
        for side in Side::ALL {
            let peer = &self.ends[side as usize].1;
            all.extend(std::iter::from_fn(|| peer.recv()).map(|frame| (side, frame)));
        }
        all
    }

    /// Everything expires, and is given back.
    pub(crate) fn end(&mut self) {
        for _ in 0..16 {
            self.wait(Duration::from_secs(24 * 3600));
        }
        let nat = self.datapath.nat();
        assert!(nat.is_empty(), "connections outlive their time");
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let free = nat.external_ports_free(protocol);
            assert_eq!(free, PORTS.len(), "an external port leaked");
        }
    }
}
