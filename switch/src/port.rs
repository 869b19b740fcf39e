//! A port: its queues, one a worker, and what passed through it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::config::PortId;
use crate::icmp::ErrorClocks;
use crate::io::Queue;
use crate::rate::RateLimit;

/// See the module's description.
#[derive(Debug)]
pub struct Port {
    pub id: PortId,
    /// One a worker. The kernel hands a flow and its answers to the same queue index on TAP
    /// (automq) and packet socket (fanout) alike, so one worker serves both ends of a
    /// conversation.
    queues: Vec<Queue>,
    traffic: Vec<CachePadded<Traffic>>,
    lost: AtomicBool,
    /// What it may have flooded; see [`StormLimits`](crate::config::StormLimits).
    pub(crate) storm: StormClocks,
    /// ICMP errors told to who is there, see [`ErrorLimits`](crate::icmp::ErrorLimits).
    pub(crate) errors: ErrorClocks,
    /// Neighbours asked for on its behalf.
    pub(crate) questions: RateLimit,
}

/// One clock for each kind of flooded frame that came in by the port.
#[derive(Debug, Default)]
pub(crate) struct StormClocks {
    pub(crate) broadcast: RateLimit,
    pub(crate) multicast: RateLimit,
    pub(crate) unknown_unicast: RateLimit,
}

/// Frames and bytes (Ethernet headers included) one worker moved. A super-frame counts as one.
#[derive(Debug, Default)]
struct Traffic {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    hosts_own: AtomicU64,
}

/// What passed through a port since it was added, seen from the switch: `rx` came from the
/// container, the host or the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Of the frames received on an uplink, those that are the host's own business.
    pub hosts_own: u64,
}

impl Port {
    pub fn new(id: PortId, queues: Vec<Queue>) -> Port {
        let traffic = queues.iter().map(|_| CachePadded::default()).collect();
        Port {
            id,
            queues,
            traffic,
            lost: AtomicBool::new(false),
            storm: StormClocks::default(),
            errors: ErrorClocks::default(),
            questions: RateLimit::default(),
        }
    }

    /// The queue that belongs to `worker`.
    pub fn queue(&self, worker: usize) -> &Queue {
        &self.queues[worker]
    }

    pub(crate) fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Marks the port as gone; true for the first to find out.
    pub(crate) fn lose(&self) -> bool {
        !self.lost.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub fn count_received(&self, worker: usize, frames: usize, bytes: usize) {
        let traffic = &self.traffic[worker];
        traffic
            .rx_frames
            .fetch_add(frames as u64, Ordering::Relaxed);
        traffic.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_sent(&self, worker: usize, frames: usize, bytes: usize) {
        let traffic = &self.traffic[worker];
        traffic
            .tx_frames
            .fetch_add(frames as u64, Ordering::Relaxed);
        traffic.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_hosts_own(&self, worker: usize, frames: u64) {
        let hosts_own = &self.traffic[worker].hosts_own;
        hosts_own.fetch_add(frames, Ordering::Relaxed);
    }

    pub fn counters(&self) -> PortCounters {
        self.traffic
            .iter()
            .fold(PortCounters::default(), |sum, traffic| PortCounters {
                rx_frames: sum.rx_frames + traffic.rx_frames.load(Ordering::Relaxed),
                rx_bytes: sum.rx_bytes + traffic.rx_bytes.load(Ordering::Relaxed),
                tx_frames: sum.tx_frames + traffic.tx_frames.load(Ordering::Relaxed),
                tx_bytes: sum.tx_bytes + traffic.tx_bytes.load(Ordering::Relaxed),
                hosts_own: sum.hosts_own + traffic.hosts_own.load(Ordering::Relaxed),
            })
    }
}
