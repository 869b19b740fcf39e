//! A small network for tests written by hand.
//!
//! ```text
//!   a  10.88.0.2 ──┐                                 ┌── outside 192.0.2.2
//!                  ├── switch ── uplink 192.0.2.1 ───┤
//!   b  10.88.0.3 ──┤                                 └── (the host's own stack: its ARP and ND)
//!   host 10.88.0.1 ┘
//! ```
//!
//! Everyone has IPv6 too; the outside host is a router there, known by its link-local address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv6Net;
use nat::{Protocol, Time};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::IpEndpoint;
use switch::config::NetworkId;
use switch::frame::MacAddr;
use switch::{Datapath, DropReason, Settings};

use super::{Faults, HostId, Seen, Simulation};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub const A: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);
/// The host's address on its uplink.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1);
pub const A6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2);
pub const B6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 3);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

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
    pub fn address(self) -> Ipv4Addr {
        match self {
            Who::A => A,
            Who::B => B,
            Who::Host => GATEWAY,
            Who::Outside => OUTSIDE,
        }
    }

    pub fn address6(self) -> Ipv6Addr {
        match self {
            Who::A => A6,
            Who::B => B6,
            Who::Host => GATEWAY6,
            Who::Outside => OUTSIDE6,
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
    simulation: Simulation,
    /// By [`Who`].
    hosts: [HostId; 4],
    next_ports: [u16; 4],
}

impl Network {
    /// Masquerades A and B to [`HOST`], and publishes nothing yet.
    pub fn new() -> Network {
        Network::with_limits(nat::Limits::default())
    }

    /// The same with limits of one's own.
    pub fn with_limits(limits: nat::Limits) -> Network {
        let settings = Settings {
            workers: 1,
            seed: 7,
            limits,
            ..Settings::default()
        };
        let mut simulation = Simulation::new(settings, 61_000..=61_127, HOST);
        let network = NetworkId(1);
        let subnet = "10.88.0.0/16".parse().expect("a subnet");
        let gateway = (GATEWAY_MAC, GATEWAY);
        let host = simulation.add_network(network, subnet, gateway, None);
        let [a, b] =
            [Who::A, Who::B].map(|who| simulation.add_container(network, who.mac(), who.address()));
        let outside = simulation.add_outside(Who::Outside.mac(), OUTSIDE, 24);
        simulation.route(Some(OUTSIDE), HOST);
        let masquerade = nat::Masquerade {
            source: subnet.into(),
            to: None,
        };
        simulation.config.nat.masquerade.push(masquerade);

        let of = |address| Ipv6Net::new(address, 64).expect("64 is a length");
        simulation.add_ipv6_gateway(host, of(GATEWAY6));
        simulation.add_ipv6_container(a, of(A6));
        simulation.add_ipv6_container(b, of(B6));
        simulation.add_ipv6_uplink(HOST6);
        simulation.give(outside, of(OUTSIDE6));
        simulation.give(outside, of(ROUTER));
        simulation.route_ipv6(Some(ROUTER), HOST6);
        simulation.configure();
        Network {
            simulation,
            hosts: [a, b, host, outside],
            next_ports: [40_000; 4],
        }
    }

    /// What the links do to frames from now on, the host port's excepted.
    pub fn set_faults(&mut self, faults: Faults) {
        self.simulation.set_faults(faults);
    }

    /// Publishes one port of the host on every IPv4 address of it; `id` as in [`nat::Publish`].
    pub fn publish(&mut self, id: u32, protocol: Protocol, port: u16, to: Who, to_port: u16) {
        self.publish_to(id, protocol, port, (to.address().into(), to_port));
    }

    /// The same on every IPv6 address.
    pub fn publish6(&mut self, id: u32, protocol: Protocol, port: u16, to: Who, to_port: u16) {
        self.publish_to(id, protocol, port, (to.address6().into(), to_port));
    }

    /// The same by address, whether a container has it or not.
    pub fn publish_to(&mut self, id: u32, protocol: Protocol, port: u16, to: (IpAddr, u16)) {
        let rules = &mut self.simulation.config.nat;
        rules.publish.push(nat::Publish {
            id,
            protocol,
            host: None,
            ports: port..=port,
            to: to.0,
            to_port: to.1,
            allow: nat::Sources::default(),
        });
        self.simulation.configure();
    }

    /// Withdraws what was published with `id`.
    pub fn unpublish(&mut self, id: u32) {
        let rules = &mut self.simulation.config.nat;
        rules.publish.retain(|rule| rule.id != id);
        self.simulation.configure();
    }

    pub fn datapath(&self) -> &Datapath {
        self.simulation.datapath()
    }

    /// The simulated time since the start.
    pub fn now(&self) -> Duration {
        self.simulation.now()
    }

    /// The same for the data path.
    pub fn time(&self) -> Time {
        self.simulation.time()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        let counters = self.datapath().counters();
        let row = counters.drops.iter().find(|(of, _)| *of == reason);
        row.expect("every reason is counted").1
    }

    /// The connections of the data path, as `original | reply`.
    pub fn connections(&self) -> Vec<String> {
        let connections = self.datapath().nat().connections(self.time());
        let tuples = connections.iter();
        tuples
            .map(|connection| format!("{} | {}", connection.original, connection.reply))
            .collect()
    }

    /// Sends a frame into the switch as `who`, whatever it is.
    pub fn inject(&mut self, who: Who, frame: &[u8]) {
        self.simulation.inject(self.hosts[who as usize], frame);
    }

    /// What passes at the port of `who` while `act` does its work, and whether the switch sent it.
    pub fn watch(&mut self, who: Who, act: impl FnOnce(&mut Network)) -> Vec<Seen> {
        let port = self.simulation.port(self.hosts[who as usize]);
        self.simulation.seen = Some(Vec::new());
        act(self);
        let mut seen = self.simulation.seen.take().unwrap_or_default();
        seen.retain(|seen| seen.port == port);
        seen
    }

    /// Lets the simulated time pass.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        self.run_until(time, |network| network.now() >= until);
    }

    /// Runs until `done`, jumping from event to event; false if it is not within `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Network) -> bool,
    ) -> bool {
        let end = self.now() + limit;
        loop {
            self.simulation.settle();
            if done(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            // What `done` did may have given a socket something to say at once.
            self.simulation.settle();
            self.simulation.advance(end);
        }
    }

    /// Sends an echo request each second until one is answered: smoltcp forgets an answer for whose
    /// receiver it must ask ARP or ND first.
    ///
    /// # Errors
    ///
    /// No answer within five seconds.
    pub fn ping(&mut self, from: Who, to: impl Into<IpAddr>) -> Result<(), String> {
        let to = to.into();
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket
            .bind(icmp::Endpoint::Ident(IDENT))
            .map_err(|error| format!("{error:?}"))?;
        let request = echo_request(to);
        let handle = self.sockets(from).add(socket);
        let mut answer = None;
        let mut next = self.now();
        self.run_until(Duration::from_secs(5), |network| {
            let now = network.now();
            let sockets = network.sockets(from);
            let socket = sockets.get_mut::<icmp::Socket>(handle);
            if let Ok((payload, source)) = socket.recv() {
                answer = Some((payload.to_vec(), IpAddr::from(source)));
            } else if now >= next {
                next = now + Duration::from_secs(1);
                // Full is lost, as everywhere.
                socket.send_slice(&request, to.into()).ok();
            }
            answer.is_some()
        });
        self.sockets(from).remove(handle);
        let (payload, source) =
            answer.ok_or_else(|| format!("{from:?} got no answer from {to}"))?;
        if source == to && is_echo_reply(to, &payload) {
            Ok(())
        } else {
            Err(format!("an answer from {source}: {payload:02x?}"))
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
        to: (impl Into<IpAddr>, u16),
        server: Who,
        server_port: u16,
    ) -> Result<Flow, String> {
        let mut listening = tcp_socket();
        listening
            .listen(server_port)
            .map_err(|error| error.to_string())?;
        let server_handle = self.sockets(server).add(listening);
        let client_handle = self.sockets(client).add(tcp_socket());
        let port = self.next_port(client);
        self.simulation
            .connect(self.hosts[client as usize], client_handle, to, port)
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
            self.sockets(who).remove(handle);
        }
    }

    fn tcp(&mut self, end: (Who, SocketHandle)) -> &mut tcp::Socket<'static> {
        self.sockets(end.0).get_mut(end.1)
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
        to: (impl Into<IpAddr>, u16),
        server: Who,
        server_port: u16,
    ) -> Result<SocketAddr, String> {
        let to = (to.0.into(), to.1);
        let client_port = self.next_port(client);
        let client_handle = self.sockets(client).add(udp_socket(client_port)?);
        let server_handle = self.sockets(server).add(udp_socket(server_port)?);
        let mut seen = None;
        let mut answered_by = None;
        let question = self
            .udp(client, client_handle)
            .send_slice(b"who am I?", IpEndpoint::from(to));
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
        self.sockets(client).remove(client_handle);
        self.sockets(server).remove(server_handle);
        question.map_err(|error| error.to_string())?;
        let seen = seen.ok_or("the question did not arrive")?;
        match answered_by {
            Some((address, port)) if (IpAddr::from(address), port) == to => {
                Ok(SocketAddr::new(IpAddr::from(seen.addr), seen.port))
            }
            other => Err(format!("the answer came from {other:?}")),
        }
    }

    fn udp(&mut self, who: Who, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets(who).get_mut(handle)
    }

    fn sockets(&mut self, who: Who) -> &mut SocketSet<'static> {
        self.simulation.sockets_mut(self.hosts[who as usize])
    }

    /// The next flow that `who` opens has the source port of its last one.
    pub fn reuse_port(&mut self, who: Who) {
        self.next_ports[who as usize] -= 1;
    }

    fn next_port(&mut self, who: Who) -> u16 {
        let port = &mut self.next_ports[who as usize];
        *port += 1;
        *port
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

const IDENT: u16 = 0x1234;
const ECHO: &[u8] = b"are you there?";

/// An echo request without a checksum, which the stack adds.
fn echo_request(to: IpAddr) -> Vec<u8> {
    let mut request = [&[8, 0, 0, 0, 0, 0, 0, 1], ECHO].concat();
    if to.is_ipv6() {
        request[0] = 128;
    }
    request[4..6].copy_from_slice(&IDENT.to_be_bytes());
    request
}

/// Whether a message that the stack has let pass answers it.
fn is_echo_reply(from: IpAddr, message: &[u8]) -> bool {
    let request = echo_request(from);
    let reply = if from.is_ipv6() { 129 } else { 0 };
    message.len() == request.len() && message[..2] == [reply, 0] && message[4..] == request[4..]
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
