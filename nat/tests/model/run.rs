//! The engine and the reference side by side: each step is done to both.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use nat::{
    Checksum, Direction, Limits, Masquerade, Nat, Packet, Path, Protocol, Publish, Refused, Rules,
    Sources, Translated,
};

use super::ops::*;
use super::reference::Reference;
use super::wire::{ACK, Body, Damage, FIN, Keep, SYN, Segment, Wire};

/// A packet that passed, kept to be answered or complained about.
#[derive(Clone)]
struct Passed {
    path: Path,
    before: Wire,
    after: Wire,
}

pub(crate) struct Run {
    pub(crate) nat: Nat,
    pub(crate) model: Reference,
    passed: Vec<Passed>,
    next_rule: u32,
    /// The table of a failing case.
    rows: String,
}

pub(crate) type Outcome = Result<Translated, Refused>;

pub(crate) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn masquerade(mode: usize) -> Vec<Masquerade> {
    let rule = |source: &str, to: Option<&str>| Masquerade {
        source: source.parse().unwrap(),
        to: to.map(ip),
    };
    match mode {
        0 => vec![rule("10.0.0.0/24", None), rule("fd00::/64", None)],
        1 => vec![
            rule("10.0.0.0/24", None),
            rule("10.0.0.2/32", Some(HOSTS[1])),
            rule("fd00::/64", None),
        ],
        _ => vec![rule("10.0.0.3/32", None)],
    }
}

fn way(path: Path) -> &'static str {
    match path {
        Path::Outbound { .. } => "out",
        Path::Inbound => "in",
        Path::Hairpin => "hairpin",
    }
}

impl Run {
    pub(crate) fn new(setup: &Setup) -> Run {
        let limits = Limits {
            max_connections: setup.max_connections,
            max_per_address: setup.max_per_address,
            max_ports_per_address: setup.max_ports_per_address,
            pick_up_tcp: setup.pick_up_tcp,
            ..Limits::default()
        };
        let mut run = Run {
            nat: Nat::new(limits.clone(), setup.seed),
            model: Reference::new(limits),
            passed: vec![],
            next_rule: 1,
            rows: String::new(),
        };
        for (protocol, count) in [
            (Protocol::TCP, setup.tcp_ports),
            (Protocol::UDP, setup.udp_ports),
        ] {
            if count > 0 {
                run.add_ports(protocol, EXTERNAL, count);
            }
        }
        run.set_rules(Rules {
            masquerade: masquerade(0),
            publish: vec![],
            local: LOCAL.iter().map(|text| ip(text)).collect(),
            ..Rules::default()
        });
        run
    }

    /// Does everything, and tells as a table what went wrong.
    pub(crate) fn all(mut self, ops: &[Op]) -> Result<(), String> {
        let result = ops
            .iter()
            .try_for_each(|op| self.step(op))
            .and_then(|()| self.wind_down());
        result.map_err(|problem| format!("{problem}\n\n{}", self.rows))
    }

