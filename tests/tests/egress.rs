//! Out by the uplink: masqueraded, and without a trace in the host's own traffic.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::process::{Background, run};
use pontoon_tests::scene::{ANY, BEYOND, HOST, HOST_SECOND, LOOPBACK, OUTSIDE, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen, ping};
use pontoon_tests::wire::Witness;

fn a_container_reaches_the_world(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let witness = Witness::start(
        &scene.outside,
        "eth0",
        "net 172.16.0.0/12 or net 10.0.0.0/8",
    );
    for to in [OUTSIDE, BEYOND] {
        ping(&a.namespace, to).success();
        let listener = listen(&scene.outside, (to, 80));
        for container in [&a, &b] {
            let mut flow = Flow::open(&container.namespace, (to, 80), &listener).unwrap();
            assert_eq!(flow.seen_by_server(), HOST, "masqueraded");
            flow.exchange().unwrap();
            flow.transfer(20 << 20).unwrap();
        }
        let server = bind_udp(&scene.outside, (to, 53));
        let mut datagrams = Datagrams::open(&a.namespace, (to, 53), server);
        assert_eq!(datagrams.exchange(1000).unwrap().ip(), HOST);
    }
    assert_eq!(
        witness.stop(),
        Vec::<String>::new(),
        "no inner address on the wire"
    );
    let connections = scene.json(&["conntrack"]);
    let count = connections.as_array().map_or(0, Vec::len);
    assert!(count >= 6, "{connections}");
}

// Feature: masquerade
#[test]
fn a_tap_reaches_the_world() {
    a_container_reaches_the_world(PORT_KINDS[0]);
}

// Feature: masquerade
#[test]
fn a_veth_reaches_the_world() {
    a_container_reaches_the_world(PORT_KINDS[1]);
}

#[test]
fn the_hosts_kernel_says_nothing_of_our_flows() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let witness = Witness::start(
        &scene.outside,
        "eth0",
        "tcp[tcpflags] & tcp-rst != 0 or icmp[icmptype] = icmp-unreach or \
         icmp[icmptype] = icmp-redirect or icmp[icmptype] = icmp-timxceed",
    );
    let inside = listen(&web.namespace, (ANY, 80));
    let beyond = listen(&scene.outside, (BEYOND, 80));
    for _ in 0..20 {
        let mut inbound = Flow::open(&scene.outside, (HOST, 8080), &inside).unwrap();
        let mut outbound = Flow::open(&web.namespace, (BEYOND, 80), &beyond).unwrap();
        inbound.exchange().unwrap();
        outbound.exchange().unwrap();
    }
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut inbound = Datagrams::open(&scene.outside, (HOST, 5353), server);
    let server = bind_udp(&scene.outside, (BEYOND, 53));
    let mut outbound = Datagrams::open(&web.namespace, (BEYOND, 53), server);
    for _ in 0..20 {
        inbound.exchange(100).unwrap();
        outbound.exchange(100).unwrap();
    }
    ping(&web.namespace, BEYOND).success();
    assert_eq!(witness.stop(), Vec::<String>::new());
}

// Conforms: CVE-2021-3773
#[test]
fn the_hosts_own_connections_are_undisturbed() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    let service = listen(&scene.host, (ANY, 22));
    let remote = listen(&scene.outside, (BEYOND, 443));
    let local = listen(&scene.host, (LOOPBACK, 5432));
    let mut flows = [
        Flow::open(&scene.outside, (HOST, 22), &service).unwrap(),
        Flow::open(&scene.host, (BEYOND, 443), &remote).unwrap(),
        Flow::open(&scene.host, (LOOPBACK, 5432), &local).unwrap(),
    ];
    let server = bind_udp(&scene.host, (ANY, 123));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 123), server);
    let server = bind_udp(&scene.outside, (BEYOND, 53));
    let mut lookup = Datagrams::open(&scene.host, (BEYOND, 53), server);
    let mut all_live = |when: &str| {
        for flow in &mut flows {
            flow.exchange()
                .unwrap_or_else(|error| panic!("{when}: {error}"));
        }
        datagrams
            .exchange(100)
            .unwrap_or_else(|error| panic!("{when}: {error}"));
        lookup
            .exchange(100)
            .unwrap_or_else(|error| panic!("{when}: {error}"));
    };
    all_live("before the daemon");
    scene.start_daemon();
    all_live("with the daemon");
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let listener = listen(&web.namespace, (ANY, 80));
    let mut published = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    published.transfer(5 << 20).unwrap();
    all_live("with a container");
    ping(&scene.outside, HOST).success();
    ping(&scene.host, BEYOND).success();
    // New ones too, and what the host refuses it refuses itself, at once.
    Flow::open(&scene.outside, (HOST, 22), &service)
        .unwrap()
        .exchange()
        .unwrap();
    Flow::open(&scene.host, (BEYOND, 443), &remote)
        .unwrap()
        .exchange()
        .unwrap();
    let refused = dial(&scene.outside, (HOST, 81)).expect_err("nobody listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    scene.end_daemon(nix::sys::signal::Signal::SIGTERM);
    all_live("after the daemon");
}

