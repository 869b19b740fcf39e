//! Subnets, addresses and MACs.

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn allocator(subnet: &str) -> Allocator {
    Allocator::new(net(subnet), default_gateway(net(subnet))).unwrap()
}

// Conforms: RFC4787-7
// Feature: disjoint-pools
#[test]
fn the_first_subnet_that_overlaps_nothing_is_chosen() {
    // Other networks' subnets, which nothing may overlap.
    let chosen = |taken: &[&str]| {
        let occupied = Occupied {
            networks: taken.iter().map(|text| net(text)).collect(),
            ..Default::default()
        };
        choose_subnet(&AddressPool::defaults(), &occupied).map(|subnet| subnet.to_string())
    };
    assert_eq!(chosen(&[]).unwrap(), "172.17.0.0/16");
    assert_eq!(chosen(&["172.17.0.0/16"]).unwrap(), "172.18.0.0/16");
    // A host's address inside a candidate, and a route that holds several.
    assert_eq!(
        chosen(&["172.17.42.1/32", "172.18.0.0/15"]).unwrap(),
        "172.20.0.0/16"
    );
    assert_eq!(chosen(&["172.16.0.0/12"]).unwrap(), "192.168.0.0/20");
    assert_eq!(
        chosen(&["172.16.0.0/12", "192.168.1.7/24"]).unwrap(),
        "192.168.16.0/20"
    );
    assert_eq!(
        chosen(&["172.16.0.0/12", "192.168.0.0/16"]).unwrap(),
        "10.0.0.0/16"
    );
    let half = ["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/9"];
    assert_eq!(chosen(&half).unwrap(), "10.128.0.0/20");
    let most = [&half[..], &["10.128.0.0/10", "10.192.0.0/11"]].concat();
    assert_eq!(chosen(&most).unwrap(), "10.224.0.0/20");
    let all = ["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"];
    let error = chosen(&all).unwrap_err().to_string();
    assert!(
        error.contains("10.128.0.0/9") && error.contains("--pool"),
        "{error}"
    );
    // Default routes, and IPv6, hinder nothing.
    assert_eq!(
        chosen(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "fd00::/8"]).unwrap(),
        "172.17.0.0/16"
    );
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

// Feature: disjoint-pools
#[test]
fn a_host_with_routes_to_all_private_addresses_has_room_within_them() {
    let vpn = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"];
    let mut occupied = Occupied {
        routes: nets(&vpn),
        connected: nets(&["172.17.3.0/24"]),
        hosts: vec![ip("172.17.3.9"), ip("172.18.0.1")],
        networks: nets(&["172.19.0.0/16"]),
    };
    let chosen = |occupied: &Occupied| {
        let subnet = choose_subnet(&AddressPool::defaults(), occupied).unwrap();
        subnet.to_string()
    };
    // Neither where the host is, nor where a router is, nor where a network is.
    assert_eq!(chosen(&occupied), "172.20.0.0/16");
    assert_eq!(
        occupied.covering(net("172.20.0.0/16")),
        Some(net("172.16.0.0/12"))
    );
    // Nor what a route names more precisely, or just so.
    occupied
        .routes
        .extend(nets(&["172.20.7.0/24", "172.21.0.0/16"]));
    assert_eq!(chosen(&occupied), "172.22.0.0/16");
    // A block that nothing covers is preferred.
    occupied
        .routes
        .retain(|route| *route != net("192.168.0.0/16"));
    assert_eq!(chosen(&occupied), "192.168.0.0/20");
    let ula = choose_ula(ula_prefix(1), &occupied).unwrap();
    assert_eq!(ula, net("fd00:0:1::/64"));
}

