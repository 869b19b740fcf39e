//! Real interfaces in namespaces of their own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use super::*;
use crate::netns::tests::scratch;

/// A namespace with a veth pair: `host0` there, the other end as `temp0` in a second namespace.
fn two_namespaces(test: &str) -> Option<(Netns, Netns)> {
    let (host, container) = (scratch(test)?, scratch(test)?);
    host.run(|| {
        create_veth("host0", "temp0").unwrap();
        move_to("temp0", &container).unwrap();
    })
    .unwrap();
    Some((host, container))
}

fn eth0() -> ContainerLink {
    ContainerLink {
        name: "eth0".into(),
        mac: MacAddr([0x02, 0x42, 10, 88, 0, 2]),
        mtu: 1400,
        addresses: vec!["10.88.0.2/24".parse().unwrap()],
        gateways: vec!["10.88.0.1".parse().unwrap()],
        names: Some("10.88.0.1".parse().unwrap()),
    }
}

#[test]
fn a_container_interface_is_configured_and_carries_tcp() {
    let Some((host, container)) =
        two_namespaces("a_container_interface_is_configured_and_carries_tcp")
    else {
        return;
    };
    let info = configure_container(&container, "temp0", &eth0()).unwrap();
    assert_eq!(
        (info.name.as_str(), info.kind.as_str(), info.mtu),
        ("eth0", "veth", 1400)
    );
    assert_eq!(info.mac, eth0().mac);
    assert!(info.up && info.ethernet && !info.loopback);

    let peer = host.run(|| link_info("host0").unwrap()).unwrap();
    assert_eq!(
        (info.peer_index, peer.peer_index),
        (Some(peer.index), Some(info.index))
    );
    assert!(peer.peer_netns.is_some(), "the other end is elsewhere");

    host.run(|| {
        add_address("host0", "10.88.0.1/24".parse().unwrap()).unwrap();
        // The container is to reach this by its default route alone.
        add_address("lo", "198.51.100.1/32".parse().unwrap()).unwrap();
        set_up("host0").unwrap();
    })
    .unwrap();
    let server = host
        .run(|| TcpListener::bind("198.51.100.1:7").unwrap())
        .unwrap();
    let mut client = container
        .run(|| TcpStream::connect("198.51.100.1:7").unwrap())
        .unwrap();
    let (mut served, from) = server.accept().unwrap();
    assert_eq!(from.ip().to_string(), "10.88.0.2");
    client.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    served.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");

    // Once more, as a restarted daemon would: the same again, and the connection lives on.
    let again = configure_container(&container, "eth0", &eth0()).unwrap();
    assert_eq!(again, info);
    served.write_all(b"still").unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");

    // One end takes the other with it.
    host.run(|| delete("host0").unwrap()).unwrap();
    assert!(!container.run(|| exists("eth0").unwrap()).unwrap());
}

// Conforms: CVE-2024-32473
#[test]
fn ipv6_is_quiet_unless_asked_for() {
    let Some((_host, container)) = two_namespaces("ipv6_is_quiet_unless_asked_for") else {
        return;
    };
    let mut both = eth0();
    both.addresses.push("fd00:88::2/64".parse().unwrap());
    both.gateways.push("fd00:88::1".parse().unwrap());
    if !Path::new("/proc/sys/net/ipv6").exists() {
        println!("ipv6_is_quiet_unless_asked_for: no IPv6 in this kernel, which it shall say");
        let refused = configure_container(&container, "temp0", &both)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("fd00:88::2/64 to eth0"), "{refused}");
        assert!(refused.contains("this kernel has no IPv6"), "{refused}");
        return;
    }
    let setting = "/proc/sys/net/ipv6/conf/lo/accept_ra";
    if let Err(error) = fs::OpenOptions::new().write(true).open(setting) {
        println!("ipv6_is_quiet_unless_asked_for: skipped, {setting}: {error}");
        return;
    }
    let read = |file: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{file}");
        container
            .run(|| fs::read_to_string(path).unwrap().trim().to_owned())
            .unwrap()
    };
    configure_container(&container, "temp0", &eth0()).unwrap();
    assert_eq!(
        (read("disable_ipv6").as_str(), read("accept_ra").as_str()),
        ("1", "0")
    );
    configure_container(&container, "eth0", &both).unwrap();
    assert_eq!(
        (read("disable_ipv6").as_str(), read("accept_ra").as_str()),
        ("0", "0")
    );
}

