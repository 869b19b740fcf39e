//! Networks that users make: a container on several of them, what separates them, and what they are
//! made with.

use std::net::IpAddr;

use pontoon_tests::namespace::Namespace;
use pontoon_tests::process::run;
use pontoon_tests::scene::{ANY, BEYOND, HOST, HOST_SECOND, OUTSIDE, PORT_KINDS, Scene};
use pontoon_tests::traffic::{Flow, dial, listen, ping};
use serde_json::Value;

fn endpoint<'a>(container: &'a Value, network: &str) -> &'a Value {
    let container = container.get(0).unwrap_or(container);
    let mut endpoints = container["endpoints"].as_array().expect("a list").iter();
    endpoints
        .find(|endpoint| endpoint["network"] == network)
        .unwrap_or_else(|| panic!("no endpoint on {network}: {container}"))
}

fn address_on(container: &Value, network: &str) -> IpAddr {
    let net = endpoint(container, network)["addresses"][0].as_str();
    let net: ipnet::IpNet = net.expect("an address").parse().expect("with its length");
    net.addr()
}

/// Whether one ping is answered within a second.
fn answers(from: &Namespace, to: IpAddr) -> bool {
    let to = to.to_string();
    run(from.command("ping").args(["-c1", "-W1", &to]))
        .status
        .success()
}

fn default_route(namespace: &Namespace) -> String {
    namespace.ip("route show default").trim().to_owned()
}

fn connects_and_disconnects(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    scene.pontoon(&["network", "create", "front"]).success();
    scene.pontoon(&["network", "create", "back"]).success();
    let web = scene.container("web", &["--net", "front"]);
    let db = scene.container("db", &["--net", "back"]);
    assert!(!answers(&web.namespace, db.address), "two networks");

    // A flow that is open lives through it all.
    let listener = listen(&web.namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.host, (web.address, 80), &listener).unwrap();
    flow.exchange().unwrap();

    let told = scene.pontoon(&["network", "connect", "back", "web", "--alias", "frontend"]);
    let inspected = scene.json(&["inspect", "web"]);
    let inner = address_on(&inspected, "back");
    assert!(told.success().contains(&inner.to_string()));
    let back = endpoint(&inspected, "back");
    assert_eq!(back["interface"], "eth1");
    assert_eq!(back["aliases"], serde_json::json!(["frontend"]));
    assert_eq!(back["default_routes"], serde_json::json!([]));
    ping(&web.namespace, db.address).success();
    ping(&db.namespace, inner).success();
    assert!(!answers(&db.namespace, web.address), "still two networks");
    assert!(
        default_route(&web.namespace).contains("dev eth0"),
        "the first keeps the default route"
    );
    flow.exchange().unwrap();
    let again = scene.pontoon(&["network", "connect", "back", "web"]);
    assert!(again.failure().contains("on network back already"));
    let in_use = scene.pontoon(&["network", "rm", "back"]);
    assert!(in_use.failure().contains("web"));

    scene
        .pontoon(&["network", "disconnect", "back", "web"])
        .success();
    assert!(!answers(&web.namespace, db.address), "apart again");
    let links = web.namespace.ip("-o link");
    assert!(!links.contains("eth1"), "{links}");
    flow.exchange().unwrap();
    let absent = scene.pontoon(&["network", "disconnect", "back", "web"]);
    assert!(absent.failure().contains("not on network back"));

    // `ps` tells what it is on now.
    let told = || {
        let rows = scene.json(&["ps"]);
        let rows = rows.as_array().expect("rows").iter();
        let mut rows = rows.filter(|row| row["name"] == "web");
        rows.next().expect("web runs")["mode"].clone()
    };
    assert_eq!(told(), serde_json::json!({"network": "front"}));
    scene
        .pontoon(&["network", "disconnect", "front", "web"])
        .success();
    assert_eq!(told(), "none");
    let rows = scene.pontoon(&["ps"]).success();
    assert!(!rows.contains("front"), "{rows}");
    scene
        .pontoon(&["network", "connect", "back", "web"])
        .success();
    assert_eq!(told(), serde_json::json!({"network": "back"}));
}

// Feature: several-networks networks
#[test]
fn a_tap_container_is_put_on_a_network_and_taken_off_while_it_runs() {
    connects_and_disconnects(PORT_KINDS[0]);
}

