//! Containers go where their host would send them, or are told why not: its routes of every kind,
//! its rules, its other interfaces, and what becomes of flows when all that changes.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::{Output, run};
use pontoon_tests::scene::{ANY, BEYOND, Container, HOST, HOST6, OUTSIDE, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen, ping};
use pontoon_tests::wire::Witness;
use pontoon_tests::{eventually, has_ipv6, has_ipv6_or_skip, skip};

const LIMIT: Duration = Duration::from_secs(15);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One ping, answered or not.
fn try_ping(from: &Namespace, to: &str, options: &[&str]) -> Output {
    let mut command = from.command("ping");
    run(command.args(["-c1", "-W2"]).args(options).arg(to))
}

/// Waits until the container reaches an address.
#[track_caller]
fn reaches(container: &Container, to: &str) {
    eventually(&format!("{to} is reached"), LIMIT, || {
        let output = try_ping(&container.namespace, to, &[]);
        match output.status.success() {
            true => Ok(()),
            false => Err(output.stdout),
        }
    });
}

/// Waits until the daemon has taken up what was changed on the host before.
#[track_caller]
fn is_dropped(scene: &Scene, container: &Container, to: &str, reason: &str) -> String {
    eventually(&format!("{to} is {reason}"), LIMIT, || {
        let before = scene.drops(reason);
        let output = try_ping(&container.namespace, to, &[]);
        match scene.drops(reason) > before {
            true => Ok(output.stdout),
            false => Err(output.stdout),
        }
    })
}

#[test]
fn a_route_that_ends_a_way_ends_it_for_containers() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    reaches(&a, "198.51.100.7");
    let kinds = [
        ("blackhole", "10.65.0.1", "RouteBlackhole", ""),
        (
            "unreachable",
            "10.66.0.1",
            "RouteUnreachable",
            "Destination Host Unreachable",
        ),
        (
            "prohibit",
            "10.67.0.1",
            "RouteProhibited",
            "Packet filtered",
        ),
        (
            "throw",
            "10.68.0.1",
            "NoRoute",
            "Destination Net Unreachable",
        ),
    ];
    for (kind, address, ..) in kinds {
        scene.host.ip(&format!("route add {kind} {address}/32"));
    }
    for (kind, address, reason, told) in kinds {
        let answer = is_dropped(&scene, &a, address, reason);
        assert!(answer.contains(told), "{kind}: {answer}");
        assert!(!answer.contains("bytes from"), "{kind}: {answer}");
        if told.is_empty() {
            assert!(
                !answer.contains("From "),
                "a blackhole says nothing: {answer}"
            );
        }
    }
    if has_ipv6() {
        scene.host.ip("-6 route add unreachable 2001:db8:bad::/48");
        let answer = is_dropped(&scene, &a, "2001:db8:bad::1", "RouteUnreachable");
        assert!(answer.contains("No route"), "{answer}");
    }
    let witness = Witness::start(
        &scene.outside,
        "eth0",
        "net 10.64.0.0/10 or net 2001:db8:bad::/48",
    );
    for (_, address, ..) in kinds {
        try_ping(&a.namespace, address, &[]);
    }
    if has_ipv6() {
        try_ping(&a.namespace, "2001:db8:bad::1", &[]);
    }
    reaches(&a, "198.51.100.7");
    assert_eq!(witness.stop(), Vec::<String>::new());
    // And no longer than they are there.
    scene.host.ip("route del unreachable 10.66.0.1/32");
    scene.outside.ip("addr add 10.66.0.1/32 dev lo");
    reaches(&a, "10.66.0.1");
}

