//! AF_PACKET sockets: the host end of a container's veth pair, and the uplink.
//!
//! Such a socket sees what the interface receives before netfilter and tc do; the host's stack sees
//! it too. On a veth's host end without an address the stack drops it. On the uplink a filter keeps
//! the host's own traffic out of the switch, and reservations (`reserve.rs`) keep the switch's
//! traffic from the host's stack.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use libc::sock_filter;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::filter::drop_all_filter;
use super::large::{self, Large};
use super::{Sent, context, errno, sys};
use crate::frame::{ETHERNET_HEADER, Frame};

/// How to open an interface.
#[derive(Clone, Debug)]
pub struct PacketOptions {
    /// The classic BPF program that decides which frames to receive; all without one. It sees the
    /// frame from its Ethernet header on.
    pub filter: Option<Vec<sock_filter>>,
    /// Bytes of kernel memory, bookkeeping included, that waiting frames of a queue may take, and
    /// as much for frames not yet sent. A super-frame takes about 70 KiB. The kernel grants less to
    /// a process without CAP_NET_ADMIN.
    pub buffer: usize,
    /// The interface's frames are IP packets without an Ethernet header. The switch sees one, with
    /// MACs of zeros.
    pub headerless: bool,
}

impl Default for PacketOptions {
    fn default() -> PacketOptions {
        PacketOptions {
            filter: None,
            buffer: 8 << 20,
            headerless: false,
        }
    }
}

/// One queue of an interface: an AF_PACKET socket with vnet headers, bound to it.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    ifindex: u32,
    headerless: bool,
    /// Room for frames of any size, once there was one too large for a buffer. From then on each is
    /// read by itself and copied, which others are spared.
    large: OnceLock<Mutex<Large>>,
    /// One of the constants below.
    link: AtomicU8,
    /// Frames the kernel dropped because nobody read them in time; the kernel's own counter
    /// restarts with each look at it.
    drops: AtomicU64,
}

/// The interface runs, as far as is known.
const UP: u8 = 0;
/// The kernel reported it down; frames from before may still wait.
const WENT_DOWN: u8 = 1;
/// As above, and no frame waits: the next frame means that it runs again.
const DOWN: u8 = 2;

/// Opens `queues` sockets on the interface `ifindex` of the calling thread's network namespace. The
/// kernel spreads flows over them by a hash that is the same for both directions of a flow.
///
/// # Errors
///
/// No interface has this index; it is down, and the kernel an older one that groups no queues of such
/// an interface (6.1 is, 6.18 is not); CAP_NET_RAW is missing; the kernel is older than 4.20, whose sockets
/// hear their own frames; the filter is not a valid program.
pub fn open_packet(
    ifindex: u32,
    queues: usize,
    options: PacketOptions,
) -> io::Result<Vec<PacketSocket>> {
    // The sockets of a group must not see a frame each before the last has joined, nor anything
    // that the filter forbids: so a filter that drops all goes first, the real one last.
    let sockets: Vec<PacketSocket> = (0..queues.max(1))
        .map(|_| open_socket(ifindex, &options))
        .collect::<io::Result<_>>()?;
    if sockets.len() > 1 {
        join_fanout(&sockets)?;
    }
    for socket in &sockets {
        match &options.filter {
            Some(filter) => socket.set_filter(filter)?,
            None => socket.clear_filter()?,
        }
    }
    Ok(sockets)
}

