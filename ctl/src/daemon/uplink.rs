//! The uplinks: the host's own interfaces that the switch forwards over, followed as they come,
//! change and go.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use switch::frame::MacAddr;
use switch::io::filter::{Part, UplinkFilter, headerless, uplink_filter};
use switch::io::{PacketOptions, Queue, open_packet, replace_filter, sock_filter};
use switch::{PortId, Switch};

use crate::host::{HostLink, HostRoute, HostState, UplinkChoice, is_link_local};

/// An uplink that the switch has as two ports: one for strangers that may open connections to
/// published ports, so that a flood of them fills no queue but its own, and one for the rest.
pub(super) struct Uplink {
    pub link: HostLink,
    pub port: PortId,
    /// The sockets of `port` once more, for renewing their filters.
    sockets: Vec<OwnedFd>,
    pub newcomers: Newcomers,
}

pub(super) struct Newcomers {
    pub port: PortId,
    sockets: Vec<OwnedFd>,
}

impl Uplink {
    fn ports(&self) -> [PortId; 2] {
        [self.port, self.newcomers.port]
    }

    fn remove_from(&self, switch: &Switch) {
        for port in self.ports() {
            switch.remove_port(port);
        }
    }
}

/// Room for a flood of strangers, in bytes of kernel memory: with more, who comes in good faith
/// would wait longer behind it.
const ROOM_FOR_NEWCOMERS: usize = 512 << 10;

