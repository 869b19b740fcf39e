//! What a network's switch is told when the network is made, and what the engine is told when the
//! daemon starts: each does what it says, where it can be seen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::eventually;
use pontoon_tests::scene::{ANY, BEYOND, Container, HOST, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen};
use pontoon_tests::wire::{RawPort, Witness, ethernet};

/// A scene's network with these options, and so many containers on it.
fn network(scene: &Scene, options: &[&str], containers: &[&str]) -> Vec<Container> {
    scene
        .pontoon(&[&["network", "create", "own"], options].concat())
        .success();
    let attach = |name: &&str| scene.container(name, &["--net", "own"]);
    containers.iter().map(attach).collect()
}

fn remove(scene: &Scene, containers: &[&str]) {
    for name in containers {
        scene.pontoon(&["detach", name]).success();
    }
    scene.pontoon(&["network", "rm", "own"]).success();
}

// Conforms: SWITCH-mss-clamp
// Feature: nat-state
#[test]
fn a_network_s_segment_size_is_clamped_when_asked_for() {
    let Some(scene) = Scene::new() else { return };
    for (options, expected) in [
        (&["--mtu", "9000", "--mss-clamp"][..], "mss 1460"),
        (&["--mtu", "9000"], "mss 8960"),
    ] {
        let containers = network(&scene, options, &["a"]);
        let syns = "tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack = 0";
        let witness = Witness::start(&scene.outside, "eth0", syns);
        let _listener = listen(&scene.outside, (BEYOND, 80));
        dial(&containers[0].namespace, (BEYOND, 80)).unwrap();
        let seen = witness.stop().join("\n");
        assert!(seen.contains(expected), "{options:?}: {seen}");
        remove(&scene, &["a"]);
    }
    // What comes from the world too: the host's interface is as wide as the network's.
    for namespace in [&scene.host, &scene.outside] {
        namespace.ip("link set eth0 mtu 9000");
    }
    let options = ["--mtu", "9000", "--mss-clamp"];
    let containers = network(&scene, &options, &["b"]);
    scene.pontoon(&["publish", "b", "-p", "8080:80"]).success();
    scene.host.ip("link set eth0 mtu 1400");
    let _listener = listen(&containers[0].namespace, (ANY, 80));
    let syns = "tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack = 0";
    eventually(
        "the uplink's MTU is followed",
        Duration::from_secs(10),
        || {
            let witness = Witness::start(&containers[0].namespace, "eth0", syns);
            dial(&scene.outside, (HOST, 8080)).map_err(|error| error.to_string())?;
            let seen = witness.stop().join("\n");
            seen.contains("mss 1360").then_some(()).ok_or(seen)
        },
    );
}

/// Frames with this EtherType that came by now.
fn heard(port: &RawPort, ethertype: u16) -> usize {
    std::iter::from_fn(|| port.receive())
        .filter(|frame| frame.get(12..14) == Some(&ethertype.to_be_bytes()))
        .count()
}

// Feature: switching
#[test]
fn a_network_s_storm_limits_are_its_own() {
    const ETHERTYPE: u16 = 0x88b5;
    let Some(scene) = Scene::new() else { return };
    for (options, least, most) in [
        (&["--storm-broadcast", "10"][..], 10, 20),
        (&["--storm-broadcast", "off"], 300, 300),
    ] {
        let containers = network(&scene, options, &["a", "b"]);
        let [a, b] = [0, 1].map(|it: usize| RawPort::open(&containers[it].namespace, "eth0"));
        let before = scene.drops("BroadcastStorm");
        for _ in 0..300 {
            a.send(&ethernet([0xff; 6], a.mac, ETHERTYPE, &[0; 46]))
                .unwrap();
        }
        let count = heard(&b, ETHERTYPE);
        assert!((least..=most).contains(&count), "{options:?}: {count}");
        let dropped = scene.drops("BroadcastStorm") - before;
        assert_eq!(dropped as usize, 300 - count, "{options:?}");
        remove(&scene, &["a", "b"]);
    }
    network(&scene, &["--storm-multicast", "7", "--querier=false"], &[]);
    let told = scene.json(&["network", "inspect", "own"]);
    let bridge = &told.get(0).unwrap_or(&told)["options"]["bridge"];
    let expected = serde_json::json!({
        "snooping": true,
        "querier": false,
        "storm": { "broadcast": 2000, "multicast": 7, "unknown_unicast": 2000 },
    });
    assert_eq!(*bridge, expected);
}

