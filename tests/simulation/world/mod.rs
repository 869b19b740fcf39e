//! A world drawn from a seed: networks, hosts and published ports, links with faults, traffic of
//! every kind, and accidents. What holds in every world:
//!
//! - a stream arrives whole and in order, or is cut off; a datagram arrives as it was sent; nobody
//!   ever receives what is another's;
//! - who gets something is who was meant, and sees the source that the documentation says;
//! - what no accident disturbs comes to a good end, whatever the links do;
//! - no frame leaves by the uplink with an inside address, none reaches another network, and where
//!   the wires are sound every checksum is right;
//! - the table of connections keeps its limits and its mappings are a bijection; when all is over
//!   and time has passed, it is empty and every external port is free again.
//!
//! `plan` draws what happens, `accident` lets it, `service` and `flow` are the two ends of the traffic, `check` has
//! what must hold at each moment.

mod accident;
mod check;
mod flow;
mod plan;
mod service;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ipnet::Ipv6Net;
use nat::Protocol;
use switch::config::NetworkId;
use switch::{PortId, Settings};

use self::accident::Step;
use self::check::Place;
use self::flow::{Flow, Outcome, State};
use self::plan::{DATAGRAMS, HOST, HOST6, Plan, STREAMS, Way, What};
use self::service::{Receipt, Service};
use super::{HostId, Seen, Simulation, write_pcapng};

pub use self::plan::Party;

const FIRST_EXTERNAL: u16 = 61_000;
/// What was under way when the rules changed has arrived by then.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// How long a flow that was disturbed may still try.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long any other may take: several neighbours may have to be forgotten and found again, and a
/// retransmission waits up to a minute.
const LONG: Duration = Duration::from_secs(1800);

/// A peer that makes no progress gives up. Rarely the stacks themselves do that to each other: when
/// both of smoltcp's ends send again what the other has, each takes the other's acknowledgement for
/// out of window, for ever; and keep-alives may be all that is sent, and answered, for as long.
const STALL: Duration = Duration::from_secs(300);

/// See the module's description.
pub struct World {
    pub plan: Plan,
    simulation: Simulation,
    /// Who is there, and the how manyth of that name.
    hosts: HashMap<Party, HostId>,
    generations: HashMap<Party, u8>,
    places: HashMap<PortId, Place>,
    names: HashMap<PortId, String>,
    services: Vec<Service>,
    flows: Vec<Flow>,
    /// Whom each published port has led to since when, and the rule's id.
    targets: Vec<Vec<(Duration, Option<Party>)>>,
    rule_ids: u32,
    /// The next source port or identifier of each, of streams and of the others.
    ports: HashMap<(Party, bool), u16>,
    to_do: Vec<(Duration, Step)>,
    /// The last time that connections went: answers under way since before then may come from
    /// another port than was asked, by another rule or by none.
    confused: Duration,
    checked: Duration,
    kept: Option<Vec<Seen>>,
    report: Report,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub complete: usize,
    /// Streams cut off with a reset, as they may be after an accident.
    pub reset: usize,
    /// Streams that only lost frames disturbed, cut off or given up: to be few, and none on sound
    /// wires.
    pub stalled: usize,
    /// Flows that an accident left without an answer.
    pub abandoned: usize,
    /// Frames at the ports of the switch.
    pub frames: u64,
    /// Of all these frames, in order: the same in every run of a seed.
    pub digest: u64,
    /// How much simulated time passed until the last flow was over.
    pub time: Duration,
}

impl World {
    pub fn new(seed: u64) -> World {
        let plan = Plan::draw(seed);
        let settings = Settings {
            workers: 1,
            seed,
            limits: plan.limits.clone(),
            ..Settings::default()
        };
        let external_ports = FIRST_EXTERNAL..=FIRST_EXTERNAL + plan.external_ports - 1;
        let mut simulation = Simulation::new(settings, external_ports, HOST);
        simulation.seen = Some(Vec::new());
        simulation.set_faults(plan.faults);
        let flows = plan.flows.iter().enumerate();
        let flows = flows
            .map(|(id, flow)| Flow::new(id as u32, *flow))
            .collect();
        let accidents = plan.accidents.iter();
        let to_do = accidents.map(|&(at, accident)| (at, Step::Accident(accident)));
        let published = plan.publish.iter();
        let targets = published.map(|publish| vec![(Duration::ZERO, Some(publish.to))]);
        let mut world = World {
            to_do: to_do.collect(),
            targets: targets.collect(),
            simulation,
            hosts: HashMap::new(),
            generations: HashMap::new(),
            places: HashMap::new(),
            names: HashMap::new(),
            services: Vec::new(),
            flows,
            rule_ids: 0,
            ports: HashMap::new(),
            confused: Duration::ZERO,
            checked: Duration::ZERO,
            kept: None,
            report: Report::default(),
            plan,
        };
        world.build();
        world
    }

