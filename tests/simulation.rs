//! A network in memory: smoltcp hosts on the switch's in-memory ports, under a clock that only the
//! simulation moves.
//!
//! ```text
//!   a  10.88.0.2 ──┐                                 ┌── outside 192.0.2.2
//!                  ├── switch ── uplink 192.0.2.1 ───┤
//!   b  10.88.0.3 ──┤                                 └── (the host's own stack: its ARP only)
//!   host 10.88.0.1 ┘
//! ```
//!
//! The data path is the real one, driven by hand: [`Worker::poll`] for each port until nothing
//! moves, then the clock jumps to the next thing that any host's timers, or the switch's
//! housekeeping, wait for. So an hour passes in no time, and every run is the same.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nat::{Protocol, Time};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr,
};
use switch::config::{Bridge, Endpoint, Network as SwitchNetwork, Route, Uplink};
use switch::frame::MacAddr;
use switch::io::{MemoryPeer, Queue, memory_port};
use switch::worker::Worker;
use switch::{Config, Datapath, DropReason, NetworkId, PortId, Settings};

use crate::wire::Noise;

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const A: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
/// The host's address on its uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MTU: usize = 1500;
/// How often the data path keeps house, as the switch's own thread does.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    A,
    B,
    /// The host's own stack, on the network's host port.
    Host,
    /// Beyond the uplink.
    Outside,
}

impl Who {
    const ALL: [Who; 4] = [Who::A, Who::B, Who::Host, Who::Outside];

    pub fn address(self) -> Ipv4Addr {
        match self {
            Who::A => A,
            Who::B => B,
            Who::Host => GATEWAY,
            Who::Outside => OUTSIDE,
        }
    }

    fn mac(self) -> MacAddr {
        match self {
            Who::A => MacAddr([2, 0, 0, 0, 0, 0xa]),
            Who::B => MacAddr([2, 0, 0, 0, 0, 0xb]),
            Who::Host => GATEWAY_MAC,
            Who::Outside => MacAddr([2, 0, 0, 0, 1, 2]),
        }
    }
}

/// See the module's description.
pub struct Network {
    pub datapath: Arc<Datapath>,
    worker: Worker,
    config: Config,
    hosts: Vec<Host>,
    now: Duration,
    kept_house: Duration,
    /// One frame in this many is lost on its way from a host to the switch; 0 for none.
    pub loss: usize,
    noise: Noise,
}

struct Host {
    port: PortId,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    next_port: u16,
}

impl Network {
    /// Masquerades A and B to [`HOST`], and publishes nothing yet.
    pub fn new() -> Network {
        let settings = Settings {
            workers: 1,
            seed: 7,
            ..Settings::default()
        };
        let (datapath, _events) = Datapath::new(&settings);
        for protocol in [Protocol::TCP, Protocol::UDP] {
            datapath.nat().add_external_ports(protocol, 61_000..=61_127);
        }
        let hosts: Vec<Host> = Who::ALL
            .into_iter()
            .map(|who| Host::new(who, &datapath))
            .collect();
        let port = |who: Who| hosts[who as usize].port;
        let network = NetworkId(1);
        let endpoints = [Who::A, Who::B].map(|who| Endpoint {
            port: port(who),
            network,
            mac: who.mac(),
            addresses: vec![who.address().into()],
            guard: true,
            isolated: false,
        });
        let subnet = "10.88.0.0/16".parse().expect("a subnet");
        let config = Config {
            networks: vec![SwitchNetwork {
                id: network,
                gateway_mac: GATEWAY_MAC,
                gateway_addresses: vec![GATEWAY.into()],
                subnets: vec![subnet],
                host_port: Some(port(Who::Host)),
                bridge: Bridge::default(),
            }],
            endpoints: endpoints.to_vec(),
            uplinks: vec![Uplink {
                port: port(Who::Outside),
                mac: UPLINK_MAC,
            }],
            host_addresses: vec![HOST.into(), GATEWAY.into()],
            routes: vec![Route {
                destination: "0.0.0.0/0".parse().expect("a subnet"),
                via: Some(OUTSIDE.into()),
                uplink: port(Who::Outside),
                source: HOST.into(),
                metric: 0,
            }],
            neighbors: Vec::new(),
            nat: nat::Rules {
                masquerade: vec![nat::Masquerade {
                    source: subnet,
                    to: None,
                }],
                publish: Vec::new(),
                local: vec![HOST.into(), GATEWAY.into()],
            },
        };
        let network = Network {
            worker: Worker::new(Arc::clone(&datapath), 0),
            datapath,
            config,
            hosts,
            now: Duration::ZERO,
            kept_house: Duration::ZERO,
            loss: 0,
            noise: Noise::new(1),
        };
        network.configure();
        network
    }

