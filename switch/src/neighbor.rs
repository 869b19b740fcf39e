//! Next hops beyond the uplinks: who answers at which MAC, found by ARP and neighbour discovery of
//! our own.
//!
//! A frame for an unknown next hop waits here, a few a neighbour, while the question is asked. A
//! known neighbour is asked again once it has been used for a while (RFC 1122 2.3.2.1 wants stale
//! entries flushed), and forgotten when it stays silent. What the host's kernel knows comes in by
//! [`Neighbors::observe`] too.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nat::Time;
use parking_lot::RwLock;

use crate::config::PortId;
use crate::frame::{Frame, MacAddr};
use crate::{arp, nd};

/// How long an answer is trusted before the neighbour is asked again, while still in use.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answer serves at the most when nobody confirms it.
const STALE: Duration = Duration::from_secs(60);
/// At most one question a second to one neighbour (RFC 1122 2.3.2.1).
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How many questions stay unanswered before the frames that wait are dropped.
const ATTEMPTS: u32 = 3;
/// Bytes of frames that wait for one neighbour, of which one asker has half at the most. RFC 1122
/// 2.3.2.2 asks for at least one frame; that half is what Linux holds (`unres_qlen_bytes`), enough for
/// the fragments of two large datagrams.
const WAITING: usize = 2 * 212_992;
/// Bytes that wait in all: more is a scan, or a router that is gone. No asker has more of them than
/// are left free, so however many scan, another one's frame finds room.
const WAITING_IN_ALL: usize = 8 << 20;
/// Neighbours that may be asked for a second on behalf of one port, with as many at once.
pub(crate) const QUESTIONS_PER_SECOND: u32 = 256;
/// What a waiting frame is counted with beyond its bytes: a small one takes a whole buffer again
/// when it leaves.
const OVERHEAD: usize = 1024;
/// Neighbours remembered in all.
const CAPACITY: usize = 4096;
/// Of these, neighbours that have not answered yet. A scan of a big subnet on the link (any IPv6
/// one is) must cost neither the memory nor those that are known (RFC 6583): who is asked for next
/// takes the place of who has been silent longest, of those that the greediest asker wants.
const UNANSWERED: usize = 1024;

/// See the module's description. Shared by all workers.
#[derive(Debug, Default)]
pub struct Neighbors {
    table: RwLock<Table>,
}

type Key = (PortId, IpAddr);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Key, Entry, RandomState>,
    /// Who was asked for without being known, oldest first, until the next tick even once known.
    unanswered: VecDeque<Key>,
    /// Bytes of all frames that wait, as [`cost`] counts them.
    waiting: usize,
    /// And of each asker's.
    waiting_of: HashMap<PortId, usize, RandomState>,
    /// Frames dropped since the last tick, because those that they waited for had to give way.
    lost: usize,
}

#[derive(Debug)]
struct Entry {
    mac: Option<MacAddr>,
    confirmed: Time,
    asked: Time,
    attempts: u32,
    /// The address the question is asked with.
    source: IpAddr,
    /// The port whose frame was first to need it.
    asker: PortId,
    /// Frames with their vnet headers, cut to their own size, and the ports that they came in by.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    asker: PortId,
    raw: Box<[u8]>,
}

/// What to do with a frame for a next hop.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolution {
    Known(MacAddr),
    /// The frame waits in the table. Ask if `ask` says so.
    Waiting {
        ask: bool,
    },
    /// The frame was not taken: too many wait already.
    Full,
}

/// A question that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub uplink: PortId,
    /// An address of the host on that uplink (RFC 4861 7.2.2), so that its kernel knows the asker.
    pub source: IpAddr,
    /// Of the same family. In IPv6 mostly link-local, as routers are known by (RFC 4861 6.3.4).
    pub target: IpAddr,
}

impl Question {
    /// Writes the question into `frame`, whatever it held before, as asked by the uplink's MAC.
    /// False when the families differ, so that it can't be asked.
    pub fn write(&self, mac: MacAddr, frame: &mut Frame) -> bool {
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => arp::ask(frame, (mac, source), target),
            (IpAddr::V6(source), IpAddr::V6(target)) => nd::ask(frame, (mac, source), target),
            _ => return false,
        }
        true
    }
}