#[test]
fn more_flows_than_one_block_of_ports() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let listener = listen(&scene.outside, (BEYOND, 80));
    let mut flows = Vec::new();
    for count in 0..600 {
        let flow = Flow::open(&a.namespace, (BEYOND, 80), &listener);
        flows.push(flow.unwrap_or_else(|error| panic!("flow {count}: {error}")));
    }
    for flow in &mut flows {
        flow.exchange().unwrap();
    }
}

/// Asks from port `argv[2]`, by `argv[1]`, and prints the port that the server sees.
const FROM_PORT: &str = "
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == 'tcp' else socket.SOCK_DGRAM
s = socket.socket(socket.AF_INET, kind)
s.settimeout(10)
s.bind(('', int(sys.argv[2])))
s.connect((sys.argv[3], 2049))
s.send(b'?')
print(s.recv(100).decode())
";

const TELL_PORT: &str = "
import socket, threading
t = socket.socket()
t.bind(('', 2049))
t.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(('', 2049))
print('ready', flush=True)
def tcp():
    while True:
        c, a = t.accept()
        c.sendall(str(a[1]).encode())
threading.Thread(target=tcp, daemon=True).start()
while True:
    d, a = u.recvfrom(100)
    u.sendto(str(a[1]).encode(), a)
";

// Conforms: RFC4787-3
#[test]
fn a_privileged_source_port_stays_privileged() {
    let Some(scene) = Scene::new() else { return };
    let [a, b] = ["a", "b"].map(|name| scene.container(name, &[]));
    let mut server = scene.outside.command("python3");
    let mut server = Background::start(server.args(["-c", TELL_PORT]));
    server.wait_for_output("ready");
    let seen = |from: &Namespace, kind: &str, port: &str| -> u16 {
        let mut client = from.command("python3");
        client.args(["-c", FROM_PORT, kind, port, &OUTSIDE.to_string()]);
        run(&mut client).success().trim().parse().expect("a port")
    };
    for kind in ["udp", "tcp"] {
        let first = seen(&a.namespace, kind, "700");
        let second = seen(&b.namespace, kind, "700");
        assert!(first < 1024 && second < 1024, "{kind}: {first}, {second}");
        assert_ne!(first, second);
        assert!(seen(&a.namespace, kind, "1024") > 1023, "{kind}");
    }
}

