//! IPv6 all the way: between containers, out by the uplink, in by published ports, and none of it
//! where nobody asked for it.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pontoon_tests::process::run;
use pontoon_tests::scene::{
    ANY, ANY6, BEYOND6, Container, HOST, HOST6, HOST6_INNER, HOST6_SECOND, LOOPBACK, LOOPBACK6,
    OUTSIDE, OUTSIDE6, PORT_KINDS, Scene, addresses_of,
};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen, ping};
use pontoon_tests::wire::Witness;
use pontoon_tests::{eventually, has_ipv6_or_skip};

fn scene(port_kind: &'static str) -> Option<Scene> {
    if !has_ipv6_or_skip() {
        return None;
    }
    Scene::with_port_kind(port_kind)
}

/// The host's IPv6 address on a network.
fn gateway(scene: &Scene, network: &str) -> IpAddr {
    let network = scene.json(&["network", "inspect", network]);
    let gateways = network["gateways"].as_array().expect("a list of gateways");
    let mut gateways = gateways.iter().filter_map(|it| it.as_str()?.parse().ok());
    gateways.find(IpAddr::is_ipv6).expect("an IPv6 gateway")
}

fn neighbours_talk(port_kind: &'static str) {
    let Some(scene) = scene(port_kind) else {
        return;
    };
    let (a, b) = (scene.container("a", &[]), scene.container("b", &[]));
    // At once: no second of duplicate address detection.
    let listener = listen(&b.namespace, (ANY6, 80));
    let mut flow = Flow::open(&a.namespace, (b.ipv6(), 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), a.ipv6(), "nothing is translated");
    flow.transfer(10 << 20).unwrap();
    let server = bind_udp(&b.namespace, (ANY6, 53));
    let mut datagrams = Datagrams::open(&a.namespace, (b.ipv6(), 53), server);
    assert_eq!(datagrams.exchange(1000).unwrap().ip(), a.ipv6());
    ping(&a.namespace, b.ipv6()).success();

    // With the host, by the gateway's address.
    let gateway = gateway(&scene, "bridge");
    ping(&a.namespace, gateway).success();
    ping(&scene.host, a.ipv6()).success();
    let mut flow = Flow::open(&scene.host, (b.ipv6(), 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), gateway);
    flow.transfer(5 << 20).unwrap();
    let listener = listen(&scene.host, (ANY6, 7000));
    for address in [gateway, HOST6, HOST6_INNER] {
        let mut flow = Flow::open(&b.namespace, (address, 7000), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), b.ipv6());
        flow.exchange().unwrap();
    }
    // The last digits are those of the IPv4 address.
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (a.address, a.ipv6()) else {
        panic!("{:?}", a.addresses);
    };
    assert_eq!(u16::from(v4.octets()[3]), v6.segments()[7]);
    assert_eq!(v6.segments()[0] >> 8, 0xfd, "RFC 4193");
}

// Conforms: IPV6-between-containers IPV6-host-to-container IPV6-dual-stack-addresses
// Feature: dual-stack
#[test]
fn taps_talk() {
    neighbours_talk(PORT_KINDS[0]);
}

// Conforms: IPV6-between-containers IPV6-host-to-container
// Feature: dual-stack
#[test]
fn veths_talk() {
    neighbours_talk(PORT_KINDS[1]);
}

fn the_world_is_reached(port_kind: &'static str) {
    let Some(scene) = scene(port_kind) else {
        return;
    };
    let (a, b) = (scene.container("a", &[]), scene.container("b", &[]));
    let witness = Witness::start(&scene.outside, "eth0", "ip6 and net fd00::/8");
    for to in [OUTSIDE6, BEYOND6] {
        let listener = listen(&scene.outside, (to, 80));
        for container in [&a, &b] {
            let mut flow = Flow::open(&container.namespace, (to, 80), &listener).unwrap();
            assert_eq!(flow.seen_by_server(), HOST6, "masqueraded");
            flow.exchange().unwrap();
            flow.transfer(20 << 20).unwrap();
        }
        let server = bind_udp(&scene.outside, (to, 53));
        let mut datagrams = Datagrams::open(&a.namespace, (to, 53), server);
        assert_eq!(datagrams.exchange(1000).unwrap().ip(), HOST6);
        ping(&a.namespace, to).success();
    }
    assert_eq!(
        witness.stop(),
        Vec::<String>::new(),
        "no inner address on the wire"
    );
    let told = scene.pontoon(&["conntrack"]).success();
    let brackets = format!("-> [{BEYOND6}]:80");
    assert!(told.contains(&brackets), "{told}");
    let told = scene.pontoon(&["nat"]).success();
    assert!(told.contains(&HOST6.to_string()), "{told}");
}