    fn build(&mut self) {
        for network in 0..self.plan.networks.len() {
            let host = Party::Host { network };
            let subnet = ipnet::Ipv4Net::new(host.address(), 16)
                .expect("a prefix")
                .trunc();
            let gateway = (host.mac(0), host.address());
            let id = self
                .simulation
                .add_network(network_id(network), subnet, gateway, Some(HOST));
            self.simulation
                .add_ipv6_gateway(id, ipv6(host.address6(), 64));
            self.simulation.give(id, ipv6(HOST6, 128));
            self.settle_in(host, id);
            let masquerade = nat::Masquerade {
                source: subnet.into(),
                to: None,
            };
            self.simulation.config.nat.masquerade.push(masquerade);
        }
        let containers: Vec<Party> = self.plan.containers().collect();
        containers.into_iter().for_each(|who| self.arrive(who));
        for index in 0..self.plan.outside {
            let who = Party::Outside(index);
            let id = self.simulation.add_outside(who.mac(0), who.address(), 24);
            self.simulation.give(id, ipv6(who.address6(), 64));
            self.settle_in(who, id);
        }
        self.simulation.add_ipv6_uplink(HOST6);
        self.simulation.route(None, HOST);
        self.simulation.route_ipv6(None, HOST6);
        for index in 0..self.plan.publish.len() {
            self.publish(index, Some(self.plan.publish[index].to));
        }
        self.simulation.configure();
        self.survey();
    }

    /// A container comes, with another MAC than the one before it.
    fn arrive(&mut self, who: Party) {
        let generation = self.generations.entry(who).or_insert(0);
        *generation += 1;
        let network = network_id(who.network().expect("a container has a network"));
        let mac = who.mac(*generation);
        let id = self.simulation.add_container(network, mac, who.address());
        self.simulation
            .add_ipv6_container(id, ipv6(who.address6(), 64));
        // Its datagrams use the ports that its predecessor's did.
        self.ports.remove(&(who, false));
        self.settle_in(who, id);
    }

    fn settle_in(&mut self, who: Party, id: HostId) {
        self.hosts.insert(who, id);
        self.services
            .push(Service::start(&mut self.simulation, who, id));
    }

    /// Leads a published port to a container, by a new rule.
    fn publish(&mut self, index: usize, to: Option<Party>) {
        let published = self.plan.publish[index];
        let rules = &mut self.simulation.config.nat.publish;
        rules.retain(|rule| {
            let found = (rule.protocol, *rule.ports.start(), rule.to.is_ipv6());
            found != (published.protocol, published.port, published.v6)
        });
        if let Some(to) = to {
            self.rule_ids += 1;
            rules.push(nat::Publish {
                id: self.rule_ids,
                protocol: published.protocol,
                host: (!published.everywhere).then(|| plan::host(published.v6)),
                ports: published.port..=published.port,
                to: to.of(published.v6),
                to_port: published.to_port(),
                allow: nat::Sources::default(),
            });
        }
    }

    /// Notes where each port leads.
    fn survey(&mut self) {
        self.places.clear();
        let uplink = self.simulation.uplink();
        self.places.insert(uplink, Place::Uplink);
        self.names.insert(uplink, "uplink".to_owned());
        for (&who, &id) in &self.hosts {
            if who.network().is_some() {
                let port = self.simulation.port(id);
                self.places.insert(port, Place::Inside(who));
                self.names.insert(port, format!("{who:?}"));
            }
        }
    }

