use super::*;
use crate::config::PortId;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn hop(via: &str, weight: u32) -> Hop {
    Hop {
        via: via.parse().ok(),
        uplink: PortId(0),
        source: Some(ip("192.0.2.1")),
        asks_from: None,
        mtu: None,
        weight,
    }
}

fn route(destination: &str, via: &str) -> Route {
    leading(destination, Leads::Out(vec![hop(via, 1)]))
}

fn leading(destination: &str, leads: Leads) -> Route {
    Route {
        leads,
        ..Route::by(net(destination), PortId(0), None, ip("192.0.2.1"))
    }
}

fn in_table(table: u32, route: Route) -> Route {
    Route { table, ..route }
}

fn from_to(source: &str, destination: &str) -> Lookup {
    Lookup {
        source: ip(source),
        destination: ip(destination),
        network: Some(NetworkId(1)),
        tos: 0,
        protocol: 17,
        ports: Some((4242, 53)),
    }
}

fn to(destination: &str) -> Lookup {
    let source = if destination.contains(':') {
        "fd00::2"
    } else {
        "172.17.0.2"
    };
    from_to(source, destination)
}

/// The router that a packet goes by, or why it goes nowhere.
fn way(routing: &Routing, lookup: &Lookup) -> String {
    match routing.decide(lookup) {
        Ok(Way::Out(hop)) => hop.via.map_or("on-link".to_owned(), |via| via.to_string()),
        Ok(Way::Host) => "host".to_owned(),
        Err(reason) => reason.name(),
    }
}

#[test]
fn the_longest_prefix_and_then_the_lowest_metric_wins() {
    let metric = |metric, route| Route { metric, ..route };
    let routes = vec![
        metric(100, route("0.0.0.0/0", "192.0.2.254")),
        metric(50, route("0.0.0.0/0", "192.0.2.253")),
        metric(50, route("0.0.0.0/0", "192.0.2.252")),
        route("198.51.100.0/24", "192.0.2.9"),
        route("198.51.100.7/32", "192.0.2.7"),
        route("::/0", "2001:db8::1"),
    ];
    let routing = Routing::new(Vec::new(), routes);
    assert_eq!(way(&routing, &to("8.8.8.8")), "192.0.2.253");
    assert_eq!(way(&routing, &to("198.51.100.1")), "192.0.2.9");
    assert_eq!(way(&routing, &to("198.51.100.7")), "192.0.2.7");
    assert_eq!(way(&routing, &to("2001:db8:1::1")), "2001:db8::1");
    let routing = Routing::new(Vec::new(), vec![route("10.0.0.0/8", "192.0.2.9")]);
    assert_eq!(way(&routing, &to("192.168.0.1")), "NoRoute");
    assert_eq!(way(&Routing::default(), &to("fd00::1")), "NoRoute");
}

#[test]
fn a_route_that_leads_nowhere_is_not_passed_over() {
    let routing = Routing::new(
        Vec::new(),
        vec![
            route("0.0.0.0/0", "192.0.2.254"),
            leading("10.1.0.0/16", Leads::Unreachable),
            leading("10.2.0.0/16", Leads::Prohibited),
            leading("10.3.0.0/16", Leads::Blackhole),
            leading("10.4.0.0/16", Leads::Elsewhere),
            leading("10.5.0.0/16", Leads::Host),
            leading("10.6.0.0/16", Leads::Throw),
            route("10.3.3.0/24", "192.0.2.3"),
        ],
    );
    let expected = [
        ("10.1.0.1", "RouteUnreachable"),
        ("10.2.0.1", "RouteProhibited"),
        ("10.3.0.1", "RouteBlackhole"),
        ("10.3.3.1", "192.0.2.3"),
        ("10.4.0.1", "NotAnUplink"),
        ("10.5.0.1", "host"),
        // The table says no more, and there is no other.
        ("10.6.0.1", "NoRoute"),
        ("10.7.0.1", "192.0.2.254"),
    ];
    for (destination, expected) in expected {
        assert_eq!(way(&routing, &to(destination)), expected, "{destination}");
    }
}