#[test]
fn pools_of_the_daemons_own() {
    let pool = |text: &str| text.parse::<AddressPool>();
    let chosen = |pools: &[&str], networks: &[&str]| {
        let pools: Vec<AddressPool> = pools.iter().map(|text| pool(text).unwrap()).collect();
        let occupied = Occupied {
            networks: nets(networks),
            ..Default::default()
        };
        choose_subnet(&pools, &occupied).map(|subnet| subnet.to_string())
    };
    assert_eq!(chosen(&["10.200.0.0/16"], &[]).unwrap(), "10.200.0.0/24");
    let two = ["base=10.200.0.0/23,size=24", "10.201.0.0/26"];
    let taken = ["10.200.0.0/24", "10.200.1.0/24"];
    assert_eq!(chosen(&two, &taken[..1]).unwrap(), "10.200.1.0/24");
    assert_eq!(chosen(&two, &taken).unwrap(), "10.201.0.0/26");
    assert_eq!(chosen(&["fd07::/48"], &[]).unwrap(), "fd07::/64");
    assert!(pool("fd07::/48").unwrap().is_ipv6());
    // Of 2^56 subnets without a free one, an answer all the same.
    assert!(chosen(&["fd00::/8,size=64"], &["fd00::/8"]).is_err());
    for bad in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/16,24",
        "10.0.0.0/16,size=",
        "10.0.0.0/16,size=8",
        "10.0.0.0/16,size=31",
        "10.0.0.0/31",
        "fd00::/48,size=127",
    ] {
        assert!(pool(bad).is_err(), "{bad}");
    }
}

#[test]
fn several_ranges_of_a_subnet_are_used_in_turn() {
    let subnets = nets(&["10.61.0.0/24", "fd00:61::/64"]);
    let gateways = [ip("10.61.0.1"), ip("fd00:61::1")];
    let mut pools = Pools::new(&subnets, &gateways).unwrap();
    let ranges = nets(&[
        "10.61.0.128/31",
        "10.61.0.16/30",
        "10.61.0.18/32",
        "fd00:61::10/125",
    ]);
    pools.limit(&ranges, &[ip("10.61.0.17")]).unwrap();
    let mut next = |holder: &str| {
        let given = pools.allocate(&[], holder)?;
        Ok::<_, IpamError>(given.iter().map(|net| net.addr()).collect::<Vec<_>>())
    };
    assert_eq!(next("a").unwrap(), [ip("10.61.0.16"), ip("fd00:61::10")]);
    assert_eq!(next("b").unwrap(), [ip("10.61.0.18"), ip("fd00:61::12")]);
    assert_eq!(next("c").unwrap(), [ip("10.61.0.19"), ip("fd00:61::13")]);
    assert_eq!(next("d").unwrap()[0], ip("10.61.0.128"));
    assert_eq!(next("e").unwrap()[0], ip("10.61.0.129"));
    assert!(matches!(next("f"), Err(IpamError::Full { .. })));
    pools.release(&nets(&["10.61.0.19/24"]));
    assert_eq!(
        pools.allocate(&[], "g").unwrap()[0].addr(),
        ip("10.61.0.19")
    );
    // The network address alone gives nobody an address; the range says nothing then.
    let mut pools = Pools::new(&subnets[..1], &gateways[..1]).unwrap();
    pools.limit(&nets(&["10.61.0.0/32"]), &[]).unwrap();
    assert_eq!(pools.allocate(&[], "a").unwrap()[0].addr(), ip("10.61.0.2"));
}

