//! The programs, run by a small interpreter of classic BPF that is as strict as the kernel's
//! verifier about what it meets.

use super::*;

/// What the ancillary loads say of a packet.
#[derive(Clone, Copy, Default)]
struct Ancillary {
    ifindex: u32,
    vlan_tci: u32,
    protocol: u32,
}

const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;

/// Runs a program; the value it returns and the instructions it took.
fn run(program: &[sock_filter], packet: &[u8], ancillary: Ancillary) -> (u32, usize) {
    let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
    for steps in 1.. {
        let instruction = program.get(at).expect("a program ends with a return");
        let sock_filter { code, jt, jf, k } = *instruction;
        let code = u32::from(code);
        at += 1;
        let bytes = |offset: usize, size: usize| {
            // SKF_NET_OFF counts from the IP header.
            let from_ip = (offset as u32).checked_sub(libc::SKF_NET_OFF as u32);
            let offset = from_ip.map_or(offset, |offset| 14 + offset as usize);
            let bytes = packet.get(offset..offset + size)?;
            Some(
                bytes
                    .iter()
                    .fold(0u32, |value, &byte| value << 8 | u32::from(byte)),
            )
        };
        let loaded = match code {
            LOAD_WORD if k == IFINDEX => Some(ancillary.ifindex),
            LOAD_WORD if k == VLAN_TAG => Some(ancillary.vlan_tci),
            LOAD_WORD if k == (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32 => bytes(12, 2),
            LOAD_HALF if k == PROTOCOL => Some(ancillary.protocol),
            LOAD_WORD => bytes(k as usize, 4),
            LOAD_HALF => bytes(k as usize, 2),
            LOAD_BYTE => bytes(k as usize, 1),
            LOAD_BYTE_AT_X => bytes(x.wrapping_add(k) as usize, 1),
            LOAD_HALF_AT_X => bytes(x.wrapping_add(k) as usize, 2),
            LOAD_MEMORY => Some(memory[k as usize]),
            _ => Some(a),
        };
        // A read beyond the packet drops it.
        let Some(value) = loaded else {
            return (0, steps);
        };
        a = value;
        let skip = |condition: bool| usize::from(if condition { jt } else { jf });
        match code {
            LOAD_WORD | LOAD_HALF | LOAD_BYTE | LOAD_BYTE_AT_X | LOAD_HALF_AT_X | LOAD_MEMORY => {}
            STORE_MEMORY => memory[k as usize] = a,
            LOAD_X => x = k,
            LOAD_X_HEADER => match bytes(k as usize, 1) {
                Some(byte) => x = 4 * (byte & 15),
                None => return (0, steps),
            },
            AND => a &= k,
            GO => at += k as usize,
            IF_EQUAL => at += skip(a == k),
            IF_GREATER => at += skip(a > k),
            IF_NOT_LESS => at += skip(a >= k),
            IF_ANY_BIT => at += skip(a & k != 0),
            RETURN => return (k, steps),
            _ => panic!("no such instruction: {code:#x}"),
        }
    }
    unreachable!("jumps only go forward")
}

/// The program, which the kernel must take: its check_load_and_stores() wants each load of a word of
/// memory to come after a store, by jumps and by position.
fn uplink_filter(filter: &UplinkFilter) -> Vec<sock_filter> {
    verified(super::uplink_filter(filter, Part::All))
}

fn verified(program: Vec<sock_filter>) -> Vec<sock_filter> {
    assert!(program.len() <= 4096);
    let mut stored_at = vec![u16::MAX; program.len()];
    let mut stored = 0;
    for (at, instruction) in program.iter().enumerate() {
        let sock_filter { code, jt, jf, k } = *instruction;
        stored &= stored_at[at];
        match u32::from(code) {
            STORE_MEMORY => stored |= 1 << k,
            LOAD_MEMORY => assert!(stored & 1 << k != 0, "nothing stored before {at}"),
            GO => {
                stored_at[at + 1 + k as usize] &= stored;
                stored = u16::MAX;
            }
            IF_EQUAL | IF_GREATER | IF_NOT_LESS | IF_ANY_BIT => {
                for skip in [jt, jf] {
                    stored_at[at + 1 + usize::from(skip)] &= stored;
                }
                stored = u16::MAX;
            }
            _ => {}
        }
    }
    program
}

fn accepts(program: &[sock_filter], packet: &[u8]) -> bool {
    run(program, packet, Ancillary::default()).0 != 0
}

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// An IPv4 packet with `options` words of options and the first bytes of TCP or UDP.
fn ipv4(to: Ipv4Addr, protocol: u32, destination_port: u16, options: u8, fragment: u16) -> Vec<u8> {
    let mut frame = ethernet(ethertype::IPV4);
    let mut header = vec![0; 20 + 4 * usize::from(options)];
    header[0] = 0x45 + options;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol as u8;
    header[16..20].copy_from_slice(&to.octets());
    frame.extend(header);
    frame.extend(5555u16.to_be_bytes());
    frame.extend(destination_port.to_be_bytes());
    frame.extend([0; 16]);
    frame
}

fn ipv6(to: Ipv6Addr, next_header: u32, destination_port: u16) -> Vec<u8> {
    let mut frame = ethernet(ethertype::IPV6);
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next_header as u8;
    header[24..40].copy_from_slice(&to.octets());
    frame.extend(header);
    frame.extend(5555u16.to_be_bytes());
    frame.extend(destination_port.to_be_bytes());
    frame.extend([0; 16]);
    frame
}

#[test]
fn uplink_accepts_what_the_nat_needs() {
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![8080..=8080, 61000..=65535],
        udp: vec![53..=53],
        addresses: vec![],
        routed: vec![],
        published: Default::default(),
    });
    let yes = [
        ethernet(ethertype::ARP),
        ipv4(HOST, TCP, 8080, 0, 0x4000),
        ipv4(HOST, TCP, 61000, 0, 0),
        ipv4(HOST, TCP, 65535, 10, 0),
        ipv4(HOST, UDP, 53, 1, 0),
        ipv4(HOST, ICMP, 0, 0, 0),
        ipv4(HOST, UDP, 9, 0, 0x2000),
        ipv4(HOST, UDP, 9, 0, 0x0001),
        ipv6(HOST6, TCP, 8080),
        ipv6(HOST6, UDP, 53),
        ipv6(HOST6, ICMPV6, 0),
        ipv6(HOST6, 44, 0),
        ipv4(HOST, 132, 8080, 0, 0),
        ipv6(HOST6, 50, 8080),
        ipv6(HOST6, 0, 0),
    ];
    for packet in &yes {
        assert!(accepts(&program, packet), "{packet:02x?}");
    }
    let no = [
        ethernet(0x88cc),
        ethernet(ethertype::VLAN),
        vec![],
        ipv4(HOST, TCP, 8079, 0, 0x4000),
        ipv4(HOST, TCP, 8081, 0, 0),
        ipv4(HOST, TCP, 60999, 0, 0),
        ipv4(HOST, TCP, 53, 0, 0),
        ipv4(HOST, UDP, 8080, 0, 0),
        ipv6(HOST6, TCP, 8081),
        ipv6(HOST6, UDP, 8080),
    ];
    for packet in &no {
        assert!(!accepts(&program, packet), "{packet:02x?}");
    }
}

