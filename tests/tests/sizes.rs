//! Packets that are larger than a link carries, on real namespaces: fragments through the NAT, and
//! senders who learn the size that fits.

use std::net::IpAddr;
use std::time::Duration;

use pontoon_tests::process::run;
use pontoon_tests::scene::{ANY, ANY6, BEYOND, BEYOND6, Container, HOST, HOST6, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen, ping_with};
use pontoon_tests::wire::Witness;
use pontoon_tests::{eventually, has_ipv6_or_skip};

/// The largest that a UDP datagram over IPv4 can be is 65,507 bytes.
const LARGE: usize = 60_000;

/// Makes the uplink carry so many bytes, and waits until the daemon knows.
fn set_uplink_mtu(scene: &Scene, container: &Container, mtu: u32) {
    for namespace in [&scene.host, &scene.outside] {
        namespace.ip(&format!("link set eth0 mtu {mtu}"));
    }
    let too_long = (mtu - 27).to_string();
    eventually(
        "the uplink's MTU is followed",
        Duration::from_secs(10),
        || {
            let told = try_ping(container, BEYOND, &["-M", "do", "-s", &too_long, "-c", "1"]);
            let expected = format!("mtu = {mtu}");
            told.contains(&expected).then_some(()).ok_or(told)
        },
    );
}

/// What `ping` says with these options, whether it is answered or not.
fn try_ping(from: &Container, to: IpAddr, options: &[&str]) -> String {
    let mut command = from.namespace.command("ping");
    command.args(["-n", "-W", "1"]).args(options);
    run(command.arg(to.to_string())).stdout
}

// Conforms: RFC4787-14 OVS-frag-nat PROOF-end-to-end
// Feature: nat-state
#[test]
fn large_datagrams_pass_the_nat_in_fragments() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let web = scene.container("web", &["-p", "5353:53/udp"]);
        let client = scene.container("client", &[]);
        for container in [&web, &client] {
            ping_with(&container.namespace, BEYOND, &["-s", "60000"]).success();
        }
        // Masqueraded, two containers at once: their identifications may well be the same.
        let mut masqueraded: Vec<Datagrams> = [(&web, 5001), (&client, 5002)]
            .into_iter()
            .map(|(container, port)| {
                let server = bind_udp(&scene.outside, (BEYOND, port));
                Datagrams::open(&container.namespace, (BEYOND, port), server)
            })
            .collect();
        // Published; from outside, and from another container by the host's address.
        let server = bind_udp(&web.namespace, (ANY, 53));
        let again = server.try_clone().unwrap();
        let mut published = Datagrams::open(&scene.outside, (HOST, 5353), server);
        let mut hairpin = Datagrams::open(&client.namespace, (HOST, 5353), again);
        for _ in 0..20 {
            for datagrams in &mut masqueraded {
                assert_eq!(datagrams.exchange(LARGE).unwrap().ip(), HOST);
            }
            published.exchange(LARGE).unwrap();
            assert_eq!(hairpin.exchange(LARGE).unwrap().ip(), HOST);
        }
        // The host's own services hear theirs too.
        let server = bind_udp(&scene.host, (HOST, 123));
        let again = server.try_clone().unwrap();
        let mut from_inside = Datagrams::open(&client.namespace, (HOST, 123), server);
        let mut from_outside = Datagrams::open(&scene.outside, (HOST, 123), again);
        from_inside.exchange(LARGE).unwrap();
        from_outside.exchange(LARGE).unwrap();
        for reason in ["FragmentOverlap", "FragmentLimit", "FragmentInvalid"] {
            assert_eq!(scene.drops(reason), 0, "{reason}");
        }
    }
}

// Conforms: RFC4787-13 SWITCH-mtu-super-frames SWITCH-mtu-fragments
// Feature: nat-state mtu
#[test]
fn a_narrow_uplink_is_told_of_and_lived_with() {
    for port_kind in PORT_KINDS {
        let Some(scene) = Scene::with_port_kind(port_kind) else {
            return;
        };
        let a = scene.container("a", &["-p", "8080:80"]);
        set_uplink_mtu(&scene, &a, 1400);
        // The container's kernel remembers what it was told; let it hear once more.
        a.namespace.ip("route flush cache");
        let told = try_ping(&a, BEYOND, &["-M", "do", "-s", "1450", "-c", "1"]);
        let gateway = "From 172.17.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)";
        assert!(told.contains(gateway), "{told}");
        ping_with(&a.namespace, BEYOND, &["-M", "do", "-s", "1372"]).success();
        assert!(scene.drops("MtuExceeded") > 0);

        // Without knowledge of the path, TCP and its super-frames find out and go on.
        a.namespace.ip("route flush cache");
        let listener = listen(&scene.outside, (BEYOND, 80));
        let mut flow = Flow::open(&a.namespace, (BEYOND, 80), &listener).unwrap();
        flow.transfer(20 << 20).unwrap();
        let listener = listen(&a.namespace, (ANY, 80));
        let mut flow = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
        flow.transfer(20 << 20).unwrap();
        std::mem::swap(&mut flow.client, &mut flow.server);
        flow.transfer(20 << 20).unwrap();

        // What may be fragmented is, by the gateway: the container's interface takes it whole.
        a.namespace.ip("route flush cache");
        ping_with(&a.namespace, BEYOND, &["-M", "dont", "-s", "1450"]).success();
        ping_with(&a.namespace, BEYOND, &["-M", "dont", "-s", "60000"]).success();
    }
}