// Feature: several-networks networks
#[test]
fn a_veth_container_is_put_on_a_network_and_taken_off_while_it_runs() {
    connects_and_disconnects(PORT_KINDS[1]);
}

// Feature: several-networks pools publishing
#[test]
fn the_default_route_and_published_ports_follow_the_priority() {
    let Some(scene) = Scene::new() else { return };
    scene
        .pontoon(&["network", "create", "a", "--subnet", "10.81.0.0/24"])
        .success();
    scene
        .pontoon(&["network", "create", "b", "--subnet", "10.82.0.0/24"])
        .success();
    let both = "b,ip=10.82.0.9,mac=02:42:00:00:00:99,interface=data0,gw-priority=5";
    let web = scene.container("web", &["--net", "a", "--net", both, "-p", "8080:80"]);
    let inspected = scene.json(&["inspect", "web"]);
    let b = endpoint(&inspected, "b");
    assert_eq!(b["interface"], "data0");
    assert_eq!(b["mac"], "02:42:00:00:00:99");
    assert_eq!(web.namespace.mac("data0"), "02:42:00:00:00:99");
    let route = default_route(&web.namespace);
    assert!(route.contains("via 10.82.0.1 dev data0"), "{route}");
    ping(&web.namespace, BEYOND).success();

    let listener = listen(&web.namespace, (ANY, 80));
    let local = |outside: &Namespace| {
        let mut flow = Flow::open(outside, (HOST, 8080), &listener).unwrap();
        flow.exchange().unwrap();
        let rules = scene.json(&["nat"]);
        rules["publish"][0]["to"][0]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(local(&scene.outside), "10.82.0.9");
    scene
        .pontoon(&["network", "disconnect", "b", "web"])
        .success();
    let route = default_route(&web.namespace);
    assert!(route.contains("via 10.81.0.1 dev eth0"), "{route}");
    ping(&web.namespace, BEYOND).success();
    assert_eq!(local(&scene.outside), web.address.to_string());

    // Off its last network it serves nothing, and serves again when it is back.
    scene
        .pontoon(&["network", "disconnect", "a", "web"])
        .success();
    assert_eq!(default_route(&web.namespace), "");
    dial(&scene.outside, (HOST, 8080)).expect_err("it leads nowhere");
    scene
        .pontoon(&["network", "connect", "a", "web", "--ip", "10.81.0.77"])
        .success();
    assert_eq!(local(&scene.outside), "10.81.0.77");
    assert!(default_route(&web.namespace).contains("dev eth0"));
}

// Feature: several-networks modes
#[test]
fn only_what_has_interfaces_of_its_own_is_put_on_networks() {
    let Some(scene) = Scene::new() else { return };
    scene.pontoon(&["network", "create", "back"]).success();
    let none = Namespace::new("none");
    let path = none.path();
    let path = path.to_str().expect("an ASCII path");
    let attach = ["attach", "--netns", path, "--name", "none", "--net", "none"];
    scene.pontoon(&attach).success();
    let web = scene.container("web", &[]);
    let refused = scene.pontoon(&["network", "connect", "back", "none"]);
    assert!(refused.failure().contains("--net none"));
    let two = [
        "run", "--rm", "--net", "host", "--net", "back", "--", "true",
    ];
    assert!(scene.pontoon(&two).failure().contains("can't go with"));
    let nobody = scene.pontoon(&["network", "connect", "back", "nobody"]);
    assert!(nobody.failure().contains("no container"));
    let nowhere = scene.pontoon(&["network", "connect", "nowhere", "web"]);
    assert!(nowhere.failure().contains("no network"));
    // What fails halfway leaves nothing.
    let taken = ["network", "connect", "back", "web", "--interface", "eth0"];
    assert!(scene.pontoon(&taken).failure().contains("eth0"));
    let wrong = ["network", "connect", "back", "web", "--ip", "192.0.2.77"];
    assert!(scene.pontoon(&wrong).failure().contains("in no subnet"));
    web.namespace
        .ip("link add foreign type veth peer name foreign2");
    let foreign = [
        "network",
        "connect",
        "back",
        "web",
        "--interface",
        "foreign",
    ];
    scene.pontoon(&foreign).failure();
    let inspected = scene.json(&["inspect", "web"]);
    assert_eq!(inspected["endpoints"].as_array().map(Vec::len), Some(1));
    ping(&web.namespace, BEYOND).success();
    scene.pontoon(&["network", "rm", "back"]).success();
}

// Feature: several-networks restart
#[test]
fn several_networks_survive_the_daemon() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    scene.pontoon(&["network", "create", "a"]).success();
    scene.pontoon(&["network", "create", "b"]).success();
    let kinds = ["tap", "veth"];
    let options = [
        "--net",
        "a",
        "--net",
        "b,gw-priority=1",
        "-p",
        "8080:80",
        "--port-kind",
    ];
    let containers = kinds.map(|kind| {
        let options = match kind {
            "tap" => [&options[..], &[kind]].concat(),
            _ => [
                "--net",
                "a",
                "--net",
                "b,gw-priority=1",
                "--port-kind",
                kind,
            ]
            .to_vec(),
        };
        scene.container(kind, &options)
    });
    let before = kinds.map(|kind| scene.json(&["inspect", kind]));
    scene.end_daemon(nix::sys::signal::Signal::SIGKILL);
    scene.start_daemon();
    let after = kinds.map(|kind| scene.json(&["inspect", kind]));
    for (before, after) in before.iter().zip(&after) {
        for network in ["a", "b"] {
            let (before, after) = (endpoint(before, network), endpoint(after, network));
            for field in ["addresses", "mac", "interface", "default_routes", "ifindex"] {
                assert_eq!(before[field], after[field], "{field}");
            }
        }
    }
    let listener = listen(&containers[0].namespace, (ANY, 80));
    let mut flow = Flow::open(&scene.outside, (HOST, 8080), &listener).unwrap();
    flow.exchange().unwrap();
    for network in ["a", "b"] {
        ping(&containers[0].namespace, address_on(&after[1], network)).success();
    }
}

