//! The uplinks: the host's own interfaces that the switch forwards over, followed as they come,
//! change and go.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use switch::frame::MacAddr;
use switch::io::filter::{UplinkFilter, uplink_filter};
use switch::io::{PacketOptions, Queue, open_packet, replace_filter};
use switch::{PortId, Switch};

use crate::host::{HostLink, HostState, UplinkChoice, is_link_local};

/// An uplink that the switch has as a port.
pub(super) struct Uplink {
    pub link: HostLink,
    pub port: PortId,
    /// The sockets once more, for renewing their filters.
    sockets: Vec<OwnedFd>,
}

pub(super) struct Uplinks {
    choice: UplinkChoice,
    current: Vec<Uplink>,
    filter: UplinkFilter,
    /// The last trouble told, so that it is not told again with every change of the host.
    told: Option<String>,
}

impl Uplinks {
    /// None yet; see [`Uplinks::follow`].
    pub(super) fn new(choice: UplinkChoice) -> Uplinks {
        Uplinks {
            choice,
            current: Vec::new(),
            filter: UplinkFilter::default(),
            told: None,
        }
    }

    pub(super) fn all(&self) -> &[Uplink] {
        &self.current
    }

    /// Interface indexes, for the sockets that must not hear the wire.
    pub(super) fn indexes(&self) -> Vec<u32> {
        self.current
            .iter()
            .map(|uplink| uplink.link.index)
            .collect()
    }

    pub(super) fn position(&self, port: PortId) -> Option<usize> {
        self.current.iter().position(|uplink| uplink.port == port)
    }

    /// The MTU of new networks: the smallest of the uplinks', so that no frame is too big for one;
    /// Ethernet's own where there is no uplink.
    pub(super) fn mtu(&self) -> u32 {
        self.current
            .iter()
            .map(|uplink| uplink.link.mtu)
            .min()
            .unwrap_or(1500)
    }

    /// Makes the switch's uplinks those that the host has now. Tells whether interfaces came or
    /// went.
    pub(super) fn follow(&mut self, switch: &Switch, host: &HostState) -> bool {
        let (wanted, trouble) = self.wanted(host);
        let mut changed = false;
        self.current.retain_mut(|uplink| {
            let same = wanted.iter().find(|link| link.index == uplink.link.index);
            match same {
                Some(link) => uplink.link = link.clone(),
                None => {
                    tracing::info!("uplink {} is gone", uplink.link.name);
                    switch.remove_port(uplink.port);
                    changed = true;
                }
            }
            same.is_some()
        });
        let mut troubles: Vec<String> = trouble.into_iter().collect();
        for link in &wanted {
            if self
                .current
                .iter()
                .any(|uplink| uplink.link.index == link.index)
            {
                continue;
            }
            match open(switch, link, &self.filter) {
                Ok(uplink) => {
                    tracing::info!(
                        "uplink {} (MTU {}) is port {}",
                        link.name,
                        link.mtu,
                        uplink.port
                    );
                    self.current.push(uplink);
                    changed = true;
                }
                Err(error) => troubles.push(format!("can't use {} as uplink: {error}", link.name)),
            }
        }
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        if let Some(trouble) = &trouble
            && self.told.as_ref() != Some(trouble)
        {
            tracing::warn!("{trouble}");
        }
        self.told = trouble;
        changed
    }

    /// The port of an uplink went away by itself.
    pub(super) fn forget(&mut self, switch: &Switch, position: usize) {
        let uplink = self.current.remove(position);
        switch.remove_port(uplink.port);
    }

    /// Lets the kernel hand over what `filter` says, and no more.
    pub(super) fn set_filter(&mut self, filter: UplinkFilter) {
        if filter == self.filter {
            return;
        }
        self.filter = filter;
        let program = uplink_filter(&self.filter);
        for uplink in &self.current {
            for socket in &uplink.sockets {
                if let Err(error) = replace_filter(as_fd(socket), &program) {
                    tracing::error!("uplink {}: {error}", uplink.link.name);
                }
            }
        }
    }

