//! Published ports: reserved with real sockets, translated by the switch, relayed on loopback.
//!
//! A reserved socket keeps other processes off the port and the host's kernel silent on the wire;
//! what it accepts, connections of the host to itself, a relay carries to the container. The
//! switch translates what comes over an uplink. Order: reserve, then the rule; the rule goes
//! before the sockets.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use switch::io::filter::local_only_filter;
use switch::io::{bind_udp, listen_tcp, replace_filter};
use tokio::task::JoinSet;

use super::failure::Failure;
use crate::api::{PortMapping, Protocol};
use crate::relay::{Relay, RelayCounters};

/// How long the relay remembers a UDP client that says nothing: the engine's own minimum for UDP
/// mappings (RFC 4787 clause 4.3).
const UDP_IDLE: Duration = Duration::from_secs(120);

/// Descriptors left to the rest of the daemon when a range is reserved.
const SPARE_DESCRIPTORS: u64 = 128;

/// One mapping of a running container.
pub(super) struct Published {
    pub mapping: PortMapping,
    /// Id of the engine's rule, never reused.
    pub rule: u32,
    pub to: IpAddr,
    /// The reserved sockets once more, for renewing their filters.
    sockets: Vec<OwnedFd>,
    relays: Vec<Relay>,
}

/// A mapping whose ports are held but not yet served. Dropping it frees them.
pub(super) struct Reservation {
    mapping: PortMapping,
    sockets: Vec<Socket>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The mapping as it is kept: 0.0.0.0 is what no address means.
pub(super) fn normalized(mapping: PortMapping) -> PortMapping {
    let host_ip = mapping
        .host_ip
        .filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    PortMapping { host_ip, ..mapping }
}

/// Whether a mapping means something for a container at `to`.
pub(super) fn check(mapping: &PortMapping, to: IpAddr) -> Result<(), Failure> {
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
    match rule(mapping, 0, to).check() {
        // Loopback is served by the relay alone, which reaches any container from any family.
        Err(error) if mapping.host_ip.is_none_or(|ip| !ip.is_loopback()) => {
            wrong(error.to_string())
        }
        _ => Ok(()),
    }
}

/// The first host port that two mappings would both take.
pub(super) fn overlap(one: &PortMapping, other: &PortMapping) -> Option<u16> {
    let same_address = match (one.host_ip, other.host_ip) {
        (Some(one), Some(other)) => one == other,
        // No address means every IPv4 one.
        (Some(ip), None) | (None, Some(ip)) => ip.is_ipv4(),
        (None, None) => true,
    };
    if one.protocol != other.protocol || !same_address {
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
    to: IpAddr,
    uplinks: &[u32],
) -> Result<Reservation, Failure> {
    check_descriptors(mapping)?;
    let filter = local_only_filter(uplinks);
    let address = mapping.host_ip.unwrap_or(match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    });
    let mut sockets = Vec::with_capacity(usize::from(mapping.count));
    for port in host_ports(mapping) {
        let socket = match mapping.protocol {
            Protocol::Tcp => listen_tcp(Some(address), port, &filter).map(Socket::Tcp),
            Protocol::Udp => bind_udp(Some(address), port, &filter).map(Socket::Udp),
        };
        sockets.push(socket.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Failure::Conflict(error.to_string()),
            io::ErrorKind::AddrNotAvailable => Failure::Invalid(error.to_string()),
            _ => Failure::Internal(error.to_string()),
        })?);
    }
    Ok(Reservation {
        mapping: mapping.clone(),
        sockets,
    })
}

impl Reservation {
    /// Starts the relays towards the container at `to`. Must be called in a runtime.
    pub(super) fn serve(self, rule: u32, to: IpAddr) -> io::Result<Published> {
        let mut sockets = Vec::with_capacity(self.sockets.len());
        let mut relays = Vec::with_capacity(self.sockets.len());
        let ports = self.mapping.container_port..=u16::MAX;
        for (socket, port) in self.sockets.into_iter().zip(ports) {
            let target = SocketAddr::new(to, port);
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
            mapping: self.mapping,
            rule,
            to,
            sockets,
            relays,
        })
    }
}