// Feature: pools
#[test]
fn both_ends_of_a_veth_pair_are_told() {
    let Some(scene) = Scene::with_port_kind(PORT_KINDS[1]) else {
        return;
    };
    scene.pontoon(&["network", "create", "back"]).success();
    let web = scene.container("web", &["--net", "bridge", "--net", "back"]);
    let inspected = scene.json(&["inspect", "web"]);
    for network in ["bridge", "back"] {
        let endpoint = endpoint(&inspected, network);
        let inside = endpoint["interface"].as_str().expect("a name");
        let outside = endpoint["host_interface"].as_str().expect("a name");
        let iflink = |namespace: &Namespace, name: &str| {
            let text = namespace.sh(&format!("cat /sys/class/net/{name}/iflink"));
            text.trim().parse::<u64>().expect("a number")
        };
        assert_eq!(endpoint["host_ifindex"], iflink(&web.namespace, inside));
        assert_eq!(endpoint["ifindex"], iflink(&scene.host, outside));
    }
}

// Feature: isolation networks
#[test]
fn networks_are_apart_as_a_matrix() {
    let Some(scene) = Scene::new() else { return };
    let names = ["bridge", "n1", "n2"];
    for name in &names[1..] {
        scene.pontoon(&["network", "create", name]).success();
    }
    let containers: Vec<_> = names
        .iter()
        .flat_map(|network| ["x", "y"].map(|who| (network, who)))
        .map(|(network, who)| {
            let container = scene.container(&format!("{network}{who}"), &["--net", network]);
            (network, container)
        })
        .collect();
    let listeners: Vec<_> = containers
        .iter()
        .map(|(_, container)| listen(&container.namespace, (ANY, 80)))
        .collect();
    for (own, from) in &containers {
        for ((other, to), listener) in containers.iter().zip(&listeners) {
            for &address in &to.addresses {
                if address.is_ipv6() && own != other {
                    assert!(!answers(&from.namespace, address), "{own} to {other}");
                } else if own == other {
                    ping(&from.namespace, address).success();
                }
            }
            let reached = Flow::open(&from.namespace, (to.address, 80), listener).is_ok();
            assert_eq!(reached, own == other, "{own} to {other}");
        }
    }
    assert!(scene.drops("OtherNetwork") > 0);
}

