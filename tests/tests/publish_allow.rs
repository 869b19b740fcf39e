//! Published ports that are for some sources alone: on every path, both families, both protocols.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use nix::sys::signal::Signal;
use pontoon_tests::has_ipv6;
use pontoon_tests::namespace::Namespace;
use pontoon_tests::scene::{ANY, ANY6, HOST, HOST6, LOOPBACK, LOOPBACK6, OUTSIDE, OUTSIDE6, Scene};
use pontoon_tests::traffic::{Datagrams, Flow, bind_udp, dial, listen};
use pontoon_tests::wire::Witness;

/// For the outside host, for somebody else outside, and for the host's loopback and the containers.
const NEIGHBOURS: &str = ",allow=192.0.2.0/24,allow=2001:db8:1::/64";
const OTHERS: &str = ",allow=198.51.100.7,allow=2001:db8:7::7";
const INSIDERS: &str = ",allow=127.0.0.0/8,allow=::1,allow=172.17.0.0/16,allow=fd00::/8";

/// A container of an internal network reaches no published port, and a list opens none to it: the
/// relay, which hears what is sent to the gateway's address, is a service of the host's.
// Feature: allow-list isolation
#[test]
fn no_list_opens_a_port_to_an_internal_network() {
    let Some(scene) = Scene::new() else { return };
    let create = [
        "network",
        "create",
        "dark",
        "--internal",
        "--subnet",
        "10.66.0.0/24",
    ];
    scene.pontoon(&create).success();
    let specs = ["8080:80,allow=10.66.0.0/24", "8081:80,allow=192.0.2.0/24"];
    let web = scene.container("web", &["-p", specs[0], "-p", specs[1]]);
    let dark = scene.container("dark", &["--net", "dark"]);
    let gateway: IpAddr = [10, 66, 0, 1].into();
    let listener = listen(&web.namespace, (ANY, 80));
    for port in [8080, 8081] {
        let barred = Flow::open(&dark.namespace, (gateway, port), &listener);
        assert!(barred.is_err(), "{port}");
    }
    assert!(scene.drops("InternalNetwork") > 0);
}

/// Every address of a list that this kernel has the family of.
fn here<const N: usize>(addresses: [IpAddr; N]) -> impl Iterator<Item = IpAddr> {
    addresses
        .into_iter()
        .filter(|it| it.is_ipv4() || has_ipv6())
}

fn every(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { ANY } else { ANY6 }
}

/// Dials, all at once, what should stay silent.
#[track_caller]
fn silent(dials: &[(&Namespace, IpAddr, u16)]) {
    let outcomes: Vec<_> = thread::scope(|scope| {
        let dialling: Vec<_> = dials
            .iter()
            .map(|&(from, to, port)| scope.spawn(move || dial(from, (to, port))))
            .collect();
        dialling.into_iter().map(|it| it.join().unwrap()).collect()
    });
    for ((from, to, port), outcome) in dials.iter().zip(outcomes) {
        let to = SocketAddr::new(*to, *port);
        let error = outcome.expect_err("it is not for this source");
        assert_eq!(
            error.kind(),
            ErrorKind::TimedOut,
            "{to} from {}",
            from.name()
        );
    }
}

// Feature: allow-list publishing moby-22054
#[test]
fn a_published_port_is_for_those_on_its_list() {
    let Some(scene) = Scene::new() else { return };
    let specs = [
        format!("8080:80{NEIGHBOURS}"),
        format!("8081:80{OTHERS}"),
        format!("8082:80{INSIDERS}"),
        format!("5300:53/udp{NEIGHBOURS}"),
        format!("5301:53/udp{OTHERS}"),
        format!("5302:53/udp{INSIDERS}"),
    ];
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec]).collect();
    let web = scene.container("web", &options);
    let other = scene.container("other", &[]);
    // Not even the host says anything.
    let witness = Witness::start(
        &scene.outside,
        "eth0",
        "tcp[tcpflags] & tcp-rst != 0 or icmp[icmptype] = icmp-unreach or (icmp6 and ip6[40] = 1)",
    );

    let mut forbidden = Vec::new();
    for host in here([HOST, HOST6]) {
        let listener = listen(&web.namespace, (every(host), 80));
        let mut flow = Flow::open(&scene.outside, (host, 8080), &listener).unwrap();
        let outside = if host.is_ipv4() { OUTSIDE } else { OUTSIDE6 };
        assert_eq!(flow.seen_by_server(), outside);
        flow.transfer(1 << 20).unwrap();
        // The host as its own neighbour, by the relay, and a container by a hairpin.
        let mut flow = Flow::open(&scene.host, (host, 8080), &listener).unwrap();
        flow.exchange().unwrap();
        let mut flow = Flow::open(&other.namespace, (host, 8082), &listener).unwrap();
        flow.exchange().unwrap();
        forbidden.extend([
            (&scene.outside, host, 8081),
            (&scene.outside, host, 8082),
            (&other.namespace, host, 8080),
            (&other.namespace, host, 8081),
        ]);
    }
    silent(&forbidden);

    for host in here([HOST, HOST6]) {
        let outside = &scene.outside;
        for (from, port, allowed) in [
            (outside, 5300, true),
            (outside, 5301, false),
            (outside, 5302, false),
            (&other.namespace, 5300, false),
            (&other.namespace, 5302, true),
        ] {
            let server = bind_udp(&web.namespace, (every(host), 53));
            let mut datagrams = Datagrams::open(from, (host, port), server);
            let outcome = datagrams.exchange(100);
            assert_eq!(
                outcome.is_ok(),
                allowed,
                "{host}:{port} from {}",
                from.name()
            );
        }
    }
    assert_eq!(witness.stop(), Vec::<String>::new());
    assert!(scene.drops("NotAllowed") >= forbidden.len() as u64);
    let drops = scene.pontoon(&["drops"]).success();
    assert!(
        drops.contains("in the published port's allow list"),
        "{drops}"
    );
}