    /// The links to use, and what keeps others from being used. A link that was named and isn't
    /// there (yet) does not keep the others from being used.
    fn wanted(&self, host: &HostState) -> (Vec<HostLink>, Option<String>) {
        let choices: Vec<UplinkChoice> = match &self.choice {
            UplinkChoice::Names(names) => names
                .iter()
                .map(|name| UplinkChoice::Names(vec![name.clone()]))
                .collect(),
            other => vec![other.clone()],
        };
        let mut links: Vec<HostLink> = Vec::new();
        let mut troubles = Vec::new();
        for choice in &choices {
            match host.uplinks(choice) {
                Ok(found) => {
                    for link in found {
                        if !links.contains(&link) {
                            links.push(link);
                        }
                    }
                }
                Err(error) => troubles.push(error.to_string()),
            }
        }
        (links, (!troubles.is_empty()).then(|| troubles.join("; ")))
    }
}

fn open(switch: &Switch, link: &HostLink, filter: &UplinkFilter) -> std::io::Result<Uplink> {
    let options = PacketOptions {
        filter: Some(uplink_filter(filter)),
        ..Default::default()
    };
    let queues: Vec<Queue> = open_packet(link.index, switch.workers(), options)?
        .into_iter()
        .map(Queue::Packet)
        .collect();
    let sockets = queues
        .iter()
        .map(|queue| queue.fd().try_clone_to_owned())
        .collect::<std::io::Result<_>>()?;
    let port = switch.add_port(queues)?;
    Ok(Uplink {
        link: link.clone(),
        port,
        sockets,
    })
}

fn as_fd(socket: &OwnedFd) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(socket)
}

/// The host's addresses that others reach it by through the switch: not those of loopback, nor the
/// link-local ones of our own interfaces, which nobody reaches but on the network itself.
pub(super) fn host_addresses(host: &HostState) -> Vec<IpAddr> {
    let ours = host.links.iter().filter(|link| link.ours);
    let ours: HashSet<u32> = ours.map(|link| link.index).collect();
    let mut addresses: Vec<IpAddr> = host
        .addresses
        .iter()
        .filter(|it| !(is_link_local(it.net.addr()) && ours.contains(&it.ifindex)))
        .map(|address| address.net.addr())
        .filter(|address| !address.is_loopback())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The host's routes over uplinks. `ports` are the uplinks' interface indexes and ports. A route
/// over which nothing can be masqueraded, because the host has no address there (or none but
/// link-local and passing ones), is left out, as are those to the link alone.
pub(super) fn routes(host: &HostState, ports: &[(u32, PortId)]) -> Vec<switch::config::Route> {
    host.routes
        .iter()
        .filter(|route| !is_link_local(route.destination.addr()))
        .filter_map(|route| {
            let (_, uplink) = ports.iter().find(|(index, _)| *index == route.ifindex)?;
            let hop = route.via.unwrap_or(route.destination.addr());
            let source = route
                .source
                .or_else(|| source_address(host, route.ifindex, route.destination, hop))?;
            Some(switch::config::Route {
                destination: route.destination,
                via: route.via,
                uplink: *uplink,
                source,
                metric: route.metric,
            })
        })
        .collect()
}

/// The address the host would send from, of those that it has on the interface: in IPv4 the one in
/// the subnet of the next hop if there is one (RFC 1122 clause 3.3.4.3), else the primary one; in
/// IPv6 the one that is most like the destination (RFC 6724 clause 5, rules 2, 3 and 8). That puts a
/// global address before a unique local one on a default route, whose destination is `::`.
fn source_address(
    host: &HostState,
    ifindex: u32,
    destination: IpNet,
    hop: IpAddr,
) -> Option<IpAddr> {
    let on_it: Vec<IpNet> = host
        .addresses
        .iter()
        .filter(|address| address.ifindex == ifindex && !address.passing)
        .map(|address| address.net)
        .filter(|net| net.addr().is_ipv4() == destination.addr().is_ipv4())
        .collect();
    let chosen = match destination {
        IpNet::V4(_) => {
            let near = on_it.iter().find(|net| net.contains(&hop));
            near.or(on_it.first())
        }
        IpNet::V6(_) => on_it
            .iter()
            .filter(|net| !is_link_local(net.addr()))
            .min_by_key(|net| bits_apart(net.addr(), destination.addr())),
    };
    chosen.map(IpNet::addr)
}

/// How many bits of two IPv6 addresses come after what they have in common.
fn bits_apart(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            u128::BITS - (one.to_bits() ^ other.to_bits()).leading_zeros()
        }
        _ => u128::BITS,
    }
}

