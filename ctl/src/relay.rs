//! Publishing on loopback: connections that the published socket itself accepts, those from the
//! host to 127.0.0.1 or to its own address, are carried to the container by copying.
//!
//! The switch sees only what crosses a wire. The socket that reserves a published port (design:
//! it refuses whatever comes in through an uplink) also accepts what the host sends to itself,
//! and a relay serves it. This is one of the two paths that lose the client's address: the
//! container sees the host's.
//!
//! A listener costs a descriptor and a sleeping task, no thread and no buffer, so a published
//! range may have thousands. Descriptors are shared with the rest of the daemon, so all relays
//! together take at most half of those that the process may have.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

mod udp;

/// How long a container may take to accept a connection. A host on the same machine answers at
/// once; this covers one whose accept queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses after a failed accept, the first and the longest: out of descriptors, another try
/// at once would fail alike.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Bytes that one read takes: some of Linux's default socket buffers, and more than any datagram.
const BUFFER: usize = 128 * 1024;

thread_local! {
    /// One buffer a thread. It is filled and emptied between two awaits, so an idle connection
    /// has no buffer at all.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// What a relay has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RelayCounters {
    /// Connections, or for UDP clients, right now.
    pub(crate) active: u64,
    /// Connections or clients so far, those that failed included.
    pub(crate) total: u64,
    /// Connections that the container refused or that ran into the timeout; for UDP, clients that
    /// no socket could be had for.
    pub(crate) failed: u64,
    /// Bytes from clients to the container.
    pub(crate) bytes_in: u64,
    /// Bytes from the container to clients.
    pub(crate) bytes_out: u64,
    /// UDP: datagrams that could not be passed on (a full buffer, a closed port).
    pub(crate) dropped: u64,
    /// UDP: clients that were forgotten early to make room for others.
    pub(crate) evicted: u64,
}

impl AddAssign for RelayCounters {
    fn add_assign(&mut self, other: RelayCounters) {
        self.active += other.active;
        self.total += other.total;
        self.failed += other.failed;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.dropped += other.dropped;
        self.evicted += other.evicted;
    }
}

#[derive(Debug, Default)]
struct Counters {
    active: AtomicU64,
    total: AtomicU64,
    failed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    dropped: AtomicU64,
    evicted: AtomicU64,
}

/// Counts one connection as active while it lives.
struct Active(Arc<Counters>);

impl Active {
    fn new(counters: &Arc<Counters>) -> Active {
        counters.total.fetch_add(1, Relaxed);
        counters.active.fetch_add(1, Relaxed);
        Active(counters.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// Where a relay leads: the container's address for clients of either family. They are the same if
/// it has but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) ipv4: SocketAddr,
    pub(crate) ipv6: SocketAddr,
}

impl From<SocketAddr> for Target {
    /// One address for everybody.
    fn from(address: SocketAddr) -> Target {
        Target {
            ipv4: address,
            ipv6: address,
        }
    }
}

impl Target {
    /// An IPv4 client of a socket of both families shows as a mapped address.
    fn for_client(&self, client: SocketAddr) -> SocketAddr {
        match client.ip().to_canonical() {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ipv4)?;
        if self.ipv6 != self.ipv4 {
            write!(f, " and {}", self.ipv6)?;
        }
        Ok(())
    }
}

/// One published socket that is being served. Dropping it ends it and cuts every flow in flight:
/// TCP clients and the container get a reset. [`Relay::stop`] also waits until that is done and
/// the port is free.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The task ends when this is dropped.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    counters: Arc<Counters>,
}

impl Relay {
    /// Carries every connection that `listener` accepts to `target`. Half-closed connections stay
    /// so; a reset on one side resets the other. Must be called in a runtime, which must be in the
    /// network namespace that reaches `target`. Fails if the listener can't be registered with the
    /// runtime.
    pub(crate) fn tcp(listener: TcpListener, target: impl Into<Target>) -> io::Result<Relay> {
        let target = target.into();
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Relay::start(|counters, stopped| {
            serve_tcp(listener, target, counters, stopped)
        }))
    }

    /// Carries datagrams between the clients of `socket` and `target`. Each client gets a socket
    /// of its own towards `target`, until `idle` has passed without a datagram either way.
    /// Answers leave from the address that the client sent to. Otherwise as [`Relay::tcp`].
    pub(crate) fn udp(
        socket: UdpSocket,
        target: impl Into<Target>,
        idle: Duration,
    ) -> io::Result<Relay> {
        Relay::udp_bounded(socket, target.into(), idle, udp::MAX_CLIENTS)
    }

    fn udp_bounded(
        socket: UdpSocket,
        target: Target,
        idle: Duration,
        max_clients: usize,
    ) -> io::Result<Relay> {
        let server = udp::Server::new(socket, target, idle, max_clients)?;
        Ok(Relay::start(|counters, stopped| {
            server.serve(counters, stopped)
        }))
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(Arc<Counters>, oneshot::Receiver<()>) -> F,
    ) -> Relay {
        let (stop, stopped) = oneshot::channel();
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(serve(counters.clone(), stopped));
        Relay {
            stop,
            task,
            counters,
        }
    }

