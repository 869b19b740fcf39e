//! The verdict on what the engine did with a packet: where it had a choice (the external port, who
//! gives way), the choice is held against the rules.

use nat::{Direction, Kind, Protocol, Refused, Stats, Translated, Tuple};

use super::flow::{Flow, endpoint};
use super::reference::{Expect, Opening};
use super::run::{Outcome, Run, ensure};
use super::wire::Wire;

impl Run {
    /// Holds an outcome against what was expected; what the packet should have become.
    pub(crate) fn judge(
        &mut self,
        before: &Wire,
        expect: Expect,
        outcome: &Outcome,
        port: Option<u16>,
        stats: &Stats,
    ) -> Result<Option<Wire>, String> {
        let agrees = |connection, kind, direction, new| {
            let told = Translated {
                connection,
                kind,
                direction,
                new,
            };
            ensure(*outcome == Ok(told), || format!("expected {told:?}"))
        };
        if !matches!(expect, Expect::Opens(_)) {
            let now = self.nat.stats();
            let counts = |it: &Stats| (it.evicted, it.recycled, it.shared);
            ensure(counts(&now) == counts(stats), || {
                "something gave way to a packet that opens nothing".to_owned()
            })?;
        }
        match expect {
            Expect::Refused(refused) => {
                ensure(*outcome == Err(refused), || format!("expected {refused:?}"))?;
                Ok(None)
            }
            Expect::Untracked(tuple) => {
                agrees(tuple, Kind::Routed, Direction::Original, false)?;
                Ok(Some(before.clone()))
            }
            Expect::Known {
                flow,
                direction,
                new,
                after,
            } => {
                let known = self.model.flows[flow].clone();
                self.model.hear(flow, direction, new, before);
                let after = match known.kind {
                    Kind::HairpinMapped => self.judge_crossing(before, after, outcome)?,
                    _ => Some(after),
                };
                if after.is_some() {
                    agrees(known.original, known.kind, direction, new)?;
                }
                Ok(after)
            }
            Expect::Error {
                connection,
                kind,
                direction,
                after,
            } => {
                agrees(connection, kind, direction, false)?;
                Ok(Some(after))
            }
            Expect::Opens(opening) => self.judge_opening(before, opening, outcome, port, stats),
        }
    }

