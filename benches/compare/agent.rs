//! The measuring server and client: this program again, started inside a namespace.
//!
//! The server answers on two TCP ports. On the first every connection starts with a [`Request`] that
//! says what it is for; on the second it answers 32 bytes with 32 bytes, one connection at a time,
//! for connections per second. Whoever receives does the counting, in a window that opens after a
//! warm-up, so that neither slow start nor a full buffer is counted as speed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::datagrams;
use crate::lab::enter;
use crate::machine::busy_seconds;
use crate::process::die_with_parent;
use crate::{SERVICE, interrupt};

/// Before the counting starts.
pub(crate) const WARM_UP: Duration = Duration::from_millis(200);
/// The sender goes on for this long after the window, so that the window is full to its end.
const TAIL: Duration = Duration::from_millis(50);
/// Of a round trip and of a short connection, bytes in each direction.
const MESSAGE: usize = 32;
/// A conversation that stalls for this long has failed.
const STALL: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    /// Bulk TCP, the client sends.
    Send,
    /// Bulk TCP, the client receives.
    Receive,
    /// UDP datagrams from the client, as fast as it can.
    Datagrams,
    /// 32 bytes there and back over one connection.
    RoundTrips,
    /// Connect, send, receive, reset.
    Connections,
}

impl Probe {
    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Probe::Send => "send",
            Probe::Receive => "receive",
            Probe::Datagrams => "datagrams",
            Probe::RoundTrips => "round-trips",
            Probe::Connections => "connections",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The file of the namespace to serve in
    #[arg(long)]
    netns: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct CallArgs {
    /// The file of the namespace to call from
    #[arg(long)]
    netns: PathBuf,
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    probe: Probe,
    /// Connections at a time (bulk)
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Bytes of payload (datagrams)
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The window
    #[arg(long)]
    seconds: f64,
}

/// What a call has found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Bits, datagrams, round trips or connections per second, in the window.
    pub(crate) rate: f64,
    /// The same things, over the whole call.
    pub(crate) total: f64,
    /// CPU time of the whole machine over the whole call.
    pub(crate) cpu_seconds: f64,
    /// Round trips: median and 99th percentile, microseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// What was received: in all, and in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) total: u64,
    pub(crate) window: u64,
    pub(crate) window_nanos: u64,
}

impl Tally {
    /// Counts something received at `now`, the first of it at `start`. The window begins and ends
    /// with an arrival, and what arrives at its beginning is not in it.
    pub(crate) fn count(&mut self, amount: u64, since_start: Duration, window: Duration) {
        self.total += amount;
        let Some(inside) = since_start.checked_sub(WARM_UP) else {
            return;
        };
        if inside <= window {
            self.window += amount;
            self.window_nanos = u64::try_from(inside.as_nanos()).unwrap_or(u64::MAX);
        }
    }

    fn per_second(self) -> f64 {
        if self.window_nanos == 0 {
            return 0.0;
        }
        self.window as f64 * 1e9 / self.window_nanos as f64
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let numbers = [self.total, self.window, self.window_nanos];
        for (field, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; 24]) -> Tally {
        let mut numbers = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|field| u64::from_be_bytes(*field));
        let mut next = || numbers.next().unwrap_or_default();
        Tally {
            total: next(),
            window: next(),
            window_nanos: next(),
        }
    }
}

/// The first eight bytes of a connection: what for, and how long the window is.
#[derive(Clone, Copy, Debug)]
struct Request {
    probe: Probe,
    window: Duration,
}

impl Request {
    fn send(self, stream: &mut TcpStream) -> io::Result<()> {
        let millis = u32::try_from(self.window.as_millis()).unwrap_or(u32::MAX);
        let mut bytes = [self.probe as u8, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&millis.to_be_bytes());
        stream.write_all(&bytes)
    }

    fn receive(stream: &mut TcpStream) -> Result<Request> {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).context("read a request")?;
        let [kind, _, _, _, millis @ ..] = bytes;
        let mut probes = Probe::value_variants().iter();
        let probe = probes.find(|probe| **probe as u8 == kind);
        Ok(Request {
            probe: *probe.with_context(|| format!("no probe has the number {kind}"))?,
            window: Duration::from_millis(u32::from_be_bytes(millis).into()),
        })
    }
}

