//! Ports' input and output: every system call of the data path is in this directory.
//!
//! A port of the switch has one or more [`Queue`]s, each a file descriptor. One worker receives
//! from a queue; any worker may transmit on any queue. Nothing here ever blocks.
//!
//! | file | what |
//! |---|---|
//! | `tap.rs` | TAP devices: a container's `eth0`, the host's `pontoon0` |
//! | `packet.rs` | AF_PACKET: the host end of a veth pair, the uplink |
//! | `large.rs` | frames larger than a buffer, from AF_PACKET |
//! | `memory.rs` | ports in memory, for tests |
//! | `filter.rs` | the classic BPF programs that ports and reservations attach |
//! | `reserve.rs` | sockets that hold ports of the host, silence the kernel, serve loopback |
//! | `poll.rs` | waiting for queues |
//! | `halt.rs` | keeping idle CPUs from halting |
//! | `sys.rs` | the one place with `unsafe` |

use std::fmt::Display;
use std::io;
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::frame::Frame;

pub mod filter;
mod halt;
mod large;
mod memory;
mod packet;
mod poll;
mod reserve;
mod silence;
mod sys;
mod tap;

pub(crate) use halt::NoHalt;
pub use libc::sock_filter;
pub use memory::{MemoryPeer, MemoryQueue, memory_port};
pub use packet::{PacketOptions, PacketSocket, open_packet};
pub use poll::Poller;
pub(crate) use poll::{Sleeper, Waker};
pub use reserve::{
    ReservedPorts, bind_udp, has_ipv6, hold_protocols, hold_sctp, listen_tcp, replace_filter,
    reserve,
};
pub(crate) use silence::Silence;
pub(crate) use sys::set_cpu_turn;
pub use sys::{
    close_on_exec_from, filter_system_calls, signal_descriptor, signal_process, switch_feature_off,
};
pub use tap::{TapOptions, TapQueue, open_tap};

/// One queue of a port.
#[derive(Debug)]
pub enum Queue {
    Tap(TapQueue),
    Packet(PacketSocket),
    Memory(MemoryQueue),
}

/// What became of the frames of one [`Queue::transmit`]; the fields add up to the frames given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Taken by the kernel.
    pub sent: usize,
    /// Dropped, because a queue or buffer behind the port had no room.
    pub full: usize,
    /// Dropped, because the interface is down or gone.
    pub down: usize,
    /// Refused by the kernel: larger than the interface's MTU without being a super-frame, shorter
    /// than an Ethernet header, or with a vnet header that contradicts the frame.
    pub rejected: usize,
}

impl AddAssign for Sent {
    fn add_assign(&mut self, other: Sent) {
        self.sent += other.sent;
        self.full += other.full;
        self.down += other.down;
        self.rejected += other.rejected;
    }
}

impl Queue {
    /// The descriptor that becomes readable when frames wait, for a [`Poller`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Queue::Tap(queue) => queue.as_fd(),
            Queue::Packet(socket) => socket.as_fd(),
            Queue::Memory(queue) => queue.as_fd(),
        }
    }

    /// Fills `frames[..n]` with the frames that wait and returns `n`; 0 when none does.
    ///
    /// An interface that is down for now has no frames (`Ok(0)`) and resumes by itself. A frame that
    /// the port could not read whole, or that is larger than [`MAX_FRAME`](crate::frame::MAX_FRAME),
    /// comes as an empty frame, so that the data path names and counts it.
    ///
    /// # Errors
    ///
    /// The port is gone for good: the interface was removed or moved to another namespace, or its
    /// namespace died. What the kernel says of it (Linux 6.1 and 6.18):
    ///
    /// - TAP: the descriptor polls with EPOLLERR, read(2) and write(2) fail with EBADFD. A TAP that
    ///   is down polls as idle; write(2) fails with EIO.
    /// - AF_PACKET: recvmmsg(2) fails with ENETDOWN *once*, whether the interface went down or away,
    ///   and with EAGAIN from then on; getsockname(2) tells the two apart by an ifindex of -1.
    ///   `receive` asks as soon as no frame waits, but the one wake-up may come before the interface,
    ///   taken down first, goes away: call `receive` or [`is_gone`](Self::is_gone) for idle queues
    ///   now and then. sendmmsg(2) fails with ENETDOWN while down, with ENXIO once gone.
    pub fn receive(&self, frames: &mut [Frame]) -> io::Result<usize> {
        self.receive_some(frames, frames.len())
    }

    /// As [`receive`](Self::receive), but reads so many at the most. What a larger one was cut into
    /// counts as one of them, and takes several of `frames`.
    pub(crate) fn receive_some(&self, frames: &mut [Frame], most: usize) -> io::Result<usize> {
        let most = most.min(frames.len());
        match self {
            Queue::Tap(queue) => queue.receive(&mut frames[..most]),
            Queue::Packet(socket) => socket.receive(frames, most),
            Queue::Memory(queue) => queue.receive(&mut frames[..most]),
        }
    }

    /// Transmits frames in their order, as they are: vnet header, partial checksums and all.
    pub fn transmit(&self, frames: &[&Frame]) -> Sent {
        match self {
            Queue::Tap(queue) => queue.transmit(frames),
            Queue::Packet(socket) => socket.transmit(frames),
            Queue::Memory(queue) => queue.transmit(frames),
        }
    }

    /// Can the interface have gone unnoticed? If not, whoever waits for frames is woken, and told by
    /// [`receive`](Self::receive).
    pub(crate) fn may_be_gone(&self) -> bool {
        match self {
            // EPOLLERR lasts.
            Queue::Tap(_) => false,
            Queue::Packet(socket) => socket.is_down(),
            Queue::Memory(_) => true,
        }
    }

    /// Is the interface gone for good? One system call; for a periodic check of idle queues.
    pub fn is_gone(&self) -> bool {
        match self {
            Queue::Tap(queue) => queue.is_gone(),
            Queue::Packet(socket) => socket.is_gone(),
            Queue::Memory(queue) => queue.is_gone(),
        }
    }
}

/// An error of the same kind that also says what failed.
fn context(what: impl Display, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The errno of an error of a system call; `UnknownErrno` of any other.
fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
