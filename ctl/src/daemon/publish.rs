//! Published ports: reserved with real sockets, translated by the switch, relayed on loopback.
//!
//! A reserved socket keeps other processes off the port and the host's kernel silent on the wire;
//! what it accepts, connections of the host to itself, a relay carries to the container. The
//! switch translates what comes over an uplink. Order: reserve, then the rules; the rules go
//! before the sockets.
//!
//! SCTP is translated by address alone: its checksum covers the ports, so they stay. Nothing relays it
//! on the host itself. Its ports are held where the kernel has SCTP, which would abort what it does not
//! know; a kernel without SCTP is silent anyway.
//!
//! A mapping that is for some sources alone is so by the rules and by the relays, which ask the same
//! [`Sources`].
//!
//! A mapping without an address is published on every address of the host, of both families, and
//! each family reaches the container's address of that family. For a family that the container
//! lacks there is no translation. The relay can do without, so the loopback address of that family
//! is served (`localhost` is `::1` first), and every other one refuses, on the wire and off it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nat::Sources;
use nix::sys::resource::{Resource, getrlimit};
use switch::io::{bind_udp, has_ipv6, hold_sctp, listen_tcp, sock_filter};

use super::failure::Failure;
use super::names::random;
use super::snat::local_port_range;
use crate::api::{PortMapping, Protocol};
use crate::host::is_link_local;
use crate::relay::{Common, Device, Reach, Relay, Target};
use crate::spec::port_range;

mod conflict;
mod holder;

pub(super) use conflict::{Claim, conflict};

/// How long the relay remembers a UDP client that says nothing: the engine's own minimum for UDP
/// mappings (RFC 4787 clause 4.3).
const UDP_IDLE: Duration = Duration::from_secs(120);

/// Descriptors left to the rest of the daemon when ports are reserved.
const SPARE_DESCRIPTORS: u64 = 128;

/// Mappings that a line of the log names.
const TOLD: usize = 4;

/// One mapping of a running container.
pub(super) struct Published {
    pub mapping: PortMapping,
    to: Destination,
    /// What the switch does with packets to it, a rule a family.
    rules: Vec<nat::Publish>,
    /// One for each reserved socket, which it holds.
    relays: Vec<Relay>,
    /// Of what is not relayed.
    _held: Vec<OwnedFd>,
    /// Of the relays.
    common: Arc<Common>,
}

/// Where published ports lead: the container's first address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    /// The interfaces of their networks.
    devices: [Option<Device>; 2],
}

impl Destination {
    pub(super) fn of(addresses: &[IpNet]) -> Destination {
        let mut all = addresses.iter().map(IpNet::addr);
        Destination {
            ipv4: all.clone().find(IpAddr::is_ipv4),
            ipv6: all.find(IpAddr::is_ipv6),
            devices: [None; 2],
        }
    }

