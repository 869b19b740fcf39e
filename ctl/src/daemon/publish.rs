//! Published ports: reserved with real sockets, translated by the switch, relayed on loopback.
//!
//! A reserved socket keeps other processes off the port and the host's kernel silent on the wire;
//! what it accepts, connections of the host to itself, a relay carries to the container. The
//! switch translates what comes over an uplink. Order: reserve, then the rules; the rules go
//! before the sockets.
//!
//! A mapping without an address is published on every address of the host, of both families, and
//! each family reaches the container's address of that family. For a family that the container
//! lacks there is no translation. The relay can do without, so the loopback address of that family
//! is served (`localhost` is `::1` first), and every other one refuses, on the wire and off it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};
use switch::io::filter::local_only_filter;
use switch::io::{bind_udp, has_ipv6, listen_tcp, replace_filter};
use tokio::task::JoinSet;

use super::failure::Failure;
use crate::api::{PortMapping, Protocol};
use crate::host::is_link_local;
use crate::relay::{Relay, RelayCounters, Target};

/// How long the relay remembers a UDP client that says nothing: the engine's own minimum for UDP
/// mappings (RFC 4787 clause 4.3).
const UDP_IDLE: Duration = Duration::from_secs(120);

/// Descriptors left to the rest of the daemon when a range is reserved.
const SPARE_DESCRIPTORS: u64 = 128;

/// One mapping of a running container.
pub(super) struct Published {
    pub mapping: PortMapping,
    to: Destination,
    /// What the switch does with packets to it, a rule a family.
    rules: Vec<nat::Publish>,
    /// The reserved sockets once more, for renewing their filters.
    sockets: Vec<OwnedFd>,
    relays: Vec<Relay>,
}

/// Where published ports lead: the container's first address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
}

impl Destination {
    pub(super) fn of(addresses: &[IpNet]) -> Destination {
        let mut all = addresses.iter().map(IpNet::addr);
        Destination {
            ipv4: all.clone().find(IpAddr::is_ipv4),
            ipv6: all.find(IpAddr::is_ipv6),
        }
    }

    /// The container's address of the same family.
    fn like(&self, ip: IpAddr) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }

    /// For a relay, which carries from either family to the other where it must.
    fn target(&self, port: u16) -> Option<Target> {
        let address = |ip: IpAddr| SocketAddr::new(ip, port);
        Some(Target {
            ipv4: address(self.ipv4.or(self.ipv6)?),
            ipv6: address(self.ipv6.or(self.ipv4)?),
        })
    }
}

/// One of the addresses that a mapping's ports are held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bind {
    /// None for every address of both families, by one socket.
    host: Option<IpAddr>,
    /// A host that has not got this address does without.
    optional: bool,
}

impl Bind {
    const fn on(host: Option<IpAddr>) -> Bind {
        Bind {
            host,
            optional: false,
        }
    }

    const fn if_there(host: IpAddr) -> Bind {
        Bind {
            host: Some(host),
            optional: true,
        }
    }

    fn clashes(self, other: Bind) -> bool {
        match (self.host, other.host) {
            (None, _) | (_, None) => true,
            (Some(one), Some(other)) => {
                one == other
                    || one.is_ipv4() == other.is_ipv4()
                        && (one.is_unspecified() || other.is_unspecified())
            }
        }
    }
}

/// Which addresses a mapping's ports are held on. See the module's description.
fn binds(mapping: &PortMapping, to: Destination) -> Vec<Bind> {
    const EVERY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const EVERY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if mapping.host_ip.is_some() {
        return vec![Bind::on(mapping.host_ip)];
    }
    match (to.ipv4, to.ipv6) {
        (Some(_), Some(_)) => vec![Bind::on(None)],
        (None, Some(_)) => vec![
            Bind::on(Some(EVERY_IPV6)),
            Bind::if_there(Ipv4Addr::LOCALHOST.into()),
        ],
        (_, None) if has_ipv6() => vec![
            Bind::on(Some(EVERY_IPV4)),
            Bind::if_there(Ipv6Addr::LOCALHOST.into()),
        ],
        (_, None) => vec![Bind::on(Some(EVERY_IPV4))],
    }
}