#[test]
fn uplink_drops_other_vlans_and_truncated_packets() {
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![0..=65535],
        udp: vec![],
        addresses: vec![],
        routed: vec![],
        published: Default::default(),
    });
    let packet = ipv4(HOST, TCP, 80, 0, 0);
    for (vlan_tci, expected) in [(0, true), (0xe000, true), (7, false), (0xe007, false)] {
        let (value, _) = run(
            &program,
            &packet,
            Ancillary {
                vlan_tci,
                ..Default::default()
            },
        );
        assert_eq!(value != 0, expected, "{vlan_tci:#x}");
    }
    for len in 0..48 {
        assert!(!accepts(&program, &packet[..len]), "{len}");
    }
    assert!(accepts(&program, &packet[..48]), "flags are all it needs");
}

#[test]
fn uplink_looks_at_addresses() {
    let other = Ipv4Addr::new(192, 0, 2, 9);
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![80..=80],
        udp: vec![],
        addresses: vec![
            other.into(),
            HOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            HOST6.into(),
        ],
        routed: vec![],
        published: Default::default(),
    });
    for address in [HOST, other] {
        assert!(accepts(&program, &ipv4(address, TCP, 80, 0, 0)));
        assert!(accepts(&program, &ipv4(address, ICMP, 80, 0, 0)));
        assert!(!accepts(&program, &ipv4(address, TCP, 81, 0, 0)));
    }
    for address in [HOST6, Ipv6Addr::LOCALHOST] {
        assert!(accepts(&program, &ipv6(address, TCP, 80)));
        assert!(!accepts(&program, &ipv6(address, TCP, 81)));
    }
    let stranger = Ipv4Addr::new(192, 0, 2, 3);
    assert!(!accepts(&program, &ipv4(stranger, TCP, 80, 0, 0)));
    assert!(!accepts(&program, &ipv4(stranger, ICMP, 0, 0, 0)));
    assert!(!accepts(&program, &ipv4(stranger, UDP, 0, 0, 0x2000)));
    // Each word of the address counts.
    for word in 0..4 {
        let mut segments = HOST6.segments();
        segments[2 * word + 1] ^= 2;
        let stranger = Ipv6Addr::from(segments);
        assert!(!accepts(&program, &ipv6(stranger, TCP, 80)), "{stranger}");
        assert!(!accepts(&program, &ipv6(stranger, 44, 80)), "{stranger}");
        assert!(
            accepts(&program, &ipv6(stranger, ICMPV6, 0)),
            "neighbour discovery"
        );
    }

    // One family only: nothing of the other's TCP is wanted.
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![80..=80],
        udp: vec![],
        addresses: vec![HOST.into()],
        routed: vec![],
        published: Default::default(),
    });
    assert!(accepts(&program, &ipv4(HOST, TCP, 80, 0, 0)));
    assert!(!accepts(&program, &ipv6(HOST6, TCP, 80)));
    assert!(!accepts(&program, &ipv6(HOST6, ICMPV6, 0)));

    // Too many to compare: any.
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![80..=80],
        udp: vec![],
        addresses: (0..100)
            .map(|last| Ipv4Addr::new(10, 0, 0, last).into())
            .collect(),
        routed: vec![],
        published: Default::default(),
    });
    assert!(accepts(&program, &ipv4(HOST, TCP, 80, 0, 0)));
}

