//! The path of a frame, from the port it came in by to the port it leaves by.
//!
//! ```text
//!  Container ─► guard ─► learn ─┬─ to the gateway's MAC ─► gateway ─┬─ a host address ─► (hairpin) ─► Host
//!                               │                                   └─ elsewhere ─► nat ─► Uplink
//!                               └─ any other MAC ───────► bridge ───► Container, Host
//!  Host ──────────────► learn ──────────────────────────► bridge ───► Container
//!  Uplink ─────────────────────────────────────────────► gateway ─► nat ─► Container
//! ```
//!
//! Before all that `layers` finds out what a frame is, and `offload` sees to what it leaves to the
//! kernel that sends it out. Every frame that comes from a stage to the next has no priority tag.
//!
//! [`Datapath`] is what all workers share. A [`Pass`] carries one vector of frames through the
//! stages; each stage either names the egress or the reason of the drop.

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use crossbeam_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use hashbrown::HashSet;
use nat::{Kind, Nat, Packet, Protocol, Refused, Time, Translated};
use parking_lot::Mutex;

use crate::announce::LastMacs;
use crate::config::{Config, Endpoint, NetworkId, PortId};
use crate::drop::DropReason;
use crate::fdb::FdbStats;
use crate::frame::{self, ETHERNET_HEADER, Frame, MacAddr};
use crate::gateway::parse;
use crate::icmp::{self, Complaint, ErrorLimits};
use crate::io::{Queue, Silence};
use crate::layers::{self, Layers};
use crate::multicast::groups::Row as GroupRow;
use crate::multicast::querier;
use crate::neighbor::Neighbors;
use crate::offload::{self, Settled};
use crate::port::{Port, PortCounters};
use crate::topology::{Member, Role, Segment, Topology};
use crate::{Settings, bridge, guard, resolver, segment};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    Port(PortId),
    /// To each of [`Pass::egresses`].
    Several,
    /// Nowhere: it was read and understood, or waits for a neighbour.
    Consumed,
    /// Nowhere: it was seen on an uplink, and is the host's own business, whose kernel has it too.
    HostsOwn,
}

/// What the control plane should know. The channel is bounded; an event that finds it full is
/// lost and counted, never waited for.
#[derive(Clone, Debug)]
pub enum Event {
    /// The port's interface or its namespace vanished. Told once; the port carries nothing more.
    /// Check [`Switch::is_lost`](crate::Switch::is_lost) before acting on it.
    PortGone { port: PortId, error: String },
    /// Few external ports are left for new masqueraded flows, or one found none.
    ExternalPortsLow { protocol: Protocol },
}

/// How many free external ports are few.
const FEW_EXTERNAL_PORTS: usize = 128;
/// [`Event::ExternalPortsLow`] is told at most this often.
const LOW_INTERVAL: Duration = Duration::from_millis(20);
const EVENTS: usize = 1024;

/// See the module's description.
pub struct Datapath {
    topology: ArcSwap<Topology>,
    /// Held by whoever builds the next topology.
    changing: Mutex<LastMacs>,
    nat: Nat,
    neighbors: Neighbors,
    drops: Vec<CachePadded<[AtomicU64; DropReason::COUNT]>>,
    events: Sender<Event>,
    events_lost: AtomicU64,
    low_told: AtomicU64,
    errors: ErrorLimits,
    /// Set where there is a host's kernel that could answer in a container's place.
    silence: OnceLock<Silence>,
}

/// One station of a network, as [`Datapath::fdb`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbRow {
    pub network: NetworkId,
    pub mac: MacAddr,
    pub port: PortId,
    /// Since it was last seen; none of a configured one, which stays.
    pub age: Option<Duration>,
}

/// Everything counted since the start.
#[derive(Clone, Debug)]
pub struct Counters {
    pub ports: Vec<(PortId, PortCounters)>,
    /// Each reason with the frames dropped for it, zeros included.
    pub drops: Vec<(DropReason, u64)>,
    pub events_lost: u64,
}