    fn judge_opening(
        &mut self,
        before: &Wire,
        opening: Opening,
        outcome: &Outcome,
        port: Option<u16>,
        stats: &Stats,
    ) -> Result<Option<Wire>, String> {
        let after = self.nat.stats();
        let mapped = opening.kind == Kind::HairpinMapped;
        // A half is opened even if its packet does not cross the other one.
        let opened = outcome.is_ok() || (mapped && *outcome == Err(Refused::Filtered));
        let port = if mapped && opened {
            let live = self.nat.connections(self.model.now);
            let half = live
                .iter()
                .find(|info| info.kind == opening.kind && info.original == opening.original);
            half.map(|info| info.reply.dst_port)
        } else {
            port.filter(|_| opening.wants_port && opened)
        };
        ensure(!opened || !opening.wants_port || port.is_some(), || {
            "nothing was opened".to_owned()
        })?;
        let hairpin = matches!(opening.kind, Kind::Hairpin(_) | Kind::HairpinMapped);
        let mut reply = opening.reply;
        reply.dst_port = port.unwrap_or(reply.dst_port);

        // How full it was: certainly, and at most.
        let inside = match opening.kind {
            Kind::Publish(_) => reply.src,
            _ => opening.original.src,
        };
        let model = &self.model;
        let of_inside = model
            .flows
            .iter()
            .filter(|it| it.inside() == inside)
            .count();
        let of_ghosts = model
            .ghosts
            .iter()
            .filter(|it| it.inside() == inside)
            .count();
        let limits = &model.limits;
        let quota = of_inside >= limits.max_per_address;
        let perhaps_quota = of_inside + of_ghosts >= limits.max_per_address;
        let perhaps_full = model.flows.len() + model.ghosts.len() >= limits.max_connections;

        let is_one = opening.reply == opening.original;
        let in_use = model.in_use(hairpin, &opening.original)
            || (!opening.wants_port && (is_one || model.in_use(hairpin, &opening.reply)));
        match outcome {
            Err(Refused::QuotaExceeded) => {
                let ports = self.perhaps_port_quota(&opening);
                ensure(perhaps_quota || ports, || {
                    format!("{inside} has {of_inside} connections only")
                })?;
            }
            Err(Refused::TableFull) => ensure(perhaps_full && !quota, || {
                format!("the table has {} connections only", model.flows.len())
            })?,
            Err(Refused::TupleInUse) => ensure(in_use, || "the tuple is free".to_owned())?,
            Err(Refused::PortsExhausted) => {
                ensure(opening.wants_port && !in_use, || {
                    "it needs no port".to_owned()
                })?;
                self.check_exhausted(&opening)?;
            }
            Err(_) if !opened => return Err("expected it to open a connection".to_owned()),
            _ => ensure(!in_use, || "the tuple is in use".to_owned())?,
        }

        // Even if the packet goes the other way.
        self.model.make_way(hairpin, &opening.original);
        let ghosts = self.model.ghosts.len();
        self.end_what_gave_way(&opening, &reply, opened, &after, stats, quota)?;
        if !opened {
            self.model.exorcise(ghosts);
            return Ok(None);
        }
        let evicted = after.evicted > stats.evicted;
        ensure(!evicted || perhaps_quota || perhaps_full, || {
            "a connection was evicted though there was room".to_owned()
        })?;
        let told = Translated {
            connection: opening.original,
            kind: opening.kind,
            direction: opening.direction,
            new: true,
        };
        ensure(outcome.is_err() || *outcome == Ok(told), || {
            format!("expected {told:?}")
        })?;
        let owns = match port {
            Some(port) => self.check_port(&opening, port, after.shared > stats.shared)?,
            None => false,
        };
        ensure(opening.wants_port || after.shared == stats.shared, || {
            "a port was shared for a flow that needs none".to_owned()
        })?;
        self.model.open(&opening, port, owns, before);
        self.model.exorcise(ghosts);
        if owns {
            self.model.settle();
        }
        if mapped {
            return self.judge_crossing(before, before.of(&reply.reversed()), outcome);
        }
        let became = match opening.direction {
            Direction::Original => reply.reversed(),
            Direction::Reply => opening.original.reversed(),
        };
        Ok(Some(before.of(&became)))
    }

    /// What a packet, which is `between` two halves, becomes for its receiver; None if the receiver
    /// has not sent to where it comes from, or has sent the packet itself, and so it was dropped.
    fn judge_crossing(
        &mut self,
        before: &Wire,
        between: Wire,
        outcome: &Outcome,
    ) -> Result<Option<Wire>, String> {
        let (sent, tuple) = (before.tuple(), between.tuple().ok_or("no flow")?);
        let half = self.model.other_half(&tuple).filter(|&half| {
            let receiver = self.model.flows[half].original;
            sent.is_some_and(|sent| (sent.src, sent.src_port) != (receiver.src, receiver.src_port))
        });
        let Some(half) = half else {
            ensure(*outcome == Err(Refused::Filtered), || {
                "it should have been filtered".to_owned()
            })?;
            return Ok(None);
        };
        ensure(outcome.is_ok(), || "it should have crossed".to_owned())?;
        let became = self.model.flows[half].original.reversed();
        self.model.hear(half, Direction::Reply, false, before);
        Ok(Some(before.of(&became)))
    }

    /// Whether the opener's address may have all the external ports that it is allowed.
    fn perhaps_port_quota(&self, opening: &Opening) -> bool {
        let inside = opening.original.src;
        let model = &self.model;
        let all = || model.flows.iter().chain(&model.ghosts);
        let mut ports: Vec<_> = all()
            .filter(|flow| flow.owns && flow.inside() == inside)
            .map(Flow::endpoint)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        // While few are free, eight times as many as are.
        let (protocol, external) = (opening.reply.protocol, opening.reply.dst);
        let held = ports.iter().filter(|it| it.0 == protocol).count();
        let mut used: Vec<_> = all()
            .filter_map(Flow::external)
            .filter(|it| (it.0, it.1) == (protocol, external))
            .collect();
        used.sort_unstable();
        used.dedup();
        let free = model.pool(protocol).len().saturating_sub(used.len());
        let share = held > 0 && held >= 8 * free;
        opening.wants_port && (share || ports.len() >= model.limits.max_ports_per_address)
    }