// Feature: isolation networks
#[test]
fn an_internal_network_leads_nowhere() {
    let Some(scene) = Scene::new() else { return };
    let create = ["network", "create", "vault", "--internal"];
    scene.pontoon(&create).success();
    let a = scene.container("a", &["--net", "vault"]);
    let b = scene.container("b", &["--net", "vault"]);
    let web = scene.container("web", &["-p", "8080:80"]);
    let gateway = scene.json(&["network", "inspect", "vault"])["gateways"][0].clone();
    let gateway: IpAddr = gateway.as_str().expect("a gateway").parse().expect("an IP");
    for &address in &b.addresses {
        ping(&a.namespace, address).success();
    }
    ping(&a.namespace, gateway).success();
    ping(&scene.host, a.address).success();
    assert_eq!(default_route(&a.namespace), "");
    // A container that makes itself a route gets no further.
    let before = scene.drops("InternalNetwork");
    a.namespace.ip(&format!("route add default via {gateway}"));
    for address in [BEYOND, HOST, web.address] {
        assert!(!answers(&a.namespace, address), "{address}");
    }
    dial(&a.namespace, (HOST, 8080)).expect_err("not to what is published either");
    assert!(scene.drops("InternalNetwork") > before);
    let refused = scene.pontoon(&["publish", "a", "-p", "9090:90"]);
    assert!(refused.failure().contains("leads outside"));

    // With a second network, that one is the way out.
    scene
        .pontoon(&["network", "connect", "bridge", "a", "--gw-priority", "-1"])
        .success();
    a.namespace.ip("route flush cache");
    ping(&a.namespace, BEYOND).success();
}

// Feature: isolation
#[test]
fn containers_of_an_isolated_network_reach_all_but_each_other() {
    let Some(scene) = Scene::new() else { return };
    let create = ["network", "create", "apart", "--isolated"];
    scene.pontoon(&create).success();
    let a = scene.container("a", &["--net", "apart"]);
    let b = scene.container("b", &["--net", "apart"]);
    for &address in &b.addresses {
        assert!(!answers(&a.namespace, address), "{address}");
    }
    ping(&a.namespace, BEYOND).success();
    ping(&scene.host, a.address).success();
}

// Feature: masquerade
#[test]
fn flows_leave_by_a_chosen_address() {
    let Some(scene) = Scene::new() else { return };
    let second = HOST_SECOND.to_string();
    let chosen = ["network", "create", "chosen", "--masquerade-to", &second];
    scene.pontoon(&chosen).success();
    let listener = listen(&scene.outside, (ANY, 80));
    let a = scene.container("a", &["--net", "chosen"]);
    let mut flow = Flow::open(&a.namespace, (OUTSIDE, 80), &listener).unwrap();
    assert_eq!(flow.seen_by_server(), HOST_SECOND);
    flow.exchange().unwrap();
    let foreign = ["network", "create", "x", "--masquerade-to", "192.0.2.200"];
    assert!(
        scene
            .pontoon(&foreign)
            .failure()
            .contains("no address of this host")
    );
}

