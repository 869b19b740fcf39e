//! Ports in memory: the switch's side is a queue like any other, the test's side sends and receives
//! frames. They need no right and no kernel driver, and can be polled.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::{Sent, context};
use crate::frame::{Frame, VNET_HEADER, VnetHeader};

/// What both sides share.
#[derive(Debug)]
struct Wire {
    /// Frames each way that may wait.
    capacity: usize,
    state: Mutex<State>,
    /// Readable while frames wait for the switch, or once the peer is gone.
    readable: EventFd,
}

/// Frames wait with their vnet headers, as [`Frame::raw`] gives them, cut to their own size.
#[derive(Debug)]
struct State {
    to_switch: VecDeque<Box<[u8]>>,
    to_peer: VecDeque<Box<[u8]>>,
    down: bool,
    gone: bool,
}

/// The switch's side; see [`Queue::Memory`](super::Queue::Memory).
#[derive(Debug)]
pub struct MemoryQueue {
    wire: Arc<Wire>,
}

/// The far side: what would be a container's interface. The port is gone when it is dropped.
#[derive(Debug)]
pub struct MemoryPeer {
    wire: Arc<Wire>,
}

/// A port in memory on whose wire `capacity` frames each way may wait.
///
/// # Errors
///
/// No descriptor is left for the eventfd.
pub fn memory_port(capacity: usize) -> io::Result<(MemoryQueue, MemoryPeer)> {
    let readable = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map_err(|error| context("eventfd of a port in memory", error))?;
    let state = Mutex::new(State {
        to_switch: VecDeque::new(),
        to_peer: VecDeque::new(),
        down: false,
        gone: false,
    });
    let wire = Arc::new(Wire {
        capacity,
        state,
        readable,
    });
    Ok((
        MemoryQueue {
            wire: Arc::clone(&wire),
        },
        MemoryPeer { wire },
    ))
}

impl MemoryQueue {
    pub(super) fn receive(&self, frames: &mut [Frame]) -> io::Result<usize> {
        let mut state = self.wire.state.lock();
        let count = frames.len().min(state.to_switch.len());
        for (frame, raw) in frames.iter_mut().zip(state.to_switch.drain(..count)) {
            frame.set_raw(&raw);
        }
        if state.to_switch.is_empty() && !state.gone {
            // EAGAIN only says that it was not readable. Under the lock, so that no frame is missed.
            self.wire.readable.read().ok();
        }
        if count == 0 && state.gone {
            return Err(context("the port's peer in memory is gone", Errno::ENODEV));
        }
        Ok(count)
    }

    pub(super) fn transmit(&self, frames: &[&Frame]) -> Sent {
        let mut state = self.wire.state.lock();
        let mut sent = Sent::default();
        for frame in frames {
            if state.gone || state.down {
                sent.down += 1;
            } else if state.to_peer.len() >= self.wire.capacity {
                sent.full += 1;
            } else {
                state.to_peer.push_back(frame.raw().into());
                sent.sent += 1;
            }
        }
        sent
    }

    pub(super) fn is_gone(&self) -> bool {
        self.wire.state.lock().gone
    }
}

impl AsFd for MemoryQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.readable.as_fd()
    }
}

impl MemoryPeer {
    /// Sends an Ethernet frame to the switch; false when the wire is full or down, and the frame is
    /// lost.
    pub fn send(&self, bytes: &[u8]) -> bool {
        let mut raw = VnetHeader::default().encode().to_vec();
        raw.extend_from_slice(bytes);
        self.push(raw.into())
    }

    /// Sends a frame with its vnet header to the switch; false when the wire is full or down, and
    /// the frame is lost.
    pub fn send_frame(&self, frame: &Frame) -> bool {
        self.push(frame.raw().into())
    }

    fn push(&self, raw: Box<[u8]>) -> bool {
        let mut state = self.wire.state.lock();
        if state.down || state.to_switch.len() >= self.wire.capacity {
            return false;
        }
        state.to_switch.push_back(raw);
        // Fails only when the counter would overflow, and then it is readable already.
        self.wire.readable.write(1).ok();
        true
    }

    /// The next frame from the switch, if one waits.
    pub fn recv(&self) -> Option<Frame> {
        let raw = self.wire.state.lock().to_peer.pop_front()?;
        let mut frame = Frame::new();
        frame.set_raw(&raw);
        Some(frame)
    }

    /// The bytes of the next frame from the switch, without its vnet header, if one waits.
    pub fn recv_bytes(&self) -> Option<Vec<u8>> {
        let raw = self.wire.state.lock().to_peer.pop_front()?;
        Some(raw[VNET_HEADER..].to_vec())
    }

    /// Takes the wire down or up, as `ip link set` would.
    pub fn set_down(&self, down: bool) {
        self.wire.state.lock().down = down;
    }
}

impl Drop for MemoryPeer {
    fn drop(&mut self) {
        self.wire.state.lock().gone = true;
        self.wire.readable.write(1).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Poller, Queue};
    use super::*;

    fn frames(count: usize) -> Vec<Frame> {
        (0..count).map(|_| Frame::new()).collect()
    }

    #[test]
    fn both_ways_with_headers() {
        let (queue, peer) = memory_port(2).unwrap();
        let queue = Queue::Memory(queue);
        let mut frames = frames(4);
        assert_eq!(queue.receive(&mut frames).unwrap(), 0);
        let mut first = Frame::from_bytes(&[1; 60]);
        first.set_vnet(VnetHeader {
            gso_size: 1448,
            ..Default::default()
        });
        assert!(peer.send_frame(&first) && peer.send(&[2; 61]) && !peer.send(&[3; 62]));
        assert_eq!(queue.receive(&mut frames).unwrap(), 2);
        assert_eq!(frames[0].raw(), first.raw());
        assert_eq!(frames[1].bytes(), [2; 61]);

        let sent = queue.transmit(&[&frames[0], &frames[1], &first]);
        assert_eq!(
            sent,
            Sent {
                sent: 2,
                full: 1,
                ..Default::default()
            }
        );
        assert_eq!(peer.recv().unwrap().raw(), first.raw());
        assert_eq!(peer.recv().unwrap().len(), 61);
        assert!(peer.recv().is_none());

        peer.set_down(true);
        assert_eq!(queue.transmit(&[&first]).down, 1);
        assert!(!peer.send(&[0; 60]));
    }

    #[test]
    fn readable_while_frames_wait_and_when_gone() {
        let (queue, peer) = memory_port(8).unwrap();
        let queue = Queue::Memory(queue);
        let poller = Poller::new().unwrap();
        poller.add(queue.fd(), 7).unwrap();
        let mut ready = Vec::new();
        let mut poll = || {
            poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
            ready.clone()
        };
        assert!(poll().is_empty());
        for _ in 0..3 {
            peer.send(&[0; 60]);
        }
        let mut frames = frames(2);
        assert_eq!(poll(), [7]);
        assert_eq!(queue.receive(&mut frames).unwrap(), 2);
        assert_eq!(poll(), [7], "one waits");
        assert_eq!(queue.receive(&mut frames).unwrap(), 1);
        assert!(poll().is_empty());

        peer.send(&[0; 60]);
        drop(peer);
        assert!(queue.is_gone());
        assert_eq!(
            queue.receive(&mut frames).unwrap(),
            1,
            "what was sent before is received"
        );
        assert_eq!(poll(), [7]);
        assert!(queue.receive(&mut frames).is_err());
    }
}
