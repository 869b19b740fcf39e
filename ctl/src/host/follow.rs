//! Asking the kernel for the host's state, once and again.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkExtentMask;
use netlink_packet_route::route::RouteMessage;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::proto::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, IpVersion, MulticastGroup};
use switch::frame::MacAddr;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::message::{News, address, neighbor, news};
use super::nexthop::{Message, Nexthops};
use super::route::{host_routes, host_rule, leads_by_number};
use super::{HostAddress, HostLink, HostRoute, HostRule, HostState};
use crate::link::{LinkInfo, errno};

/// How long news gathers before the state is read anew: one `ip` command, or a link that comes
/// up, makes a dozen messages.
const SETTLE: Duration = Duration::from_millis(20);

/// The same for neighbours. They are hints, the gateway asks for what is missing itself, and a
/// scan of a large subnet changes thousands.
const NEIGHBOR_SETTLE: Duration = Duration::from_millis(100);

/// How long to wait before trying again when the kernel can't be asked.
const RETRY: Duration = Duration::from_secs(1);

/// Asks the kernel for everything, in the network namespace of the calling thread. `ours` tells
/// by name which links pontoon made.
pub(crate) async fn snapshot(ours: fn(&str) -> bool) -> io::Result<HostState> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // It ends with the handle.
    tokio::spawn(connection);

    // Without their counters, which nobody reads here.
    let links: Vec<_> = handle
        .link()
        .get()
        .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed("links", &e))?;
    let mut links: Vec<HostLink> = links
        .iter()
        .filter_map(LinkInfo::from_message)
        .map(|link| HostLink {
            ours: ours(&link.name),
            index: link.index,
            name: link.name,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            kind: link.kind,
            ethernet: link.ethernet,
            headerless: link.headerless,
            loopback: link.loopback,
            group: link.group,
        })
        .collect();
    links.sort_by_key(|link| link.index);

    let addresses: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed("addresses", &e))?;
    let mut addresses: Vec<HostAddress> = addresses.iter().filter_map(address).collect();
    addresses.sort_by_key(|address| address.ifindex);

    // Of family UNSPEC: every family that the kernel has, in one dump. A dump by family answers
    // with IPv4 where there is no IPv6.
    let routes: Vec<_> = handle
        .route()
        .get(RouteMessage::default())
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed("routes", &e))?;
    let nexthops = match routes.iter().any(leads_by_number) {
        true => Nexthops::ask().await?,
        false => Nexthops::default(),
    };
    let routes: Vec<HostRoute> = host_routes(&routes, &nexthops);
    let rules = rules(&handle).await;

    let neighbors: Vec<_> = handle
        .neighbours()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed("neighbours", &e))?;
    let mut neighbors: Vec<(u32, IpAddr, MacAddr)> = neighbors
        .iter()
        .filter_map(neighbor)
        .filter(|(index, ..)| !is_ours(&links, *index))
        .filter_map(|(index, address, mac)| Some((index, address, mac?)))
        .collect();
    neighbors.sort();

    Ok(HostState {
        links,
        addresses,
        routes,
        rules,
        neighbors,
    })
}

/// The routing rules of both families, by priority; none on a kernel that has none.
async fn rules(handle: &Handle) -> Vec<HostRule> {
    let mut rules = Vec::new();
    for (version, family) in [
        (IpVersion::V4, AddressFamily::Inet),
        (IpVersion::V6, AddressFamily::Inet6),
    ] {
        let dump: Result<Vec<_>, _> = handle.rule().get(version).execute().try_collect().await;
        let dump = dump.unwrap_or_default();
        // A kernel without IPv6 answers with what it has.
        let of_family = dump.iter().filter(|it| it.header.family == family);
        rules.extend(of_family.filter_map(host_rule));
    }
    rules.sort_by_key(|rule| (rule.ipv6, rule.priority));
    rules
}

/// Follows the host's state in the network namespace of the calling thread. The first value is
/// there at once; a new one comes some 20 ms after something has changed (100 ms for neighbours),
/// and none when nothing in it has. Ends when the last receiver is dropped. Must be called in a
/// runtime whose threads are all in this namespace.
pub(crate) async fn watch(ours: fn(&str) -> bool) -> io::Result<watch::Receiver<HostState>> {
    // Subscribe first: what changes while the snapshot is taken is news, not lost.
    let events = subscribe()?;
    let (sender, receiver) = watch::channel(snapshot(ours).await?);
    tokio::spawn(follow(sender, events, ours));
    Ok(receiver)
}

