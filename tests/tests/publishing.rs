//! Published ports: from loopback, from the host's other addresses, from the wire, from inside.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use pontoon_tests::eventually;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::run;
use pontoon_tests::scene::{
    ANY, BEYOND, HOST, HOST_INNER, HOST_SECOND, LOOPBACK, OUTSIDE, PORT_KINDS, Scene,
};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen};

/// Every address of the host on which a container published without an address answers.
fn host_addresses(scene: &Scene) -> Vec<IpAddr> {
    let network = scene.json(&["network", "inspect", "bridge"]);
    let network = network.get(0).unwrap_or(&network).clone();
    let gateway = network["gateways"][0].as_str().expect("a gateway");
    let gateway = gateway.parse().expect("an address");
    vec![
        LOOPBACK,
        [127, 9, 9, 9].into(),
        HOST,
        HOST_SECOND,
        HOST_INNER,
        gateway,
    ]
}

fn redis_cli(from: &Namespace, to: IpAddr) -> String {
    let to = to.to_string();
    let output =
        run(from
            .command("timeout")
            .args(["5", "redis-cli", "-h", &to, "-p", "6379", "ping"]));
    format!("{}{}", output.stdout, output.stderr)
        .trim()
        .to_owned()
}

fn redis_answers(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    scene.run_redis();
    eventually(
        "redis answers on loopback",
        Duration::from_secs(10),
        || match redis_cli(&scene.host, LOOPBACK) {
            answer if answer == "PONG" => Ok(()),
            answer => Err(answer),
        },
    );
    for address in host_addresses(&scene) {
        assert_eq!(
            redis_cli(&scene.host, address),
            "PONG",
            "{address} from the host"
        );
    }
    for address in [HOST, HOST_SECOND] {
        assert_eq!(
            redis_cli(&scene.outside, address),
            "PONG",
            "{address} from outside"
        );
    }
    let other = scene.container("other", &[]);
    for address in [HOST, HOST_SECOND, HOST_INNER] {
        assert_eq!(
            redis_cli(&other.namespace, address),
            "PONG",
            "{address} from a container"
        );
    }
}

// Conforms: MOBY-access-published-port-from-host
// Feature: publishing publish-paths
#[test]
fn redis_on_every_address_by_tap() {
    redis_answers(PORT_KINDS[0]);
}

// Conforms: MOBY-access-published-port-from-host
// Feature: publishing publish-paths
#[test]
fn redis_on_every_address_by_veth() {
    redis_answers(PORT_KINDS[1]);
}

fn the_wire_reaches_a_published_port(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let listener = listen(&web.namespace, (ANY, 80));
    for address in [HOST, HOST_SECOND] {
        let mut flow = Flow::open(&scene.outside, (address, 8080), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), OUTSIDE, "the client's own address");
        flow.exchange().unwrap();
        flow.transfer(10 << 20).unwrap();
    }
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 5353), server);
    assert_eq!(datagrams.exchange(500).unwrap().ip(), OUTSIDE);

    // A client that is not on the uplink's own network.
    let client = scene
        .outside
        .within(|| std::net::UdpSocket::bind((BEYOND, 0)));
    let client = client.expect("an address of its own");
    client.send_to(b"question", (HOST, 5353)).expect("a route");
    drop(datagrams);
    let server = bind_udp(&web.namespace, (ANY, 53));
    client.send_to(b"question", (HOST, 5353)).expect("a route");
    let mut buffer = [0; 64];
    let (_, source) = server.recv_from(&mut buffer).expect("the question arrives");
    assert_eq!(source.ip(), BEYOND);

    let connections = scene.json(&["conntrack"]).to_string();
    assert!(
        connections.contains("8080") && connections.contains("192.0.2.2"),
        "{connections}"
    );
}

// Conforms: MOBY-access-published-port-from-remote-host PROOF-end-to-end
// Feature: source-preserved moby-46026 podman-8193
#[test]
fn the_wire_reaches_a_tap_with_its_own_address() {
    the_wire_reaches_a_published_port(PORT_KINDS[0]);
}

// Conforms: MOBY-access-published-port-from-remote-host
// Feature: source-preserved moby-46026 podman-8193
#[test]
fn the_wire_reaches_a_veth_with_its_own_address() {
    the_wire_reaches_a_published_port(PORT_KINDS[1]);
}

