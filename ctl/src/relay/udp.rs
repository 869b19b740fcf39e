//! The UDP half of the relay: who the clients are, and datagrams there and back.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::owner::{Of, Owner};
use super::slots::{Share, Slot, slots};
use super::target::Reach;
use super::{Active, Common, Counters, SCRATCH, Target};

/// Clients of one published port at the same time.
pub(super) const MAX_CLIENTS: usize = 1024;

/// Datagrams to read at one go before other tasks get their turn.
const BURST: usize = 64;

/// A pause after an error that is no reason to give up, so that none can make a task spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Who talks to us, and by which of our addresses. A client that sends to two of them has two
/// conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    address: SocketAddr,
    /// The address that it sent to, and for a link-local one the interface; `None` if the kernel
    /// would not say.
    dialled: Option<(IpAddr, u32)>,
}

/// A client's way to the container.
struct Path {
    /// Connected, so that it hears from the container alone, and of its ICMP errors.
    upstream: UdpSocket,
    client: Client,
    /// When a datagram last went either way: milliseconds since the relay started.
    last_active: AtomicU64,
    active: Active,
    slot: Slot,
}

/// How long clients are remembered, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) idle: Duration,
    pub(super) max_clients: usize,
}

/// Has the kernel tell of every datagram which address it was sent to.
pub(super) fn ask_for_destinations(socket: &std::net::UdpSocket) -> io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => setsockopt(socket, Ipv4PacketInfo, &true)?,
        // For IPv4 clients of a dual-stack socket too, with mapped addresses.
        SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// A published UDP socket.
pub(super) struct Server {
    socket: Arc<UdpSocket>,
    target: Target,
    terms: Terms,
    started: Instant,
    local_port: u16,
}

impl Server {
    /// For a socket that was [asked for destinations](ask_for_destinations).
    pub(super) fn new(socket: Arc<UdpSocket>, target: Target, terms: Terms) -> Server {
        Server {
            local_port: socket.local_addr().map_or(0, |address| address.port()),
            socket,
            target,
            terms,
            started: Instant::now(),
        }
    }

    pub(super) async fn serve(self, common: Arc<Common>, stopped: oneshot::Receiver<()>) {
        let mut tasks = JoinSet::new();
        tokio::select! {
            _ = stopped => {}
            () = self.receive_all(&common, &mut tasks) => {}
        }
        drop(self);
        tasks.shutdown().await;
    }

