//! Sockets that hold ports of the host.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use switch::frame::VnetHeader;
use switch::io::filter::{drop_all_filter, local_only_filter};
use switch::io::{bind_udp, has_ipv6, listen_tcp, replace_filter, reserve};

use crate::harness::*;

/// A connection's outcome, within 300 ms.
fn connect(from: &Namespace, to: &str) -> Result<(), io::ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
        .map(drop)
        .map_err(|error| error.kind())
}

/// What a datagram's sender hears within 200 ms: ConnectionRefused for an ICMP error, WouldBlock for
/// silence.
fn datagram_error(from: &Namespace, to: &str) -> io::ErrorKind {
    let to: SocketAddr = to.parse().unwrap();
    from.run(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.connect(to).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        socket.send(b"x").unwrap();
        socket.recv(&mut [0]).unwrap_err().kind()
    })
}

/// The addresses that this kernel has a family for.
fn of_kernel<const N: usize>(addresses: [&str; N]) -> impl Iterator<Item = &str> {
    addresses
        .into_iter()
        .filter(|address| has_ipv6() || !address.starts_with('['))
}

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 5, 1];

/// A host with an uplink, 10.5.0.1 and fd05::1, and a machine on its wire; the uplink's index.
fn host_and_wire() -> (Namespace, Namespace, u32) {
    let (host, wire) = (Namespace::new(), Namespace::new());
    let ifindex = host.veth("uplink", &wire, "far");
    host.ip("link set uplink address 02:00:00:00:05:01");
    for (namespace, name, last) in [(&host, "uplink", 1), (&wire, "far", 2)] {
        namespace.ip(&format!("addr add 10.5.0.{last}/24 dev {name}"));
        if has_ipv6() {
            namespace.ip(&format!("addr add fd05::{last}/64 dev {name} nodad"));
        }
    }
    (host, wire, ifindex)
}

// Conforms: RFC5382-4 MOBY-41872
#[test]
fn a_published_port_is_silent_on_the_wire_and_serves_the_host() {
    needs_root!();
    silent_on_the_wire(&[None]);
}

#[test]
fn so_is_one_that_has_a_socket_a_family() {
    needs_root!();
    let families: Vec<Option<IpAddr>> = of_kernel(["0.0.0.0", "[::]"])
        .map(|address| address.trim_matches(['[', ']']).parse().ok())
        .collect();
    silent_on_the_wire(&families);
}

fn silent_on_the_wire(addresses: &[Option<IpAddr>]) {
    let (host, wire, ifindex) = host_and_wire();
    let watch = host.packet_queue(ifindex);
    let filter = local_only_filter(&[ifindex]);
    let listeners: Vec<TcpListener> = addresses
        .iter()
        .map(|&address| host.run(|| listen_tcp(address, 8080, &filter)).unwrap())
        .collect();
    let datagrams = host.run(|| bind_udp(None, 8080, &filter)).unwrap();

    for address in of_kernel(["10.5.0.1:8080", "[fd05::1]:8080"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::TimedOut),
            "{address}"
        );
    }
    assert_eq!(
        connect(&wire, "10.5.0.1:8081"),
        Err(io::ErrorKind::ConnectionRefused)
    );
    assert_eq!(
        datagram_error(&wire, "10.5.0.1:8080"),
        io::ErrorKind::WouldBlock
    );
    assert_eq!(
        datagram_error(&wire, "10.5.0.1:8081"),
        io::ErrorKind::ConnectionRefused
    );
    // The switch sees all of it.
    let got = receive_some(&watch, |frame| is_ipv4(frame) && word(frame, 36) == 8080);
    assert!(got.iter().any(|frame| frame.bytes()[23] == 6), "TCP");
    assert!(got.iter().any(|frame| frame.bytes()[23] == 17), "UDP");

    // The host itself gets through, by loopback and by its own addresses.
    for own in of_kernel([
        "127.0.0.1:8080",
        "10.5.0.1:8080",
        "[::1]:8080",
        "[fd05::1]:8080",
    ]) {
        assert_eq!(connect(&host, own), Ok(()), "{own}");
    }
    let accepted: usize = listeners
        .iter()
        .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
        .sum();
    assert_eq!(accepted, if has_ipv6() { 4 } else { 2 });
    host.send_udp("127.0.0.1:8080");
    let mut buffer = [0; 10];
    assert!(eventually(|| datagrams
        .recv_from(&mut buffer)
        .is_ok_and(|(count, _)| count == 5)));

    // The uplinks change.
    replace_filter(listeners[0].as_fd(), &local_only_filter(&[])).unwrap();
    assert_eq!(connect(&wire, "10.5.0.1:8080"), Ok(()));
}