// Feature: publish-paths
#[test]
fn udp_on_loopback() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "5353:53/udp"]);
    for address in host_addresses(&scene) {
        let server = bind_udp(&web.namespace, (ANY, 53));
        // Connected: an answer from any other address than the one asked would be lost.
        let mut datagrams = Datagrams::open(&scene.host, (address, 5353), server);
        datagrams
            .exchange(1000)
            .unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

// Conforms: MOBY-port-mapped-hairpin MOBY-access-published-port-from-container
// Feature: publish-paths plugins-68 podman-2886
#[test]
fn hairpin() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let other = scene.container("other", &[]);
    let listener = listen(&web.namespace, (ANY, 80));
    for from in [&other, &web] {
        for address in [HOST, HOST_SECOND, HOST_INNER] {
            let mut flow = Flow::open(&from.namespace, (address, 8080), &listener).unwrap();
            assert_eq!(flow.seen_by_server(), address, "RFC 4787 REQ-9");
            flow.transfer(5 << 20).unwrap();
            let server = bind_udp(&web.namespace, (ANY, 53));
            let mut datagrams = Datagrams::open(&from.namespace, (address, 5353), server);
            assert_eq!(datagrams.exchange(100).unwrap().ip(), address);
        }
    }
}

// Conforms: NETAVARK-bridge
// Feature: publishing
#[test]
fn a_range_is_published_port_for_port() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "20000-20999:30000-30999"]);
    for offset in [0u16, 1, 500, 999] {
        let listener = listen(&web.namespace, (ANY, 30_000 + offset));
        for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
            let mut flow = Flow::open(from, (to, 20_000 + offset), &listener).unwrap();
            flow.exchange().unwrap();
        }
    }
    for port in [19_999, 21_000] {
        dial(&scene.outside, (HOST, port)).expect_err("not published");
    }
    let rules = scene.json(&["nat"]);
    assert_eq!(
        rules["publish"].as_array().map(Vec::len),
        Some(1),
        "{rules}"
    );
    scene
        .pontoon(&["unpublish", "web", "-p", "20000-20999:30000-30999"])
        .success();
    let error = dial(&scene.outside, (HOST, 20_500)).expect_err("withdrawn");
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the host's own again"
    );
}

/// The work for a port must not grow with the ports there are. The bound leaves a debug build on a
/// busy machine ten times what it takes.
// Feature: publishing moby-14288
#[test]
fn thousands_of_single_ports_go_out_and_in_at_once() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    let specs: Vec<String> = (20_000..22_000).map(|port| format!("{port}:80")).collect();
    let all = |command| {
        let mut arguments = vec![command, "web"];
        arguments.extend(specs.iter().flat_map(|spec| ["-p", spec]));
        let started = Instant::now();
        scene.pontoon(&arguments).success();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(15), "{command}: {took:?}");
    };
    all("publish");
    let listener = listen(&web.namespace, (ANY, 80));
    for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
        for port in [20_000, 21_999] {
            let mut flow = Flow::open(from, (to, port), &listener).unwrap();
            flow.exchange().unwrap();
        }
    }
    all("unpublish");
    let error = dial(&scene.host, (LOOPBACK, 21_999)).expect_err("withdrawn");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

// Conforms: MOBY-41872
// Feature: publishing moby-41872 moby-45610
#[test]
fn a_loopback_binding_is_for_the_host_alone() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container(
        "web",
        &["-p", "127.0.0.1:8080:80", "-p", "192.0.2.9:8081:80"],
    );
    let other = scene.container("other", &[]);
    let listener = listen(&web.namespace, (ANY, 80));
    Flow::open(&scene.host, (LOOPBACK, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    for from in [&scene.outside, &other.namespace] {
        dial(from, (HOST, 8080)).expect_err("bound to loopback");
    }
    // moby#45610: a neighbour on the wire may put 127.0.0.1 into a frame.
    scene
        .outside
        .sh("sysctl -q net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1");
    scene.outside.sh("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 192.0.2.1 dev eth0 src 192.0.2.2");
    dial(&scene.outside, (LOOPBACK, 8080)).expect_err("loopback is not for the wire");

    Flow::open(&scene.outside, (HOST_SECOND, 8081), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    Flow::open(&scene.host, (HOST_SECOND, 8081), &listener)
        .unwrap()
        .exchange()
        .unwrap();
    dial(&scene.outside, (HOST, 8081)).expect_err("bound to the other address");
}

// Feature: publish-live moby-2045
#[test]
fn publishing_a_running_container_and_withdrawing_cuts_the_flows() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &[]);
    let listener = listen(&web.namespace, (ANY, 80));
    let refused = dial(&scene.outside, (HOST, 8080)).expect_err("not published yet");
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "by the host itself"
    );

    scene
        .pontoon(&["publish", "web", "-p", "8080:80", "-p", "5353:53/udp"])
        .success();
    let mut wire = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    let mut relayed = Flow::open(&scene.host, (LOOPBACK, 8080), &listener).unwrap();
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 5353), server);
    wire.exchange().unwrap();
    relayed.exchange().unwrap();
    datagrams.exchange(10).unwrap();

    scene
        .pontoon(&["unpublish", "web", "-p", "8080:80", "-p", "5353:53/udp"])
        .success();
    wire.exchange().expect_err("the flow from the wire is cut");
    relayed.exchange().expect_err("the relayed flow is cut");
    datagrams.exchange(10).expect_err("no stale UDP");
    let refused = dial(&scene.outside, (HOST, 8080)).expect_err("withdrawn");
    assert_eq!(
        refused.kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the host's own again"
    );
    dial(&scene.host, (LOOPBACK, 8080)).expect_err("withdrawn");

    // The port is free for the host's own use.
    let listener = listen(&scene.host, (ANY, 8080));
    Flow::open(&scene.outside, (HOST, 8080), &listener)
        .unwrap()
        .exchange()
        .unwrap();
}