// Conforms: IPV6-uplink-filter
#[test]
fn uplink_of_both_families_lets_in_what_the_switch_must_see() {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![8080..=8080],
        udp: vec![61000..=61127],
        addresses: vec![HOST.into(), HOST6.into(), link_local.into()],
        routed: vec![],
        published: Default::default(),
    });
    // Solicitations go to groups (RFC 4861 7.2.2).
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let yes = [
        ipv6(HOST6, TCP, 8080),
        ipv6(HOST6, UDP, 61127),
        ipv6(group, ICMPV6, 0),
        ipv6(link_local, ICMPV6, 0),
        // Hop-by-hop options, routing, fragment, destination options.
        ipv6(HOST6, 0, 0),
        ipv6(HOST6, 43, 0),
        ipv6(HOST6, 44, 0),
        ipv6(HOST6, 60, 0),
        // Translated by address alone.
        ipv6(HOST6, 50, 0),
        ipv6(HOST6, 132, 0),
    ];
    for packet in &yes {
        assert!(accepts(&program, packet), "{packet:02x?}");
    }
    let no = [
        ipv6(HOST6, TCP, 61000),
        ipv6(HOST6, UDP, 8080),
        ipv6(link_local, TCP, 8080),
        ipv6(group, 0, 0),
        ipv6(group, UDP, 61000),
    ];
    for packet in &no {
        assert!(!accepts(&program, packet), "{packet:02x?}");
    }
    for len in 0..14 + 40 + 4 {
        assert!(!accepts(&program, &yes[0][..len]), "{len}");
    }
}

/// Numbers without a pattern, the same each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u16 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as u16
    }
}

