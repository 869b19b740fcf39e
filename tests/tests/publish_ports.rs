//! Published ports as they are told: chosen host ports, `pontoon port`, counts, who is in the way.

use std::net::{IpAddr, TcpListener};

use nix::sys::signal::Signal;
use pontoon_tests::scene::{ANY, HOST, LOOPBACK, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen};
use pontoon_tests::{eventually, has_ipv6};
use serde_json::Value;
use std::time::Duration;

/// What `pontoon port` says, a line each.
fn port(scene: &Scene, arguments: &[&str]) -> Vec<String> {
    let told = scene.pontoon(&[&["port"], arguments].concat()).success();
    told.lines().map(str::to_owned).collect()
}

/// The port at the end of `0.0.0.0:49153`.
fn number(line: &str) -> u16 {
    let (_, port) = line.rsplit_once(':').expect("an address with a port");
    port.parse().expect("a port")
}

// Feature: publishing
#[test]
fn a_host_port_that_nobody_named_is_chosen_and_stays() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let options = [
        "-p",
        "80",
        "-p",
        "80/udp",
        "-p",
        "127.0.0.1::81",
        "-p",
        "7000-7099",
    ];
    let web = scene.container("web", &options);
    let before = port(&scene, &["web"]);
    let families = if has_ipv6() { 2 } else { 1 };
    assert_eq!(before.len(), 3 * families + 1, "{before:?}");
    let tcp = port(&scene, &["web", "80"]);
    assert_eq!(tcp.len(), families, "{tcp:?}");
    assert!(tcp[0].starts_with("0.0.0.0:"), "{tcp:?}");
    assert!(
        before.contains(&format!("80/tcp -> {}", tcp[0])),
        "{before:?}"
    );
    let chosen = number(&tcp[0]);
    assert!((32768..=60999).contains(&chosen), "{chosen}");
    let ranged = number(&port(&scene, &["web", "7042"])[0]);

    let reached = |scene: &Scene| {
        for (inner, outer) in [(80, chosen), (7042, ranged)] {
            let listener = listen(&web.namespace, (ANY, inner));
            for (from, to) in [(&scene.outside, HOST), (&scene.host, LOOPBACK)] {
                let mut flow = Flow::open(from, (to, outer), &listener).unwrap();
                flow.exchange().unwrap();
            }
        }
    };
    reached(&scene);
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    assert_eq!(port(&scene, &["web"]), before);
    reached(&scene);

    // It is withdrawn as it was asked for.
    scene.pontoon(&["unpublish", "web", "-p", "80"]).success();
    dial(&scene.outside, (HOST, chosen)).expect_err("withdrawn");
    let error = scene.pontoon(&["port", "web", "80"]).failure();
    assert!(error.contains("web publishes no port 80/tcp"), "{error}");
    assert_eq!(port(&scene, &["web", "80/udp"]).len(), families);

    // Somebody else's ports are passed over: all but one of a small range are taken. The daemon
    // itself holds some for outgoing flows, chosen at random.
    let is_free = |port: u16| {
        let bound = scene.host.within(|| TcpListener::bind((ANY, port)));
        bound.is_ok()
    };
    let mut starts = (40_000..60_000).step_by(4);
    let first = starts
        .find(|&first| (first..first + 4).all(is_free))
        .expect("four ports in a row that are free");
    let last = first + 3;
    scene.host.sh(&format!(
        "echo {first} {last} >/proc/sys/net/ipv4/ip_local_port_range"
    ));
    let _taken = [0, 1, 3].map(|it| listen(&scene.host, (ANY, first + it)));
    scene.pontoon(&["publish", "web", "-p", "90"]).success();
    assert_eq!(number(&port(&scene, &["web", "90"])[0]), first + 2);
    let error = scene.pontoon(&["publish", "web", "-p", "91"]).failure();
    assert!(
        error.contains(&format!("no port free from {first} to {last}")),
        "{error}"
    );
    let error = scene.pontoon(&["publish", "web", "-p", "91-95"]).failure();
    assert!(error.contains("no 5 ports in a row"), "{error}");
}

/// `[to the container, from it]`.
fn pair(value: &Value) -> (u64, u64) {
    let number = |at: usize| value[at].as_u64().expect("a number");
    (number(0), number(1))
}