impl Datapath {
    pub fn new(settings: &Settings) -> (Arc<Datapath>, Receiver<Event>) {
        let (events, receiver) = crossbeam_channel::bounded(EVENTS);
        let datapath = Datapath {
            topology: ArcSwap::default(),
            changing: Mutex::default(),
            nat: Nat::new(settings.limits.clone(), settings.seed),
            neighbors: Neighbors::default(),
            // One set a worker, and one for the housekeeping that belongs to none.
            drops: (0..=settings.workers).map(|_| no_drops()).collect(),
            events,
            events_lost: AtomicU64::new(0),
            low_told: AtomicU64::new(0),
            errors: ErrorLimits::default(),
            silence: OnceLock::new(),
        };
        (Arc::new(datapath), receiver)
    }

    /// Adds a port, which drops everything until a configuration names it.
    pub fn add_port(&self, queues: Vec<Queue>) -> io::Result<PortId> {
        if queues.len() != self.workers() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a port needs {} queues, one a worker, not {}",
                    self.workers(),
                    queues.len()
                ),
            ));
        }
        let _changing = self.changing.lock();
        let topology = self.topology.load_full();
        let mut ports = topology.ports().to_vec();
        let slot = ports.iter().position(Option::is_none).unwrap_or_else(|| {
            ports.push(None);
            ports.len() - 1
        });
        let id = PortId(slot as u32);
        ports[slot] = Some(Arc::new(Port::new(id, queues)));
        self.topology.store(Arc::new(topology.with_ports(ports)));
        Ok(id)
    }

    /// Takes a port away, and all that was learned behind it. Its queues close when the last
    /// worker lets go of them.
    pub fn remove_port(&self, port: PortId) {
        let _changing = self.changing.lock();
        let topology = self.topology.load_full();
        let mut ports = topology.ports().to_vec();
        let Some(slot) = ports.get_mut(port.0 as usize) else {
            return;
        };
        *slot = None;
        for segment in &topology.networks {
            segment.forget_port(port);
        }
        self.neighbors.retain_ports(|uplink| uplink != port);
        self.topology.store(Arc::new(topology.with_ports(ports)));
    }

    /// Puts a new description of the world in force. Frames in flight finish by the old one.
    pub fn configure(&self, now: Time, config: Config) {
        let mut last_macs = self.changing.lock();
        let previous = self.topology.load_full();
        self.nat.set_rules(now, config.nat.clone());
        for &(uplink, address, mac) in &config.neighbors {
            self.neighbors.introduce(now, uplink, address, mac);
        }
        let ports = previous.ports().to_vec();
        let topology = Topology::new(ports, config, &previous);
        for segment in &topology.networks {
            segment.settle(now);
        }
        let topology = Arc::new(topology);
        self.topology.store(Arc::clone(&topology));
        last_macs.follow(&previous, &topology);
    }

    /// Housekeeping, once a second or so: expires connections and learned addresses, and asks
    /// again for neighbours that stay silent.
    pub fn tick(&self, now: Time) {
        self.nat.expire(now);
        if let Some(silence) = self.silence.get() {
            silence.tidy(now, || self.associations(now));
        }
        let lost = self.nat.lost_fragments(now);
        self.count_drops(
            self.workers(),
            DropReason::Nat(Refused::FragmentUnfinished),
            lost,
        );
        let topology = self.topology.load();
        for segment in &topology.networks {
            segment.fdb.age(now);
        }
        querier::tick(now, &topology);
        // A packet socket is told only once that its interface is gone, and mixes that up with its
        // going down; so look at those that are down. No system call for the others.
        for port in topology.ports().iter().flatten() {
            if port.queue(0).may_be_gone() && port.queue(0).is_gone() && port.lose() {
                let error = "its interface or namespace is gone".to_owned();
                self.tell(Event::PortGone {
                    port: port.id,
                    error,
                });
            }
        }
        let due = self.neighbors.tick(now);
        let unresolved = due.unanswered.len() + due.lost;
        self.count_drops(self.workers(), DropReason::NeighborUnresolved, unresolved);
        let mut pass = Pass {
            now,
            worker: self.workers(),
            datapath: self,
            topology: &topology,
            egresses: &mut Vec::new(),
            released: &mut Vec::new(),
            followers: &mut Vec::new(),
            narrow: Narrow::default(),
        };
        let mut frame = Frame::new();
        for (question, raw) in due.unanswered {
            frame.set_raw(&raw);
            let told = pass.give_up(question, &mut frame);
            if let Some(port) = told.and_then(|port| topology.port(port)) {
                port.queue(0).transmit(&[&frame]);
            }
        }
        for question in due.questions {
            let mut frame = Frame::new();
            let (Some(mac), Some(port)) = (
                topology.uplink(question.uplink).map(|uplink| uplink.mac),
                topology.port(question.uplink),
            ) else {
                continue;
            };
            if question.write(mac, &mut frame) {
                port.queue(0).transmit(&[&frame]);
            }
        }
    }

    pub fn nat(&self) -> &Nat {
        &self.nat
    }

    /// How many workers the ports have queues for.
    pub fn workers(&self) -> usize {
        self.drops.len() - 1
    }

    /// The stations of every network, configured and learned, in order of network and MAC.
    pub fn fdb(&self, now: Time) -> Vec<FdbRow> {
        let mut rows = Vec::new();
        for segment in &self.topology.load().networks {
            let network = segment.network.id;
            let start = rows.len();
            rows.extend(segment.stations().map(|(mac, port)| FdbRow {
                network,
                mac,
                port,
                age: None,
            }));
            // Learned before it was configured: not used any more.
            let learned = segment.fdb.rows(now).into_iter();
            let learned = learned.filter(|row| segment.station(row.mac).is_none());
            rows.extend(learned.map(|row| FdbRow {
                network,
                mac: row.mac,
                port: row.port,
                age: Some(row.age),
            }));
            rows[start..].sort_by_key(|row| row.mac);
        }
        rows
    }

    /// Who listens to which multicast group, of every network.
    pub fn groups(&self, now: Time) -> Vec<(NetworkId, GroupRow)> {
        let topology = self.topology.load();
        let networks = topology.networks.iter();
        networks
            .flat_map(|segment| {
                let rows = segment.multicast.rows(now).into_iter();
                rows.map(|row| (segment.network.id, row))
            })
            .collect()
    }

    /// How each network's table of learned addresses fares.
    pub fn fdb_stats(&self) -> Vec<(NetworkId, FdbStats)> {
        let topology = self.topology.load();
        let networks = topology.networks.iter();
        networks
            .map(|segment| (segment.network.id, segment.fdb.stats()))
            .collect()
    }

    pub fn counters(&self) -> Counters {
        let topology = self.topology.load();
        let ports = topology.ports().iter().flatten();
        let dropped = |reason: DropReason| {
            self.drops
                .iter()
                .map(|set| set[reason.index()].load(Ordering::Relaxed))
                .sum()
        };
        Counters {
            ports: ports.map(|port| (port.id, port.counters())).collect(),
            drops: DropReason::all()
                .map(|reason| (reason, dropped(reason)))
                .collect(),
            events_lost: self.events_lost.load(Ordering::Relaxed),
        }
    }

    /// The world as it is configured now.
    pub(crate) fn topology(&self) -> Guard<Arc<Topology>> {
        self.topology.load()
    }

    pub(crate) fn neighbors(&self) -> &Neighbors {
        &self.neighbors
    }

    pub(crate) fn errors(&self) -> &ErrorLimits {
        &self.errors
    }

    pub(crate) fn count_drops(&self, worker: usize, reason: DropReason, frames: usize) {
        if frames > 0 {
            self.drops[worker][reason.index()].fetch_add(frames as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on keeps this host's kernel from answering for masqueraded associations of SCTP.
    pub(crate) fn silence_host(&self) {
        let _ = self.silence.set(Silence::default());
    }

    /// See [`Switch::release_sctp`](crate::Switch::release_sctp).
    pub(crate) fn release_sctp(&self, ports: &RangeInclusive<u16>) {
        if let Some(silence) = self.silence.get() {
            silence.release(ports);
        }
    }

    /// A connection was made: what has to be done besides.
    pub(crate) fn opened(&self, now: Time, translated: &Translated, packet: &Packet<'_>) {
        self.watch_external_ports(now, packet.protocol());
        if packet.protocol() == Protocol::SCTP
            && translated.kind == Kind::Masquerade
            && let (Some(silence), Some(outside)) = (self.silence.get(), packet.tuple())
        {
            silence.hold(now, (outside.src, outside.src_port));
        }
    }

    /// The external addresses and ports of masqueraded associations.
    fn associations(&self, now: Time) -> HashSet<(IpAddr, u16)> {
        let all = self.nat.connections(now).into_iter();
        let masqueraded =
            all.filter(|it| it.kind == Kind::Masquerade && it.original.protocol == Protocol::SCTP);
        masqueraded
            .map(|it| (it.reply.dst, it.reply.dst_port))
            .collect()
    }

    /// Tells when the external ports for the next ones run low.
    fn watch_external_ports(&self, now: Time, protocol: Protocol) {
        let last = self.low_told.load(Ordering::Relaxed);
        if now - Time::from_nanos(last) >= LOW_INTERVAL
            && self.nat.external_ports_free(protocol) < FEW_EXTERNAL_PORTS
        {
            self.lacks_ports(now, protocol);
        }
    }

    /// Tells that a flow found no external port. Some may be free all the same: they rest, or are
    /// more than the flow's address may hold.
    pub(crate) fn lacks_ports(&self, now: Time, protocol: Protocol) {
        let last = self.low_told.load(Ordering::Relaxed);
        if now - Time::from_nanos(last) < LOW_INTERVAL {
            return;
        }
        let mine = self.low_told.compare_exchange(
            last,
            now.as_nanos(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if mine.is_ok() {
            self.tell(Event::ExternalPortsLow { protocol });
        }
    }
}

fn no_drops() -> CachePadded<[AtomicU64; DropReason::COUNT]> {
    CachePadded::new([const { AtomicU64::new(0) }; DropReason::COUNT])
}

/// One vector's way through the stages: a moment, a topology, and the frames that were set free.
pub(crate) struct Pass<'a> {
    pub(crate) now: Time,
    pub(crate) worker: usize,
    pub(crate) datapath: &'a Datapath,
    pub(crate) topology: &'a Topology,
    /// Where a frame goes that is for [`Egress::Several`].
    pub(crate) egresses: &'a mut Vec<PortId>,
    /// Frames that leave besides the vector's, each with its egress: those that waited for a
    /// neighbour or for a first fragment, and the further fragments of a packet cut here.
    pub(crate) released: &'a mut Vec<(PortId, Frame)>,
    /// Fragments that the engine held until their first one came with this vector: IP packets, to
    /// be sent on behind it by [`follow`](Pass::follow).
    pub(crate) followers: &'a mut Vec<Box<[u8]>>,
    /// What the last frame dropped as [`DropReason::MtuExceeded`] was too big for.
    pub(crate) narrow: Narrow,
}

/// A link that a packet was too big for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Narrow {
    pub(crate) mtu: u32,
    /// The network that the packet, already translated, was about to enter; none when it was about
    /// to leave by an uplink, as its sender made it.
    pub(crate) entering: Option<usize>,
}

impl Pass<'_> {
    /// Carries one frame from its ingress to its egress, rewriting it in place.
    pub(crate) fn forward(
        &mut self,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        // What was cut from a frame before it leaves behind the vector, so this one does too.
        let is_behind = !self.released.is_empty();
        let outcome = self.forward_in_turn(ingress, frame);
        if let Ok(Egress::Port(port)) = outcome
            && is_behind
        {
            self.released.push((port, frame.compact()));
            return Ok(Egress::Consumed);
        }
        outcome
    }

    fn forward_in_turn(
        &mut self,
        ingress: PortId,
        frame: &mut Frame,
    ) -> Result<Egress, DropReason> {
        // A frame larger than a buffer comes in as none.
        if frame.len() < ETHERNET_HEADER {
            return Err(if frame.is_empty() {
                DropReason::TooBig
            } else {
                DropReason::Malformed
            });
        }
        layers::drop_priority_tags(frame);
        let layers = Layers::of(frame.bytes())?;
        match offload::settle(frame, layers)? {
            Settled::Whole => self.forward_whole(ingress, frame, layers),
            Settled::ToCut => self.forward_cut(ingress, frame, layers),
        }
    }

    /// The same of a super-frame that is cut here. What it is cut into leaves besides the vector's
    /// frames; the first of it that is dropped takes the frame's place, for its sender to hear of.
    fn forward_cut(
        &mut self,
        ingress: PortId,
        frame: &mut Frame,
        layers: Layers,
    ) -> Result<Egress, DropReason> {
        let segments = segment::cut(frame, layers).ok_or(DropReason::MisplacedSegmentation)?;
        let mut dropped = None;
        for mut piece in segments {
            match self.forward_whole(ingress, &mut piece, layers) {
                // So are the others.
                Ok(Egress::HostsOwn) => return Ok(Egress::HostsOwn),
                Err(reason) if dropped.is_none() => dropped = Some((reason, piece)),
                outcome => self.release(outcome, piece),
            }
        }
        match dropped {
            Some((reason, piece)) => {
                frame.copy_from(&piece);
                Err(reason)
            }
            None => Ok(Egress::Consumed),
        }
    }

    /// Carries a frame that is settled.
    fn forward_whole(
        &mut self,
        ingress: PortId,
        frame: &mut Frame,
        layers: Layers,
    ) -> Result<Egress, DropReason> {
        match self.topology.role(ingress) {
            Role::Container { network, endpoint } => {
                let segment = &self.topology.networks[network];
                let endpoint = &self.topology.endpoints[endpoint];
                let egress =
                    self.forward_from_container(segment, endpoint, ingress, frame, layers)?;
                match segment.network.internal {
                    true => self.keep_from_host(segment, frame, egress),
                    false => Ok(egress),
                }
            }
            Role::Host { network } => {
                let segment = &self.topology.networks[network];
                let own = segment.network.gateway_mac;
                bridge::learn(self.now, segment, (ingress, own), frame.bytes())?;
                let destination = frame::destination(frame.bytes()).ok_or(DropReason::Malformed)?;
                if segment.network.internal {
                    segment.asked.note(self.now, frame);
                }
                self.bridge(segment, Member::host(ingress), destination, frame)
            }
            Role::Uplink { uplink } => {
                self.gateway_from_uplink(&self.topology.uplinks[uplink], frame)
            }
            Role::Names => self.answer_names(frame),
            Role::Unassigned => Err(DropReason::PortUnassigned),
        }
    }

    fn forward_from_container(
        &mut self,
        segment: &Segment,
        endpoint: &Endpoint,
        ingress: PortId,
        frame: &mut Frame,
        layers: Layers,
    ) -> Result<Egress, DropReason> {
        if endpoint.guard {
            guard::check(endpoint, frame.bytes(), layers)?;
        }
        bridge::learn(self.now, segment, (ingress, endpoint.mac), frame.bytes())?;
        let destination = frame::destination(frame.bytes()).ok_or(DropReason::Malformed)?;
        if destination == segment.network.gateway_mac {
            return self.gateway_from_inside(segment, ingress, frame);
        }
        if resolver::is_for_loopback(frame.bytes(), layers) {
            return Err(DropReason::Martian);
        }
        if destination.is_multicast() {
            if bridge::is_unicast_packet(segment, frame.bytes()) {
                return Err(DropReason::UnicastInMulticast);
            }
            if let Some(answer) = self.gateway_answers(segment, ingress, frame) {
                return Ok(answer);
            }
        }
        self.bridge(segment, Member::endpoint(endpoint), destination, frame)
    }

    /// Sends fragments on behind the first one of their datagram, by the way that it took.
    pub(crate) fn follow(&mut self, ingress: PortId) {
        for packet in std::mem::take(self.followers) {
            let topology = self.topology;
            let mut frame = Frame::new();
            let outcome = match topology.role(ingress) {
                Role::Container { network, endpoint } => {
                    let segment = &topology.networks[network];
                    let macs = (
                        segment.network.gateway_mac,
                        topology.endpoints[endpoint].mac,
                    );
                    frame.set_packet(macs, &packet);
                    self.gateway_from_inside(segment, ingress, &mut frame)
                }
                Role::Uplink { uplink } => {
                    let uplink = &topology.uplinks[uplink];
                    frame.set_packet((uplink.mac, MacAddr::default()), &packet);
                    self.gateway_from_uplink(uplink, &mut frame)
                }
                Role::Host { .. } | Role::Names | Role::Unassigned => {
                    Err(DropReason::PortUnassigned)
                }
            };
            self.release(outcome, frame);
        }
    }

    /// Sends a frame that is none of the vector's where it is to go.
    pub(crate) fn release(&mut self, outcome: Result<Egress, DropReason>, frame: Frame) {
        match outcome {
            Ok(Egress::Port(port)) => self.released.push((port, frame)),
            Ok(Egress::Several) => {
                let copies = self.egresses.iter().map(|&port| (port, frame.compact()));
                self.released.extend(copies);
            }
            Ok(Egress::Consumed | Egress::HostsOwn) => {}
            Err(reason) => self.datapath.count_drops(self.worker, reason, 1),
        }
    }

    /// Whether one more ICMP error may go to who is behind a port: a container, or, of all hosts
    /// beyond an uplink, this one.
    pub(crate) fn may_tell(&self, port: PortId, peer: Option<IpAddr>) -> bool {
        let errors = self.datapath.errors();
        match (self.topology.role(port), peer) {
            (Role::Uplink { .. }, Some(peer)) => errors.admit_peer(self.now, peer),
            _ => {
                let port = self.topology.port(port);
                port.is_some_and(|port| errors.admit(self.now, &port.errors))
            }
        }
    }

    /// Tells the sender of a frame why it was dropped, if that is a thing to tell: turns the frame
    /// into the ICMP error, which leaves by the port returned.
    ///
    /// Only containers are told, but for the MTU and the end of a packet's hops, of which the world
    /// should know too.
    pub(crate) fn explain(
        &mut self,
        ingress: PortId,
        reason: DropReason,
        frame: &mut Frame,
    ) -> Option<PortId> {
        let (complaint, entering) = match reason {
            DropReason::MtuExceeded => (Complaint::TooBig(self.narrow.mtu), self.narrow.entering),
            DropReason::TtlExceeded if self.topology.uplink(ingress).is_some() => {
                (Complaint::TimeExceeded, self.narrow.entering)
            }
            reason => (Complaint::about(reason)?, None),
        };
        let network = match (entering, self.topology.role(ingress)) {
            (Some(network), _) | (None, Role::Container { network, .. }) => network,
            _ => return None,
        };
        let topology = self.topology;
        let segment = &topology.networks[network];
        let mut addresses = segment.network.gateway_addresses.clone();
        if let (Complaint::TimeExceeded, Some(_)) = (complaint, entering) {
            // The world knows the host by its address on the uplink.
            let sender = parse(frame).ok()?.src();
            addresses.splice(0..0, self.own_address_towards(sender));
        }
        let gateway = (segment.network.gateway_mac, &addresses[..]);
        let sender = frame::source_ip(frame.bytes());
        let told =
            icmp::turn_into_error(frame, complaint, gateway) && self.may_tell(ingress, sender);
        if !told {
            return None;
        }
        if entering.is_none() {
            return Some(ingress);
        }
        // The error quotes what the packet was translated to, as a router inside would. Like that
        // router's it is translated on its way out: the sender sees the address it talked to, and
        // its own packet (RFC 5508 REQ-5).
        match self.gateway_from_inside(segment, ingress, frame) {
            Ok(Egress::Port(port)) => Some(port),
            _ => None,
        }
    }
}
