//! Answers of upstream servers, remembered for as long as they allow.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Bytes of the answers remembered, with what each costs besides.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of one answer that is remembered. Larger ones are rare, and asked for again.
const ANSWER_MAX: usize = 8 << 10;
/// What an answer costs beyond its bytes and its name: keys, sizes, times.
const OVERHEAD: usize = 512;
/// An answer is not remembered for longer, whatever it allows.
const POSITIVE_MAX: u32 = 86_400;
/// RFC 2308 clause 5 lets hours pass; somebody may be waiting for the name to appear.
const NEGATIVE_MAX: u32 = 300;
/// RFC 9520 clause 3.2: a failure is remembered too, for a second at least.
const FAILURE: u32 = 1;

/// A question, to whom it is put, and what of the query changes the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// In the order in which they are asked.
    pub(super) servers: Arc<[SocketAddr]>,
    /// Compared without regard to case.
    pub(super) name: Name,
    pub(super) record_type: RecordType,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    pub(super) manner: Manner,
    /// Another number when the host's network or its servers have changed: the same server may
    /// answer something else there.
    pub(super) epoch: (u64, u64),
}

/// How servers are asked, as resolv.conf(5) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Manner {
    /// Over TCP only (`use-vc`).
    pub(super) by_stream: bool,
    /// Each question begins with another server (`rotate`).
    pub(super) rotate: bool,
    /// For how many seconds one who asks waits until he asks again (`timeout`).
    pub(super) timeout: u32,
    /// How often each server is asked (`attempts`), if the file says that.
    pub(super) attempts: Option<u32>,
}

impl Default for Manner {
    /// resolv.conf(5) without options.
    fn default() -> Manner {
        Manner {
            by_stream: false,
            rotate: false,
            timeout: 5,
            attempts: None,
        }
    }
}

/// What an upstream server said, or the failure to hear from any.
///
/// The records stay as they came, in bytes: taken apart they may need fifty times the memory (a
/// text of one-byte strings, names that compression makes long), and they are so only while a reply
/// is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    code: ResponseCode,
    /// The server says that it has verified the records (RFC 4035 clause 3.2.3).
    authentic: bool,
    /// There is more, which the server did not tell: its answer did not fit a datagram, and it
    /// could not be asked over TCP.
    truncated: bool,
    /// A message with the records; empty for none.
    records: Box<[u8]>,
    /// For how many seconds it may be remembered; 0 for not at all.
    lifetime: u32,
}

impl Answer {
    pub(super) fn new(message: Message) -> Answer {
        let Ok(records) = message.to_vec() else {
            // No answer that came in a message is too large for one.
            return Answer::failure();
        };
        let code = message.metadata.response_code;
        Answer {
            // The upper bits of the other codes are in an OPT record, which not every asker gets:
            // what is left of BADVERS is NOERROR (RFC 6891 clause 6.1.3).
            code: if u16::from(code) < 16 {
                code
            } else {
                ResponseCode::ServFail
            },
            authentic: message.metadata.authentic_data,
            truncated: message.metadata.truncation,
            lifetime: lifetime(&message),
            records: records.into(),
        }
    }

    /// Nobody answered.
    pub(super) fn failure() -> Answer {
        Answer {
            code: ResponseCode::ServFail,
            authentic: false,
            truncated: false,
            records: Box::default(),
            lifetime: FAILURE,
        }
    }

    /// Puts the records into `reply`, `age` seconds after they came.
    pub(super) fn fill(&self, reply: &mut Message, age: u32) {
        reply.metadata.response_code = self.code;
        reply.metadata.authentic_data = self.authentic;
        reply.metadata.truncation = self.truncated;
        let Ok(message) = Message::from_vec(&self.records) else {
            return;
        };
        let aged = |mut records: Vec<Record>| {
            for record in &mut records {
                record.decrement_ttl(age);
            }
            records
        };
        reply.answers = aged(message.answers);
        reply.authorities = aged(message.authorities);
        reply.additionals = aged(message.additionals);
    }
}

fn lifetime(message: &Message) -> u32 {
    match message.metadata.response_code {
        // RFC 2181 clause 9.
        _ if message.metadata.truncation => 0,
        // RFC 2308 clause 5: without SOA a negative answer is not for keeping.
        ResponseCode::NXDomain | ResponseCode::NoError if !is_positive(message) => {
            let mut authorities = message.authorities.iter();
            let soa = authorities.find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            soa.unwrap_or(0).min(NEGATIVE_MAX)
        }
        ResponseCode::NoError => {
            let shortest = message.answers.iter().map(|record| record.ttl).min();
            shortest.unwrap_or(0).min(POSITIVE_MAX)
        }
        _ => FAILURE,
    }
}