pub(super) struct Uplinks {
    choice: UplinkChoice,
    current: Vec<Uplink>,
    filter: UplinkFilter,
    /// Of new networks.
    mtu: u32,
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
            mtu: ETHERNET_MTU,
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
        self.current
            .iter()
            .position(|uplink| uplink.ports().contains(&port))
    }

    /// The MTU of new networks: the smallest of the uplinks' with a default route, so that hardly
    /// any packet is too big for one, within what an interface of ours takes; Ethernet's own where
    /// there is no uplink.
    pub(super) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Makes the switch's uplinks those that the host has now. Tells whether interfaces came or
    /// went.
    pub(super) fn follow(&mut self, switch: &Switch, host: &HostState) -> bool {
        let (wanted, trouble) = self.wanted(host);
        self.mtu = network_mtu(host, &wanted);
        let mut changed = false;
        self.current.retain_mut(|uplink| {
            let same = wanted.iter().find(|link| link.index == uplink.link.index);
            match same {
                Some(link) => uplink.link = link.clone(),
                None => {
                    tracing::info!("uplink {} is gone", uplink.link.name);
                    uplink.remove_from(switch);
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
        uplink.remove_from(switch);
    }

    /// Lets the kernel hand over what `filter` says, and no more.
    pub(super) fn set_filter(&mut self, filter: UplinkFilter) {
        if filter == self.filter {
            return;
        }
        self.filter = filter;
        for uplink in &self.current {
            for (part, sockets) in [
                (Part::Known, &uplink.sockets),
                (Part::Newcomers, &uplink.newcomers.sockets),
            ] {
                let program = program(&uplink.link, &self.filter, part);
                for socket in sockets {
                    if let Err(error) = replace_filter(as_fd(socket), &program) {
                        tracing::error!("uplink {}: {error}", uplink.link.name);
                    }
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

fn open(switch: &Switch, link: &HostLink, filter: &UplinkFilter) -> io::Result<Uplink> {
    let queues = |part, buffer: Option<usize>| {
        let mut options = PacketOptions {
            filter: Some(program(link, filter, part)),
            headerless: link.headerless,
            ..Default::default()
        };
        options.buffer = buffer.unwrap_or(options.buffer);
        let queues = open_packet(link.index, switch.workers(), options)?;
        let queues: Vec<Queue> = queues.into_iter().map(Queue::Packet).collect();
        let sockets = queues.iter().map(|queue| queue.fd().try_clone_to_owned());
        let sockets: Vec<OwnedFd> = sockets.collect::<io::Result<_>>()?;
        io::Result::Ok((queues, sockets))
    };
    // Both before a port is added, which would have to be taken back.
    let (known, sockets) = queues(Part::Known, None)?;
    let (new, newcomers) = queues(Part::Newcomers, Some(ROOM_FOR_NEWCOMERS))?;
    let port = switch.add_port(known)?;
    let newcomers = Newcomers {
        port: switch
            .add_port(new)
            .inspect_err(|_| drop(switch.remove_port(port)))?,
        sockets: newcomers,
    };
    Ok(Uplink {
        link: link.clone(),
        port,
        sockets,
        newcomers,
    })
}

fn program(link: &HostLink, filter: &UplinkFilter, part: Part) -> Vec<sock_filter> {
    let program = uplink_filter(filter, part);
    match link.headerless {
        false => program,
        true => headerless(program),
    }
}

fn network_mtu(host: &HostState, uplinks: &[HostLink]) -> u32 {
    let defaults = host
        .routes
        .iter()
        .filter(|route| route.is_main() && route.destination.prefix_len() == 0)
        .flat_map(HostRoute::hops)
        .filter_map(|hop| uplinks.iter().find(|link| link.index == hop.ifindex));
    let mtu = defaults.map(|link| link.mtu).min();
    let mtu = mtu.or_else(|| uplinks.iter().map(|link| link.mtu).min());
    mtu.unwrap_or(ETHERNET_MTU).clamp(SMALLEST_MTU, LARGEST_MTU)
}

const ETHERNET_MTU: u32 = 1500;
/// What IPv6 wants at least (RFC 8200 section 5); packets are cut where an uplink takes less.
const SMALLEST_MTU: u32 = 1280;
/// What a TAP takes at most: MAX_MTU of 65,535 without an Ethernet header (drivers/net/tun.c).
const LARGEST_MTU: u32 = 65_521;

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

/// Which interface each address of the host is on that flows may leave with.
pub(super) fn links(host: &HostState) -> Vec<(IpAddr, u32)> {
    let ours = host.links.iter().filter(|link| link.ours || link.loopback);
    let ours: HashSet<u32> = ours.map(|link| link.index).collect();
    let others = host
        .addresses
        .iter()
        .filter(|it| !ours.contains(&it.ifindex) && !is_link_local(it.net.addr()));
    others.map(|it| (it.net.addr(), it.ifindex)).collect()
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
    use crate::host::{HostAddress, HostHop, HostRoute, RouteKind, TABLE_MAIN};

    fn address(ifindex: u32, net: &str) -> HostAddress {
        HostAddress {
            ifindex,
            net: net.parse().unwrap(),
            passing: false,
            narrow: false,
        }
    }

    #[test]
    fn neighbours_and_addresses_leave_out_what_is_not_the_wires() {
        let host = HostState {
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "192.0.2.2/24"),
                address(2, "198.51.100.2/24"),
                address(2, "fe80::1/64"),
                address(3, "10.0.0.1/24"),
            ],
            neighbors: vec![
                (2, "192.0.2.1".parse().unwrap(), MacAddr([2; 6])),
                (3, "10.0.0.9".parse().unwrap(), MacAddr([3; 6])),
            ],
            ..HostState::default()
        };
        let known = neighbors(&host, &[(2, PortId(7))]);
        assert_eq!(
            known,
            [(PortId(7), "192.0.2.1".parse().unwrap(), MacAddr([2; 6]))]
        );
        assert!(!host_addresses(&host).iter().any(IpAddr::is_loopback));
        assert_eq!(host_addresses(&host).len(), 4);
    }

    #[test]
    fn networks_fit_the_way_out_within_what_an_interface_takes() {
        let link = |index, mtu| HostLink {
            index,
            name: format!("eth{index}"),
            mac: MacAddr([2; 6]),
            mtu,
            up: true,
            kind: String::new(),
            ethernet: true,
            headerless: false,
            loopback: false,
            group: 0,
            ours: false,
        };
        let by = |ifindex| HostRoute {
            table: TABLE_MAIN,
            destination: "0.0.0.0/0".parse().unwrap(),
            from: None,
            tos: 0,
            metric: 0,
            kind: RouteKind::Unicast(vec![HostHop {
                via: None,
                ifindex,
                weight: 1,
            }]),
            source: None,
            mtu: None,
        };
        let mtu = |links: &[(u32, u32)], routed: &[u32]| {
            let links: Vec<HostLink> = links.iter().map(|&(index, mtu)| link(index, mtu)).collect();
            let host = HostState {
                routes: routed.iter().map(|index| by(*index)).collect(),
                ..HostState::default()
            };
            network_mtu(&host, &links)
        };
        assert_eq!(mtu(&[], &[]), 1500);
        assert_eq!(mtu(&[(2, 1500), (3, 1420)], &[2]), 1500, "not the VPN's");
        assert_eq!(mtu(&[(2, 1500), (3, 1420)], &[2, 3]), 1420);
        assert_eq!(mtu(&[(2, 9000), (3, 1420)], &[]), 1420);
        assert_eq!(mtu(&[(2, 65_535)], &[2]), 65_521);
        assert_eq!(mtu(&[(2, 576)], &[2]), 1280);
    }
}
