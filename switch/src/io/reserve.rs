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
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use libc::sock_filter;
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::filter::drop_all_filter;
use super::{context, errno, sys};

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A non-blocking listener behind a filter. An IPv6 address is that family's alone. Connections it
/// accepts inherit the filter.
///
/// # Errors
///
/// Another process listens there, the address is not the host's, or the port needs a right.
pub fn listen_tcp(address: SocketAddr, filter: &[sock_filter]) -> io::Result<TcpListener> {
    let socket = open(address.ip(), TCP, true, filter)
        .and_then(|socket| {
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        })
        .map_err(|error| explain(address, "tcp", &error))?;
    Ok(socket.into())
}

/// A non-blocking UDP socket behind a filter. An IPv6 address is that family's alone.
///
/// # Errors
///
/// As of [`listen_tcp`].
pub fn bind_udp(address: SocketAddr, filter: &[sock_filter]) -> io::Result<UdpSocket> {
    let socket = open(address.ip(), UDP, true, filter)
        .and_then(|socket| {
            socket.bind(&address.into())?;
            Ok(socket)
        })
        .map_err(|error| explain(address, "udp", &error))?;
    Ok(socket.into())
}

/// Replaces a socket's filter in one step, when the uplinks have changed.
///
/// # Errors
///
/// The program is not valid (EINVAL), or too large for `net.core.optmem_max` (ENOMEM).
pub fn replace_filter(fd: BorrowedFd<'_>, filter: &[sock_filter]) -> io::Result<()> {
    sys::attach_filter(fd, filter).map_err(|error| context("replace a socket's filter", error))
}

fn open(
    address: IpAddr,
    protocol: u8,
    only_v6: bool,
    filter: &[sock_filter],
) -> io::Result<Socket> {
    let (domain, is_v6) = match address {
        IpAddr::V4(_) => (Domain::IPV4, false),
        IpAddr::V6(_) => (Domain::IPV6, true),
    };
    let kind = if protocol == TCP {
        Type::STREAM
    } else {
        Type::DGRAM
    };
    let socket = Socket::new(domain, kind, Some(Protocol::from(i32::from(protocol))))?;
    if is_v6 {
        socket.set_only_v6(only_v6)?;
    }
    if protocol == TCP {
        // Connections of the port that linger in TIME_WAIT are no obstacle; a listener still is.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    sys::attach_filter(socket.as_fd(), filter)?;
    Ok(socket)
}

fn explain(address: SocketAddr, protocol: &str, error: &io::Error) -> io::Error {
    let (ip, port) = (address.ip(), address.port());
    let text = match errno(error) {
        Errno::EADDRINUSE => {
            format!("port {port}/{protocol} on {ip} is taken by another process (EADDRINUSE)")
        }
        Errno::EADDRNOTAVAIL => {
            format!("port {port}/{protocol}: {ip} is not an address of this host (EADDRNOTAVAIL)")
        }
        Errno::EACCES => format!(
            "port {port}/{protocol} on {ip} needs CAP_NET_BIND_SERVICE, or a lower \
             net.ipv4.ip_unprivileged_port_start (EACCES)"
        ),
        Errno::EAFNOSUPPORT => {
            format!("port {port}/{protocol} on {ip}: this kernel has no such address family")
        }
        Errno::EMFILE | Errno::ENFILE => {
            format!("port {port}/{protocol} on {ip}: no file descriptor is left; raise ulimit -n")
        }
        _ => format!("port {port}/{protocol} on {ip}: {error}"),
    };
    io::Error::new(error.kind(), text)
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
                let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                reserved.error = Some(explain(address, name, &error));
                break;
            }
        }
    }
    reserved
}

/// The address of one socket for both families; of IPv4 alone where the kernel has no IPv6. Asked
/// of the kernel once: each question makes one without IPv6 look for its module with modprobe.
fn everywhere() -> IpAddr {
    static ADDRESS: OnceLock<IpAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| match Socket::new(Domain::IPV6, Type::DGRAM, None) {
        Err(error) if errno(&error) == Errno::EAFNOSUPPORT => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    })
}

/// Holds one port; none when another process has it.
fn reserve_port(protocol: u8, port: u16, filter: &[sock_filter]) -> io::Result<Option<Socket>> {
    if port == 0 {
        return Ok(None);
    }
    let address = everywhere();
    let socket = open(address, protocol, false, filter)?;
    let bound = socket
        .bind(&SocketAddr::new(address, port).into())
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