// Feature: masquerade
#[test]
fn an_uplink_that_changes_is_followed() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["-p", "8080:80"]);
    ping(&a.namespace, BEYOND).success();
    // Another address, another route, and the neighbour with another MAC, which it announces.
    scene.host.ip("addr del 192.0.2.1/24 dev eth0");
    scene.host.ip("addr flush dev eth0 scope global");
    scene.host.ip("addr add 192.0.2.44/24 dev eth0");
    scene.host.ip("route replace default via 192.0.2.2");
    scene
        .outside
        .sh("sysctl -q net.ipv4.conf.eth0.arp_notify=1");
    scene.outside.ip("link set eth0 down");
    scene.outside.ip("link set eth0 address 02:00:00:00:99:99");
    scene.outside.ip("link set eth0 up");
    eventually("the new way works", Duration::from_secs(10), || {
        let listener = listen(&scene.outside, (ANY, 80));
        let flow = Flow::open(&a.namespace, (OUTSIDE, 80), &listener);
        match flow.map(|flow| flow.seen_by_server()) {
            Ok(seen) if seen.to_string() == "192.0.2.44" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let listener = listen(&a.namespace, (ANY, 80));
    let to: std::net::IpAddr = [192, 0, 2, 44].into();
    Flow::open(&scene.outside, (to, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
}

#[test]
fn an_uplink_that_vanishes_and_comes_back() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    ping(&a.namespace, BEYOND).success();
    scene.host.ip("link del eth0");
    let inside = listen(&a.namespace, (ANY, 80));
    // The rest of the world goes on without it.
    ping(&a.namespace, b.address).success();
    Flow::open(&scene.host, (LOOPBACK, 8080), &inside)
        .unwrap()
        .exchange()
        .unwrap();

    join((&scene.host, "eth0"), (&scene.outside, "eth0"));
    scene.host.ip(&format!("addr add {HOST}/24 dev eth0"));
    scene.host.ip(&format!("route add default via {OUTSIDE}"));
    scene.outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
    let beyond = listen(&scene.outside, (BEYOND, 80));
    eventually("the way out is back", Duration::from_secs(10), || {
        let flow = Flow::open(&a.namespace, (BEYOND, 80), &beyond);
        flow.map_err(|error| error.to_string())
    });
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &inside).unwrap();
    assert_eq!(flow.seen_by_server(), OUTSIDE);
    flow.exchange().unwrap();
}

#[test]
fn without_an_uplink_the_host_still_serves() {
    let Some(scene) = Scene::with_daemon_options(&["--uplink", "none"]) else {
        return;
    };
    let a = scene.container("a", &["-p", "8080:80"]);
    let b = scene.container("b", &[]);
    let inside = listen(&a.namespace, (ANY, 80));
    for (from, to) in [
        (&scene.host, LOOPBACK),
        (&scene.host, HOST),
        (&b.namespace, HOST),
    ] {
        let mut flow = Flow::open(from, (to, 8080), &inside).unwrap();
        flow.exchange().unwrap();
    }
    let listener = listen(&scene.outside, (BEYOND, 80));
    assert!(Flow::open(&a.namespace, (BEYOND, 80), &listener).is_err());
}

#[test]
fn uplinks_that_are_named() {
    let options = ["--uplink", "eth0", "--uplink", "eth7", "--workers", "1"];
    let Some(scene) = Scene::with_daemon_options(&options) else {
        return;
    };
    let a = scene.container("a", &[]);
    ping(&a.namespace, BEYOND).success();
    // The one that is not there is told of, and used once it is.
    assert!(scene.log().contains("eth7"), "{}", scene.log());
    scene.host.ip("link del eth0");
    join((&scene.host, "eth7"), (&scene.outside, "eth0"));
    scene.host.ip(&format!("addr add {HOST}/24 dev eth7"));
    scene.host.ip(&format!("route add default via {OUTSIDE}"));
    scene.outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
    let beyond = listen(&scene.outside, (BEYOND, 80));
    eventually("the way out is by eth7", Duration::from_secs(10), || {
        let flow = Flow::open(&a.namespace, (BEYOND, 80), &beyond);
        flow.map_err(|error| error.to_string())
    });
}

#[test]
fn many_flows_at_once_over_many_workers() {
    let Some(scene) = Scene::with_daemon_options(&["--workers", "4"]) else {
        return;
    };
    let a = scene.container("a", &["-p", "8080-8095:80-95"]);
    thread::scope(|scope| {
        for number in 0..16 {
            let (scene, a) = (&scene, &a);
            scope.spawn(move || {
                let inside = listen(&a.namespace, (ANY, 80 + number));
                let mut flow = Flow::open(&scene.outside, (HOST, 8080 + number), &inside).unwrap();
                flow.transfer(8 << 20).unwrap();
                let beyond = listen(&scene.outside, (BEYOND, 80 + number));
                let mut flow = Flow::open(&a.namespace, (BEYOND, 80 + number), &beyond).unwrap();
                flow.transfer(8 << 20).unwrap();
            });
        }
    });
}

/// On a raw socket of IP protocol `argv[1]`: asks the address `argv[2]` and prints the answer; or,
/// without one, answers each packet with who sent it. The first four bytes are ports, as SCTP's are.
const RAW_IP: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1]))
s.settimeout(5)
if len(sys.argv) == 3:
    s.sendto(b'\\x10\\x92\\x0f\\x1c' + bytes(60), (sys.argv[2], 0))
    print(s.recvfrom(2048)[0][24:].decode())
else:
    print('ready', flush=True)
    while True:
        packet, peer = s.recvfrom(2048)
        ports = packet[22:24] + packet[20:22]
        s.sendto(ports + peer[0].encode(), peer)
";