// Feature: allow-list
#[test]
fn on_the_host_itself_loopback_must_be_on_the_list_too() {
    let Some(scene) = Scene::new() else { return };
    let specs = [
        format!("8080:80{NEIGHBOURS}"),
        format!("8082:80{INSIDERS}"),
        format!("5300:53/udp{NEIGHBOURS}"),
        format!("5302:53/udp{INSIDERS}"),
    ];
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec]).collect();
    let web = scene.container("web", &options);
    for loopback in here([LOOPBACK, LOOPBACK6]) {
        let listener = listen(&web.namespace, (every(loopback), 80));
        let mut flow = Flow::open(&scene.host, (loopback, 8082), &listener).unwrap();
        flow.exchange().unwrap();
        // Cut off at once: whoever waits on the host should not have to.
        let error = Flow::open(&scene.host, (loopback, 8080), &listener)
            .and_then(|mut flow| flow.exchange());
        error.expect_err("loopback is not on this list");
        for (port, allowed) in [(5302, true), (5300, false)] {
            let server = bind_udp(&web.namespace, (every(loopback), 53));
            let mut datagrams = Datagrams::open(&scene.host, (loopback, port), server);
            assert_eq!(
                datagrams.exchange(100).is_ok(),
                allowed,
                "{loopback}:{port}"
            );
        }
    }
}

// Feature: allow-list publish-live restart moby-22054
#[test]
fn a_list_changes_under_way_and_outlives_the_daemon() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let web = scene.container("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let listener = listen(&web.namespace, (ANY, 80));
    let server = bind_udp(&web.namespace, (ANY, 53));
    let mut wire = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    let mut relayed = Flow::open(&scene.host, (LOOPBACK, 8080), &listener).unwrap();
    let mut datagrams = Datagrams::open(&scene.outside, (HOST, 5300), server);
    datagrams.exchange(100).unwrap();

    // Who is still let in does not notice.
    let publish = |scene: &Scene, list: &str| {
        let specs = [format!("8080:80{list}"), format!("5300:53/udp{list}")];
        scene
            .pontoon(&["publish", "web", "-p", &specs[0], "-p", &specs[1]])
            .success()
    };
    let told = publish(&scene, ",allow=192.0.2.2/24,allow=127.0.0.1");
    assert!(
        told.contains("*:8080->80/tcp from 127.0.0.1/32 192.0.2.0/24"),
        "{told}"
    );
    wire.exchange().unwrap();
    relayed.exchange().unwrap();
    datagrams.exchange(100).unwrap();

    // Who is not is cut off.
    publish(&scene, ",allow=198.51.100.0/24");
    wire.exchange().expect_err("the flow from the wire is cut");
    relayed.exchange().expect_err("the relayed flow is cut");
    datagrams.exchange(100).expect_err("no stale UDP");
    silent(&[(&scene.outside, HOST, 8080)]);

    scene.end_daemon(Signal::SIGKILL);
    scene.start_daemon();
    let published = scene.json(&["inspect", "web"])["published"].clone();
    assert_eq!(published[0]["allow"][0], "198.51.100.0/24", "{published}");
    assert_eq!(published.as_array().map(Vec::len), Some(2), "{published}");
    silent(&[(&scene.outside, HOST, 8080)]);
    datagrams.exchange(100).expect_err("nor after a restart");

    // For everybody again, and away without naming whom it was for.
    publish(&scene, "");
    Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    publish(&scene, ",allow=192.0.2.2");
    Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    scene
        .pontoon(&["unpublish", "web", "-p", "8080:80"])
        .success();
    let error = dial(&scene.outside, (HOST, 8080)).expect_err("withdrawn");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let error = scene
        .pontoon(&["publish", "web", "-p", "8080:80,allow=10.0.0.0/40"])
        .failure();
    assert!(error.contains("`10.0.0.0/40` is not a network"), "{error}");
}