    /// Takes out of the model what the engine ended to make room, if it might.
    fn end_what_gave_way(
        &mut self,
        opening: &Opening,
        reply: &Tuple,
        opened: bool,
        after: &Stats,
        stats: &Stats,
        quota: bool,
    ) -> Result<(), String> {
        let live = self.nat.connections(self.model.now);
        let evicted = (after.evicted - stats.evicted) as usize;
        let recycled = (after.recycled - stats.recycled) as usize;
        ensure(evicted <= 1 && recycled <= 1, || {
            format!("{evicted} connections evicted and {recycled} recycled for one")
        })?;
        ensure(opened || evicted == 0, || {
            "a connection was evicted for a packet that was refused".to_owned()
        })?;
        let hairpin = matches!(opening.kind, Kind::Hairpin(_) | Kind::HairpinMapped);
        let inside = match opening.kind {
            Kind::Publish(_) => reply.src,
            _ => opening.original.src,
        };
        let live_of = |flows: &[Flow], whose| {
            let of_him = flows.iter().filter(|it| it.inside() == whose);
            of_him.count()
        };
        let mine = live_of(&self.model.flows, inside);
        let flows = self.model.flows.clone();
        let ghosts = self.model.ghosts.clone();
        // Nobody takes from who would then have less.
        let fair = |flow: &Flow| {
            let whose = flow.inside();
            let his = live_of(&flows, whose) + live_of(&ghosts, whose);
            whose == inside || his >= mine + 2
        };
        let mut others = 0;
        let mut at = 0;
        while at < self.model.flows.len() {
            let flow = &self.model.flows[at];
            if live.iter().any(|info| flow.is(info)) {
                at += 1;
                continue;
            }
            let gone = format!("{} ({:?})", flow.original, flow.kind);
            // One that is over stands in nobody's way, nor in that of a port that is tried.
            let has_tuple = flow.has(&opening.original) || flow.has(reply);
            let stood_in_the_way = flow.is_hairpin() == hairpin
                && (has_tuple && flow.gives_way() || opening.wants_port && flow.is_over());
            let same_pool =
                flow.owns && (flow.reply.protocol, flow.reply.dst) == (reply.protocol, reply.dst);
            let dispensable = flow.is_over() || (flow.is_half_open() && fair(flow));
            // Not before its peer has had time to answer.
            let silent = match flow.unquiet(self.model.now, &self.model.limits) {
                None => true,
                Some((_, address, port)) => port.is_none() && address == inside,
            };
            let may_recycle = recycled == 1 && dispensable && same_pool && silent;
            let may_evict = evicted == 1 && dispensable && (!quota || flow.inside() == inside);
            ensure(stood_in_the_way || may_recycle || may_evict, || {
                format!("{gone} ended without a cause")
            })?;
            if !stood_in_the_way {
                others += 1;
            }
            // Till the port is judged: it may have been chosen before this one gave way.
            self.model.lay(at);
        }
        ensure(others <= evicted + recycled, || {
            format!("{others} connections gave way to one")
        })
    }

    /// Whether an opening may be refused for want of a port.
    fn check_exhausted(&self, opening: &Opening) -> Result<(), String> {
        let model = &self.model;
        let (protocol, external) = (opening.reply.protocol, opening.reply.dst);
        let hairpin = matches!(opening.kind, Kind::Hairpin(_) | Kind::HairpinMapped);
        let endpoint = endpoint(&opening.original, &opening.reply);
        let usable = |port| {
            let mut reply = opening.reply;
            reply.dst_port = port;
            !model.in_use(hairpin, &reply)
                && !model.is_unquiet(hairpin, &reply)
                && model.is_quiet((protocol, external, port))
        };
        for flow in model
            .flows
            .iter()
            .filter(|it| it.owns && it.endpoint() == endpoint)
        {
            let port = flow.reply.dst_port;
            ensure(!usable(port), || format!("it has port {port}"))?;
        }
        for &port in model.pool(protocol) {
            let free = model.is_surely_free((protocol, external, port));
            ensure(!(free && usable(port)), || format!("port {port} is free"))?;
            let shares = matches!(protocol, Protocol::TCP | Protocol::UDP);
            ensure(!shares || !usable(port), || {
                format!("port {port} could be shared")
            })?;
        }
        Ok(())
    }

