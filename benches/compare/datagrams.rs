//! UDP in batches: `sendmmsg` and `recvmmsg`, as one system call a datagram would be the limit.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use crate::agent::Tally;

/// Datagrams a system call.
const BATCH: usize = 64;
/// No datagram is longer.
const LONGEST: usize = 2048;
/// The receiver's queue, bytes: it shall be the path that loses, not a late wake-up.
const QUEUE: usize = 8 << 20;
/// Silence for this long is the end.
const SILENCE: Duration = Duration::from_millis(400);
/// For the first datagram.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends datagrams of `size` bytes to the connected peer for a while.
///
/// # Errors
///
/// The socket refuses for another reason than a full queue or an absent peer.
pub(crate) fn send(socket: &UdpSocket, size: usize, time: Duration) -> Result<()> {
    let payload = vec![0x5a; size.min(LONGEST)];
    let slices = [[IoSlice::new(&payload)]; BATCH];
    let addresses = [None::<SockaddrIn>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let start = Instant::now();
    while start.elapsed() < time {
        let flags = MsgFlags::empty();
        let fd = socket.as_raw_fd();
        match sendmmsg(fd, &mut headers, &slices, addresses, [], flags) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("send datagrams"),
        }
    }
    Ok(())
}

/// Counts datagrams until none comes any more; none at all is a tally of nothing.
///
/// # Errors
///
/// The socket fails.
pub(crate) fn receive(socket: &UdpSocket, window: Duration) -> Result<Tally> {
    // Beyond rmem_max, as CAP_NET_ADMIN allows; what can't be had is done without.
    let _ = setsockopt(socket, sockopt::RcvBufForce, &QUEUE);
    let mut buffers = vec![[0; LONGEST]; BATCH];
    let mut tally = Tally::default();
    let mut start = None;
    socket.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut slices: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| [IoSliceMut::new(buffer)])
            .collect();
        // Waits for one, and takes what else is there.
        let flags = MsgFlags::MSG_WAITFORONE;
        let received = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None);
        let count = match received {
            Ok(messages) => messages.count(),
            Err(Errno::EAGAIN) => return Ok(tally),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("receive datagrams"),
        };
        if start.is_none() {
            socket.set_read_timeout(Some(SILENCE))?;
        }
        let start = *start.get_or_insert_with(Instant::now);
        tally.count(count as u64, start.elapsed(), window);
    }
}
