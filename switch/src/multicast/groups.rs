//! Who listens to which group, by port; who routes; and whether anybody keeps asking.

use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use nat::Time;
use parking_lot::RwLock;

use super::wire::{Change, Query, Records};
use crate::config::{PortId, Snooping};
use crate::topology::Member;

/// How often the gateway asks (RFC 3376 section 8.2, RFC 3810 section 9.2).
pub(super) const QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// How long listeners may take to answer (RFC 3376 section 8.3, RFC 3810 section 9.3).
pub(super) const RESPONSE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a report counts: two queries and an answer (RFC 3376 section 8.4, RFC 3810 9.4).
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(260);
/// How long a querier counts that is heard no more (RFC 3376 section 8.5, RFC 3810 9.5).
const QUERIER_INTERVAL: Duration = Duration::from_secs(255);
/// Between the first two queries (RFC 3376 section 8.6, RFC 3810 section 9.6).
const STARTUP_INTERVAL: Duration = Duration::from_secs(31);
/// How long listeners may take when the group's last one may have left (RFC 3376 section 8.8,
/// RFC 3810 section 9.8).
pub(super) const LAST_LISTENER_INTERVAL: Duration = Duration::from_secs(1);
/// Groups that wait for the gateway's question whether someone still listens. When there are more,
/// the rest ages out.
const MAX_QUESTIONS: usize = 64;

/// One network's listeners. Shared by all workers.
#[derive(Debug, Default)]
pub struct Multicast {
    v4: RwLock<Family>,
    v6: RwLock<Family>,
}

/// One port that listens to one group, as [`Multicast::rows`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub group: IpAddr,
    pub port: PortId,
    /// Until it is forgotten, unless it reports again.
    pub left: Duration,
}

/// A port, and until when it counts.
#[derive(Clone, Copy, Debug)]
struct Listener {
    port: PortId,
    until: Time,
}

/// The listeners of one address family. An address of a group is of this family.
#[derive(Debug, Default)]
struct Family {
    groups: HashMap<IpAddr, Vec<Listener>, RandomState>,
    /// How many groups each port listens to.
    held: HashMap<PortId, usize, RandomState>,
    /// Ports with a multicast router: they get every packet and every report.
    routers: Vec<Listener>,
    /// Ports that get every packet, because not all that they listen to is known.
    hungry: Vec<Listener>,
    members: HashSet<PortId, RandomState>,
    /// What was reported is complete from the first time to the second.
    trusted: (Time, Time),
    /// Who else asks, and until when it counts.
    other_querier: Option<(IpAddr, Time)>,
    /// When the gateway asks next, and how often it has.
    next_query: Time,
    asked: u32,
    /// Who left which group, and whether to ask if another station behind the port still listens.
    questions: Vec<(PortId, IpAddr)>,
}

impl Multicast {
    fn family(&self, is_v4: bool) -> &RwLock<Family> {
        if is_v4 { &self.v4 } else { &self.v6 }
    }

    /// Adds the ports that get a packet to `group`, some perhaps twice. False when all ports
    /// should: the group is unknown, or what is known may be out of date.
    pub(crate) fn listeners(&self, now: Time, group: IpAddr, ports: &mut Vec<PortId>) -> bool {
        let family = self.family(group.is_ipv4()).read();
        if !family.is_trusted(now) {
            return false;
        }
        let Some(listeners) = family.groups.get(&group) else {
            return false;
        };
        let all = listeners
            .iter()
            .chain(&family.routers)
            .chain(&family.hungry);
        ports.extend(current(now, all));
        true
    }

    /// Adds the ports that have a router.
    pub(crate) fn routers(&self, now: Time, is_v4: bool, ports: &mut Vec<PortId>) {
        ports.extend(current(now, &self.family(is_v4).read().routers));
    }

