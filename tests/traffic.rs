//! Connections whose fate a test asserts: both ends are in the test's hands.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::process::{Output, run};

/// After this long without an answer a path counts as dead. TCP repeats a lost SYN after one
/// second.
const PATIENCE: Duration = Duration::from_secs(4);

/// Listens in a namespace.
pub fn listen(namespace: &Namespace, address: impl Into<SocketAddr>) -> TcpListener {
    let address = address.into();
    let listener = namespace
        .within(|| patiently(|| TcpListener::bind(address)))
        .unwrap_or_else(|error| panic!("listen on {address} in {}: {error}", namespace.name()));
    listener
        .set_nonblocking(true)
        .expect("a listener can be made non-blocking");
    listener
}

/// Binds a UDP socket in a namespace.
pub fn bind_udp(namespace: &Namespace, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    let socket = namespace
        .within(|| patiently(|| UdpSocket::bind(address)))
        .unwrap_or_else(|error| panic!("bind {address} in {}: {error}", namespace.name()));
    let timeout = socket.set_read_timeout(Some(PATIENCE));
    timeout.expect("a socket can be given a timeout");
    socket
}

/// Binds again for a second while the port is taken: another test's thread that starts a program
/// holds every socket of this process from fork to exec, those that were just closed too.
fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && start.elapsed() < Duration::from_secs(1) =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// A TCP connection, with the end that dialled and the end that was reached.
pub struct Flow {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Flow {
    /// Dials `to` from a namespace and takes the connection from `listener`, wherever it listens.
    ///
    /// # Errors
    ///
    /// The dial failed, or nothing reached the listener.
    pub fn open(
        from: &Namespace,
        to: impl Into<SocketAddr>,
        listener: &TcpListener,
    ) -> io::Result<Flow> {
        let client = dial(from, to)?;
        let server = accept(listener)?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
        }
        Ok(Flow { client, server })
    }

    /// The address the server sees as its client's.
    pub fn seen_by_server(&self) -> IpAddr {
        self.server.peer_addr().expect("a connected socket").ip()
    }

    /// Sends a few bytes each way.
    ///
    /// # Errors
    ///
    /// They do not arrive within four seconds, or the connection was reset or closed.
    pub fn exchange(&mut self) -> io::Result<()> {
        pass(&mut self.client, &mut self.server, b"a question")?;
        pass(&mut self.server, &mut self.client, b"and its answer")
    }

    /// Sends `length` bytes from the client to the server, and compares them.
    ///
    /// # Errors
    ///
    /// They don't arrive, or not as they were sent.
    pub fn transfer(&mut self, length: usize) -> io::Result<()> {
        let block: Vec<u8> = (0..65_521u32).map(|n| (n * 31 % 251) as u8).collect();
        let mut client = self.client.try_clone()?;
        let sent = block.clone();
        let sender = thread::spawn(move || {
            let mut left = length;
            while left > 0 {
                let piece = left.min(sent.len());
                client.write_all(&sent[..piece])?;
                left -= piece;
            }
            Ok::<(), io::Error>(())
        });
        let mut left = length;
        let mut received = vec![0; block.len()];
        while left > 0 {
            let piece = left.min(block.len());
            self.server.read_exact(&mut received[..piece])?;
            if received[..piece] != block[..piece] {
                let problem = format!("garbled, {left} bytes before the end");
                return Err(io::Error::new(ErrorKind::InvalidData, problem));
            }
            left -= piece;
        }
        sender.join().expect("the sender does not panic")
    }
}

/// Dials from a namespace.
///
/// # Errors
///
/// Refused, unreachable, or no answer within four seconds.
pub fn dial(from: &Namespace, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let to = to.into();
    from.within(|| TcpStream::connect_timeout(&to, PATIENCE))
}

/// The next connection that reaches a non-blocking listener.
///
/// # Errors
///
/// None does within four seconds.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if start.elapsed() > PATIENCE => {
                let problem = "the connection did not reach its listener";
                return Err(io::Error::new(ErrorKind::TimedOut, problem));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    from.write_all(message)?;
    let mut received = vec![0; message.len()];
    to.read_exact(&mut received)?;
    if received != message {
        return Err(io::Error::new(ErrorKind::InvalidData, "garbled"));
    }
    Ok(())
}

/// Two UDP sockets that talk: the one that asks, and the one that is reached.
pub struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
}

impl Datagrams {
    /// A client in a namespace that asks at `to`, of which `server` should be at the other end.
    pub fn open(from: &Namespace, to: impl Into<SocketAddr>, server: UdpSocket) -> Datagrams {
        let to = to.into();
        let any: IpAddr = if to.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            [0u16; 8].into()
        };
        let client = bind_udp(from, (any, 0));
        from.within(|| client.connect(to))
            .unwrap_or_else(|error| panic!("no route from {} to {to}: {error}", from.name()));
        Datagrams { client, server }
    }

    /// Sends a datagram of `length` bytes and gets an answer as long; returns where the server saw
    /// it come from.
    ///
    /// # Errors
    ///
    /// The question or the answer is lost, or the answer comes from elsewhere.
    pub fn exchange(&mut self, length: usize) -> io::Result<SocketAddr> {
        let message: Vec<u8> = (0..length).map(|n| n as u8).collect();
        self.client.send(&message)?;
        let mut received = vec![0; length + 1];
        let (count, source) = self.server.recv_from(&mut received)?;
        if received[..count] != message {
            return Err(io::Error::new(ErrorKind::InvalidData, "garbled question"));
        }
        self.server.send_to(&message, source)?;
        let count = self.client.recv(&mut received)?;
        if received[..count] != message {
            return Err(io::Error::new(ErrorKind::InvalidData, "garbled answer"));
        }
        Ok(source)
    }
}

/// Three pings, all of which should be answered.
pub fn ping(from: &Namespace, to: IpAddr) -> Output {
    ping_with(from, to, &[])
}

/// Three pings with further arguments, all of which should be answered.
pub fn ping_with(from: &Namespace, to: IpAddr, arguments: &[&str]) -> Output {
    let output = run(from
        .command("ping")
        .args(["-n", "-c", "3", "-i", "0.2", "-W", "3"])
        .args(arguments)
        .arg(to.to_string()));
    // ping is content with one answer of three.
    if output.status.success() && !output.stdout.contains(" 0% packet loss") {
        panic!("pings were lost: {output}");
    }
    output
}
