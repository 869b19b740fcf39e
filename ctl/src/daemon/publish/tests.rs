//! Mappings: which addresses they take, where they lead, what the switch is told.

use switch::io::filter::local_only_filter;

use super::*;

fn mapping(host_ip: Option<&str>, host_port: u16, count: u16) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 80,
        count,
        allow: Vec::new(),
    }
}

fn to(addresses: &[&str]) -> Destination {
    let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Destination::of(&addresses)
}

/// The first port that both would take.
fn overlap(
    (one, one_to): (&PortMapping, Destination),
    (other, other_to): (&PortMapping, Destination),
) -> Option<u16> {
    let claim = |holder, mapping, to| Claim {
        holder,
        mapping,
        to,
    };
    let wanted = claim("one", one, one_to);
    let held = claim("other", other, other_to);
    let found = conflict([wanted].into_iter(), [held].into_iter())?;
    assert_eq!(found.other.holder, "other");
    let mirrored = conflict([held].into_iter(), [wanted].into_iter());
    assert_eq!(mirrored.map(|it| it.port), Some(found.port));
    Some(found.port)
}

const IPV4: [&str; 1] = ["172.17.0.2/16"];
const IPV6: [&str; 1] = ["fd00:1::2/64"];
const BOTH: [&str; 2] = ["172.17.0.2/16", "fd00:1::2/64"];

#[test]
fn mappings_overlap_by_protocol_address_and_range() {
    let overlap =
        |one: &PortMapping, other: &PortMapping| overlap((one, to(&IPV4)), (other, to(&IPV4)));
    let all = mapping(None, 8000, 100);
    assert_eq!(overlap(&all, &mapping(None, 8099, 5)), Some(8099));
    assert_eq!(overlap(&mapping(None, 7990, 11), &all), Some(8000));
    assert_eq!(overlap(&all, &mapping(None, 8100, 1)), None);
    assert_eq!(
        overlap(&all, &mapping(Some("127.0.0.1"), 8050, 1)),
        Some(8050)
    );
    assert_eq!(
        overlap(&all, &mapping(Some("2001:db8::1"), 8050, 1)),
        None,
        "an IPv4 container takes [::1] alone"
    );
    let one = mapping(Some("192.0.2.1"), 80, 1);
    assert_eq!(overlap(&one, &mapping(Some("192.0.2.2"), 80, 1)), None);
    assert_eq!(overlap(&one, &mapping(Some("0.0.0.0"), 80, 1)), Some(80));
    assert_eq!(overlap(&one, &mapping(Some("::"), 80, 1)), None);
    let udp = PortMapping {
        protocol: Protocol::Udp,
        ..all.clone()
    };
    assert_eq!(overlap(&all, &udp), None);
}

#[test]
fn a_conflict_is_found_within_a_request_and_among_thousands() {
    let many: Vec<PortMapping> = (10_000..30_000)
        .map(|port| mapping(None, port, 1))
        .collect();
    let claims = |holder: &'static str| {
        move |mapping| Claim {
            holder,
            mapping,
            to: to(&BOTH),
        }
    };
    let wanted = || many[10_000..].iter().map(claims("new"));
    let held = || many[..10_000].iter().map(claims("old"));
    let started = std::time::Instant::now();
    assert!(conflict(wanted(), held()).is_none());
    // Pair by pair it takes a minute.
    assert!(started.elapsed() < Duration::from_secs(5));

    let twice = [mapping(None, 25_000, 1), mapping(None, 24_000, 2_000)];
    let found = conflict(twice.iter().map(claims("new")), held()).unwrap();
    assert_eq!((found.port, found.other.holder), (25_000, "new"));
    let across = [mapping(Some("127.0.0.1"), 19_990, 20)];
    let found = conflict(across.iter().map(claims("new")), held()).unwrap();
    assert_eq!((found.port, found.other.holder), (19_990, "old"));
    // What others hold in common is not the asker's business.
    let held = || twice.iter().map(claims("old"));
    assert!(conflict(across.iter().map(claims("new")), held()).is_none());
}

// Conforms: IPV6-publish-both-families
#[test]
fn no_address_means_every_one_of_the_families_that_the_container_has() {
    let all = mapping(None, 8080, 1);
    let hosts = |destination: &[&str]| -> Vec<Option<String>> {
        let binds = binds(&all, to(destination));
        let hosts = binds.map(|bind| bind.host.map(|ip| ip.to_string()));
        hosts.collect()
    };
    let some = |ip: &str| Some(ip.to_owned());
    assert_eq!(hosts(&BOTH), [None], "one socket for both");
    assert_eq!(hosts(&IPV6), [some("::"), some("127.0.0.1")]);
    if has_ipv6() {
        assert_eq!(hosts(&IPV4), [some("0.0.0.0"), some("::1")]);
    } else {
        assert_eq!(hosts(&IPV4), [some("0.0.0.0")]);
    }
    assert_eq!(
        overlap(
            (&all, to(&BOTH)),
            (&mapping(Some("::1"), 8080, 1), to(&IPV4))
        ),
        Some(8080)
    );

    let mut last = 6;
    let rules = rules(&all, to(&BOTH), &mut last);
    let told: Vec<_> = rules
        .iter()
        .map(|rule| (rule.id, rule.host, rule.to.to_string()))
        .collect();
    assert_eq!(
        told,
        [
            (7, None, "172.17.0.2".to_owned()),
            (8, None, "fd00:1::2".to_owned())
        ]
    );
    assert_eq!(last, 8);
}

