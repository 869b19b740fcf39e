//! Networks in memory: smoltcp hosts on the switch's in-memory ports, under a clock that only the
//! simulation moves.
//!
//! ```text
//!   container ──link──┐
//!   container ──link──┤                  ┌──link── outside host
//!                     ├─ switch ─ uplink ┤         …
//!   host side ──link──┘                  └── (the host's own stack: its ARP and ND only)
//! ```
//!
//! The data path is the real one, driven by hand: [`Worker::poll`] for each port until nothing
//! moves, then the clock jumps to the next thing that a frame on its way, a host's timers or the
//! switch's housekeeping wait for. So an hour passes in no time, and every run is the same.
//!
//! [`Network`] is a small network for tests written by hand; a [`World`](world::World) is drawn
//! from a seed, with faults on its links and accidents in its life.

mod capture;
mod host;
mod ipv6;
mod link;
mod network;
pub mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use nat::{Protocol, Time};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::EthernetAddress;
use switch::config::{Bridge, Endpoint, Leads, Network as SwitchNetwork, NetworkId, Route, Uplink};
use switch::frame::MacAddr;
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::{VECTOR, Worker};
use switch::{Config, Datapath, PortId, Settings};

use crate::wire::Noise;

pub use capture::write_pcapng;
pub use link::Faults;
pub use network::{
    A, A6, B, B6, Flow, GATEWAY, GATEWAY6, HOST, HOST6, Network, OUTSIDE, OUTSIDE6, Who,
};

use host::{Host, arp_announcement, arp_answer};
use ipv6::nd_answer;

const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const MTU: usize = 1500;
/// How often the data path keeps house, as the switch's own thread does.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Frames that wait on a wire in memory, each way.
const WIRE: usize = 1024;

/// A host of a simulation; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId(usize);

/// A frame at a port of the switch.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Duration,
    pub port: PortId,
    /// From the switch; otherwise towards it.
    pub sent: bool,
    pub bytes: Vec<u8>,
}

/// See the module's description.
pub struct Simulation {
    pub config: Config,
    datapath: Arc<Datapath>,
    worker: Worker,
    settings: Settings,
    external_ports: RangeInclusive<u16>,
    hosts: Vec<Option<Host>>,
    uplink: Attachment,
    now: Duration,
    kept_house: Duration,
    /// How long housekeeping may wait while nothing else happens.
    pub patience: Duration,
    faults: Faults,
    noise: Noise,
    /// Every frame at a port since it was last taken, if anybody wants to know.
    pub seen: Option<Vec<Seen>>,
}

/// The far side of a port of the switch.
struct Attachment {
    port: PortId,
    peer: MemoryPeer,
    /// Frames wait for the switch.
    pending: bool,
}

impl Attachment {
    fn new(datapath: &Datapath) -> Attachment {
        let (queue, peer) = memory_port(WIRE).expect("a port in memory");
        let port = datapath
            .add_port(vec![Queue::Memory(queue)])
            .expect("one queue for one worker");
        Attachment {
            port,
            peer,
            pending: false,
        }
    }

    fn send(&mut self, frame: &[u8]) {
        // What does not fit is lost, as on any wire.
        self.pending |= self.peer.send(frame);
    }
}

impl Simulation {
    /// A switch with an uplink at which the host has `address`, and nothing else. `settings` are
    /// those of one worker.
    pub fn new(
        settings: Settings,
        external_ports: RangeInclusive<u16>,
        address: Ipv4Addr,
    ) -> Simulation {
        let datapath = datapath(&settings, &external_ports);
        let uplink = Attachment::new(&datapath);
        let config = Config {
            uplinks: vec![Uplink {
                port: uplink.port,
                newcomers: None,
                mac: UPLINK_MAC,
                mtu: 1500,
                clamp_mss: false,
            }],
            host_addresses: vec![address.into()],
            nat: nat::Rules {
                local: vec![address.into()],
                ..nat::Rules::default()
            },
            ..Config::default()
        };
        Simulation {
            config,
            worker: Worker::new(Arc::clone(&datapath), 0),
            datapath,
            noise: Noise::new(settings.seed),
            settings,
            external_ports,
            hosts: Vec::new(),
            uplink,
            now: Duration::ZERO,
            kept_house: Duration::ZERO,
            patience: HOUSEKEEPING,
            faults: Faults::default(),
            seen: None,
        }
    }