#[test]
fn a_second_interface_is_an_uplink_by_itself() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    scene.start_daemon();
    let a = scene.container("a", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let witness = Witness::start(&scene.outside, "eth0", "net 10.9.0.0/24");
    ping(&a.namespace, ip("10.9.0.5")).success();
    let listener = listen(&lan, (ANY, 80));
    let mut flow = Flow::open(&a.namespace, (ip("10.9.0.5"), 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), ip("10.9.0.2"));
    flow.transfer(1 << 20).unwrap();
    ping(&a.namespace, BEYOND).success();
    // A published port shows its clients of that side too.
    let web = listen(&a.namespace, (ANY, 80));
    let mut flow = Flow::open(&lan, (ip("10.9.0.2"), 8080), &web).unwrap();
    assert_eq!(flow.seen_by_server(), ip("10.9.0.5"));
    flow.transfer(1 << 20).unwrap();
    let server = bind_udp(&a.namespace, (ANY, 53));
    let mut datagrams = Datagrams::open(&lan, (ip("10.9.0.2"), 5353), server);
    assert_eq!(datagrams.exchange(100).unwrap().ip(), ip("10.9.0.5"));
    assert_eq!(witness.stop(), Vec::<String>::new(), "all of it by lan0");
}

#[test]
fn an_interface_left_out_by_name_is_refused_by_name() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let _lan = scene.second_interface();
    scene.set_daemon_options(&["--workers", "2", "--uplink", "eth0"]);
    scene.start_daemon();
    let a = scene.container("a", &[]);
    let witness = Witness::start(&scene.outside, "eth0", "net 10.9.0.0/24");
    let answer = is_dropped(&scene, &a, "10.9.0.5", "NotAnUplink");
    assert!(answer.contains("Destination Net Unreachable"), "{answer}");
    ping(&a.namespace, BEYOND).success();
    assert_eq!(witness.stop(), Vec::<String>::new());
}

/// A VPN as OpenVPN makes it: two routes that are more specific than the default one, into a tunnel
/// without Ethernet headers.
#[test]
fn a_tunnel_that_takes_all_has_the_containers_traffic_too() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let _tunnel = scene.tunnel();
    scene.host.ip("route add 0.0.0.0/1 via 10.8.0.1");
    scene.host.ip("route add 128.0.0.0/1 via 10.8.0.1");
    scene.start_daemon();
    let a = scene.container("a", &["-p", "8080:80"]);
    let witness = Witness::start(&scene.outside, "eth0", &format!("host {BEYOND}"));
    ping(&a.namespace, BEYOND).success();
    let listener = listen(&scene.outside, (BEYOND, 80));
    let mut flow = Flow::open(&a.namespace, (BEYOND, 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), ip("10.8.0.2"));
    flow.transfer(4 << 20).unwrap();
    let server = bind_udp(&scene.outside, (BEYOND, 53));
    let mut datagrams = Datagrams::open(&a.namespace, (BEYOND, 53), server);
    // Cut to the tunnel's MTU.
    assert_eq!(datagrams.exchange(4000).unwrap().ip(), ip("10.8.0.2"));
    // A packet that may not be cut comes back with the tunnel's MTU.
    let big = try_ping(&a.namespace, "198.51.100.7", &["-M", "do", "-s", "1450"]);
    let told = big.stdout.contains("mtu = 1400") || big.stderr.contains("mtu=1400");
    assert!(told, "{} {}", big.stdout, big.stderr);
    assert_eq!(
        witness.stop(),
        Vec::<String>::new(),
        "nothing beside the tunnel"
    );
    // In by the tunnel to a published port.
    let web = listen(&a.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (ip("10.8.0.2"), 8080), &web).unwrap();
    assert_eq!(flow.seen_by_server(), ip("10.8.0.1"));
    flow.transfer(4 << 20).unwrap();
}