// Feature: networks pools
#[test]
fn networks_are_made_with_ranges_and_labels_and_pruned() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let plain = ["network", "create", "one", "--subnet", "10.84.0.0/24"];
    let more = ["--subnet", "10.85.0.0/24", "--ip-range", "10.84.0.128/25"];
    let labels = [
        "--reserve",
        "10.84.0.129",
        "--label",
        "tier=front",
        "--label",
        "x",
    ];
    let create = [&plain[..], &more, &labels].concat();
    scene.pontoon(&create).success();
    scene.pontoon(&["network", "create", "two"]).success();
    let listed = |filter: &str| {
        let listed = scene.json(&["network", "ls", "--filter", filter]);
        let listed = listed.as_array().expect("a list").iter();
        let names = listed.map(|it| it["name"].as_str().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(listed("label=tier=front"), ["one"]);
    assert_eq!(listed("label=x"), ["one"]);
    assert!(listed("label=tier=back").is_empty());
    assert_eq!(listed("name=tw"), ["two"]);
    scene.end_daemon(nix::sys::signal::Signal::SIGKILL);
    scene.start_daemon();
    let a = scene.container("a", &["--net", "one"]);
    let b = scene.container("b", &["--net", "one"]);
    assert_eq!(a.address.to_string(), "10.84.0.128");
    assert_eq!(b.address.to_string(), "10.84.0.130");
    let other = scene.container("c", &["--net", "one", "--ip", "10.85.0.9"]);
    ping(&other.namespace, a.address).success();
    assert_eq!(scene.pontoon(&["network", "prune"]).success().trim(), "two");
    let left = scene.json(&["network", "ls"]);
    assert_eq!(left.as_array().map(Vec::len), Some(2));
}

/// A company's network, or a VPN: the host has routes to all private addresses.
#[test]
fn a_first_start_finds_room_within_routes_to_all_private_addresses() {
    let Some(mut scene) = Scene::without_daemon("tap") else {
        return;
    };
    for block in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
        scene.host.ip(&format!("route add {block} via {OUTSIDE}"));
    }
    scene
        .host
        .ip(&format!("route add 172.17.0.0/17 via {OUTSIDE}"));
    scene.start_daemon();
    // What a route names more precisely stays the route's.
    let bridge = scene.json(&["network", "inspect", "bridge"]);
    assert_eq!(bridge["subnets"][0], "172.18.0.0/16");
    let web = scene.container("web", &[]);
    assert!(answers(&scene.host, web.address));
    // The user's word, within a route; but not in the place of one.
    let create =
        |name: &str, subnet: &str| scene.pontoon(&["network", "create", name, "--subnet", subnet]);
    create("own", "10.200.7.0/24").success();
    let clash = create("other", "172.17.0.0/16").failure();
    assert!(clash.contains("172.17.0.0/17"), "{clash}");
}

#[test]
fn subnets_come_from_the_pools_of_the_daemon() {
    let options = [
        "--pool=10.201.0.0/24,size=26",
        "--pool=10.202.0.0/16",
        "--pool=fd20:1::/48",
        "--bridge-subnet=10.200.0.0/24",
        "--ipv6=true",
    ];
    let Some(scene) = Scene::with_daemon_options(&options) else {
        return;
    };
    let subnets = |name: &str| scene.json(&["network", "inspect", name])["subnets"].clone();
    let expected = serde_json::json!(["10.200.0.0/24", "fd20:1::/64"]);
    assert_eq!(subnets("bridge"), expected);
    for at in 0..5 {
        let name = format!("n{at}");
        scene.pontoon(&["network", "create", &name]).success();
    }
    assert_eq!(subnets("n3")[0], "10.201.0.192/26");
    assert_eq!(subnets("n4")[0], "10.202.0.0/24");
}

#[test]
fn addresses_come_from_every_range_of_a_subnet() {
    let Some(scene) = Scene::new() else { return };
    let ranges = ["10.61.0.16/31", "10.61.0.128/31"].map(|it| format!("--ip-range={it}"));
    let [first, second] = &ranges;
    let create = [
        "network",
        "create",
        "n",
        "--subnet=10.61.0.0/24",
        first,
        second,
    ];
    scene.pontoon(&create).success();
    let given = ["a", "b", "c", "d"].map(|name| scene.container(name, &["--net=n"]).address);
    let expected = [16, 17, 128, 129].map(|last| IpAddr::from([10, 61, 0, last]));
    assert_eq!(given, expected);
}

// Feature: networks
#[test]
fn an_address_that_changes_hands_is_announced() {
    let Some(scene) = Scene::new() else { return };
    let peer = scene.container("peer", &[]);
    for port_kind in PORT_KINDS {
        let options = ["--ip", "172.17.0.9", "--port-kind", port_kind, "--mac"];
        let with = |mac| [&options[..], &[mac]].concat();
        let first = scene.container("first", &with("02:52:1a:16:9f:01"));
        let addresses = first.addresses.clone();
        let reached = || {
            for address in &addresses {
                ping(&peer.namespace, *address).success();
                ping(&scene.host, *address).success();
            }
        };
        reached();
        scene.pontoon(&["detach", "first"]).success();
        // Its neighbours remember the first one's MAC address.
        let second = scene.container("second", &with("02:52:1a:16:9f:75"));
        assert_eq!(second.addresses, addresses);
        reached();
        scene.pontoon(&["detach", "second"]).success();
    }
}