/// Serves until killed; says `ready` when it listens.
///
/// # Errors
///
/// The namespace is gone, or a port in it is taken.
pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    start_inside(&args.netns)?;
    let listen = |port| {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        TcpListener::bind(address).with_context(|| format!("listen on {address}"))
    };
    let requests = listen(SERVICE)?;
    let short = listen(SERVICE + 1)?;
    println!("ready");
    thread::spawn(move || answer_short(&short));
    for stream in requests.incoming() {
        let stream = stream.context("accept a connection")?;
        thread::spawn(move || {
            // The client tells what went wrong; here it is only the end of a connection.
            let _ = answer(stream);
        });
    }
    Ok(())
}

fn start_inside(netns: &std::path::Path) -> Result<()> {
    die_with_parent()?;
    interrupt::unblock()?;
    enter(netns)
}

/// One connection after another: a thread each would cost more than what is measured.
fn answer_short(listener: &TcpListener) {
    let mut message = [0; MESSAGE];
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        let _ = stream.set_read_timeout(Some(STALL));
        if stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {
            // The client's reset.
            let _ = stream.read(&mut message);
        }
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let request = Request::receive(&mut stream)?;
    match request.probe {
        Probe::Send => {
            let tally = receive_bulk(&mut stream, request.window)?;
            stream.write_all(&tally.to_bytes())?;
        }
        Probe::Receive => send_bulk(&mut stream, request.window)?,
        Probe::RoundTrips => {
            stream.set_nodelay(true)?;
            let mut message = [0; MESSAGE];
            loop {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
        }
        Probe::Datagrams => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let port = socket.local_addr()?.port();
            stream.write_all(&port.to_be_bytes())?;
            let tally = datagrams::receive(&socket, request.window)?;
            stream.write_all(&tally.to_bytes())?;
        }
        Probe::Connections => bail!("connections per second have a port of their own"),
    }
    Ok(())
}

/// What the receiver has counted, when it is done.
fn read_tally(stream: &mut TcpStream) -> Result<Tally> {
    let mut bytes = [0; 24];
    let read = stream.read_exact(&mut bytes);
    read.with_context(|| format!("the receiver's tally did not come within {STALL:?}"))?;
    Ok(Tally::from_bytes(bytes))
}

/// Receives until the sender has no more.
fn receive_bulk(stream: &mut TcpStream, window: Duration) -> Result<Tally> {
    let mut buffer = vec![0; 256 * 1024];
    let mut tally = Tally::default();
    let mut start = None;
    loop {
        let length = stream.read(&mut buffer).context("receive")?;
        if length == 0 {
            return Ok(tally);
        }
        let start = *start.get_or_insert_with(Instant::now);
        tally.count(length as u64, start.elapsed(), window);
    }
}

/// Sends for warm-up, window and tail, then no more.
fn send_bulk(stream: &mut TcpStream, window: Duration) -> Result<()> {
    let buffer = vec![0x5a; 128 * 1024];
    let start = Instant::now();
    while start.elapsed() < WARM_UP + window + TAIL {
        stream.write_all(&buffer).context("send")?;
    }
    stream.shutdown(Shutdown::Write).context("end a stream")
}

/// Measures once, and prints the [`Outcome`] as JSON.
///
/// # Errors
///
/// No server answers at the target, or a conversation with it stalls.
pub(crate) fn call(args: &CallArgs) -> Result<()> {
    start_inside(&args.netns)?;
    let window = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let before = busy_seconds()?;
    let mut outcome = match args.probe {
        Probe::Send | Probe::Receive => bulk(args, window)?,
        Probe::Datagrams => send_datagrams(args, window)?,
        Probe::RoundTrips => round_trips(args, window)?,
        Probe::Connections => connections(args, window)?,
    };
    outcome.cpu_seconds = busy_seconds()? - before;
    if outcome.rate <= 0.0 {
        bail!("{}: nothing arrived", args.target);
    }
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, STALL);
    let stream = stream.with_context(|| format!("connect to {target}"))?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