// Conforms: IPV6-masquerade IPV6-link-local-next-hop IPV6-source-address RFC4787-2
// Feature: dual-stack masquerade
#[test]
fn a_tap_reaches_the_world() {
    the_world_is_reached(PORT_KINDS[0]);
}

// Conforms: IPV6-masquerade IPV6-link-local-next-hop IPV6-source-address
#[test]
fn a_veth_reaches_the_world() {
    the_world_is_reached(PORT_KINDS[1]);
}

fn published_ports_are_reached(port_kind: &'static str) {
    let Some(scene) = scene(port_kind) else {
        return;
    };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let other = scene.container("other", &[]);
    let listener = listen(&web.namespace, (ANY6, 80));
    let gateway = gateway(&scene, "bridge");
    let own = [LOOPBACK6, HOST6, HOST6_SECOND, HOST6_INNER, gateway];
    let wire = own.get(1..3).expect("two addresses");

    for &address in wire {
        let mut flow = Flow::open(&scene.outside, (address, 8080), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), OUTSIDE6, "the client's own address");
        flow.exchange().unwrap();
        flow.transfer(10 << 20).unwrap();
        let server = bind_udp(&web.namespace, (ANY6, 53));
        let mut datagrams = Datagrams::open(&scene.outside, (address, 5353), server);
        assert_eq!(datagrams.exchange(500).unwrap().ip(), OUTSIDE6);
    }
    for address in own {
        let mut flow = Flow::open(&scene.host, (address, 8080), &listener)
            .unwrap_or_else(|error| panic!("{address} from the host: {error}"));
        assert_eq!(flow.seen_by_server(), gateway, "the relay, from {address}");
        flow.transfer(5 << 20).unwrap();
        let server = bind_udp(&web.namespace, (ANY6, 53));
        let mut datagrams = Datagrams::open(&scene.host, (address, 5353), server);
        datagrams
            .exchange(1000)
            .unwrap_or_else(|error| panic!("{address} from the host: {error}"));
    }
    // Hairpin: through the host's addresses, from another container and from itself.
    for from in [&other, &web] {
        for address in [HOST6, HOST6_SECOND, HOST6_INNER] {
            let mut flow = Flow::open(&from.namespace, (address, 8080), &listener)
                .unwrap_or_else(|error| panic!("{address} from a container: {error}"));
            assert_eq!(flow.seen_by_server(), address, "RFC 4787 REQ-9");
            flow.transfer(5 << 20).unwrap();
        }
    }
    // The same port, by IPv4, leads to the IPv4 address: one listener hears both.
    for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
        let flow = Flow::open(from, (to, 8080), &listener).unwrap();
        let local = flow.server.local_addr().unwrap().ip().to_canonical();
        assert_eq!(local, web.address, "by {to}");
    }
    let rules = scene.json(&["nat"]);
    assert_eq!(
        rules["publish"].as_array().map(Vec::len),
        Some(2),
        "a publication is one rule, whatever the families: {rules}"
    );
    let told = scene.pontoon(&["nat"]).success();
    let both = format!("{}:80, [{}]:80", web.address, web.ipv6());
    assert!(told.contains(&both), "{told}");
}

// Conforms: IPV6-publish-both-families IPV6-publish-wire IPV6-publish-loopback IPV6-hairpin
// Conforms: MOBY-access-published-port-from-host MOBY-access-published-port-from-remote-host
// Feature: dual-stack publish-paths podman-15140 podman-26092
#[test]
fn published_ports_of_a_tap_are_reached() {
    published_ports_are_reached(PORT_KINDS[0]);
}

