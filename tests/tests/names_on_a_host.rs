//! What the host does to itself does not take containers' names away: its firewall, its programs
//! at port 53, its routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use pontoon_tests::dns::{A, AAAA, ask, ask_by_tcp, try_ask};
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::{ANY, ANY6, Container, PORT_KINDS, Scene};
use pontoon_tests::traffic::{bind_udp, listen};
use pontoon_tests::{eventually, has_ipv6, skip};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1)), 53);

/// Where the names of a network are asked for, of both families.
fn servers(scene: &Scene, network: &str) -> Vec<SocketAddr> {
    let told = scene.json(&["network", "inspect", network]);
    let gateways = told["gateways"].as_array().expect("gateways").iter();
    let gateways = gateways.filter_map(|it| it.as_str()?.parse().ok());
    let gateways = gateways.map(|gateway: IpAddr| SocketAddr::new(gateway, 53));
    gateways.chain([LOCAL]).collect()
}

/// One container's name and addresses are known in another, wherever it asks, by UDP and TCP.
#[track_caller]
fn knows(from: &Namespace, servers: &[SocketAddr], name: &str, of: &Container) {
    for &server in servers {
        for address in &of.addresses {
            let kind = if address.is_ipv6() { AAAA } else { A };
            let told = ask(from, server, name, kind).addresses();
            assert_eq!(told, [*address], "{server}");
            let told = ask_by_tcp(from, server, name, kind).addresses();
            assert_eq!(told, [*address], "{server} by TCP");
        }
    }
}

// Feature: names
#[test]
fn a_firewall_that_drops_all_input_takes_no_names_away() {
    for kind in PORT_KINDS {
        let Some(mut scene) = Scene::with_port_kind(kind) else {
            return;
        };
        let rules = "table inet f { chain i { type filter hook input priority 0; policy drop; }; }";
        let nft = format!("nft '{rules}' 2>&1 || echo refused");
        if scene.host.sh(&nft).contains("refused") {
            return skip("nft does not work here");
        }
        let inner = ["network", "create", "--internal", "inner"];
        scene.pontoon(&inner).success();
        let web = scene.container("web", &[]);
        let db = scene.container("db", &[]);
        let a = scene.container("a", &["--net", "inner"]);
        let b = scene.container("b", &["--net", "inner"]);
        let families = if has_ipv6() { 2 } else { 1 };
        assert_eq!(db.addresses.len(), families);
        for _ in 0..2 {
            knows(&web.namespace, &servers(&scene, "bridge"), "db", &db);
            knows(&a.namespace, &servers(&scene, "inner"), "b", &b);
            scene.end_daemon(Signal::SIGKILL);
            scene.start_daemon();
        }
        // A network that has the addresses of one that is gone.
        let subnet = scene.json(&["network", "inspect", "inner"])["subnets"].clone();
        for name in ["a", "b"] {
            scene.pontoon(&["detach", name]).success();
        }
        drop((a, b));
        scene.pontoon(&["network", "rm", "inner"]).success();
        let subnet = subnet[0].as_str().expect("a subnet").to_owned();
        let again = [
            "network", "create", "again", "--subnet", &subnet, "--mtu", "600",
        ];
        scene.pontoon(&again).success();
        let a = scene.container("a", &["--net", "again"]);
        let b = scene.container("b", &["--net", "again"]);
        knows(&a.namespace, &servers(&scene, "again"), "b", &b);
        scene.host.sh("nft flush ruleset");
    }
}

// Feature: names
#[test]
fn a_program_of_the_host_at_port_53_takes_no_names_away() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    // Of both families, where there are two.
    let all = if has_ipv6() { ANY6 } else { ANY };
    let _held = (
        bind_udp(&scene.host, (all, 53)),
        listen(&scene.host, (all, 53)),
    );
    scene.start_daemon();
    let web = scene.container("web", &[]);
    let db = scene.container("db", &[]);
    knows(&web.namespace, &servers(&scene, "bridge"), "db", &db);
    // And sysctls that refuse what comes by another interface than its answers would leave by.
    scene
        .host
        .sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1");
    knows(&web.namespace, &servers(&scene, "bridge"), "db", &db);
}

// Feature: names dns-forwarding
#[test]
fn answers_take_the_way_that_the_questions_came() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let web = scene.container("web", &[]);
    let db = scene.container("db", &[]);
    let known = |scene: &Scene| {
        let loopback = SocketAddr::new(IpAddr::from([127, 0, 0, 11]), 53);
        for server in [GATEWAY, loopback] {
            assert_eq!(
                ask(&web.namespace, server, "db", A).addresses(),
                [db.address]
            );
            let answer = ask_by_tcp(&web.namespace, server, "db", A);
            assert_eq!(answer.addresses(), [db.address], "by TCP");
        }
        // The host itself asks by its loopback.
        assert_eq!(
            ask(&scene.host, GATEWAY, "db.bridge", A).addresses(),
            [db.address]
        );
    };
    known(&scene);
    // A VPN comes up, with routes that are more specific than the network's.
    scene.host.ip("tuntap add dev vpn0 mode tun");
    scene.host.ip("link set vpn0 up");
    scene.host.ip("route add 172.17.0.0/24 dev vpn0");
    known(&scene);
    // The next daemon, and an interface that was made anew.
    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    known(&scene);
    scene.host.ip("link del pontoon0");
    eventually("it is there again", Duration::from_secs(10), || {
        try_ask(&web.namespace, GATEWAY, "db", A)
            .map(drop)
            .ok_or("no answer".to_owned())
    });
    known(&scene);
}
