//! The data path under a simulated clock, with smoltcp's IPv6 at every port; no right needed.

use std::net::Ipv6Addr;
use std::time::Duration;

use nat::Protocol;
use pontoon_tests::simulation::{A6, B6, Faults, GATEWAY6, HOST6, Network, OUTSIDE, OUTSIDE6, Who};
use switch::DropReason;

const WEB: u16 = 80;
const PUBLISHED: u16 = 8080;

// Conforms: IPV6-nd-gateway IPV6-nat66
#[test]
fn pings() {
    let mut network = Network::new();
    network.ping(Who::A, B6).unwrap();
    network.ping(Who::B, A6).unwrap();
    network.ping(Who::A, GATEWAY6).unwrap();
    network.ping(Who::Host, A6).unwrap();
    // Behind one address the ids collide.
    network.ping(Who::A, OUTSIDE6).unwrap();
    network.ping(Who::B, OUTSIDE6).unwrap();
    assert_eq!(network.connections().len(), 2);
    let nobody: Ipv6Addr = "fd88::99".parse().unwrap();
    network.ping(Who::A, nobody).expect_err("nobody is there");
}

#[test]
fn tcp_through_the_bridge() {
    let mut network = Network::new();
    let flow = network.connect(Who::A, (B6, WEB), Who::B, WEB).unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), A6);
    network.transfer(&flow, 1 << 20).unwrap();
    network.close(flow);
    assert_eq!(network.connections(), Vec::<String>::new());
}

// Conforms: IPV6-host-port
#[test]
fn host_and_container() {
    let mut network = Network::new();
    let flow = network.connect(Who::Host, (A6, WEB), Who::A, WEB).unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), GATEWAY6);
    network.transfer(&flow, 100_000).unwrap();
    let flow = network
        .connect(Who::A, (GATEWAY6, 22), Who::Host, 22)
        .unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), A6);
    network.transfer(&flow, 100_000).unwrap();
}

// Conforms: IPV6-nat66 IPV6-nd-uplink
#[test]
fn snat_by_way_of_a_link_local_router() {
    let mut network = Network::new();
    for who in [Who::A, Who::B] {
        let flow = network
            .connect(who, (OUTSIDE6, WEB), Who::Outside, WEB)
            .unwrap();
        let seen = network.seen_by_server(&flow);
        assert_eq!(seen.ip(), HOST6, "masqueraded");
        assert!((61_000..=61_127).contains(&seen.port()), "{seen}");
        network.transfer(&flow, 1 << 20).unwrap();
        network.close(flow);
        let seen = network.ask(who, (OUTSIDE6, 53), Who::Outside, 53).unwrap();
        assert_eq!(seen.ip(), HOST6);
        assert!((61_000..=61_127).contains(&seen.port()), "{seen}");
    }
}

// Conforms: IPV6-nat66
#[test]
fn both_families_side_by_side_on_a_bad_wire() {
    let mut network = Network::new();
    network.set_faults(Faults {
        loss: 60,
        duplication: 50,
        corruption: 200,
        jitter: Duration::from_millis(3),
        ..Faults::default()
    });
    let to6 = network.connect(Who::A, (OUTSIDE6, WEB), Who::Outside, WEB);
    let to6 = to6.unwrap();
    let to4 = network.connect(Who::A, (OUTSIDE, WEB), Who::Outside, WEB);
    let to4 = to4.unwrap();
    network.transfer(&to6, 128 << 10).unwrap();
    network.transfer(&to4, 128 << 10).unwrap();
}

// Conforms: IPV6-publishing
#[test]
fn dnat_keeps_the_clients_own_address() {
    let mut network = Network::new();
    let refused = network.connect(Who::Outside, (HOST6, PUBLISHED), Who::A, WEB);
    assert!(refused.is_err(), "nothing is published yet");
    network.publish(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    let refused = network.connect(Who::Outside, (HOST6, PUBLISHED), Who::A, WEB);
    assert!(refused.is_err(), "nothing is published to IPv6 yet");

    network.publish6(2, Protocol::TCP, PUBLISHED, Who::A, WEB);
    network.publish6(3, Protocol::UDP, 5353, Who::B, 53);
    let flow = network
        .connect(Who::Outside, (HOST6, PUBLISHED), Who::A, WEB)
        .unwrap();
    assert_eq!(network.seen_by_server(&flow).ip(), OUTSIDE6);
    network.transfer(&flow, 1 << 20).unwrap();
    let seen = network.ask(Who::Outside, (HOST6, 5353), Who::B, 53);
    assert_eq!(seen.unwrap().ip(), OUTSIDE6);

    network.unpublish(2);
    let cut = network.transfer(&flow, 1);
    cut.expect_err("the flow ended with its rule");
}

// Conforms: IPV6-publishing RFC4787-9 RFC5382-8
#[test]
fn hairpin() {
    let mut network = Network::new();
    network.publish6(1, Protocol::TCP, PUBLISHED, Who::A, WEB);
    for who in [Who::A, Who::B] {
        for dialled in [HOST6, GATEWAY6] {
            let flow = network
                .connect(who, (dialled, PUBLISHED), Who::A, WEB)
                .unwrap();
            let seen = network.seen_by_server(&flow);
            assert_eq!(seen.ip(), dialled, "{who:?}");
            network.transfer(&flow, 100_000).unwrap();
            network.close(flow);
        }
    }
}

// Conforms: IPV6-nd-uplink
#[test]
fn an_uplink_neighbour_is_kept_while_in_use_and_asked_for_again_after() {
    let mut network = Network::new();
    network.ping(Who::A, OUTSIDE6).unwrap();
    for _ in 0..20 {
        network.pass(Duration::from_secs(10));
        network.ping(Who::A, OUTSIDE6).unwrap();
    }
    network.pass(Duration::from_secs(3600));
    assert_eq!(network.connections(), Vec::<String>::new());
    network.ping(Who::A, OUTSIDE6).unwrap();
    assert_eq!(network.drops(DropReason::NeighborUnresolved), 0);
}
