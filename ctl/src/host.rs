//! What the host's own network stack says: its links, addresses, routes and neighbours, followed
//! over rtnetlink as they change.
//!
//! Pontoon routes as the host does: the gateway looks up the host's routes, masquerades as the
//! host's addresses and starts from the host's neighbours. All of it is one [`HostState`],
//! replaced as a whole whenever something in it has really changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use switch::frame::MacAddr;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::link::{LinkInfo, errno};

/// How long news gathers before the state is read anew: one `ip` command, or a link that comes
/// up, makes a dozen messages.
const SETTLE: Duration = Duration::from_millis(20);

/// The same for neighbours. They are hints, the gateway asks for what is missing itself, and a
/// scan of a large subnet changes thousands.
const NEIGHBOR_SETTLE: Duration = Duration::from_millis(100);

/// How long to wait before trying again when the kernel can't be asked.
const RETRY: Duration = Duration::from_secs(1);

/// Routing tables that rule what leaves the host without policy routing: `RT_TABLE_MAIN`, and
/// `RT_TABLE_DEFAULT` behind it.
const TABLES: [u32; 2] = [254, 253];

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLink {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// All zero for a link without an Ethernet address.
    pub(crate) mac: MacAddr,
    /// Bytes of a layer 3 packet.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// The driver's word: `veth`, `tun`, `bridge`, …; empty for hardware.
    pub(crate) kind: String,
    /// Carries Ethernet frames; others can't be an uplink.
    pub(crate) ethernet: bool,
    pub(crate) loopback: bool,
    /// One that pontoon made.
    pub(crate) ours: bool,
}

/// A unicast route. One with several next hops is several of these.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostRoute {
    pub(crate) destination: IpNet,
    /// Lower wins among routes to the same destination.
    pub(crate) metric: u32,
    /// The router, possibly of the other IP version (RFC 5549); `None` on-link.
    pub(crate) via: Option<IpAddr>,
    pub(crate) ifindex: u32,
    /// The source address that the host prefers on this route.
    pub(crate) source: Option<IpAddr>,
}

/// What the host's stack says, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostState {
    /// By index.
    pub(crate) links: Vec<HostLink>,
    /// Interface index and address, in the kernel's order: an interface's primary address, the
    /// one it sends from, comes before its secondary ones.
    pub(crate) addresses: Vec<(u32, IpNet)>,
    /// Of the tables main and default, by destination and metric.
    pub(crate) routes: Vec<HostRoute>,
    /// Interface index, address and MAC of those that the kernel has resolved, without those
    /// behind links of ours: IPAM knows them.
    pub(crate) neighbors: Vec<(u32, IpAddr, MacAddr)>,
}

/// Which links of the host shall be uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkChoice {
    /// Those that carry a default route; failing that, those that are up and have an address.
    Auto,
    /// None: the networks reach the host and each other, no further.
    None,
    /// Just these.
    Names(Vec<String>),
}

impl FromStr for UplinkChoice {
    type Err = std::convert::Infallible;

    /// `auto`, `none`, or names with commas between them.
    fn from_str(text: &str) -> Result<UplinkChoice, Self::Err> {
        Ok(match text {
            "auto" => UplinkChoice::Auto,
            "none" => UplinkChoice::None,
            names => UplinkChoice::Names(
                names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
        })
    }
}

/// Why a link can't be an uplink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UplinkError {
    #[error("there is no interface {name} to be an uplink; there are: {known}")]
    Missing { name: String, known: String },
    #[error("interface {0} is pontoon's own and can't be an uplink; name one of the host's")]
    Ours(String),
    #[error("interface {0} carries no Ethernet frames and can't be an uplink; name one that does")]
    NotEthernet(String),
}

impl HostState {
    /// The links that shall be uplinks, the one of the best default route first. May be empty
    /// under `Auto`: a host that isn't connected (yet).
    pub(crate) fn uplinks(&self, choice: &UplinkChoice) -> Result<Vec<HostLink>, UplinkError> {
        let names = match choice {
            UplinkChoice::Auto => return Ok(self.automatic_uplinks()),
            UplinkChoice::None => return Ok(Vec::new()),
            UplinkChoice::Names(names) => names,
        };
        let mut uplinks: Vec<HostLink> = Vec::new();
        for name in names {
            let Some(link) = self.links.iter().find(|link| link.name == *name) else {
                let known: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
                let known = known.join(", ");
                return Err(UplinkError::Missing {
                    name: name.clone(),
                    known,
                });
            };
            if link.ours {
                return Err(UplinkError::Ours(name.clone()));
            }
            if !link.ethernet {
                return Err(UplinkError::NotEthernet(name.clone()));
            }
            if !uplinks.contains(link) {
                uplinks.push(link.clone());
            }
        }
        Ok(uplinks)
    }

    fn automatic_uplinks(&self) -> Vec<HostLink> {
        let mut defaults: Vec<&HostRoute> = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .collect();
        defaults.sort_by_key(|route| (route.destination.addr().is_ipv6(), route.metric));
        let routed = self.usable(defaults.into_iter().map(|route| route.ifindex));
        if !routed.is_empty() {
            return routed;
        }
        let addressed = self
            .addresses
            .iter()
            .filter(|(_, address)| !is_link_local(address.addr()));
        self.usable(addressed.map(|(index, _)| *index))
    }