    /// Whether an opening may have got this port, and whether it is its endpoint's mapping.
    fn check_port(&self, opening: &Opening, port: u16, shared: bool) -> Result<bool, String> {
        let model = &self.model;
        let (protocol, external) = (opening.reply.protocol, opening.reply.dst);
        let key = |port| (protocol, external, port);
        let pool = model.pool(protocol);
        let hairpin = matches!(opening.kind, Kind::Hairpin(_) | Kind::HairpinMapped);
        let wanted = endpoint(&opening.original, &opening.reply);
        let usable = |port| {
            let mut reply = opening.reply;
            reply.dst_port = port;
            !model.in_use(hairpin, &reply)
        };
        ensure(pool.contains(&port), || {
            format!("port {port} is not in the pool")
        })?;
        ensure(model.published(protocol, external, port).is_none(), || {
            format!("port {port} is published")
        })?;
        ensure(usable(port), || {
            format!("port {port} is taken towards this peer")
        })?;
        ensure(!model.may_be_misdelivered(key(port), wanted), || {
            format!("answers to another's flow may still come in at port {port}")
        })?;
        let quiet = |port| {
            let mut reply = opening.reply;
            reply.dst_port = port;
            model.is_quiet(key(port)) && !model.is_unquiet(hairpin, &reply)
        };
        let free = || {
            let all = pool.iter().copied();
            all.filter(|&port| model.is_surely_free(key(port)) && usable(port) && quiet(port))
        };

        let mapping = model
            .flows
            .iter()
            .find(|flow| flow.owns && flow.endpoint() == wanted)
            .map(|flow| flow.reply.dst_port);
        if let Some(mapping) = mapping
            && usable(mapping)
            && (port == mapping || quiet(mapping))
        {
            // RFC 4787 REQ-1.
            ensure(port == mapping && !shared, || {
                format!("its endpoint has port {mapping}, it got {port}")
            })?;
            return Ok(true);
        }
        let somebody_elses = model.users(key(port)).any(|flow| flow.endpoint() != wanted);
        let of_wanted = |flow: &&Flow| flow.owns && flow.endpoint() == wanted;
        let lost = || {
            model
                .ghosts
                .iter()
                .filter(of_wanted)
                .map(|flow| flow.reply.dst_port)
        };
        if !shared && mapping.is_none() && lost().any(|lost| lost == port) {
            // The mapping that it had lives on with an expired connection, sharers and all; unless
            // it has another, which is taken, and got this one instead.
            return Ok(somebody_elses || lost().all(usable));
        }
        if shared || somebody_elses {
            let may_share = matches!(protocol, Protocol::TCP | Protocol::UDP);
            ensure(shared && may_share, || {
                format!("port {port} is somebody else's")
            })?;
            ensure(
                free().next().is_none() || self.perhaps_port_quota(opening),
                || {
                    format!(
                        "port {port} is shared, and {} is free",
                        free().next().unwrap_or(0)
                    )
                },
            )?;
            return Ok(false);
        }
        if mapping.is_some() {
            // Its own port is taken towards this peer, so it has another for this flow.
            return Ok(false);
        }
        if lost().next().is_some() {
            // It may be that mapping which decides, and it may be gone.
            return Ok(lost().all(usable));
        }
        // RFC 6888 REQ-8: a freed port rests while others are free; RFC 4787 REQ-4: parity.
        let rest = model.limits.timeouts.port_rest;
        let rested = |port| {
            model
                .last_freed(key(port))
                .is_none_or(|freed| model.now - freed.latest >= rest)
        };
        let rests = model
            .last_freed(key(port))
            .is_some_and(|freed| model.now - freed.earliest < rest);
        let parity = |port: u16| port % 2 == wanted.3 % 2;
        // In the model the port is not yet taken.
        let mut better = free().filter(|&other| other != port && rested(other));
        let better = better.find(|&other| rests || (parity(other) && !parity(port)));
        ensure(better.is_none(), || {
            let why = if rests {
                "rests"
            } else {
                "has the wrong parity"
            };
            format!("port {port} {why}, and {} is free", better.unwrap_or(0))
        })?;
        Ok(true)
    }
}