    /// Publishes one port of the host on every address of it; `id` as in [`nat::Publish`].
    pub fn publish(&mut self, id: u32, protocol: Protocol, port: u16, to: Who, to_port: u16) {
        self.config.nat.publish.push(nat::Publish {
            id,
            protocol,
            host: None,
            ports: port..=port,
            to: to.address().into(),
            to_port,
        });
        self.configure();
    }

    /// Withdraws what was published with `id`.
    pub fn unpublish(&mut self, id: u32) {
        self.config.nat.publish.retain(|rule| rule.id != id);
        self.configure();
    }

    fn configure(&self) {
        self.datapath.configure(self.time(), self.config.clone());
    }

    /// The simulated time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The same for the data path.
    pub fn time(&self) -> Time {
        Time::from_nanos(self.now.as_nanos() as u64)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        let counters = self.datapath.counters();
        let row = counters.drops.iter().find(|(of, _)| *of == reason);
        row.expect("every reason is counted").1
    }

    /// The connections of the data path, as `original | reply`.
    pub fn connections(&self) -> Vec<String> {
        let connections = self.datapath.nat().connections(self.time());
        let tuples = connections.iter();
        tuples
            .map(|connection| format!("{} | {}", connection.original, connection.reply))
            .collect()
    }

    /// Sends a frame into the switch as `who`, whatever it is.
    pub fn inject(&mut self, who: Who, frame: &[u8]) {
        self.hosts[who as usize].wire.peer.send(frame);
        self.settle();
    }