// Conforms: IPV6-publish-both-families IPV6-publish-wire IPV6-publish-loopback IPV6-hairpin
// Feature: dual-stack publish-paths podman-15140 podman-26092
#[test]
fn published_ports_of_a_veth_are_reached() {
    published_ports_are_reached(PORT_KINDS[1]);
}

// Conforms: IPV6-publish-host-address IPV6-publish-loopback
#[test]
fn a_published_address_is_the_only_one() {
    let Some(scene) = scene(PORT_KINDS[0]) else {
        return;
    };
    let loopback = format!("[{LOOPBACK6}]:8081:80");
    let own = format!("[{HOST6}]:8082:80");
    let options = ["-p", &loopback, "-p", &own, "-p", "[::]:8083:80"];
    let options = [&options[..], &["-p", "0.0.0.0:8084:80"]].concat();
    let web = scene.container("web", &options);
    let listener = listen(&web.namespace, (ANY6, 80));
    let reached = [
        (&scene.host, LOOPBACK6, 8081),
        (&scene.host, HOST6, 8082),
        (&scene.outside, HOST6, 8082),
        (&scene.host, LOOPBACK6, 8083),
        (&scene.outside, HOST6_SECOND, 8083),
        (&scene.host, LOOPBACK, 8084),
        (&scene.outside, HOST, 8084),
    ];
    for (from, address, port) in reached {
        Flow::open(from, (address, port), &listener)
            .unwrap_or_else(|error| panic!("{address} {port}: {error}"))
            .exchange()
            .unwrap();
    }
    let refused = [
        (&scene.outside, HOST6, 8081),
        (&scene.host, HOST6, 8081),
        (&scene.outside, HOST6_SECOND, 8082),
        (&scene.host, LOOPBACK6, 8082),
        (&scene.outside, HOST, 8083),
        (&scene.host, LOOPBACK, 8083),
        (&scene.outside, HOST6, 8084),
        (&scene.host, LOOPBACK6, 8084),
    ];
    for (from, address, port) in refused {
        let error = dial(from, (address, port)).expect_err("published elsewhere");
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{address} {port}: {error}"
        );
    }
    let ports = scene.pontoon(&["ps"]).success();
    for shown in ["[::1]:8081->80/tcp", &format!("[{HOST6}]:8082->80/tcp")] {
        assert!(ports.contains(shown), "no {shown} in {ports}");
    }
    // All of it goes when it is withdrawn.
    scene.pontoon(&["unpublish", "web", "-p", &own]).success();
    let error = dial(&scene.outside, (HOST6, 8082)).expect_err("withdrawn");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

/// Programs as people use them.
// Feature: dual-stack
#[test]
fn curl_and_redis_by_ipv6() {
    let Some(scene) = scene(PORT_KINDS[0]) else {
        return;
    };
    scene.run_redis();
    let places = [
        (&scene.host, LOOPBACK6),
        (&scene.host, HOST6),
        (&scene.outside, HOST6),
    ];
    for (from, address) in places {
        eventually("redis answers", Duration::from_secs(10), || {
            let address = address.to_string();
            let pong =
                run(from
                    .command("timeout")
                    .args(["5", "redis-cli", "-h", &address, "ping"]));
            match pong.stdout.trim() {
                "PONG" => Ok(()),
                _ => Err(pong.to_string()),
            }
        });
    }
    // Not http.server's main, which asks the name service who it is.
    let server = "import http.server, socketserver\n\
                  socketserver.TCPServer.address_family = 10\n\
                  handler = http.server.SimpleHTTPRequestHandler\n\
                  socketserver.TCPServer(('::', 80), handler).serve_forever()";
    scene.run_detached("web", &["-p", "8080:80"], &["python3", "-c", server]);
    for (from, address) in places {
        let url = format!("http://[{address}]:8080/");
        eventually("the web server answers", Duration::from_secs(10), || {
            let page = run(from.command("curl").args(["-gsS", "-m", "5", &url]));
            match page.status.success() && page.stdout.contains("<html") {
                true => Ok(()),
                false => Err(page.to_string()),
            }
        });
    }
}