fn bulk(args: &CallArgs, window: Duration) -> Result<Outcome> {
    let barrier = Barrier::new(args.streams);
    let one = || -> Result<Tally> {
        let connected = connect(args.target);
        // A thread that failed must come too, or the others wait for ever.
        barrier.wait();
        let mut stream = connected?;
        let probe = args.probe;
        Request { probe, window }.send(&mut stream)?;
        if probe == Probe::Receive {
            return receive_bulk(&mut stream, window);
        }
        send_bulk(&mut stream, window)?;
        read_tally(&mut stream)
    };
    let tallies: Vec<Result<Tally>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.streams).map(|_| scope.spawn(one)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|tally| tally.unwrap_or_else(|_| bail!("a stream panicked")))
            .collect()
    });
    let mut outcome = Outcome::default();
    for tally in tallies {
        let tally = tally?;
        outcome.rate += tally.per_second() * 8.0;
        outcome.total += tally.total as f64 * 8.0;
    }
    Ok(outcome)
}

fn send_datagrams(args: &CallArgs, window: Duration) -> Result<Outcome> {
    let mut control = connect(args.target)?;
    let probe = args.probe;
    Request { probe, window }.send(&mut control)?;
    let mut port = [0; 2];
    control.read_exact(&mut port).context("read the port")?;
    let target = SocketAddr::new(args.target.ip(), u16::from_be_bytes(port));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind a UDP socket")?;
    let connected = socket.connect(target);
    connected.with_context(|| format!("connect to {target}/udp"))?;
    datagrams::send(&socket, args.size, WARM_UP + window + TAIL)?;
    let tally = read_tally(&mut control)?;
    Ok(Outcome {
        rate: tally.per_second(),
        total: tally.total as f64,
        ..Outcome::default()
    })
}

fn round_trips(args: &CallArgs, window: Duration) -> Result<Outcome> {
    let mut stream = connect(args.target)?;
    stream.set_nodelay(true)?;
    let probe = args.probe;
    Request { probe, window }.send(&mut stream)?;
    let mut message = [7; MESSAGE];
    let mut times: Vec<f64> = Vec::with_capacity(1 << 17);
    let mut total = 0;
    let start = Instant::now();
    loop {
        let sent = Instant::now();
        stream.write_all(&message).context("send")?;
        stream.read_exact(&mut message).context("receive")?;
        total += 1;
        let received = Instant::now();
        if start.elapsed() >= WARM_UP {
            times.push((received - sent).as_secs_f64() * 1e6);
        }
        if start.elapsed() >= WARM_UP + window {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    let percentile = |percent: usize| times.get(times.len() * percent / 100).copied();
    Ok(Outcome {
        rate: times.len() as f64 / (start.elapsed() - WARM_UP).as_secs_f64(),
        total: f64::from(total),
        p50: percentile(50),
        p99: percentile(99),
        ..Outcome::default()
    })
}

fn connections(args: &CallArgs, window: Duration) -> Result<Outcome> {
    let target = SocketAddr::new(args.target.ip(), args.target.port() + 1);
    let mut message = [7; MESSAGE];
    let mut tally = Tally::default();
    let start = Instant::now();
    while start.elapsed() < WARM_UP + window {
        let mut stream = connect(target)?;
        stream.write_all(&message).context("send")?;
        stream.read_exact(&mut message).context("receive")?;
        // Zero linger makes close a reset: no port is left in TIME_WAIT (RFC 9293 3.10.5).
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        tally.count(1, start.elapsed(), window);
    }
    Ok(Outcome {
        rate: tally.per_second(),
        total: tally.total as f64,
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_the_window_only() {
        let window = Duration::from_secs(1);
        let mut tally = Tally::default();
        tally.count(5, Duration::from_millis(10), window);
        tally.count(100, WARM_UP + Duration::from_millis(500), window);
        tally.count(7, WARM_UP + Duration::from_millis(1500), window);
        assert_eq!((tally.total, tally.window), (112, 100));
        assert!((tally.per_second() - 200.0).abs() < 1e-9);
        assert_eq!(Tally::from_bytes(tally.to_bytes()), tally);
    }
}