// Conforms: RFC4787-13 RFC4787-14 IPV6-nat66 IPV6-publishing
#[test]
fn sizes_of_ipv6() {
    if !has_ipv6_or_skip() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let web = scene.container("web", &["-p", "5353:53/udp", "-p", "8080:80"]);
    let server = bind_udp(&scene.outside, (BEYOND6, 5001));
    let mut masqueraded = Datagrams::open(&web.namespace, (BEYOND6, 5001), server);
    let server = bind_udp(&web.namespace, (ANY6, 53));
    let mut published = Datagrams::open(&scene.outside, (HOST6, 5353), server);
    for _ in 0..20 {
        assert_eq!(masqueraded.exchange(LARGE).unwrap().ip(), HOST6);
        published.exchange(LARGE).unwrap();
    }
    ping_with(&web.namespace, BEYOND6, &["-s", "60000"]).success();

    set_uplink_mtu(&scene, &web, 1400);
    let told = try_ping(&web, BEYOND6, &["-M", "do", "-s", "1400", "-c", "1"]);
    assert!(told.contains("Packet too big: mtu=1400"), "{told}");
    let listener = listen(&scene.outside, (BEYOND6, 80));
    let mut flow = Flow::open(&web.namespace, (BEYOND6, 80), &listener).unwrap();
    flow.transfer(20 << 20).unwrap();
    let listener = listen(&web.namespace, (ANY6, 80));
    let mut flow = Flow::open(&scene.outside, (HOST6, 8080), &listener).unwrap();
    flow.transfer(20 << 20).unwrap();
    std::mem::swap(&mut flow.client, &mut flow.server);
    flow.transfer(20 << 20).unwrap();
}

// Conforms: RFC4787-13
#[test]
fn a_peer_outside_is_told_what_a_narrow_network_takes() {
    let Some(scene) = Scene::new() else { return };
    let options = ["network", "create", "narrow", "--mtu", "1400"];
    scene.pontoon(&options).success();
    let web = scene.container("web", &["--net", "narrow", "-p", "5353:53/udp"]);
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut published = Datagrams::open(&scene.outside, (HOST, 5353), server);
    published.exchange(100).unwrap();
    // Linux sets DF on UDP: the first one is lost, its socket is told so, and those that follow are
    // fragments.
    published.exchange(1450).unwrap_err();
    let told = published.exchange(1450).unwrap_err();
    assert_eq!(told.raw_os_error(), Some(nix::libc::EMSGSIZE), "{told}");
    let route = scene.outside.ip(&format!("route get {HOST}"));
    assert!(route.contains("mtu 1400"), "{route}");
    published.exchange(1450).unwrap();
    published.exchange(LARGE).unwrap();
    assert_eq!(scene.drops("MtuExceeded"), 1);
}

// Conforms: SWITCH-mss-clamp
// Feature: nat-state
#[test]
fn the_segment_size_is_clamped_when_asked_for() {
    for (options, expected) in [(&["--clamp-mss"][..], "mss 1360"), (&[], "mss 1460")] {
        let options = [&["--workers", "1"], options].concat();
        let Some(scene) = Scene::with_daemon_options(&options) else {
            return;
        };
        let a = scene.container("a", &[]);
        set_uplink_mtu(&scene, &a, 1400);
        let syns = "tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack = 0";
        let witness = Witness::start(&scene.outside, "eth0", syns);
        a.namespace.ip("route flush cache");
        let _listener = listen(&scene.outside, (BEYOND, 80));
        dial(&a.namespace, (BEYOND, 80)).unwrap();
        let seen = witness.stop().join("\n");
        assert!(seen.contains(expected), "{seen}");
    }
}
