//! TAP devices: a container's `eth0` and the host's own port.
//!
//! The descriptor stays with the daemon when the device moves to another namespace and is renamed
//! there, and a persistent device outlives the daemon, which attaches to it again by name.
//!
//! The namespace that counts is the one where `/dev/net/tun` is *opened*: TUNSETIFF looks for the
//! name there, and the open file holds a reference to it. So a device made on the host and moved
//! dies with its container's namespace, while a descriptor that adopts it from inside that
//! namespace keeps the namespace alive until it is closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::Mode;
use nix::unistd;

use super::{Sent, context, errno, sys};
use crate::frame::{Frame, MAX_FRAME, VNET_HEADER};

const DEVICE: &str = "/dev/net/tun";

/// The longest name of an interface, in bytes (IFNAMSIZ without its NUL).
const MAX_NAME: usize = 15;

/// How to open a TAP device.
#[derive(Clone, Copy, Debug, Default)]
pub struct TapOptions {
    /// The device outlives the process. Without it, an existing device's persistence is left as it
    /// is.
    pub persist: bool,
}

/// One queue of a TAP device with vnet headers. A read is one frame of the device's transmit side, a
/// write one frame of its receive side.
///
/// The kernel spreads flows over the queues, and a flow follows the queue that its other direction
/// was last written to.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
}

/// Opens `queues` queues of the TAP device `name` in the calling thread's network namespace: makes
/// the device, or attaches to an existing one that was made here before.
///
/// The device takes and gives super-frames with partial checksums. It comes up neither by itself nor
/// with an address.
///
/// # Errors
///
/// The name is not an interface's; no `/dev/net/tun` or no right to it; `name` is an interface of
/// another kind, or of another program that has not made it for many queues.
pub fn open_tap(name: &str, queues: usize, options: TapOptions) -> io::Result<Vec<TapQueue>> {
    check_name(name)?;
    let queues: Vec<TapQueue> = (0..queues.max(1))
        .map(|_| open_queue(name))
        .collect::<io::Result<_>>()?;
    if options.persist {
        queues[0].set_persist(true)?;
    }
    Ok(queues)
}

fn check_name(name: &str) -> io::Result<()> {
    let bad = |character: char| {
        // '%' would make the kernel number the device; ':' names an alias.
        matches!(character, '/' | ':' | '%' | '\0') || character.is_whitespace()
    };
    if name.is_empty() || name.len() > MAX_NAME || matches!(name, "." | "..") || name.contains(bad)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "'{name}' is not a name for a TAP device; use 1 to {MAX_NAME} bytes \
                 without '/', ':', '%' or blanks"
            ),
        ));
    }
    Ok(())
}

fn open_queue(name: &str) -> io::Result<TapQueue> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = fcntl::open(DEVICE, flags, Mode::empty()).map_err(|error| {
        let advice = match error {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
                "this kernel has no TUN/TAP driver, or the module tun is not loaded"
            }
            Errno::EACCES | Errno::EPERM => "make it readable and writable for this user",
            _ => "cannot open it",
        };
        context(
            format_args!("TAP device {name} needs {DEVICE}: {advice}"),
            error,
        )
    })?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    sys::tun_set_interface(fd.as_fd(), name, flags).map_err(|error| {
        let advice = match errno(&error) {
            Errno::EINVAL => {
                "an interface of this name exists that is not a TAP of many queues; \
                 remove it or choose another name"
            }
            Errno::EPERM => "CAP_NET_ADMIN is needed in this network namespace",
            Errno::EBUSY => "another program uses it",
            Errno::E2BIG => "it has as many queues as the kernel allows",
            _ => "the kernel refuses it",
        };
        context(format_args!("TAP device {name}: {advice}"), error)
    })?;
    sys::tun_set_vnet_header_size(fd.as_fd(), VNET_HEADER).map_err(|error| {
        context(
            format_args!("TAP device {name}: set the vnet header"),
            error,
        )
    })?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // Linux has the UDP flags since 6.2 and refuses flags it does not know.
    sys::tun_set_offload(fd.as_fd(), tcp | udp)
        .or_else(|_| sys::tun_set_offload(fd.as_fd(), tcp))
        .map_err(|error| context(format_args!("TAP device {name}: set offloads"), error))?;
    Ok(TapQueue { fd })
}

impl TapQueue {
    /// Does the device, all queues of it, outlive its last descriptor?
    ///
    /// # Errors
    ///
    /// The device is gone (EBADFD).
    pub fn set_persist(&self, persist: bool) -> io::Result<()> {
        sys::tun_set_persist(self.as_fd(), persist).map_err(|error| {
            context(
                format_args!("make a TAP device persistent ({persist})"),
                error,
            )
        })
    }

    /// The device's present name, in whatever namespace it is.
    ///
    /// # Errors
    ///
    /// The device is gone (EBADFD).
    pub fn interface_name(&self) -> io::Result<String> {
        sys::tun_interface_name(self.as_fd())
            .map_err(|error| context("ask for a TAP device's name", error))
    }

    pub(super) fn receive(&self, frames: &mut [Frame]) -> io::Result<usize> {
        let mut count = 0;
        while let Some(frame) = frames.get_mut(count) {
            match unistd::read(&self.fd, frame.space_mut()) {
                Ok(bytes) => {
                    // A read that fills the space was of a larger frame: leave it empty.
                    if (VNET_HEADER..=VNET_HEADER + MAX_FRAME).contains(&bytes) {
                        frame.set_len(bytes - VNET_HEADER);
                        frame.clear_data_valid();
                    }
                    count += 1;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // The frames before it are good; the next call meets the error again.
                Err(_) if count > 0 => break,
                // What tun_do_read says of a queue that is being detached.
                Err(Errno::EFAULT | Errno::EBADFD) => {
                    return Err(context("the TAP device is gone", Errno::EBADFD));
                }
                Err(error) => return Err(context("read from a TAP device", error)),
            }
        }
        Ok(count)
    }

    pub(super) fn transmit(&self, frames: &[&Frame]) -> Sent {
        let mut sent = Sent::default();
        for frame in frames {
            let result = loop {
                match unistd::write(&self.fd, frame.raw()) {
                    Err(Errno::EINTR) => {}
                    result => break result,
                }
            };
            match result {
                Ok(_) => sent.sent += 1,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => sent.full += 1,
                // tun_get_user: EIO when the device is not up, EBADFD when it is gone.
                Err(Errno::EIO | Errno::EBADFD) => sent.down += 1,
                Err(_) => sent.rejected += 1,
            }
        }
        sent
    }

    pub(super) fn is_gone(&self) -> bool {
        sys::tun_interface_name(self.as_fd()).is_err()
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["pontoon0", "eth0", "abcdefghijklmno"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "tap%d",
            "a b",
            "a:b",
            "abcdefghijklmnop",
            "a\0b",
        ] {
            let error = open_tap(bad, 1, TapOptions::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