fn failed(what: &str, error: &rtnetlink::Error) -> io::Error {
    match errno(error) {
        Some(errno) => io::Error::new(
            io::Error::from(errno).kind(),
            format!(
                "can't list the host's {what} over rtnetlink: {}",
                errno.desc()
            ),
        ),
        None => io::Error::other(format!(
            "can't list the host's {what} over rtnetlink: {error}"
        )),
    }
}

/// The kernel's messages, each about one link, address, route or neighbour.
struct Events {
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<Message>> + Send>>,
    /// The task that reads them from the socket. By itself it would notice only at the next
    /// message that nobody listens any more.
    _connection: JoinSet<()>,
}

fn subscribe() -> io::Result<Events> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Nexthop,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv6Rule,
    ];
    // A kernel passes over those that it does not know.
    let mask = groups
        .iter()
        .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    let (mut connection, _, messages) = rtnetlink::proto::new_connection(NETLINK_ROUTE)?;
    let socket = connection.socket_mut().socket_mut();
    socket.bind(&SocketAddr::new(0, mask))?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    let messages = Box::pin(messages.map(|(message, _)| message));
    Ok(Events {
        messages,
        _connection: task,
    })
}

type Neighbors = BTreeMap<(u32, IpAddr), MacAddr>;

fn index_neighbors(state: &HostState) -> Neighbors {
    state
        .neighbors
        .iter()
        .map(|(index, address, mac)| ((*index, *address), *mac))
        .collect()
}

/// Keeps `sender` up to date until nobody listens.
///
/// Links, addresses and routes are read anew as a whole when one of them changes, since the
/// kernel doesn't tell of everything that follows (an IPv4 route goes silently with its link).
/// Neighbours are many and change all the time: they are followed one by one.
async fn follow(sender: watch::Sender<HostState>, mut events: Events, ours: fn(&str) -> bool) {
    let mut neighbors = index_neighbors(&sender.borrow());
    let mut rebuild_at: Option<Instant> = None;
    let mut publish_at: Option<Instant> = None;
    // A host with a million routes takes long to read: spend a tenth of the time on it at most.
    let mut cost = Duration::ZERO;
    loop {
        let wake = [rebuild_at, publish_at].into_iter().flatten().min();
        tokio::select! {
            () = sender.closed() => return,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                if wake == rebuild_at {
                    let started = Instant::now();
                    match snapshot(ours).await {
                        Ok(state) => {
                            cost = started.elapsed();
                            (rebuild_at, publish_at) = (None, None);
                            neighbors = index_neighbors(&state);
                            sender.send_if_modified(|known| replace(known, state));
                        }
                        Err(error) => {
                            tracing::warn!("{error}; trying again");
                            rebuild_at = Some(Instant::now() + RETRY);
                        }
                    }
                } else {
                    publish_at = None;
                    let list = neighbors.iter();
                    let list = list.map(|((index, address), mac)| (*index, *address, *mac));
                    sender.send_if_modified(|known| {
                        replace(&mut known.neighbors, list.collect())
                    });
                }
            }
            event = events.messages.next() => match event.as_ref().map(news) {
                Some(News::Neighbor(index, address, mac)) => {
                    let changed = !is_ours(&sender.borrow().links, index)
                        && match mac {
                            Some(mac) => neighbors.insert((index, address), mac) != Some(mac),
                            None => neighbors.remove(&(index, address)).is_some(),
                        };
                    if changed {
                        publish_at.get_or_insert(Instant::now() + NEIGHBOR_SETTLE);
                    }
                }
                Some(News::Rest) => {
                    rebuild_at.get_or_insert(Instant::now() + SETTLE.max(cost * 10));
                }
                Some(News::Nothing) => {}
                // The socket broke, which no kernel has a reason for. What it would have told
                // is found by reading anew.
                None => {
                    sleep(RETRY).await;
                    match subscribe() {
                        Ok(renewed) => events = renewed,
                        Err(error) => tracing::warn!("can't follow the host's network: {error}"),
                    }
                    rebuild_at = Some(Instant::now());
                }
            },
        }
    }
}

/// Whether it was another.
fn replace<T: PartialEq>(known: &mut T, new: T) -> bool {
    let changed = *known != new;
    *known = new;
    changed
}

fn is_ours(links: &[HostLink], index: u32) -> bool {
    links.iter().any(|link| link.index == index && link.ours)
}