// Feature: publishing metrics
#[test]
fn what_comes_by_a_published_port_is_counted() {
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let other = scene.container("other", &[]);
    let traffic = |port: &str| scene.json(&["port", "web", port])[0]["traffic"].clone();
    assert_eq!(traffic("80")["connections"], 0);

    let listener = listen(&web.namespace, (ANY, 80));
    let mut wire = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    wire.transfer(1 << 20).unwrap();
    let mut hairpin = Flow::open(&other.namespace, (HOST, 8080), &listener).unwrap();
    hairpin.exchange().unwrap();
    let mut relayed = Flow::open(&scene.host, (LOOPBACK, 8080), &listener).unwrap();
    relayed.exchange().unwrap();
    let told = traffic("80");
    assert_eq!(
        (&told["connections"], &told["active"]),
        (&2.into(), &2.into())
    );
    let (bytes, answers) = pair(&told["bytes"]);
    assert!(bytes > 1 << 20 && answers > 0 && answers < bytes, "{told}");
    let (packets, answers) = pair(&told["packets"]);
    assert!(packets >= 20 && answers >= 6, "{told}");
    eventually("the relay has counted", Duration::from_secs(5), || {
        let relayed = traffic("80")["relayed"].clone();
        let whole = relayed["connections"] == 1 && pair(&relayed["bytes"]) == (10, 14);
        whole.then_some(()).ok_or(relayed.to_string())
    });

    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 5300), server);
    for _ in 0..5 {
        datagrams.exchange(100).unwrap();
    }
    let told = traffic("53/udp");
    assert_eq!(told["connections"], 1);
    assert_eq!(pair(&told["packets"]), (5, 5));
    assert_eq!(pair(&told["bytes"]), (640, 640), "IP, UDP and 100 bytes");

    let (status, page) = scene.request("GET", "/v1/metrics", None).unwrap();
    assert_eq!(status, 200, "{page}");
    let port =
        "container=\"web\",protocol=\"udp\",host_ip=\"*\",host_port=\"5300\",container_port=\"53\"";
    for line in [
        format!("pontoon_published_packets_total{{{port},direction=\"in\"}} 5"),
        format!("pontoon_published_connections_total{{{port},path=\"switched\"}} 1"),
        "# TYPE pontoon_dropped_frames_total counter".to_owned(),
    ] {
        assert!(page.lines().any(|it| it == line), "no {line} in\n{page}");
    }

    // They outlive their connections, other ports and a new list, and go with the port.
    drop((wire, hairpin, relayed));
    scene
        .pontoon(&["publish", "web", "-p", "8081:81"])
        .success();
    scene
        .pontoon(&["publish", "web", "-p", "5300:53/udp,allow=198.51.100.0/24"])
        .success();
    let told = traffic("53/udp");
    assert_eq!(
        (&told["connections"], &told["active"]),
        (&1.into(), &0.into())
    );
    assert_eq!(pair(&told["packets"]), (5, 5));
    scene
        .pontoon(&["unpublish", "web", "-p", "5300:53/udp"])
        .success();
    scene
        .pontoon(&["publish", "web", "-p", "5300:53/udp"])
        .success();
    assert_eq!(traffic("53/udp")["connections"], 0);
}

// Feature: publishing
#[test]
fn who_is_in_the_way_is_named() {
    let Some(scene) = Scene::new() else { return };
    let _taken = listen(&scene.host, (LOOPBACK, 8085));
    let _taken_udp = bind_udp(&scene.host, (HOST, 5353));
    let _web = scene.container("web", &[]);
    let me = format!("(pid {})", std::process::id());
    let spec_and_where: [(&str, &str, IpAddr); 3] = [
        ("8085:80", "8085/tcp", LOOPBACK),
        // The first of a range that is taken.
        ("8080-8089:80-89", "8085/tcp", LOOPBACK),
        ("5353:53/udp", "5353/udp", HOST),
    ];
    for (spec, port, address) in spec_and_where {
        let error = scene.pontoon(&["publish", "web", "-p", spec]).failure();
        let number = port.split('/').next().expect("a port");
        for expected in [port, &me, &format!("at {address}:{number}"), "EADDRINUSE"] {
            assert!(
                error.contains(expected),
                "{spec}: {expected} is not in {error}"
            );
        }
    }
    let _first = scene.container("first", &["-p", "7000-7010:70-80"]);
    let error = scene
        .pontoon(&["publish", "web", "-p", "7005-7020:75-90"])
        .failure();
    assert!(
        error.contains("port 7005/tcp is published for container first"),
        "{error}"
    );
}