#[test]
fn search_agrees_with_a_scan_for_every_port() {
    let mut random = Random(1);
    for count in [0, 1, 2, 3, 5, 17, 60, 100] {
        let intervals: Vec<_> = (0..count)
            .map(|_| {
                let low = random.next();
                low..=low.saturating_add(random.next() % 300)
            })
            .collect();
        let merged = merge(&intervals);
        let program = uplink_filter(&UplinkFilter {
            tcp: intervals.clone(),
            udp: intervals.clone(),
            addresses: vec![],
            routed: vec![],
            published: Default::default(),
        });
        assert!(program.len() <= MAX_INSTRUCTIONS);
        let fits = 4 * merged.len() * SEARCH_PER_INTERVAL < MAX_INSTRUCTIONS - 60;
        for port in 0..=u16::MAX {
            let expected = intervals.iter().any(|interval| interval.contains(&port));
            let (value, steps) = run(&program, &ipv4(HOST, TCP, port, 0, 0), Ancillary::default());
            if fits {
                assert_eq!(value != 0, expected, "{count} intervals, port {port}");
            } else {
                assert!(value != 0 || !expected, "{count} intervals, port {port}");
            }
            assert!(steps <= 25 + 2 * 10, "{steps} steps for {count} intervals");
        }
    }
}

#[test]
fn intervals_are_merged() {
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "an empty interval is no interval"
    )]
    let intervals = [
        10..=20,
        15..=30,
        31..=40,
        50..=50,
        60..=5,
        65535..=65535,
        65000..=65534,
    ];
    assert_eq!(merge(&intervals), [(10, 40), (50, 50), (65000, 65535)]);
    let lists = || {
        let tcp = told_apart(&[1..=1, 3..=3, 100..=100], &[3..=3, 100..=100]);
        [tcp, told_apart(&[5..=5, 9..=9], &[5..=5, 9..=9])]
    };
    let bounds = |lists: [Vec<Interval>; 2]| {
        lists.map(|list| {
            let bounds = list.iter().map(|it| (it.low, it.high, it.published));
            bounds.collect::<Vec<_>>()
        })
    };
    let [tcp, udp] = bounds(fit(lists(), 4));
    assert_eq!(tcp, [(1, 3, false), (100, 100, true)]);
    assert_eq!(udp, [(5, 5, true), (9, 9, true)]);
    let [tcp, udp] = bounds(fit(lists(), 0));
    assert_eq!((tcp, udp), (vec![(1, 100, false)], vec![(5, 9, true)]));
}

#[test]
fn published_ports_are_told_from_the_others() {
    let all = [10..=20, 30..=65535];
    let bounds = |published: &[RangeInclusive<u16>]| -> Vec<(u16, u16, bool)> {
        let apart = told_apart(&all, published).into_iter();
        apart.map(|it| (it.low, it.high, it.published)).collect()
    };
    assert_eq!(bounds(&[]), [(10, 20, false), (30, 65535, false)]);
    assert_eq!(
        bounds(&[15..=15, 5..=11, 25..=25, 65535..=65535]),
        [
            (10, 11, true),
            (12, 14, false),
            (15, 15, true),
            (16, 20, false),
            (30, 65534, false),
            (65535, 65535, true),
        ]
    );
    assert_eq!(bounds(&[0..=65535]), [(10, 20, true), (30, 65535, true)]);
}

