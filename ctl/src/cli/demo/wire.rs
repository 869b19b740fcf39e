//! The wire between the host and the outside host: a veth pair, or, where the kernel has none,
//! two TAPs with a thread that carries every frame from one to the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use switch::frame::Frame;
use switch::io::{Queue, TapOptions, open_tap};

use crate::api::PortKind;
use crate::link;
use crate::netns::Netns;

/// Both ends' interface, each in its own namespace: the daemon on the host finds it as the uplink.
pub(super) const INTERFACE: &str = "eth0";
/// TEST-NET-1 is a /24 (RFC 5737).
const PREFIX: u8 = 24;
const PREFIX_V6: u8 = 64;
/// Frames carried from one TAP to the other at a time.
const BATCH: usize = 16;
/// How soon the thread notices that it shall end, in milliseconds.
const STOP_POLL: u16 = 100;

pub(super) enum Wire {
    Veth,
    Taps {
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

/// One end: a namespace and the address of the interface there.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) netns: &'a Netns,
    pub(super) address: Ipv4Addr,
}

impl Wire {
    /// Connects the two namespaces, with addresses on both ends and the host's default route to
    /// the outside. Of the kind asked for, or whichever works, veth first.
    pub(super) fn lay(host: End<'_>, outside: End<'_>, kind: Option<PortKind>) -> Result<Wire> {
        let wire = match kind {
            Some(PortKind::Veth) => veth(host, outside)?,
            Some(PortKind::Tap) => taps(host, outside)?,
            None => match veth(host, outside) {
                Ok(wire) => wire,
                Err(no_veth) => match taps(host, outside) {
                    Ok(wire) => wire,
                    Err(no_tap) => bail!(
                        "this kernel has neither veth nor TAP for the demo's wire: {no_veth:#}; \
                         {no_tap:#}"
                    ),
                },
            },
        };
        for end in [host, outside] {
            let address = IpNet::new(end.address.into(), PREFIX)?;
            end.netns.run(|| {
                // Until it gets IPv6 addresses, the wire is silent.
                let _ = link::quiet_ipv6(INTERFACE, false);
                link::add_address(INTERFACE, address)?;
                link::set_up(INTERFACE)
            })??;
        }
        let gateway = IpAddr::from(outside.address);
        host.netns
            .run(|| link::set_default_route(gateway, INTERFACE))??;
        Ok(wire)
    }

    pub(super) fn kind(&self) -> PortKind {
        match self {
            Wire::Veth => PortKind::Veth,
            Wire::Taps { .. } => PortKind::Tap,
        }
    }
}

/// Gives both ends IPv6 addresses, and the host a default route to the outside.
pub(super) fn add_ipv6(
    (host, uplink): (&Netns, Ipv6Addr),
    (outside, address): (&Netns, Ipv6Addr),
) -> Result<()> {
    for (netns, address) in [(host, uplink), (outside, address)] {
        let address = IpNet::new(address.into(), PREFIX_V6)?;
        netns.run(|| {
            link::quiet_ipv6(INTERFACE, true)?;
            link::add_address(INTERFACE, address)
        })??;
    }
    host.run(|| link::set_default_route(address.into(), INTERFACE))??;
    Ok(())
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Wire::Taps { stop, thread } = self {
            stop.store(true, Ordering::Relaxed);
            // Joined, so that the TAPs are gone when the wire is.
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn veth(host: End<'_>, outside: End<'_>) -> Result<Wire> {
    host.netns.run(|| {
        link::create_veth(INTERFACE, "wire")?;
        link::move_to("wire", outside.netns)
    })??;
    outside.netns.run(|| link::rename("wire", INTERFACE))??;
    Ok(Wire::Veth)
}

fn taps(host: End<'_>, outside: End<'_>) -> Result<Wire> {
    let open = |end: End<'_>| -> Result<Queue> {
        let queues = end
            .netns
            .run(|| open_tap(INTERFACE, 1, TapOptions { persist: false }))??;
        let tap = queues
            .into_iter()
            .next()
            .context("a TAP device without a queue")?;
        Ok(Queue::Tap(tap))
    };
    let (near, far) = (open(host)?, open(outside)?);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::Builder::new()
        .name("wire".to_owned())
        .spawn({
            let stop = Arc::clone(&stop);
            // A wire that breaks shows as paths that fail; there is nobody else to tell.
            move || _ = carry(&near, &far, &stop)
        })
        .context("start the thread that is the wire")?;
    Ok(Wire::Taps {
        stop,
        thread: Some(thread),
    })
}

/// Carries frames both ways, virtio header and all, until told to stop.
fn carry(near: &Queue, far: &Queue, stop: &AtomicBool) -> io::Result<()> {
    let mut frames: Vec<Frame> = (0..BATCH).map(|_| Frame::new()).collect();
    while !stop.load(Ordering::Relaxed) {
        let mut waiting = [near, far].map(|queue| PollFd::new(queue.fd(), PollFlags::POLLIN));
        poll(&mut waiting, PollTimeout::from(STOP_POLL))?;
        for (from, to) in [(near, far), (far, near)] {
            let count = from.receive(&mut frames)?;
            let batch: Vec<&Frame> = frames[..count].iter().collect();
            // A full or lame end loses frames, as wires do.
            to.transmit(&batch);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::netns;

    /// A datagram there and back over a wire of one kind, or a reason why this machine can't.
    fn crosses(kind: PortKind) {
        let test = format!("a datagram crosses the {kind:?} wire");
        let (Some(host), Some(outside)) =
            (netns::tests::scratch(&test), netns::tests::scratch(&test))
        else {
            return;
        };
        let near = End {
            netns: &host,
            address: Ipv4Addr::new(192, 0, 2, 1),
        };
        let far = End {
            netns: &outside,
            address: Ipv4Addr::new(192, 0, 2, 2),
        };
        let wire = match Wire::lay(near, far, Some(kind)) {
            Ok(wire) => wire,
            Err(error) => {
                println!("{test}: skipped: {error:#}");
                return;
            }
        };
        assert_eq!(wire.kind(), kind);

        let bind = |end: End<'_>| {
            let socket = end
                .netns
                .run(|| UdpSocket::bind((end.address, 7)).unwrap())
                .unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let (asker, answerer) = (bind(near), bind(far));
        asker.send_to(b"there", (far.address, 7)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = answerer.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&b"there"[..], (near.address, 7).into())
        );
        answerer.send_to(b"and back", from).unwrap();
        let (length, _) = asker.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"and back");

        drop(wire);
        if kind == PortKind::Tap {
            assert!(!host.run(|| link::exists(INTERFACE).unwrap()).unwrap());
        }
    }

    #[test]
    fn a_datagram_crosses_a_veth_wire() {
        crosses(PortKind::Veth);
    }

    #[test]
    fn a_datagram_crosses_a_tap_wire() {
        crosses(PortKind::Tap);
    }
}