/// What a neighbour was heard to say of itself. Everything in ARP is said as an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub mac: Option<MacAddr>,
    /// It answers a question, which proves that it can be reached (RFC 4861 7.3.1).
    pub solicited: bool,
    /// It counts for more than what is known.
    pub overrides: bool,
}

impl Heard {
    /// An answer that says where the neighbour is.
    pub fn answer(mac: MacAddr) -> Heard {
        Heard {
            mac: Some(mac),
            solicited: true,
            overrides: true,
        }
    }
}

/// What is to be done once a second.
#[derive(Debug, Default)]
pub struct Due {
    /// Questions to ask again.
    pub questions: Vec<Question>,
    /// Frames whose next hop did not answer, with the question; each as [`Frame::raw`] gave it.
    pub unanswered: Vec<(Question, Box<[u8]>)>,
    /// Frames dropped because those that they waited for had to give way.
    pub lost: usize,
}

impl Neighbors {
    /// The MAC of `target` beyond `uplink`, for a frame that came in by the port `asker`. When it
    /// has to be asked for, a copy of `frame` waits in the table, and the frame itself is free for
    /// the question. `may_ask` is asked before one more neighbour is.
    pub fn resolve(
        &self,
        now: Time,
        question: Question,
        asker: PortId,
        may_ask: impl FnOnce() -> bool,
        frame: &Frame,
    ) -> Resolution {
        let key = (question.uplink, question.target);
        if let Some(entry) = self.table.read().entries.get(&key)
            && let Some(mac) = entry.mac
            && (now - entry.confirmed < FRESH || entry.attempts > 0)
        {
            // Fresh, or about to be asked.
            return Resolution::Known(mac);
        }
        let mut table = self.table.write();
        if !table.entries.contains_key(&key) {
            if !may_ask() {
                return Resolution::Full;
            }
            table.make_room();
            table.unanswered.push_back(key);
        }
        let Table {
            entries,
            waiting,
            waiting_of,
            ..
        } = &mut *table;
        let entry = entries
            .entry(key)
            .or_insert_with(|| Entry::unknown(now, question.source, asker));
        entry.source = question.source;
        if let Some(mac) = entry.mac {
            // In use and due for confirmation.
            entry.doubt();
            return Resolution::Known(mac);
        }
        let more = frame.raw().len() + OVERHEAD;
        let of_asker = waiting_of.get(&asker).copied().unwrap_or(0);
        let own = entry.waiting.iter().filter(|it| it.asker == asker);
        let own: usize = own.map(Waiting::cost).sum();
        let fits = own + more <= WAITING.saturating_sub(cost(&entry.waiting))
            && of_asker + more <= WAITING_IN_ALL.saturating_sub(*waiting);
        if !fits {
            return Resolution::Full;
        }
        let raw = frame.raw().into();
        entry.waiting.push(Waiting { asker, raw });
        *waiting += more;
        waiting_of.insert(asker, of_asker + more);
        let ask = entry.attempts == 0 || now - entry.asked >= ASK_INTERVAL;
        if ask {
            entry.asked(now);
        }
        Resolution::Waiting { ask }
    }

    /// Remembers a neighbour the host's kernel knows, unless it is known or asked for already.
    pub fn introduce(&self, now: Time, uplink: PortId, address: IpAddr, mac: MacAddr) {
        let mut table = self.table.write();
        if mac.is_unicast() && table.entries.len() < CAPACITY {
            let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            table
                .entries
                .entry((uplink, address))
                .or_insert_with(|| Entry {
                    mac: Some(mac),
                    ..Entry::unknown(now, unspecified, uplink)
                });
        }
    }