/// Each frame that the only socket would take is taken by exactly one of two.
#[test]
fn two_sockets_share_what_one_would_take() {
    let mut random = Random(7);
    for count in [0, 1, 4, 40, 400] {
        let mut intervals = || -> Vec<_> {
            let interval = |_| {
                let low = random.next();
                low..=low.saturating_add(random.next() % 200)
            };
            (0..count).map(interval).collect()
        };
        let (tcp, udp) = (intervals(), intervals());
        let half = |intervals: &[RangeInclusive<u16>]| intervals[..count / 2].to_vec();
        let filter = UplinkFilter {
            published: [half(&tcp), half(&udp)],
            tcp,
            udp,
            addresses: vec![HOST.into(), HOST6.into()],
            routed: vec!["10.7.0.0/16".parse().unwrap()],
        };
        let parts = [Part::All, Part::Known, Part::Newcomers];
        let [all, known, newcomers] =
            parts.map(|part| verified(super::uplink_filter(&filter, part)));
        let mut apart = 0;
        let mut check = |mut packet: Vec<u8>, flags_at: usize, protocol: u32| {
            for flags in [0x02, 0x12, 0x10, 0x04, 0xc2] {
                packet[flags_at] = flags;
                let [all, known, newcomers] =
                    [&all, &known, &newcomers].map(|program| accepts(program, &packet));
                assert_eq!(all, known || newcomers, "{packet:02x?}");
                assert!(!(known && newcomers), "{packet:02x?}");
                let may_open = protocol == UDP || flags & 0x12 == 0x02;
                assert!(!newcomers || may_open, "{packet:02x?}");
                apart += u32::from(newcomers);
            }
        };
        for port in (0..=u16::MAX).step_by(61) {
            for protocol in [TCP, UDP, ICMP, 132] {
                check(ipv4(HOST, protocol, port, 0, 0), 47, protocol);
                check(ipv4(HOST, protocol, port, 0, 7), 47, protocol);
                check(
                    ipv4(Ipv4Addr::new(10, 7, 0, 1), protocol, port, 0, 0),
                    47,
                    protocol,
                );
                check(ipv6(HOST6, protocol, port), 67, protocol);
            }
        }
        check([ethernet(ethertype::ARP), vec![0; 28]].concat(), 20, 0);
        assert_eq!(apart > 0, count > 1, "{count} intervals: {apart}");
    }
}

#[test]
fn any_number_of_intervals_fits() {
    let every_other: Vec<_> = (0..=u16::MAX).step_by(2).map(|port| port..=port).collect();
    let addresses = (0..MAX_ADDRESSES as u8)
        .flat_map(|last| {
            let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into());
            [IpAddr::from([10, 0, 0, last]), address.into()]
        })
        .collect();
    let program = uplink_filter(&UplinkFilter {
        tcp: every_other.clone(),
        udp: every_other,
        addresses,
        routed: vec![],
        published: Default::default(),
    });
    assert!(program.len() <= MAX_INSTRUCTIONS, "{}", program.len());
    let last = ipv6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 31), UDP, 65534);
    assert!(accepts(&program, &last));
}

#[test]
fn local_only_drops_what_came_from_an_uplink() {
    let program = local_only_filter(&[2, 5, 0x1_0000]);
    for (ifindex, expected) in [
        (1, true),
        (2, false),
        (3, true),
        (5, false),
        (0x1_0000, false),
    ] {
        let (value, _) = run(
            &program,
            &[],
            Ancillary {
                ifindex,
                ..Default::default()
            },
        );
        assert_eq!(value != 0, expected, "{ifindex}");
    }
    assert!(accepts(&local_only_filter(&[]), &[]));
    assert!(!accepts(&drop_all_filter(), &ipv4(HOST, TCP, 80, 0, 0)));
}