/// A VPN as wg-quick makes it, with a table of its own and rules, and one as Tailscale does.
#[test]
fn rules_of_the_host_hold_for_containers() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    lan.ip("addr add 203.0.113.77/32 dev lo");
    lan.ip("route add default via 10.9.0.2");
    scene.outside.ip("addr add 203.0.113.77/32 dev lo");
    scene.start_daemon();
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let server = listen(&scene.outside, (ip("203.0.113.77"), 80));
    let other = listen(&lan, (ip("203.0.113.77"), 80));
    let seen = |container: &Container, listener| {
        let flow = Flow::open(&container.namespace, (ip("203.0.113.77"), 80), listener);
        flow.map(|flow| flow.seen_by_server())
    };
    let by_lan = |container: &Container| {
        eventually("the way is by lan0", LIMIT, || {
            seen(container, &other).map_err(|error| error.to_string())
        })
    };
    let by_default = |container: &Container| {
        eventually("the way is by eth0", LIMIT, || {
            seen(container, &server).map_err(|error| error.to_string())
        })
    };
    assert_eq!(by_default(&a), HOST);
    // wg-quick: everything unmarked by the tunnel, but what the main table knows by more than its
    // default.
    scene.host.ip("route add default via 10.9.0.5 table 51820");
    scene.host.ip("rule add not fwmark 0xca6c table 51820");
    scene.host.ip("rule add table main suppress_prefixlength 0");
    assert_eq!(by_lan(&a), ip("10.9.0.2"));
    reaches(&a, &OUTSIDE.to_string());
    scene.host.ip("rule del not fwmark 0xca6c table 51820");
    scene.host.ip("rule del table main suppress_prefixlength 0");
    assert_eq!(by_default(&a), HOST);
    // The same by the interface's group.
    scene.host.ip("link set eth0 group 7");
    scene.host.ip("rule add not fwmark 0xca6c table 51820");
    scene.host.ip("rule add table main suppress_ifgroup 7");
    assert_eq!(by_lan(&a), ip("10.9.0.2"));
    scene.host.ip("link set eth0 group 8");
    assert_eq!(by_default(&a), HOST);
    scene.host.ip("rule del not fwmark 0xca6c table 51820");
    scene.host.ip("rule del table main suppress_ifgroup 7");
    // Tailscale: its own marked packets by main, then a table that knows a few addresses.
    scene
        .host
        .ip("rule add pref 5210 fwmark 0x80000/0xff0000 lookup main");
    scene
        .host
        .ip("rule add pref 5250 fwmark 0x80000/0xff0000 unreachable");
    scene.host.ip("rule add pref 5270 lookup 52");
    scene
        .host
        .ip("route add 203.0.113.77 via 10.9.0.5 table 52");
    assert_eq!(by_lan(&a), ip("10.9.0.2"));
    reaches(&a, &BEYOND.to_string());
    scene.host.ip("route flush table 52");
    assert_eq!(by_default(&a), HOST);
    // By source, as a container has it, and by the interface of its network.
    scene.host.ip(&format!(
        "rule add pref 100 from {} lookup 51820",
        a.address
    ));
    assert_eq!(by_lan(&a), ip("10.9.0.2"));
    assert_eq!(by_default(&b), HOST);
    scene.host.ip("rule del pref 100");
    let network = scene.json(&["network", "inspect", "bridge"]);
    let network = network.get(0).unwrap_or(&network);
    let interface = network["host_interface"]
        .as_str()
        .expect("a name")
        .to_owned();
    scene
        .host
        .ip(&format!("rule add pref 100 iif {interface} lookup 51820"));
    assert_eq!(by_lan(&b), ip("10.9.0.2"));
    // A rule may refuse.
    scene
        .host
        .ip(&format!("rule add pref 90 from {} prohibit", b.address));
    is_dropped(&scene, &b, "203.0.113.77", "RouteProhibited");
    assert_eq!(by_lan(&a), ip("10.9.0.2"));
}