    /// A query came in, from the host or by the port of another `router`.
    pub(super) fn handle_query(&self, now: Time, router: Option<PortId>, query: &Query) {
        let mut family = self.family(query.source.is_ipv4()).write();
        match query.group {
            None => {
                // Who has no address asks on behalf of others, and is no router (RFC 4541 section
                // 2.1.1, rule 1 b).
                if query.source.is_unspecified() {
                    return;
                }
                if let Some(port) = router {
                    let until = now + QUERIER_INTERVAL;
                    extend(&mut family.routers, Listener { port, until });
                }
                let lower = family
                    .other_querier
                    .is_none_or(|(other, until)| query.source <= other || until <= now);
                if lower {
                    family.other_querier = Some((query.source, now + QUERIER_INTERVAL));
                }
                family.hear_of_query(now, query.within);
            }
            // Who does not answer in time has gone (RFC 3376 section 6.4.2, twice as long as asked).
            Some(group) => family.shorten(group, now + 2 * query.within, |_| true),
        }
    }

    /// What a station behind the port of `sender` listens to, or no longer.
    pub(super) fn handle_report(
        &self,
        now: Time,
        sender: Member,
        records: Records<'_>,
        limits: &Snooping,
    ) {
        let mut family = self.family(records.is_v4()).write();
        for (change, group) in records {
            match change {
                Change::Join => family.join(now, sender.port, group, limits),
                // The only station there has left.
                Change::Leave if sender.single => family.leave(sender.port, group),
                Change::Leave => family.doubt(now, sender.port, group, limits),
            }
        }
    }

    /// These are the network's ports now. One that is new gets everything until it has surely been
    /// asked and has answered: its reports may have come before it was known.
    pub(crate) fn set_members(&self, now: Time, ports: &HashSet<PortId, RandomState>) {
        for family in [&self.v4, &self.v6] {
            let mut family = family.write();
            family.retain_ports(|port| ports.contains(&port));
            let until = now + QUERY_INTERVAL + RESPONSE_INTERVAL;
            let before = std::mem::replace(&mut family.members, ports.clone());
            let mut new: Vec<PortId> = ports.difference(&before).copied().collect();
            // In an order that is the same in every run of a simulated network.
            new.sort();
            for port in new {
                extend(&mut family.hungry, Listener { port, until });
            }
        }
    }

    /// Forgets everything about ports that `keep` does not hold for.
    pub(crate) fn retain_ports(&self, keep: impl Fn(PortId) -> bool) {
        for family in [&self.v4, &self.v6] {
            family.write().retain_ports(&keep);
        }
    }

    /// Forgets whoever has not reported for too long.
    pub(crate) fn age(&self, now: Time) {
        for family in [&self.v4, &self.v6] {
            if !family.read().is_empty() {
                family.write().retain(|listener| listener.until > now);
            }
        }
    }

    /// Whether it is time for the gateway, of the address `own`, to ask everyone. It is silent while
    /// someone with a lower address asks (RFC 3376 section 6.6.2, RFC 3810 section 7.6.2).
    pub(super) fn poll_query(&self, now: Time, own: IpAddr) -> bool {
        let mut family = self.family(own.is_ipv4()).write();
        let other = family.other_querier;
        if now < family.next_query
            || other.is_some_and(|(address, until)| address < own && until > now)
        {
            return false;
        }
        let interval = match family.asked {
            0 => STARTUP_INTERVAL,
            _ => QUERY_INTERVAL,
        };
        family.asked = family.asked.saturating_add(1);
        family.next_query = now + interval;
        family.hear_of_query(now, RESPONSE_INTERVAL);
        true
    }

    /// The ports where the gateway is to ask for one group.
    pub(super) fn poll_questions(&self, is_v4: bool) -> Vec<(PortId, IpAddr)> {
        let family = self.family(is_v4);
        if family.read().questions.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut family.write().questions)
    }

    /// Who listens to what, in order of group and port.
    pub fn rows(&self, now: Time) -> Vec<Row> {
        let mut rows = Vec::new();
        for family in [&self.v4, &self.v6] {
            for (&group, listeners) in &family.read().groups {
                let counted = listeners.iter().filter(|listener| listener.until > now);
                rows.extend(counted.map(|listener| Row {
                    group,
                    port: listener.port,
                    left: listener.until - now,
                }));
            }
        }
        rows.sort_by_key(|row| (row.group, row.port));
        rows
    }
}

fn current<'a>(
    now: Time,
    listeners: impl IntoIterator<Item = &'a Listener>,
) -> impl Iterator<Item = PortId> {
    let listeners = listeners.into_iter();
    listeners
        .filter(move |listener| listener.until > now)
        .map(|listener| listener.port)
}