impl Published {
    /// What the switch does with packets to it. None for loopback, which never comes over a wire.
    pub(super) fn rule(&self) -> Option<nat::Publish> {
        let on_the_wire = self.mapping.host_ip.is_none_or(|ip| !ip.is_loopback());
        on_the_wire.then(|| rule(&self.mapping, self.rule, self.to))
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

fn rule(mapping: &PortMapping, id: u32, to: IpAddr) -> nat::Publish {
    nat::Publish {
        id,
        protocol: protocol(mapping),
        host: mapping.host_ip,
        ports: host_ports(mapping),
        to,
        to_port: mapping.container_port,
    }
}

/// A range that can't be had is refused before half of it is bound.
fn check_descriptors(mapping: &PortMapping) -> Result<(), Failure> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let needed = 2 * u64::from(mapping.count);
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
mod tests {
    use super::*;

    fn mapping(host_ip: Option<&str>, host_port: u16, count: u16) -> PortMapping {
        PortMapping {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port: 80,
            count,
        }
    }

    const TO: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2));

    #[test]
    fn mappings_overlap_by_protocol_address_and_range() {
        let all = mapping(None, 8000, 100);
        assert_eq!(overlap(&all, &mapping(None, 8099, 5)), Some(8099));
        assert_eq!(overlap(&mapping(None, 7990, 11), &all), Some(8000));
        assert_eq!(overlap(&all, &mapping(None, 8100, 1)), None);
        assert_eq!(
            overlap(&all, &mapping(Some("127.0.0.1"), 8050, 1)),
            Some(8050)
        );
        assert_eq!(overlap(&all, &mapping(Some("::1"), 8050, 1)), None);
        let one = mapping(Some("192.0.2.1"), 80, 1);
        assert_eq!(overlap(&one, &mapping(Some("192.0.2.2"), 80, 1)), None);
        let udp = PortMapping {
            protocol: Protocol::Udp,
            ..all.clone()
        };
        assert_eq!(overlap(&all, &udp), None);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert_eq!(check(&mapping(None, 65535, 1), TO), Ok(()));
        assert!(check(&mapping(None, 65535, 2), TO).is_err());
        assert!(check(&mapping(None, 0, 1), TO).is_err());
        assert!(check(&mapping(None, 80, 0), TO).is_err());
        let wide = PortMapping {
            container_port: 65000,
            ..mapping(None, 80, 1000)
        };
        assert!(check(&wide, TO).is_err());
        assert!(check(&mapping(Some("2001:db8::1"), 80, 1), TO).is_err());
        assert_eq!(
            check(&mapping(Some("::1"), 80, 1), TO),
            Ok(()),
            "the relay serves it"
        );
    }

    #[test]
    fn the_unspecified_address_is_no_address() {
        assert_eq!(
            normalized(mapping(Some("0.0.0.0"), 80, 1)),
            mapping(None, 80, 1)
        );
        let one = mapping(Some("192.0.2.1"), 80, 1);
        assert_eq!(normalized(one.clone()), one);
    }

    #[tokio::test]
    async fn a_port_of_another_process_is_a_clear_conflict_and_frees_the_rest() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let wanted = mapping(Some("127.0.0.1"), port - 1, 2);
        let failure = reserve(&wanted, TO, &[]).err().unwrap();
        assert_eq!(
            failure,
            Failure::Conflict(format!(
                "port {port}/tcp on 127.0.0.1 is taken by another process (EADDRINUSE)"
            ))
        );
        drop(taken);
        let published = reserve(&wanted, TO, &[]).unwrap().serve(1, TO).unwrap();
        assert!(published.rule().is_none());
        published.renew_filter(&[7]);
        published.stop().await;
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn a_range_beyond_the_limit_names_the_limit() {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if limit > 120_000 {
            println!("skipped: 120000 descriptors are allowed here");
            return;
        }
        let failure = check_descriptors(&mapping(None, 1024, 60_000)).unwrap_err();
        assert!(failure.text().contains("LimitNOFILE"), "{failure}");
    }
}