    /// Never ends by itself.
    async fn receive_all(&self, common: &Arc<Common>, tasks: &mut JoinSet<Client>) {
        let counters = &common.counters;
        let mut paths: HashMap<Client, (Arc<Path>, AbortHandle)> = HashMap::new();
        loop {
            let ready = tokio::select! {
                ready = self.socket.readable() => ready,
                Some(ended) = tasks.join_next_with_id() => {
                    // The client may have a newer path by now.
                    if let Ok((id, client)) = ended
                        && paths.get(&client).is_some_and(|(_, task)| task.id() == id)
                    {
                        paths.remove(&client);
                    }
                    continue;
                }
            };
            if let Err(error) = ready {
                tracing::warn!("can't receive datagrams for {}: {error}", self.target);
                sleep(ERROR_PAUSE).await;
                continue;
            }
            let outcome = SCRATCH.with_borrow_mut(|buffer| {
                for _ in 0..BURST {
                    let (length, client) = receive(&self.socket, buffer)?;
                    if !common.allows(client.address) {
                        counters.refused.fetch_add(1, Relaxed);
                        continue;
                    }
                    let Some(path) = self.path(client, &mut paths, common, tasks) else {
                        counters.dropped.fetch_add(1, Relaxed);
                        continue;
                    };
                    path.last_active.store(self.elapsed(), Relaxed);
                    path.slot.touch();
                    match send(&path.upstream, &buffer[..length], counters) {
                        Ok(()) => counters.bytes_in.fetch_add(length as u64, Relaxed),
                        Err(error) => {
                            // Its interface may have been made again, which the socket is not
                            // bound to: the next datagram opens another one.
                            if error.kind() != io::ErrorKind::WouldBlock
                                && let Some((_, task)) = paths.remove(&client)
                            {
                                task.abort();
                            }
                            counters.dropped.fetch_add(1, Relaxed)
                        }
                    };
                }
                io::Result::Ok(())
            });
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    tracing::debug!("receiving datagrams for {}: {error}", self.target);
                    sleep(ERROR_PAUSE).await;
                }
                _ => {}
            }
        }
    }

    /// The client's path, which is made if it is new.
    fn path(
        &self,
        client: Client,
        paths: &mut HashMap<Client, (Arc<Path>, AbortHandle)>,
        common: &Arc<Common>,
        tasks: &mut JoinSet<Client>,
    ) -> Option<Arc<Path>> {
        let counters = &common.counters;
        if let Some((path, _)) = paths.get(&client) {
            // One whose time has just run out goes on in a new path; its task may be gone.
            if self.remaining(path).is_some() {
                return Some(path.clone());
            }
            if let Some((_, task)) = paths.remove(&client) {
                task.abort();
            }
        }
        if paths.len() >= self.terms.max_clients.max(1) {
            evict(paths, counters);
        }
        let here = SocketAddr::new(
            client
                .dialled
                .map_or(unspecified_like(client.address), |(ip, _)| ip),
            self.local_port,
        );
        let share = Share {
            port: common.id,
            owner: Owner::of(Of::Udp, client.address, here),
        };
        let slot = slots().take(share).or_else(|| {
            evict(paths, counters);
            slots().take(share)
        });
        let target = self.target.for_client(client.address);
        let opened = slot.and_then(|slot| match connect(target) {
            Ok(upstream) => Some((upstream, slot)),
            Err(error) => {
                tracing::debug!("can't reach {target} for a client on this host: {error}");
                None
            }
        });
        let Some((upstream, slot)) = opened else {
            counters.total.fetch_add(1, Relaxed);
            counters.failed.fetch_add(1, Relaxed);
            return None;
        };
        let path = Arc::new(Path {
            upstream,
            client,
            last_active: AtomicU64::new(self.elapsed()),
            active: Active::new(common),
            slot,
        });
        let answering = Answering {
            path: path.clone(),
            socket: self.socket.clone(),
            idle: self.terms.idle,
            started: self.started,
        };
        let task = tasks.spawn(answering.answer());
        paths.insert(client, (path.clone(), task));
        Some(path)
    }

    fn remaining(&self, path: &Path) -> Option<Duration> {
        remaining(path, self.terms.idle, self.started)
    }

    fn elapsed(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Forgets the client that has been silent for longest.
fn evict(paths: &mut HashMap<Client, (Arc<Path>, AbortHandle)>, counters: &Counters) {
    let oldest = paths
        .values()
        .min_by_key(|(path, _)| path.last_active.load(Relaxed));
    if let Some(client) = oldest.map(|(path, _)| path.client)
        && let Some((_, task)) = paths.remove(&client)
    {
        task.abort();
        counters.evicted.fetch_add(1, Relaxed);
    }
}

/// How long a path may still stay silent; `None` when its time has run out.
fn remaining(path: &Path, idle: Duration, started: Instant) -> Option<Duration> {
    let last = Duration::from_millis(path.last_active.load(Relaxed));
    (last + idle)
        .checked_sub(started.elapsed())
        .filter(|left| !left.is_zero())
}

/// The way back, one task a client.
struct Answering {
    path: Arc<Path>,
    socket: Arc<UdpSocket>,
    idle: Duration,
    started: Instant,
}

impl Answering {
    /// Passes the container's datagrams on until the path has been idle for too long.
    async fn answer(self) -> Client {
        let path = &self.path;
        let counters = path.active.counters();
        let mut banned = pin!(path.active.0.banned(path.client.address));
        let mut wake = Instant::now() + self.idle;
        loop {
            tokio::select! {
                _ = path.upstream.readable() => {}
                () = &mut banned => return path.client,
                () = path.slot.displaced() => {
                    counters.evicted.fetch_add(1, Relaxed);
                    return path.client;
                }
                () = sleep_until(wake) => match remaining(path, self.idle, self.started) {
                    Some(left) => {
                        wake = Instant::now() + left;
                        continue;
                    }
                    None => return path.client,
                },
            }
            let outcome = SCRATCH.with_borrow_mut(|buffer| {
                for _ in 0..BURST {
                    let length = path.upstream.try_recv(buffer)?;
                    path.last_active
                        .store(self.started.elapsed().as_millis() as u64, Relaxed);
                    match reply(&self.socket, &path.client, &buffer[..length]) {
                        Ok(()) => counters.bytes_out.fetch_add(length as u64, Relaxed),
                        Err(_) => counters.dropped.fetch_add(1, Relaxed),
                    };
                }
                io::Result::Ok(())
            });
            match outcome {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    counters.dropped.fetch_add(1, Relaxed);
                    sleep(ERROR_PAUSE).await;
                }
                _ => {}
            }
        }
    }
}

