//! The state of real namespaces, and the choice of uplinks on made-up hosts.

use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use super::*;
use crate::link;
use crate::netns::Netns;
use crate::netns::tests::scratch;

fn ours(name: &str) -> bool {
    name.starts_with("pontoon")
}

/// Runs a test's async body inside a namespace; its runtime has but the one thread.
fn inside(netns: &Netns, body: impl AsyncFnOnce() + Send) {
    netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(body());
        })
        .unwrap();
}

/// Waits until the state is as told, at most for three seconds.
async fn until(host: &mut Receiver<HostState>, what: &str, is: impl Fn(&HostState) -> bool) {
    let waited = timeout(Duration::from_secs(3), host.wait_for(|state| is(state))).await;
    let waited = waited.map(|outcome| outcome.map(|_| ()));
    assert!(
        matches!(waited, Ok(Ok(()))),
        "not seen: {what}; {:#?}",
        host.borrow().clone()
    );
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn has_address(state: &HostState, ifindex: u32, address: &str) -> bool {
    let address = (ifindex, net(address));
    let mut all = state.addresses.iter().map(|it| (it.ifindex, it.net));
    all.any(|it| it == address)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_fresh_namespace_has_loopback_alone() {
    let Some(netns) = scratch("a_fresh_namespace_has_loopback_alone") else {
        return;
    };
    inside(&netns, async || {
        let state = snapshot(ours).await.unwrap();
        assert_eq!(state.links.len(), 1);
        assert!(state.links[0].loopback && state.links[0].up && !state.links[0].ethernet);
        assert!(has_address(&state, 1, "127.0.0.1/8"), "{state:#?}");
        assert_eq!(state.uplinks(&UplinkChoice::Auto), Ok(vec![]));
        assert!(
            !state
                .routes
                .iter()
                .any(|route| route.is_main() && route.destination.addr().is_ipv4())
        );
    });
}

#[test]
fn changes_of_links_addresses_and_routes_are_seen() {
    let Some(netns) = scratch("changes_of_links_addresses_and_routes_are_seen") else {
        return;
    };
    inside(&netns, async || {
        let mut host = watch(ours).await.unwrap();
        link::create_veth("up0", "far0").unwrap();
        link::create_veth("pontoon0", "far1").unwrap();
        until(&mut host, "links", |state| state.links.len() == 5).await;
        let index = link::index_of("up0").unwrap().unwrap();

        link::add_address("up0", net("192.0.2.5/24")).unwrap();
        for name in ["up0", "far0", "pontoon0", "far1"] {
            link::set_up(name).unwrap();
        }
        link::add_address("pontoon0", net("172.17.0.1/16")).unwrap();
        until(&mut host, "an address and its route", |state| {
            has_address(state, index, "192.0.2.5/24")
                && state.routes.iter().any(|route| {
                    route.destination == net("192.0.2.0/24")
                        && route.hops().iter().all(|hop| hop.via.is_none())
                        && route.source == Some(ip("192.0.2.5"))
                })
        })
        .await;
        let names = |host: &Receiver<HostState>| -> Vec<String> {
            let uplinks = host.borrow().uplinks(&UplinkChoice::Auto).unwrap();
            uplinks.into_iter().map(|link| link.name).collect()
        };
        // No default route yet: whatever is up and has an address, but not what is ours.
        assert_eq!(names(&host), ["up0"]);
        assert!(
            host.borrow()
                .occupied()
                .routes
                .contains(&net("172.17.0.0/16"))
        );

        link::set_default_route(ip("192.0.2.1"), "up0").unwrap();
        until(&mut host, "a default route", |state| {
            state.routes.iter().any(|route| {
                route.destination == net("0.0.0.0/0")
                    && route.hops()
                        == [HostHop {
                            via: Some(ip("192.0.2.1")),
                            ifindex: index,
                            weight: 1,
                        }]
            })
        })
        .await;
        assert_eq!(names(&host), ["up0"]);

        // An IPv4 route vanishes with its link, of which the kernel tells nothing by itself.
        link::delete("up0").unwrap();
        until(&mut host, "all gone", |state| {
            !state.routes.iter().any(|route| leads_over(route, index))
                && !state.addresses.iter().any(|it| it.ifindex == index)
        })
        .await;
        assert!(names(&host).is_empty());
    });
}

#[test]
fn rules_and_every_kind_of_route_are_seen() {
    let Some(netns) = scratch("rules_and_every_kind_of_route_are_seen") else {
        return;
    };
    inside(&netns, async || {
        let mut host = watch(ours).await.unwrap();
        link::create_veth("up0", "far0").unwrap();
        link::add_address("up0", net("192.0.2.5/24")).unwrap();
        for name in ["up0", "far0"] {
            link::set_up(name).unwrap();
        }
        let index = link::index_of("up0").unwrap().unwrap();
        let commands = [
            "route add blackhole 10.1.0.0/16",
            "route add unreachable 10.2.0.0/16 metric 7",
            "route add prohibit 10.3.0.0/16",
            "route add throw 10.4.0.0/16 table 1000",
            "route add local 10.5.0.0/16 dev lo",
            "route add 10.6.0.0/16 via 192.0.2.1 mtu 1400 src 192.0.2.5",
            "route add 10.7.0.0/16 nexthop via 192.0.2.1 weight 3 nexthop via 192.0.2.2",
            "nexthop add id 7 via 192.0.2.3 dev up0",
            "route add 10.8.0.0/16 nhid 7",
            "rule add pref 100 from 172.17.0.0/16 iif pontoon9 lookup 1000 suppress_prefixlength 0",
            "rule add pref 101 not fwmark 0xca6c lookup 51820",
            "rule add pref 102 fwmark 0x80000/0xff0000 lookup main",
            "rule add pref 103 ipproto tcp dport 25 prohibit",
            "rule add pref 104 goto 32766",
        ];
        for command in commands {
            let arguments: Vec<&str> = command.split(' ').collect();
            let status = std::process::Command::new("ip").args(&arguments).status();
            assert!(status.unwrap().success(), "ip {command}");
        }
        let seen = |state: &HostState, destination: &str| {
            let destination = net(destination);
            let mut routes = state.routes.iter();
            let found = routes.find(|route| route.destination == destination);
            found.cloned()
        };
        until(&mut host, "the last rule", |state| {
            state.rules.iter().any(|rule| rule.priority == 104)
        })
        .await;
        let state = host.borrow().clone();
        let kind = |destination| seen(&state, destination).map(|route| route.kind);
        assert_eq!(kind("10.1.0.0/16"), Some(RouteKind::Blackhole));
        assert_eq!(kind("10.2.0.0/16"), Some(RouteKind::Unreachable));
        assert_eq!(kind("10.3.0.0/16"), Some(RouteKind::Prohibit));
        assert_eq!(kind("10.4.0.0/16"), Some(RouteKind::Throw));
        assert_eq!(kind("10.5.0.0/16"), Some(RouteKind::Local));
        assert_eq!(seen(&state, "10.2.0.0/16").unwrap().metric, 7);
        assert_eq!(seen(&state, "10.4.0.0/16").unwrap().table, 1000);
        let narrow = seen(&state, "10.6.0.0/16").unwrap();
        assert_eq!(
            (narrow.mtu, narrow.source),
            (Some(1400), Some(ip("192.0.2.5")))
        );
        let hop = |via: &str, weight| HostHop {
            via: Some(ip(via)),
            ifindex: index,
            weight,
        };
        let several = vec![hop("192.0.2.1", 3), hop("192.0.2.2", 1)];
        assert_eq!(kind("10.7.0.0/16"), Some(RouteKind::Unicast(several)));
        let object = vec![hop("192.0.2.3", 1)];
        assert_eq!(kind("10.8.0.0/16"), Some(RouteKind::Unicast(object)));

        let rule = |priority| {
            let mut rules = state.rules.iter();
            rules
                .find(|rule| !rule.ipv6 && rule.priority == priority)
                .unwrap()
        };
        let policy = rule(100);
        assert_eq!(policy.from, Some(net("172.17.0.0/16")));
        assert_eq!(policy.incoming.as_deref(), Some("pontoon9"));
        let suppressing = |table, suppress| RuleAction::Table { table, suppress };
        assert_eq!(policy.action, suppressing(1000, Some(0)));
        assert!(rule(101).never && rule(101).inverted);
        assert_eq!(rule(101).action, suppressing(51820, None));
        assert!(rule(102).never && !rule(102).inverted);
        assert_eq!(rule(103).protocol, Some(6));
        assert_eq!(rule(103).destination_ports, Some(25..=25));
        assert_eq!(rule(103).action, RuleAction::Prohibit);
        assert_eq!(rule(104).action, RuleAction::Goto(32766));
        assert_eq!(rule(0).action, suppressing(TABLE_LOCAL, None));
    });
}

#[test]
fn neighbors_are_followed_but_not_our_own() {
    let Some(netns) = scratch("neighbors_are_followed_but_not_our_own") else {
        return;
    };
    inside(&netns, async || {
        link::create_veth("up0", "far0").unwrap();
        link::create_veth("pontoon0", "far1").unwrap();
        for name in ["up0", "far0", "pontoon0", "far1"] {
            link::set_up(name).unwrap();
        }
        let up0 = link::index_of("up0").unwrap().unwrap();
        let own = link::index_of("pontoon0").unwrap().unwrap();
        let mut host = watch(ours).await.unwrap();

        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let set = async |index: u32, address: IpAddr, mac: [u8; 6]| {
            let add = handle
                .neighbours()
                .add(index, address)
                .link_layer_address(&mac);
            add.replace().execute().await.unwrap();
        };
        let mac = [2, 0, 0, 0, 0, 9];
        set(up0, ip("192.0.2.9"), mac).await;
        let known = (up0, ip("192.0.2.9"), MacAddr(mac));
        until(&mut host, "a neighbour", |state| {
            state.neighbors.contains(&known)
        })
        .await;

        // Let the links settle (IPv6 addresses become usable after a second or two).
        while timeout(Duration::from_millis(2500), host.changed())
            .await
            .is_ok()
        {}

        // A storm on our own link wakes nobody; the same values again on the uplink neither.
        for last in 0..200 {
            set(own, IpAddr::from([172, 17, 1, last]), [2, 0, 0, 0, 1, last]).await;
            set(up0, ip("192.0.2.9"), mac).await;
        }
        assert!(
            timeout(Duration::from_millis(300), host.changed())
                .await
                .is_err()
        );

        // A storm on the uplink comes as a few changes, not as two hundred.
        for last in 0..200 {
            set(
                up0,
                IpAddr::from([198, 51, 100, last]),
                [2, 0, 0, 0, 2, last],
            )
            .await;
        }
        let mut changes = 0;
        while timeout(Duration::from_millis(300), host.changed())
            .await
            .is_ok()
        {
            changes += 1;
            host.borrow_and_update();
        }
        assert!((1..20).contains(&changes), "{changes}");
        let state = host.borrow().clone();
        assert!(!state.neighbors.iter().any(|(index, ..)| *index == own));
        let asked_anew = snapshot(ours).await.unwrap();
        assert_eq!(state, asked_anew, "followed and asked are the same");
    });
}

/// More messages than the socket's buffer holds, while the watcher can't run.
#[test]
fn a_lost_message_leads_to_a_fresh_look() {
    let Some(netns) = scratch("a_lost_message_leads_to_a_fresh_look") else {
        return;
    };
    inside(&netns, async || {
        link::create_veth("up0", "far0").unwrap();
        link::set_up("up0").unwrap();
        let mut host = watch(ours).await.unwrap();
        // The runtime has one thread and this doesn't yield to it. Each address makes an address
        // and several route messages of some 100 bytes, and each skb counts for far more.
        for last in 0..=250_u8 {
            link::add_address("up0", net(&format!("10.0.{last}.1/24"))).unwrap();
        }
        until(&mut host, "all addresses", |state| {
            state
                .addresses
                .iter()
                .filter(|address| address.net.addr().is_ipv4())
                .count()
                == 252
        })
        .await;
    });
}

#[test]
fn it_ends_with_its_last_listener() {
    let Some(netns) = scratch("it_ends_with_its_last_listener") else {
        return;
    };
    inside(&netns, async || {
        let host = watch(ours).await.unwrap();
        let running = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        assert!(running() > 0);
        drop(host);
        for _ in 0..100 {
            if running() == 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} tasks still run", running());
    });
}

fn link(index: u32, name: &str) -> HostLink {
    HostLink {
        index,
        name: name.into(),
        mac: MacAddr([2, 0, 0, 0, 0, index as u8]),
        mtu: 1500,
        up: true,
        kind: String::new(),
        ethernet: true,
        headerless: false,
        loopback: false,
        group: 0,
        ours: ours(name),
    }
}

fn leads_over(route: &HostRoute, ifindex: u32) -> bool {
    route.hops().iter().any(|hop| hop.ifindex == ifindex)
}

fn default_route(ifindex: u32, metric: u32) -> HostRoute {
    let hop = HostHop {
        via: Some(ip("192.0.2.1")),
        ifindex,
        weight: 1,
    };
    HostRoute {
        table: TABLE_MAIN,
        destination: net("0.0.0.0/0"),
        from: None,
        tos: 0,
        metric,
        kind: RouteKind::Unicast(vec![hop]),
        source: None,
        mtu: None,
    }
}

#[test]
fn uplinks_are_chosen_or_refused_with_a_reason() {
    let wireguard = HostLink {
        ethernet: false,
        headerless: true,
        ..link(5, "wg0")
    };
    let infiniband = HostLink {
        ethernet: false,
        ..link(6, "ib0")
    };
    let vrf = HostLink {
        kind: "vrf".to_owned(),
        ..link(7, "blue")
    };
    let mut host = HostState {
        links: vec![
            link(2, "eth0"),
            link(3, "wlan0"),
            link(4, "pontoon0"),
            wireguard,
            infiniband,
            vrf,
            link(8, "lan0"),
            link(9, "spare0"),
        ],
        addresses: [(2, "192.0.2.5/24"), (3, "169.254.7.7/16")]
            .map(|(ifindex, address)| HostAddress {
                ifindex,
                net: net(address),
                passing: false,
                narrow: false,
            })
            .to_vec(),
        routes: vec![
            default_route(2, 600),
            default_route(3, 100),
            HostRoute {
                table: 51820,
                ..default_route(5, 0)
            },
            default_route(6, 0),
            default_route(7, 0),
            HostRoute {
                destination: net("10.9.0.0/24"),
                ..default_route(8, 0)
            },
        ],
        rules: vec![],
        neighbors: vec![],
    };
    let names = |host: &HostState, choice: &str| -> Result<String, UplinkError> {
        let uplinks = host.uplinks(&choice.parse().unwrap())?;
        Ok(uplinks
            .iter()
            .map(|link| link.name.as_str())
            .collect::<Vec<_>>()
            .join(" "))
    };
    assert_eq!(
        names(&host, "auto").unwrap(),
        "wlan0 eth0 wg0 lan0",
        "those of default routes first, the best metric before others; not what carries nothing"
    );
    assert_eq!(names(&host, "none").unwrap(), "");
    assert_eq!(names(&host, "eth0,wlan0,eth0").unwrap(), "eth0 wlan0");
    host.routes.clear();
    assert_eq!(
        names(&host, "auto").unwrap(),
        "eth0",
        "a link-local address is no connection"
    );
    host.links[0].up = false;
    assert_eq!(names(&host, "auto").unwrap(), "");
    assert_eq!(
        names(&host, "eth0").unwrap(),
        "eth0",
        "named, it may come up later"
    );

    assert_eq!(
        names(&host, "pontoon0"),
        Err(UplinkError::Ours("pontoon0".into()))
    );
    assert_eq!(
        names(&host, "ib0"),
        Err(UplinkError::OtherMedium("ib0".into()))
    );
    assert_eq!(
        names(&host, "eth9").unwrap_err().to_string(),
        "there is no interface eth9 to be an uplink; there are: eth0, wlan0, pontoon0, wg0, ib0, blue, \
         lan0, spare0"
    );
}