fn open_socket(ifindex: u32, options: &PacketOptions) -> io::Result<PacketSocket> {
    let PacketOptions {
        buffer, headerless, ..
    } = *options;
    let on = |what: &str| format!("AF_PACKET socket on interface {ifindex}: {what}");
    // Protocol 0: the socket hears nothing until it is bound.
    let socket =
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).map_err(|error| {
            let advice = match errno(&error) {
                Errno::EPERM => "open it; CAP_NET_RAW is needed in this network namespace",
                Errno::EAFNOSUPPORT => "open it; this kernel has no AF_PACKET",
                _ => "open it",
            };
            context(on(advice), error)
        })?;
    socket
        .set_nonblocking(true)
        .map_err(|error| context(on("make it non-blocking"), error))?;
    let fd = socket.as_fd();
    let flags = [
        (libc::PACKET_VNET_HDR, "PACKET_VNET_HDR"),
        (libc::PACKET_AUXDATA, "PACKET_AUXDATA"),
        (
            libc::PACKET_IGNORE_OUTGOING,
            "PACKET_IGNORE_OUTGOING (Linux 4.20)",
        ),
    ];
    for (option, name) in flags {
        sys::set_option(fd, libc::SOL_PACKET, option, 1)
            .map_err(|error| context(on(name), error))?;
    }
    // Beyond rmem_max for CAP_NET_ADMIN, up to it for others. A small buffer is no error.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        socket.set_recv_buffer_size(buffer).ok();
    }
    if setsockopt(&socket, sockopt::SndBufForce, &buffer).is_err() {
        socket.set_send_buffer_size(buffer).ok();
    }
    sys::attach_filter(fd, &drop_all_filter())
        .map_err(|error| context(on("attach a filter"), error))?;
    let index = i32::try_from(ifindex).unwrap_or(-1);
    if index <= 0 {
        // The kernel would take 0 for every interface.
        return Err(context(on("bind it"), Errno::ENODEV));
    }
    sys::bind_packet(fd, index).map_err(|error| context(on("bind it"), error))?;
    Ok(PacketSocket {
        socket,
        ifindex,
        headerless,
        large: OnceLock::new(),
        link: AtomicU8::new(UP),
        drops: AtomicU64::new(0),
    })
}

/// PACKET_FANOUT_FLAG_IGNORE_OUTGOING of linux/if_packet.h, since Linux 5.12. Without it a group
/// sees what others send by the interface, PACKET_IGNORE_OUTGOING of its sockets or not; the other
/// sockets of an uplink are such others.
const IGNORE_OUTGOING: u32 = 0x4000;

/// Makes one PACKET_FANOUT group of the sockets, with an id that the kernel finds unused.
fn join_fanout(sockets: &[PacketSocket]) -> io::Result<()> {
    join_fanout_with(sockets, IGNORE_OUTGOING).or_else(|_| join_fanout_with(sockets, 0))
}

fn join_fanout_with(sockets: &[PacketSocket], all: u32) -> io::Result<()> {
    let mut group = 0;
    for (index, socket) in sockets.iter().enumerate() {
        let flags = if index == 0 {
            libc::PACKET_FANOUT_FLAG_UNIQUEID
        } else {
            0
        };
        let kind = libc::PACKET_FANOUT_HASH | flags | all;
        let fd = socket.as_fd();
        sys::set_option(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            group | (kind << 16) as i32,
        )
        .and_then(|()| sys::option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT))
        .map(|value| group = value & 0xffff)
        .map_err(|error| {
            let advice = match errno(&error) {
                // Linux 6.1 wants the socket running, 6.18 does not.
                Errno::EINVAL => "; bring the interface up first",
                _ => "",
            };
            let ifindex = socket.ifindex;
            context(
                format!(
                    "interface {ifindex}: make a group of {} queues{advice}",
                    sockets.len()
                ),
                error,
            )
        })?;
    }
    Ok(())
}

impl PacketSocket {
    /// The interface's index, as it was opened.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Replaces the filter of this queue in one step; each queue of an interface has its own.
    ///
    /// # Errors
    ///
    /// The program is not valid (EINVAL), or too large for `net.core.optmem_max` (ENOMEM).
    pub fn set_filter(&self, filter: &[sock_filter]) -> io::Result<()> {
        sys::attach_filter(self.as_fd(), filter).map_err(|error| {
            let what = format!("interface {}: attach a filter", self.ifindex);
            match errno(&error) {
                Errno::ENOMEM => context(format!("{what}; raise net.core.optmem_max"), error),
                _ => context(what, error),
            }
        })
    }

