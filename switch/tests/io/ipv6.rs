//! The data path's IPv6 between kernels that have it: the neighbour discovery on either side of the
//! gateway is Linux's own.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nat::Protocol;
use switch::config::{Bridge, Config, Endpoint, Network, Route, Uplink};
use switch::frame::MacAddr;
use switch::io::filter::{Part, UplinkFilter, local_only_filter, uplink_filter};
use switch::io::{PacketOptions, Queue, ReservedPorts, TapOptions, bind_udp, open_tap, reserve};
use switch::ipv6::link_local;
use switch::{NetworkId, PortId, Settings, Switch};

use crate::harness::*;

const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 6, 1]);
const CONTAINER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 6, 2]);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 6, 3]);
const ROUTER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 6, 4]);

const GATEWAY: &str = "fd06::1";
const CONTAINER: &str = "fd06::2";
/// The host's on its uplink.
const HOST: &str = "2001:db8:6::1";
/// Behind the router, on no link.
const FAR: &str = "2001:db8:66::9";

/// A container, a host with an uplink, and a router on its wire, with a switch between them.
struct Scene {
    container: Namespace,
    host: Namespace,
    router: Namespace,
    _switch: Switch,
    /// Silence on the wire.
    _held: (ReservedPorts, UdpSocket),
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Scene {
    fn new() -> Scene {
        let [container, host, router] = [(); 3].map(|()| Namespace::new());
        let container_side = host.veth("inside", &container, "eth0");
        let uplink_side = host.veth("uplink", &router, "far");
        let tap = host.run(|| open_tap("pontoon0", 1, TapOptions { persist: false }));
        for (namespace, name, mac) in [
            (&container, "eth0", CONTAINER_MAC),
            (&host, "pontoon0", GATEWAY_MAC),
            (&host, "uplink", UPLINK_MAC),
            (&router, "far", ROUTER_MAC),
        ] {
            // Its link-local address follows from the MAC when it comes up.
            namespace.ip(&format!("link set {name} down"));
            namespace.ip(&format!("link set {name} address {mac}"));
            namespace.ip(&format!("link set {name} up"));
        }

        let (switch, _) = Switch::start(Settings {
            workers: 1,
            ..Settings::default()
        })
        .unwrap();
        let held = host.run(|| {
            let ports = reserve(17, 61000..=61015);
            let filter = local_only_filter(&[uplink_side]);
            let published = bind_udp(None, 8080, &filter).unwrap();
            (ports, published)
        });
        switch
            .nat()
            .add_external_ports(Protocol::UDP, 61000..=61015);
        let options = PacketOptions {
            filter: Some(uplink_filter(
                &UplinkFilter {
                    tcp: vec![],
                    udp: vec![8080..=8080, 61000..=61015],
                    addresses: vec![ip(HOST)],
                    routed: vec![],
                    published: Default::default(),
                },
                Part::All,
            )),
            ..PacketOptions::default()
        };
        let uplink = host.open_packet(uplink_side, 1, options).remove(0);
        let queues = [
            Queue::Tap(tap.unwrap().remove(0)),
            host.packet_queue(container_side),
            Queue::Packet(uplink),
        ];
        let [host_port, inside, uplink] = queues.map(|queue| switch.add_port(vec![queue]).unwrap());
        switch.configure(config(host_port, inside, uplink));

        host.ip(&format!("addr add {GATEWAY}/64 dev pontoon0 nodad"));
        host.ip(&format!("addr add {HOST}/64 dev uplink nodad"));
        router.ip(&format!("addr add {FAR}/128 dev lo"));
        router.ip(&format!("route add {HOST}/128 dev far"));
        // With duplicate address detection, which nobody must spoil.
        container.ip(&format!("addr add {CONTAINER}/64 dev eth0"));
        container.ip(&format!("route add default via {GATEWAY}"));
        let scene = Scene {
            container,
            host,
            router,
            _switch: switch,
            _held: held,
        };
        for namespace in [&scene.container, &scene.host, &scene.router] {
            let settled = eventually(|| !namespace.tells("-6 addr").contains("tentative"));
            assert!(settled, "{}", namespace.tells("-6 addr"));
        }
        scene
    }
}

fn config(host_port: PortId, inside: PortId, uplink: PortId) -> Config {
    let network = NetworkId(1);
    let subnet = "fd06::/64".parse().unwrap();
    let local = vec![ip(GATEWAY), ip(HOST)];
    Config {
        networks: vec![Network {
            id: network,
            gateway_mac: GATEWAY_MAC,
            gateway_addresses: vec![ip(GATEWAY)],
            subnets: vec![subnet],
            host_port: Some(host_port),
            mtu: 1500,
            internal: false,
            names: false,
            clamp_mss: false,
            bridge: Bridge::default(),
        }],
        endpoints: vec![Endpoint {
            port: inside,
            network,
            mac: CONTAINER_MAC,
            addresses: vec![ip(CONTAINER)],
            guard: true,
            isolated: false,
        }],
        uplinks: vec![Uplink {
            port: uplink,
            newcomers: None,
            mac: UPLINK_MAC,
            mtu: 1500,
            clamp_mss: false,
        }],
        routes: vec![Route::by(
            "::/0".parse().unwrap(),
            uplink,
            Some(link_local(ROUTER_MAC).into()),
            ip(HOST),
        )],
        host_addresses: local.clone(),
        host_subnets: Vec::new(),
        rules: Vec::new(),
        nat: nat::Rules {
            masquerade: vec![nat::Masquerade {
                source: subnet,
                to: None,
            }],
            publish: vec![nat::Publish {
                id: 1,
                protocol: Protocol::UDP,
                host: None,
                ports: 8080..=8080,
                to: ip(CONTAINER),
                to_port: 80,
                allow: nat::Sources::default(),
            }],
            local,
            ..nat::Rules::default()
        },
        ..Config::default()
    }
}

impl Namespace {
    fn tells(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split_whitespace());
        let output = Command::new("ip").args(all).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn bind(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        let socket = self.run(|| UdpSocket::bind(address)).unwrap();
        let timeout = Some(Duration::from_secs(5));
        socket.set_read_timeout(timeout).unwrap();
        socket
    }
}

/// Asks, is answered, and returns whom the answering side saw ask.
fn ask(from: &UdpSocket, to: (&str, u16), server: &UdpSocket) -> SocketAddr {
    let to = SocketAddr::new(ip(to.0), to.1);
    let mut buffer = [0; 16];
    from.send_to(b"who am I?", to).unwrap();
    let (count, seen) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"who am I?");
    server.send_to(b"you", seen).unwrap();
    let (count, answered_by) = from.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..count], answered_by), (&b"you"[..], to));
    seen
}