    /// Lets the simulated time pass.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_until(time, |network| network.now >= until);
    }

    /// Runs until `done`, jumping from event to event; false if it is not within `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Network) -> bool,
    ) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            // What `done` did may have given a socket something to say at once.
            let now = instant(self.now);
            let timers = self.hosts.iter_mut().filter_map(|host| {
                let at = host.interface.poll_at(now, &host.sockets)?;
                Some(Duration::from_micros(at.total_micros().max(0) as u64))
            });
            let housekeeping = self.kept_house + HOUSEKEEPING;
            let next = timers.chain([housekeeping, end]).min();
            self.now = next
                .expect("the end is there")
                .max(self.now + Duration::from_micros(1));
            if self.now >= housekeeping {
                self.kept_house = self.now;
                self.datapath.tick(self.time());
            }
        }
    }

    /// Carries frames until none moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for host in &mut self.hosts {
                host.wire.fetch();
                host.interface
                    .poll(instant(self.now), &mut host.wire, &mut host.sockets);
                for frame in std::mem::take(&mut host.wire.outgoing) {
                    moved = true;
                    if self.loss == 0 || self.noise.below(self.loss) != 0 {
                        host.wire.peer.send(&frame);
                    }
                }
            }
            for host in &self.hosts {
                let now = Time::from_nanos(self.now.as_nanos() as u64);
                let polled = self.worker.poll(now, host.port);
                moved |= polled.expect("a port in memory stays") > 0;
            }
            if !moved && self.hosts.iter_mut().all(|host| host.wire.fetch() == 0) {
                return;
            }
        }
    }

    /// Sends an echo request each second until one is answered: smoltcp forgets an answer for whose
    /// receiver it must ask ARP first.
    ///
    /// # Errors
    ///
    /// No answer within five seconds.
    pub fn ping(&mut self, from: Who, to: Ipv4Addr) -> Result<(), String> {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let ident = 0x1234;
        socket
            .bind(icmp::Endpoint::Ident(ident))
            .map_err(|error| format!("{error:?}"))?;
        let request = Icmpv4Repr::EchoRequest {
            ident,
            seq_no: 1,
            data: b"are you there?",
        };
        let handle = self.hosts[from as usize].sockets.add(socket);
        let mut answer = None;
        let mut next = self.now;
        self.run_until(Duration::from_secs(5), |network| {
            let sockets = &mut network.hosts[from as usize].sockets;
            let socket = sockets.get_mut::<icmp::Socket>(handle);
            if let Ok((payload, source)) = socket.recv() {
                answer = Some((payload.to_vec(), source));
            } else if network.now >= next {
                next = network.now + Duration::from_secs(1);
                // Full is lost, as everywhere.
                if let Ok(payload) = socket.send(request.buffer_len(), IpAddress::Ipv4(to)) {
                    let mut packet = Icmpv4Packet::new_unchecked(payload);
                    request.emit(&mut packet, &ChecksumCapabilities::default());
                }
            }
            answer.is_some()
        });
        self.hosts[from as usize].sockets.remove(handle);
        let (payload, source) =
            answer.ok_or_else(|| format!("{from:?} got no answer from {to}"))?;
        let packet = Icmpv4Packet::new_checked(&payload[..]).map_err(|error| error.to_string())?;
        let answer = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())
            .map_err(|error| error.to_string())?;
        match answer {
            Icmpv4Repr::EchoReply {
                ident: 0x1234,
                seq_no: 1,
                data: b"are you there?",
            } if source == IpAddress::Ipv4(to) => Ok(()),
            other => Err(format!("an answer from {source}: {other:?}")),
        }
    }

    /// Opens a TCP connection from one host to an address at which `server` should be, listening
    /// on `server_port`.
    ///
    /// # Errors
    ///
    /// Refused, or not established on both sides within 30 seconds.
    pub fn connect(
        &mut self,
        client: Who,
        to: (Ipv4Addr, u16),
        server: Who,
        server_port: u16,
    ) -> Result<Flow, String> {
        let mut listening = tcp_socket();
        listening
            .listen(server_port)
            .map_err(|error| error.to_string())?;
        let server_handle = self.hosts[server as usize].sockets.add(listening);
        let host = &mut self.hosts[client as usize];
        let client_handle = host.sockets.add(tcp_socket());
        host.next_port += 1;
        host.sockets
            .get_mut::<tcp::Socket>(client_handle)
            .connect(host.interface.context(), to, host.next_port)
            .map_err(|error| error.to_string())?;
        let flow = Flow {
            client: (client, client_handle),
            server: (server, server_handle),
        };
        self.run_until(Duration::from_secs(30), |network| {
            let ends = [flow.client, flow.server].map(|end| network.tcp(end).state());
            ends == [tcp::State::Established; 2] || ends[0] == tcp::State::Closed
        });
        let states = [flow.client, flow.server].map(|end| self.tcp(end).state());
        match states {
            [tcp::State::Established, tcp::State::Established] => Ok(flow),
            [client, server] => {
                self.close(flow);
                Err(format!("client {client}, server {server}"))
            }
        }
    }

    /// Sends `length` bytes from the client of a flow to its server, and compares them.
    ///
    /// # Errors
    ///
    /// They are not there within two simulated minutes, or not as they were sent.
    pub fn transfer(&mut self, flow: &Flow, length: usize) -> Result<(), String> {
        let byte = |index: usize| (index * 7 % 253) as u8;
        let (mut sent, mut received) = (0, 0);
        let mut garbled = None;
        let arrived = self.run_until(Duration::from_secs(120), |network| {
            let client = network.tcp(flow.client);
            while sent < length && client.can_send() {
                let block: Vec<u8> = (sent..length.min(sent + 4096)).map(byte).collect();
                match client.send_slice(&block) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => sent += count,
                }
            }
            let server = network.tcp(flow.server);
            while server.can_recv() {
                let count = server.recv(|bytes| {
                    if let Some(at) = (0..bytes.len()).find(|at| bytes[*at] != byte(received + at))
                    {
                        garbled.get_or_insert(received + at);
                    }
                    (bytes.len(), bytes.len())
                });
                received += count.unwrap_or(0);
            }
            received >= length || garbled.is_some()
        });
        match (arrived, garbled) {
            (_, Some(at)) => Err(format!("garbled at byte {at}")),
            (true, None) => Ok(()),
            (false, None) => Err(format!("{received} of {length} bytes arrived")),
        }
    }

    /// The client's address and port as the server sees them.
    pub fn seen_by_server(&mut self, flow: &Flow) -> SocketAddr {
        let endpoint = self.tcp(flow.server).remote_endpoint();
        let endpoint = endpoint.expect("an established connection has a remote end");
        SocketAddr::new(endpoint.addr.into(), endpoint.port)
    }

    /// Closes both ends in good order, and forgets them.
    pub fn close(&mut self, flow: Flow) {
        for end in [flow.client, flow.server] {
            self.tcp(end).close();
        }
        self.pass(Duration::from_secs(1));
        for (who, handle) in [flow.client, flow.server] {
            self.hosts[who as usize].sockets.remove(handle);
        }
    }

    fn tcp(&mut self, end: (Who, SocketHandle)) -> &mut tcp::Socket<'static> {
        self.hosts[end.0 as usize].sockets.get_mut(end.1)
    }

    /// Sends a datagram to an address at which `server` should be, bound to `server_port`, and
    /// gets an answer; returns where the server saw it come from.
    ///
    /// # Errors
    ///
    /// Question or answer are not there within five seconds, or come from elsewhere.
    pub fn ask(
        &mut self,
        client: Who,
        to: (Ipv4Addr, u16),
        server: Who,
        server_port: u16,
    ) -> Result<SocketAddr, String> {
        let host = &mut self.hosts[client as usize];
        host.next_port += 1;
        let client_port = host.next_port;
        let client_handle = host.sockets.add(udp_socket(client_port)?);
        let server_handle = self.hosts[server as usize]
            .sockets
            .add(udp_socket(server_port)?);
        let mut seen = None;
        let mut answered_by = None;
        let question = self.udp(client, client_handle).send_slice(b"who am I?", to);
        self.run_until(Duration::from_secs(5), |network| {
            let socket = network.udp(server, server_handle);
            if let Ok((b"who am I?", from)) = socket.recv() {
                seen = Some(from.endpoint);
                // Full is lost, as everywhere.
                socket.send_slice(b"you", from.endpoint).ok();
            }
            if let Ok((b"you", from)) = network.udp(client, client_handle).recv() {
                answered_by = Some((from.endpoint.addr, from.endpoint.port));
            }
            answered_by.is_some()
        });
        self.hosts[client as usize].sockets.remove(client_handle);
        self.hosts[server as usize].sockets.remove(server_handle);
        question.map_err(|error| error.to_string())?;
        let seen = seen.ok_or("the question did not arrive")?;
        match answered_by {
            Some((address, port)) if (address, port) == (IpAddress::Ipv4(to.0), to.1) => {
                Ok(SocketAddr::new(IpAddr::from(seen.addr), seen.port))
            }
            other => Err(format!("the answer came from {other:?}")),
        }
    }

    fn udp(&mut self, who: Who, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.hosts[who as usize].sockets.get_mut(handle)
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

/// A TCP connection between two hosts of the network.
pub struct Flow {
    client: (Who, SocketHandle),
    server: (Who, SocketHandle),
}

impl Host {
    fn new(who: Who, datapath: &Datapath) -> Host {
        let (queue, peer) = memory_port(1024).expect("a port in memory");
        let port = datapath
            .add_port(vec![Queue::Memory(queue)])
            .expect("one queue for one worker");
        let mut wire = Wire {
            peer,
            incoming: VecDeque::new(),
            outgoing: Vec::new(),
            is_uplink: who == Who::Outside,
        };
        let mut config = InterfaceConfig::new(EthernetAddress(who.mac().0).into());
        config.random_seed = who as u64 + 1;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let prefix = if who == Who::Outside { 24 } else { 16 };
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(who.address().into(), prefix);
            addresses.push(address).expect("room for one address");
        });
        if matches!(who, Who::A | Who::B) {
            let added = interface.routes_mut().add_default_ipv4_route(GATEWAY);
            added.expect("room for one route");
        }
        Host {
            port,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            next_port: 40_000,
        }
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
    tcp::Socket::new(buffer(), buffer())
}

