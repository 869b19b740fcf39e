//! One network of each kind and another one, who listens in them, and how a cell is tried.
//!
//! Everybody listens at the same ports, joins the same groups, writes down what it hears and
//! answers with its name. So a probe that is answered tells by whom, and one that is not may have
//! been heard all the same, which the record shows.

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;

use pontoon_tests::has_ipv6;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::{
    ANY, ANY6, BEYOND, BEYOND6, Container, HOST, HOST_INNER, HOST6, HOST6_INNER, OUTSIDE, OUTSIDE6,
    Scene,
};
use pontoon_tests::traffic::{bind_udp, listen};
use serde_json::Value;

use super::attempt::Probe;
use super::table::{Family, Group, KINDS, Kind, Listener, Means, Target};

const HOST_NAME: &str = "host";
const WORLD_NAME: &str = "outside";
const OTHER: &str = "other";
/// Asked of the world, and known to it alone.
const WORLDS_NAME: &str = "www.example.org";

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, 3);
const LINK_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const LINK_GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What listeners have heard: who, and the number of the datagram or its attempt.
type Heard = Arc<Mutex<HashSet<(String, u64)>>>;

/// The networks and who is on them.
pub(crate) struct Scenery<'a> {
    scene: &'a Scene,
    networks: Vec<Network>,
    /// Names of all who listen.
    listeners: Vec<String>,
    pub(super) heard: Heard,
    pub(super) next: AtomicU64,
}

struct Network {
    number: u8,
    name: String,
    /// Tries what the table says; `None` in the other network.
    prober: Option<Container>,
    /// Listens, and publishes its ports where the network allows it.
    listener: Container,
    /// Index of the prober's interface.
    scope: u32,
    host_link_local: Option<Ipv6Addr>,
}

fn port(family: Family) -> u16 {
    match family {
        Family::V4 => 7004,
        Family::V6 => 7006,
    }
}

/// Where the world's far address answers: bound to it, so that answers come from there.
fn port_beyond(family: Family) -> u16 {
    port(family) + 10
}

/// A pair of addresses, the one of this family.
fn pick(family: Family, v4: IpAddr, v6: IpAddr) -> IpAddr {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

fn families() -> &'static [Family] {
    match has_ipv6() {
        true => &[Family::V4, Family::V6],
        false => &[Family::V4],
    }
}

impl Network {
    fn new(scene: &Scene, number: u8, name: &str, kind: Option<Kind>) -> Network {
        let mut network = vec!["network".to_owned(), "create".to_owned(), name.to_owned()];
        network.push(format!("--subnet=10.91.{number}.0/24"));
        network.push(format!("--dns={OUTSIDE}"));
        scene
            .outside
            .ip(&format!("route add 10.91.{number}.0/24 via {HOST}"));
        if has_ipv6() {
            let subnet = format!("2001:db8:91:{number}::/64");
            network.push(format!("--subnet={subnet}"));
            scene.outside.ip(&format!("route add {subnet} via {HOST6}"));
        }
        network.extend(kind.and_then(Kind::option).map(str::to_owned));
        let network: Vec<&str> = network.iter().map(String::as_str).collect();
        scene.pontoon(&network).success();

        let on = format!("--net={name}");
        let mut options = vec![on.clone()];
        if kind != Some(Kind::Internal) {
            for (published, inside) in families()
                .iter()
                .map(|&it| (publishes(number, it), port(it)))
            {
                options.push(format!("-p={published}:{inside}"));
                options.push(format!("-p={published}:{inside}/udp"));
            }
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let listener = scene.container(&listener_of(name), &options);
        let prober = kind.map(|_| scene.container(&format!("{name}-prober"), &[&on]));
        let mut network = Network {
            number,
            name: name.to_owned(),
            prober,
            listener,
            scope: 0,
            host_link_local: None,
        };
        network.prepare_prober();
        network.host_link_local = network.find_host_link_local(scene);
        network
    }

    /// Gives the prober default routes, as its own root could.
    fn prepare_prober(&mut self) {
        let Some(prober) = &self.prober else { return };
        for &family in families() {
            let gateway = self.gateway(family);
            prober
                .namespace
                .ip(&format!("route replace default via {gateway}"));
        }
        self.scope = index(&prober.namespace, "eth0");
    }

    fn gateway(&self, family: Family) -> IpAddr {
        let n = self.number;
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x91, u16::from(n), 0, 0, 0, 1);
        pick(family, Ipv4Addr::new(10, 91, n, 1).into(), v6.into())
    }