    /// `address` beyond `uplink` spoke. Returns the frames that waited for it, oldest first, which
    /// go to the MAC that it told. A stranger, whom nobody asked for, is not remembered.
    pub fn observe(&self, now: Time, uplink: PortId, address: IpAddr, heard: Heard) -> Vec<Frame> {
        let key = (uplink, address);
        // Most of what is heard on a wire is of strangers, and stops no worker.
        if heard.mac.is_some_and(|mac| !mac.is_unicast())
            || !self.table.read().entries.contains_key(&key)
        {
            return Vec::new();
        }
        let mut table = self.table.write();
        let Some(entry) = table.entries.get_mut(&key) else {
            return Vec::new();
        };
        // RFC 4861 7.2.5, and 7.2.3 for what a solicitation tells of its sender.
        let known = entry.mac;
        let differs = heard.mac.is_some() && known != heard.mac;
        if known.is_none() && heard.mac.is_none() {
            return Vec::new();
        }
        if known.is_some() && differs && !heard.overrides {
            entry.doubt();
            return Vec::new();
        }
        entry.mac = heard.mac.or(known);
        if heard.solicited {
            entry.confirmed = now;
            entry.attempts = 0;
        } else if differs {
            entry.doubt();
        }
        let waited = std::mem::take(&mut entry.waiting);
        table.release(&waited);
        let mut frames = vec![Frame::new(); waited.len()];
        for (frame, waiting) in frames.iter_mut().zip(&waited) {
            frame.set_raw(&waiting.raw);
        }
        frames
    }

    /// Forgets neighbours behind ports that are gone.
    pub fn retain_ports(&self, keep: impl Fn(PortId) -> bool) {
        let mut table = self.table.write();
        let mut freed = Vec::new();
        table.entries.retain(|&(uplink, _), entry| {
            let stays = keep(uplink);
            if !stays {
                freed.append(&mut entry.waiting);
            }
            stays
        });
        table.release(&freed);
    }

    /// What is to be done now; call it once a second.
    pub fn tick(&self, now: Time) -> Due {
        let mut table = self.table.write();
        let Table {
            entries,
            unanswered,
            lost,
            ..
        } = &mut *table;
        let mut freed = Vec::new();
        let mut due = Due {
            lost: std::mem::take(lost),
            ..Due::default()
        };
        entries.retain(|&(uplink, target), entry| {
            let question = Question {
                uplink,
                source: entry.source,
                target,
            };
            let silent = entry.attempts >= ATTEMPTS && now - entry.asked >= ASK_INTERVAL;
            if silent || now - entry.confirmed >= STALE && entry.attempts == 0 {
                let silent = std::mem::take(&mut entry.waiting).into_iter();
                freed.extend(silent.map(|waiting| (question, waiting)));
                return false;
            }
            if entry.attempts > 0 && now - entry.asked >= ASK_INTERVAL {
                entry.asked(now);
                due.questions.push(question);
            }
            true
        });
        unanswered.retain(|key| entries.get(key).is_some_and(|entry| entry.mac.is_none()));
        for (question, waiting) in freed {
            table.release(std::slice::from_ref(&waiting));
            due.unanswered.push((question, waiting.raw));
        }
        // A table's order differs from run to run; a simulated network's must not.
        due.questions.sort();
        due.unanswered.sort_by_key(|&(question, _)| question);
        due
    }
}