// Conforms: IPV6-publish-host-address
#[test]
fn an_address_leads_to_the_address_of_its_family() {
    let rules_of = |host_ip: &str| -> Vec<(Option<String>, String)> {
        rules(&mapping(Some(host_ip), 80, 1), to(&BOTH), &mut 0)
            .iter()
            .map(|rule| (rule.host.map(|ip| ip.to_string()), rule.to.to_string()))
            .collect()
    };
    let one = |host: Option<&str>, to: &str| [(host.map(str::to_owned), to.to_owned())];
    assert_eq!(rules_of("192.0.2.1"), one(Some("192.0.2.1"), "172.17.0.2"));
    assert_eq!(
        rules_of("2001:db8::1"),
        one(Some("2001:db8::1"), "fd00:1::2")
    );
    assert_eq!(rules_of("0.0.0.0"), one(None, "172.17.0.2"));
    assert_eq!(rules_of("::"), one(None, "fd00:1::2"));
    assert_eq!(rules_of("::1"), [], "the relay's alone");
    assert_eq!(rules_of("127.0.0.1"), []);

    let target = to(&BOTH).target(80).unwrap();
    assert_eq!(target.to_string(), "172.17.0.2:80 and [fd00:1::2]:80");
    let target = to(&IPV4).target(80).unwrap();
    assert_eq!(target.to_string(), "172.17.0.2:80", "for everybody");
}

#[test]
fn what_means_nothing_is_refused() {
    let destination = to(&IPV4);
    assert_eq!(check(&mapping(None, 65535, 1), destination), Ok(()));
    assert!(check(&mapping(None, 65535, 2), destination).is_err());
    assert_eq!(check(&mapping(None, 0, 1), destination), Ok(()), "any");
    assert!(check(&mapping(None, 80, 0), destination).is_err());
    let wide = PortMapping {
        container_port: 65000,
        ..mapping(None, 80, 1000)
    };
    assert!(check(&wide, destination).is_err());
    let sctp = |host_ip, host_port| PortMapping {
        protocol: Protocol::Sctp,
        ..mapping(host_ip, host_port, 1)
    };
    assert_eq!(check(&sctp(None, 80), destination), Ok(()));
    assert_eq!(normalized(sctp(None, 0)), sctp(None, 80));
    let refused = check(&sctp(None, 81), destination).unwrap_err();
    assert!(refused.text().contains("publish 80:80"), "{refused}");
    let refused = check(&sctp(Some("127.0.0.1"), 80), destination).unwrap_err();
    assert!(refused.text().contains("nothing carries sctp"), "{refused}");
    let listed = PortMapping {
        allow: vec!["::ffff:10.0.0.0/104".parse().unwrap()],
        ..mapping(None, 80, 1)
    };
    let refused = check(&listed, destination).unwrap_err();
    assert!(refused.text().contains("::ffff:10.0.0.0/104"), "{refused}");
    if !has_ipv6() {
        let refused = check(&mapping(Some("::1"), 80, 1), destination).unwrap_err();
        assert!(refused.text().contains("no IPv6"), "{refused}");
        return;
    }
    let refused = check(&mapping(Some("2001:db8::1"), 80, 1), destination).unwrap_err();
    assert!(
        refused.text().contains("the container has no IPv6 address"),
        "{refused}"
    );
    assert!(check(&mapping(Some("0.0.0.0"), 80, 1), to(&IPV6)).is_err());
    assert!(check(&mapping(Some("fe80::1"), 80, 1), to(&BOTH)).is_err());
    assert_eq!(
        check(&mapping(Some("2001:db8::1"), 80, 1), to(&BOTH)),
        Ok(())
    );
    assert_eq!(
        check(&mapping(Some("::1"), 80, 1), destination),
        Ok(()),
        "the relay serves it"
    );
}

#[test]
fn a_mapped_address_is_the_one_it_stands_for() {
    let one = mapping(Some("192.0.2.1"), 80, 1);
    assert_eq!(normalized(mapping(Some("::ffff:192.0.2.1"), 80, 1)), one);
    assert_eq!(normalized(one.clone()), one);
    let every = mapping(Some("0.0.0.0"), 80, 1);
    assert_eq!(normalized(every.clone()), every, "not IPv6");
}

#[tokio::test]
async fn a_port_of_another_process_is_a_clear_conflict_and_frees_the_rest() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let wanted = mapping(Some("127.0.0.1"), port - 1, 2);
    let filter = local_only_filter(&[]);
    let failure = reserve(&wanted, to(&IPV4), &filter).err().unwrap();
    let taken_by = format!("port {port}/tcp on 127.0.0.1 is taken by another process, ");
    let text = failure.text();
    assert!(matches!(failure, Failure::Conflict(_)), "{text}");
    assert!(text.starts_with(&taken_by), "{text}");
    let holder = format!(
        "(pid {}) at 127.0.0.1:{port} (EADDRINUSE)",
        std::process::id()
    );
    assert!(text.contains(&holder), "{text}");
    drop(taken);
    let reserved = reserve(&wanted, to(&IPV4), &filter).unwrap();
    let published = reserved.serve(&mut 0).unwrap();
    assert!(published.rules().is_empty());
    published.renew_filter(&local_only_filter(&[7]));
    published.stop().await;
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn a_range_beyond_the_limit_names_the_limit() {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if limit > 120_000 {
        println!("skipped: 120000 descriptors are allowed here");
        return;
    }
    let range = [mapping(None, 1024, 60_000)];
    let singles: Vec<PortMapping> = (1..=60_000).map(|port| mapping(None, port, 1)).collect();
    for wanted in [&range[..], &singles] {
        let failure = check_descriptors(wanted, to(&BOTH)).unwrap_err();
        assert!(failure.text().contains("LimitNOFILE"), "{failure}");
        assert!(failure.text().contains("60000"), "{failure}");
        assert!(failure.text().contains(&limit.to_string()), "{failure}");
    }
    assert!((3..=limit).contains(&open_descriptors()));
}