// Conforms: IPV6-nd-gateway IPV6-nd-uplink IPV6-nat66 IPV6-publishing IPV6-host-port
#[test]
fn linux_finds_the_gateway_and_the_gateway_finds_linux() {
    needs_root!(tun);
    if !Path::new("/proc/net/if_inet6").exists() {
        eprintln!("skipped: this kernel has no IPv6");
        return;
    }
    let scene = Scene::new();
    let (container, router) = (&scene.container, &scene.router);
    let gateway = link_local(GATEWAY_MAC);
    let ping = |to: &str| container.exec(&format!("ping -6 -q -c 1 -W 5 {to}"));

    // The host answers behind the gateway, which answers for where it is.
    ping(GATEWAY);
    ping(&format!("{gateway}%eth0"));
    ping(HOST);
    let neighbors = container.tells("-6 neigh show dev eth0");
    for address in [GATEWAY, &gateway.to_string()] {
        let line = neighbors
            .lines()
            .find(|line| line.starts_with(&format!("{address} ")));
        let line = line.unwrap_or_else(|| panic!("no {address} in {neighbors}"));
        assert!(line.contains(&GATEWAY_MAC.to_string()), "{line}");
        assert!(line.contains("router"), "{line}");
    }

    // Out, by either of its addresses, and masqueraded.
    ping(FAR);
    let far = router.bind(ip(FAR), 53);
    let client = container.bind(Ipv6Addr::UNSPECIFIED, 0);
    for route in [GATEWAY, &gateway.to_string()] {
        container.ip(&format!("route replace default via {route} dev eth0"));
        let seen = ask(&client, (FAR, 53), &far);
        assert_eq!(seen.ip(), ip(HOST));
        assert!((61000..=61015).contains(&seen.port()), "{seen}");
    }

    // In, with the client's own address, and no word from the host's kernel.
    let server = container.bind(ip(CONTAINER), 80);
    let client = router.bind(ip(FAR), 0);
    let seen = ask(&client, (HOST, 8080), &server);
    assert_eq!(seen, client.local_addr().unwrap());
}