// Conforms: RFC5382-4 CVE-2021-3773
#[test]
fn reserved_ports_are_silent_to_everyone() {
    needs_root!();
    let (host, wire, _) = host_and_wire();
    let tcp = host.run(|| reserve(6, 61000..=61009));
    let udp = host.run(|| reserve(17, 61000..=61009));
    for held in [&tcp, &udp] {
        assert_eq!(held.ports(), [61000..=61009]);
        assert_eq!(held.count(), 10);
        assert!(held.error().is_none());
    }
    for address in of_kernel(["10.5.0.1:61000", "10.5.0.1:61009", "[fd05::1]:61005"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::TimedOut),
            "{address}"
        );
        assert_eq!(
            datagram_error(&wire, address),
            io::ErrorKind::WouldBlock,
            "{address}"
        );
    }
    assert_eq!(
        connect(&host, "127.0.0.1:61001"),
        Err(io::ErrorKind::TimedOut)
    );
    for address in of_kernel(["10.5.0.1:61010", "[fd05::1]:61010"]) {
        assert_eq!(
            connect(&wire, address),
            Err(io::ErrorKind::ConnectionRefused),
            "{address}"
        );
        assert_eq!(
            datagram_error(&wire, address),
            io::ErrorKind::ConnectionRefused
        );
    }
    // A SYN-ACK out of the blue, as the kernel must take the answers to masqueraded connections to
    // be: a RST from a free port, nothing from a held one.
    let sender = wire.packet_queue(wire.ifindex("far").unwrap());
    for port in [61000, 61010] {
        let mut frame = udp_frame(([10, 5, 0, 2], 80), ([10, 5, 0, 1], port), 12);
        let bytes = frame.bytes_mut();
        bytes[..6].copy_from_slice(&UPLINK_MAC);
        bytes[23] = 6;
        // The sum of the IPv4 header, of which the protocol was 17.
        let sum = u16::from_be_bytes([bytes[24], bytes[25]]) + (17 - 6);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes[38..54].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x12, 1, 0, 0, 0, 0, 0]);
        frame.set_vnet(VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHeader::default()
        });
        assert_eq!(sender.transmit(&[&frame]).sent, 1);
    }
    let resets = receive_some(&sender, |frame| is_ipv4(frame) && frame.bytes()[23] == 6);
    let from: Vec<u16> = resets.iter().map(|frame| word(frame, 34)).collect();
    assert_eq!(from, [61010]);

    drop((tcp, udp));
    assert_eq!(
        connect(&wire, "10.5.0.1:61000"),
        Err(io::ErrorKind::ConnectionRefused)
    );
}

#[test]
fn a_port_in_use_is_named() {
    needs_root!();
    let host = Namespace::new();
    let other = host.run(|| TcpListener::bind("127.0.0.1:61022")).unwrap();
    let filter = drop_all_filter();
    for (address, on) in [(None, ""), ("0.0.0.0".parse().ok(), " on 0.0.0.0")] {
        let error = host.run(|| listen_tcp(address, 61022, &filter));
        let error = error.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port 61022/tcp{on} is taken by another process (EADDRINUSE)")
        );
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
    let address = "10.5.0.77".parse().ok();
    let error = host.run(|| bind_udp(address, 1, &filter)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 1/udp: 10.5.0.77 is not an address of this host (EADDRNOTAVAIL)"
    );
    // To a reservation it is a hole.
    let around = host.run(|| reserve(6, 61020..=61024));
    assert_eq!(around.ports(), [61020..=61021, 61023..=61024]);
    assert!(host.run(|| reserve(6, 0..=0)).ports().is_empty());
    assert!(host.run(|| reserve(1, 5..=9)).ports().is_empty());
    drop(other);
}