// Conforms: RFC4787-7
#[test]
fn a_subnet_of_the_users_own_is_checked() {
    let occupied = Occupied {
        networks: nets(&["172.17.0.0/16"]),
        routes: nets(&["10.0.0.0/8", "10.9.0.0/24", "0.0.0.0/0", "0.0.0.0/1"]),
        connected: nets(&["172.30.0.0/16"]),
        hosts: vec![ip("172.30.0.5"), ip("172.30.0.1")],
    };
    let check = |text| check_subnet(net(text), &occupied);
    assert_eq!(check("192.168.5.9/24"), Ok(net("192.168.5.0/24")));
    assert_eq!(check("fd00:1::/64"), Ok(net("fd00:1::/64")));
    // Within a less specific route, and within the subnet of a link, the user's word holds.
    assert_eq!(check("10.3.0.0/16"), Ok(net("10.3.0.0/16")));
    assert_eq!(check("172.30.7.0/24"), Ok(net("172.30.7.0/24")));
    for (wanted, other) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.8.0.0/15", "10.9.0.0/24"),
        ("10.9.0.0/24", "10.9.0.0/24"),
        ("172.30.0.0/15", "172.30.0.0/16"),
        ("172.30.0.0/24", "172.30.0.5/32"),
    ] {
        let clash = check(wanted).unwrap_err().to_string();
        assert!(clash.contains(other) && clash.contains("host"), "{clash}");
    }
    let clash = check("172.16.0.0/12").unwrap_err().to_string();
    assert!(
        clash.contains("172.17.0.0/16, the subnet of another network"),
        "{clash}"
    );
    let clash = check("172.17.9.0/24").unwrap_err().to_string();
    assert!(clash.contains("another network"), "{clash}");
    assert!(matches!(
        check("192.168.0.0/31"),
        Err(IpamError::TooSmall(_))
    ));
    for nobodys in ["224.0.0.0/24", "127.0.0.0/8", "0.0.0.0/0", "::/0"] {
        assert!(matches!(check(nobodys), Err(IpamError::NotUnicast(_))));
    }
}

#[test]
fn a_released_address_rests() {
    let mut pool = allocator("10.0.0.0/29");
    assert_eq!(pool.allocate("a").unwrap(), ip("10.0.0.2"));
    assert_eq!(pool.allocate("b").unwrap(), ip("10.0.0.3"));
    assert_eq!(pool.release(ip("10.0.0.2")), Some("a".into()));
    assert_eq!(pool.release(ip("10.0.0.2")), None);
    let rest: Vec<IpAddr> = (0..4).map(|_| pool.allocate("c").unwrap()).collect();
    assert_eq!(
        rest,
        ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"].map(ip)
    );
    let full = pool.allocate("d").unwrap_err();
    assert_eq!(
        full,
        IpamError::Full {
            subnet: net("10.0.0.0/29"),
            held: 5
        }
    );
    pool.release(ip("10.0.0.5"));
    assert_eq!(pool.allocate("d").unwrap(), ip("10.0.0.5"));
    assert_eq!(pool.release(ip("10.0.0.5")).as_deref(), Some("d"));
}

#[test]
fn an_address_asked_for_is_given_or_refused_with_a_reason() {
    let mut pool = allocator("172.17.0.0/16");
    pool.allocate_specific(ip("172.17.0.2"), "web").unwrap();
    pool.allocate_specific(ip("172.17.0.2"), "web").unwrap();
    let held = pool
        .allocate_specific(ip("172.17.0.2"), "db")
        .unwrap_err()
        .to_string();
    assert_eq!(
        held,
        "address 172.17.0.2 belongs to web; choose another one, or remove web"
    );
    let why = |pool: &mut Allocator, text| {
        pool.allocate_specific(ip(text), "db")
            .unwrap_err()
            .to_string()
    };
    assert!(why(&mut pool, "172.17.0.1").contains("the gateway"));
    assert!(why(&mut pool, "172.17.0.0").contains("the network address"));
    assert!(why(&mut pool, "172.17.255.255").contains("the broadcast address"));
    assert!(
        why(&mut pool, "172.18.0.2")
            .contains("in no subnet of the network, which has 172.17.0.0/16")
    );
    assert!(why(&mut pool, "fd00::2").contains("in no subnet"));
    assert_eq!(
        pool.allocate("db").unwrap(),
        ip("172.17.0.3"),
        "the one held is passed over"
    );
}

