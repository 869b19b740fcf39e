//! The engine: one table of connections, in shards, and what happens to a packet.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use crossbeam_utils::CachePadded;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::conntrack::tcp::Segment;
use crate::conntrack::{Connection, ConnectionInfo, Direction, Kind, Shard};
use crate::icmp::{self, Quote};
use crate::limits::Limits;
use crate::packet::{Content, Packet};
use crate::ports::{Endpoint, Ports};
use crate::refused::Refused;
use crate::rewrite::rewrite;
use crate::rule::{RuleIndex, Rules};
use crate::time::Time;
use crate::tuple::{Protocol, Tuple, TupleHash};

/// Shards of the table, a power of two: some times the number of workers, so that they seldom want
/// the same one.
const SHARDS: usize = 16;

/// Where a packet comes from and where it is about to go, which the caller knows from its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// From inside to an uplink.
    Outbound {
        /// The source address of the route taken.
        external: IpAddr,
    },
    /// From an uplink.
    Inbound,
    /// From inside to one of the host's own addresses.
    Hairpin,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// The original tuple of its connection; the tuple quoted, for an ICMP error of none; ports 0
    /// for a packet without ports that passed untranslated.
    pub connection: Tuple,
    pub kind: Kind,
    pub direction: Direction,
    /// It opened the connection.
    pub new: bool,
}

/// Totals since the engine began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections now in the table, expired ones included until they are swept.
    pub connections: usize,
    pub opened: u64,
    /// Connections ended by time, by a rule, by an endpoint's going or by force.
    pub ended: u64,
    /// Of these, half-open ones that made room in a full table or quota.
    pub evicted: u64,
    /// Of these, TCP connections that were over and gave up their external port early.
    pub recycled: u64,
    /// Connections that had to share an external port with another endpoint's.
    pub shared: u64,
    /// TCP RSTs passed on, but not believed.
    pub implausible_resets: u64,
}

#[derive(Default)]
struct Counters {
    opened: AtomicU64,
    ended: AtomicU64,
    evicted: AtomicU64,
    recycled: AtomicU64,
    shared: AtomicU64,
    implausible_resets: AtomicU64,
}

/// The NAT engine. All methods take `&self`, and any thread may call them.
///
/// Locks: a packet of a known flow takes its shard's; a new flow, and the end of one, also the
/// ledger's, always after the shard's.
pub struct Nat {
    limits: Limits,
    hash: TupleHash,
    rules: ArcSwap<RuleIndex>,
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    ledger: Mutex<Ledger>,
    /// Connections in all shards.
    len: AtomicUsize,
    counters: CachePadded<Counters>,
}

/// What all shards share, and what only the beginning and the end of a connection touch.
struct Ledger {
    ports: Ports,
    /// Connections of each inside address.
    connections: HashMap<IpAddr, usize>,
}

impl Ledger {
    fn count(&self, inside: IpAddr) -> usize {
        self.connections.get(&inside).copied().unwrap_or(0)
    }

    fn open(&mut self, connection: &Connection) {
        *self.connections.entry(connection.inside()).or_insert(0) += 1;
    }

    fn close(&mut self, now: Time, connection: &Connection) {
        if let Some(count) = self.connections.get_mut(&connection.inside()) {
            *count -= 1;
            if *count == 0 {
                self.connections.remove(&connection.inside());
            }
        }
        if connection.has_external_port() {
            let endpoint = endpoint(&connection.original, connection.reply.dst);
            if connection.shares_port {
                let port = connection.reply.dst_port;
                self.ports.unshare(now, endpoint.protocol, endpoint.external, port);
            } else {
                self.ports.release(now, &endpoint);
            }
        }
    }
}

/// The inside endpoint that opened a flow.
fn endpoint(original: &Tuple, external: IpAddr) -> Endpoint {
    Endpoint {
        protocol: original.protocol,
        external,
        address: original.src,
        port: original.src_port,
    }
}

/// A connection about to be opened.
struct Opening {
    original: Tuple,
    /// With `dst_port` 0 if that is yet to be allocated.
    reply: Tuple,
    kind: Kind,
    /// Which way the packet that opens it goes.
    direction: Direction,
    /// Whether the reply wants an external port.
    wants_port: bool,
}

