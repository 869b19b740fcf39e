//! The TCP half of the relay: accepting, and bytes there and back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::owner::{Of, Owner};
use super::pipe::Pipe;
use super::slots::{Share, Slot, slots};
use super::target::Reach;
use super::{Active, Common, SCRATCH, Target};

/// How long a container may take to accept a connection. A host on the same machine answers at
/// once; this covers one whose accept queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses after a failed accept, the first and the longest: out of descriptors, another try
/// at once would fail alike.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Bytes that have come at once in a transfer that is worth a pipe.
const BULK: usize = 32 * 1024;

/// Carries every connection that `listener` accepts, until it is told to stop.
pub(super) async fn serve(
    listener: Arc<TcpListener>,
    target: Target,
    common: Arc<Common>,
    stopped: oneshot::Receiver<()>,
) {
    let mut flows = JoinSet::new();
    tokio::select! {
        _ = stopped => {}
        () = accept(&listener, target, &common, &mut flows) => {}
    }
    drop(listener);
    flows.shutdown().await;
}

/// Never ends by itself.
async fn accept(
    listener: &TcpListener,
    target: Target,
    common: &Arc<Common>,
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
                if !common.allows(address) {
                    common.counters.refused.fetch_add(1, Relaxed);
                    // Fails only if the connection is gone already.
                    let _ = client.set_zero_linger();
                    continue;
                }
                let Some(slot) = slot_for(&client, address, common) else {
                    common.counters.total.fetch_add(1, Relaxed);
                    common.counters.failed.fetch_add(1, Relaxed);
                    let _ = client.set_zero_linger();
                    continue;
                };
                let target = target.for_client(address);
                let active = Active::new(common);
                flows.spawn(async move {
                    let common = active.0.clone();
                    tokio::select! {
                        () = carry(client, target, active, &slot) => {}
                        // The flow is dropped, and so reset.
                        () = common.banned(address) => {}
                        () = slot.displaced() => {
                            common.counters.evicted.fetch_add(1, Relaxed);
                        }
                    }
                });
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

/// A place for one more connection; none if its client has more than a share.
fn slot_for(client: &TcpStream, address: SocketAddr, common: &Common) -> Option<Slot> {
    let here = client.local_addr().ok()?;
    slots().take(Share {
        port: common.id,
        owner: Owner::of(Of::Tcp, address, here),
    })
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

async fn connect(target: Reach) -> io::Result<TcpStream> {
    let socket = match target.address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(device) = target.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.connect(target.address).await
}

/// Connects and copies; the connection counts and holds its slot for as long.
async fn carry(client: TcpStream, target: Reach, active: Active, slot: &Slot) {
    let mut flow = Flow {
        client,
        server: None,
        complete: false,
    };
    let counters = active.counters();
    let server = match timeout(CONNECT_TIMEOUT, connect(target)).await {
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
    match copy_both(&mut flow.client, server, &active, slot).await {
        Ok(()) => flow.complete = true,
        Err(error) => tracing::debug!("a connection to {target} was cut: {error}"),
    }
}

/// Copies in both directions until both have ended.
async fn copy_both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    active: &Active,
    slot: &Slot,
) -> io::Result<()> {
    let counters = active.counters();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        copy(from_client, to_server, &counters.bytes_in, slot),
        copy(from_server, to_client, &counters.bytes_out, slot),
    )?;
    Ok(())
}

/// Carries until `from` ends, and then tells `to` so: the other direction may go on. What comes in
/// small pieces is copied, which is as fast and needs no pipe.
async fn copy(
    from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    moved: &AtomicU64,
    slot: &Slot,
) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;

    let mut bulk = false;
    loop {
        from.readable().await?;
        let pipe = if bulk { Pipe::take() } else { None };
        let carried = match pipe {
            Some(pipe) => splice_some(from.as_ref(), to.as_ref(), pipe).await?,
            None => copy_some(from.as_ref(), to.as_ref()).await?,
        };
        match carried {
            None => continue,
            Some(0) => return to.shutdown().await,
            Some(length) => {
                bulk = length >= BULK;
                moved.fetch_add(length as u64, Relaxed);
                slot.touch();
            }
        }
    }
}

/// Copies what one read gives, and tells how much that is; none if nothing went after all.
///
/// Only what the other side takes is read: the rest waits in the kernel's buffer, whose size the
/// kernel bounds and shares out, so a receiver that is slow, or stopped, costs the daemon no
/// memory.
async fn copy_some(from: &TcpStream, to: &TcpStream) -> io::Result<Option<usize>> {
    let outcome = SCRATCH.with_borrow_mut(|buffer| {
        let peeked = from.try_io(Interest::READABLE, || {
            Ok(recv(from.as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?)
        });
        let length = match peeked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
            outcome => outcome?,
        };
        if length == 0 {
            return Ok(Step::Moved(0));
        }
        let written = match to.try_write(&buffer[..length]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Full),
            outcome => outcome?,
        };
        // Those are there, so it takes them all; without copying them (tcp(7), MSG_TRUNC).
        recv(
            from.as_raw_fd(),
            &mut buffer[..written],
            MsgFlags::MSG_TRUNC,
        )?;
        io::Result::Ok(Step::Moved(written))
    })?;
    match outcome {
        Step::Nothing => Ok(None),
        Step::Moved(length) => Ok(Some(length)),
        Step::Full => {
            to.writable().await?;
            Ok(None)
        }
    }
}

/// What one try to copy has done.
enum Step {
    Nothing,
    /// So many bytes went; 0 at the end of what there is.
    Moved(usize),
    /// The other side takes nothing now.
    Full,
}

/// As [`copy_some`], through a pipe.
async fn splice_some(
    from: &TcpStream,
    to: &TcpStream,
    mut pipe: Pipe,
) -> io::Result<Option<usize>> {
    let length = match from.try_io(Interest::READABLE, || pipe.fill(from)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        outcome => Some(outcome?),
    };
    while !pipe.is_empty() {
        match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            outcome => outcome?,
        }
    }
    pipe.give_back();
    Ok(length)
}