#[test]
fn what_goes_to_a_routed_network_comes_in_whatever_it_is() {
    const GRE: u32 = 47;
    let networks =
        |list: &[&str]| -> Vec<IpNet> { list.iter().map(|net| net.parse().unwrap()).collect() };
    let filter = |routed: Vec<IpNet>, addresses: Vec<IpAddr>| UplinkFilter {
        tcp: vec![8080..=8080],
        udp: vec![],
        addresses,
        routed,
        published: Default::default(),
    };
    let routed = networks(&[
        "10.77.0.0/24",
        "10.78.0.0/15",
        "2001:db8:77::/64",
        "2001:db8:78::/52",
        "2001:db8:79::7/128",
    ]);
    let (inside4, outside4) = (
        ["10.77.0.0", "10.77.0.255", "10.79.255.1"],
        ["10.77.1.0", "10.80.0.0", "11.77.0.1", "192.0.2.2"],
    );
    let (inside6, outside6) = (
        ["2001:db8:77::1", "2001:db8:78:fff::1", "2001:db8:79::7"],
        [
            "2001:db8:77:1::1",
            "2001:db8:78:1000::1",
            "2001:db8:79::8",
            "2001:db9:77::1",
        ],
    );
    for addresses in [vec![HOST.into()], vec![HOST.into(), HOST6.into()]] {
        let program = uplink_filter(&filter(routed.clone(), addresses));
        for (protocol, port) in [(TCP, 22), (UDP, 53), (GRE, 0)] {
            for (list, accepted) in [(&inside4[..], true), (&outside4[..], false)] {
                for to in list {
                    let packet = ipv4(to.parse().unwrap(), protocol, port, 0, 0);
                    assert_eq!(accepts(&program, &packet), accepted, "{to} {protocol}");
                }
            }
            for (list, accepted) in [(&inside6[..], true), (&outside6[..], false)] {
                for to in list {
                    let packet = ipv6(to.parse().unwrap(), protocol, port);
                    assert_eq!(accepts(&program, &packet), accepted, "{to} {protocol}");
                }
            }
        }
        // The host's own is as before.
        assert!(accepts(&program, &ipv4(HOST, TCP, 8080, 0, 0)));
        assert!(!accepts(&program, &ipv4(HOST, TCP, 22, 0, 0)));
    }
    // More than are compared let the family in, and the program keeps its size.
    let many: Vec<IpNet> = (0..200u8)
        .map(|at| IpNet::new([10, at, 0, 0].into(), 24).unwrap())
        .collect();
    let program = uplink_filter(&filter(many, vec![HOST.into(), HOST6.into()]));
    assert!(program.len() <= MAX_INSTRUCTIONS);
    assert!(accepts(
        &program,
        &ipv4([10, 7, 0, 1].into(), UDP, 53, 0, 0)
    ));
    assert!(!accepts(&program, &ipv6(HOST6, TCP, 22)));
}

/// Whether the host's kernel sees a packet.
fn passes_ingress(program: &[sock_filter], packet: &[u8]) -> bool {
    match run(program, packet, Ancillary::default()).0 {
        2 => false,
        // A packet too short for what is read, and the common case.
        0 | u32::MAX => true,
        other => panic!("no verdict: {other}"),
    }
}

#[test]
fn the_host_does_not_see_what_is_for_the_switch_and_sees_all_else() {
    let second = Ipv4Addr::new(192, 0, 2, 9);
    let range = 61000..=65535;
    let program = verified(ingress_filter(&[
        IngressPorts {
            addresses: vec![HOST.into(), Ipv4Addr::new(192, 0, 2, 3).into()],
            tcp: vec![range.clone(), 8080..=8080],
            udp: vec![range.clone()],
            sctp: vec![],
        },
        IngressPorts {
            addresses: vec![second.into()],
            tcp: vec![range.clone(), 9090..=9090],
            sctp: vec![9090..=9090],
            ..IngressPorts::default()
        },
        IngressPorts {
            addresses: vec![Ipv6Addr::LOCALHOST.into(), HOST6.into()],
            tcp: vec![8080..=8080],
            udp: vec![range],
            sctp: vec![],
        },
    ]));
    let mut fragment = ipv6(HOST6, 44, 0);
    let header = [17, 0, 0, 1, 0, 0, 0, 0];
    fragment.splice(54..54, header);
    fragment[64..66].copy_from_slice(&61001u16.to_be_bytes());
    let dropped = [
        ipv4(HOST, TCP, 8080, 0, 0x4000),
        ipv4(HOST, TCP, 61000, 10, 0),
        ipv4(HOST, UDP, 65535, 0, 0),
        ipv4(second, TCP, 9090, 0, 0),
        ipv4(second, 132, 9090, 0, 0),
        ipv6(HOST6, TCP, 8080),
        ipv6(HOST6, UDP, 61000),
    ];
    for packet in &dropped {
        assert!(!passes_ingress(&program, packet), "{packet:02x?}");
        let tagged = Ancillary {
            vlan_tci: 7,
            ..Ancillary::default()
        };
        assert_eq!(run(&program, packet, tagged).0, u32::MAX, "of another VLAN");
        let priority = Ancillary {
            vlan_tci: 0xe000,
            ..Ancillary::default()
        };
        assert_eq!(run(&program, packet, priority).0, 2);
    }
    let passed = [
        vec![],
        ethernet(ethertype::ARP),
        ipv4(HOST, TCP, 8081, 0, 0),
        ipv4(HOST, TCP, 9090, 0, 0),
        ipv4(HOST, UDP, 8080, 0, 0),
        ipv4(HOST, UDP, 60999, 0, 0),
        ipv4(HOST, UDP, 61000, 0, 1),
        ipv4(HOST, UDP, 61000, 0, 0x2000),
        ipv4(HOST, ICMP, 61000, 0, 0),
        ipv4(HOST, 132, 8080, 0, 0),
        ipv4(second, TCP, 8080, 0, 0),
        ipv4(second, UDP, 61000, 0, 0),
        ipv4(Ipv4Addr::new(192, 0, 2, 4), TCP, 8080, 0, 0),
        ipv6(HOST6, TCP, 61000),
        ipv6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), TCP, 8080),
        ipv6(HOST6, 0, 8080),
        fragment,
    ];
    for packet in &passed {
        assert!(passes_ingress(&program, packet), "{packet:02x?}");
    }
    assert!(passes_ingress(&verified(ingress_filter(&[])), &dropped[0]));
}