fn a_restart_keeps_connections(port_kind: &'static str) {
    let Some(mut scene) = scene(port_kind) else {
        return;
    };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    let listener = listen(&a.namespace, (ANY6, 80));
    let mut bridged = Flow::open(&b.namespace, (a.ipv6(), 80), &listener).unwrap();
    let mut published = Flow::open(&scene.outside, (HOST6, 8080), &listener).unwrap();
    let network = scene.json(&["network", "inspect", "bridge"]);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        bridged.exchange().unwrap();
        published.exchange().unwrap();
        // A delayed acknowledgement that found no daemon would be reset by the host's kernel.
        std::thread::sleep(Duration::from_millis(100));
        scene.end_daemon(signal);
        scene.start_daemon();
        bridged.exchange().expect("the bridged flow goes on");
        published.exchange().expect("the published flow goes on");
    }
    let now = scene.json(&["network", "inspect", "bridge"]);
    assert_eq!(now["subnets"], network["subnets"]);
    assert_eq!(addresses_of(&scene.json(&["inspect", "a"])), a.addresses);
    // The daemon's own prefix stays too.
    let c = scene.container("c", &[]);
    ping(&c.namespace, a.ipv6()).success();
    scene.pontoon(&["network", "create", "later"]).success();
    let later = gateway(&scene, "later").to_string();
    let prefix = |address: &str| address.split(':').take(3).collect::<Vec<_>>().join(":");
    assert_eq!(prefix(&later), prefix(&a.ipv6().to_string()));
    let beyond = listen(&scene.outside, (BEYOND6, 80));
    Flow::open(&a.namespace, (BEYOND6, 80), &beyond)
        .unwrap()
        .exchange()
        .unwrap();
}

// Conforms: IPV6-restart
// Feature: restart
#[test]
fn a_restart_keeps_connections_of_a_tap() {
    a_restart_keeps_connections(PORT_KINDS[0]);
}

// Conforms: IPV6-restart
// Feature: restart
#[test]
fn a_restart_keeps_connections_of_a_veth() {
    a_restart_keeps_connections(PORT_KINDS[1]);
}

/// What IPv6 the kernel has on an interface of a container.
fn ipv6_of(container: &Container) -> String {
    container.namespace.ip("-6 -o addr show dev eth0")
}

fn sysctl(container: &Container, name: &str) -> String {
    let path = format!("cat /proc/sys/net/ipv6/conf/eth0/{name}");
    container.namespace.sh(&path).trim().to_owned()
}

