use super::*;
use crate::host::HostAddress;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(destination: &str, via: Option<&str>, ifindex: u32, source: Option<&str>) -> HostRoute {
    let hop = HostHop {
        via: via.map(ip),
        ifindex,
        weight: 1,
    };
    HostRoute {
        source: source.map(ip),
        ..of_kind(destination, RouteKind::Unicast(vec![hop]))
    }
}

fn of_kind(destination: &str, kind: RouteKind) -> HostRoute {
    HostRoute {
        table: TABLE_MAIN,
        destination: net(destination),
        from: None,
        tos: 0,
        metric: 0,
        kind,
        source: None,
        mtu: None,
    }
}

fn address(ifindex: u32, net: &str, passing: bool) -> HostAddress {
    HostAddress {
        ifindex,
        net: net.parse().unwrap(),
        passing,
        narrow: false,
    }
}

fn host(addresses: &[(u32, &str)], routes: Vec<HostRoute>) -> HostState {
    HostState {
        addresses: addresses
            .iter()
            .map(|(ifindex, net)| address(*ifindex, net, false))
            .collect(),
        routes,
        ..HostState::default()
    }
}

/// Where each route leads, with the masquerading source.
fn told(host: &HostState, uplinks: &[u32]) -> Vec<(String, String)> {
    let ports = uplinks.iter().map(|index| (*index, PortId(*index)));
    let told = routes(host, &ports.collect()).into_iter().map(|route| {
        let leads = match route.leads {
            Leads::Out(hops) => {
                let sources = hops.iter().map(|hop| {
                    hop.source
                        .map_or("none".to_owned(), |source| source.to_string())
                });
                sources.collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        };
        (route.destination.to_string(), leads)
    });
    told.collect()
}

fn expect(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(net, source): &(&str, &str)| (net.to_owned(), source.to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn no_route_is_left_out_and_each_has_the_hosts_source() {
    let host = host(
        &[
            (2, "192.0.2.2/24"),
            (2, "198.51.100.2/24"),
            (2, "fe80::1/64"),
            (3, "10.0.0.1/24"),
        ],
        vec![
            route("0.0.0.0/0", Some("198.51.100.1"), 2, None),
            route("192.0.2.0/24", None, 2, None),
            route("203.0.113.0/24", Some("192.0.2.1"), 2, Some("198.51.100.2")),
            route("169.254.169.254/32", None, 2, None),
            route("10.0.0.0/24", None, 3, None),
            of_kind("10.1.0.0/16", RouteKind::Blackhole),
            of_kind("10.2.0.0/16", RouteKind::Unreachable),
            of_kind("10.3.0.0/16", RouteKind::Prohibit),
            of_kind("10.4.0.0/16", RouteKind::Throw),
            of_kind("10.5.0.0/16", RouteKind::Obscure),
            of_kind("192.0.2.255/32", RouteKind::Broadcast),
            route("fe80::/64", None, 2, None),
            route("2001:db8::/32", Some("fe80::9"), 2, None),
        ],
    );
    let expected = [
        ("0.0.0.0/0", "198.51.100.2"),
        ("192.0.2.0/24", "192.0.2.2"),
        ("203.0.113.0/24", "198.51.100.2"),
        ("169.254.169.254/32", "192.0.2.2"),
        ("10.0.0.0/24", "Elsewhere"),
        ("10.1.0.0/16", "Blackhole"),
        ("10.2.0.0/16", "Unreachable"),
        ("10.3.0.0/16", "Prohibited"),
        ("10.4.0.0/16", "Throw"),
        ("10.5.0.0/16", "Elsewhere"),
        ("192.0.2.255/32", "Host"),
        ("2001:db8::/32", "none"),
    ];
    assert_eq!(told(&host, &[2]), expect(&expected));
}

// Conforms: IPV6-source-address IPV6-link-local-next-hop
#[test]
fn ipv6_leaves_with_a_lasting_address_most_like_the_destination() {
    let told_with = |addresses: &[(&str, bool)]| {
        let host = HostState {
            addresses: addresses
                .iter()
                .map(|(net, passing)| address(2, net, *passing))
                .collect(),
            routes: vec![
                route("::/0", Some("fe80::9"), 2, None),
                route("2001:db8:1::/64", None, 2, None),
                route("fd00:7::/64", None, 2, None),
                route("fe80::/64", None, 2, None),
            ],
            ..HostState::default()
        };
        told(&host, &[2])
    };
    let lasting = [
        ("fd00:7::1/64", false),
        ("2001:db8:1::aaaa/64", true),
        ("2001:db8:1::1/64", false),
        ("fe80::1/64", false),
    ];
    let expected = [
        ("::/0", "2001:db8:1::1"),
        ("2001:db8:1::/64", "2001:db8:1::1"),
        ("fd00:7::/64", "fd00:7::1"),
    ];
    assert_eq!(told_with(&lasting), expect(&expected));
    // A passing one is better than none (RFC 6724 rule 3 avoids it), a link-local one is not.
    let all = |source| expect(&expected.map(|(net, _)| (net, source)));
    let passing = [("2001:db8:1::aaaa/64", true), ("fe80::1/64", false)];
    assert_eq!(told_with(&passing), all("2001:db8:1::aaaa"));
    assert_eq!(told_with(&passing[1..]), all("none"));
}

#[test]
fn an_interface_without_an_address_borrows_one() {
    let routes = vec![route("0.0.0.0/0", None, 5, None)];
    let mut host = host(&[(2, "192.0.2.2/24"), (5, "169.254.7.7/16")], routes);
    // Of the link alone, as a network manager marks those; good for what is on the link.
    host.addresses[1].narrow = true;
    assert_eq!(told(&host, &[5]), expect(&[("0.0.0.0/0", "169.254.7.7")]));
    host.routes = vec![route("0.0.0.0/0", Some("10.9.9.9"), 5, None)];
    assert_eq!(told(&host, &[5]), expect(&[("0.0.0.0/0", "192.0.2.2")]));
}

#[test]
fn a_router_of_the_other_family_is_asked_in_its_own() {
    let routes = vec![route("0.0.0.0/0", Some("fe80::9"), 2, None)];
    let host = host(&[(2, "192.0.2.2/32"), (2, "fe80::1/64")], routes);
    let ports = HashMap::from([(2, PortId(2))]);
    let Leads::Out(hops) = &super::routes(&host, &ports)[0].leads else {
        panic!("no way out");
    };
    assert_eq!(hops[0].source, Some(ip("192.0.2.2")));
    assert_eq!(hops[0].asks_from, Some(ip("fe80::1")));
}

#[test]
fn subnets_of_the_host_are_those_that_are_no_address() {
    let local = |destination| HostRoute {
        table: TABLE_LOCAL,
        ..of_kind(destination, RouteKind::Local)
    };
    let routes = [
        "127.0.0.0/8",
        "192.0.2.2/32",
        "10.20.0.0/16",
        "10.21.0.1/32",
        "::1/128",
        "fe80::1/128",
    ];
    let host = host(&[(2, "192.0.2.2/24")], routes.map(local).into());
    let expected = ["10.20.0.0/16", "10.21.0.1/32"].map(net);
    assert_eq!(host_subnets(&host), expected);
    assert_eq!(told(&host, &[2]), []);
}

#[test]
fn conditions_that_never_hold_are_settled() {
    let rule = |never, inverted, incoming: Option<&str>| HostRule {
        ipv6: false,
        priority: 7,
        inverted,
        from: Some(net("172.17.0.0/16")),
        to: None,
        incoming: incoming.map(str::to_owned),
        never,
        tos: 0,
        protocol: None,
        source_ports: None,
        destination_ports: None,
        suppress_group: None,
        action: RuleAction::Prohibit,
    };
    let known = HashMap::from([("pontoon0", NetworkId(4))]);
    assert_eq!(super::rule(&rule(true, false, None), &known), None);
    // "not fwmark 0xca6c": whatever else the rule asks for.
    let always = super::rule(&rule(true, true, None), &known).unwrap();
    assert_eq!((always.from, always.inverted), (None, false));
    let incoming = |name| {
        super::rule(&rule(false, false, Some(name)), &known)
            .unwrap()
            .incoming
    };
    assert_eq!(incoming("pontoon0"), Incoming::Network(NetworkId(4)));
    assert_eq!(incoming("lo"), Incoming::Host);
    assert_eq!(incoming("eth7"), Incoming::Other);
}

#[test]
fn a_kernel_without_rules_has_its_three_tables() {
    let rules = rules(&HostState::default(), &[]);
    assert_eq!(rules.len(), 6);
    assert_eq!(rules[0], Rule::always(false, 0, TABLE_LOCAL));
    assert_eq!(rules[1], Rule::always(false, 1, TABLE_MAIN));
}