    /// The same, with the interface of the host that leads to an address.
    pub(super) fn by(mut self, device: impl Fn(IpAddr) -> Option<Device>) -> Destination {
        self.devices = [self.ipv4, self.ipv6].map(|it| it.and_then(&device));
        self
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
        let reach = |ip: IpAddr| Reach {
            address: SocketAddr::new(ip, port),
            device: self.devices[usize::from(ip.is_ipv6())],
        };
        Some(Target {
            ipv4: reach(self.ipv4.or(self.ipv6)?),
            ipv6: reach(self.ipv6.or(self.ipv4)?),
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
fn binds(mapping: &PortMapping, to: Destination) -> impl Iterator<Item = Bind> + Clone {
    const EVERY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const EVERY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let (first, second) = match (to.ipv4, to.ipv6) {
        _ if mapping.host_ip.is_some() => (Bind::on(mapping.host_ip), None),
        (Some(_), Some(_)) => (Bind::on(None), None),
        (None, Some(_)) => (
            Bind::on(Some(EVERY_IPV6)),
            Some(Bind::if_there(Ipv4Addr::LOCALHOST.into())),
        ),
        (_, None) => (
            Bind::on(Some(EVERY_IPV4)),
            has_ipv6().then_some(Bind::if_there(Ipv6Addr::LOCALHOST.into())),
        ),
    };
    std::iter::once(first).chain(second)
}

/// A mapping whose ports are held but not yet served. Dropping it frees them.
pub(super) struct Reservation {
    mapping: PortMapping,
    to: Destination,
    /// Each with the container's port.
    sockets: Vec<(Socket, u16)>,
    /// Not to be served.
    held: Vec<OwnedFd>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The mapping as it is kept: a mapped IPv6 address is the IPv4 address that it stands for, and
/// networks are in order and without host bits.
pub(super) fn normalized(mapping: PortMapping) -> PortMapping {
    let mut allow: Vec<IpNet> = mapping.allow.iter().map(IpNet::trunc).collect();
    allow.sort_unstable();
    allow.dedup();
    PortMapping {
        host_ip: mapping.host_ip.map(|ip| ip.to_canonical()),
        // The only choice there is.
        host_port: match (mapping.protocol, mapping.host_port) {
            (Protocol::Sctp, 0) => mapping.container_port,
            (_, named) => named,
        },
        allow,
        ..mapping
    }
}

/// What a mapping is known by: all of it but whom it is for, which may change.
pub(super) fn ports_of(mapping: &PortMapping) -> PortMapping {
    PortMapping {
        allow: Vec::new(),
        ..*mapping
    }
}

/// Whether a mapping means something for a container at `to`.
pub(super) fn check(mapping: &PortMapping, to: Destination) -> Result<(), Failure> {
    let wrong = |why: String| {
        Err(Failure::Invalid(format!(
            "{} can't be published: {why}",
            describe(mapping)
        )))
    };
    if mapping.count == 0 || mapping.container_port == 0 {
        return wrong("ports go from 1 to 65535, at least one of them".to_owned());
    }
    let last = u32::from(mapping.count - 1);
    if u32::from(mapping.host_port.max(mapping.container_port)) + last > u32::from(u16::MAX) {
        return wrong("the range runs over port 65535".to_owned());
    }
    if mapping.protocol == Protocol::Sctp {
        if mapping.host_port != mapping.container_port {
            return wrong(format!(
                "the checksum of sctp covers the ports, so they stay as they are: publish {0}:{0}",
                mapping.container_port
            ));
        }
        if mapping.host_ip.is_some_and(|ip| ip.is_loopback()) {
            return wrong(
                "nothing carries sctp from the host itself to a container: name an address that \
                 others reach, or none"
                    .to_owned(),
            );
        }
    }
    let is_mapped = |network: &&IpNet| matches!(network.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if let Some(network) = mapping.allow.iter().find(is_mapped) {
        return wrong(format!(
            "no source is in {network}: name the IPv4 network that it stands for"
        ));
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

/// Holds ports of the host for a mapping that names none, from those that the kernel too gives to who
/// asks for any. Otherwise as [`reserve`].
pub(super) fn reserve_any(
    mapping: &PortMapping,
    to: Destination,
    filter: &[sock_filter],
) -> Result<Reservation, Failure> {
    /// With half of all ports taken, a single one is found but for one time in a billion billions.
    const TRIES: usize = 64;
    let range = local_port_range().unwrap_or(32768..=60999);
    let full = || {
        Failure::Conflict(format!(
            "no {} free from {} to {} could be found for {}: name the ports of the host",
            match mapping.count {
                1 => "port".to_owned(),
                count => format!("{count} ports in a row"),
            },
            range.start(),
            range.end(),
            describe(mapping)
        ))
    };
    let starts = (range.len() + 1).saturating_sub(usize::from(mapping.count));
    if starts == 0 {
        return Err(full());
    }
    for _ in 0..TRIES {
        let draw = u64::from_ne_bytes(random()?) % starts as u64;
        let candidate = PortMapping {
            // Below the number of ports.
            host_port: range.start() + draw as u16,
            ..mapping.clone()
        };
        match hold(&candidate, to, filter) {
            Err(obstacle) if obstacle.error.kind() == ErrorKind::AddrInUse => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(full())
}

/// Holds every port of a mapping that was [checked](check). `filter` keeps the uplinks' traffic from
/// the sockets ([`switch::io::filter::local_only_filter`]). Must be called in a runtime.
pub(super) fn reserve(
    mapping: &PortMapping,
    to: Destination,
    filter: &[sock_filter],
) -> Result<Reservation, Failure> {
    Ok(hold(mapping, to, filter)?)
}

/// What kept a port from being held.
struct Obstacle {
    protocol: Protocol,
    bind: Bind,
    port: u16,
    error: io::Error,
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Failure {
        let Obstacle {
            protocol,
            bind,
            port,
            error,
        } = obstacle;
        match error.kind() {
            ErrorKind::AddrInUse => {
                let holder = holder::holder(protocol, bind, port);
                let holder = holder.map_or(String::new(), |holder| format!(", {holder}"));
                let on = bind.host.map_or(String::new(), |ip| format!(" on {ip}"));
                Failure::Conflict(format!(
                    "port {port}/{protocol}{on} is taken by another process{holder} (EADDRINUSE): \
                     end that one, or choose another port"
                ))
            }
            ErrorKind::AddrNotAvailable => Failure::Invalid(error.to_string()),
            _ => Failure::Internal(error.to_string()),
        }
    }
}

fn hold(
    mapping: &PortMapping,
    to: Destination,
    filter: &[sock_filter],
) -> Result<Reservation, Obstacle> {
    let mut sockets = Vec::with_capacity(descriptors(mapping, to));
    let mut held = Vec::new();
    for bind in binds(mapping, to) {
        for (port, container_port) in host_ports(mapping).zip(mapping.container_port..=u16::MAX) {
            let socket = match mapping.protocol {
                Protocol::Tcp => listen_tcp(bind.host, port, filter).map(Socket::Tcp),
                Protocol::Udp => bind_udp(bind.host, port, filter).map(Socket::Udp),
                Protocol::Sctp => match hold_sctp(bind.host, port) {
                    Ok(Some(socket)) => {
                        held.push(socket);
                        continue;
                    }
                    // Nor is there anything to be held of the others.
                    Ok(None) => break,
                    Err(error) => Err(error),
                },
            };
            match socket {
                Ok(socket) => sockets.push((socket, container_port)),
                Err(error) if bind.optional && error.kind() == ErrorKind::AddrNotAvailable => {}
                Err(error) => {
                    return Err(Obstacle {
                        protocol: mapping.protocol,
                        bind,
                        port,
                        error,
                    });
                }
            }
        }
    }
    Ok(Reservation {
        mapping: mapping.clone(),
        to,
        sockets,
        held,
    })
}

impl Reservation {
    /// Starts the relays. The rules get the ids after `last_rule`, which moves on. Must be called
    /// in a runtime.
    pub(super) fn serve(self, last_rule: &mut u32) -> io::Result<Published> {
        let mut relays = Vec::with_capacity(self.sockets.len());
        let common = Common::new(Sources::new(&self.mapping.allow));
        for (socket, port) in self.sockets {
            let target = self.to.target(port).ok_or_else(|| {
                io::Error::new(ErrorKind::AddrNotAvailable, "the container has no address")
            })?;
            relays.push(match socket {
                Socket::Tcp(listener) => Relay::tcp(listener, target, &common)?,
                Socket::Udp(socket) => Relay::udp(socket, target, UDP_IDLE, &common)?,
            });
        }
        Ok(Published {
            rules: rules(&self.mapping, self.to, last_rule),
            mapping: self.mapping,
            to: self.to,
            relays,
            _held: self.held,
            common,
        })
    }
}

impl Published {
    /// What its relays count.
    pub(super) fn common(&self) -> &Arc<Common> {
        &self.common
    }

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

    /// Whom it is for from now on: on the host at once, from elsewhere with the switch's next rules.
    pub(super) fn set_allow(&mut self, allow: Vec<IpNet>) {
        let sources = Sources::new(&allow);
        for rule in &mut self.rules {
            rule.allow = sources.clone();
        }
        self.common.set_allow(sources);
        self.mapping.allow = allow;
    }

    /// The set of uplinks has changed: `filter` is the new one of the sockets.
    pub(super) fn renew_filter(&self, filter: &[sock_filter]) {
        for relay in &self.relays {
            if let Err(error) = relay.replace_filter(filter) {
                tracing::error!("{}: {error}", describe(&self.mapping));
                return;
            }
        }
    }

    /// Cuts what is in flight, at once. The future is done when every port is free again.
    pub(super) fn stop(self) -> impl Future<Output = ()> {
        let flows = self.common.counters();
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
        let endings: Vec<_> = self.relays.into_iter().map(Relay::stop).collect();
        async {
            for ending in endings {
                ending.await;
            }
        }
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
        Protocol::Sctp => nat::Protocol::SCTP,
    }
}

/// `port 8080/tcp` or `ports 8000-8100/udp on 192.0.2.1`, for errors and the log. By the container's
/// ports if those of the host are yet to be chosen.
pub(super) fn describe(mapping: &PortMapping) -> String {
    let ports = host_ports(mapping);
    let protocol = protocol(mapping);
    let ports = match mapping.count {
        _ if mapping.host_port == 0 => {
            let ports = port_range(mapping.container_port, mapping.count);
            format!("the container's {ports}/{protocol}")
        }
        0 | 1 => format!("port {}/{protocol}", ports.start()),
        _ => format!("ports {}-{}/{protocol}", ports.start(), ports.end()),
    };
    match mapping.host_ip {
        Some(ip) => format!("{ports} on {ip}"),
        None => ports,
    }
}

/// The first of several mappings, and how many more there are.
pub(super) fn describe_all(mappings: &[PortMapping]) -> String {
    let mut list: Vec<String> = mappings.iter().take(TOLD).map(describe).collect();
    if mappings.len() > TOLD {
        list.push(format!("{} more", mappings.len() - TOLD));
    }
    list.join(", ")
}

fn rules(mapping: &PortMapping, to: Destination, last_rule: &mut u32) -> Vec<nat::Publish> {
    let to = match mapping.host_ip {
        Some(ip) if ip.is_loopback() => [None, None],
        Some(ip) => [to.like(ip), None],
        None => [to.ipv4, to.ipv6],
    };
    let allow = Sources::new(&mapping.allow);
    let rules = to.into_iter().flatten().map(|to| {
        *last_rule += 1;
        nat::Publish {
            id: *last_rule,
            protocol: protocol(mapping),
            host: mapping.host_ip.filter(|ip| !ip.is_unspecified()),
            ports: host_ports(mapping),
            to,
            to_port: mapping.container_port,
            allow: allow.clone(),
        }
    });
    rules.collect()
}

/// How many sockets hold the ports of a mapping.
fn descriptors(mapping: &PortMapping, to: Destination) -> usize {
    usize::from(mapping.count) * binds(mapping, to).count()
}

/// What can't be had as a whole is refused before half of it is bound.
pub(super) fn check_descriptors(mappings: &[PortMapping], to: Destination) -> Result<(), Failure> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    let needed: usize = mappings
        .iter()
        .map(|mapping| descriptors(mapping, to))
        .sum();
    let left = limit
        .saturating_sub(open_descriptors())
        .saturating_sub(SPARE_DESCRIPTORS);
    if needed as u64 <= left {
        return Ok(());
    }
    Err(Failure::Internal(format!(
        "{}: that takes {needed} file descriptors, and {left} of the {limit} that the daemon may have \
         are left: publish fewer ports, or start the daemon with a higher limit (ulimit -Hn, \
         LimitNOFILE=)",
        describe_all(mappings)
    )))
}

fn open_descriptors() -> u64 {
    let directory = "/proc/self/fd";
    // Their number, since Linux 6.2 (proc(5)); nothing before, and then they are counted.
    match fs::metadata(directory).map_or(0, |metadata| metadata.len()) {
        0 => fs::read_dir(directory).map_or(0, |entries| entries.count() as u64),
        number => number,
    }
}

#[cfg(test)]
mod tests;