impl Nat {
    /// An engine without rules. `seed` is the secret behind hashes and port choice: random in
    /// production, fixed for a reproducible run.
    pub fn new(limits: Limits, seed: u64) -> Nat {
        let ports = Ports::new(seed, limits.timeouts.port_rest);
        Nat {
            limits,
            hash: TupleHash::new(seed),
            rules: ArcSwap::from_pointee(RuleIndex::default()),
            shards: (0..SHARDS).map(|_| CachePadded::new(Mutex::default())).collect(),
            ledger: Mutex::new(Ledger { ports, connections: HashMap::new() }),
            len: AtomicUsize::new(0),
            counters: CachePadded::default(),
        }
    }

    /// Replaces the rules, and ends the flows that they no longer allow: those of a publish rule
    /// that is gone (by id), those of an inside port that is now published, and those whose source
    /// is now masqueraded otherwise, or not at all. Packets in flight meet the old rules or the
    /// new ones, and no flow opened by the old ones remains.
    pub fn set_rules(&self, now: Time, rules: Rules) {
        self.rules.store(Arc::new(RuleIndex::new(rules)));
        // A worker reads the rules under its shard's lock, so whatever it opened by the old ones
        // is in the shard when its turn comes here.
        let rules = self.rules.load();
        self.end_where(now, |connection| {
            let Tuple { protocol, src, src_port, .. } = connection.original;
            match connection.kind() {
                Kind::Publish(id) | Kind::Hairpin(id) => !rules.has_publish(id),
                Kind::Masquerade => match rules.masquerade(src) {
                    None => true,
                    Some(rule) => {
                        rule.to.is_some_and(|to| to != connection.reply.dst)
                            || rules.claim(protocol, src, src_port).is_some()
                    }
                },
                Kind::Routed => rules.masquerade(src).is_some(),
            }
        });
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(self.rules.load().rules())
    }

    /// An endpoint went: ends all its flows, so that the next one with its address inherits none,
    /// and frees their external ports. Returns how many there were. Detach the endpoint first, or
    /// its last packets open new ones.
    pub fn forget(&self, now: Time, address: IpAddr) -> usize {
        self.end_where(now, |connection| connection.touches(address))
    }

    /// Ends every connection that `keep` does not keep. Returns how many.
    pub fn flush(&self, now: Time, keep: impl Fn(&ConnectionInfo) -> bool) -> usize {
        self.end_where(now, |connection| !keep(&connection.info(now)))
    }

    /// Adds external ports for masquerading and hairpins, on every external address. The caller
    /// holds them with sockets of its own, so that no process of the host can use them. ICMP
    /// identifiers need none. Ports added before are not added twice.
    pub fn add_external_ports(&self, protocol: Protocol, ports: RangeInclusive<u16>) {
        self.ledger.lock().ports.reserve(protocol, ports);
    }

    /// External ports that no mapping holds, on the address that has fewest. The caller adds a
    /// further block when few are left.
    pub fn external_ports_free(&self, protocol: Protocol) -> usize {
        self.ledger.lock().ports.free(protocol)
    }

    /// Whether a packet to this address and port of the host reaches a container.
    pub fn is_published(&self, protocol: Protocol, host: IpAddr, port: u16) -> bool {
        self.rules.load().published(protocol, host, port).is_some()
    }

    /// Translates a packet in place.
    ///
    /// On [`Path::Outbound`] a source that no rule masquerades passes as it is, and its flow is
    /// tracked.
    ///
    /// # Errors
    /// [`Refused`] says why not; the packet is then untouched, and nothing was allocated for it.
    pub fn translate(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
    ) -> Result<Translated, Refused> {
        match packet.content() {
            Content::Flow(tuple) => self.translate_flow(now, path, packet, &tuple),
            Content::IcmpError => self.translate_error(now, path, packet),
            Content::Fragment => self.pass(path, packet, Refused::Fragment),
            Content::Other => self.pass(path, packet, Refused::UnsupportedProtocol),
        }
    }