#[test]
fn a_gateway_may_lie_anywhere_but_must_be_a_host() {
    let mut pool = Allocator::new(net("10.0.0.0/30"), ip("10.0.0.2")).unwrap();
    assert_eq!(pool.allocate("a").unwrap(), ip("10.0.0.1"));
    assert!(matches!(
        pool.allocate("b"),
        Err(IpamError::Full { held: 1, .. })
    ));
    for wrong in ["10.0.0.0", "10.0.0.3", "10.0.1.1"] {
        let made = Allocator::new(net("10.0.0.0/30"), ip(wrong));
        assert!(made.is_err(), "{wrong}");
    }
    assert!(Allocator::new(net("10.0.0.0/31"), ip("10.0.0.1")).is_err());
}

#[test]
fn ipv6_is_numbered_alike_and_has_no_broadcast() {
    let mut pool = allocator("fd00:1::/126");
    assert_eq!(pool.allocate("a").unwrap(), ip("fd00:1::2"));
    assert_eq!(pool.allocate("b").unwrap(), ip("fd00:1::3"));
    assert!(pool.allocate("c").is_err());
    let anycast = pool
        .allocate_specific(ip("fd00:1::"), "c")
        .unwrap_err()
        .to_string();
    assert!(anycast.contains("anycast"), "{anycast}");
    assert_eq!(allocator("fd00::/8").allocate("a").unwrap(), ip("fd00::2"));
}

fn pools(subnets: &[&str]) -> Pools {
    let subnets: Vec<IpNet> = subnets.iter().map(|text| net(text)).collect();
    let gateways: Vec<IpAddr> = subnets.iter().map(|net| default_gateway(*net)).collect();
    Pools::new(&subnets, &gateways).unwrap()
}

fn given(addresses: Result<Vec<IpNet>, IpamError>) -> Vec<String> {
    let addresses = addresses.unwrap();
    addresses.iter().map(ToString::to_string).collect()
}

// Conforms: IPV6-dual-stack-addresses
#[test]
fn both_families_number_alike() {
    let mut pools = pools(&["fd00:1::/64", "172.17.0.0/16"]);
    assert_eq!(
        given(pools.allocate(&[], "a")),
        ["172.17.0.2/16", "fd00:1::2/64"]
    );
    assert_eq!(
        given(pools.allocate(&[ip("172.17.1.0")], "b")),
        ["172.17.1.0/16", "fd00:1::100/64"]
    );
    // One that is taken is passed over.
    pools.hold(&[ip("fd00:1::3")], "static").unwrap();
    let c = pools.allocate(&[], "c").unwrap();
    assert_eq!(given(Ok(c.clone())), ["172.17.0.3/16", "fd00:1::4/64"]);
    // As is one that is too far for the other family.
    assert_eq!(
        given(pools.allocate(&[ip("fd00:1::7:5")], "d")),
        ["172.17.0.4/16", "fd00:1::7:5/64"]
    );
    // Both at once, in any order.
    let wanted = [ip("fd00:1::99"), ip("172.17.0.9")];
    assert_eq!(
        given(pools.allocate(&wanted, "e")),
        ["172.17.0.9/16", "fd00:1::99/64"]
    );
    pools.release(&c);
    assert_eq!(
        given(pools.allocate(&[ip("172.17.0.3")], "f")),
        ["172.17.0.3/16", "fd00:1::5/64"]
    );
}

#[test]
fn all_addresses_or_none() {
    let mut pools = pools(&["10.0.0.0/30", "10.1.0.0/30", "fd00:1::/64"]);
    let outside = pools
        .allocate(&[ip("10.0.0.2"), ip("fd00:2::2")], "a")
        .unwrap_err()
        .to_string();
    assert!(
        outside.contains("fd00:2::2") && outside.contains("10.0.0.0/30, 10.1.0.0/30, fd00:1::/64"),
        "{outside}"
    );
    // Nothing of it is held, and the second subnet serves when the first is full.
    assert_eq!(
        given(pools.allocate(&[], "a")),
        ["10.0.0.2/30", "fd00:1::2/64"]
    );
    assert_eq!(
        given(pools.allocate(&[], "b")),
        ["10.1.0.2/30", "fd00:1::3/64"]
    );
    let full = pools.allocate(&[], "c").unwrap_err();
    assert!(matches!(full, IpamError::Full { .. }), "{full}");
    assert!(pools.hold(&[ip("fd00:1::4")], "c").is_ok(), "not lost");
    // What a daemon before this one gave is taken as it was.
    let mut plain = Pools::new(&[net("10.0.0.0/24")], &[ip("10.0.0.1")]).unwrap();
    assert_eq!(given(plain.hold(&[ip("10.0.0.7")], "x")), ["10.0.0.7/24"]);
    assert_eq!(given(plain.allocate(&[], "y")), ["10.0.0.2/24"]);
}

