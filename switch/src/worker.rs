//! A worker: reads a vector of frames, carries each through the data path, writes them out.
//!
//! It runs to completion. Handing a frame to another thread costs a wake-up, and a wake-up costs
//! more than all the forwarding; so whoever reads a frame also writes it, and any worker may write
//! to any port.
//!
//! [`Worker`] is the work, without a thread or a clock: a simulation drives it by
//! [`poll`](Worker::poll). [`run`] is the thread around it, with epoll and the busy poll.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nat::Time;

use crate::config::PortId;
use crate::datapath::{Datapath, Egress, Event, Pass};
use crate::drop::DropReason;
use crate::frame::{self, Frame, MacAddr};
use crate::io::{Poller, Sent};
use crate::port::Port;
use crate::topology::Topology;

/// Frames read from one port at a time: enough to share the costs of a vector, few enough that
/// their headers stay in the first-level cache and no other port waits long.
pub const VECTOR: usize = 32;

/// See the module's description.
pub struct Worker {
    datapath: Arc<Datapath>,
    index: usize,
    frames: Vec<Frame>,
    /// Who leaves by which port: the egress, and the frame's index in `frames`.
    departures: Vec<(PortId, u32)>,
    /// Where the frame at hand goes, when to several ports.
    egresses: Vec<PortId>,
    released: Vec<(PortId, MacAddr, VecDeque<Frame>)>,
}

impl Worker {
    /// The worker that serves the `index`th queue of every port.
    pub fn new(datapath: Arc<Datapath>, index: usize) -> Worker {
        assert!(index < datapath.workers(), "worker {index} has no queues");
        Worker {
            datapath,
            index,
            frames: (0..VECTOR).map(|_| Frame::new()).collect(),
            departures: Vec::with_capacity(VECTOR),
            egresses: Vec::new(),
            released: Vec::new(),
        }
    }

    /// Carries what waits at `port`, one vector at the most, and returns how many frames that were.
    ///
    /// # Errors
    ///
    /// The port is gone for good: its interface was removed or its namespace died. A port that
    /// nobody knows (any more) has nothing waiting.
    pub fn poll(&mut self, now: Time, port: PortId) -> Result<usize, Lost> {
        let topology = self.datapath.topology();
        let Some(ingress) = topology.port(port) else {
            return Ok(0);
        };
        let received = match ingress.queue(self.index).receive(&mut self.frames) {
            Ok(received) => received,
            Err(error) => {
                let port = Arc::clone(ingress);
                return Err(Lost { port, error });
            }
        };
        if received == 0 {
            return Ok(0);
        }
        let bytes = self.frames[..received].iter().map(Frame::len).sum();
        ingress.count_received(self.index, received, bytes);
        self.forward(now, &topology, port, received);
        self.send(&topology);
        Ok(received)
    }

    /// Lets the data path decide about each frame, and notes who leaves where.
    fn forward(&mut self, now: Time, topology: &Topology, ingress: PortId, received: usize) {
        let mut pass = Pass {
            now,
            datapath: &self.datapath,
            topology,
            egresses: &mut self.egresses,
            released: &mut self.released,
        };
        for (index, frame) in self.frames[..received].iter_mut().enumerate() {
            match pass.forward(ingress, frame) {
                Ok(Egress::Port(port)) => self.departures.push((port, index as u32)),
                Ok(Egress::Several) => {
                    let several = pass.egresses.iter();
                    self.departures
                        .extend(several.map(|&port| (port, index as u32)));
                }
                Ok(Egress::Consumed) => {}
                Err(reason) => {
                    self.datapath.count_drops(self.index, reason, 1);
                    if let Some(port) = pass.explain(ingress, reason, frame) {
                        self.departures.push((port, index as u32));
                    }
                }
            }
        }
    }