/// As wg-quick sets it up: everything by the tunnel but what is marked, and but what the main table
/// knows better than by its default route.
#[test]
fn the_rules_of_a_full_tunnel() {
    let table = |priority, table, suppress| Rule {
        action: Action::Table { table, suppress },
        ..Rule::always(false, priority, table)
    };
    let rules = vec![
        table(32766, 254, None),
        table(32764, 254, Some(0)),
        // "not fwmark 0xca6c": always so, for nothing is marked.
        table(32765, 51820, None),
    ];
    let mut routes = vec![
        route("0.0.0.0/0", "192.0.2.254"),
        route("192.168.1.0/24", "192.168.1.1"),
        in_table(51820, route("0.0.0.0/0", "10.8.0.1")),
    ];
    let routing = Routing::new(rules.clone(), routes.clone());
    assert_eq!(way(&routing, &to("8.8.8.8")), "10.8.0.1");
    assert_eq!(way(&routing, &to("192.168.1.9")), "192.168.1.1");
    // A default route that refuses is not suppressed.
    routes[0].leads = Leads::Unreachable;
    let routing = Routing::new(rules, routes);
    assert_eq!(way(&routing, &to("8.8.8.8")), "RouteUnreachable");
}

#[test]
fn a_table_that_does_not_know_leaves_it_to_the_next() {
    let rules = vec![
        Rule::always(false, 5270, 52),
        Rule::always(false, 32766, 254),
        Rule::always(true, 32766, 254),
    ];
    let routes = vec![
        in_table(52, route("100.64.0.0/10", "on-link")),
        in_table(52, leading("10.0.0.0/8", Leads::Throw)),
        route("0.0.0.0/0", "192.0.2.254"),
    ];
    let routing = Routing::new(rules, routes);
    assert_eq!(way(&routing, &to("100.100.100.100")), "on-link");
    assert_eq!(way(&routing, &to("8.8.8.8")), "192.0.2.254");
    assert_eq!(way(&routing, &to("10.0.0.1")), "192.0.2.254");
}

#[test]
fn every_condition_of_a_rule_counts() {
    let other = 100;
    let chosen = |rule: Rule, lookup: &Lookup| {
        let rules = vec![rule, Rule::always(false, 32766, 254)];
        let routes = vec![
            in_table(other, route("0.0.0.0/0", "10.9.0.1")),
            route("0.0.0.0/0", "192.0.2.254"),
        ];
        way(&Routing::new(rules, routes), lookup) == "10.9.0.1"
    };
    let always = Rule::always(false, 100, other);
    let lookup = Lookup {
        tos: 0x11,
        ..from_to("172.17.0.2", "8.8.8.8")
    };
    type Change = fn(&mut Rule);
    let meeting: [Change; 8] = [
        |rule| rule.from = Some(net("172.17.0.0/16")),
        |rule| rule.to = Some(net("8.8.8.8/32")),
        |rule| rule.incoming = Incoming::Network(NetworkId(1)),
        |rule| rule.tos = 0x10,
        |rule| rule.protocol = Some(17),
        |rule| rule.source_ports = Some(4000..=5000),
        |rule| rule.destination_ports = Some(53..=53),
        |_| {},
    ];
    let missing: [Change; 9] = [
        |rule| rule.from = Some(net("172.18.0.0/16")),
        |rule| rule.to = Some(net("8.8.4.0/24")),
        |rule| rule.incoming = Incoming::Network(NetworkId(2)),
        |rule| rule.incoming = Incoming::Host,
        |rule| rule.incoming = Incoming::Other,
        |rule| rule.tos = 0x20,
        |rule| rule.protocol = Some(6),
        |rule| rule.source_ports = Some(1..=1023),
        |rule| rule.destination_ports = Some(54..=60),
    ];
    for (changes, meets) in [(&meeting[..], true), (&missing, false)] {
        for (at, change) in changes.iter().enumerate() {
            for inverted in [false, true] {
                let mut rule = always.clone();
                change(&mut rule);
                rule.inverted = inverted;
                assert_eq!(chosen(rule, &lookup), meets != inverted, "{meets} {at}");
            }
        }
    }
    // A later fragment has no ports.
    let fragment = Lookup {
        ports: None,
        ..lookup
    };
    let mut rule = always;
    rule.destination_ports = Some(53..=53);
    assert!(!chosen(rule, &fragment));
}