/// A client behind a router on the second interface, to whom the host's default route leads
/// elsewhere.
#[test]
fn answers_leave_by_the_interface_that_their_flow_came_by() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    lan.ip("addr add 203.0.113.77/32 dev lo");
    lan.ip("route add 10.9.0.2 dev eth0 src 203.0.113.77");
    scene.start_daemon();
    let a = scene.container("a", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let witness = Witness::start(&scene.outside, "eth0", "host 203.0.113.77");
    let web = listen(&a.namespace, (ANY, 80));
    let server = bind_udp(&a.namespace, (ANY, 53));
    let mut flow = Flow::open(&lan, (ip("10.9.0.2"), 8080), &web).unwrap();
    assert_eq!(flow.seen_by_server(), ip("203.0.113.77"));
    flow.transfer(1 << 20).unwrap();
    let mut datagrams = Datagrams::open(&lan, (ip("10.9.0.2"), 5353), server);
    assert_eq!(datagrams.exchange(100).unwrap().ip(), ip("203.0.113.77"));
    // All fragments, and the error when nobody listens any more. The host itself may have no way
    // there.
    for routed in [true, false] {
        if !routed {
            scene.host.ip(&format!("route del default via {OUTSIDE}"));
            is_dropped(&scene, &a, "203.0.113.99", "NoRoute");
        }
        datagrams.exchange(6000).unwrap();
    }
    scene.host.ip(&format!("route add default via {OUTSIDE}"));
    reaches(&a, "198.51.100.7");
    let client = bind_udp(&lan, (ANY, 0));
    lan.within(|| client.connect("10.9.0.2:5353")).unwrap();
    drop(datagrams);
    client.send(b"?").unwrap();
    let refused = client.recv(&mut [0; 100]).expect_err("nobody is there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(witness.stop(), Vec::<String>::new());
    // By the first interface they go on as ever.
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &web).unwrap();
    flow.exchange().unwrap();
    // A route that refuses the client refuses its answers too.
    scene.host.ip("route add blackhole 203.0.113.77/32");
    eventually("the client is refused", LIMIT, || {
        let before = scene.drops("RouteBlackhole");
        dial(&lan, (ip("10.9.0.2"), 8080)).err();
        match scene.drops("RouteBlackhole") > before {
            true => Ok(()),
            false => Err("not dropped".to_owned()),
        }
    });
}

#[test]
fn odd_routes_are_followed() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    scene.start_daemon();
    let a = scene.container("a", &["-p", "8080:80"]);
    // The address of a cloud's metadata service is routed on purpose.
    lan.ip("addr add 169.254.169.254/32 dev lo");
    scene.host.ip("route add 169.254.169.254 via 10.9.0.5");
    reaches(&a, "169.254.169.254");
    // A route that is a nexthop object.
    lan.ip("addr add 203.0.113.21/32 dev lo");
    scene.host.ip("nexthop add id 7 via 10.9.0.5 dev lan0");
    scene.host.ip("route add 203.0.113.21 nhid 7");
    reaches(&a, "203.0.113.21");
    // A gateway beyond the subnet, and one of the other family.
    lan.ip("addr add 10.77.0.1/32 dev lo");
    lan.ip("addr add 203.0.113.22/32 dev lo");
    scene
        .host
        .ip("route add 203.0.113.22 via 10.77.0.1 dev lan0 onlink");
    reaches(&a, "203.0.113.22");
    if has_ipv6() {
        lan.ip("addr add 203.0.113.23/32 dev lo");
        lan.ip("addr add fe80::5/64 dev eth0 nodad");
        scene
            .host
            .ip("route add 203.0.113.23 via inet6 fe80::5 dev lan0");
        reaches(&a, "203.0.113.23");
    }
    // The host's choice of a source address.
    lan.ip("addr add 203.0.113.24/32 dev lo");
    lan.ip("route add 10.9.0.9 via 10.9.0.2");
    scene.host.ip("addr add 10.9.0.9/32 dev lo");
    scene
        .host
        .ip("route add 203.0.113.24 via 10.9.0.5 src 10.9.0.9");
    reaches(&a, "203.0.113.24");
    let server = bind_udp(&lan, (ip("203.0.113.24"), 53));
    let mut datagrams = Datagrams::open(&a.namespace, (ip("203.0.113.24"), 53), server);
    assert_eq!(datagrams.exchange(10).unwrap().ip(), ip("10.9.0.9"));
    // A path that is narrower than its link.
    lan.ip("addr add 203.0.113.25/32 dev lo");
    scene
        .host
        .ip("route add 203.0.113.25 via 10.9.0.5 mtu 1300");
    reaches(&a, "203.0.113.25");
    let big = try_ping(&a.namespace, "203.0.113.25", &["-M", "do", "-s", "1400"]);
    assert!(big.stdout.contains("mtu = 1300"), "{}", big.stdout);
    // Subnets that are the host's as a whole (AnyIP): published there, and the host's otherwise.
    scene.host.ip("route add local 10.20.0.0/16 dev lo");
    scene
        .outside
        .ip(&format!("route add 10.20.0.0/16 via {HOST}"));
    reaches(&a, "10.20.0.5");
    let web = listen(&a.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (ip("10.20.0.5"), 8080), &web).unwrap();
    assert_eq!(flow.seen_by_server(), OUTSIDE);
    flow.exchange().unwrap();
}