#[test]
fn an_ingress_program_of_any_size_is_taken_and_keeps_what_comes_first() {
    let addresses = |count: u32| -> Vec<IpAddr> {
        let address = |at| Ipv4Addr::from_bits(HOST.to_bits() + at).into();
        (0..count).map(address).collect()
    };
    let many: Vec<_> = (0..2000).map(|at| at * 20..=at * 20).collect();
    let set = |addresses| IngressPorts {
        addresses,
        tcp: [vec![61000..=65535], many.clone()].concat(),
        udp: many.clone(),
        sctp: vec![],
    };
    let last = Ipv4Addr::from_bits(HOST.to_bits() + 249);
    let program = verified(ingress_filter(&[set(addresses(150))]));
    assert!(!passes_ingress(&program, &ipv4(HOST, TCP, 61000, 0, 0)));
    assert!(!passes_ingress(&program, &ipv4(HOST, TCP, 20, 0, 0)));
    assert!(passes_ingress(&program, &ipv4(HOST, TCP, 39_980, 0, 0)));
    assert!(passes_ingress(&program, &ipv4(last, TCP, 61000, 0, 0)));
    // One body for many addresses, and far jumps.
    let few = IngressPorts {
        addresses: addresses(250),
        tcp: vec![61000..=65535],
        ..IngressPorts::default()
    };
    let program = verified(ingress_filter(&[few]));
    assert!(!passes_ingress(&program, &ipv4(last, TCP, 61000, 0, 0)));
    assert!(!passes_ingress(&program, &ipv4(HOST, TCP, 61000, 0, 0)));
}

/// What has no Ethernet header is judged as the same packet behind one.
#[test]
fn a_tunnels_packets_are_judged_as_an_ethernets() {
    let program = uplink_filter(&UplinkFilter {
        tcp: vec![8080..=8080],
        udp: vec![53..=53],
        addresses: vec![HOST.into(), HOST6.into()],
        routed: vec!["10.7.0.0/16".parse().unwrap()],
        published: Default::default(),
    });
    let bare = headerless(program.clone());
    let mut accepted = 0;
    for port in [53, 8080, 8081] {
        for protocol in [TCP, UDP, ICMP] {
            for to in [
                HOST,
                Ipv4Addr::new(10, 7, 0, 1),
                Ipv4Addr::new(192, 0, 2, 77),
            ] {
                for packet in [
                    ipv4(to, protocol, port, 0, 0),
                    ipv4(to, protocol, port, 40, 0),
                    ipv4(to, protocol, port, 0, 7),
                    ipv6(HOST6, protocol, port),
                ] {
                    let ancillary = Ancillary {
                        protocol: u32::from(u16::from_be_bytes([packet[12], packet[13]])),
                        ..Ancillary::default()
                    };
                    let (expected, _) = run(&program, &packet, ancillary);
                    let (found, _) = run(&bare, &packet[14..], ancillary);
                    assert_eq!(found, expected, "{to} {protocol} {port}");
                    accepted += u32::from(found != 0);
                }
            }
        }
    }
    assert!((10..100).contains(&accepted), "{accepted} of 108");
}