// Conforms: IPV6-ula-prefix
#[test]
fn a_daemons_own_prefix_is_divided() {
    let prefix = ula_prefix(0xffff_ff12_3456_789a);
    assert_eq!(prefix.to_string(), "fd12:3456:789a::/48");
    let choose = |taken: &[&str]| {
        let occupied = Occupied {
            networks: nets(taken),
            ..Default::default()
        };
        choose_ula(prefix, &occupied).map(|subnet| subnet.to_string())
    };
    assert_eq!(
        choose(&["::/0", "fd00::/64"]).unwrap(),
        "fd12:3456:789a::/64"
    );
    assert_eq!(
        choose(&["fd12:3456:789a::/64", "fd12:3456:789a:1::7/128"]).unwrap(),
        "fd12:3456:789a:2::/64"
    );
    assert!(choose(&["fc00::/7"]).is_err());
    assert!(choose(&["fd12:3456:789a::/48"]).is_err());
    for link_local in ["fe80::/64", "169.254.0.0/16"] {
        assert!(check_subnet(net(link_local), &Occupied::default()).is_err());
    }
}

#[test]
fn macs_are_unicast_and_locally_administered() {
    assert_eq!(mac_for(ip("172.17.0.2")).0, [0x02, 0x42, 172, 17, 0, 2]);
    assert_eq!(mac_for(ip("fd00::1:2")).0, [0x06, 0, 0, 1, 0, 2]);
    for mac in [mac_for(ip("1.2.3.4")), mac_for(ip("::1"))] {
        assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}");
    }
}

// Feature: pools
#[test]
fn ranges_and_reserved_addresses_bound_what_is_chosen() {
    let subnets = [net("10.0.0.0/24"), net("fd00:1::/64")];
    let mut pools = Pools::new(&subnets, &[ip("10.0.0.1"), ip("fd00:1::1")]).unwrap();
    pools
        .limit(&[net("10.0.0.64/30")], &[ip("10.0.0.65"), ip("fd00:1::43")])
        .unwrap();
    let chosen = |pools: &mut Pools| {
        let given = pools.allocate(&[], "web")?;
        Ok::<_, IpamError>(given.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        chosen(&mut pools).unwrap(),
        ["10.0.0.64/24", "fd00:1::40/64"]
    );
    assert_eq!(
        chosen(&mut pools).unwrap(),
        ["10.0.0.66/24", "fd00:1::42/64"]
    );
    // The one alike is reserved: the next free one.
    assert_eq!(
        chosen(&mut pools).unwrap(),
        ["10.0.0.67/24", "fd00:1::2/64"]
    );
    assert!(matches!(chosen(&mut pools), Err(IpamError::Full { .. })));
    // What is asked for may lie outside the range, but not be reserved.
    pools.allocate(&[ip("10.0.0.9")], "db").unwrap();
    let refused = pools.allocate(&[ip("10.0.0.65")], "db").unwrap_err();
    assert!(refused.to_string().contains("a reserved address"));
    let mut pools = Pools::new(&subnets[..1], &[ip("10.0.0.1")]).unwrap();
    assert!(pools.limit(&[net("10.0.1.0/30")], &[]).is_err());
    assert!(pools.limit(&[], &[ip("10.0.1.1")]).is_err());
}