/// With `nexthop_compat_mode` off the kernel tells the number of an object alone with a route, and
/// nothing of a route when its object changes.
#[test]
fn nexthop_objects_are_followed_by_their_number() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let mode = "/proc/sys/net/ipv4/nexthop_compat_mode";
    if !scene.host.within(|| std::path::Path::new(mode).exists()) {
        return skip("this kernel has no net.ipv4.nexthop_compat_mode");
    }
    scene.host.sh(&format!("echo 0 > {mode}"));
    let lan = scene.second_interface();
    let here = ["203.0.113.31", "203.0.113.32", "203.0.113.33"];
    for address in here {
        lan.ip(&format!("addr add {address}/32 dev lo"));
    }
    scene.host.ip("nexthop add id 7 via 10.9.0.5 dev lan0");
    scene
        .host
        .ip("nexthop add id 13 via 10.9.0.5 dev lan0 onlink");
    scene.host.ip("nexthop add id 9 group 7,3/13,2");
    scene.host.ip("nexthop add id 10 blackhole");
    scene.host.ip("route add 203.0.113.31 nhid 7");
    scene.host.ip("route add 203.0.113.32 nhid 9");
    scene.host.ip("route add 203.0.113.40 nhid 10");
    scene.start_daemon();
    let a = scene.container("a", &[]);
    reaches(&a, "203.0.113.31");
    reaches(&a, "203.0.113.32");
    is_dropped(&scene, &a, "203.0.113.40", "RouteBlackhole");
    // A route that comes later, and an object that changes below its routes.
    scene.host.ip("nexthop add id 11 via 10.9.0.66 dev lan0");
    scene.host.ip("route add 203.0.113.33 nhid 11");
    is_dropped(&scene, &a, "203.0.113.33", "NeighborUnresolved");
    scene.host.ip("nexthop replace id 11 via 10.9.0.5 dev lan0");
    reaches(&a, "203.0.113.33");
    if has_ipv6() {
        scene.host.ip("-6 addr add 2001:db8:9::2/64 dev lan0 nodad");
        lan.ip("-6 addr add 2001:db8:9::5/64 dev eth0 nodad");
        lan.ip("-6 addr add 2001:db8:99::1/128 dev lo nodad");
        scene
            .host
            .ip("-6 nexthop add id 12 via 2001:db8:9::5 dev lan0");
        scene.host.ip("-6 route add 2001:db8:99::1 nhid 12");
        reaches(&a, "2001:db8:99::1");
    }
}

/// One question after the other from one socket, until the server sees it come from `expected`.
#[track_caller]
fn comes_from(client: &UdpSocket, server: &UdpSocket, expected: IpAddr) {
    let mut buffer = [0; 100];
    eventually(&format!("it comes from {expected}"), LIMIT, || {
        client.send(b"?").map_err(|error| error.to_string())?;
        let (length, from) = server.recv_from(&mut buffer).map_err(|e| e.to_string())?;
        server
            .send_to(&buffer[..length], from)
            .map_err(|e| e.to_string())?;
        if from.ip() != expected {
            return Err(format!("from {from}"));
        }
        client.recv(&mut buffer).map_err(|e| e.to_string())
    });
}

