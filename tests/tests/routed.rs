//! Networks that do not masquerade, beside those that do, and those that do by a chosen address.

use std::io::ErrorKind;
use std::net::IpAddr;

use pontoon_tests::has_ipv6;
use pontoon_tests::scene::{
    ANY, ANY6, BEYOND, BEYOND6, HOST, HOST_SECOND, HOST6, HOST6_SECOND, OUTSIDE, OUTSIDE6, Scene,
};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen, ping};
use pontoon_tests::wire::Witness;

/// The unspecified address, one beyond the wire, the outside's on it and the host's, by family.
fn worlds() -> Vec<[IpAddr; 4]> {
    let mut worlds = vec![[ANY, BEYOND, OUTSIDE, HOST]];
    if has_ipv6() {
        worlds.push([ANY6, BEYOND6, OUTSIDE6, HOST6]);
    }
    worlds
}

/// A network whose containers keep their addresses, to which the outside knows the way.
fn routed_network(scene: &Scene) {
    let mut create = vec!["network", "create", "routed", "--no-masquerade"];
    create.extend(["--subnet", "10.77.0.0/24"]);
    scene
        .outside
        .ip(&format!("route add 10.77.0.0/24 via {HOST}"));
    if has_ipv6() {
        create.extend(["--subnet", "2001:db8:77::/64"]);
        scene
            .outside
            .ip(&format!("route add 2001:db8:77::/64 via {HOST6}"));
    }
    scene.pontoon(&create).success();
}

// Feature: masquerade publishing source-preserved
#[test]
fn without_masquerading_containers_keep_their_addresses() {
    let Some(scene) = Scene::new() else { return };
    routed_network(&scene);
    let a = scene.container("a", &["--net", "routed", "-p", "8080:80"]);
    let masqueraded = scene.container("b", &[]);
    let witness = Witness::start(
        &scene.outside,
        "eth0",
        "tcp[tcpflags] & tcp-rst != 0 or icmp[icmptype] = icmp-unreach or (icmp6 and ip6[40] = 1)",
    );
    for [any, beyond, outside, host] in worlds() {
        let own = *a
            .addresses
            .iter()
            .find(|it| it.is_ipv4() == any.is_ipv4())
            .expect("an address of each family");
        ping(&a.namespace, beyond).success();
        let listener = listen(&scene.outside, (any, 80));
        let mut flow = Flow::open(&a.namespace, (beyond, 80), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), own);
        flow.transfer(5 << 20).unwrap();
        flow.exchange().unwrap();
        let mut other = Flow::open(&masqueraded.namespace, (beyond, 80), &listener).unwrap();
        assert_eq!(
            other.seen_by_server(),
            host,
            "the other network's is masqueraded"
        );
        other.exchange().unwrap();
        let server = bind_udp(&scene.outside, (beyond, 53));
        let mut datagrams = Datagrams::open(&a.namespace, (beyond, 53), server);
        assert_eq!(datagrams.exchange(1000).unwrap().ip(), own);
        // In fragments too, of which the filter knows no port.
        assert_eq!(datagrams.exchange(5000).unwrap().ip(), own);

        // From outside only what is published is reached, and by the host's address.
        let inside = listen(&a.namespace, (any, 80));
        let error = dial(&scene.outside, (own, 80)).expect_err("nobody let it in");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut flow = Flow::open(&scene.outside, (host, 8080), &inside).unwrap();
        assert_eq!(flow.seen_by_server(), outside);
        flow.exchange().unwrap();
    }
    assert_eq!(witness.stop(), Vec::<String>::new());
    let rules = scene.json(&["nat"])["masquerade"].to_string();
    assert!(
        rules.contains("bridge") && !rules.contains("routed"),
        "{rules}"
    );
}

// Feature: masquerade
#[test]
fn masquerading_by_a_chosen_address_of_each_family() {
    let Some(scene) = Scene::new() else { return };
    let chosen = [HOST_SECOND.to_string(), HOST6_SECOND.to_string()];
    let mut create = vec!["network", "create", "chosen"];
    create.extend(["--masquerade-address", &chosen[0]]);
    if has_ipv6() {
        create.extend(["--masquerade-address", &chosen[1], "--ipv6"]);
    }
    scene.pontoon(&create).success();
    let a = scene.container("a", &["--net", "chosen"]);
    for [any, beyond, _, host] in worlds() {
        let second = if host.is_ipv4() {
            HOST_SECOND
        } else {
            HOST6_SECOND
        };
        ping(&a.namespace, beyond).success();
        let listener = listen(&scene.outside, (any, 80));
        let mut flow = Flow::open(&a.namespace, (beyond, 80), &listener).unwrap();
        assert_eq!(flow.seen_by_server(), second);
        flow.transfer(1 << 20).unwrap();
        let server = bind_udp(&scene.outside, (beyond, 53));
        let mut datagrams = Datagrams::open(&a.namespace, (beyond, 53), server);
        assert_eq!(datagrams.exchange(1000).unwrap().ip(), second);
    }
    for (options, why) in [
        (
            ["--no-masquerade", "--internal"],
            "nothing leaves an internal network",
        ),
        (
            ["--no-masquerade", "--masquerade-to=192.0.2.9"],
            "means nothing to a network",
        ),
        (
            ["--masquerade-to=192.0.2.1", "--masquerade-to=192.0.2.9"],
            "name one of a family",
        ),
    ] {
        let create = [&["network", "create", "x"], &options[..]].concat();
        let error = scene.pontoon(&create).failure();
        assert!(error.contains(why), "{options:?}: {error}");
    }
}