    /// Keeps every frame, for [`write_pcapng`](Self::write_pcapng).
    pub fn keep_frames(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// Writes the frames kept until now.
    ///
    /// # Errors
    ///
    /// `to` can't be written.
    pub fn write_pcapng(&self, to: impl io::Write) -> io::Result<()> {
        let frames = self.kept.as_deref().unwrap_or_default();
        write_pcapng(to, frames, |port| {
            self.names.get(&port).cloned().unwrap_or_default()
        })
    }

    /// Lives through all of it.
    ///
    /// # Errors
    ///
    /// Something that must hold did not; the message says what, and when.
    pub fn run(&mut self) -> Result<Report, String> {
        let lived = self.live().and_then(|()| self.fade());
        lived.map_err(|error| format!("at {:?}: {error}", self.simulation.now()))?;
        Ok(self.report)
    }

    /// Until every flow is over and every accident has happened.
    fn live(&mut self) -> Result<(), String> {
        while !self.to_do.is_empty() || self.flows.iter().any(|flow| !flow.is_over()) {
            self.happen()?;
            self.pump()?;
            while self.simulation.settle() {
                self.pump()?;
            }
            self.look()?;
            let flows = self.flows.iter().filter_map(Flow::next);
            let to_do = self.to_do.iter().map(|&(at, _)| at);
            let end = flows.chain(to_do).min();
            let now = self.simulation.now();
            self.simulation.advance(end.unwrap_or(now + LONG));
        }
        self.report.time = self.simulation.now();
        for flow in &self.flows {
            match flow.state {
                State::Over(Outcome::Complete) => self.report.complete += 1,
                State::Over(Outcome::Reset) => self.report.reset += 1,
                _ => self.report.abandoned += 1,
            }
        }
        Ok(())
    }

    fn target(&self, index: usize) -> Option<Party> {
        self.targets[index].last().and_then(|&(_, to)| to)
    }

    /// Both ends of every flow do what they can now.
    fn pump(&mut self) -> Result<(), String> {
        let now = self.simulation.now();
        let mut receipts = Vec::new();
        for service in &mut self.services {
            service.pump(&mut self.simulation, &mut receipts)?;
        }
        for receipt in receipts {
            self.receive(&receipt)?;
        }
        for index in 0..self.flows.len() {
            let flow = &self.flows[index];
            if flow.is_over() {
                continue;
            }
            let to = self.dialled(flow);
            if matches!(flow.state, State::Waiting) {
                if flow.plan.at <= now {
                    self.begin(now, index, to);
                }
                continue;
            }
            let loses = self.plan.faults.loss > 0;
            if flow.give_up <= now {
                let flow = &mut self.flows[index];
                let stalled = loses && matches!(flow.plan.what, What::Stream { .. });
                flow.abandon(&mut self.simulation);
                if !flow.disturbed {
                    if !stalled {
                        return Err(format!("{:?} came to no end", flow.plan));
                    }
                    self.report.stalled += 1;
                }
                continue;
            }
            let flow = &mut self.flows[index];
            // An answer may wait for a neighbour to be found, and be late.
            let confused = flow.disturbed || now < self.confused + IN_FLIGHT;
            let stray = flow.pump(&mut self.simulation, to, confused)?;
            if matches!(flow.state, State::Over(Outcome::Reset)) && !flow.disturbed {
                let stalled = now >= flow.plan.at + STALL && loses;
                if !stalled {
                    return Err(format!("{:?} was cut off", flow.plan));
                }
                self.report.stalled += 1;
            }
            if let Some(stray) = stray {
                self.excuse(index, stray.flow)?;
            }
        }
        Ok(())
    }

    /// Where a flow's client sends.
    fn dialled(&self, flow: &Flow) -> (IpAddr, u16) {
        match flow.plan.way {
            Way::Published { index, dialled } => (dialled, self.plan.publish[index].port),
            Way::Direct(server) => {
                let is_stream = matches!(flow.plan.what, What::Stream { .. });
                let served = if is_stream { STREAMS } else { DATAGRAMS };
                (
                    server.of(flow.plan.v6),
                    served + u16::from(flow.plan.closed),
                )
            }
        }
    }

    fn begin(&mut self, now: Duration, index: usize, to: (IpAddr, u16)) {
        let plan = self.flows[index].plan;
        let about = self.disturbable(&self.flows[index]);
        let served = about
            .server
            .filter(|server| self.hosts.contains_key(server));
        let reachable = match plan.way {
            Way::Published { index, .. } => !self.plan.publish[index].closed,
            Way::Direct(server) => {
                let near = server.network().is_none() || server.network() == plan.client.network();
                near && !plan.closed
            }
        };
        let flow = &mut self.flows[index];
        if served.is_none() || !reachable || self.plan.tight {
            flow.disturbed = true;
        }
        if flow.give_up == Duration::MAX {
            flow.give_up = now + if flow.disturbed { PATIENCE } else { LONG };
        }
        let Some(&host) = self.hosts.get(&plan.client) else {
            flow.state = State::Over(Outcome::Abandoned);
            return;
        };
        let counter = self.ports.entry((plan.client, about.is_stream));
        let port = counter.or_insert(40_000);
        *port += 1;
        flow.start(&mut self.simulation, host, to, *port);
    }

    /// Something came to a service: was it meant for it, and from whom it seems to be?
    fn receive(&mut self, receipt: &Receipt) -> Result<(), String> {
        let Receipt {
            flow: id,
            by,
            from,
            whole,
        } = *receipt;
        let now = self.simulation.now();
        let flow = self.flows.get_mut(id as usize);
        let flow = flow.ok_or_else(|| format!("{by:?} gets flow {id}, which does not exist"))?;
        flow.delivered |= whole;
        let plan = flow.plan;
        let (client, v6) = (plan.client, plan.v6);
        let seen = match plan.way {
            Way::Direct(server) => {
                if server != by
                    || server.network().is_some() && server.network() != client.network()
                {
                    return Err(format!("{by:?} gets {plan:?}"));
                }
                match server {
                    Party::Outside(_) => plan::host(v6),
                    _ => client.of(v6),
                }
            }
            Way::Published { index, dialled } => {
                if !self.led_to(index, by, now) {
                    return Err(format!("{by:?} gets {plan:?}, published elsewhere"));
                }
                match client {
                    Party::Outside(_) => client.of(v6),
                    _ => dialled,
                }
            }
        };
        if from.ip() != seen {
            return Err(format!("{by:?} sees {from} for {seen}, of {plan:?}"));
        }
        Ok(())
    }

    /// Whether a published port leads to `who`, or did so long ago that something may have been
    /// under way.
    fn led_to(&self, index: usize, who: Party, now: Duration) -> bool {
        let targets = &self.targets[index];
        let ends = targets.iter().skip(1).map(|&(since, _)| since);
        let ends = ends.chain([Duration::MAX]);
        let mut spans = targets.iter().zip(ends);
        spans.any(|(&(_, to), end)| to == Some(who) && now <= end.saturating_add(IN_FLIGHT))
    }

    /// A flow got an answer that says to be another's. That may be within a network, where a
    /// container that comes gets what is sent to its address, whoever had it. And when all external
    /// ports are taken, or all connections that there may be, who asks gets that of a flow without
    /// an answer, of whoever holds most: an answer on its way just then comes to him. So it does if
    /// there are few ports and a new switch, which knows none that ought to rest, gives him that one.
    fn excuse(&self, index: usize, other: u32) -> Result<(), String> {
        let (plan, other) = (self.flows[index].plan, self.flows.get(other as usize));
        let excused = other.is_some_and(|other| {
            let within = matches!(other.plan.way, Way::Direct(server)
                if server.network() == other.plan.client.network());
            within && other.plan.client == plan.client
        });
        let stats = self.simulation.datapath().nat().stats();
        let gave_way = stats.recycled + stats.evicted > 0;
        let confused = self.simulation.now() < self.confused + IN_FLIGHT;
        if excused || self.plan.tight && (gave_way || confused) {
            Ok(())
        } else {
            let other = other.map(|other| other.plan);
            Err(format!("{plan:?} gets an answer of {other:?}"))
        }
    }

    /// Looks at what has passed, and now and then at the table.
    fn look(&mut self) -> Result<(), String> {
        let sound = self.plan.faults.corruption == 0;
        let seen = self.simulation.seen.as_mut().map(std::mem::take);
        for frame in seen.into_iter().flatten() {
            self.report.count(&frame);
            let checked = match self.places.get(&frame.port) {
                Some(&place) if frame.sent => check::sent(place, &frame.bytes, sound)
                    .map_err(|error| format!("a frame to {place:?} {error}")),
                _ => Ok(()),
            };
            if let Some(kept) = &mut self.kept {
                kept.push(frame);
            }
            checked?;
        }
        if self.simulation.now() >= self.checked + Duration::from_secs(1) {
            self.checked = self.simulation.now();
            check::table(self.simulation.datapath().nat(), self.simulation.time())?;
        }
        Ok(())
    }

    /// All hosts fall silent, and time passes.
    fn fade(&mut self) -> Result<(), String> {
        let timeouts = &self.plan.limits.timeouts;
        let longest = timeouts.tcp_established + timeouts.port_rest;
        for &id in self.hosts.values() {
            self.simulation.silence(id);
        }
        self.simulation.patience = Duration::from_secs(60);
        let end = self.simulation.now() + longest + Duration::from_secs(3600);
        while self.simulation.now() < end {
            self.simulation.settle();
            self.look()?;
            self.simulation.advance(end);
        }
        let nat = self.simulation.datapath().nat();
        if !nat.is_empty() {
            let left = nat.connections(self.simulation.time());
            return Err(format!("{} connections stay for ever: {left:?}", nat.len()));
        }
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let free = nat.external_ports_free(protocol);
            if free != usize::from(self.plan.external_ports) {
                return Err(format!("{free} external ports of {protocol} are free"));
            }
        }
        Ok(())
    }
}

impl Report {
    /// FNV-1a, eight bytes at a time.
    fn count(&mut self, frame: &Seen) {
        self.frames += 1;
        let words = [frame.at.as_nanos() as u64, u64::from(frame.sent)];
        let blocks = frame.bytes.chunks(8).map(|block| {
            let mut word = [0; 8];
            word[..block.len()].copy_from_slice(block);
            u64::from_le_bytes(word)
        });
        for word in words.into_iter().chain(blocks) {
            self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn ipv6(address: Ipv6Addr, prefix: u8) -> Ipv6Net {
    Ipv6Net::new(address, prefix).expect("a length of a prefix")
}

fn network_id(network: usize) -> NetworkId {
    NetworkId(network as u32 + 1)
}
