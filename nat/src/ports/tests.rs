use std::collections::BTreeSet;

use super::*;

const REST: Duration = Duration::from_secs(120);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn ports(range: RangeInclusive<u16>) -> Ports {
    let mut ports = Ports::new(1, REST);
    ports.reserve(Protocol::TCP, range);
    ports
}

/// A port that is not taken towards any peer.
fn any(_: u16) -> bool {
    true
}

fn endpoint(host: u8, port: u16) -> Endpoint {
    Endpoint {
        protocol: Protocol::TCP,
        external: IpAddr::from([198, 51, 100, 1]),
        address: IpAddr::from([10, 0, 0, host]),
        port,
    }
}

// Conforms: RFC4787-1 RFC5382-1
#[test]
fn rfc_4787_req_1_one_endpoint_has_one_port() {
    let mut ports = ports(61000..=61999);
    let first = ports.acquire(at(0), &endpoint(2, 4242), any).unwrap();
    assert_eq!(ports.acquire(at(0), &endpoint(2, 4242), any), Some(first));
    assert_eq!(ports.port(&endpoint(2, 4242)), Some(first));
    ports.release(at(1), &endpoint(2, 4242));
    assert_eq!(ports.acquire(at(1), &endpoint(2, 4242), any), Some(first));
    assert_eq!(ports.free(Protocol::TCP), 999);
}

// Conforms: RFC4787-3 RFC5382-7
#[test]
fn rfc_4787_req_3_two_hosts_with_one_source_port_differ() {
    let mut ports = ports(61000..=61999);
    let taken: BTreeSet<_> = (0..=255)
        .map(|host| ports.acquire(at(0), &endpoint(host, 4242), any).unwrap())
        .collect();
    assert_eq!(taken.len(), 256);
}

// Conforms: RFC4787-4
#[test]
fn rfc_4787_req_4_parity_is_kept_while_it_can_be() {
    let mut ports = ports(61000..=61019);
    for host in 0..10 {
        assert_eq!(
            ports.acquire(at(0), &endpoint(host, 4242), any).unwrap() % 2,
            0
        );
    }
    // Even ones are gone, odd ones are better than nothing.
    for host in 10..20 {
        assert_eq!(
            ports.acquire(at(0), &endpoint(host, 4242), any).unwrap() % 2,
            1
        );
    }
    assert_eq!(ports.acquire(at(0), &endpoint(20, 4242), any), None);
    assert_eq!(ports.free(Protocol::TCP), 0);
}

// Conforms: RFC6888-8
#[test]
fn rfc_6888_req_8_a_freed_port_rests_while_others_are_free() {
    let mut ports = ports(61000..=61003);
    let first = ports.acquire(at(0), &endpoint(1, 2), any).unwrap();
    ports.release(at(0), &endpoint(1, 2));
    for host in 2..5 {
        assert_ne!(ports.acquire(at(119), &endpoint(host, 2), any), Some(first));
    }
    // Nothing else is left: under pressure it is used early.
    assert_eq!(ports.acquire(at(119), &endpoint(5, 2), any), Some(first));

    ports.release(at(119), &endpoint(5, 2));
    let next = ports.acquire(at(119 + 120), &endpoint(6, 2), any);
    assert_eq!(next, Some(first));
}

