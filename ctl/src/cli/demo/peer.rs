//! The two ends of a conversation: a server that tells its callers what it saw of them, and a
//! client that repeats it. Both are hidden options of `pontoon demo`, so that the demo needs no
//! other program.
//!
//! The protocol is a line each way, over TCP and UDP alike: any line is answered with
//! `you are ADDRESS:PORT, I am ADDRESS:PORT`. Address translation shows in the first half.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};
use switch::io::has_ipv6;

use super::answer::{Answer, Echo, Timing, parse_sentence, sentence};

/// Set by the demo for every process it starts, to its own process id: a server ends when that
/// process has gone, a client keeps its connection open until its standard input ends, so that
/// the demo can look at the connection while it lives.
pub(super) const DEMO_PID: &str = "PONTOON_DEMO_PID";

/// How long a client tries before it gives up. The server may just be starting.
const PATIENCE: Duration = Duration::from_secs(2);
/// One attempt: longer than any path of the demo takes, shorter than TCP's first retransmission
/// (1 s, RFC 6298 section 2).
const ATTEMPT: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(20);
/// Questions asked over one connection, to time them.
const ROUNDS: usize = 50;
/// On a slow machine fewer rounds will do.
const ROUNDS_TIME: Duration = Duration::from_millis(100);
/// A peer that sends no line end gets no more memory than this.
const LONGEST_LINE: u64 = 512;
const IDLE: Duration = Duration::from_secs(30);

/// Answers on `port` of every address, over TCP and UDP. Returns when the demo that started
/// it has gone; on its own it serves until it is ended.
pub(super) fn serve(port: u16) -> Result<ExitCode> {
    let everywhere = if has_ipv6() {
        // IPv4 too, unless net.ipv6.bindv6only says otherwise, which no fresh namespace does.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let address = SocketAddr::new(everywhere, port);
    let listener =
        TcpListener::bind(address).with_context(|| format!("listen on tcp {address}"))?;
    let socket = UdpSocket::bind(address).with_context(|| format!("bind udp {address}"))?;
    thread("udp", move || serve_udp(&socket))?;
    thread("tcp", move || serve_tcp(&listener))?;
    let demo = demo_pid();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        if demo.is_some_and(|demo| kill(demo, None) == Err(Errno::ESRCH)) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn demo_pid() -> Option<Pid> {
    std::env::var(DEMO_PID)
        .ok()?
        .parse()
        .ok()
        .map(Pid::from_raw)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("start the {name} thread"))?;
    Ok(())
}

fn serve_tcp(listener: &TcpListener) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                // A thread that can't be had closes the connection; the caller asks again.
                let _ = thread("caller", move || {
                    // The caller has gone, or sent no line: either way there is no one to tell.
                    let _ = answer_lines(&stream, peer);
                });
            }
            // Out of descriptors, or a caller that left before its turn.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn answer_lines(stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let answer = sentence(plain(peer), plain(stream.local_addr()?)) + "\n";
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = Vec::new();
        if reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(());
        }
        writer.write_all(answer.as_bytes())?;
    }
}

