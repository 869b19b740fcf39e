//! Questions and answers about names, byte by byte, and servers of the world that answer them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::scene::{ANY, ANY6};

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;

pub const NXDOMAIN: u8 = 3;

/// What was answered: the code, and the data of the answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    pub truncated: bool,
    pub data: Vec<Vec<u8>>,
}

impl Answer {
    pub fn addresses(&self) -> Vec<IpAddr> {
        assert_eq!(self.code, 0, "{self:?}");
        let addresses = self.data.iter().filter_map(|data| {
            let v4 = <[u8; 4]>::try_from(&data[..]).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(&data[..]).map(IpAddr::from))
                .ok()
        });
        addresses.collect()
    }
}

/// A question as it is sent, with recursion desired.
pub fn query(name: &str, record_type: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(record_type.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The end of the name that begins at `from`.
fn skip_name(bytes: &[u8], mut from: usize) -> usize {
    loop {
        match bytes[from] {
            0 => return from + 1,
            length if length >= 0xc0 => return from + 2,
            length => from += 1 + usize::from(length),
        }
    }
}

/// Checks that `bytes` answer `query`, and reads them.
pub fn parse(bytes: &[u8], query: &[u8]) -> Answer {
    assert_eq!(bytes[..2], query[..2], "the id");
    assert_eq!(bytes[12..query.len()], query[12..], "the question");
    let mut at = query.len();
    let mut data = Vec::new();
    for _ in 0..u16::from_be_bytes([bytes[6], bytes[7]]) {
        at = skip_name(bytes, at) + 10;
        let length = usize::from(u16::from_be_bytes([bytes[at - 2], bytes[at - 1]]));
        data.push(bytes[at..at + length].to_vec());
        at += length;
    }
    Answer {
        code: bytes[3] & 0x0f,
        truncated: bytes[2] & 2 != 0,
        data,
    }
}

/// Asks over UDP; nothing where nobody answers.
pub fn try_ask(
    from: &Namespace,
    server: SocketAddr,
    name: &str,
    record_type: u16,
) -> Option<Answer> {
    let query = query(name, record_type);
    let any = if server.is_ipv4() { ANY } else { ANY6 };
    let socket = from.within(|| UdpSocket::bind((any, 0))).expect("a socket");
    // One lost datagram is no verdict on a busy machine.
    socket.set_read_timeout(Some(Duration::from_secs(3))).ok();
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        socket.send_to(&query, server).expect("a route");
        if let Ok(length) = socket.recv(&mut buffer) {
            return Some(parse(&buffer[..length], &query));
        }
    }
    None
}

#[track_caller]
pub fn ask(from: &Namespace, server: SocketAddr, name: &str, record_type: u16) -> Answer {
    try_ask(from, server, name, record_type)
        .unwrap_or_else(|| panic!("{server} did not answer for {name}"))
}

#[track_caller]
pub fn ask_by_tcp(from: &Namespace, server: SocketAddr, name: &str, record_type: u16) -> Answer {
    let query = query(name, record_type);
    let length = u16::try_from(query.len()).expect("a short query");
    let mut stream = from.within(|| TcpStream::connect(server)).expect("TCP");
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok();
    let framed = [&length.to_be_bytes(), &query[..]].concat();
    stream.write_all(&framed).expect("it takes the query");
    parse(&read_framed(&mut stream), &query)
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).expect("a message");
    bytes
}

/// A server of the world: every name has the address 192.0.2.`last`, and names that begin with
/// `long` have it a hundred times, which only TCP takes.
#[derive(Clone, Copy)]
pub struct World {
    last: u8,
    delay: Duration,
    by_tcp: bool,
    /// How many of a hundred answers a datagram has.
    told: u8,
}

impl World {
    pub fn with_address(last: u8) -> World {
        World {
            last,
            delay: Duration::ZERO,
            by_tcp: true,
            told: 0,
        }
    }

    /// It takes this long over a datagram.
    pub fn slow(self, delay: Duration) -> World {
        World { delay, ..self }
    }

    /// Nobody listens there over TCP, and a datagram has as many answers of a hundred.
    pub fn without_tcp(self, told: u8) -> World {
        World {
            by_tcp: false,
            told,
            ..self
        }
    }

    /// Answers until the test ends, and counts the datagrams.
    pub fn serve(self, namespace: &Namespace, address: impl Into<IpAddr>) -> Arc<AtomicUsize> {
        self.serve_at(namespace, SocketAddr::new(address.into(), 53))
    }

    /// At an address with a zone too.
    pub fn serve_at(self, namespace: &Namespace, address: SocketAddr) -> Arc<AtomicUsize> {
        let (socket, listener) = namespace.within(|| {
            let socket = UdpSocket::bind(address).expect("UDP port 53 is free");
            let listener = self.by_tcp.then(|| TcpListener::bind(address));
            (socket, listener.map(|it| it.expect("TCP port 53 is free")))
        });
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::Relaxed);
                let reply = self.reply(&buffer[..length], false);
                let socket = socket.try_clone().expect("a descriptor");
                thread::spawn(move || {
                    thread::sleep(self.delay);
                    socket.send_to(&reply, from).ok();
                });
            }
        });
        let Some(listener) = listener else {
            return asked;
        };
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let bytes = self.reply(&read_framed(&mut stream), true);
                let length = u16::try_from(bytes.len()).expect("a message");
                let framed = [&length.to_be_bytes(), &bytes[..]].concat();
                stream.write_all(&framed).ok();
            }
        });
        asked
    }

    fn reply(self, query: &[u8], tcp: bool) -> Vec<u8> {
        let end = skip_name(query, 12) + 4;
        let mut reply = query[..end].to_vec();
        let long = query[13..].starts_with(b"long");
        reply[2] = if long && !tcp { 0x83 } else { 0x81 };
        reply[3] = 0x80;
        let count = match (long, tcp) {
            (true, true) => 100,
            (true, false) => self.told,
            (false, _) => 1,
        };
        reply[6..12].copy_from_slice(&[0, count, 0, 0, 0, 0]);
        for _ in 0..count {
            reply.extend([
                0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, self.last,
            ]);
        }
        reply
    }
}