    /// Those of the links that can be an uplink and are up, each once, in this order.
    fn usable(&self, indices: impl Iterator<Item = u32>) -> Vec<HostLink> {
        let mut seen = BTreeSet::new();
        indices
            .filter(|index| seen.insert(*index))
            .filter_map(|index| self.links.iter().find(|link| link.index == index))
            .filter(|link| link.up && link.ethernet && !link.loopback && !link.ours)
            .cloned()
            .collect()
    }

    /// Every subnet that the host has an address in or a route to, for choosing others.
    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        let addresses = self.addresses.iter().map(|(_, address)| address.trunc());
        let routes = self.routes.iter().map(|route| route.destination);
        let subnets: BTreeSet<IpNet> = addresses.chain(routes).collect();
        subnets.into_iter().collect()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Asks the kernel for everything, in the network namespace of the calling thread. `ours` tells
/// by name which links pontoon made.
pub(crate) async fn snapshot(ours: fn(&str) -> bool) -> io::Result<HostState> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // It ends with the handle.
    tokio::spawn(connection);

    let links: Vec<_> = handle
        .link()
        .get()
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
            loopback: link.loopback,
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
    let mut addresses: Vec<(u32, IpNet)> = addresses.iter().filter_map(address).collect();
    addresses.sort_by_key(|(index, _)| *index);

    // Of family UNSPEC: every family that the kernel has, in one dump. A dump by family answers
    // with IPv4 where there is no IPv6.
    let routes: Vec<_> = handle
        .route()
        .get(RouteMessage::default())
        .execute()
        .try_collect()
        .await
        .map_err(|e| failed("routes", &e))?;
    let mut routes: Vec<HostRoute> = routes.iter().flat_map(host_routes).collect();
    routes.sort();
    routes.dedup();

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
        neighbors,
    })
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
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    /// The task that reads them from the socket. By itself it would notice only at the next
    /// message that nobody listens any more.
    _connection: JoinSet<()>,
}

fn subscribe() -> io::Result<Events> {
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
    ])?;
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

/// What a message asks for.
enum News {
    /// A neighbour has this MAC, or is gone.
    Neighbor(u32, IpAddr, Option<MacAddr>),
    /// Something else has changed, or messages were lost (ENOBUFS: the socket's buffer was full).
    Rest,
    Nothing,
}

fn news(message: &NetlinkMessage<RouteNetlinkMessage>) -> News {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
            | RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_),
        )
        | NetlinkPayload::Overrun(_) => News::Rest,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            match neighbor(message) {
                Some((index, address, mac)) => News::Neighbor(index, address, mac),
                None => News::Nothing,
            }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
            match neighbor(message) {
                Some((index, address, _)) => News::Neighbor(index, address, None),
                None => News::Nothing,
            }
        }
        _ => News::Nothing,
    }
}

/// `None` for one that may not be used yet or any more: IPv6 addresses under duplicate address
/// detection (RFC 4862 clause 5.4) or found to be duplicates.
fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let header = &message.header;
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if header.flags.intersects(unusable) && !header.flags.contains(AddressHeaderFlags::Optimistic) {
        return None;
    }
    // On a point-to-point link IFA_ADDRESS is the peer's, and IFA_LOCAL our own; IPv6 mostly has
    // IFA_ADDRESS alone.
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(other)?, header.prefix_len).ok()?;
    Some((header.index, net))
}

/// The usable next hops of a unicast route that is in a table that rules.
fn host_routes(message: &RouteMessage) -> Vec<HostRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    // RTM_F_CLONED marks an entry of the route cache, not a route.
    let skipped = RouteFlags::Cloned | RouteFlags::Dead;
    if header.kind != RouteType::Unicast || header.flags.intersects(skipped) {
        return Vec::new();
    }
    let (mut metric, mut source) = (0, None);
    let (mut via, mut ifindex) = (None, None);
    let mut hops: &[RouteNextHop] = &[];
    for attribute in &message.attributes {
        match attribute {
            // Tables above 255 don't fit the header.
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => match ip(address) {
                Some(address) => destination = address,
                None => return Vec::new(),
            },
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::MultiPath(list) => hops = list,
            other => via = via.or(router(other)),
        }
    }
    if !TABLES.contains(&table) {
        return Vec::new();
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let route = |via, ifindex| HostRoute {
        destination,
        metric,
        via,
        ifindex,
        source,
    };
    let several = hops
        .iter()
        .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
    let several =
        several.map(|hop| route(hop.attributes.iter().find_map(router), hop.interface_index));
    // IPv6 names the first of several next hops a second time outside of the list.
    let single = ifindex
        .filter(|_| hops.is_empty())
        .map(|ifindex| route(via, ifindex));
    single.into_iter().chain(several).collect()
}

fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// A neighbour, with its MAC if the kernel would send to it. Others (FDB entries of a bridge come
/// as neighbours too) are `None`.
fn neighbor(message: &NeighbourMessage) -> Option<(u32, IpAddr, Option<MacAddr>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    // NUD_VALID but NUD_NOARP, whose entries stand for broadcast and multicast.
    let resolved = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some((message.header.ifindex, address?, mac.filter(|_| resolved)))
}

#[cfg(test)]
mod tests;