/// Adds a listener, or lets it count for longer. True when it is new.
fn extend(listeners: &mut Vec<Listener>, new: Listener) -> bool {
    match listeners
        .iter_mut()
        .find(|listener| listener.port == new.port)
    {
        Some(listener) => {
            listener.until = listener.until.max(new.until);
            false
        }
        None => {
            listeners.push(new);
            true
        }
    }
}

impl Family {
    fn is_trusted(&self, now: Time) -> bool {
        let (from, until) = self.trusted;
        from <= now && now < until
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.routers.is_empty() && self.hungry.is_empty()
    }

    /// Everyone was asked. After a time without a querier, what is known is complete only once they
    /// have answered.
    fn hear_of_query(&mut self, now: Time, within: Duration) {
        if now >= self.trusted.1 {
            self.trusted.0 = now + within.max(RESPONSE_INTERVAL) + Duration::from_secs(1);
        }
        self.trusted.1 = now + QUERIER_INTERVAL;
    }

    fn join(&mut self, now: Time, port: PortId, group: IpAddr, limits: &Snooping) {
        let until = now + MEMBERSHIP_INTERVAL;
        let new = Listener { port, until };
        if let Some(listeners) = self.groups.get_mut(&group)
            && let Some(listener) = listeners.iter_mut().find(|known| known.port == port)
        {
            listener.until = until;
            return;
        }
        let held = self.held.get(&port).copied().unwrap_or(0);
        let is_full = self.groups.len() >= limits.groups && !self.groups.contains_key(&group);
        if held >= limits.groups_per_port || is_full {
            extend(&mut self.hungry, new);
            return;
        }
        self.groups.entry(group).or_default().push(new);
        *self.held.entry(port).or_default() += 1;
    }

    fn leave(&mut self, port: PortId, group: IpAddr) {
        let Some(listeners) = self.groups.get_mut(&group) else {
            return;
        };
        let before = listeners.len();
        listeners.retain(|listener| listener.port != port);
        let left = listeners.len() < before;
        if listeners.is_empty() {
            self.groups.remove(&group);
        }
        if left {
            self.release(port);
        }
    }

    /// One of several stations behind a port has left, and others may still listen. If the gateway
    /// asks, it will know soon; otherwise another querier does, or time will tell.
    fn doubt(&mut self, now: Time, port: PortId, group: IpAddr, limits: &Snooping) {
        let known = self.groups.get(&group);
        let listens = known.is_some_and(|known| known.iter().any(|it| it.port == port));
        if !listens || !limits.querier || self.questions.len() >= MAX_QUESTIONS {
            return;
        }
        if !self.questions.contains(&(port, group)) {
            self.questions.push((port, group));
        }
        // Housekeeping asks within a second.
        let until = now + Duration::from_secs(1) + 2 * LAST_LISTENER_INTERVAL;
        self.shorten(group, until, |listener| listener == port);
    }

    fn shorten(&mut self, group: IpAddr, until: Time, of: impl Fn(PortId) -> bool) {
        let listeners = self.groups.get_mut(&group).into_iter().flatten();
        for listener in listeners.filter(|listener| of(listener.port)) {
            listener.until = listener.until.min(until);
        }
    }

    fn release(&mut self, port: PortId) {
        if let Some(held) = self.held.get_mut(&port) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&port);
            }
        }
    }

    fn retain_ports(&mut self, keep: impl Fn(PortId) -> bool) {
        self.members.retain(|&port| keep(port));
        self.questions.retain(|&(port, _)| keep(port));
        self.retain(|listener| keep(listener.port));
    }

    fn retain(&mut self, keep: impl Fn(&Listener) -> bool) {
        self.routers.retain(&keep);
        self.hungry.retain(&keep);
        let mut released = Vec::new();
        self.groups.retain(|_, listeners| {
            listeners.retain(|listener| {
                let kept = keep(listener);
                if !kept {
                    released.push(listener.port);
                }
                kept
            });
            !listeners.is_empty()
        });
        for port in released {
            self.release(port);
        }
    }
}