#[test]
fn a_flow_moves_to_the_new_address_or_the_new_provider() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let lan = scene.second_interface();
    lan.ip(&format!("addr add {BEYOND}/32 dev lo"));
    scene.start_daemon();
    let a = scene.container("a", &[]);
    let server = bind_udp(&scene.outside, (BEYOND, 53));
    let elsewhere = bind_udp(&lan, (BEYOND, 53));
    for socket in [&server, &elsewhere] {
        socket
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
    }
    let client = bind_udp(&a.namespace, (ANY, 4567));
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    client.connect((BEYOND, 53)).unwrap();
    comes_from(&client, &server, HOST);
    // As a new lease of DHCP: the address goes, its routes with it, and others come.
    scene.host.ip("addr flush dev eth0 scope global");
    scene.host.ip("addr add 192.0.2.44/24 dev eth0");
    scene.host.ip(&format!("route add default via {OUTSIDE}"));
    comes_from(&client, &server, ip("192.0.2.44"));
    // The default route moves to another provider, with all addresses where they are.
    scene.host.ip("route replace default via 10.9.0.5");
    comes_from(&client, &elsewhere, ip("10.9.0.2"));
    // That one's link goes.
    scene.host.ip("link set lan0 down");
    scene.host.ip(&format!("route add default via {OUTSIDE}"));
    comes_from(&client, &server, ip("192.0.2.44"));
    // Another address besides changes nothing.
    scene.host.ip("addr add 192.0.2.45/24 dev eth0");
    comes_from(&client, &server, ip("192.0.2.44"));
}

#[test]
fn an_uplink_may_come_late_and_be_made_anew() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    scene.set_daemon_options(&["--workers", "2", "--uplink", "eth0,lan0"]);
    scene.host.ip("link set eth0 down");
    scene.start_daemon();
    let a = scene.container("a", &[]);
    scene.host.ip("link set eth0 up");
    scene
        .host
        .ip(&format!("route replace default via {OUTSIDE}"));
    reaches(&a, "198.51.100.7");
    for _ in 0..2 {
        let _lan = scene.second_interface();
        reaches(&a, "10.9.0.5");
        scene.host.ip("link set lan0 address 02:00:00:00:77:01");
        reaches(&a, "10.9.0.5");
        scene.host.ip("link del lan0");
    }
}

#[test]
fn a_huge_or_tiny_mtu_stops_no_start() {
    for mtu in ["65535", "576"] {
        let Some(mut scene) = Scene::without_daemon("tap") else {
            return;
        };
        scene.outside.ip(&format!("link set eth0 mtu {mtu}"));
        scene.host.ip(&format!("link set eth0 mtu {mtu}"));
        scene.start_daemon();
        let a = scene.container("a", &[]);
        ping(&a.namespace, BEYOND).success();
        let server = listen(&scene.outside, (BEYOND, 80));
        let mut flow = Flow::open(&a.namespace, (BEYOND, 80), &server).unwrap();
        flow.transfer(1 << 20).unwrap();
    }
}

/// A packet from outside whose hops end at the host: the host says so, from the address that the
/// client knows.
#[test]
fn the_hosts_hop_answers_a_traceroute_from_outside() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["-p", "5353:53/udp"]);
    let server = bind_udp(&a.namespace, (ANY, 53));
    let client = bind_udp(&scene.outside, (ANY, 0));
    client.connect((HOST, 5353)).unwrap();
    let witness = Witness::start(&scene.outside, "eth0", "icmp[icmptype] = icmp-timxceed");
    client.set_ttl(1).unwrap();
    client.send(b"?").unwrap();
    client.set_ttl(64).unwrap();
    client.send(b"!").unwrap();
    let mut buffer = [0; 10];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"!");
    let seen = witness.stop();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let expected = format!("IP {HOST} > {OUTSIDE}: ICMP time exceeded");
    assert!(seen[0].contains(&expected), "{seen:?}");
    // What answers a container that keeps its own address hears the host's, not the gateway's.
    let open = ["network", "create", "open", "--no-masquerade"];
    scene
        .pontoon(&[&open[..], &["--subnet", "10.30.0.0/24"]].concat())
        .success();
    let b = scene.container("b", &["--net", "open"]);
    let route = format!("route add 10.30.0.0/24 via {HOST}");
    scene.outside.ip(&route);
    let peer = bind_udp(&scene.outside, (OUTSIDE, 53));
    let inside = bind_udp(&b.namespace, (ANY, 0));
    inside.send_to(b"?", (OUTSIDE, 53)).unwrap();
    let (_, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip(), b.address);
    let witness = Witness::start(&scene.outside, "eth0", "icmp[icmptype] = icmp-timxceed");
    peer.set_ttl(1).unwrap();
    peer.send_to(b"?", from).unwrap();
    peer.set_ttl(64).unwrap();
    peer.send_to(b"!", from).unwrap();
    let (length, _) = inside.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"!");
    let seen = witness.stop();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].contains(&expected), "{seen:?}");
}

