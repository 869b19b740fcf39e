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
use crate::delay::{Delayed, Side};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::io::{Queue, Sent};
use crate::port::Port;
use crate::topology::Topology;
use crate::treatment::Treatment;

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
    /// Frames that go on later.
    delayed: Delayed,
    /// The ports that frames of the last vector left by.
    peers: Vec<PortId>,
}

/// What [`Worker::poll_some`] carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
    /// See [`Topology::is_shared`].
    pub(crate) shared: bool,
    /// The port's limit has room again at this time, and before it for nothing.
    pub(crate) closed_until: Option<Time>,
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
            delayed: Delayed::default(),
            peers: Vec::new(),
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
            .map(|carried| carried.frames)
    }

    /// As [`poll`](Worker::poll), but reads at most so many frames, and a vector at the most.
    pub(crate) fn poll_some(
        &mut self,
        now: Time,
        port: PortId,
        most: usize,
    ) -> Result<Carried, Lost> {
        // First what is due, so that nothing that comes now overtakes it.
        self.release(now);
        self.peers.clear();
        let topology = self.datapath.topology();
        let Some(ingress) = topology.port(port) else {
            return Ok(Carried::default());
        };
        let queue = ingress.queue(self.index);
        let received = match queue.receive_some(&mut self.frames, most) {
            Ok(received) => received,
            Err(error) => {
                let port = Arc::clone(ingress);
                return Err(Lost { port, error });
            }
        };
        if received == 0 {
            return Ok(Carried::default());
        }
        let bytes = self.frames[..received].iter().map(Frame::len).sum();
        ingress.count_received(self.index, received, bytes);
        let admitted = match topology.treatment(port) {
            None => received,
            Some(treatment) => self.admit(now, ingress, treatment, received),
        };
        let refused = admitted == 0 && received == VECTOR;
        let closed_until = match topology.treatment(port) {
            Some(treatment) if refused => treatment.from.closed_until(now),
            _ => None,
        };
        self.forward(now, &topology, port, admitted);
        self.send(now, &topology);
        Ok(Carried {
            frames: received,
            bytes,
            shared: topology.is_shared(port),
            closed_until,
        })
    }

    /// The ports that frames of the last vector left by.
    pub(crate) fn peers(&self) -> &[PortId] {
        &self.peers
    }

    /// When a frame that was held back goes on, if one is: [`release`](Worker::release) is then to
    /// be called.
    pub fn due(&self) -> Option<Time> {
        self.delayed.due()
    }

    /// Carries on the frames that were held back until now, and returns how many that were.
    pub fn release(&mut self, now: Time) -> usize {
        if self.due().is_none_or(|due| due > now) {
            return 0;
        }
        let topology = self.datapath.topology();
        let mut released = 0;
        // Each at its own time, so that one that is held back once more finds its place behind
        // those that were due before it.
        while let Some((due, place, frames)) = self.delayed.take(now, &mut self.frames) {
            released += frames;
            let port = place.port;
            let same = topology.port(port.id);
            if !same.is_some_and(|same| Arc::ptr_eq(same, &port)) {
                self.datapath
                    .count_drops(self.index, DropReason::EgressGone, frames);
                continue;
            }
            match place.side {
                Side::From => {
                    self.forward(due, &topology, port.id, frames);
                    self.send(due, &topology);
                }
                Side::To => {
                    let mut batch = [&self.frames[0]; VECTOR];
                    for (slot, frame) in batch.iter_mut().zip(&self.frames[..frames]) {
                        *slot = frame;
                    }
                    let exit = Exit {
                        now,
                        topology: &topology,
                        datapath: &self.datapath,
                        worker: self.index,
                        delayed: &mut self.delayed,
                    };
                    exit.transmit(&port, &batch[..frames]);
                }
            }
        }
        released
    }

    /// Treats the frames just read as their port is to be; those that go on at once come first, and
    /// their number is returned.
    fn admit(
        &mut self,
        now: Time,
        port: &Arc<Port>,
        treatment: &Treatment,
        received: usize,
    ) -> usize {
        let mut admitted = 0;
        for index in 0..received {
            let place = (port, Side::From);
            let frame = &self.frames[index];
            match self.delayed.treat(now, &treatment.from, place, frame) {
                Ok(true) => {
                    self.frames.swap(admitted, index);
                    admitted += 1;
                }
                Ok(false) => {}
                Err(reason) => self.datapath.count_drops(self.index, reason, 1),
            }
        }
        admitted
    }

    /// The queue of `port` that it serves.
    pub(crate) fn queue<'a>(&self, port: &'a Port) -> &'a Queue {
        port.queue(self.index)
    }

    /// Does something with its queue of a port, if there is such a port.
    pub(crate) fn with_queue(&self, port: PortId, act: impl FnOnce(&Queue)) {
        if let Some(port) = self.datapath.topology().port(port) {
            act(self.queue(port));
        }
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
        let treatment = topology.treatment(ingress);
        let parted = treatment.map_or(&[][..], |treatment| treatment.parted_from());
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
        if received > 1 {
            pass.prefetch(ingress, &mut self.frames[..received]);
        }
        let mut hosts_own = 0;
        for (index, frame) in self.frames[..received].iter_mut().enumerate() {
            match pass.forward(ingress, frame) {
                Ok(Egress::Port(port)) => self.departures.push((port, index as u32)),
                Ok(Egress::Several) => {
                    let several = pass.egresses.iter();
                    self.departures
                        .extend(several.map(|&port| (port, index as u32)));
                }
                Ok(Egress::Consumed) => {}
                Ok(Egress::HostsOwn) => hosts_own += 1,
                Err(reason) => {
                    self.datapath.count_drops(self.index, reason, 1);
                    if let Some(port) = pass.explain(ingress, reason, frame) {
                        self.departures.push((port, index as u32));
                    }
                }
            }
        }
        pass.follow(ingress);
        if hosts_own > 0
            && let Some(port) = topology.port(ingress)
        {
            port.count_hosts_own(self.index, hosts_own);
        }
        if !parted.is_empty() {
            self.part(parted);
        }
    }

    /// Drops what is about to leave by ports that the frames' own port is parted from.
    fn part(&mut self, parted: &[PortId]) {
        let before = self.departures.len() + self.released.len();
        self.departures.retain(|(port, _)| !parted.contains(port));
        self.released.retain(|(port, _)| !parted.contains(port));
        let dropped = before - self.departures.len() - self.released.len();
        self.datapath
            .count_drops(self.index, DropReason::Partitioned, dropped);
    }

    /// Writes the frames out, one run a port, in the order they came.
    fn send(&mut self, now: Time, topology: &Topology) {
        let mut exit = Exit {
            now,
            topology,
            datapath: &self.datapath,
            worker: self.index,
            delayed: &mut self.delayed,
        };
        self.departures.sort_unstable();
        for run in self.departures.chunk_by(|a, b| a.0 == b.0) {
            let mut batch = [&self.frames[0]; VECTOR];
            for (slot, &(_, index)) in batch.iter_mut().zip(run) {
                *slot = &self.frames[index as usize];
            }
            self.peers.push(run[0].0);
            exit.send(run[0].0, &mut batch[..run.len()]);
        }
        self.departures.clear();
        for (egress, frame) in std::mem::take(&mut self.released) {
            exit.send(egress, &mut [&frame]);
        }
    }
}