    fn translate_flow(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
    ) -> Result<Translated, Refused> {
        let segment = packet.segment();
        if segment.is_some_and(|segment| !segment.is_valid()) {
            // A host answers for itself.
            return Err(match path {
                Path::Hairpin if !self.is_published(tuple.protocol, tuple.dst, tuple.dst_port) => {
                    Refused::NotPublished
                }
                _ => Refused::InvalidTcpFlags,
            });
        }
        let mut shard = self.shard(path, tuple).lock();
        let known = self.known(now, path, &mut shard, tuple, segment.as_ref());
        let (slot, direction, new) = match known {
            Some(known) => known,
            None => {
                let Some(opening) = self.opening(path, tuple, segment.as_ref())? else {
                    return self.pass(path, packet, Refused::NotOpening);
                };
                let slot = self.open(now, &mut shard, &opening)?;
                (slot, opening.direction, true)
            }
        };
        let Some(connection) = shard.get_mut(slot) else { return Err(Refused::NoMapping) };
        let timeouts = &self.limits.timeouts;
        if !connection.handle(now, direction, segment.as_ref(), packet.len(), timeouts) {
            self.counters.implausible_resets.fetch_add(1, Ordering::Relaxed);
        }
        let to = connection.translated(direction);
        let translated =
            Translated { connection: connection.original, kind: connection.kind(), direction, new };
        drop(shard);
        rewrite(packet, tuple, &to);
        Ok(translated)
    }

    /// The live connection of a packet: its slot, the packet's direction, and whether the packet
    /// opens it anew.
    fn known(
        &self,
        now: Time,
        path: Path,
        shard: &mut Shard,
        tuple: &Tuple,
        segment: Option<&Segment>,
    ) -> Option<(u32, Direction, bool)> {
        let (slot, direction) = shard.find(self.hash.tuple(tuple), tuple)?;
        let connection = shard.get_mut(slot)?;
        if connection.is_expired(now) {
            self.end(now, shard, &mut self.ledger.lock(), slot);
            return None;
        }
        if !belongs(path, connection.kind(), direction) {
            return None;
        }
        // TIME-WAIT ends early for a new connection (RFC 9293 section 3.6.1), and so does what a
        // RST left behind.
        let new = direction == Direction::Original
            && connection.is_over()
            && segment.is_some_and(Segment::is_syn);
        if new {
            connection.reopen();
            self.counters.opened.fetch_add(1, Ordering::Relaxed);
        }
        Some((slot, direction, new))
    }

    /// What connection a packet of no known flow opens. None when it is to pass untracked.
    fn opening(
        &self,
        path: Path,
        tuple: &Tuple,
        segment: Option<&Segment>,
    ) -> Result<Option<Opening>, Refused> {
        let rules = self.rules.load();
        let syn = segment.is_none_or(Segment::is_syn);
        let mid_stream = self.limits.pick_up_tcp && segment.is_some_and(Segment::is_mid_stream);
        // A SYN-ACK is the second segment, of the side that did not open.
        let picked_up = mid_stream && !segment.is_some_and(Segment::is_syn_ack);
        // An echo reply opens nothing.
        let is_reply = tuple.is_icmp() && tuple.dst_port != 0 && tuple.src_port == 0;
        let original = *tuple;
        match path {
            Path::Outbound { external } => {
                let Some(rule) = rules.masquerade(tuple.src) else {
                    let opens = (syn || mid_stream) && !is_reply;
                    return Ok(opens.then(|| Opening {
                        original,
                        reply: original.reversed(),
                        kind: Kind::Routed,
                        direction: Direction::Original,
                        wants_port: false,
                    }));
                };
                let external = rule.to.unwrap_or(external);
                // A published port is a mapping that was there before: what the container sends
                // from it has the port that it is reached by, and belongs to a flow from outside.
                // This is what carries such a flow through a restart when the container speaks
                // first.
                if let Some(claim) = rules.claim(tuple.protocol, tuple.src, tuple.src_port) {
                    let host = claim.host.unwrap_or(external);
                    if host.is_ipv4() != tuple.src.is_ipv4() {
                        return Err(Refused::NoExternalAddress);
                    }
                    if !syn && !mid_stream {
                        return Err(Refused::NotOpening);
                    }
                    let reversed = tuple.reversed();
                    return Ok(Some(Opening {
                        original: Tuple { dst: host, dst_port: claim.port, ..reversed },
                        reply: *tuple,
                        kind: Kind::Publish(claim.id),
                        direction: Direction::Reply,
                        wants_port: false,
                    }));
                }
                if external.is_ipv4() != tuple.src.is_ipv4() {
                    return Err(Refused::NoExternalAddress);
                }
                if is_reply || !(syn || picked_up) {
                    return Err(Refused::NotOpening);
                }
                Ok(Some(Opening {
                    original,
                    reply: Tuple { dst: external, dst_port: 0, ..original.reversed() },
                    kind: Kind::Masquerade,
                    direction: Direction::Original,
                    wants_port: true,
                }))
            }
            Path::Inbound => {
                let target = rules
                    .published(tuple.protocol, tuple.dst, tuple.dst_port)
                    .ok_or(Refused::NoMapping)?;
                if !(syn || picked_up) {
                    return Err(Refused::NotOpening);
                }
                let reversed = original.reversed();
                Ok(Some(Opening {
                    original,
                    reply: Tuple { src: target.address, src_port: target.port, ..reversed },
                    kind: Kind::Publish(target.id),
                    direction: Direction::Original,
                    wants_port: false,
                }))
            }
            Path::Hairpin => {
                let target = rules
                    .published(tuple.protocol, tuple.dst, tuple.dst_port)
                    .ok_or(Refused::NotPublished)?;
                if !(syn || picked_up) {
                    return Err(Refused::NotOpening);
                }
                Ok(Some(Opening {
                    original,
                    // The asking side's address becomes the one it dialled (RFC 4787 REQ-9), so
                    // that the answer comes back here even from its own network, or from itself.
                    reply: Tuple {
                        src: target.address,
                        src_port: target.port,
                        dst: tuple.dst,
                        dst_port: 0,
                        protocol: tuple.protocol,
                    },
                    kind: Kind::Hairpin(target.id),
                    direction: Direction::Original,
                    wants_port: true,
                }))
            }
        }
    }

