//! A worker: reads a vector of frames, carries each through the data path, writes them out.
//!
//! It runs to completion. Handing a frame to another thread costs a wake-up, and a wake-up costs
//! more than all the forwarding; so whoever reads a frame also writes it, and any worker may write
//! to any port.
//!
//! [`Worker`] is the work, without a thread or a clock: a simulation drives it by
//! [`poll`](Worker::poll), and the threads of the [`crew`](crate::crew) do.

use std::io;
use std::sync::Arc;

use nat::Time;

use crate::config::PortId;
use crate::datapath::{Datapath, Egress, Event, Narrow, Pass};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::io::{Queue, Sent};
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
    /// Frames that leave besides those just read.
    released: Vec<(PortId, Frame)>,
    /// Fragments whose first one is among the frames just read.
    followers: Vec<Box<[u8]>>,
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
            followers: Vec::new(),
        }
    }

    /// Carries what waits at `port`, one vector at the most, and returns how many frames that were.
    ///
    /// # Errors
    ///
    /// The port is gone for good: its interface was removed or its namespace died. A port that
    /// nobody knows (any more) has nothing waiting.
    pub fn poll(&mut self, now: Time, port: PortId) -> Result<usize, Lost> {
        self.poll_some(now, port, VECTOR)
    }

    /// As [`poll`](Worker::poll), but carries at most so many frames, and a vector at the most.
    pub(crate) fn poll_some(
        &mut self,
        now: Time,
        port: PortId,
        most: usize,
    ) -> Result<usize, Lost> {
        let topology = self.datapath.topology();
        let Some(ingress) = topology.port(port) else {
            return Ok(0);
        };
        let room = &mut self.frames[..most.min(VECTOR)];
        let received = match ingress.queue(self.index).receive(room) {
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

    /// The queue of `port` that it serves.
    pub(crate) fn queue<'a>(&self, port: &'a Port) -> &'a Queue {
        port.queue(self.index)
    }

    /// Tells the control plane of a port that is gone, once for all queues.
    pub(crate) fn tell_of(&self, lost: &Lost) {
        if lost.port.lose() {
            self.datapath.tell(Event::PortGone {
                port: lost.port.id,
                error: lost.error.to_string(),
            });
        }
    }

    /// Lets the data path decide about each frame, and notes who leaves where.
    fn forward(&mut self, now: Time, topology: &Topology, ingress: PortId, received: usize) {
        let mut pass = Pass {
            now,
            worker: self.index,
            datapath: &self.datapath,
            topology,
            egresses: &mut self.egresses,
            released: &mut self.released,
            followers: &mut self.followers,
            narrow: Narrow::default(),
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
        pass.follow(ingress);
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

        for (egress, frame) in std::mem::take(&mut self.released) {
            match topology.port(egress) {
                Some(port) => self.transmit(port, &[&frame]),
                None => self
                    .datapath
                    .count_drops(self.index, DropReason::EgressGone, 1),
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

/// A port that is gone, held fast: its number may belong to another port by now.
#[derive(Debug)]
pub struct Lost {
    pub port: Arc<Port>,
    pub error: io::Error,
}