/// The way out of the switch, for the frames of one vector.
struct Exit<'a> {
    now: Time,
    topology: &'a Topology,
    datapath: &'a Datapath,
    worker: usize,
    delayed: &'a mut Delayed,
}

impl Exit<'_> {
    /// Sends frames out by a port, now or when the port's treatment allows. Changes their order in
    /// the slice.
    fn send(&mut self, egress: PortId, frames: &mut [&Frame]) {
        let topology = self.topology;
        let Some(port) = topology.port(egress) else {
            self.count_drops(DropReason::EgressGone, frames.len());
            return;
        };
        let leaving = match topology.treatment(egress) {
            None => frames.len(),
            Some(treatment) => self.treat(port, treatment, frames),
        };
        self.transmit(port, &frames[..leaving]);
    }

    /// Puts the frames that leave at once to the front, and returns how many they are.
    fn treat(&mut self, port: &Arc<Port>, treatment: &Treatment, frames: &mut [&Frame]) -> usize {
        let mut leaving = 0;
        for index in 0..frames.len() {
            let place = (port, Side::To);
            let treated = self
                .delayed
                .treat(self.now, &treatment.to, place, frames[index]);
            match treated {
                Ok(true) => {
                    frames.swap(leaving, index);
                    leaving += 1;
                }
                Ok(false) => {}
                Err(reason) => self.count_drops(reason, 1),
            }
        }
        leaving
    }

    fn transmit(&self, port: &Port, frames: &[&Frame]) {
        if frames.is_empty() {
            return;
        }
        let Sent {
            sent,
            full,
            down,
            rejected,
        } = port.queue(self.worker).transmit(frames);
        let bytes = frames.iter().map(|frame| frame.len()).sum();
        port.count_sent(self.worker, sent, bytes);
        self.count_drops(DropReason::EgressFull, full);
        self.count_drops(DropReason::EgressDown, down);
        self.count_drops(DropReason::EgressRejected, rejected);
    }

    fn count_drops(&self, reason: DropReason, frames: usize) {
        self.datapath.count_drops(self.worker, reason, frames);
    }
}

/// A port that is gone, held fast: its number may belong to another port by now.
#[derive(Debug)]
pub struct Lost {
    pub port: Arc<Port>,
    pub error: io::Error,
}