/// A mapping whose ports are held but not yet served. Dropping it frees them.
pub(super) struct Reservation {
    mapping: PortMapping,
    to: Destination,
    /// Each with the container's port.
    sockets: Vec<(Socket, u16)>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The mapping as it is kept: a mapped IPv6 address is the IPv4 address that it stands for.
pub(super) fn normalized(mapping: PortMapping) -> PortMapping {
    let host_ip = mapping.host_ip.map(|ip| ip.to_canonical());
    PortMapping { host_ip, ..mapping }
}

/// Whether a mapping means something for a container at `to`.
pub(super) fn check(mapping: &PortMapping, to: Destination) -> Result<(), Failure> {
    let wrong = |why: String| {
        Err(Failure::Invalid(format!(
            "{} can't be published: {why}",
            describe(mapping)
        )))
    };
    if mapping.count == 0 || mapping.host_port == 0 || mapping.container_port == 0 {
        return wrong("ports go from 1 to 65535, at least one of them".to_owned());
    }
    let last = u32::from(mapping.count - 1);
    if u32::from(mapping.host_port.max(mapping.container_port)) + last > u32::from(u16::MAX) {
        return wrong("the range runs over port 65535".to_owned());
    }
    let Some(ip) = mapping.host_ip else {
        return Ok(());
    };
    if ip.is_ipv6() && !has_ipv6() {
        return wrong("this kernel has no IPv6".to_owned());
    }
    if ip.is_ipv6() && is_link_local(ip) {
        return wrong("a link-local address is one of every link: name another one".to_owned());
    }
    // Loopback is served by the relay alone, which reaches any container from either family.
    if !ip.is_loopback() && to.like(ip).is_none() {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        return wrong(format!(
            "the container has no {family} address, and there is no translation between IPv4 and \
             IPv6: name an address of the family that it has, or a loopback address"
        ));
    }
    Ok(())
}

/// The first host port that two mappings would both take, each with where it leads.
pub(super) fn overlap(
    (one, one_to): (&PortMapping, Destination),
    (other, other_to): (&PortMapping, Destination),
) -> Option<u16> {
    let others = binds(other, other_to);
    let clash = binds(one, one_to)
        .into_iter()
        .any(|one| others.iter().any(|other| one.clashes(*other)));
    if one.protocol != other.protocol || !clash {
        return None;
    }
    let (one, other) = (host_ports(one), host_ports(other));
    let first = *one.start().max(other.start());
    (first <= *one.end().min(other.end())).then_some(first)
}

/// Holds every port of a mapping that was [checked](check). `uplinks` are the indexes of the
/// interfaces whose traffic the sockets must not see. Must be called in a runtime.
pub(super) fn reserve(
    mapping: &PortMapping,
    to: Destination,
    uplinks: &[u32],
) -> Result<Reservation, Failure> {
    let binds = binds(mapping, to);
    check_descriptors(mapping, binds.len())?;
    let filter = local_only_filter(uplinks);
    let mut sockets = Vec::with_capacity(usize::from(mapping.count) * binds.len());
    for bind in binds {
        for (port, container_port) in host_ports(mapping).zip(mapping.container_port..=u16::MAX) {
            let socket = match mapping.protocol {
                Protocol::Tcp => listen_tcp(bind.host, port, &filter).map(Socket::Tcp),
                Protocol::Udp => bind_udp(bind.host, port, &filter).map(Socket::Udp),
            };
            match socket {
                Ok(socket) => sockets.push((socket, container_port)),
                Err(error) if bind.optional && error.kind() == ErrorKind::AddrNotAvailable => {}
                Err(error) => {
                    return Err(match error.kind() {
                        ErrorKind::AddrInUse => Failure::Conflict(error.to_string()),
                        ErrorKind::AddrNotAvailable => Failure::Invalid(error.to_string()),
                        _ => Failure::Internal(error.to_string()),
                    });
                }
            }
        }
    }
    Ok(Reservation {
        mapping: mapping.clone(),
        to,
        sockets,
    })
}

impl Reservation {
    /// Starts the relays. The rules get the ids after `last_rule`, which moves on. Must be called
    /// in a runtime.
    pub(super) fn serve(self, last_rule: &mut u32) -> io::Result<Published> {
        let mut sockets = Vec::with_capacity(self.sockets.len());
        let mut relays = Vec::with_capacity(self.sockets.len());
        for (socket, port) in self.sockets {
            let target = self.to.target(port).ok_or_else(|| {
                io::Error::new(ErrorKind::AddrNotAvailable, "the container has no address")
            })?;
            match socket {
                Socket::Tcp(listener) => {
                    sockets.push(listener.as_fd().try_clone_to_owned()?);
                    relays.push(Relay::tcp(listener, target)?);
                }
                Socket::Udp(socket) => {
                    sockets.push(socket.as_fd().try_clone_to_owned()?);
                    relays.push(Relay::udp(socket, target, UDP_IDLE)?);
                }
            }
        }
        Ok(Published {
            rules: rules(&self.mapping, self.to, last_rule),
            mapping: self.mapping,
            to: self.to,
            sockets,
            relays,
        })
    }
}

impl Published {
    /// What the switch does with packets to it. Nothing for loopback, which never comes over a wire.
    pub(super) fn rules(&self) -> &[nat::Publish] {
        &self.rules
    }

