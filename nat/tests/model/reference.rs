//! The naive NAT: lists and linear search. It says what must become of a packet, and leaves open
//! only what the engine is free to choose: which external port, and who gives way when all is full.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use nat::{Direction, Kind, Limits, Path, Protocol, Publish, Refused, Rules, Time, Tuple};

use super::flow::{Endpoint, External, Flow, Unquiet, has_external_ports};
use super::ops::{HOSTS, ip};
use super::tcp::{Heard, makes_sense};
use super::wire::{ACK, Body, Damage, Keep, RST, SYN, Segment, Wire};

/// A connection that a packet asks for.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) original: Tuple,
    /// With `dst_port` 0 if the engine is to choose it.
    pub(crate) reply: Tuple,
    pub(crate) kind: Kind,
    pub(crate) direction: Direction,
    pub(crate) wants_port: bool,
}

/// What must become of a packet.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    Refused(Refused),
    /// Passes as it is, and no connection knows of it.
    Untracked(Tuple),
    Known {
        flow: usize,
        direction: Direction,
        /// Its connection was over, and it opens it anew.
        new: bool,
        /// What it becomes; of a half, between the two.
        after: Wire,
    },
    Opens(Opening),
    Error {
        connection: Tuple,
        kind: Kind,
        direction: Direction,
        after: Wire,
    },
}

/// When an external port was last freed: not before `earliest`, not after `latest`.
#[derive(Debug, Clone)]
pub(crate) struct Freed {
    pub(crate) external: External,
    pub(crate) earliest: Time,
    pub(crate) latest: Time,
}

pub(crate) struct Reference {
    pub(crate) now: Time,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    /// The external ports of each protocol.
    pools: Vec<(Protocol, Vec<u16>)>,
    pub(crate) flows: Vec<Flow>,
    /// Expired, and perhaps still in the engine's table with its port, till a packet meets it.
    pub(crate) ghosts: Vec<Flow>,
    pub(crate) freed: Vec<Freed>,
    /// External ports of flows that have ended and whose peers may still send.
    unquiet: Vec<(External, Unquiet)>,
    /// RSTs not believed.
    pub(crate) implausible: u64,
    /// Other segments not believed.
    pub(crate) out_of_window: u64,
}

/// A flow from inside that is to be seen as `external`.
fn masqueraded(tuple: Tuple, external: IpAddr, kind: Kind) -> Opening {
    let wants_port = has_external_ports(tuple.protocol);
    Opening {
        original: tuple,
        reply: Tuple {
            dst: external,
            dst_port: if wants_port { 0 } else { tuple.src_port },
            ..tuple.reversed()
        },
        kind,
        direction: Direction::Original,
        wants_port,
    }
}

/// The flow of a tuple that comes by this path, and which way it goes.
fn find(flows: &[Flow], path: Path, tuple: &Tuple) -> Option<(usize, Direction)> {
    for (at, flow) in flows.iter().enumerate() {
        for direction in [Direction::Original, Direction::Reply] {
            // From inside come the packets of whoever is inside.
            let from_inside = match flow.kind {
                Kind::Masquerade | Kind::Routed => direction == Direction::Original,
                Kind::Publish(_) => direction == Direction::Reply,
                Kind::Hairpin(_) => false,
                // What crosses it from the other side comes by no path.
                Kind::HairpinMapped if direction == Direction::Reply => continue,
                Kind::HairpinMapped => false,
            };
            let way = match path {
                Path::Hairpin => flow.is_hairpin(),
                Path::Outbound { .. } => !flow.is_hairpin() && from_inside,
                Path::Inbound => !flow.is_hairpin() && !from_inside,
            };
            if way && flow.tuple(direction) == *tuple {
                return Some((at, direction));
            }
        }
    }
    None
}

impl Reference {
    pub(crate) fn new(limits: Limits) -> Reference {
        let identifiers = || (1..=u16::MAX).collect();
        Reference {
            now: Time::ZERO,
            limits,
            rules: Rules::default(),
            pools: vec![
                (Protocol::TCP, vec![]),
                (Protocol::UDP, vec![]),
                (Protocol::ICMP, identifiers()),
                (Protocol::ICMPV6, identifiers()),
            ],
            flows: vec![],
            ghosts: vec![],
            freed: vec![],
            unquiet: vec![],
            implausible: 0,
            out_of_window: 0,
        }
    }