/// At boot the daemon may be there before the address that a port is published on, and another
/// process may have the port for a while.
#[test]
fn a_port_waits_for_its_address_and_for_whoever_has_it() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let options = [
        "-p",
        "192.0.2.9:8080:80",
        "-p",
        "192.0.2.9:8080:80/udp",
        "-p",
        "8081:81",
    ];
    let web = scene.container("web", &options);
    scene.end_daemon(Signal::SIGTERM);
    scene.host.ip("addr del 192.0.2.9/24 dev eth0");
    let squatter = scene
        .host
        .within(|| std::net::TcpListener::bind("0.0.0.0:8081"));
    scene.start_daemon();
    let count = |scene: &Scene, list: &str| {
        let told = scene.json(&["inspect", "web"]);
        let told = told.get(0).unwrap_or(&told);
        told[list].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(&scene, "pending"), 3);
    assert_eq!(count(&scene, "published"), 0);
    let table = scene.pontoon(&["ps"]).success();
    assert!(table.contains("8080->80/udp (pending)"), "{table}");
    let log = scene.log();
    assert!(log.contains("port 8081:81/tcp is pending"), "{log}");
    let mut events = scene.host_command("timeout");
    events.arg("1").arg(pontoon_tests::pontoon());
    let told = run(events.args(["events", "--since", "0"])).stdout;
    assert_eq!(told.matches("port web pending").count(), 3, "{told}");
    // They outlive another start.
    scene.end_daemon(Signal::SIGTERM);
    scene.start_daemon();
    assert_eq!(count(&scene, "pending"), 3);
    scene.host.ip("addr add 192.0.2.9/24 dev eth0");
    eventually("the address's ports are published", LIMIT, || {
        match count(&scene, "pending") {
            1 => Ok(()),
            left => Err(format!("{left} pending")),
        }
    });
    let listener = listen(&web.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (ip("192.0.2.9"), 8080), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), OUTSIDE);
    flow.exchange().unwrap();
    let server = bind_udp(&web.namespace, (ANY, 80));
    let mut datagrams = Datagrams::open(&scene.outside, (ip("192.0.2.9"), 8080), server);
    datagrams.exchange(10).unwrap();
    drop(squatter);
    eventually("the other port is published", LIMIT, || {
        match count(&scene, "pending") {
            0 => Ok(()),
            left => Err(format!("{left} pending")),
        }
    });
    let listener = listen(&web.namespace, (ANY, 81));
    let mut flow = Flow::open(&scene.outside, (HOST, 8081), &listener).unwrap();
    flow.exchange().unwrap();
    // What waits can be withdrawn.
    scene.end_daemon(Signal::SIGTERM);
    scene.host.ip("addr del 192.0.2.9/24 dev eth0");
    scene.start_daemon();
    assert_eq!(count(&scene, "pending"), 2);
    scene
        .pontoon(&["unpublish", "web", "-p", "192.0.2.9:8080:80"])
        .success();
    assert_eq!(count(&scene, "pending"), 1);
}

