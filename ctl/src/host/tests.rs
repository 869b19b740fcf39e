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
                .any(|route| route.destination.addr().is_ipv4())
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
                        && route.via.is_none()
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
                    && route.via == Some(ip("192.0.2.1"))
                    && route.ifindex == index
            })
        })
        .await;
        assert_eq!(names(&host), ["up0"]);

        // An IPv4 route vanishes with its link, of which the kernel tells nothing by itself.
        link::delete("up0").unwrap();
        until(&mut host, "all gone", |state| {
            !state.routes.iter().any(|route| route.ifindex == index)
                && !state.addresses.iter().any(|it| it.ifindex == index)
        })
        .await;
        assert!(names(&host).is_empty());
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
        loopback: false,
        ours: ours(name),
    }
}

fn default_route(ifindex: u32, metric: u32) -> HostRoute {
    let via = Some(ip("192.0.2.1"));
    HostRoute {
        destination: net("0.0.0.0/0"),
        metric,
        via,
        ifindex,
        source: None,
    }
}

#[test]
fn uplinks_are_chosen_or_refused_with_a_reason() {
    let wireguard = HostLink {
        ethernet: false,
        ..link(5, "wg0")
    };
    let mut host = HostState {
        links: vec![
            link(2, "eth0"),
            link(3, "wlan0"),
            link(4, "pontoon0"),
            wireguard,
        ],
        addresses: [(2, "192.0.2.5/24"), (3, "169.254.7.7/16")]
            .map(|(ifindex, address)| HostAddress {
                ifindex,
                net: net(address),
                passing: false,
            })
            .to_vec(),
        routes: vec![
            default_route(2, 600),
            default_route(3, 100),
            default_route(5, 0),
        ],
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
        "wlan0 eth0",
        "the best metric first"
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
        names(&host, "wg0"),
        Err(UplinkError::NotEthernet("wg0".into()))
    );
    assert_eq!(
        names(&host, "eth9").unwrap_err().to_string(),
        "there is no interface eth9 to be an uplink; there are: eth0, wlan0, pontoon0, wg0"
    );
}