impl Table {
    /// Makes room for one more neighbour to be asked for.
    fn make_room(&mut self) {
        if self.unanswered.len() >= UNANSWERED {
            let Table {
                unanswered,
                entries,
                ..
            } = self;
            let asker = |key: &Key| {
                let unknown = entries.get(key).filter(|entry| entry.mac.is_none());
                unknown.map(|entry| entry.asker)
            };
            unanswered.retain(|key| asker(key).is_some());
            let mut counts: HashMap<PortId, usize, RandomState> = HashMap::default();
            for port in unanswered.iter().filter_map(asker) {
                *counts.entry(port).or_default() += 1;
            }
            let greediest = counts.iter().max_by_key(|&(&port, &count)| (count, port));
            let greediest = greediest.map(|(&port, _)| port);
            // Several at once, or each new one would count them all.
            let mut excess = UNANSWERED / 16;
            let mut removed = Vec::new();
            unanswered.retain(|key| {
                let goes = excess > 0 && asker(key) == greediest;
                if goes {
                    excess -= 1;
                    removed.push(*key);
                }
                !goes
            });
            removed.iter().for_each(|key| self.remove(key));
        }
        if self.entries.len() >= CAPACITY {
            let known = self.entries.iter().filter(|(_, entry)| entry.mac.is_some());
            let oldest = known.min_by_key(|(_, entry)| entry.confirmed);
            if let Some(oldest) = oldest.map(|(&key, _)| key) {
                self.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.lost += entry.waiting.len();
            self.release(&entry.waiting);
        }
    }

    /// Counts frames no more, which wait no longer.
    fn release(&mut self, waited: &[Waiting]) {
        for waiting in waited {
            self.waiting -= waiting.cost();
            if let Some(of) = self.waiting_of.get_mut(&waiting.asker) {
                *of -= waiting.cost();
                if *of == 0 {
                    self.waiting_of.remove(&waiting.asker);
                }
            }
        }
    }
}

/// Bytes that waiting frames are counted with.
fn cost(waiting: &[Waiting]) -> usize {
    waiting.iter().map(Waiting::cost).sum()
}

impl Waiting {
    fn cost(&self) -> usize {
        self.raw.len() + OVERHEAD
    }
}

impl Entry {
    fn unknown(now: Time, source: IpAddr, asker: PortId) -> Entry {
        Entry {
            mac: None,
            confirmed: now,
            asked: Time::ZERO,
            attempts: 0,
            source,
            asker,
            waiting: Vec::new(),
        }
    }

    fn asked(&mut self, now: Time) {
        self.asked = now;
        self.attempts += 1;
    }