    /// Ends it, and returns when every socket of it is closed.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!("a relay has panicked: {error}");
        }
    }

    pub(crate) fn counters(&self) -> RelayCounters {
        let counters = &self.counters;
        RelayCounters {
            active: counters.active.load(Relaxed),
            total: counters.total.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            bytes_in: counters.bytes_in.load(Relaxed),
            bytes_out: counters.bytes_out.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            evicted: counters.evicted.load(Relaxed),
        }
    }
}

/// One slot a flow, which has two descriptors at most: so flows take half of what the process
/// may open, and the API, the switch and new listeners find some whatever a client does.
fn slots() -> Arc<Semaphore> {
    static SLOTS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let slots = SLOTS.get_or_init(|| {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let flows = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        Arc::new(Semaphore::new(flows.clamp(16, Semaphore::MAX_PERMITS)))
    });
    slots.clone()
}

async fn serve_tcp(
    listener: tokio::net::TcpListener,
    target: Target,
    counters: Arc<Counters>,
    stopped: oneshot::Receiver<()>,
) {
    let mut flows = JoinSet::new();
    tokio::select! {
        _ = stopped => {}
        () = accept(&listener, target, &counters, &mut flows) => {}
    }
    drop(listener);
    flows.shutdown().await;
}

/// Never ends by itself.
async fn accept(
    listener: &tokio::net::TcpListener,
    target: Target,
    counters: &Arc<Counters>,
    flows: &mut JoinSet<()>,
) {
    let mut pause = BACKOFF.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = flows.join_next() => continue,
        };
        match accepted {
            Ok((client, address)) => {
                pause = BACKOFF.0;
                // Later clients wait in the listener's backlog meanwhile. A semaphore that is
                // never closed always gives in.
                let Ok(slot) = slots().acquire_owned().await else {
                    return;
                };
                let target = target.for_client(address);
                flows.spawn(carry(client, target, Active::new(counters), slot));
            }
            // One that went away while it waited (accept(2) tells of it): the next one may do.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if pause == BACKOFF.0 {
                    tracing::warn!("can't accept connections for {target}: {error}");
                }
                sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Both ends of a connection. Unless they come to an orderly end they are reset when dropped,
/// however that happens: a half-carried conversation must not look complete.
struct Flow {
    client: TcpStream,
    server: Option<TcpStream>,
    complete: bool,
}

impl Drop for Flow {
    fn drop(&mut self) {
        if !self.complete {
            for stream in [Some(&self.client), self.server.as_ref()]
                .into_iter()
                .flatten()
            {
                // Fails only if the connection is gone already.
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// Connects and copies; the connection counts and holds its slot for as long.
async fn carry(client: TcpStream, target: SocketAddr, active: Active, slot: OwnedSemaphorePermit) {
    let mut flow = Flow {
        client,
        server: None,
        complete: false,
    };
    let counters = &active.0;
    let server = match timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
        Ok(Ok(server)) => flow.server.insert(server),
        Ok(Err(error)) => {
            counters.failed.fetch_add(1, Relaxed);
            tracing::debug!("can't reach {target} for a client on this host: {error}");
            return;
        }
        Err(_) => {
            counters.failed.fetch_add(1, Relaxed);
            tracing::debug!("{target} took no connection within {CONNECT_TIMEOUT:?}");
            return;
        }
    };
    // Whoever wrote in small pieces meant it: don't add the delay of Nagle's algorithm.
    let _ = flow.client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    match copy_both(&mut flow.client, server, counters).await {
        Ok(()) => flow.complete = true,
        Err(error) => tracing::debug!("a connection to {target} was cut: {error}"),
    }
    drop(flow);
    drop(slot);
}

/// Copies in both directions until both have ended.
async fn copy_both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    counters: &Counters,
) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        copy(from_client, to_server, &counters.bytes_in),
        copy(from_server, to_client, &counters.bytes_out),
    )?;
    Ok(())
}

/// Copies until `from` ends, and then tells `to` so: the other direction may go on.
async fn copy(
    from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    moved: &AtomicU64,
) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;

    // What the other side would not take at once.
    let mut rest = Vec::new();
    loop {
        from.readable().await?;
        let read = SCRATCH.with_borrow_mut(|buffer| {
            let length = match from.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                outcome => outcome?,
            };
            let data = &buffer[..length];
            let written = match to.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                outcome => outcome?,
            };
            rest.extend_from_slice(&data[written..]);
            io::Result::Ok(Some(length))
        })?;
        match read {
            None => continue,
            Some(0) => return to.shutdown().await,
            Some(length) => {
                if !rest.is_empty() {
                    to.write_all(&rest).await?;
                    rest = Vec::new();
                }
                moved.fetch_add(length as u64, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
