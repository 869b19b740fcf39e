use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn publish(id: u32, host: Option<&str>, ports: RangeInclusive<u16>, to_port: u16) -> Publish {
    Publish {
        id,
        protocol: Protocol::TCP,
        host: host.map(address),
        ports,
        to: IpAddr::from([172, 20, 0, id as u8]),
        to_port,
        allow: Sources::default(),
    }
}

fn index(publish: Vec<Publish>) -> RuleIndex {
    let local = vec![
        address("192.0.2.1"),
        address("192.0.2.2"),
        address("2001:db8::1"),
    ];
    RuleIndex::new(Rules {
        masquerade: Vec::new(),
        publish,
        local,
        ..Rules::default()
    })
}

fn lead(index: &RuleIndex, host: &str, port: u16) -> Option<(u32, u16)> {
    index
        .published(Protocol::TCP, address(host), port)
        .map(|to| (to.id, to.port))
}

#[test]
fn a_range_maps_one_to_one_and_is_one_interval() {
    let index = index(vec![publish(1, None, 2000..=62000, 1000)]);
    assert_eq!(lead(&index, "192.0.2.1", 1999), None);
    assert_eq!(lead(&index, "192.0.2.1", 2000), Some((1, 1000)));
    assert_eq!(lead(&index, "192.0.2.2", 62000), Some((1, 61000)));
    assert_eq!(lead(&index, "192.0.2.1", 62001), None);
    assert_eq!(
        index
            .published
            .values()
            .map(|list| list.0.len())
            .sum::<usize>(),
        1
    );
    let inside = address("172.20.0.1");
    let host = address("192.0.2.2");
    let claim = index.published_as(PEER, Protocol::TCP, inside, 1500, host);
    assert_eq!(
        claim,
        Some(Claim {
            id: 1,
            host,
            port: 2500
        })
    );
    assert!(index.is_published(PEER, Protocol::TCP, inside, 1500));
    assert!(!index.is_published(PEER, Protocol::TCP, inside, 999));
    // Not an address of the host.
    let elsewhere = address("192.0.2.3");
    assert_eq!(
        index.published_as(PEER, Protocol::TCP, inside, 1500, elsewhere),
        None
    );
}

#[test]
fn only_local_addresses_of_the_family_answer() {
    let index = index(vec![publish(1, None, 80..=80, 80)]);
    assert_eq!(lead(&index, "192.0.2.3", 80), None);
    assert_eq!(lead(&index, "2001:db8::1", 80), None);
    assert!(
        index
            .published(Protocol::UDP, address("192.0.2.1"), 80)
            .is_none()
    );
    assert!(index.publishes_any(Protocol::TCP, address("192.0.2.2")));
    assert!(!index.publishes_any(Protocol::UDP, address("192.0.2.2")));
}

#[test]
fn one_address_goes_before_all() {
    let index = index(vec![
        publish(1, None, 1..=65535, 1),
        publish(2, Some("192.0.2.1"), 80..=80, 8080),
        publish(3, Some("198.51.100.9"), 80..=80, 9090),
    ]);
    assert_eq!(lead(&index, "192.0.2.1", 80), Some((2, 8080)));
    assert_eq!(lead(&index, "192.0.2.2", 80), Some((1, 80)));
    assert_eq!(lead(&index, "192.0.2.1", 81), Some((1, 81)));
    // Named by its rule, though not in `local`.
    assert_eq!(lead(&index, "198.51.100.9", 80), Some((3, 9090)));
    assert_eq!(lead(&index, "192.0.2.1", 65535), Some((1, 65535)));
}

#[test]
fn of_overlapping_ranges_the_first_has_the_port() {
    let index = index(vec![
        publish(1, None, 100..=110, 100),
        publish(2, None, 120..=130, 120),
        publish(3, None, 90..=140, 1090),
    ]);
    let all: Vec<_> = (88..=142)
        .map(|port| lead(&index, "192.0.2.1", port))
        .collect();
    let expected: Vec<_> = (88..=142u16)
        .map(|port| match port {
            100..=110 => Some((1, port)),
            120..=130 => Some((2, port)),
            90..=140 => Some((3, port + 1000)),
            _ => None,
        })
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn a_container_does_not_speak_from_a_port_that_leads_elsewhere() {
    let index = index(vec![
        publish(1, None, 80..=80, 8080),
        publish(2, None, 80..=81, 8080),
        publish(3, Some("198.51.100.9"), 90..=90, 9090),
    ]);
    let host = address("192.0.2.1");
    let port = |container: &str, port| {
        let claim = index.published_as(PEER, Protocol::TCP, address(container), port, host);
        claim.map(|claim| (claim.host, claim.port))
    };
    assert_eq!(port("172.20.0.1", 8080), Some((host, 80)));
    assert_eq!(port("172.20.0.2", 8080), None);
    assert_eq!(port("172.20.0.2", 8081), Some((host, 81)));
    assert_eq!(
        port("172.20.0.3", 9090),
        Some((address("198.51.100.9"), 90))
    );
    assert!(!index.is_published(PEER, Protocol::TCP, address("172.20.0.2"), 8080));
    assert!(index.is_published(PEER, Protocol::TCP, address("172.20.0.3"), 9090));
}

#[test]
fn meaningless_rules_are_named_and_ignored() {
    #[expect(clippy::reversed_empty_ranges)]
    let empty = publish(1, None, 81..=80, 80);
    assert!(matches!(empty.check(), Err(InvalidPublish::Ports(_))));
    let zero = publish(2, None, 0..=80, 80);
    assert!(matches!(zero.check(), Err(InvalidPublish::Ports(_))));
    let over = publish(3, None, 1000..=2000, 65000);
    assert_eq!(
        over.check(),
        Err(InvalidPublish::TargetPorts {
            first: 65000,
            count: 1001
        })
    );
    let family = publish(4, Some("2001:db8::1"), 80..=80, 80);
    assert!(matches!(family.check(), Err(InvalidPublish::Family { .. })));
    let icmp = Publish {
        protocol: Protocol::ICMP,
        ..publish(5, None, 80..=80, 80)
    };
    assert!(
        icmp.check()
            .unwrap_err()
            .to_string()
            .starts_with("icmp cannot")
    );
    assert_eq!(publish(6, None, 1..=65535, 1).check(), Ok(()));

    let index = index(vec![empty, zero, over, family, icmp]);
    assert_eq!(lead(&index, "192.0.2.1", 80), None);
    assert!(!index.is_published(PEER, Protocol::TCP, address("172.20.0.1"), 80));
}

#[test]
fn the_longest_prefix_masquerades() {
    let rule = |source: &str, to: Option<&str>| Masquerade {
        source: source.parse().unwrap(),
        to: to.map(address),
    };
    let index = RuleIndex::new(Rules {
        masquerade: vec![
            rule("172.20.0.0/16", None),
            rule("172.20.5.0/24", Some("192.0.2.2")),
            rule("fd00::/64", None),
        ],
        ..Rules::default()
    });
    let to = |source| index.masquerade(address(source)).map(|rule| rule.to);
    assert_eq!(to("172.20.5.9"), Some(Some(address("192.0.2.2"))));
    assert_eq!(to("172.20.6.9"), Some(None));
    assert_eq!(to("172.21.6.9"), None);
    assert_eq!(to("fd00::9"), Some(None));
}