// Conforms: CVE-2024-32473 IPV6-off
#[test]
fn a_network_without_ipv6_has_none_at_all() {
    for port_kind in PORT_KINDS {
        let Some(scene) = scene(port_kind) else {
            return;
        };
        let create = ["network", "create", "plain", "--ipv6=false"];
        scene.pontoon(&create).success();
        let web = scene.container("web", &["--net", "plain", "-p", "8080:80"]);
        assert_eq!(web.addresses, [web.address]);
        let witness = scene.container("witness", &["--net", "plain"]);
        let witness = Witness::start(&witness.namespace, "eth0", "ip6");
        assert_eq!(ipv6_of(&web), "", "not even a link-local address");
        assert_eq!(sysctl(&web, "disable_ipv6"), "1");
        let interface = scene.json(&["network", "inspect", "plain"])["host_interface"].clone();
        let interface = interface.as_str().expect("a name");
        let on_host = scene.host.ip(&format!("-6 -o addr show dev {interface}"));
        assert_eq!(on_host, "");

        // Published all the same: by IPv4 everywhere, by IPv6 on loopback through the relay.
        let listener = listen(&web.namespace, (ANY, 80));
        for (from, to) in [
            (&scene.outside, HOST),
            (&scene.host, LOOPBACK),
            (&scene.host, LOOPBACK6),
        ] {
            let mut flow = Flow::open(from, (to, 8080), &listener).unwrap();
            flow.exchange().unwrap();
        }
        // A wire that asks by IPv6 hears at once to ask otherwise.
        for from in [&scene.outside, &scene.host] {
            let error = dial(from, (HOST6, 8080)).expect_err("no IPv6 there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
        assert_eq!(witness.stop(), Vec::<String>::new(), "no IPv6 on it");
    }
}

// Conforms: CVE-2020-13401
// Feature: spoof-guard
#[test]
fn a_container_believes_no_router() {
    let Some(scene) = scene(PORT_KINDS[0]) else {
        return;
    };
    let a = scene.container("a", &[]);
    let off = ["accept_ra", "autoconf"].map(|name| sysctl(&a, name));
    assert_eq!(off, ["0", "0"]);
    let route = a.namespace.ip("-6 route show default");
    let via = format!("default via {} dev eth0", gateway(&scene, "bridge"));
    assert!(route.starts_with(&via), "{route}");
}

// Conforms: IPV6-only
#[test]
fn a_network_of_ipv6_alone() {
    for port_kind in PORT_KINDS {
        let Some(scene) = scene(port_kind) else {
            return;
        };
        let subnet = ["--subnet", "fd00:77:1::/64", "--gateway", "fd00:77:1::ff"];
        let create = [&["network", "create", "six", "--ipv4=false"], &subnet[..]].concat();
        scene.pontoon(&create).success();
        let options = ["--net", "six", "-p", "8080:80"];
        let a = scene.container("a", &options);
        assert_eq!(a.addresses, [a.ipv6()]);
        let wanted = ["--net", "six", "--ip6", "fd00:77:1::abcd"];
        let b = scene.container("b", &wanted);
        assert_eq!(b.ipv6().to_string(), "fd00:77:1::abcd");
        assert_ne!(a.namespace.mac("eth0"), b.namespace.mac("eth0"));
        ping(&a.namespace, b.ipv6()).success();
        let beyond = listen(&scene.outside, (BEYOND6, 80));
        let mut flow = Flow::open(&b.namespace, (BEYOND6, 80), &beyond).unwrap();
        flow.exchange().unwrap();
        let listener = listen(&a.namespace, (ANY6, 80));
        for (from, to) in [
            (&scene.outside, HOST6),
            (&scene.host, LOOPBACK6),
            (&scene.host, LOOPBACK),
            (&b.namespace, HOST6),
        ] {
            let mut flow = Flow::open(from, (to, 8080), &listener).unwrap();
            flow.exchange().unwrap();
        }
        let error = dial(&scene.outside, (HOST, 8080)).expect_err("no IPv4 there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
}

// Conforms: IPV6-static-addresses
// Feature: pools
#[test]
fn subnets_and_addresses_as_they_are_asked_for() {
    let Some(scene) = scene(PORT_KINDS[0]) else {
        return;
    };
    let create = |arguments: &str| {
        let words = format!("network create {arguments}");
        scene.pontoon(&words.split(' ').collect::<Vec<_>>())
    };
    let two = "blue --subnet 10.99.0.0/24 --subnet fd00:99::/64 --gateway fd00:99::7";
    create(two).success();
    let blue = scene.json(&["network", "inspect", "blue"]);
    assert_eq!(
        blue["gateways"],
        serde_json::json!(["10.99.0.1", "fd00:99::7"])
    );
    let attach = |name: &str, ips: &[&str]| {
        let mut options = vec!["--net", "blue"];
        options.extend(ips.iter().flat_map(|ip| ["--ip", *ip]));
        scene.container(name, &options)
    };
    let text = |container: &Container| -> Vec<String> {
        container.addresses.iter().map(IpAddr::to_string).collect()
    };
    let both = attach("both", &["fd00:99::50", "10.99.0.50"]);
    assert_eq!(text(&both), ["10.99.0.50", "fd00:99::50"]);
    let four = attach("four", &["10.99.0.16"]);
    assert_eq!(text(&four), ["10.99.0.16", "fd00:99::10"]);
    ping(&both.namespace, four.ipv6()).success();

    for (wrong, why) in [
        ("x --ipv4=false --ipv6=false", "needs IPv6"),
        ("x --ipv6=false --subnet fd00:5::/64", "contradicts"),
        ("x --subnet fd00:99:0:0:8000::/65", "another network"),
        ("x --subnet 2001:db8:1::/64", "the host reaches"),
        ("x --subnet fe80::/64", "not one that hosts"),
        ("x --subnet fd00:5::/127", "too small"),
        ("x --ipv6 --mtu 1200", "at least 1280"),
        ("x --gateway fd00:5::1", "in no subnet"),
    ] {
        let error = create(wrong).failure();
        assert!(error.contains(why), "{wrong}: {error}");
    }
    // Too small for IPv6, and nobody asked for it.
    create("narrow --mtu 1200").success();
    let narrow = scene.json(&["network", "inspect", "narrow"]);
    assert_eq!(narrow["subnets"].as_array().map(Vec::len), Some(1));
}

// Conforms: IPV6-no-route
#[test]
fn without_a_global_address_there_is_no_way_out() {
    let Some(scene) = scene(PORT_KINDS[0]) else {
        return;
    };
    let a = scene.container("a", &[]);
    let beyond = listen(&scene.outside, (BEYOND6, 80));
    Flow::open(&a.namespace, (BEYOND6, 80), &beyond).unwrap();
    scene.host.ip("-6 addr flush dev eth0 scope global");
    eventually("the gateway says so", Duration::from_secs(5), || {
        let start = Instant::now();
        match dial(&a.namespace, (BEYOND6, 80)) {
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => {
                assert!(start.elapsed() < Duration::from_secs(1), "at once");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("it is reached".to_owned()),
        }
    });
    // It comes back with the address, and IPv4 had nothing of it.
    let ipv4 = listen(&scene.outside, (OUTSIDE, 80));
    Flow::open(&a.namespace, (OUTSIDE, 80), &ipv4).unwrap();
    scene
        .host
        .ip(&format!("addr add {HOST6}/64 dev eth0 nodad"));
    eventually("the way is back", Duration::from_secs(5), || {
        let flow = Flow::open(&a.namespace, (BEYOND6, 80), &beyond);
        flow.map(drop).map_err(|error| error.to_string())
    });
}

// Conforms: CVE-2024-32473 IPV6-off-by-default
#[test]
fn a_host_that_turned_ipv6_off_gets_none() {
    if !has_ipv6_or_skip() {
        return;
    }
    let Some(mut scene) = Scene::without_daemon(PORT_KINDS[0]) else {
        return;
    };
    let off = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6";
    scene.host.sh(off);
    scene.start_daemon();
    let web = scene.container("web", &["-p", "8080:80"]);
    assert_eq!((ipv6_of(&web).as_str(), web.addresses.len()), ("", 1));
    let listener = listen(&web.namespace, (ANY, 80));
    // There is no [::1] to serve.
    for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
        let mut flow = Flow::open(from, (to, 8080), &listener).unwrap();
        flow.exchange().unwrap();
    }
}

// Conforms: IPV6-off-by-default
#[test]
fn a_daemon_told_to_makes_ipv4_networks_only() {
    if !has_ipv6_or_skip() {
        return;
    }
    let Some(scene) = Scene::with_daemon_options(&["--workers", "2", "--ipv6=false"]) else {
        return;
    };
    let a = scene.container("a", &[]);
    assert_eq!(a.addresses, [a.address]);
    assert_eq!(ipv6_of(&a), "");
    assert_eq!(scene.json(&["info"])["ipv6"], false);
    let create = ["network", "create", "asked", "--ipv6"];
    scene.pontoon(&create).success();
    let b = scene.container("b", &["--net", "asked"]);
    let beyond = listen(&scene.outside, (BEYOND6, 80));
    let flow = Flow::open(&b.namespace, (BEYOND6, 80), &beyond).unwrap();
    assert_eq!(flow.seen_by_server(), HOST6);
}