    /// The address of its listener.
    fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.listener.address,
            Family::V6 => self.listener.ipv6(),
        }
    }

    /// The host's interface in this network: its index, and its addresses.
    fn host_interface(&self, scene: &Scene) -> (u32, Vec<IpAddr>) {
        let links: Value = serde_json::from_str(&scene.host.ip("-j addr show")).expect("JSON");
        for link in links.as_array().expect("a list of links") {
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            let addresses: Vec<IpAddr> = addresses
                .filter_map(|it| it["local"].as_str()?.parse().ok())
                .collect();
            if addresses.contains(&self.gateway(Family::V4)) {
                let index = link["ifindex"].as_u64().expect("an index");
                return (u32::try_from(index).expect("a small one"), addresses);
            }
        }
        panic!("no interface of the host has {}", self.gateway(Family::V4));
    }

    fn find_host_link_local(&self, scene: &Scene) -> Option<Ipv6Addr> {
        let (_, addresses) = self.host_interface(scene);
        addresses.into_iter().find_map(|address| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
            _ => None,
        })
    }

    /// A prober's destination for many.
    fn group(&self, group: Group, family: Family) -> SocketAddr {
        let to_v6 = |address, scope| SocketAddrV6::new(address, port(family), 0, scope).into();
        let v4: Ipv4Addr = match (group, family) {
            (Group::Link, Family::V6) => return to_v6(LINK_GROUP6, self.scope),
            (Group::Joined, Family::V6) => return to_v6(GROUP6, self.scope),
            (Group::Broadcast, _) => Ipv4Addr::BROADCAST,
            (Group::SubnetBroadcast, _) => Ipv4Addr::new(10, 91, self.number, 255),
            (Group::Link, _) => LINK_GROUP,
            (Group::Joined, _) => GROUP,
        };
        (v4, port(family)).into()
    }
}

fn listener_of(network: &str) -> String {
    format!("{network}-listener")
}

/// The port at which the listener of a network is published.
fn publishes(number: u8, family: Family) -> u16 {
    port(family) + 1000 + 10 * u16::from(number)
}

fn index(namespace: &Namespace, interface: &str) -> u32 {
    let text = namespace.sh(&format!("cat /sys/class/net/{interface}/ifindex"));
    text.trim().parse().expect("an index")
}