    /// Where it leads.
    pub(super) fn destination(&self) -> Destination {
        self.to
    }

    /// The container's addresses that are reached by it.
    pub(super) fn reached(&self) -> Vec<IpAddr> {
        let both = [self.to.ipv4, self.to.ipv6].into_iter().flatten();
        match self.mapping.host_ip.and_then(|ip| self.to.like(ip)) {
            Some(same_family) => vec![same_family],
            None => both.collect(),
        }
    }

    /// The set of uplinks has changed.
    pub(super) fn renew_filter(&self, uplinks: &[u32]) {
        let filter = local_only_filter(uplinks);
        for socket in &self.sockets {
            if let Err(error) = replace_filter(socket.as_fd(), &filter) {
                tracing::error!("{}: {error}", describe(&self.mapping));
                return;
            }
        }
    }

    /// Cuts what is in flight and returns when every port is free again.
    pub(super) async fn stop(self) {
        drop(self.sockets);
        let mut flows = RelayCounters::default();
        for relay in &self.relays {
            flows += relay.counters();
        }
        if flows.total > 0 {
            tracing::info!(
                "the relay of {} ends: {} flows so far, {} of them cut now, {} refused, {} forgotten; \
                 {} bytes in, {} out, {} datagrams dropped",
                describe(&self.mapping),
                flows.total,
                flows.active,
                flows.failed,
                flows.evicted,
                flows.bytes_in,
                flows.bytes_out,
                flows.dropped
            );
        }
        let mut ending = JoinSet::new();
        for relay in self.relays {
            ending.spawn(relay.stop());
        }
        while ending.join_next().await.is_some() {}
    }
}

pub(super) fn host_ports(mapping: &PortMapping) -> RangeInclusive<u16> {
    mapping.host_port
        ..=mapping
            .host_port
            .saturating_add(mapping.count.saturating_sub(1))
}

pub(super) fn protocol(mapping: &PortMapping) -> nat::Protocol {
    match mapping.protocol {
        Protocol::Tcp => nat::Protocol::TCP,
        Protocol::Udp => nat::Protocol::UDP,
    }
}

/// `port 8080/tcp` or `ports 8000-8100/udp on 192.0.2.1`, for errors and the log.
pub(super) fn describe(mapping: &PortMapping) -> String {
    let ports = host_ports(mapping);
    let protocol = protocol(mapping);
    let ports = match mapping.count {
        0 | 1 => format!("port {}/{protocol}", ports.start()),
        _ => format!("ports {}-{}/{protocol}", ports.start(), ports.end()),
    };
    match mapping.host_ip {
        Some(ip) => format!("{ports} on {ip}"),
        None => ports,
    }
}

fn rules(mapping: &PortMapping, to: Destination, last_rule: &mut u32) -> Vec<nat::Publish> {
    let to = match mapping.host_ip {
        Some(ip) if ip.is_loopback() => [None, None],
        Some(ip) => [to.like(ip), None],
        None => [to.ipv4, to.ipv6],
    };
    let rules = to.into_iter().flatten().map(|to| {
        *last_rule += 1;
        nat::Publish {
            id: *last_rule,
            protocol: protocol(mapping),
            host: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
            ports: host_ports(mapping),
            to,
            to_port: mapping.container_port,
        }
    });
    rules.collect()
}

/// A range that can't be had is refused before half of it is bound.
fn check_descriptors(mapping: &PortMapping, binds: usize) -> Result<(), Failure> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let needed = 2 * u64::from(mapping.count) * binds as u64;
    let left = limit.saturating_sub(open).saturating_sub(SPARE_DESCRIPTORS);
    if needed <= left {
        return Ok(());
    }
    Err(Failure::Internal(format!(
        "{} need {needed} file descriptors and {left} of the daemon's {limit} are left: publish a \
         smaller range, or start the daemon with a higher limit (ulimit -Hn, LimitNOFILE=)",
        describe(mapping)
    )))
}

#[cfg(test)]
mod tests;