    fn row(&mut self, way: &str, what: &str) {
        let seconds = self.model.now.as_nanos() / 1_000_000_000;
        _ = writeln!(self.rows, "{seconds:>7} s  {way:<8} {what}");
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Send {
                inside,
                port,
                peer,
                peer_port,
                external,
                content,
            } => {
                let src = ip(INSIDE[inside]);
                let dst = pick(&PEERS, src, peer);
                let ports = (INSIDE_PORTS[port], PEER_PORTS[peer_port]);
                let wire = wire(src, dst, ports, content);
                let external = match external {
                    2 if src.is_ipv4() => ip(HOSTS[2]),
                    2 => ip(HOSTS[0]),
                    at => pick(&HOSTS, src, at),
                };
                self.translate(Path::Outbound { external }, wire)?;
            }
            Op::Dial {
                inside,
                port,
                host,
                host_port,
                content,
            } => {
                let src = ip(INSIDE[inside]);
                let (dst, host_port) = self.door(content.protocol(), src, host, host_port);
                let wire = wire(src, dst, (INSIDE_PORTS[port], host_port), content);
                self.translate(Path::Hairpin, wire)?;
            }
            Op::Meet { nth, with, segment } => self.meet(nth, with, segment)?,
            Op::Arrive {
                peer,
                peer_port,
                host,
                host_port,
                straight,
                content,
            } => {
                let src = ip(PEERS[peer]);
                let wire = if straight {
                    let ports = (PEER_PORTS[peer_port], INSIDE_PORTS[host]);
                    wire(src, pick(&INSIDE, src, host), ports, content)
                } else {
                    let (dst, host_port) = self.door(content.protocol(), src, host, host_port);
                    wire(src, dst, (PEER_PORTS[peer_port], host_port), content)
                };
                self.translate(Path::Inbound, wire)?;
            }
            Op::Elsewhere { nth, to, to_port } => {
                if let Some(passed) = self.passed(nth)
                    && let Some(mut tuple) = passed.before.tuple()
                {
                    match passed.path {
                        Path::Outbound { .. } => tuple.dst = pick(&PEERS, tuple.src, to),
                        _ => {
                            let door = self.door(tuple.protocol, tuple.src, to, to);
                            (tuple.dst, tuple.dst_port) = door;
                        }
                    }
                    if matches!(passed.path, Path::Outbound { .. }) && !tuple.is_icmp() {
                        tuple.dst_port = PEER_PORTS[to_port];
                    }
                    self.translate(passed.path, passed.before.of(&tuple))?;
                }
            }
            Op::Again { nth, segment } => {
                if let Some(passed) = self.passed(nth) {
                    self.translate(passed.path, passed.before.with(segment))?;
                }
            }
            Op::Answer { nth, segment } => {
                if let Some(passed) = self.passed(nth) {
                    self.answer(&passed, segment)?;
                }
            }
            Op::Handshake { nth } => self.converse(
                nth,
                &[
                    (Direction::Original, SYN, 100, 0),
                    (Direction::Reply, SYN | ACK, 900, 101),
                    (Direction::Original, ACK, 101, 901),
                ],
            )?,
            Op::Close { nth, again } => {
                let segments = [
                    (Direction::Original, FIN | ACK, 101, 901),
                    (Direction::Reply, FIN | ACK, 901, 102),
                    (Direction::Original, ACK, 102, 902),
                    (Direction::Original, SYN, 5000, 0),
                ];
                let count = if again { 4 } else { 3 };
                self.converse(nth, &segments[..count])?;
            }
            Op::Complain {
                nth,
                which,
                router,
                astray,
                keep,
                damage,
            } => {
                if let Some(passed) = self.passed(nth) {
                    self.complain(&passed, which, router, astray, keep, damage)?;
                }
            }
            Op::Forge { nth, translated } => {
                if let Some(passed) = self.passed(nth) {
                    let wire = if translated {
                        passed.after
                    } else {
                        passed.before
                    };
                    // To an address of the host it would be no forgery, or one that the caller's
                    // routes and spoof guard keep out.
                    if !HOSTS.iter().any(|host| ip(host) == wire.dst) {
                        self.translate(Path::Inbound, wire)?;
                    }
                }
            }
            Op::Wait { seconds } => {
                self.model.wait(Duration::from_secs(seconds));
                self.row("wait", &format!("{seconds} s"));
            }
            Op::Sweep => self.sweep()?,
            Op::Publish {
                protocol,
                host,
                first,
                width,
                to,
                to_port,
                allow,
                ahead,
            } => {
                let id = self.next_rule;
                self.next_rule += 1;
                let publish = Publish {
                    id,
                    protocol,
                    host: host.map(|at| ip(HOSTS[at])),
                    ports: first..=first + width - 1,
                    to: ip(INSIDE[to]),
                    to_port: if protocol == Protocol::SCTP {
                        // It keeps its port; another one is no rule.
                        first + to_port as u16
                    } else {
                        INSIDE_PORTS[to_port]
                    },
                    allow: allow.map_or_else(Sources::default, |at| {
                        let networks = ALLOWED[at].iter().map(|text| text.parse().unwrap());
                        Sources::new(&networks.collect::<Vec<_>>())
                    }),
                };
                let mut rules = self.model.rules.clone();
                let at = if ahead { 0 } else { rules.publish.len() };
                rules.publish.insert(at, publish);
                self.set_rules(rules);
            }
            Op::Withdraw { nth } => {
                let mut rules = self.model.rules.clone();
                if !rules.publish.is_empty() {
                    rules.publish.remove(nth % rules.publish.len());
                    self.set_rules(rules);
                }
            }
            Op::Masquerade { mode } => {
                let rules = self.model.rules.clone();
                self.set_rules(Rules {
                    masquerade: masquerade(mode),
                    ..rules
                });
            }
            Op::Forget { inside } => {
                self.row("forget", INSIDE[inside]);
                let ended = self.nat.forget(self.model.now, ip(INSIDE[inside]));
                let (live, ghosts) = self.model.forget(ip(INSIDE[inside]));
                ensure((live..=live + ghosts).contains(&ended), || {
                    format!("forget ended {ended} flows, the model {live} (and {ghosts} expired)")
                })?;
            }
            Op::AddPorts { udp, first, width } => self.add_ports(protocol(udp), first, width),
        }
        match op {
            Op::Wait { .. }
            | Op::Sweep
            | Op::Publish { .. }
            | Op::Withdraw { .. }
            | Op::Masquerade { .. }
            | Op::Forget { .. }
            | Op::AddPorts { .. } => self.check(),
            // Checked packet by packet.
            _ => Ok(()),
        }
    }

    fn passed(&self, nth: usize) -> Option<Passed> {
        let recent = self.passed.iter().rev().take(30);
        recent.clone().nth(nth % recent.len().max(1)).cloned()
    }

    /// From where a packet to the world came, to where another one left.
    fn meet(&mut self, nth: usize, with: usize, segment: Segment) -> Result<(), String> {
        let went_out = |passed: &&Passed| matches!(passed.path, Path::Outbound { .. });
        let recent: Vec<Passed> = self
            .passed
            .iter()
            .rev()
            .filter(went_out)
            .take(8)
            .cloned()
            .collect();
        let Some(from) = recent.get(nth % recent.len().max(1)) else {
            return Ok(());
        };
        let Some(to) = recent.get(with % recent.len()) else {
            return Ok(());
        };
        let (Some(mut tuple), Some(outside)) = (from.before.tuple(), to.after.tuple()) else {
            return Ok(());
        };
        if !HOSTS.iter().any(|host| ip(host) == outside.src) || tuple.is_icmp() {
            return Ok(());
        }
        if outside.src.is_ipv4() != tuple.src.is_ipv4() || outside.is_icmp() {
            return Ok(());
        }
        (tuple.dst, tuple.dst_port) = (outside.src, outside.src_port);
        let wire = from.before.of(&tuple).with(segment);
        self.translate(Path::Hairpin, wire)?;
        Ok(())
    }

    /// An address and a port of the host: mostly where something answers.
    fn door(&self, protocol: Protocol, like: IpAddr, host: usize, at: usize) -> (IpAddr, u16) {
        let some = pick(&HOSTS, like, host);
        let rules = self.model.rules.publish.iter();
        let fits =
            |rule: &&Publish| rule.protocol == protocol && rule.to.is_ipv4() == like.is_ipv4();
        let open: Vec<(IpAddr, u16)> = rules
            .filter(fits)
            .flat_map(|rule| {
                let address = rule.host.filter(|host| host.is_ipv4() == like.is_ipv4());
                rule.ports
                    .clone()
                    .map(move |port| (address.unwrap_or(some), port))
            })
            .collect();
        match at {
            // It may be published or not.
            0..4 => (some, PUBLISHED + at as u16),
            _ if open.is_empty() => (some, PUBLISHED),
            _ => open[at % open.len()],
        }
    }

    fn set_rules(&mut self, rules: Rules) {
        let mut what = format!("{} masquerade rules;", rules.masquerade.len());
        for rule in &rules.publish {
            let host = rule.host.map_or("*".to_owned(), |host| host.to_string());
            let (ports, to) = (&rule.ports, (rule.to, rule.to_port));
            let to = std::net::SocketAddr::from(to);
            _ = write!(
                what,
                " #{} {host} {ports:?} > {to}/{}",
                rule.id, rule.protocol
            );
        }
        self.row("rules", &what);
        self.nat.set_rules(self.model.now, rules.clone());
        self.model.set_rules(rules);
    }

    fn add_ports(&mut self, protocol: Protocol, first: u16, width: u16) {
        let ports = first..=first + width - 1;
        self.row("ports", &format!("{ports:?}/{protocol}"));
        self.nat.add_external_ports(protocol, ports.clone());
        self.model.add_ports(protocol, ports);
    }

    fn sweep(&mut self) -> Result<(), String> {
        let ended = self.nat.expire(self.model.now);
        let ghosts = self.model.ghosts.len();
        self.row("sweep", &format!("{ended} ended"));
        self.model.sweep();
        ensure(ended <= ghosts, || {
            format!("a sweep ended {ended} flows, of which the model has only {ghosts} expired")
        })
    }

    /// Segments of a TCP conversation, if the packet is of one.
    fn converse(
        &mut self,
        nth: usize,
        segments: &[(Direction, u8, u32, u32)],
    ) -> Result<(), String> {
        let is_tcp = |passed: &&Passed| passed.before.segment().is_some();
        let recent = self.passed.iter().rev().filter(is_tcp).take(30);
        let Some(mut current) = recent.clone().nth(nth % recent.count().max(1)).cloned() else {
            return Ok(());
        };
        for &(direction, flags, sequence, acknowledgement) in segments {
            let segment = Segment {
                flags,
                sequence,
                acknowledgement,
                payload: 0,
                window: 0x2000,
                scale: None,
            };
            if direction == Direction::Reply {
                self.answer(&current, segment)?;
                continue;
            }
            let before = current.before.clone().with(segment);
            let Some(after) = self.translate(current.path, before)? else {
                return Ok(());
            };
            current.after = after;
        }
        Ok(())
    }

    /// The way of the answers to a packet.
    fn way_back(passed: &Passed) -> Path {
        match passed.path {
            Path::Outbound { .. } => Path::Inbound,
            Path::Inbound => Path::Outbound {
                external: pick(&HOSTS, passed.after.src, 0),
            },
            Path::Hairpin => Path::Hairpin,
        }
    }

    fn answer(&mut self, passed: &Passed, segment: Segment) -> Result<(), String> {
        if let Some(answer) = passed.after.answer(segment) {
            self.translate(Run::way_back(passed), answer)?;
        }
        Ok(())
    }

    fn complain(
        &mut self,
        passed: &Passed,
        which: usize,
        router: bool,
        astray: bool,
        keep: Keep,
        damage: Damage,
    ) -> Result<(), String> {
        let quoted = passed.after.clone();
        let path = Run::way_back(passed);
        let src = match (router, path) {
            (true, Path::Inbound) if quoted.src.is_ipv4() => ip("203.0.113.1"),
            (true, Path::Inbound) => ip("2001:db8:f::1"),
            (true, _) => pick(&INSIDE, quoted.src, 1),
            (false, _) => quoted.dst,
        };
        // A hairpin goes to the host in any case.
        let dst = match path {
            Path::Hairpin if astray => pick(&HOSTS, quoted.src, 1),
            Path::Inbound if astray => pick(&HOSTS, quoted.src, 1),
            _ if astray => pick(&PEERS, quoted.src, 1),
            _ => quoted.src,
        };
        let body = Body::Error {
            which,
            quoted: Box::new(quoted),
            keep,
            damage,
        };
        self.translate(path, Wire { src, dst, body })?;
        Ok(())
    }

    /// Hands a packet to both. What it became, if it passed.
    fn translate(&mut self, path: Path, before: Wire) -> Result<Option<Wire>, String> {
        self.model.meet(path, &before);
        let expect = self.model.expect(path, &before);
        let stats = self.nat.stats();
        let sent = before.bytes();
        let mut bytes = sent.clone();
        let (outcome, port) = {
            let mut packet = Packet::parse(&mut bytes, Checksum::Complete)
                .map_err(|malformed| format!("{before}: {malformed}"))?;
            let outcome = self.nat.translate(self.model.now, path, &mut packet);
            let port = packet.tuple().map(|tuple| tuple.src_port);
            (outcome, port)
        };
        let fate = match &outcome {
            Ok(_) if bytes == sent => "as it is".to_owned(),
            Ok(_) => format!("port {} {}", port.unwrap_or(0), summary(&bytes)),
            Err(refused) => format!("{refused:?}"),
        };
        self.row(way(path), &format!("{before}  ->  {fate}"));
        let expected = format!("{expect:?}");
        let after = self
            .judge(&before, expect, &outcome, port, &stats)
            .map_err(|problem| format!("{problem}\n  engine: {outcome:?}\n  model:  {expected}"))?;
        let Some(after) = after else {
            ensure(bytes == sent, || "a refused packet was changed".to_owned())?;
            return Ok(None);
        };
        ensure(bytes == after.bytes(), || {
            format!(
                "the packet should have become {after}\n  engine: {bytes:02x?}\n  model:  {:02x?}",
                after.bytes()
            )
        })?;
        self.passed.push(Passed {
            path,
            before,
            after: after.clone(),
        });
        self.check()?;
        Ok(Some(after))
    }

    /// After everything has expired, each port can be had again.
    fn wind_down(&mut self) -> Result<(), String> {
        let day = Duration::from_secs(24 * 3600);
        self.step(&Op::Wait {
            seconds: day.as_secs(),
        })?;
        self.sweep()?;
        self.check()?;
        ensure(self.nat.is_empty(), || "something never expires".to_owned())?;
        let rest = self.model.limits.timeouts.port_rest;
        self.step(&Op::Wait {
            seconds: rest.as_secs(),
        })?;
        self.step(&Op::Masquerade { mode: 0 })?;
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let ports = self.model.pool(protocol).len();
            let room = self.model.limits.max_connections;
            // A few more than there are. Of a big pool a part, for the time it takes.
            for at in 0..(ports + 2).min(room).min(16) {
                let src = IpAddr::from([10, 0, 0, 100 + at as u8]);
                let content = if protocol == Protocol::UDP {
                    Content::Udp {
                        payload: 0,
                        unsummed: false,
                    }
                } else {
                    Content::Tcp(Segment {
                        flags: SYN,
                        sequence: 0,
                        acknowledgement: 0,
                        payload: 0,
                        window: 0x2000,
                        scale: None,
                    })
                };
                let wire = wire(src, ip(PEERS[0]), (4242, 80), content);
                let external = ip(HOSTS[0]);
                let passed = self.translate(Path::Outbound { external }, wire)?;
                ensure(passed.is_some() == (at < ports), || {
                    format!("port {} of {ports} {protocol} ports", at + 1)
                })?;
            }
            self.nat.flush(self.model.now, |_| false);
            self.model.flush();
            self.check()?;
        }
        Ok(())
    }
}

fn wire(src: IpAddr, dst: IpAddr, ports: (u16, u16), content: Content) -> Wire {
    let (src_port, dst_port) = ports;
    let body = match content {
        Content::Tcp(segment) => Body::Tcp {
            src_port,
            dst_port,
            segment,
        },
        Content::Udp { payload, unsummed } => Body::Udp {
            src_port,
            dst_port,
            payload,
            unsummed,
        },
        Content::Echo { request, id } => Body::Echo { request, id },
        Content::Sctp => Body::Sctp { src_port, dst_port },
        Content::Gre => Body::Gre,
        Content::Other => Body::Other,
        Content::Fragment => Body::Fragment,
    };
    Wire { src, dst, body }
}

/// A translated packet for people: its flow, or else its addresses.
fn summary(bytes: &[u8]) -> String {
    let mut copy = bytes.to_vec();
    match Packet::parse(&mut copy, Checksum::Complete) {
        Ok(packet) => match packet.tuple() {
            Some(tuple) => tuple.to_string(),
            None => format!("{} > {}", packet.src(), packet.dst()),
        },
        Err(malformed) => malformed.to_string(),
    }
}