    /// What is known serves on, but the next tick asks.
    fn doubt(&mut self) {
        self.attempts = self.attempts.max(1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn question() -> Question {
        Question {
            uplink: PortId(3),
            source: IpAddr::from([192, 0, 2, 1]),
            target: IpAddr::from([192, 0, 2, 9]),
        }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    const ASKER: PortId = PortId(5);

    fn resolve(neighbors: &Neighbors, now: Time, question: Question, frame: &Frame) -> Resolution {
        neighbors.resolve(now, question, ASKER, || true, frame)
    }

    /// The questions that are due, and how many frames are dropped.
    fn tick(neighbors: &Neighbors, now: Time) -> (Vec<Question>, usize) {
        let due = neighbors.tick(now);
        (due.questions, due.unanswered.len() + due.lost)
    }

    #[test]
    fn frames_wait_for_the_answer_in_order() {
        let neighbors = Neighbors::default();
        let first = Frame::from_bytes(b"first");
        let second = Frame::from_bytes(b"second");
        let asked = resolve(&neighbors, at(1), question(), &first);
        assert_eq!(asked, Resolution::Waiting { ask: true });
        let asked = resolve(&neighbors, at(1), question(), &second);
        assert_eq!(asked, Resolution::Waiting { ask: false });
        let released = neighbors.observe(at(1), PortId(3), question().target, Heard::answer(MAC));
        let texts: Vec<&[u8]> = released.iter().map(Frame::bytes).collect();
        assert_eq!(texts, [b"first".as_slice(), b"second"]);
        assert_eq!(
            resolve(&neighbors, at(2), question(), &first),
            Resolution::Known(MAC)
        );
    }

    #[test]
    fn silence_is_asked_three_times_and_then_dropped() {
        let neighbors = Neighbors::default();
        // As much as a large datagram in fragments, and not much more.
        let frame = Frame::from_bytes(&[7; 1514]);
        let waits = |_: &usize| resolve(&neighbors, at(1), question(), &frame) != Resolution::Full;
        let waiting = (0..1000).take_while(waits).count();
        assert!((45..100).contains(&waiting), "{waiting}");
        assert_eq!(tick(&neighbors, at(2)), (vec![question()], 0));
        assert_eq!(tick(&neighbors, at(3)), (vec![question()], 0));
        assert_eq!(tick(&neighbors, at(4)), (vec![], waiting));
        let again = resolve(&neighbors, at(5), question(), &Frame::from_bytes(b"x"));
        assert_eq!(again, Resolution::Waiting { ask: true });
    }

    #[test]
    fn a_used_neighbor_is_confirmed_and_a_silent_one_forgotten() {
        let neighbors = Neighbors::default();
        neighbors.introduce(at(0), PortId(3), question().target, MAC);
        let frame = Frame::from_bytes(b"x");
        assert_eq!(
            resolve(&neighbors, at(29), question(), &frame),
            Resolution::Known(MAC)
        );
        assert_eq!(tick(&neighbors, at(30)), (vec![], 0));
        assert_eq!(
            resolve(&neighbors, at(31), question(), &frame),
            Resolution::Known(MAC)
        );
        assert_eq!(tick(&neighbors, at(32)).0.len(), 1);
        assert_eq!(tick(&neighbors, at(33)).0.len(), 1);
        assert_eq!(tick(&neighbors, at(34)).0.len(), 0);
        let gone = resolve(&neighbors, at(35), question(), &frame);
        assert_eq!(gone, Resolution::Waiting { ask: true });
    }

    #[test]
    fn strangers_are_not_remembered() {
        let neighbors = Neighbors::default();
        neighbors.observe(at(0), PortId(3), question().target, Heard::answer(MAC));
        let unknown = resolve(&neighbors, at(0), question(), &Frame::from_bytes(b"x"));
        assert_eq!(unknown, Resolution::Waiting { ask: true });
    }

    // Conforms: IPV6-nd-uplink
    #[test]
    fn an_advertisement_counts_for_what_its_flags_say() {
        let (at, other) = (at(1), MacAddr([2, 0, 0, 0, 0, 8]));
        let neighbors = Neighbors::default();
        let known = |neighbors: &Neighbors| {
            let frame = Frame::from_bytes(b"x");
            resolve(neighbors, at, question(), &frame)
        };
        let hear = |neighbors: &Neighbors, heard| {
            neighbors
                .observe(at, PortId(3), question().target, heard)
                .len()
        };
        let heard = |mac, solicited, overrides| Heard {
            mac,
            solicited,
            overrides,
        };
        assert_eq!(known(&neighbors), Resolution::Waiting { ask: true });
        // Without a MAC it helps nobody.
        assert_eq!(hear(&neighbors, heard(None, true, true)), 0);
        assert_eq!(hear(&neighbors, heard(Some(MAC), true, false)), 1);
        assert_eq!(known(&neighbors), Resolution::Known(MAC));
        assert_eq!(tick(&neighbors, at + ASK_INTERVAL), (vec![], 0));
        // Another MAC that does not override only sows doubt.
        hear(&neighbors, heard(Some(other), true, false));
        assert_eq!(known(&neighbors), Resolution::Known(MAC));
        assert_eq!(tick(&neighbors, at + 2 * ASK_INTERVAL).0, [question()]);
        // One that does is believed, and asked, since nobody had asked for it.
        hear(&neighbors, heard(Some(MAC), true, false));
        hear(&neighbors, heard(Some(other), false, true));
        assert_eq!(known(&neighbors), Resolution::Known(other));
        assert_eq!(tick(&neighbors, at + 4 * ASK_INTERVAL).0, [question()]);
        // "I am where you think" confirms.
        hear(&neighbors, heard(None, true, false));
        assert_eq!(tick(&neighbors, at + 6 * ASK_INTERVAL), (vec![], 0));
    }

    // Conforms: IPV6-nd-uplink
    #[test]
    fn each_family_asks_in_its_own_way() {
        let mut frame = Frame::new();
        assert!(question().write(MAC, &mut frame));
        assert!(arp::parse(frame.bytes()).is_some());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let by_link_local = Question {
            source: address("2001:db8::1"),
            target: address("fe80::9"),
            ..question()
        };
        assert!(by_link_local.write(MAC, &mut frame));
        let Some(nd::Message::Solicitation(asked)) = nd::parse(&frame) else {
            panic!("no solicitation");
        };
        assert_eq!(IpAddr::from(asked.target), by_link_local.target);
        assert_eq!(asked.source_mac, Some(MAC));
        let impossible = Question {
            source: address("192.0.2.1"),
            ..by_link_local
        };
        assert!(!impossible.write(MAC, &mut frame));
    }

    // Conforms: IPV6-neighbor-exhaustion
    #[test]
    fn a_scan_costs_neither_memory_nor_those_who_are_known() {
        let neighbors = Neighbors::default();
        let target = |n: u32| Question {
            target: Ipv6Addr::from(0xfd00 << 112 | u128::from(n)).into(),
            source: "fd00::1".parse().unwrap(),
            ..question()
        };
        neighbors.introduce(at(0), PortId(3), question().target, MAC);
        let resolve = |question| {
            let frame = Frame::from_bytes(b"x");
            resolve(&neighbors, at(1), question, &frame)
        };
        for n in 0..5000 {
            assert_eq!(resolve(target(n)), Resolution::Waiting { ask: true });
        }
        assert_eq!(resolve(question()), Resolution::Known(MAC));
        let asked = neighbors.table.read().entries.len() - 1;
        assert!(
            (UNANSWERED * 15 / 16..=UNANSWERED).contains(&asked),
            "{asked}"
        );
        // The last ones may still answer, and what waited for the others is counted.
        let answered = |n| {
            let target = target(n).target;
            let heard = Heard::answer(MAC);
            neighbors.observe(at(1), PortId(3), target, heard).len()
        };
        assert_eq!(answered(4999), 1);
        assert_eq!(answered(0), 0);
        assert_eq!(tick(&neighbors, at(1)), (vec![], 5000 - asked));
        // Who is known is limited too, and the one heard of longest ago goes.
        for n in 0..CAPACITY as u32 {
            resolve(target(n));
            assert_eq!(answered(n), 1);
        }
        assert_eq!(neighbors.table.read().entries.len(), CAPACITY);
        assert_eq!(resolve(question()), Resolution::Waiting { ask: true });
    }

    // Conforms: IPV6-neighbor-exhaustion
    #[test]
    fn a_scan_costs_another_asker_nothing() {
        let neighbors = Neighbors::default();
        let target = |n: u32| Question {
            target: IpAddr::V4(n.into()),
            ..question()
        };
        let large = Frame::from_bytes(&[7; 1514]);
        let take =
            |asker, question| neighbors.resolve(at(1), question, PortId(asker), || true, &large);
        let waits = |resolution| matches!(resolution, Resolution::Waiting { .. });
        // What somebody else waits for first.
        assert!(waits(take(6, target(1))));
        // As much as it can have, and of as many as it can.
        for n in 0..20_000 {
            take(5, target(1000 + n % 60));
        }
        assert!(!waits(take(5, target(1000))), "its share is used up");
        for n in 0..20_000 {
            take(5, target(10_000 + n));
        }
        for n in 0..40 {
            assert!(waits(take(6, target(2 + n))), "{n}");
            // One that the scan asks for too.
            assert!(waits(take(6, target(29_000 + n))), "{n}");
        }
        let heard = Heard::answer(MAC);
        let released = neighbors.observe(at(1), PortId(3), target(1).target, heard);
        assert_eq!(released.len(), 1);
        assert!(neighbors.table.read().waiting <= WAITING_IN_ALL);
        // All that is counted is there.
        neighbors.retain_ports(|_| false);
        let table = neighbors.table.read();
        assert_eq!((table.waiting, table.waiting_of.len()), (0, 0));
    }

    #[test]
    fn who_may_not_ask_waits_for_nobody_new() {
        let neighbors = Neighbors::default();
        let frame = Frame::from_bytes(b"x");
        let take = |may| neighbors.resolve(at(1), question(), PortId(5), || may, &frame);
        assert_eq!(take(false), Resolution::Full);
        assert_eq!(take(true), Resolution::Waiting { ask: true });
        assert_eq!(take(false), Resolution::Waiting { ask: false });
    }
}
