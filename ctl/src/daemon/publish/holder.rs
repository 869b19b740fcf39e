//! Who has a port of the host that was wanted: the socket by the kernel's tables (proc_net in
//! procfs), and the process that has it open. For an error message, so whatever can't be read is
//! left out.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Bind;
use crate::api::Protocol;

/// A socket in the way, and whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    address: SocketAddr,
    /// Name and pid. Nobody's that can be seen from here: the kernel's own, or one of a process that
    /// is hidden from the daemon.
    process: Option<(String, u32)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, pid)) = &self.process {
            write!(f, "{name} (pid {pid}) ")?;
        }
        write!(f, "at {}", self.address)
    }
}

/// Who keeps a socket from being bound to `port`.
pub(super) fn holder(protocol: Protocol, bind: Bind, port: u16) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    // Of this thread, whose network namespace may be another than that of the process's first.
    let read = |table| fs::read_to_string(format!("/proc/thread-self/net/{table}"));
    let sockets = tables.iter().filter_map(|table| read(table).ok());
    let sockets: Vec<Socket> = sockets
        .flat_map(|table| table.lines().filter_map(Socket::parse).collect::<Vec<_>>())
        .filter(|socket| {
            let other = Bind::on(Some(socket.address.ip()));
            // One of all addresses has those of both families, as far as anybody can tell.
            let clashes = bind.clashes(other) || socket.address.ip().is_unspecified();
            socket.address.port() == port && clashes
        })
        .collect();
    // A connection of the port is in nobody's way beside its listener.
    let socket = sockets
        .iter()
        .find(|socket| socket.waits)
        .or(sockets.first())?;
    Some(Holder {
        address: socket.address,
        process: process_with(socket.inode),
    })
}

/// A row of /proc/net/tcp, tcp6, udp or udp6.
struct Socket {
    address: SocketAddr,
    /// For whoever comes: a listener, or a socket of UDP without a peer.
    waits: bool,
    inode: u64,
}

impl Socket {
    /// None of the heading.
    fn parse(row: &str) -> Option<Socket> {
        const LISTEN: &str = "0A";
        const UNCONNECTED: &str = "07";
        let columns: Vec<&str> = row.split_ascii_whitespace().collect();
        let (address, port) = columns.get(1)?.split_once(':')?;
        Some(Socket {
            address: SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?),
            waits: [LISTEN, UNCONNECTED].contains(columns.get(3)?),
            inode: columns.get(9)?.parse().ok()?,
        })
    }
}

/// Words of 32 bits in hexadecimal digits, each as the machine reads it from memory.
fn parse_address(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets)
            .ok()
            .map(|it| Ipv4Addr::from(it).into()),
        16 => <[u8; 16]>::try_from(octets)
            .ok()
            .map(|it| Ipv6Addr::from(it).into()),
        _ => None,
    }
}

/// The first process that has the socket open.
fn process_with(inode: u64) -> Option<(String, u32)> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        descriptors.is_ok_and(|descriptors| {
            descriptors.flatten().any(|descriptor| {
                let target = fs::read_link(descriptor.path());
                target.is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
        })
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((name.trim().to_owned(), pid))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn on(host: Option<&str>) -> Bind {
        Bind::on(host.map(|ip| ip.parse().unwrap()))
    }

    #[test]
    fn a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _connected = TcpStream::connect(address).unwrap();
        let found = |bind| holder(Protocol::Tcp, bind, address.port());
        for host in [None, Some("127.0.0.1"), Some("0.0.0.0")] {
            let found = found(on(host)).unwrap();
            assert_eq!(found.address, address);
            let (name, pid) = found.process.unwrap();
            assert_eq!(pid, std::process::id());
            assert!(!name.is_empty());
        }
        assert_eq!(found(on(Some("127.0.0.2"))), None);
        drop(listener);
        assert_eq!(holder(Protocol::Udp, on(None), 0), None);
    }

    #[test]
    fn udp_and_ipv6_too() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let address = socket.local_addr().unwrap();
        let found = holder(Protocol::Udp, on(Some("127.0.0.1")), address.port()).unwrap();
        assert_eq!(found.address, address);
        let Ok(socket) = UdpSocket::bind("[::1]:0") else {
            return; // a kernel without IPv6
        };
        let address = socket.local_addr().unwrap();
        let found = holder(Protocol::Udp, on(None), address.port()).unwrap();
        assert_eq!(found.address, address);
        assert!(
            found.to_string().ends_with(&format!("at {address}")),
            "{found}"
        );
    }

    #[test]
    fn rows_that_are_none_are_passed_over() {
        for row in [
            "",
            "sl local_address",
            "1: 0100007F 0 0A",
            "1: 01:0050 0 0A 0 0 0 0 0 7",
        ] {
            assert!(Socket::parse(row).is_none(), "{row}");
        }
    }
}