fn udp_socket(port: u16) -> Result<udp::Socket<'static>, String> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).map_err(|error| error.to_string())?;
    Ok(socket)
}

fn instant(time: Duration) -> Instant {
    Instant::from_micros(time.as_micros() as i64)
}

/// A host's end of its wire to the switch, as a device of smoltcp.
struct Wire {
    peer: MemoryPeer,
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    /// The host's own stack is on this wire too, with the uplink's MAC and address.
    is_uplink: bool,
}

impl Wire {
    /// Takes what the switch has sent; how many frames wait.
    fn fetch(&mut self) -> usize {
        while let Some(frame) = self.peer.recv() {
            self.incoming.push_back(frame.bytes().to_vec());
        }
        self.incoming.len()
    }

    /// What the host's kernel would answer: ARP for its own address, and nothing else, since
    /// sockets keep it quiet about ports that are pontoon's.
    fn kernel_answers(&mut self, frame: &[u8]) {
        if let Some(answer) = self.is_uplink.then(|| arp_answer(frame)).flatten() {
            self.incoming.push_back(answer);
        }
    }
}

fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr: HOST,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let uplink = EthernetAddress(UPLINK_MAC.0);
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: uplink,
        source_protocol_addr: HOST,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let ethernet = EthernetRepr {
        src_addr: uplink,
        dst_addr: source_hardware_addr,
        ethertype: EthernetProtocol::Arp,
    };
    let mut answer = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut answer);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(answer)
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Received(frame), Sending(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        // The switch's side of the wire has room for as many, and what does not fit is lost.
        (self.outgoing.len() < 256).then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a>(&'a mut Wire);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.kernel_answers(&frame);
        self.0.outgoing.push(frame);
        result
    }
}