// Conforms: CVE-2021-3773
// Feature: publishing
#[test]
fn a_taken_port_is_a_clear_error() {
    let Some(scene) = Scene::new() else { return };
    let _taken = listen(&scene.host, (ANY, 8080));
    let _taken_udp = bind_udp(&scene.host, (ANY, 5353));
    let web = scene.container("web", &[]);
    let before = scene.host_interfaces();
    for (spec, port) in [
        ("8080:80", "8080/tcp"),
        ("5353:53/udp", "5353/udp"),
        ("192.0.2.1:8080:80", "8080/tcp"),
        // One of a range.
        ("8070-8090:70-90", "8080/tcp"),
    ] {
        let error = scene.pontoon(&["publish", "web", "-p", spec]).failure();
        assert!(error.contains(port), "{spec}: {error}");
        assert!(error.contains("EADDRINUSE"), "{spec}: {error}");
        assert!(error.contains("another process"), "{spec}: {error}");
    }
    // All or nothing, for the container that is not there yet as well.
    let error = scene.pontoon(&[
        "run", "--name", "new", "-p", "9000:90", "-p", "8080:80", "--", "true",
    ]);
    assert!(error.failure().contains("8080/tcp"));
    assert_eq!(scene.host_interfaces(), before);
    assert!(!scene.json(&["ps", "-a"]).to_string().contains("new"));
    let rules = scene.json(&["nat"]);
    assert_eq!(
        rules["publish"].as_array().map(Vec::len),
        Some(0),
        "{rules}"
    );
    let listener = listen(&scene.host, (ANY, 9000));
    drop((listener, web));

    // Taken by pontoon itself: it can say by whom.
    let _first = scene.container("first", &["-p", "7000-7010:70-80"]);
    let _second = scene.container("second", &[]);
    let error = scene
        .pontoon(&["publish", "second", "-p", "7005:75"])
        .failure();
    assert!(error.contains("first"), "{error}");
}

#[test]
fn a_spec_that_means_nothing_is_quoted() {
    let Some(scene) = Scene::new() else { return };
    for spec in [
        "",
        ":",
        "80:",
        ":80:",
        "0:80",
        "80:0",
        "65536:80",
        "80:80/sctpp",
        "80-70:80-70",
        "8000-8010:80-95",
        "1.2.3:80:80",
        "300.1.1.1:80:80",
        "a:b",
        "80:80/tcp/udp",
        "-1:80",
    ] {
        let output = scene.pontoon(&["run", &format!("-p={spec}"), "--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{spec:?}: {output}");
        assert!(output.failure().contains(spec));
    }
    // An address that the host does not have can't be bound.
    let error = scene
        .pontoon(&["run", "-p", "198.18.0.1:80:80", "--", "true"])
        .failure();
    assert!(error.contains("198.18.0.1"), "{error}");
    assert_eq!(scene.json(&["ps", "-a"]).as_array().map(Vec::len), Some(0));
}

/// As a VPN does that comes up later, and knows a container's network better than the host.
#[test]
fn a_more_specific_route_of_the_host_takes_nothing_from_loopback() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    let listener = listen(&web.namespace, (ANY, 80));
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut before = Datagrams::open(&scene.host, (LOOPBACK, 5353), server.try_clone().unwrap());
    before.exchange(100).unwrap();
    scene.host.ip("tuntap add dev vpn0 mode tun");
    scene.host.ip("link set vpn0 up");
    for prefix in [24, 32] {
        let to = ipnet::IpNet::new(web.address, prefix).unwrap().trunc();
        scene.host.ip(&format!("route add {to} dev vpn0"));
        let mut flow = Flow::open(&scene.host, (LOOPBACK, 8080), &listener).unwrap();
        flow.exchange().unwrap();
        before.exchange(100).unwrap();
        let mut after = Datagrams::open(&scene.host, (LOOPBACK, 5353), server.try_clone().unwrap());
        after.exchange(100).unwrap();
    }
}