// Conforms: LINUX-sctp-by-address
#[test]
fn protocols_without_ports_are_masqueraded_by_address() {
    let Some(scene) = Scene::new() else { return };
    let a = scene.container("a", &[]);
    let witness = Witness::start(&scene.outside, "eth0", "icmp[icmptype] = icmp-unreach");
    // SCTP and GRE.
    for protocol in ["132", "47"] {
        let mut server = scene.outside.command("python3");
        let mut server = Background::start(server.args(["-c", RAW_IP, protocol]));
        server.wait_for_output("ready");
        let mut client = a.namespace.command("python3");
        client.args(["-c", RAW_IP, protocol, &OUTSIDE.to_string()]);
        let seen = run(&mut client).success();
        assert_eq!(seen.trim(), HOST.to_string(), "protocol {protocol}");
        server.end(Signal::SIGKILL);
    }
    assert_eq!(
        witness.stop(),
        Vec::<String>::new(),
        "the host says nothing"
    );
}

// Feature: connections
#[test]
fn connections_are_listed_counted_and_ended_by_what_they_have_in_common() {
    let Some(scene) = Scene::new() else { return };
    let [a, b] = ["a", "b"].map(|name| scene.container(name, &[]));
    let listener = listen(&scene.outside, (OUTSIDE, 80));
    let [mut of_a, mut of_b] =
        [&a, &b].map(|it| Flow::open(&it.namespace, (OUTSIDE, 80), &listener).unwrap());
    let server = bind_udp(&scene.outside, (OUTSIDE, 53));
    let mut question = Datagrams::open(&a.namespace, (OUTSIDE, 53), server);
    question.exchange(100).unwrap();
    let count = |options: &[&str]| {
        let told = scene.pontoon(&[&["conntrack", "--count"], options].concat());
        told.success().trim().parse::<usize>().expect("a number")
    };
    let both = format!("{}/31", b.address);
    for (options, expected) in [
        (&[][..], 3),
        (&["--container", "a"], 2),
        (&["--container", "a", "--protocol", "tcp"], 1),
        (&["--protocol", "udp", "--port", "53"], 1),
        (&["--address", &OUTSIDE.to_string(), "--port", "80"], 2),
        (&["--address", &both], 3),
        (&["--address", "10.9.0.0/16"], 0),
    ] {
        assert_eq!(count(options), expected, "{options:?}");
    }
    let listed = scene.json(&["conntrack", "--container", "b"]);
    let source = listed[0]["original"]["src"].as_str();
    assert_eq!(source, Some(b.address.to_string().as_str()), "{listed}");

    let nobody = scene.pontoon(&["conntrack", "--flush", "--container", "nobody"]);
    assert!(nobody.failure().contains("no container \"nobody\""));
    let ended = scene.pontoon(&[
        "conntrack",
        "--flush",
        "--container",
        "a",
        "--protocol",
        "tcp",
    ]);
    assert_eq!(ended.success().trim(), "1 connection ended");
    // What a goes on with has a new port outside, where nobody knows of it.
    of_a.exchange().expect_err("its connection is no more");
    of_b.exchange().unwrap();
    question.exchange(100).unwrap();
    let ended = scene.json(&["conntrack", "--flush"]);
    assert!(ended["connections"].as_u64() >= Some(2), "{ended}");
    assert_eq!(count(&[]), 0);
}

/// Traffic of the host's own, which its kernel has too.
#[test]
fn the_hosts_own_traffic_is_no_drop() {
    let Some(scene) = Scene::new() else { return };
    let counters = || {
        let (_, body) = scene
            .request("GET", "/v1/counters", None)
            .expect("an answer");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")
    };
    let dropped = |counters: &serde_json::Value| -> u64 {
        let rows = counters["drops"].as_array().expect("a list").iter();
        rows.filter_map(|row| row["frames"].as_u64()).sum()
    };
    let published = format!("{HOST_SECOND}:8080:80");
    scene.container("web", &["-p", &published]);
    let before = dropped(&counters());
    ping(&scene.outside, HOST).success();
    ping(&scene.host, OUTSIDE).success();
    // A port that is published on another of the host's addresses lets what is for this one pass
    // to the host, whose server it may be.
    let listener = listen(&scene.host, (HOST, 8080));
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &listener).expect("the host's server");
    flow.exchange().expect("an answer");
    let after = counters();
    assert_eq!(dropped(&after), before, "{after}");
    let ports = after["ports"].as_array().expect("a list");
    let own = ports
        .iter()
        .filter_map(|port| port["hosts_own_frames"].as_u64());
    assert!(own.sum::<u64>() > 0, "{after}");
}