/// What happens to a host's uplink in a day: flows go on, once it is over.
#[test]
fn flows_outlive_what_happens_to_their_uplink() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let a = scene.container("a", &["-p", "8080:80"]);
    let listener = listen(&scene.outside, (BEYOND, 80));
    let mut out = Flow::open(&a.namespace, (BEYOND, 80), &listener).unwrap();
    let web = listen(&a.namespace, (ANY, 80));
    let mut within = Flow::open(&scene.outside, (HOST, 8080), &web).unwrap();
    let server = bind_udp(&scene.outside, (BEYOND, 53));
    let mut datagrams = Datagrams::open(&a.namespace, (BEYOND, 53), server);
    let mut go_on = |what: &str| {
        reaches(&a, "198.51.100.7");
        datagrams.exchange(100).expect(what);
        out.exchange().expect(what);
        within.exchange().expect(what);
    };
    go_on("at first");
    let via = format!("via {OUTSIDE}");
    // The default route flaps.
    for _ in 0..3 {
        scene.host.ip(&format!("route del default {via}"));
        scene.host.ip(&format!("route add default {via}"));
    }
    go_on("the default route came back");
    scene.host.ip(&format!("route del default {via}"));
    is_dropped(&scene, &a, "203.0.113.99", "NoRoute");
    scene.host.ip(&format!("route add default {via}"));
    go_on("the default route came back after a while");
    // A more specific route takes its place, and the other way round.
    scene.host.ip(&format!("route add {BEYOND}/32 {via}"));
    scene.host.ip(&format!("route del default {via}"));
    scene.host.ip(&format!("route add default {via} metric 50"));
    scene.host.ip(&format!("route del {BEYOND}/32 {via}"));
    go_on("routes were replaced");
    // It gets another name.
    scene.host.ip("link set eth0 down");
    scene.host.ip("link set eth0 name wan0");
    scene.host.ip("link set wan0 up");
    scene.host.ip(&format!("route replace default {via}"));
    go_on("the uplink was renamed");
}

/// A provider gives another IPv6 prefix: the old one's addresses are deprecated, and go later.
#[test]
fn an_ipv6_flow_moves_when_its_prefix_goes() {
    if !has_ipv6_or_skip() {
        return;
    }
    let Some(scene) = Scene::new() else {
        return;
    };
    let a = scene.container("a", &[]);
    let far = ip("2001:db8:7::7");
    let server = bind_udp(&scene.outside, (far, 53));
    let client = bind_udp(&a.namespace, (ip("::"), 4567));
    for socket in [&server, &client] {
        let limit = Some(Duration::from_millis(300));
        socket.set_read_timeout(limit).unwrap();
    }
    a.namespace.within(|| client.connect((far, 53))).unwrap();
    comes_from(&client, &server, HOST6);
    scene
        .outside
        .ip("-6 addr add 2001:db8:2::2/64 dev eth0 nodad");
    let host = |line: &str| scene.host.ip(&format!("-6 addr {line}"));
    host("add 2001:db8:2::77/64 dev eth0 nodad");
    host("change 2001:db8:1::1/64 dev eth0 preferred_lft 0");
    // What has begun goes on with its address; what begins takes the new one.
    let later = bind_udp(&a.namespace, (ip("::"), 4568));
    let limit = Some(Duration::from_millis(300));
    later.set_read_timeout(limit).unwrap();
    a.namespace.within(|| later.connect((far, 53))).unwrap();
    eventually("the new address is known", LIMIT, || {
        let next = bind_udp(&a.namespace, (ip("::"), 0));
        next.set_read_timeout(limit).unwrap();
        a.namespace.within(|| next.connect((far, 53))).unwrap();
        next.send(b"?").map_err(|error| error.to_string())?;
        let heard = server.recv_from(&mut [0; 100]).map_err(|e| e.to_string())?;
        match heard.0 > 0 && heard.1.ip() == ip("2001:db8:2::77") {
            true => Ok(()),
            false => Err(format!("from {}", heard.1)),
        }
    });
    comes_from(&later, &server, ip("2001:db8:2::77"));
    comes_from(&client, &server, HOST6);
    host("flush dev eth0 to 2001:db8:1::/64");
    comes_from(&client, &server, ip("2001:db8:2::77"));
    comes_from(&later, &server, ip("2001:db8:2::77"));
}