/// Neighbours beyond the uplinks that the kernel has resolved already.
pub(super) fn neighbors(
    host: &HostState,
    ports: &[(u32, PortId)],
) -> Vec<(PortId, IpAddr, MacAddr)> {
    host.neighbors
        .iter()
        .filter_map(|(ifindex, address, mac)| {
            let (_, port) = ports.iter().find(|(index, _)| index == ifindex)?;
            Some((*port, *address, *mac))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostAddress, HostRoute};

    fn route(
        destination: &str,
        via: Option<&str>,
        ifindex: u32,
        source: Option<&str>,
    ) -> HostRoute {
        HostRoute {
            destination: destination.parse().unwrap(),
            metric: 0,
            via: via.map(|via| via.parse().unwrap()),
            ifindex,
            source: source.map(|source| source.parse().unwrap()),
        }
    }

    fn address(ifindex: u32, net: &str, passing: bool) -> HostAddress {
        HostAddress {
            ifindex,
            net: net.parse().unwrap(),
            passing,
        }
    }

    fn host() -> HostState {
        HostState {
            links: Vec::new(),
            addresses: [
                (1, "127.0.0.1/8"),
                (2, "192.0.2.2/24"),
                (2, "198.51.100.2/24"),
                (2, "fe80::1/64"),
                (3, "10.0.0.1/24"),
            ]
            .map(|(ifindex, net)| address(ifindex, net, false))
            .to_vec(),
            routes: vec![
                route("0.0.0.0/0", Some("198.51.100.1"), 2, None),
                route("192.0.2.0/24", None, 2, None),
                route("203.0.113.0/24", Some("192.0.2.1"), 2, Some("198.51.100.2")),
                route("10.0.0.0/24", None, 3, None),
                route("2001:db8::/32", Some("fe80::9"), 9, None),
            ],
            neighbors: vec![
                (2, "192.0.2.1".parse().unwrap(), MacAddr([2; 6])),
                (3, "10.0.0.9".parse().unwrap(), MacAddr([3; 6])),
            ],
        }
    }

    #[test]
    fn only_routes_over_uplinks_count_and_each_has_the_hosts_source() {
        let routes = routes(&host(), &[(2, PortId(7)), (9, PortId(8))]);
        let found: Vec<(String, String)> = routes
            .iter()
            .map(|route| (route.destination.to_string(), route.source.to_string()))
            .collect();
        let expected = [
            ("0.0.0.0/0", "198.51.100.2"),
            ("192.0.2.0/24", "192.0.2.2"),
            ("203.0.113.0/24", "198.51.100.2"),
        ];
        let expected = expected.map(|(net, source)| (net.to_owned(), source.to_owned()));
        assert_eq!(found, expected);
        assert!(routes.iter().all(|route| route.uplink == PortId(7)));
    }

    // Conforms: IPV6-source-address IPV6-link-local-next-hop
    #[test]
    fn ipv6_leaves_with_a_lasting_address_most_like_the_destination() {
        let routes_with = |addresses: &[(&str, bool)]| -> Vec<(String, String)> {
            let host = HostState {
                addresses: addresses
                    .iter()
                    .map(|(net, passing)| address(2, net, *passing))
                    .collect(),
                routes: vec![
                    route("::/0", Some("fe80::9"), 2, None),
                    route("2001:db8:1::/64", None, 2, None),
                    route("fd00:7::/64", None, 2, None),
                    route("fe80::/64", None, 2, None),
                ],
                ..HostState::default()
            };
            routes(&host, &[(2, PortId(7))])
                .iter()
                .map(|it| (it.destination.to_string(), it.source.to_string()))
                .collect()
        };
        let own = |net: &str, source: &str| (net.to_owned(), source.to_owned());
        assert_eq!(
            routes_with(&[
                ("fd00:7::1/64", false),
                ("2001:db8:1::aaaa/64", true),
                ("2001:db8:1::1/64", false),
                ("fe80::1/64", false),
            ]),
            [
                own("::/0", "2001:db8:1::1"),
                own("2001:db8:1::/64", "2001:db8:1::1"),
                own("fd00:7::/64", "fd00:7::1"),
            ]
        );
        // Without one there is no way out.
        assert_eq!(
            routes_with(&[("2001:db8:1::aaaa/64", true), ("fe80::1/64", false)]),
            []
        );
    }

    #[test]
    fn neighbours_and_addresses_leave_out_what_is_not_the_wires() {
        let known = neighbors(&host(), &[(2, PortId(7))]);
        assert_eq!(
            known,
            [(PortId(7), "192.0.2.1".parse().unwrap(), MacAddr([2; 6]))]
        );
        assert!(!host_addresses(&host()).iter().any(IpAddr::is_loopback));
        assert_eq!(host_addresses(&host()).len(), 4);
    }
}