    /// Opens a connection, making room for it if need be. It expires at once unless a packet is
    /// counted for it.
    fn open(&self, now: Time, shard: &mut Shard, opening: &Opening) -> Result<u32, Refused> {
        let Opening { original, mut reply, kind, .. } = *opening;
        let mut ledger = self.ledger.lock();
        let inside = match kind {
            Kind::Publish(_) => reply.src,
            Kind::Masquerade | Kind::Routed | Kind::Hairpin(_) => original.src,
        };
        let victim = self.victim(now, shard, &ledger, inside)?;
        if !self.is_vacant(now, shard, &mut ledger, &original) {
            return Err(Refused::TupleInUse);
        }
        let mut shares_port = false;
        if opening.wants_port {
            (reply.dst_port, shares_port) =
                self.external_port(now, shard, &mut ledger, &original, &reply)?;
        } else if !self.is_vacant(now, shard, &mut ledger, &reply) {
            return Err(Refused::TupleInUse);
        }
        if let Some(victim) = victim
            && self.end(now, shard, &mut ledger, victim)
        {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let connection = Connection::new(original, reply, kind, shares_port);
        ledger.open(&connection);
        let closing = connection.clone();
        let Some(slot) = shard.insert(connection, &self.hash) else {
            ledger.close(now, &closing);
            return Err(Refused::TableFull);
        };
        self.len.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    /// The connection that must give way to a new one of `inside`, if the table or the address's
    /// share of it is full. A full share costs its own address; a full table the greediest.
    fn victim(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &Ledger,
        inside: IpAddr,
    ) -> Result<Option<u32>, Refused> {
        // Whether, and if so how willingly, a connection is given up: what is expired first, then
        // what is half open, then what is over.
        let worth = |connection: &Connection| {
            if connection.is_expired(now) {
                Some(2)
            } else if connection.is_half_open() {
                Some(1)
            } else {
                connection.is_over().then_some(0)
            }
        };
        if ledger.count(inside) >= self.limits.max_per_address {
            return shard
                .worst(|connection| worth(connection).filter(|_| connection.inside() == inside))
                .map(Some)
                .ok_or(Refused::QuotaExceeded);
        }
        if self.len.load(Ordering::Relaxed) >= self.limits.max_connections {
            return shard
                .worst(|connection| Some((worth(connection)?, ledger.count(connection.inside()))))
                .map(Some)
                .ok_or(Refused::TableFull);
        }
        Ok(None)
    }

    /// Whether no connection of the shard has this tuple, one that is expired or over having given
    /// way.
    fn is_vacant(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        tuple: &Tuple,
    ) -> bool {
        let Some((slot, _)) = shard.find(self.hash.tuple(tuple), tuple) else { return true };
        let spent = shard
            .get(slot)
            .is_none_or(|connection| connection.is_expired(now) || connection.is_over());
        if spent {
            self.end(now, shard, ledger, slot);
        }
        spent
    }

    /// An external port for a flow, and whether it is somebody else's.
    fn external_port(
        &self,
        now: Time,
        shard: &mut Shard,
        ledger: &mut Ledger,
        original: &Tuple,
        reply: &Tuple,
    ) -> Result<(u16, bool), Refused> {
        let endpoint = endpoint(original, reply.dst);
        let with = |port| Tuple { dst_port: port, ..*reply };
        let mut port = ledger.ports.acquire(now, &endpoint);
        if port.is_none() {
            // A connection that is over, and that is the last of its mapping, gives it up.
            let recyclable = shard.worst(|connection| {
                let holder = self::endpoint(&connection.original, connection.reply.dst);
                let fits = connection.has_external_port()
                    && !connection.shares_port
                    && (connection.is_over() || connection.is_expired(now))
                    && (holder.protocol, holder.external) == (endpoint.protocol, endpoint.external)
                    && ledger.ports.connections(&holder) == 1;
                fits.then_some(())
            });
            if let Some(slot) = recyclable {
                self.end(now, shard, ledger, slot);
                self.counters.recycled.fetch_add(1, Ordering::Relaxed);
                port = ledger.ports.acquire(now, &endpoint);
            }
        }
        if let Some(port) = port {
            // Taken only if somebody shares this port towards this very peer.
            if self.is_vacant(now, shard, ledger, &with(port)) {
                return Ok((port, false));
            }
            ledger.ports.release(now, &endpoint);
        }
        if original.protocol == Protocol::TCP {
            for port in ledger.ports.to_share(Protocol::TCP) {
                if self.is_vacant(now, shard, ledger, &with(port)) {
                    ledger.ports.share(Protocol::TCP, endpoint.external, port);
                    self.counters.shared.fetch_add(1, Ordering::Relaxed);
                    return Ok((port, true));
                }
            }
        }
        Err(Refused::PortsExhausted)
    }

    /// An ICMP error: see [`icmp`](crate::icmp) for the picture.
    fn translate_error(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
    ) -> Result<Translated, Refused> {
        let Some(quote) = Quote::parse(packet) else {
            return self.pass(path, packet, Refused::BadQuote);
        };
        let key = quote.tuple.reversed();
        let found = {
            let shard = self.shard(path, &key).lock();
            shard.find(self.hash.tuple(&key), &key).and_then(|(slot, direction)| {
                let connection = shard.get(slot)?;
                let fits = belongs(path, connection.kind(), direction)
                    && !connection.is_expired(now);
                fits.then(|| {
                    let quoted = *connection.tuple(direction.other());
                    (connection.original, connection.kind(), direction, quoted)
                })
            })
        };
        let Some((connection, kind, direction, quoted)) = found else {
            return self.pass(path, packet, Refused::IcmpUnrelated);
        };
        if !icmp::has_valid_checksum(packet) {
            return Err(Refused::BadIcmpChecksum);
        }
        if !quote.has_valid_checksum(packet) {
            return Err(Refused::BadQuote);
        }
        if kind != Kind::Routed {
            // A router outside keeps its address. Of everything else the receiver sees the address
            // it talked to, and nothing of the inside (RFC 5508 REQ-5).
            let src = match path {
                Path::Inbound if packet.src() != key.src => packet.src(),
                _ => quoted.dst,
            };
            quote.rewrite(packet, &quoted, src, quoted.src);
        }
        Ok(Translated { connection, kind, direction, new: false })
    }

    /// A packet that cannot be tracked passes when nothing would have to be translated, and is
    /// refused otherwise.
    fn pass(
        &self,
        path: Path,
        packet: &Packet<'_>,
        refused: Refused,
    ) -> Result<Translated, Refused> {
        let (protocol, src, dst) = (packet.protocol(), packet.src(), packet.dst());
        let rules = self.rules.load();
        match path {
            Path::Outbound { .. }
                if rules.masquerade(src).is_some() || rules.claims_any(protocol, src) =>
            {
                Err(refused)
            }
            Path::Outbound { .. } => Ok(Translated {
                connection: packet.tuple().unwrap_or(Tuple {
                    src,
                    dst,
                    src_port: 0,
                    dst_port: 0,
                    protocol,
                }),
                kind: Kind::Routed,
                direction: Direction::Original,
                new: false,
            }),
            // It may be a piece of a flow's packet, or of the host's own.
            Path::Inbound if refused == Refused::Fragment => Err(Refused::Fragment),
            Path::Inbound if refused == Refused::BadQuote => Err(Refused::BadQuote),
            Path::Inbound => Err(Refused::NoMapping),
            Path::Hairpin
                if refused == Refused::Fragment && rules.publishes_any(protocol, dst) =>
            {
                Err(Refused::Fragment)
            }
            Path::Hairpin => Err(Refused::NotPublished),
        }
    }

    /// Ends connections whose time has passed, and returns how many. The work is bounded: each
    /// call looks at a part of each shard, a sixteenth if that is more than a few hundred, so call
    /// it about once a second. Nothing depends on it but memory and free ports: an expired
    /// connection is dead to packets at once.
    pub fn expire(&self, now: Time) -> usize {
        let mut ended = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let expired = shard.sweep(now);
            if expired.is_empty() {
                continue;
            }
            let mut ledger = self.ledger.lock();
            for slot in expired {
                ended += usize::from(self.end(now, &mut shard, &mut ledger, slot));
            }
        }
        ended
    }

    /// The live connections, in no order. Locks one shard at a time, so it is a picture of no one
    /// moment.
    pub fn connections(&self, now: Time) -> Vec<ConnectionInfo> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.lock();
            let live = shard.iter().filter(|(_, connection)| !connection.is_expired(now));
            all.extend(live.map(|(_, connection)| connection.info(now)));
        }
        all
    }

    /// Connections in the table, expired ones included until they are swept.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: self.len(),
            opened: read(&counters.opened),
            ended: read(&counters.ended),
            evicted: read(&counters.evicted),
            recycled: read(&counters.recycled),
            shared: read(&counters.shared),
            implausible_resets: read(&counters.implausible_resets),
        }
    }

    /// The shard of a packet's flow. It is the one of the far end, which is what both directions
    /// have in common before translation: outside it is the peer, of a hairpin the address of the
    /// host that both sides talk to.
    fn shard(&self, path: Path, tuple: &Tuple) -> &Mutex<Shard> {
        let (address, port) = match path {
            Path::Outbound { .. } => (tuple.dst, tuple.dst_port),
            Path::Inbound => (tuple.src, tuple.src_port),
            Path::Hairpin => (tuple.dst, 0),
        };
        // An ICMP identifier is the asking side's, so the far end has none.
        let port = if tuple.is_icmp() { 0 } else { port };
        &self.shards[self.hash.peer(address, port) as usize % SHARDS]
    }

    /// Ends one connection; false when the slot was empty.
    fn end(&self, now: Time, shard: &mut Shard, ledger: &mut Ledger, slot: u32) -> bool {
        let Some(connection) = shard.remove(slot, &self.hash) else { return false };
        ledger.close(now, &connection);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn end_where(&self, now: Time, condemned: impl Fn(&Connection) -> bool) -> usize {
        let mut ended = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let slots: Vec<u32> = shard
                .iter()
                .filter(|(_, connection)| condemned(connection))
                .map(|(slot, _)| slot)
                .collect();
            if slots.is_empty() {
                continue;
            }
            let mut ledger = self.ledger.lock();
            for slot in slots {
                ended += usize::from(self.end(now, &mut shard, &mut ledger, slot));
            }
        }
        ended
    }
}

/// Whether packets of this direction of such a connection come by this path. One that comes by
/// another has a forged address: a reply from inside, or an inside address on the wire.
fn belongs(path: Path, kind: Kind, direction: Direction) -> bool {
    match (kind, direction) {
        (Kind::Masquerade | Kind::Routed, Direction::Original)
        | (Kind::Publish(_), Direction::Reply) => matches!(path, Path::Outbound { .. }),
        (Kind::Masquerade | Kind::Routed, Direction::Reply)
        | (Kind::Publish(_), Direction::Original) => path == Path::Inbound,
        (Kind::Hairpin(_), _) => path == Path::Hairpin,
    }
}

#[cfg(test)]
mod tests;