fn serve_udp(socket: &UdpSocket) {
    let mut question = [0; LONGEST_LINE as usize];
    let port = socket.local_addr().map_or(0, |address| address.port());
    loop {
        match socket.recv_from(&mut question) {
            Ok((_, peer)) => {
                if let Ok(ip) = address_towards(plain(peer)) {
                    let answer = sentence(plain(peer), SocketAddr::new(ip, port)) + "\n";
                    // Lost like any datagram: the caller asks again.
                    let _ = socket.send_to(answer.as_bytes(), peer);
                }
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// An IPv4 peer of a socket of both families shows as a mapped address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A UDP socket of the peer's family, connected to it.
fn connected(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket)
}

/// The address that the kernel gives packets to `peer`. A socket bound to every address does not
/// tell which one a datagram came to; a connected one tells where its answers leave from, which
/// is the same in a container with one address of the family.
fn address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    Ok(connected(peer)?.local_addr()?.ip())
}

/// Asks the server at `address` over TCP, or UDP, and prints the answer.
pub(super) fn ask(address: SocketAddr, udp: bool) -> Result<ExitCode> {
    let protocol = if udp { "udp" } else { "tcp" };
    let (answer, _open) = patiently(|| {
        if udp {
            ask_udp(address)
        } else {
            ask_tcp(address)
        }
    })
    .with_context(|| format!("ask {address} over {protocol}"))?;
    tell(&answer)
}

/// A socket that is kept open while the answer is looked at.
type Open = Box<dyn std::any::Any>;

fn ask_tcp(address: SocketAddr) -> Result<(Answer, Open)> {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
    let connect = start.elapsed();
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    let mut reader = BufReader::new(&stream);
    let mut writer = &stream;
    let (you, me, rounds) = timed(|| {
        writer.write_all(b"who am I?\n")?;
        let mut line = String::new();
        if reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_line(&mut line)
            .map_err(unanswered)?
            == 0
        {
            bail!("the connection was closed before an answer came");
        }
        parse_sentence(&line)
    })?;
    Ok((
        Answer {
            you,
            me,
            timing: Timing::of(Some(connect), rounds)?,
        },
        Box::new(stream),
    ))
}

fn ask_udp(address: SocketAddr) -> Result<(Answer, Open)> {
    let socket = connected(address)?;
    socket.set_read_timeout(Some(ATTEMPT))?;
    let (you, me, rounds) = timed(|| {
        socket.send(b"who am I?\n")?;
        let mut answer = [0; LONGEST_LINE as usize];
        let length = socket.recv(&mut answer).map_err(unanswered)?;
        parse_sentence(&String::from_utf8_lossy(&answer[..length]))
    })?;
    Ok((
        Answer {
            you,
            me,
            timing: Timing::of(None, rounds)?,
        },
        Box::new(socket),
    ))
}

/// Asks again and again over one connection, where the answer may not change.
fn timed(
    mut question: impl FnMut() -> Result<(SocketAddr, SocketAddr)>,
) -> Result<(SocketAddr, SocketAddr, Vec<Duration>)> {
    let start = Instant::now();
    let (you, me) = question()?;
    let mut rounds = vec![start.elapsed()];
    while rounds.len() < ROUNDS && start.elapsed() < ROUNDS_TIME {
        let asked = Instant::now();
        let again = question()?;
        if again != (you, me) {
            bail!(
                "the answer changed from {:?} to {:?}",
                sentence(you, me),
                sentence(again.0, again.1)
            );
        }
        rounds.push(asked.elapsed());
    }
    Ok((you, me, rounds))
}

/// Sends ICMP echo requests to `address` through a raw socket, and prints what came back.
pub(super) fn ping(address: Ipv4Addr) -> Result<ExitCode> {
    let (echo, _open) = patiently(|| echo(address)).with_context(|| format!("ping {address}"))?;
    tell(&echo)
}

fn echo(address: Ipv4Addr) -> Result<(Echo, Open)> {
    // A raw socket rather than Linux's ping sockets, which net.ipv4.ping_group_range closes to
    // everyone by default.
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.connect(&SocketAddr::from((address, 0)).into())?;
    socket.set_read_timeout(Some(ATTEMPT))?;
    let identifier = std::process::id().to_be_bytes();
    let mut rounds = Vec::new();
    let start = Instant::now();
    let (mut ttl, mut bytes) = (0, 0);
    for sequence in 0..ROUNDS as u16 {
        let request = echo_request([identifier[2], identifier[3]], sequence);
        let asked = Instant::now();
        socket.send(&request)?;
        let mut packet = [0; 1500];
        loop {
            let length = socket.read(&mut packet).map_err(unanswered)?;
            if let Some(reply) = echo_reply(&packet[..length], &request) {
                (ttl, bytes) = (packet[8], reply);
                break;
            }
            if asked.elapsed() > ATTEMPT {
                bail!("no echo reply within {} ms", ATTEMPT.as_millis());
            }
        }
        rounds.push(asked.elapsed());
        if start.elapsed() > ROUNDS_TIME {
            break;
        }
    }
    let timing = Timing::of(None, rounds)?;
    Ok((
        Echo {
            from: address.into(),
            ttl,
            bytes,
            timing,
        },
        Box::new(socket),
    ))
}

/// An ICMP echo request with 56 bytes of data, as `ping` sends (RFC 792).
fn echo_request(identifier: [u8; 2], sequence: u16) -> [u8; 64] {
    let mut message = [0x70; 64];
    message[..4].copy_from_slice(&[8, 0, 0, 0]);
    message[4..6].copy_from_slice(&identifier);
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum: u32 = message
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    message
}

/// The length of the ICMP message when `packet`, with its IPv4 header, is the reply to `request`.
fn echo_reply(packet: &[u8], request: &[u8; 64]) -> Option<usize> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(header.max(20)..)?;
    let reply = *message.first()? == 0 && message.get(4..)? == &request[4..];
    reply.then_some(message.len())
}

/// A receive timeout is EAGAIN to the kernel, which tells people nothing.
fn unanswered(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => anyhow!("no answer within {} ms", ATTEMPT.as_millis()),
        _ => error.into(),
    }
}

fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(_) if start.elapsed() + PAUSE < PATIENCE => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn tell(answer: &dyn fmt::Display) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    writeln!(out, "{answer}")
        .and_then(|()| out.flush())
        .context("print the answer")?;
    if demo_pid().is_some() {
        // Whatever comes, or fails to: the end of standard input ends the conversation.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_sums_to_all_ones_and_only_its_own_reply_counts() {
        let request = echo_request([0x12, 0x34], 7);
        let sum: u32 = request
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);

        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&request);
        assert_eq!(echo_reply(&packet, &request), None, "a request is no reply");
        packet[20] = 0;
        assert_eq!(echo_reply(&packet, &request), Some(64));
        packet[26] ^= 1;
        assert_eq!(
            echo_reply(&packet, &request),
            None,
            "another sequence number"
        );
        for length in 0..packet.len() {
            assert_eq!(echo_reply(&packet[..length], &request), None);
        }
    }

    #[test]
    fn the_server_tells_its_callers_what_it_saw() {
        let Some(netns) = crate::netns::tests::scratch("the_server_tells_its_callers_what_it_saw")
        else {
            return;
        };
        netns
            .run(|| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let address = listener.local_addr().unwrap();
                let socket = UdpSocket::bind(address).unwrap();
                thread("tcp", move || serve_tcp(&listener)).unwrap();
                thread("udp", move || serve_udp(&socket)).unwrap();

                for (answer, _open) in [ask_tcp(address).unwrap(), ask_udp(address).unwrap()] {
                    assert_eq!(answer.me, address);
                    assert_eq!(answer.you.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
                    assert!(answer.timing.rounds > 0);
                }

                let (echo, _open) = echo(Ipv4Addr::LOCALHOST).unwrap();
                assert_eq!(
                    (echo.from, echo.bytes),
                    (IpAddr::from(Ipv4Addr::LOCALHOST), 64)
                );
            })
            .unwrap();
    }
}