/// A chain of aliases may end in nothing: it is negative then (RFC 2308 clause 2.2).
fn is_positive(message: &Message) -> bool {
    let cname = |record: &Record| record.record_type() == RecordType::CNAME;
    let soa = |record: &Record| record.record_type() == RecordType::SOA;
    message.metadata.response_code == ResponseCode::NoError
        && !message.answers.is_empty()
        && !(message.answers.iter().all(cname) && message.authorities.iter().any(soa))
}

/// Answers by question. The room is shared out among those who asked: who has most of it makes
/// room.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    bytes: usize,
    /// Bytes of each asker's answers.
    of: HashMap<IpAddr, usize>,
    /// How many answers there have been.
    count: u64,
}

struct Entry {
    answer: Arc<Answer>,
    since: Instant,
    until: Instant,
    /// Of those that run out together the one with the lowest goes first.
    number: u64,
    /// Whom it was asked for first.
    asker: IpAddr,
    cost: usize,
}

impl Entry {
    /// The order in which one asker's answers go: no two have the same.
    fn turn(&self) -> (Instant, u64) {
        (self.until, self.number)
    }
}

impl Cache {
    pub(super) fn clear(&mut self) {
        *self = Cache::default();
    }

    /// An answer that may still be told, and its age in seconds.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let entry = self.entries.get(question)?;
        if now >= entry.until {
            return None;
        }
        let age = now.saturating_duration_since(entry.since).as_secs();
        Some((Arc::clone(&entry.answer), u32::try_from(age).unwrap_or(0)))
    }

    pub(super) fn put(
        &mut self,
        question: Question,
        answer: Arc<Answer>,
        asker: IpAddr,
        now: Instant,
    ) {
        self.remove(&question);
        if answer.lifetime == 0 || answer.records.len() > ANSWER_MAX {
            return;
        }
        let cost = answer.records.len() + 2 * question.name.len() + OVERHEAD;
        if self.bytes + cost > BYTES_MAX {
            self.make_room(now);
        }
        let until = now + Duration::from_secs(answer.lifetime.into());
        self.bytes += cost;
        *self.of.entry(asker).or_default() += cost;
        let entry = Entry {
            answer,
            since: now,
            until,
            number: self.count,
            asker,
            cost,
        };
        self.count += 1;
        self.entries.insert(question, entry);
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            forget(&mut self.bytes, &mut self.of, &entry);
        }
    }

    /// Forgets what has run out, and, if that frees less than an eighth, an eighth of the bytes of
    /// who has most, those that run out first.
    fn make_room(&mut self, now: Instant) {
        self.retain(|entry| now < entry.until);
        while self.bytes > BYTES_MAX / 8 * 7 {
            let greediest = self
                .of
                .iter()
                .max_by_key(|(asker, bytes)| (**bytes, **asker));
            let Some((&asker, &bytes)) = greediest else {
                return;
            };
            let its = self.entries.values().filter(|entry| entry.asker == asker);
            let mut turns: Vec<_> = its.map(|it| (it.turn(), it.cost)).collect();
            turns.sort_unstable();
            let mut goal = bytes / 8;
            let last = turns.into_iter().find_map(|(turn, cost)| {
                goal = goal.saturating_sub(cost);
                (goal == 0).then_some(turn)
            });
            let Some(last) = last else { return };
            self.retain(|entry| entry.asker != asker || entry.turn() > last);
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        let Cache {
            entries, bytes, of, ..
        } = self;
        entries.retain(|_, entry| {
            let stays = keep(entry);
            if !stays {
                forget(bytes, of, entry);
            }
            stays
        });
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        assert_eq!(self.bytes, self.of.values().sum::<usize>());
        self.bytes
    }
}

fn forget(bytes: &mut usize, of: &mut HashMap<IpAddr, usize>, entry: &Entry) {
    *bytes -= entry.cost;
    if let Some(its) = of.get_mut(&entry.asker) {
        *its -= entry.cost;
        if *its == 0 {
            of.remove(&entry.asker);
        }
    }
}