#[test]
fn rules_refuse_and_jump() {
    let act = |priority, from: &str, action| Rule {
        from: Some(net(from)),
        action,
        ..Rule::always(false, priority, 0)
    };
    let rules = vec![
        act(10, "172.17.0.1/32", Action::Unreachable),
        act(11, "172.17.0.2/32", Action::Prohibited),
        act(12, "172.17.0.3/32", Action::Blackhole),
        act(13, "172.17.0.4/32", Action::Goto(20)),
        Rule::always(false, 14, 100),
        Rule::always(false, 20, 254),
    ];
    let routes = vec![
        in_table(100, route("0.0.0.0/0", "10.9.0.1")),
        route("0.0.0.0/0", "192.0.2.254"),
    ];
    let routing = Routing::new(rules, routes);
    let by = |source: &str| way(&routing, &from_to(source, "8.8.8.8"));
    assert_eq!(by("172.17.0.1"), "RouteUnreachable");
    assert_eq!(by("172.17.0.2"), "RouteProhibited");
    assert_eq!(by("172.17.0.3"), "RouteBlackhole");
    assert_eq!(by("172.17.0.4"), "192.0.2.254");
    assert_eq!(by("172.17.0.5"), "10.9.0.1");
}

/// Two IPv6 providers, each for its own prefix (RFC 8028): a route whose source does not fit gives
/// way to a shorter one whose source does.
#[test]
fn a_route_may_be_for_some_sources() {
    let from = |from: &str, route| Route {
        from: Some(net(from)),
        ..route
    };
    let routes = vec![
        from("2001:db8:a::/48", route("::/0", "fe80::a")),
        from("2001:db8:b::/48", route("::/0", "fe80::b")),
        from("2001:db8:b::/48", route("2001:db8:7::/48", "fe80::7")),
    ];
    let routing = Routing::new(Vec::new(), routes);
    let by = |source: &str, destination: &str| way(&routing, &from_to(source, destination));
    assert_eq!(by("2001:db8:a::1", "2001:db8:9::9"), "fe80::a");
    assert_eq!(by("2001:db8:b::1", "2001:db8:9::9"), "fe80::b");
    assert_eq!(by("2001:db8:a::1", "2001:db8:7::9"), "fe80::a");
    assert_eq!(by("2001:db8:b::1", "2001:db8:7::9"), "fe80::7");
    assert_eq!(by("fd00::1", "2001:db8:9::9"), "NoRoute");
}

#[test]
fn several_next_hops_share_by_weight_and_keep_their_pairs() {
    let leads = Leads::Out(vec![hop("192.0.2.1", 1), hop("192.0.2.2", 3)]);
    let routing = Routing::new(Vec::new(), vec![leading("0.0.0.0/0", leads)]);
    let mut second = 0;
    for n in 0..1000_u32 {
        let destination = std::net::Ipv4Addr::from(0x0808_0000 + n).to_string();
        let chosen = way(&routing, &to(&destination));
        assert_eq!(chosen, way(&routing, &to(&destination)), "the same again");
        second += u32::from(chosen == "192.0.2.2");
    }
    assert!((650..850).contains(&second), "{second} of 1000");
}