/// An address of the family of `client` that stands for none.
fn unspecified_like(client: SocketAddr) -> IpAddr {
    match client.ip().to_canonical() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn connect(target: Reach) -> io::Result<UdpSocket> {
    let any: IpAddr = match target.address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    if let Some(device) = target.device {
        SockRef::from(&socket).bind_device(Some(device.as_bytes()))?;
    }
    socket.connect(target.address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Not `try_send`: that asks the runtime first whether the socket is writable, and it doesn't
/// know that yet of one that was just made.
fn send(upstream: &UdpSocket, data: &[u8], counters: &Counters) -> io::Result<()> {
    let send = || {
        let data = [IoSlice::new(data)];
        sendmsg::<()>(
            upstream.as_raw_fd(),
            &data,
            &[],
            MsgFlags::MSG_DONTWAIT,
            None,
        )
    };
    match send() {
        // The container's answer to an earlier datagram, that nobody listens there. This one has
        // not been sent yet. There is no ICMP error that we could send on in its name.
        Err(Errno::ECONNREFUSED) => {
            counters.dropped.fetch_add(1, Relaxed);
            send()?
        }
        outcome => outcome?,
    };
    Ok(())
}

/// One datagram, and whom it is from. `buffer` must hold the largest.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    socket.try_io(Interest::READABLE, || {
        let mut data = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), flags)?;
        let address = message
            .address
            .as_ref()
            .and_then(socket_address)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a datagram without a source address",
                )
            })?;
        let mut dialled = None;
        for control in message.cmsgs()? {
            match control {
                // Not ipi_addr: to a broadcast that would be the broadcast address, which nothing
                // can be sent from.
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let local = Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr));
                    dialled = Some((IpAddr::V4(local), 0));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    // Any other address says by itself where it is.
                    let scope = if local.is_unicast_link_local() {
                        info.ipi6_ifindex
                    } else {
                        0
                    };
                    dialled = Some((IpAddr::V6(local), scope));
                }
                _ => {}
            }
        }
        Ok((message.bytes, Client { address, dialled }))
    })
}

/// Sends to a client from the address that it knows us by.
fn reply(socket: &UdpSocket, client: &Client, data: &[u8]) -> io::Result<()> {
    let data = [IoSlice::new(data)];
    let to = SockaddrStorage::from(client.address);
    let send = |control: &[ControlMessage<'_>]| {
        sendmsg(
            socket.as_raw_fd(),
            &data,
            control,
            MsgFlags::MSG_DONTWAIT,
            Some(&to),
        )
    };
    match client.dialled {
        Some((IpAddr::V4(local), _)) => {
            send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: local.to_bits().to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            })])
        }
        Some((IpAddr::V6(local), scope)) => {
            send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.octets(),
                },
                ipi6_ifindex: scope,
            })])
        }
        None => send(&[]),
    }?;
    Ok(())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        Some(SocketAddr::V4(SocketAddrV4::from(*v4)))
    } else {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6)))
    }
}