#[test]
fn errors_name_the_interface_and_the_namespace() {
    let Some(netns) = scratch("errors_name_the_interface_and_the_namespace") else {
        return;
    };
    let said = |outcome: Result<()>| outcome.unwrap_err().to_string();
    netns
        .run(|| {
            let missing = set_mtu("nosuch0", 1500).unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
            let text = missing.to_string();
            assert!(
                text.contains("nosuch0") && text.contains(&netns.to_string()),
                "{text}"
            );

            create_veth("a0", "b0").unwrap();
            let twice = create_veth("a0", "c0").unwrap_err();
            assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
            assert!(twice.to_string().contains("names is in use"), "{twice}");

            assert!(said(set_mtu("a0", 1)).contains("MTU of a0 to 1"));
            assert!(said(rename("a0", "b0")).contains("exists already"));
            assert!(said(rename("a0", "../../../etc")).contains("no slash"));
            assert!(said(rename("a0", "sixteen-bytes-xx")).contains("at most 15"));
            set_up("a0").unwrap();
            let lost = set_default_route("192.0.2.1".parse().unwrap(), "a0").unwrap_err();
            assert!(lost.to_string().contains("in no subnet"), "{lost}");
        })
        .unwrap();
}

#[test]
fn routes_and_addresses_tell_a_repetition_from_a_clash() {
    let Some(netns) = scratch("routes_and_addresses_tell_a_repetition_from_a_clash") else {
        return;
    };
    netns
        .run(|| {
            create_veth("a0", "b0").unwrap();
            add_address("a0", "10.1.0.1/16".parse().unwrap()).unwrap();
            add_address("a0", "10.1.0.1/16".parse().unwrap()).unwrap();
            set_up("a0").unwrap();
            for gateway in ["10.1.0.7", "10.1.0.6"] {
                set_default_route(gateway.parse().unwrap(), "a0").unwrap();
            }
            rename("a0", "renamed0").unwrap();
            assert!(
                link_info("renamed0").unwrap().up,
                "renaming brings it up again"
            );
            assert_eq!(index_of("a0").unwrap(), None);
        })
        .unwrap();
}

/// The blocking functions are called from async code too.
#[tokio::test]
async fn async_callers_may_use_it() {
    let Some(netns) = scratch("async_callers_may_use_it") else {
        return;
    };
    assert!(netns.run(|| exists("lo").unwrap()).unwrap());
    assert!(exists("lo").unwrap());
}

#[test]
fn a_tap_is_given_no_queue_by_the_kernel() {
    use futures_util::TryStreamExt;
    use netlink_packet_route::tc::TcAttribute;
    use switch::io::{TapOptions, open_tap};

    let test = "a_tap_is_given_no_queue_by_the_kernel";
    let Some(netns) = scratch(test) else {
        return;
    };
    let opened = netns.run(|| open_tap("temp0", 2, TapOptions { persist: false }));
    let _tap = match opened.unwrap() {
        Ok(tap) => tap,
        Err(error) => {
            println!("{test}: skipped, it needs TAP interfaces: {error}");
            return;
        }
    };
    let kinds = || {
        let list = async |session: &session::Session| {
            let index = session.info("eth0").await?.index.cast_signed();
            let all: Vec<_> = session
                .handle
                .qdisc()
                .get()
                .execute()
                .try_collect()
                .await
                .unwrap();
            let mut kinds = Vec::new();
            for message in all.iter().filter(|message| message.header.index == index) {
                for attribute in &message.attributes {
                    if let TcAttribute::Kind(kind) = attribute {
                        kinds.push(kind.clone());
                    }
                }
            }
            Ok(kinds)
        };
        netns.run(|| in_session(list).unwrap()).unwrap()
    };
    let info = configure_container(&netns, "temp0", &eth0()).unwrap();
    assert!(info.up);
    let kinds_then = kinds();
    if kinds_then != ["noqueue"] {
        // A kernel without CONFIG_NET_SCHED has no such choice.
        assert!(
            !kinds_then.iter().any(|kind| kind == "mq"),
            "{kinds_then:?}"
        );
    }
    // To one that has it already nothing is done, and no error either.
    netns.run(|| unqueue("eth0").unwrap()).unwrap();
    assert_eq!(kinds(), kinds_then);
}