// Feature: snooping
#[test]
fn a_network_snoops_and_asks_who_listens_unless_told_not_to() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
    let Some(scene) = Scene::new() else { return };
    // What a bystander hears: reports of others only where nobody snoops, questions of the gateway.
    for (options, reports, questions) in [
        (&[][..], false, true),
        (&["--snooping=false"], true, false),
        (&["--querier=false"], false, false),
    ] {
        let containers = network(&scene, options, &["a", "b"]);
        let witness = Witness::start(&containers[1].namespace, "eth0", "igmp");
        let IpAddr::V4(own) = containers[0].address else {
            panic!("an IPv4 address comes first")
        };
        let member = bind_udp(&containers[0].namespace, (ANY, 5000));
        member.join_multicast_v4(&GROUP, &own).unwrap();
        // The first question comes within a second, each report at the latest one after it.
        std::thread::sleep(Duration::from_secs(3));
        let seen = witness.stop();
        let says = |from: IpAddr, what: &str| {
            let from = format!("IP {from} > ");
            let mut lines = seen.iter();
            lines.any(|line| line.contains(&from) && line.contains(what))
        };
        assert_eq!(says(own.into(), "report"), reports, "{options:?}: {seen:?}");
        let gateway = scene.json(&["inspect", "a"])["endpoints"][0]["gateways"][0].take();
        let gateway = gateway.as_str().and_then(|it| it.parse().ok());
        let asked = says(gateway.expect("a gateway"), "query");
        assert_eq!(asked, questions, "{options:?}: {seen:?}");
        remove(&scene, &["a", "b"]);
    }
}

// Feature: quotas nat-state
#[test]
fn the_table_is_bounded_as_the_daemon_is_told() {
    let options = [
        "--workers",
        "1",
        "--max-connections",
        "1000",
        "--max-connections-per-address",
        "20",
        "--udp-timeout",
        "2s",
        "--tcp-established-timeout",
        "3h",
    ];
    let Some(scene) = Scene::with_daemon_options(&options) else {
        return;
    };
    let a = scene.container("a", &[]);
    let b = scene.container("b", &[]);
    let info = scene.json(&["info"]);
    let engine = &info["engine"];
    assert_eq!(engine["max_connections"], 1000, "{info}");
    assert_eq!(engine["max_connections_per_address"], 20, "{info}");
    assert_eq!(engine["udp_timeout"], 2.0, "{info}");
    assert_eq!(engine["tcp_established_timeout"], 10_800.0, "{info}");
    let told = scene.pontoon(&["info"]).success();
    assert!(
        told.contains("of 1000") && told.contains("TCP 3h"),
        "{told}"
    );

    let count = |of: IpAddr| {
        let connections = scene.json(&["conntrack"]);
        let rows = connections.as_array().expect("a list");
        let of = of.to_string();
        rows.iter()
            .filter(|row| row["original"]["src"] == of)
            .count()
    };
    for _ in 0..50 {
        bind_udp(&a.namespace, (a.address, 0))
            .send_to(b"!", SocketAddr::from((BEYOND, 9)))
            .unwrap();
    }
    eventually("the quota is used", Duration::from_secs(1), || {
        let count = count(a.address);
        (count == 20).then_some(()).ok_or(count.to_string())
    });
    // Who asks for no more than his share is served all the while.
    let server = bind_udp(&scene.outside, (BEYOND, 7));
    let mut exchange = Datagrams::open(&b.namespace, (BEYOND, 7), server);
    exchange.exchange(100).unwrap();
    eventually("silent flows are forgotten", Duration::from_secs(8), || {
        let count = count(a.address);
        (count == 0).then_some(()).ok_or(count.to_string())
    });

    let mut command = scene.daemon_command();
    let refused = pontoon_tests::process::run(command.args(["--icmp-timeout", "10ms"]));
    assert!(refused.failure().contains("1s is the least"));
}

// Feature: nat-state
#[test]
fn a_connection_is_picked_up_in_its_middle_unless_told_not_to() {
    for (options, lives) in [
        (&["--workers", "1"][..], true),
        (&["--workers", "1", "--pick-up-tcp=false"], false),
    ] {
        let Some(mut scene) = Scene::with_daemon_options(options) else {
            return;
        };
        let a = scene.container("a", &["-p", "8080:80"]);
        let listener = listen(&a.namespace, (ANY, 80));
        let mut flow = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
        flow.exchange().unwrap();
        scene.end_daemon(Signal::SIGKILL);
        scene.start_daemon();
        assert_eq!(flow.exchange().is_ok(), lives, "{options:?}");
        // A new one is made in either case.
        Flow::open(&scene.outside, (HOST, 8080), &listener)
            .unwrap()
            .exchange()
            .unwrap();
    }
}