    /// Writes the frames out, one run a port, in the order they came.
    fn send(&mut self, topology: &Topology) {
        self.departures.sort_unstable();
        for run in self.departures.chunk_by(|a, b| a.0 == b.0) {
            let Some(port) = topology.port(run[0].0) else {
                self.datapath
                    .count_drops(self.index, DropReason::EgressGone, run.len());
                continue;
            };
            let mut batch = [&self.frames[0]; VECTOR];
            for (slot, &(_, index)) in batch.iter_mut().zip(run) {
                *slot = &self.frames[index as usize];
            }
            self.transmit(port, &batch[..run.len()]);
        }
        self.departures.clear();

        for (uplink, mac, mut waited) in std::mem::take(&mut self.released) {
            let Some(port) = topology.port(uplink) else {
                continue;
            };
            for frame in &mut waited {
                frame::set_destination(frame.bytes_mut(), mac);
                self.transmit(port, &[frame]);
            }
        }
    }

    fn transmit(&self, port: &Port, frames: &[&Frame]) {
        let Sent {
            sent,
            full,
            down,
            rejected,
        } = port.queue(self.index).transmit(frames);
        let bytes = frames.iter().map(|frame| frame.len()).sum();
        port.count_sent(self.index, sent, bytes);
        self.datapath
            .count_drops(self.index, DropReason::EgressFull, full);
        self.datapath
            .count_drops(self.index, DropReason::EgressDown, down);
        self.datapath
            .count_drops(self.index, DropReason::EgressRejected, rejected);
    }
}

/// The token by which a worker's [`Poller`] reports that it is to stop.
pub(crate) const STOP: u64 = u64::MAX;

/// Serves the queues of `poller` until [`STOP`] is reported.
pub(crate) fn run(mut worker: Worker, poller: &Poller, epoch: Instant, busy_poll: Duration) {
    let mut ready = Vec::new();
    let mut patience = Patience::new(busy_poll);
    loop {
        if let Err(error) = poller.wait(&mut ready, patience.timeout()) {
            panic!("worker {}: {error}", worker.index);
        }
        let now = Time::from_nanos(epoch.elapsed().as_nanos() as u64);
        let mut frames = 0;
        for &token in &ready {
            if token == STOP {
                return;
            }
            let port = PortId(token as u32);
            match worker.poll(now, port) {
                Ok(received) => frames += received,
                Err(lost) => worker.lose(poller, &lost),
            }
        }
        patience.saw(frames);
    }
}

/// A port that is gone, held fast: its number may belong to another port by now.
#[derive(Debug)]
pub struct Lost {
    pub port: Arc<Port>,
    pub error: io::Error,
}

impl Worker {
    /// Stops listening to a port that is gone, and tells the control plane, once for all queues.
    fn lose(&self, poller: &Poller, lost: &Lost) {
        // Fails when the control plane has just removed the port: as good.
        let _ = poller.remove(lost.port.queue(self.index).fd());
        if lost.port.lose() {
            self.datapath.tell(Event::PortGone {
                port: lost.port.id,
                error: lost.error.to_string(),
            });
        }
    }
}

/// How long to keep polling after the last frame before sleeping.
///
/// Waking an idle CPU costs some 30 µs, so while frames keep coming soon after each other it pays
/// to look for the next one awake. The spell grows to its limit when a frame comes within it, and
/// shrinks to nothing when none does, so that an idle switch takes no CPU.
struct Patience {
    limit: Duration,
    spell: Duration,
    /// When the last frame came, while still awake for the next one.
    awake_since: Option<Instant>,
    slept_since: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Patience {
        Patience {
            limit,
            spell: Duration::ZERO,
            awake_since: None,
            slept_since: Instant::now(),
        }
    }

    /// How long to wait for the next frame: for ever, once asleep.
    fn timeout(&self) -> Option<Duration> {
        self.awake_since.map(|_| Duration::ZERO)
    }

    fn saw(&mut self, frames: usize) {
        if self.limit.is_zero() {
            return;
        }
        let now = Instant::now();
        match (frames, self.awake_since) {
            (0, None) => {}
            (0, Some(since)) => {
                if now - since >= self.spell {
                    self.spell /= 2;
                    self.awake_since = None;
                    self.slept_since = now;
                }
            }
            (_, Some(_)) => {
                self.spell = self.limit;
                self.awake_since = Some(now);
            }
            (_, None) => {
                // Would some more patience have caught this one?
                if now - self.slept_since < 2 * self.limit {
                    self.spell = self.limit;
                }
                self.awake_since = (!self.spell.is_zero()).then_some(now);
                self.slept_since = now;
            }
        }
    }
}