    /// The faults of all links: those of hosts there are, and of those to come.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        for host in self.hosts.iter_mut().flatten() {
            host.link.faults = faults;
        }
    }

    /// Adds a network with the host's own stack on its host port, which has `gateway` and also
    /// `host`, an address of the host elsewhere.
    pub fn add_network(
        &mut self,
        id: NetworkId,
        subnet: ipnet::Ipv4Net,
        gateway: (MacAddr, Ipv4Addr),
        host: Option<Ipv4Addr>,
    ) -> HostId {
        let attachment = Attachment::new(&self.datapath);
        let network = SwitchNetwork {
            id,
            gateway_mac: gateway.0,
            gateway_addresses: vec![gateway.1.into()],
            subnets: vec![subnet.into()],
            host_port: Some(attachment.port),
            mtu: 1500,
            internal: false,
            names: false,
            clamp_mss: false,
            bridge: Bridge::default(),
        };
        self.config.networks.push(network);
        self.config.host_addresses.push(gateway.1.into());
        self.config.nat.local.push(gateway.1.into());
        let addresses = [(gateway.1, subnet.prefix_len())]
            .into_iter()
            .chain(host.map(|host| (host, 32)));
        let host = Host::new(gateway.0, addresses, None, self.noise.word());
        // The host's own interface is no wire, and has no faults.
        self.add(host, Some(attachment), Faults::default())
    }

    /// Adds a container to a network that is there.
    pub fn add_container(&mut self, network: NetworkId, mac: MacAddr, address: Ipv4Addr) -> HostId {
        let attachment = Attachment::new(&self.datapath);
        let networks = &self.config.networks;
        let of = networks.iter().find(|of| of.id == network);
        let of = of.expect("the network is there");
        let (IpAddr::V4(gateway), prefix) = (of.gateway_addresses[0], of.subnets[0].prefix_len())
        else {
            unreachable!("a gateway of IPv4 comes first")
        };
        let host = Host::new(mac, [(address, prefix)], Some(gateway), self.noise.word());
        self.config.endpoints.push(Endpoint {
            port: attachment.port,
            network,
            mac,
            addresses: vec![address.into()],
            guard: true,
            isolated: false,
        });
        self.add(host, Some(attachment), self.faults)
    }

    /// Adds a host beyond the uplink, on its segment.
    pub fn add_outside(&mut self, mac: MacAddr, address: Ipv4Addr, prefix: u8) -> HostId {
        let host = Host::new(mac, [(address, prefix)], None, self.noise.word());
        self.add(host, None, self.faults)
    }

    fn add(&mut self, mut host: Host, attachment: Option<Attachment>, faults: Faults) -> HostId {
        host.attachment = attachment;
        host.link.faults = faults;
        self.hosts.push(Some(host));
        HostId(self.hosts.len() - 1)
    }

    /// Takes a container away, in the order in which a daemon does it: first it loses its place,
    /// then its flows end.
    pub fn remove_container(&mut self, id: HostId) {
        let host = self.hosts[id.0].take().expect("the container is there");
        let attachment = host.attachment.expect("a container has a port");
        let endpoints = &mut self.config.endpoints;
        let gone = endpoints.iter().position(|of| of.port == attachment.port);
        let gone = endpoints.remove(gone.expect("a container has an endpoint"));
        self.configure();
        for address in gone.addresses {
            self.datapath.nat().forget(self.time(), address);
        }
        self.datapath.remove_port(attachment.port);
    }

    /// A route to everywhere by way of `via` and its masquerading source.
    pub fn route(&mut self, via: Option<Ipv4Addr>, source: Ipv4Addr) {
        self.config.routes.push(Route::by(
            "0.0.0.0/0".parse().expect("a subnet"),
            self.uplink.port,
            via.map(Into::into),
            source.into(),
        ));
    }

    /// Puts [`config`](Self::config) in force.
    pub fn configure(&self) {
        self.datapath.configure(self.time(), self.config.clone());
    }

    /// The switch dies, and another takes its place that knows nothing but the configuration. What
    /// was on the wires to it is lost.
    pub fn restart(&mut self) {
        self.settings.seed = self.settings.seed.wrapping_add(1);
        self.datapath = datapath(&self.settings, &self.external_ports);
        self.worker = Worker::new(Arc::clone(&self.datapath), 0);
        let mut moved = Vec::new();
        for host in self.hosts.iter_mut().flatten() {
            if let Some(attachment) = &mut host.attachment {
                let old = std::mem::replace(attachment, Attachment::new(&self.datapath));
                attachment.peer.set_down(host.link.down);
                moved.push((old.port, attachment.port));
            }
        }
        let old = std::mem::replace(&mut self.uplink, Attachment::new(&self.datapath));
        moved.push((old.port, self.uplink.port));
        let renumber = |port: &mut PortId| {
            let found = moved.iter().find(|(old, _)| old == port);
            *port = found.expect("every port is attached again").1;
        };
        let Config {
            networks,
            endpoints,
            uplinks,
            routes,
            ..
        } = &mut self.config;
        let host_ports = networks.iter_mut().filter_map(|of| of.host_port.as_mut());
        host_ports
            .chain(endpoints.iter_mut().map(|of| &mut of.port))
            .chain(uplinks.iter_mut().map(|of| &mut of.port))
            .chain(routes.iter_mut().flat_map(|of| match &mut of.leads {
                Leads::Out(hops) => hops.iter_mut().map(|hop| &mut hop.uplink).collect(),
                _ => Vec::new(),
            }))
            .for_each(renumber);
        self.configure();
    }

    /// Takes a host's wire down or up.
    pub fn set_down(&mut self, id: HostId, down: bool) {
        let host = self.host_mut(id);
        host.link.down = down;
        if let Some(attachment) = &host.attachment {
            attachment.peer.set_down(down);
        }
    }

    /// Gives a host another MAC, as another machine that takes over its address has; it may tell
    /// the segment.
    pub fn change_mac(&mut self, id: HostId, mac: MacAddr, announce: bool) {
        let host = self.host_mut(id);
        host.interface
            .set_hardware_addr(EthernetAddress(mac.0).into());
        if announce {
            let address = host.interface.ipv4_addr().expect("a host has an address");
            host.wire.outgoing.push(arp_announcement(mac, address));
        }
    }

    /// A host forgets all its sockets, and says no more than its answers to ARP and echo.
    pub fn silence(&mut self, id: HostId) {
        let host = self.host_mut(id);
        host.sockets = SocketSet::new(Vec::new());
        host.touched = true;
    }

    /// The simulated time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The same for the data path.
    pub fn time(&self) -> Time {
        Time::from_nanos(self.now.as_nanos() as u64)
    }

    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// The port that a host beyond no uplink has.
    pub fn port(&self, id: HostId) -> PortId {
        self.host(id)
            .attachment
            .as_ref()
            .unwrap_or(&self.uplink)
            .port
    }

    pub fn uplink(&self) -> PortId {
        self.uplink.port
    }

    pub fn sockets(&self, id: HostId) -> &SocketSet<'static> {
        &self.host(id).sockets
    }

    /// The sockets of a host, to which its stack will look next.
    pub fn sockets_mut(&mut self, id: HostId) -> &mut SocketSet<'static> {
        let host = self.host_mut(id);
        host.touched = true;
        &mut host.sockets
    }

    /// Opens a connection from a socket of a host, from its own `port`.
    pub fn connect(
        &mut self,
        id: HostId,
        socket: SocketHandle,
        to: (impl Into<IpAddr>, u16),
        port: u16,
    ) -> Result<(), tcp::ConnectError> {
        let host = self.host_mut(id);
        host.touched = true;
        let socket: &mut tcp::Socket = host.sockets.get_mut(socket);
        let to = (to.0.into(), to.1);
        socket.connect(host.interface.context(), to, port)
    }

    /// Sends a frame into the switch as a host, whatever it is.
    pub fn inject(&mut self, id: HostId, frame: &[u8]) {
        let host = self.hosts[id.0].as_mut().expect("the host is there");
        host.attachment
            .as_mut()
            .unwrap_or(&mut self.uplink)
            .send(frame);
        self.settle();
    }

    fn host(&self, id: HostId) -> &Host {
        self.hosts[id.0].as_ref().expect("the host is there")
    }

    fn host_mut(&mut self, id: HostId) -> &mut Host {
        self.hosts[id.0].as_mut().expect("the host is there")
    }

    /// Lets time jump to what is next, but not beyond `end`. All that moves now has been carried
    /// before, by [`settle`](Self::settle).
    pub fn advance(&mut self, end: Duration) {
        let housekeeping = self.kept_house + self.patience;
        let next = self.hosts.iter().flatten().filter_map(Host::next);
        let next = next.chain([housekeeping, end]).min();
        let next = next.expect("the end is there");
        self.now = next.max(self.now + Duration::from_micros(1));
        if self.now >= self.kept_house + HOUSEKEEPING {
            self.kept_house = self.now;
            self.datapath.tick(self.time());
        }
    }

    /// Carries frames until none moves now; whether any did.
    pub fn settle(&mut self) -> bool {
        let mut moved = false;
        while self.carry() {
            moved = true;
        }
        moved
    }

    /// One round: hosts, links, switch. Whether anything moved.
    fn carry(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        let mut beyond = Vec::new();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let Some(host) = host else { continue };
            moved |= host.work(now, &mut self.noise);
            while let Some(frame) = host.link.to_switch.arrived(now) {
                moved = true;
                match &mut host.attachment {
                    Some(attachment) => {
                        look(&mut self.seen, now, attachment.port, false, &frame);
                        attachment.send(&frame);
                    }
                    None => beyond.push((Some(index), frame)),
                }
            }
        }
        let uplink = &mut self.uplink;
        while let Some(frame) = uplink.peer.recv_bytes() {
            look(&mut self.seen, now, uplink.port, true, &frame);
            beyond.push((None, frame));
        }
        for (from, frame) in beyond {
            moved = true;
            // The switch hears the whole segment, and so does the host's own stack.
            if from.is_some() {
                look(&mut self.seen, now, uplink.port, false, &frame);
                uplink.send(&frame);
            }
            let addresses = &self.config.host_addresses;
            let answer = arp_answer(&frame, UPLINK_MAC, |address| {
                addresses.contains(&address.into())
            });
            let answer = answer.or_else(|| {
                nd_answer(&frame, UPLINK_MAC, |address| {
                    addresses.contains(&address.into())
                })
            });
            for (index, host) in self.hosts.iter_mut().enumerate() {
                let Some(host) = host.as_mut().filter(|host| host.attachment.is_none()) else {
                    continue;
                };
                if from != Some(index) {
                    host.link.send_to_host(now, &frame, &mut self.noise);
                }
                if let Some(answer) = &answer {
                    host.link.send_to_host(now, answer, &mut self.noise);
                }
            }
        }
        let time = Time::from_nanos(now.as_nanos() as u64);
        let hosts = self.hosts.iter_mut().flatten();
        let attachments = hosts.filter_map(|host| host.attachment.as_mut());
        for attachment in attachments.chain([uplink]) {
            while std::mem::take(&mut attachment.pending) {
                let polled = self.worker.poll(time, attachment.port);
                let polled = polled.expect("a port in memory stays");
                attachment.pending = polled == VECTOR;
                moved |= polled > 0;
            }
        }
        for host in self.hosts.iter_mut().flatten() {
            let Some(attachment) = &host.attachment else {
                continue;
            };
            while let Some(frame) = attachment.peer.recv_bytes() {
                moved = true;
                look(&mut self.seen, now, attachment.port, true, &frame);
                host.link.send_to_host(now, &frame, &mut self.noise);
            }
        }
        moved
    }
}

fn look(seen: &mut Option<Vec<Seen>>, at: Duration, port: PortId, sent: bool, bytes: &[u8]) {
    if let Some(seen) = seen {
        seen.push(Seen {
            at,
            port,
            sent,
            bytes: bytes.to_vec(),
        });
    }
}

fn datapath(settings: &Settings, external_ports: &RangeInclusive<u16>) -> Arc<Datapath> {
    let (datapath, _events) = Datapath::new(settings);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        datapath
            .nat()
            .add_external_ports(protocol, external_ports.clone());
    }
    datapath
}