    // The control plane.

    pub(crate) fn add_ports(&mut self, protocol: Protocol, ports: RangeInclusive<u16>) {
        for (of, pool) in &mut self.pools {
            for port in ports.clone() {
                if *of == protocol && !pool.contains(&port) {
                    pool.push(port);
                }
            }
        }
    }

    pub(crate) fn pool(&self, protocol: Protocol) -> &[u16] {
        let found = self.pools.iter().find(|(of, _)| *of == protocol);
        found.map_or(&[], |(_, pool)| pool)
    }

    /// New rules end the flows that they no longer allow. The same rules again are not new: a
    /// routed flow may live beside a port published on addresses that are not its way out, and
    /// ends at a change only because it does not say which way that was.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        if self.rules == rules {
            return;
        }
        self.rules = rules;
        self.end_where(|model, flow| {
            let (original, reply) = (flow.original, flow.reply);
            let Tuple {
                protocol,
                src,
                src_port,
                ..
            } = original;
            let published = |host| {
                let claim = model.claim(original.dst, protocol, src, src_port, host);
                claim.is_some()
            };
            match flow.kind {
                Kind::Publish(id) | Kind::Hairpin(id) => {
                    let leads = model.published(protocol, original.dst, original.dst_port);
                    leads != Some((id, reply.src, reply.src_port)) || !model.allows(id, src)
                }
                Kind::Routed => {
                    let mut hosts = HOSTS.iter().map(|host| ip(host));
                    model.masquerade(src).is_some() || hosts.any(published)
                }
                Kind::Masquerade | Kind::HairpinMapped => {
                    let Some(to) = model.masquerade(src) else {
                        return true;
                    };
                    published(reply.dst) || to.is_some_and(|to| to != reply.dst)
                }
            }
        });
    }

    /// How many live flows of the endpoint there were, and how many ghosts.
    pub(crate) fn forget(&mut self, address: IpAddr) -> (usize, usize) {
        self.end_where(|_, flow| flow.touches(address))
    }

    fn end_where(&mut self, ends: impl Fn(&Reference, &Flow) -> bool) -> (usize, usize) {
        let flows = self.flows.iter();
        let (gone, live): (Vec<Flow>, Vec<Flow>) =
            flows.cloned().partition(|flow| ends(self, flow));
        let ghosts = self.ghosts.iter();
        let (laid, ghosts): (Vec<Flow>, Vec<Flow>) =
            ghosts.cloned().partition(|flow| ends(self, flow));
        self.flows = live;
        self.ghosts = ghosts;
        let counts = (gone.len(), laid.len());
        self.free_ports(&gone);
        self.free_ports(&laid);
        counts
    }

    /// One live flow less, which still holds its port as a ghost.
    pub(crate) fn lay(&mut self, flow: usize) {
        let gone = self.flows.remove(flow);
        self.ghosts.push(gone);
    }

    pub(crate) fn flush(&mut self) {
        self.end_where(|_, _| true);
    }

    /// No ghosts but the first `keep`.
    pub(crate) fn exorcise(&mut self, keep: usize) {
        let gone = self.ghosts.split_off(keep);
        self.free_ports(&gone);
    }

    /// No ghosts that have the tuple of a flow that is about to be opened.
    pub(crate) fn make_way(&mut self, hairpin: bool, original: &Tuple) {
        let stands = |flow: &Flow| flow.is_hairpin() == hairpin && flow.original == *original;
        let ghosts = self.ghosts.iter().cloned();
        let (gone, ghosts): (Vec<Flow>, _) = ghosts.partition(stands);
        self.ghosts = ghosts;
        self.free_ports(&gone);
    }

    /// The newest flow has its port for itself: unless others of its endpoint have kept it, it was
    /// free, so no ghost holds it any more.
    pub(crate) fn settle(&mut self) {
        let Some((newest, flows)) = self.flows.split_last() else {
            return;
        };
        let (external, endpoint) = (newest.external(), newest.endpoint());
        let kept = |flow: &Flow| flow.owns && flow.endpoint() == endpoint;
        if flows.iter().chain(&self.ghosts).any(kept) {
            return;
        }
        self.ghosts.retain(|ghost| ghost.external() != external);
    }

    /// Notes which ports these flows, which are no longer listed, leave to nobody.
    fn free_ports(&mut self, gone: &[Flow]) {
        for flow in gone {
            let Some(external) = flow.external() else {
                continue;
            };
            if let Some(unquiet) = flow.unquiet(self.now, &self.limits) {
                self.unquiet.push((external, unquiet));
            }
            if self.users(external).next().is_some() || self.haunted(external) {
                continue;
            }
            // A ghost may have left the engine's table at any time since it expired.
            let earliest = self.now.min(flow.expires);
            match self.freed.iter_mut().find(|it| it.external == external) {
                Some(freed) if freed.latest == self.now => {
                    freed.earliest = freed.earliest.min(earliest);
                }
                Some(freed) => (freed.earliest, freed.latest) = (earliest, self.now),
                None => self.freed.push(Freed {
                    external,
                    earliest,
                    latest: self.now,
                }),
            }
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        let expired = |flow: &Flow| flow.expires <= now;
        self.ghosts
            .extend(self.flows.iter().filter(|flow| expired(flow)).cloned());
        self.flows.retain(|flow| !expired(flow));
    }

    /// The engine has looked at its whole table: no ghost is left in it.
    pub(crate) fn sweep(&mut self) {
        self.exorcise(0);
    }

    // Rules.

    fn publishes(&self) -> impl Iterator<Item = &Publish> {
        let means_something = |publish: &&Publish| {
            let moved = publish.to_port != *publish.ports.start();
            publish
                .host
                .is_none_or(|host| host.is_ipv4() == publish.to.is_ipv4())
                && !(publish.protocol == Protocol::SCTP && moved)
        };
        self.rules.publish.iter().filter(means_something)
    }

    /// The rule with the longest prefix: its fixed external address, if it has one.
    fn masquerade(&self, source: IpAddr) -> Option<Option<IpAddr>> {
        let mut best: Option<(u8, Option<IpAddr>)> = None;
        for rule in &self.rules.masquerade {
            let length = rule.source.prefix_len();
            if rule.source.contains(&source) && best.is_none_or(|(longest, _)| length > longest) {
                best = Some((length, rule.to));
            }
        }
        best.map(|(_, to)| to)
    }

    /// The publish rules that answer on an address of the host, in their order: its own first.
    fn answering(&self, protocol: Protocol, host: IpAddr) -> impl Iterator<Item = &Publish> {
        let of = move |publish: &&Publish| publish.protocol == protocol;
        let own = self.publishes().filter(of);
        let every = self.publishes().filter(of);
        let local = self.rules.local.contains(&host);
        own.filter(move |publish| publish.host == Some(host))
            .chain(every.filter(move |publish| {
                local && publish.host.is_none() && publish.to.is_ipv4() == host.is_ipv4()
            }))
    }

    /// Where a host port leads: rule, address, port.
    pub(crate) fn published(
        &self,
        protocol: Protocol,
        host: IpAddr,
        port: u16,
    ) -> Option<(u32, IpAddr, u16)> {
        let rule = self
            .answering(protocol, host)
            .find(|publish| publish.ports.contains(&port))?;
        Some((rule.id, rule.to, rule.to_port + (port - rule.ports.start())))
    }

    /// Whether a published port is for this source.
    fn allows(&self, rule: u32, source: IpAddr) -> bool {
        let mut rules = self.rules.publish.iter();
        rules.any(|publish| publish.id == rule && publish.allow.allows(source))
    }

    /// The first rule that publishes a container's port, if it is for the peer, and if the host
    /// port, on the address of the route if the rule names none, leads there: rule, host address,
    /// host port.
    fn claim(
        &self,
        peer: IpAddr,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
        external: IpAddr,
    ) -> Option<(u32, IpAddr, u16)> {
        let rule = self.publishes().find(|publish| {
            (publish.protocol, publish.to) == (protocol, address)
                && publish.to_ports().contains(&port)
        })?;
        let host = rule.host.unwrap_or(external);
        let host_port = rule.ports.start() + (port - rule.to_port);
        let leads = self.published(protocol, host, host_port);
        (leads == Some((rule.id, address, port)) && rule.allow.allows(peer))
            .then_some((rule.id, host, host_port))
    }

    // Packets.

    /// An expired connection that would be a packet's is ended by it.
    pub(crate) fn meet(&mut self, path: Path, wire: &Wire) {
        let sensible = wire
            .segment()
            .is_none_or(|segment| makes_sense(segment.flags));
        let tracked = !matches!(wire.body, Body::Error { .. } | Body::Fragment);
        if let Some(tuple) = wire.tuple().filter(|_| sensible && tracked)
            && let Some((at, _)) = find(&self.ghosts, path, &tuple)
        {
            let gone = self.ghosts.remove(at);
            self.free_ports(&[gone]);
        }
    }

    pub(crate) fn expect(&self, path: Path, wire: &Wire) -> Expect {
        match (&wire.body, wire.tuple()) {
            (Body::Error { .. }, _) => self.expect_error(path, wire),
            (Body::Fragment, _) => self.untrackable(path, wire, Refused::Fragment),
            (_, Some(tuple)) => self.expect_flow(path, wire, tuple),
            (_, None) => self.untrackable(path, wire, Refused::UnsupportedProtocol),
        }
    }

    fn expect_flow(&self, path: Path, wire: &Wire, tuple: Tuple) -> Expect {
        let published = self.published(tuple.protocol, tuple.dst, tuple.dst_port);
        let segment = wire.segment();
        if segment.is_some_and(|segment| !makes_sense(segment.flags)) {
            // To the host itself it may go as it is.
            return Expect::Refused(match path {
                Path::Hairpin if published.is_none() => Refused::NotPublished,
                _ => Refused::InvalidTcpFlags,
            });
        }
        let flags = segment.map(|Segment { flags, .. }| flags);
        let is_syn = flags.is_some_and(|flags| flags & (SYN | ACK) == SYN);
        if let Some((at, direction)) = find(&self.flows, path, &tuple) {
            let flow = &self.flows[at];
            let opener = direction == Direction::Original || matches!(flow.kind, Kind::Publish(_));
            return Expect::Known {
                flow: at,
                direction,
                new: opener && is_syn && flow.is_over(),
                after: wire.of(&flow.tuple(direction.other()).reversed()),
            };
        }
        let first = flags.is_none() || is_syn;
        let later = self.limits.pick_up_tcp
            && flags.is_some_and(|flags| flags & ACK != 0 && flags & RST == 0);
        let later_of_opener = later && flags.is_some_and(|flags| flags & SYN == 0);
        let echo_reply = matches!(wire.body, Body::Echo { request: false, .. });
        let reversed = tuple.reversed();
        let refused = |refused| Expect::Refused(refused);
        match path {
            Path::Outbound { external } => {
                let to = self.masquerade(tuple.src);
                let external = to.flatten().unwrap_or(external);
                let claim = self.claim(
                    tuple.dst,
                    tuple.protocol,
                    tuple.src,
                    tuple.src_port,
                    external,
                );
                if let Some((id, host, port)) = claim {
                    if !(first || later) {
                        return refused(Refused::NotOpening);
                    }
                    return Expect::Opens(Opening {
                        original: Tuple {
                            dst: host,
                            dst_port: port,
                            ..reversed
                        },
                        reply: tuple,
                        kind: Kind::Publish(id),
                        direction: Direction::Reply,
                        wants_port: false,
                    });
                }
                if to.is_none() {
                    if echo_reply || !(first || later) {
                        return self.untrackable(path, wire, Refused::NotOpening);
                    }
                    return Expect::Opens(Opening {
                        original: tuple,
                        reply: reversed,
                        kind: Kind::Routed,
                        direction: Direction::Original,
                        wants_port: false,
                    });
                }
                if external.is_ipv4() != tuple.src.is_ipv4() {
                    return refused(Refused::NoExternalAddress);
                }
                if echo_reply || !(first || later_of_opener) {
                    return refused(Refused::NotOpening);
                }
                Expect::Opens(masqueraded(tuple, external, Kind::Masquerade))
            }
            Path::Hairpin if published.is_none() && self.is_external(&tuple) => {
                let Some(to) = self.masquerade(tuple.src) else {
                    return refused(Refused::NotPublished);
                };
                let external = to.unwrap_or(tuple.dst);
                let claim = self.claim(
                    tuple.dst,
                    tuple.protocol,
                    tuple.src,
                    tuple.src_port,
                    external,
                );
                if claim.is_some() {
                    return refused(Refused::Filtered);
                }
                if !(first || later_of_opener) {
                    return refused(Refused::NotOpening);
                }
                Expect::Opens(masqueraded(tuple, external, Kind::HairpinMapped))
            }
            Path::Inbound | Path::Hairpin => {
                let hairpin = path == Path::Hairpin;
                let Some((id, target, port)) = published else {
                    return refused(if hairpin {
                        Refused::NotPublished
                    } else {
                        Refused::NoMapping
                    });
                };
                if !self.allows(id, tuple.src) {
                    return refused(Refused::NotAllowed);
                }
                if !(first || later_of_opener) {
                    return refused(Refused::NotOpening);
                }
                let answer = Tuple {
                    src: target,
                    src_port: port,
                    ..reversed
                };
                Expect::Opens(Opening {
                    original: tuple,
                    reply: if hairpin {
                        // The asking side is seen as the address it dialled (RFC 4787 REQ-9).
                        Tuple {
                            src: target,
                            src_port: port,
                            ..masqueraded(tuple, tuple.dst, Kind::Routed).reply
                        }
                    } else {
                        answer
                    },
                    kind: if hairpin {
                        Kind::Hairpin(id)
                    } else {
                        Kind::Publish(id)
                    },
                    direction: Direction::Original,
                    wants_port: hairpin && has_external_ports(tuple.protocol),
                })
            }
        }
    }

    /// Whether a port of the host is one that masquerading may have given to somebody.
    fn is_external(&self, tuple: &Tuple) -> bool {
        [Protocol::TCP, Protocol::UDP].contains(&tuple.protocol)
            && self.pool(tuple.protocol).contains(&tuple.dst_port)
    }

    /// The flow of the other side, whose packets go from where this one goes to where it comes
    /// from: between two halves.
    pub(crate) fn other_half(&self, between: &Tuple) -> Option<usize> {
        self.flows
            .iter()
            .position(|flow| flow.kind == Kind::HairpinMapped && flow.reply == *between)
    }

    /// A packet that no connection can have passes only where nothing is ever translated.
    fn untrackable(&self, path: Path, wire: &Wire, why: Refused) -> Expect {
        let protocol = wire.protocol();
        match path {
            Path::Outbound { .. } => {
                let publishes = self
                    .publishes()
                    .any(|it| (it.protocol, it.to) == (protocol, wire.src));
                if publishes || self.masquerade(wire.src).is_some() {
                    return Expect::Refused(why);
                }
                Expect::Untracked(wire.tuple().unwrap_or(Tuple {
                    src: wire.src,
                    dst: wire.dst,
                    src_port: 0,
                    dst_port: 0,
                    protocol,
                }))
            }
            Path::Inbound => Expect::Refused(match why {
                Refused::Fragment | Refused::BadQuote => why,
                _ => Refused::NoMapping,
            }),
            Path::Hairpin => {
                let some = self.answering(protocol, wire.dst).next().is_some();
                Expect::Refused(match why {
                    Refused::Fragment if some => why,
                    _ => Refused::NotPublished,
                })
            }
        }
    }

    /// RFC 5508 section 4: an error goes to whoever sent the packet it quotes, and quotes it as it
    /// was sent.
    fn expect_error(&self, path: Path, wire: &Wire) -> Expect {
        let Body::Error {
            which,
            quoted,
            keep,
            damage,
        } = &wire.body
        else {
            return Expect::Refused(Refused::BadQuote);
        };
        let usable = *keep != Keep::Less && quoted.src == wire.dst;
        let Some(tuple) = quoted.tuple().filter(|_| usable) else {
            return self.untrackable(path, wire, Refused::BadQuote);
        };
        // The error takes the way of the answers.
        let Some((at, direction)) = find(&self.flows, path, &tuple.reversed()) else {
            return self.untrackable(path, wire, Refused::IcmpUnrelated);
        };
        let flow = &self.flows[at];
        let mut sent = flow.tuple(direction.other());
        if flow.kind == Kind::HairpinMapped {
            // It crossed its sender's half before.
            let Some(half) = self.other_half(&sent.reversed()) else {
                return self.untrackable(path, wire, Refused::IcmpUnrelated);
            };
            sent = self.flows[half].original;
        }
        match damage {
            Damage::Message => return Expect::Refused(Refused::BadIcmpChecksum),
            Damage::Quote if quoted.src.is_ipv4() => return Expect::Refused(Refused::BadQuote),
            Damage::Quote | Damage::None => (),
        }
        // A router outside keeps its address; what is inside shows the address of the host.
        let stranger = path == Path::Inbound && wire.src != quoted.dst;
        let routed = flow.kind == Kind::Routed;
        Expect::Error {
            connection: flow.original,
            kind: flow.kind,
            direction,
            after: Wire {
                src: if stranger || routed {
                    wire.src
                } else {
                    sent.dst
                },
                dst: sent.src,
                body: Body::Error {
                    which: *which,
                    quoted: Box::new(quoted.of(&sent)),
                    keep: *keep,
                    damage: *damage,
                },
            },
        }
    }

    /// Counts a packet of a known flow.
    pub(crate) fn hear(&mut self, flow: usize, direction: Direction, new: bool, wire: &Wire) {
        let (now, limits) = (self.now, &self.limits);
        let flow = &mut self.flows[flow];
        if new {
            flow.begin_again();
        }
        match flow.hear(now, direction, wire, limits) {
            Heard::Believed => (),
            Heard::OutOfWindow => self.out_of_window += 1,
            Heard::ImplausibleReset => self.implausible += 1,
        }
    }

    /// Adds the flow that a packet has opened.
    pub(crate) fn open(&mut self, opening: &Opening, port: Option<u16>, owns: bool, wire: &Wire) {
        let mut reply = opening.reply;
        if let Some(port) = port {
            reply.dst_port = port;
        }
        self.flows
            .push(Flow::new(opening.original, reply, opening.kind, owns));
        self.hear(self.flows.len() - 1, opening.direction, false, wire);
    }

    // External ports.

    /// The live flows on an external port.
    pub(crate) fn users(&self, external: External) -> impl Iterator<Item = &Flow> {
        let flows = self.flows.iter();
        flows.filter(move |flow| flow.external() == Some(external))
    }

    /// Whether an expired flow may still hold an external port.
    pub(crate) fn haunted(&self, external: External) -> bool {
        let mut ghosts = self.ghosts.iter();
        ghosts.any(|flow| flow.external() == Some(external))
    }

    pub(crate) fn is_surely_free(&self, external: External) -> bool {
        self.users(external).next().is_none() && !self.haunted(external)
    }

    /// Whether nobody has to wait for a port.
    pub(crate) fn is_quiet(&self, external: External) -> bool {
        let mut unquiet = self.unquiet.iter();
        !unquiet.any(|(of, (until, ..))| *of == external && *until > self.now)
    }

    /// Whether an answer to another's flow may still come in at a port, and reach this endpoint.
    pub(crate) fn may_be_misdelivered(&self, external: External, to: Endpoint) -> bool {
        self.unquiet.iter().any(|&(of, (until, address, port))| {
            let its_own = address == to.2 && port.is_none_or(|port| port == to.3);
            of == external && until > self.now && !its_own
        })
    }

    /// Whether a tuple is that of a flow that gives way to everybody but those for whom its peer's
    /// last words might be.
    pub(crate) fn is_unquiet(&self, hairpin: bool, tuple: &Tuple) -> bool {
        self.flows.iter().any(|flow| {
            let same = flow.is_hairpin() == hairpin && flow.has(tuple);
            same && flow.external().is_some() && flow.unquiet(self.now, &self.limits).is_some()
        })
    }

    pub(crate) fn last_freed(&self, external: External) -> Option<&Freed> {
        self.freed.iter().find(|freed| freed.external == external)
    }

    /// Whether a live flow that gives way to nobody has this tuple, on the wire or among hairpins.
    pub(crate) fn in_use(&self, hairpin: bool, tuple: &Tuple) -> bool {
        self.flows
            .iter()
            .any(|flow| flow.is_hairpin() == hairpin && flow.has(tuple) && !flow.gives_way())
    }
}