impl<'a> Scenery<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Scenery<'a> {
        let mut networks: Vec<Network> = (0..)
            .zip(KINDS)
            .map(|(n, kind)| {
                let name = format!("{kind:?}").to_lowercase();
                Network::new(scene, n, &name, Some(kind))
            })
            .collect();
        networks.push(Network::new(scene, 9, OTHER, None));
        let mut scenery = Scenery {
            scene,
            networks,
            listeners: Vec::new(),
            heard: Heard::default(),
            next: AtomicU64::new(1),
        };
        scenery.listen_everywhere();
        serve_names(&scene.outside);
        scenery
    }

    fn listen_everywhere(&mut self) {
        let mut listeners = vec![HOST_NAME.to_owned(), WORLD_NAME.to_owned()];
        let on_host = self.networks.iter().map(|it| it.host_interface(self.scene));
        let on_host: Vec<_> = on_host
            .zip(&self.networks)
            .map(|((index, _), network)| (network.gateway(Family::V4), index))
            .collect();
        self.listen(&self.scene.host, HOST_NAME, &on_host);
        let outside = &self.scene.outside;
        self.listen(outside, WORLD_NAME, &[(OUTSIDE, index(outside, "eth0"))]);
        for &family in families() {
            let beyond = pick(family, BEYOND, BEYOND6);
            self.serve(outside, WORLD_NAME, (beyond, port_beyond(family)));
        }
        for network in &self.networks {
            let name = listener_of(&network.name);
            let container = &network.listener;
            let interface = (container.address, index(&container.namespace, "eth0"));
            self.listen(&container.namespace, &name, &[interface]);
            listeners.push(name);
        }
        self.listeners = listeners;
    }

    /// Listens in a namespace for the rest of the test; `interfaces` are those on which groups are
    /// joined, by address and index.
    fn listen(&self, namespace: &Namespace, name: &str, interfaces: &[(IpAddr, u32)]) {
        for &family in families() {
            let any = (pick(family, ANY, ANY6), port(family));
            let socket = self.serve(namespace, name, any);
            for &(address, index) in interfaces {
                let joined = match (family, address) {
                    (Family::V4, IpAddr::V4(address)) => socket
                        .join_multicast_v4(&LINK_GROUP, &address)
                        .and_then(|()| socket.join_multicast_v4(&GROUP, &address)),
                    _ => socket.join_multicast_v6(&GROUP6, index),
                };
                joined.unwrap_or_else(|error| panic!("{name} joins on {address}: {error}"));
            }
        }
    }

    /// Answers at one address by TCP and UDP; returns the socket of UDP.
    fn serve(&self, namespace: &Namespace, name: &str, at: (IpAddr, u16)) -> UdpSocket {
        let socket = bind_udp(namespace, at);
        socket.set_read_timeout(None).expect("no timeout");
        let second = socket.try_clone().expect("a second handle on a socket");
        let (own, heard) = (name.to_owned(), self.heard.clone());
        thread::spawn(move || answer_datagrams(&second, &own, &heard));
        let listener = listen(namespace, at);
        listener.set_nonblocking(false).expect("it can block");
        let own = name.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                stream.and_then(|mut it| it.write_all(own.as_bytes())).ok();
            }
        });
        socket
    }

    /// The probes of one cell: each means that could reach the target, expected or not.
    pub(crate) fn probes(
        &self,
        target: Target,
        kind: Kind,
        family: Family,
        expected: &[Means],
    ) -> Vec<Probe<'_>> {
        let own = self.network(kind);
        let other = self.networks.last().expect("the other one");
        let prober = &own.prober.as_ref().expect("each kind has one").namespace;
        let unicast = |to: IpAddr, port, server: &str| {
            let scope = if is_link_local(to) { own.scope } else { 0 };
            let to = match to {
                IpAddr::V4(_) => (to, port).into(),
                IpAddr::V6(to) => SocketAddrV6::new(to, port, 0, scope).into(),
            };
            self.at_ports(prober, to, server, expected)
        };
        let at = |to, server: &str| unicast(to, port(family), server);
        let published = |to, by: &Network| {
            let mut probes = unicast(to, publishes(by.number, family), &listener_of(&by.name));
            probes.retain(|probe| probe.means != Means::Ping);
            probes
        };
        let host = pick(family, HOST, HOST6);
        let name = |name: &str| self.asks(prober, own.gateway(family), name, expected);
        match target {
            Target::Gateway => at(own.gateway(family), HOST_NAME),
            Target::HostOnUplink => at(host, HOST_NAME),
            Target::HostOnNoWire => at(pick(family, HOST_INNER, HOST6_INNER), HOST_NAME),
            Target::GatewayLinkLocal => {
                let address = own
                    .host_link_local
                    .expect("the host has a link-local address");
                at(address.into(), HOST_NAME)
            }
            Target::Neighbour => at(own.address(family), &listener_of(&own.name)),
            Target::OtherContainers => {
                let others = self.networks.iter().filter(|it| it.name != own.name);
                let probes = others.map(|it| at(it.address(family), &listener_of(&it.name)));
                probes.flatten().collect()
            }
            Target::OtherGateway => at(other.gateway(family), HOST_NAME),
            Target::PublishedAtGateway => published(own.gateway(family), other),
            Target::PublishedAtHost => published(host, other),
            Target::PublishedAtOtherGateway => published(other.gateway(family), other),
            Target::PublishedByNeighbour => published(host, own),
            Target::WorldOnWire => at(pick(family, OUTSIDE, OUTSIDE6), WORLD_NAME),
            Target::WorldBeyond => {
                let to = pick(family, BEYOND, BEYOND6);
                unicast(to, port_beyond(family), WORLD_NAME)
            }
            Target::NameOfNeighbour => name(&listener_of(&own.name)),
            Target::NameOfOther => name(&listener_of(OTHER)),
            Target::NameOfWorld => name(WORLDS_NAME),
            Target::Many(group, listener) => vec![Probe {
                from: prober,
                to: own.group(group, family),
                means: Means::Udp,
                name: String::new(),
                hearers: self.hearers(own, listener),
                expected: !expected.is_empty(),
            }],
            Target::FromHost | Target::FromWorld => {
                let to = (own.address(family), port(family)).into();
                let from = match target {
                    Target::FromHost => &self.scene.host,
                    _ => &self.scene.outside,
                };
                self.at_ports(from, to, &listener_of(&own.name), expected)
            }
            Target::FromWorldPublished => {
                let to = (host, publishes(own.number, family)).into();
                let listener = listener_of(&own.name);
                let mut probes = self.at_ports(&self.scene.outside, to, &listener, expected);
                probes.retain(|probe| probe.means != Means::Ping);
                probes
            }
        }
    }

    fn network(&self, kind: Kind) -> &Network {
        let at = KINDS.iter().position(|&it| it == kind);
        &self.networks[at.expect("one of all kinds")]
    }

    fn hearers(&self, own: &Network, listener: Listener) -> Vec<String> {
        let neighbour = listener_of(&own.name);
        match listener {
            Listener::Host => vec![HOST_NAME.to_owned()],
            Listener::Neighbour => vec![neighbour],
            Listener::Others => {
                let all = self.listeners.iter();
                let others = all.filter(|&it| it != HOST_NAME && *it != neighbour);
                others.cloned().collect()
            }
        }
    }

    /// Ping, TCP and UDP. Of what should reach nobody, everybody is asked whether it came.
    fn at_ports<'b>(
        &'b self,
        from: &'b Namespace,
        to: SocketAddr,
        server: &str,
        expected: &[Means],
    ) -> Vec<Probe<'b>> {
        let probe = |means| {
            let expected = expected.contains(&means);
            let hearers = match expected {
                true => vec![server.to_owned()],
                false => self.listeners.clone(),
            };
            Probe {
                from,
                to,
                means,
                name: String::new(),
                hearers,
                expected,
            }
        };
        [Means::Ping, Means::Tcp, Means::Udp].map(probe).into()
    }

    fn asks<'b>(
        &'b self,
        from: &'b Namespace,
        server: IpAddr,
        name: &str,
        expected: &[Means],
    ) -> Vec<Probe<'b>> {
        vec![Probe {
            from,
            to: (server, 53).into(),
            means: Means::Name,
            name: name.to_owned(),
            hearers: Vec::new(),
            expected: expected.contains(&Means::Name),
        }]
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn answer_datagrams(socket: &UdpSocket, own: &str, heard: &Heard) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Ok(token) = buffer[..length].try_into().map(u64::from_be_bytes) {
            let mut heard = heard.lock().expect("no panic");
            heard.insert((own.to_owned(), token));
        }
        socket.send_to(own.as_bytes(), from).ok();
    }
}

/// A server of the world, which knows one name.
fn serve_names(outside: &Namespace) {
    let socket = bind_udp(outside, (OUTSIDE, 53));
    socket.set_read_timeout(None).expect("no timeout");
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let end = buffer[12..length].iter().position(|&it| it == 0);
            let end = 12 + end.expect("the end of a name") + 5;
            let is_known = buffer[12..end].starts_with(b"\x03www\x07example\x03org\0\0\x01");
            let mut reply = buffer[..end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, if is_known { 0x80 } else { 0x83 }]);
            reply[6..12].copy_from_slice(&[0, is_known.into(), 0, 0, 0, 0]);
            if is_known {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            }
            socket.send_to(&reply, from).ok();
        }
    });
}