    fn clear_filter(&self) -> io::Result<()> {
        sys::set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0).map_err(
            |error| {
                context(
                    format!("interface {}: clear the filter", self.ifindex),
                    error,
                )
            },
        )
    }

    /// Frames that the kernel dropped since the socket was opened, because its buffer was full.
    pub fn kernel_drops(&self) -> u64 {
        let new = sys::packet_drops(self.as_fd()).unwrap_or(0);
        self.drops.fetch_add(u64::from(new), Ordering::Relaxed) + u64::from(new)
    }

    /// Reads so many frames at the most. Those cut from a large one count as one, but none is read
    /// for which there may be no room.
    pub(super) fn receive(&self, frames: &mut [Frame], most: usize) -> io::Result<usize> {
        let (mut count, mut left) = (0, most);
        while left > 0 && count < frames.len() {
            let free = &mut frames[count..];
            let (wanted, read) = match self.large.get() {
                None => {
                    let wanted = left.min(free.len()).min(sys::BATCH);
                    let read = self.read_batch(&mut free[..wanted]);
                    (wanted, read.map(|read| (read, read)))
                }
                Some(_) if count > 0 && free.len() < large::MOST_PIECES => break,
                Some(large) => {
                    let read = self.read_large(&mut large.lock(), free);
                    (1, read.map(|pieces| (1, pieces)))
                }
            };
            match read {
                Ok((read, pieces)) => {
                    count += pieces;
                    left -= read;
                    if read < wanted {
                        break;
                    }
                }
                Err(error) => match errno(&error) {
                    Errno::EINTR => {}
                    Errno::EAGAIN => break,
                    // Once for each time the interface goes down; frames may wait behind it.
                    Errno::ENETDOWN => self.link.store(WENT_DOWN, Ordering::Relaxed),
                    // A super-frame of a kind that the header can't express (SCTP); the kernel has
                    // freed it (packet_rcv_vnet). The frames behind it may wait.
                    Errno::EINVAL => {
                        frames[count].space_mut();
                        count += 1;
                        left -= 1;
                    }
                    _ if count > 0 => break,
                    _ => {
                        return Err(context(
                            format!("read from interface {}", self.ifindex),
                            error,
                        ));
                    }
                },
            }
        }
        match self.link.load(Ordering::Relaxed) {
            UP => {}
            DOWN if count > 0 => self.link.store(UP, Ordering::Relaxed),
            _ if count > 0 => {}
            _ if self.is_gone() => {
                return Err(context(
                    format!("interface {} is gone", self.ifindex),
                    Errno::ENODEV,
                ));
            }
            _ => self.link.store(DOWN, Ordering::Relaxed),
        }
        Ok(count)
    }

    /// Reads frames into their own buffers. The first one that is too large for that is lost, and
    /// makes room for the next.
    fn read_batch(&self, frames: &mut [Frame]) -> io::Result<usize> {
        let received = sys::receive_batch(self.as_fd(), frames, self.headerless)?;
        let mut is_large = false;
        for frame in &mut frames[..received] {
            frame.clear_data_valid();
            is_large |= frame.is_empty() || frame.len() > ETHERNET_HEADER + large::LARGEST_PACKET;
        }
        // Interfaces without Ethernet headers have no such frames unless their GRO is raised.
        if is_large && !self.headerless {
            self.large.get_or_init(|| Mutex::new(Large::new()));
        }
        Ok(received)
    }

    /// Reads one frame of any size, and returns how many it was cut into.
    fn read_large(&self, large: &mut Large, frames: &mut [Frame]) -> io::Result<usize> {
        let (bytes, tag) = sys::receive_one(self.as_fd(), large.space_mut())?;
        let pieces = large.divide(bytes, frames);
        for frame in &mut frames[..pieces] {
            frame.clear_data_valid();
            if let Some((tpid, tci)) = tag {
                frame.insert_vlan(tpid, tci);
            }
        }
        Ok(pieces)
    }

    pub(super) fn transmit(&self, frames: &[&Frame]) -> Sent {
        let mut sent = Sent::default();
        let mut rest = frames;
        while !rest.is_empty() {
            let batch = match self.headerless {
                false => sys::send_batch(self.as_fd(), rest),
                true => sys::send_packets(self.as_fd(), self.ifindex, rest),
            };
            let error = match batch {
                Ok(count) => {
                    sent.sent += count;
                    rest = &rest[count..];
                    continue;
                }
                Err(error) => errno(&error),
            };
            // The error is of the first frame of the rest.
            match error {
                Errno::EINTR => continue,
                // No room in the socket's send buffer: none for those behind it either.
                Errno::EAGAIN => {
                    sent.full += rest.len();
                    break;
                }
                Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV => {
                    sent.down += rest.len();
                    break;
                }
                // A queueing discipline, or the other end of a veth, dropped this one.
                Errno::ENOBUFS | Errno::ENOMEM => sent.full += 1,
                _ => sent.rejected += 1,
            }
            rest = &rest[1..];
        }
        sent
    }

    /// Has the kernel reported it down, and not shown otherwise since?
    pub(super) fn is_down(&self) -> bool {
        self.link.load(Ordering::Relaxed) != UP
    }

    pub(super) fn is_gone(&self) -> bool {
        // packet_notifier sets the index to -1 when the interface is unregistered.
        !sys::bound_ifindex(self.as_fd()).is_ok_and(|ifindex| ifindex > 0)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
