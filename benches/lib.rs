//! What the experiments share: a switch on in-memory ports, with two containers and an uplink, and
//! frames to send through it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nat::{Masquerade, Protocol, Rules, Time};
use switch::config::{Bridge, Config, Endpoint, Network, NetworkId, PortId, Route, Uplink};
use switch::frame::MacAddr;
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::{VECTOR, Worker};
use switch::{Datapath, Settings};

pub const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
pub const UPLINK: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub const NEXT_HOP: MacAddr = MacAddr([2, 0, 0, 0, 1, 2]);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The world of the experiments, driven by hand.
pub struct World {
    /// One a lane.
    pub workers: Vec<Worker>,
    pub datapath: Arc<Datapath>,
    pub containers: Vec<Attached>,
    /// With a cable a lane.
    pub uplink: (PortId, Vec<MemoryPeer>),
}

/// A container: its port, and the cables to it, one a lane.
pub struct Attached {
    pub port: PortId,
    pub cables: Vec<MemoryPeer>,
    pub mac: MacAddr,
    pub address: Ipv4Addr,
}

impl World {
    /// A network with so many containers, masqueraded behind one uplink; all in one lane.
    pub fn new(containers: usize) -> World {
        World::with_lanes(containers, 1)
    }

    /// The same with so many queues a port, and a worker for each.
    pub fn with_lanes(containers: usize, lanes: usize) -> World {
        let settings = Settings {
            workers: lanes,
            busy_poll: Duration::ZERO,
            no_halt: false,
            limits: nat::Limits {
                max_connections: 2 << 20,
                max_per_address: 2 << 20,
                max_ports_per_address: 1 << 16,
                ..Default::default()
            },
            seed: 1,
        };
        let (datapath, _) = Datapath::new(&settings);
        let plug = || {
            let cables = (0..lanes).map(|_| memory_port(VECTOR).expect("an eventfd"));
            let (queues, peers): (Vec<_>, Vec<_>) = cables.unzip();
            let queues = queues.into_iter().map(Queue::Memory).collect();
            (datapath.add_port(queues).expect("a queue a lane"), peers)
        };
        let uplink = plug();
        let containers: Vec<Attached> = (0..containers)
            .map(|n| {
                let (port, cables) = plug();
                let [high, low] = (n as u16 + 2).to_be_bytes();
                let mac = MacAddr([2, 0, 0, 1, high, low]);
                Attached {
                    port,
                    cables,
                    mac,
                    address: Ipv4Addr::new(10, 0, high, low),
                }
            })
            .collect();
        let subnet = "10.0.0.0/16".parse().expect("a subnet");
        let gateway = IpAddr::from([10, 0, 0, 1]);
        let own = IpAddr::from([192, 0, 2, 1]);
        let next_hop = IpAddr::from([192, 0, 2, 2]);
        for protocol in [Protocol::TCP, Protocol::UDP] {
            datapath.nat().add_external_ports(protocol, 1024..=65535);
        }
        datapath.configure(
            Time::ZERO,
            Config {
                names: None,
                networks: vec![Network {
                    id: NetworkId(1),
                    gateway_mac: GATEWAY,
                    gateway_addresses: vec![gateway],
                    subnets: vec![subnet],
                    host_port: None,
                    mtu: 1500,
                    internal: false,
                    names: false,
                    clamp_mss: false,
                    bridge: Bridge::default(),
                }],
                endpoints: containers
                    .iter()
                    .map(|container| Endpoint {
                        port: container.port,
                        network: NetworkId(1),
                        mac: container.mac,
                        addresses: vec![container.address.into()],
                        guard: true,
                        isolated: false,
                    })
                    .collect(),
                treatments: Vec::new(),
                uplinks: vec![Uplink {
                    port: uplink.0,
                    newcomers: None,
                    mac: UPLINK,
                    mtu: 1500,
                    clamp_mss: false,
                }],
                host_addresses: vec![gateway, own],
                host_subnets: Vec::new(),
                rules: Vec::new(),
                routes: vec![Route::by(
                    "0.0.0.0/0".parse().expect("a route"),
                    uplink.0,
                    Some(next_hop),
                    own,
                )],
                neighbors: vec![(uplink.0, next_hop, NEXT_HOP)],
                nat: Rules {
                    masquerade: vec![Masquerade {
                        source: subnet,
                        to: None,
                    }],
                    ..Rules::default()
                },
            },
        );
        World {
            workers: (0..lanes)
                .map(|lane| Worker::new(Arc::clone(&datapath), lane))
                .collect(),
            datapath,
            containers,
            uplink,
        }
    }
}

/// An Ethernet frame with a UDP datagram without a checksum, `len` bytes in all.
pub fn udp_frame(
    macs: (MacAddr, MacAddr),
    addresses: (Ipv4Addr, Ipv4Addr),
    ports: (u16, u16),
    len: usize,
) -> Vec<u8> {
    let ip_len = len - 14;
    let mut frame = Vec::with_capacity(len);
    frame.extend(macs.1.0);
    frame.extend(macs.0.0);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((ip_len as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(addresses.0.octets());
    frame.extend(addresses.1.octets());
    let sum: u32 = frame[14..34]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend((ip_len as u16 - 20).to_be_bytes());
    frame.resize(len, 0);
    frame
}