// Conforms: RFC6888-15
#[test]
fn rfc_6888_req_15_ports_cannot_be_foreseen() {
    let order = |seed| {
        let mut ports = Ports::new(seed, REST);
        ports.reserve(Protocol::TCP, 61000..=61999);
        (0..100)
            .map(|host| ports.acquire(at(0), &endpoint(host, 2), any).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let ascending = order(1).windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(
        (25..75).contains(&ascending),
        "{ascending} of 99 steps go up"
    );
}

#[test]
fn reserving_twice_adds_nothing() {
    let mut ports = ports(61000..=61009);
    ports.reserve(Protocol::TCP, 61005..=61014);
    ports.reserve(Protocol::TCP, 0..=1);
    assert_eq!(ports.free(Protocol::TCP), 16);
    ports.acquire(at(0), &endpoint(1, 1), any).unwrap();
    // A block added later reaches addresses that are in use.
    ports.reserve(Protocol::TCP, 61000..=61019);
    assert_eq!(ports.free(Protocol::TCP), 20);
    let mut all: Vec<_> = (2..22)
        .map(|host| ports.acquire(at(0), &endpoint(host, 1), any))
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 20);
    assert_eq!(ports.free(Protocol::UDP), 0);
    let other = Endpoint {
        protocol: Protocol::UDP,
        ..endpoint(1, 1)
    };
    assert_eq!(ports.acquire(at(0), &other, any), None);
}

#[test]
fn a_port_that_does_not_fit_stays_as_it_is() {
    let mut ports = ports(61000..=61003);
    let rested = ports.acquire(at(0), &endpoint(1, 1), any).unwrap();
    ports.release(at(0), &endpoint(1, 1));
    // The resting one too, though free ones are better.
    let only = ports.acquire(at(1), &endpoint(2, 1), |port| port == rested);
    assert_eq!(only, Some(rested));
    ports.release(at(1), &endpoint(2, 1));

    assert_eq!(ports.acquire(at(2), &endpoint(3, 1), |_| false), None);
    assert_eq!(ports.lend(at(2), &endpoint(3, 1), |_| false), None);
    assert_eq!(ports.free(Protocol::TCP), 4);
    assert_eq!(ports.port(&endpoint(3, 1)), None);

    // An endpoint's own is not exchanged for another.
    let own = ports.acquire(at(3), &endpoint(3, 1), any).unwrap();
    assert_eq!(
        ports.acquire(at(3), &endpoint(3, 1), |port| port != own),
        None
    );
    assert_eq!(ports.port(&endpoint(3, 1)), Some(own));
    let lent = ports
        .lend(at(3), &endpoint(3, 1), |port| port != own)
        .unwrap();
    assert_ne!(lent, own);
    ports.unshare(at(3), Protocol::TCP, endpoint(3, 1).external, lent);
    ports.release(at(3), &endpoint(3, 1));
    assert_eq!(ports.free(Protocol::TCP), 4);
}

#[test]
fn every_external_address_has_all_ports() {
    let mut ports = ports(61000..=61000);
    let other = Endpoint {
        external: IpAddr::from([198, 51, 100, 2]),
        ..endpoint(1, 1)
    };
    assert_eq!(ports.acquire(at(0), &endpoint(1, 1), any), Some(61000));
    assert_eq!(ports.acquire(at(0), &other, any), Some(61000));
    assert_eq!(
        ports.acquire(at(0), &Endpoint { port: 2, ..other }, any),
        None
    );
}

#[test]
fn identifiers_need_no_reservation() {
    let mut ports = Ports::new(1, REST);
    assert_eq!(ports.free(Protocol::ICMP), 65535);
    let echo = Endpoint {
        protocol: Protocol::ICMP,
        ..endpoint(1, 7)
    };
    assert!(ports.acquire(at(0), &echo, any).is_some());
    assert_eq!(ports.free(Protocol::ICMP), 65534);
}

#[test]
fn a_shared_port_is_free_when_owner_and_sharers_are_gone() {
    let external = endpoint(1, 1).external;
    for owner_first in [true, false] {
        let mut ports = ports(61000..=61000);
        ports.acquire(at(0), &endpoint(1, 1), any).unwrap();
        assert!(ports.candidates_to_share(Protocol::TCP).eq([61000]));
        assert!(ports.is_in_use(Protocol::TCP, external, 61000));
        ports.share(Protocol::TCP, external, 61000);
        ports.share(Protocol::TCP, external, 61000);
        if owner_first {
            ports.release(at(0), &endpoint(1, 1));
            assert_eq!(ports.free(Protocol::TCP), 0);
        }
        ports.unshare(at(0), Protocol::TCP, external, 61000);
        ports.unshare(at(0), Protocol::TCP, external, 61000);
        if !owner_first {
            assert_eq!(ports.free(Protocol::TCP), 0);
            ports.release(at(0), &endpoint(1, 1));
        }
        assert_eq!(ports.free(Protocol::TCP), 1);
    }
}

#[test]
fn ports_to_share_are_bounded_and_all_different() {
    let mut ports = ports(61000..=65535);
    let some: BTreeSet<_> = ports.candidates_to_share(Protocol::TCP).collect();
    assert_eq!(some.len(), ATTEMPTS);
    assert_eq!(ports.candidates_to_share(Protocol::UDP).count(), 0);
}

#[test]
fn no_port_leaks_and_none_is_given_twice() {
    let mut ports = ports(61000..=61063);
    let mut prng = crate::testing::Prng(9);
    let mut held: Vec<(Endpoint, u16)> = Vec::new();
    for step in 0..20_000u64 {
        if prng.below(2) == 0 {
            let endpoint = endpoint(prng.below(8) as u8, prng.below(16) as u16);
            if let Some(port) = ports.acquire(at(step), &endpoint, any) {
                for (holder, held) in &held {
                    assert_eq!(
                        *holder == endpoint,
                        *held == port,
                        "mappings are one to one"
                    );
                }
                held.push((endpoint, port));
            }
        } else if !held.is_empty() {
            let (endpoint, _) = held.swap_remove(prng.below(held.len()));
            ports.release(at(step), &endpoint);
        }
    }
    for (endpoint, _) in held {
        ports.release(at(0), &endpoint);
    }
    assert_eq!(ports.free(Protocol::TCP), 64);
}

// Conforms: RFC4787-3
#[test]
fn rfc_4787_req_3a_a_privileged_port_stays_one() {
    let mut ports = ports(61000..=61009);
    ports.reserve(Protocol::TCP, 914..=917);
    let own: Vec<_> = (1..=4)
        .map(|host| ports.acquire(at(0), &endpoint(host, 700), any).unwrap())
        .collect();
    assert!(own.iter().all(|port| (914..=917).contains(port)), "{own:?}");
    assert!(own[..2].iter().all(|port| port % 2 == 0), "{own:?}");
    // More find another sort, and nobody else gets one of these.
    assert!(ports.acquire(at(0), &endpoint(5, 700), any).unwrap() > 1023);
    for host in 1..=4 {
        ports.release(at(0), &endpoint(host, 700));
    }
    for second in [1, 500] {
        for port in 2000..2009 {
            let given = ports.acquire(at(second), &endpoint(6, port), any);
            assert!(given.is_none_or(|given| given > 1023), "{given:?}");
        }
    }
    assert_eq!(ports.acquire(at(500), &endpoint(6, 3000), any), None);
    assert!(ports.acquire(at(500), &endpoint(6, 1023), any).unwrap() < 1024);
    // Identifiers are of one sort.
    let echo = Endpoint {
        protocol: Protocol::ICMP,
        ..endpoint(1, 7)
    };
    assert!(ports.acquire(at(0), &echo, any).is_some());
    assert!(ports.available(Protocol::ICMP, echo.external) > 60_000);
}
