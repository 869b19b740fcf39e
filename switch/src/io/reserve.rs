//! Sockets that hold ports of the host.
//!
//! A TCP port that listens, or a UDP port that is bound, answers no segment or datagram that its
//! filter drops: no SYN-ACK, no RST, no ICMP error, while AF_PACKET sees the frame all the same. So
//! the same socket keeps other processes off the port, keeps the host's kernel silent, and, where
//! the filter lets the host's own traffic through, serves loopback. The filter is attached before
//! bind, so that there is no moment without it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use libc::sock_filter;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::filter::drop_all_filter;
use super::{context, errno, sys};

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
const SCTP: u8 = libc::IPPROTO_SCTP as u8;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A non-blocking listener behind a filter, on one address of the host or on all of one family (the
/// unspecified address); on all of every family that the kernel has when `host` is None, where IPv4
/// clients of a kernel with IPv6 show as mapped addresses (`::ffff:192.0.2.1`). Connections it
/// accepts inherit the filter.
///
/// # Errors
///
/// Another process listens there, the address is not the host's, or the port needs a right.
pub fn listen_tcp(
    host: Option<IpAddr>,
    port: u16,
    filter: &[sock_filter],
) -> io::Result<TcpListener> {
    let socket = open(host, TCP, filter)
        .and_then(|socket| {
            socket.bind(&SocketAddr::new(host.unwrap_or_else(everywhere), port).into())?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        })
        .map_err(|error| explain(host, port, "tcp", &error))?;
    Ok(socket.into())
}

/// A non-blocking UDP socket behind a filter, on addresses as those of [`listen_tcp`].
///
/// # Errors
///
/// As of [`listen_tcp`].
pub fn bind_udp(host: Option<IpAddr>, port: u16, filter: &[sock_filter]) -> io::Result<UdpSocket> {
    let socket = open(host, UDP, filter)
        .and_then(|socket| {
            socket.bind(&SocketAddr::new(host.unwrap_or_else(everywhere), port).into())?;
            Ok(socket)
        })
        .map_err(|error| explain(host, port, "udp", &error))?;
    Ok(socket.into())
}

/// Holds a port of SCTP, on addresses as those of [`listen_tcp`], against the kernel that has SCTP: it
/// would answer for a port that nobody has with ABORT (RFC 9260 section 8.4). None on a kernel that
/// has no SCTP.
///
/// # Errors
///
/// As of [`listen_tcp`].
pub fn hold_sctp(host: Option<IpAddr>, port: u16) -> io::Result<Option<OwnedFd>> {
    let held = open(host, SCTP, &drop_all_filter()).and_then(|socket| {
        socket.bind(&SocketAddr::new(host.unwrap_or_else(everywhere), port).into())?;
        socket.listen(1)?;
        Ok(socket)
    });
    match held {
        Ok(socket) => Ok(Some(socket.into())),
        Err(error) => match errno(&error) {
            Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT => Ok(None),
            _ => Err(explain(host, port, "sctp", &error)),
        },
    }
}

/// Replaces a socket's filter in one step, when the uplinks have changed.
///
/// # Errors
///
/// The program is not valid (EINVAL), or too large for `net.core.optmem_max` (ENOMEM).
pub fn replace_filter(fd: BorrowedFd<'_>, filter: &[sock_filter]) -> io::Result<()> {
    sys::attach_filter(fd, filter).map_err(|error| context("replace a socket's filter", error))
}

/// A socket of the family of `host`; of both families, if the kernel has both, for None.
fn open(host: Option<IpAddr>, protocol: u8, filter: &[sock_filter]) -> io::Result<Socket> {
    let is_v6 = host.unwrap_or_else(everywhere).is_ipv6();
    let domain = if is_v6 { Domain::IPV6 } else { Domain::IPV4 };
    let kind = if protocol == UDP {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(domain, kind, Some(Protocol::from(i32::from(protocol))))?;
    if is_v6 {
        // The default is net.ipv6.bindv6only's, whatever that is.
        socket.set_only_v6(host.is_some())?;
    }
    if protocol == TCP {
        // Connections of the port that linger in TIME_WAIT are no obstacle; a listener still is.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    sys::attach_filter(socket.as_fd(), filter)?;
    Ok(socket)
}

fn explain(host: Option<IpAddr>, port: u16, protocol: &str, error: &io::Error) -> io::Error {
    let on = host.map_or(String::new(), |ip| format!(" on {ip}"));
    let text = match errno(error) {
        Errno::EADDRINUSE => {
            format!("port {port}/{protocol}{on} is taken by another process (EADDRINUSE)")
        }
        Errno::EADDRNOTAVAIL => {
            let ip = host.unwrap_or_else(everywhere);
            format!("port {port}/{protocol}: {ip} is not an address of this host (EADDRNOTAVAIL)")
        }
        Errno::EACCES => format!(
            "port {port}/{protocol}{on} needs CAP_NET_BIND_SERVICE, or a lower \
             net.ipv4.ip_unprivileged_port_start (EACCES)"
        ),
        Errno::EAFNOSUPPORT => {
            format!("port {port}/{protocol}{on}: this kernel has no such address family")
        }
        Errno::EMFILE | Errno::ENFILE => {
            format!("port {port}/{protocol}{on}: no file descriptor is left; raise ulimit -n")
        }
        Errno::ENOSYS if protocol == "sctp" => format!(
            "port {port}/sctp{on}: the kernel's SCTP can't listen, for want of the HMAC that \
             net.sctp.cookie_hmac_alg names (ENOSYS)"
        ),
        _ => format!("port {port}/{protocol}{on}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// What is masqueraded by address alone and the host mostly has no use for: IP in IP, IPv6 in IP,
/// GRE, ESP, SCTP.
const WITHOUT_PORTS: [i32; 5] = [
    libc::IPPROTO_IPIP,
    libc::IPPROTO_IPV6,
    libc::IPPROTO_GRE,
    libc::IPPROTO_ESP,
    libc::IPPROTO_SCTP,
];

/// Sockets that keep the host's kernel from answering "protocol unreachable" to packets of
/// protocols without ports that are a container's: it stays silent where a raw socket listens
/// (`ip_protocol_deliver_rcu` in net/ipv4/ip_input.c). What the kernel handles itself it goes on
/// handling. Best effort: what can't be held is left out.
pub fn hold_protocols() -> Vec<OwnedFd> {
    let families = [Some(Domain::IPV4), has_ipv6().then_some(Domain::IPV6)];
    let hold = |domain: Domain, protocol: i32| -> io::Result<OwnedFd> {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        sys::attach_filter(socket.as_fd(), &drop_all_filter())?;
        Ok(socket.into())
    };
    families
        .into_iter()
        .flatten()
        .flat_map(|domain| WITHOUT_PORTS.map(|protocol| hold(domain, protocol)))
        .flatten()
        .collect()
}

/// Ports of the host that are held, silently, on every address of every family until it is dropped.
/// One descriptor a port.
#[derive(Debug, Default)]
pub struct ReservedPorts {
    /// Held open; in the order of `ports`.
    sockets: Vec<Socket>,
    ports: Vec<RangeInclusive<u16>>,
    error: Option<io::Error>,
}

impl ReservedPorts {
    /// What is held, as intervals in order.
    pub fn ports(&self) -> &[RangeInclusive<u16>] {
        &self.ports
    }

    /// How many ports are held.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Why the reservation ended before the range did, if it did: no descriptor was left, say.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }
}

/// Holds the ports of a range for masquerading. A port that another process holds is left out; any
/// other obstacle ends the reservation early (see [`ReservedPorts::error`]).
///
/// `protocol` is 6 (TCP) or 17 (UDP); others have no ports and nothing is held. Port 0 is none.
pub fn reserve(protocol: u8, ports: RangeInclusive<u16>) -> ReservedPorts {
    let mut reserved = ReservedPorts::default();
    if protocol != TCP && protocol != UDP {
        return reserved;
    }
    let filter = drop_all_filter();
    for port in ports {
        match reserve_port(protocol, port, &filter) {
            Ok(Some(socket)) => {
                reserved.sockets.push(socket);
                match reserved.ports.last_mut() {
                    Some(last) if *last.end() + 1 == port => *last = *last.start()..=port,
                    _ => reserved.ports.push(port..=port),
                }
            }
            Ok(None) => {}
            Err(error) => {
                let name = if protocol == TCP { "tcp" } else { "udp" };
                reserved.error = Some(explain(None, port, name, &error));
                break;
            }
        }
    }
    reserved
}

/// Whether this kernel has IPv6. Asked of it once: each question makes one without IPv6 look for
/// its module with modprobe.
pub fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| match Socket::new(Domain::IPV6, Type::DGRAM, None) {
        Ok(_) => true,
        Err(error) => errno(&error) != Errno::EAFNOSUPPORT,
    })
}

/// The address of one socket for both families; of IPv4 alone where the kernel has no IPv6.
fn everywhere() -> IpAddr {
    if has_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Holds one port; none when another process has it.
fn reserve_port(protocol: u8, port: u16, filter: &[sock_filter]) -> io::Result<Option<Socket>> {
    if port == 0 {
        return Ok(None);
    }
    let socket = open(None, protocol, filter)?;
    let bound = socket
        .bind(&SocketAddr::new(everywhere(), port).into())
        .and_then(|()| {
            if protocol == TCP {
                socket.listen(1)
            } else {
                Ok(())
            }
        });
    match bound {
        Ok(()) => Ok(Some(socket)),
        Err(error) => match errno(&error) {
            Errno::EADDRINUSE | Errno::EACCES => Ok(None),
            _ => Err(error),
        },
    }
}
