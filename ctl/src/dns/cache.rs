//! Answers of upstream servers, remembered for as long as they allow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Most answers remembered.
const ENTRIES_MAX: usize = 4096;
/// Most records of an answer that is remembered: with this the cache stays below some 16 MiB.
const RECORDS_MAX: usize = 64;
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
}

/// What an upstream server said, or the failure to hear from any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    /// The server says that it has verified the records (RFC 4035 clause 3.2.3).
    pub(super) authentic: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Answer {
    pub(super) fn new(message: Message) -> Answer {
        Answer {
            code: message.metadata.response_code,
            authentic: message.metadata.authentic_data,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }

    /// Nobody answered.
    pub(super) fn failure() -> Answer {
        Answer {
            code: ResponseCode::ServFail,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// Puts the records into `reply`, `age` seconds after they came.
    pub(super) fn fill(&self, reply: &mut Message, age: u32) {
        let aged = |records: &[Record]| -> Vec<Record> {
            let mut records = records.to_vec();
            for record in &mut records {
                record.decrement_ttl(age);
            }
            records
        };
        reply.metadata.response_code = self.code;
        reply.metadata.authentic_data = self.authentic;
        reply.answers = aged(&self.answers);
        reply.authorities = aged(&self.authorities);
        reply.additionals = aged(&self.additionals);
    }

    /// For how many seconds it may be remembered; 0 for not at all.
    fn lifetime(&self) -> u32 {
        let records = self.answers.len() + self.authorities.len() + self.additionals.len();
        if records > RECORDS_MAX {
            return 0;
        }
        match self.code {
            // RFC 2308 clause 5: without SOA a negative answer is not for keeping.
            ResponseCode::NXDomain | ResponseCode::NoError if !self.is_positive() => {
                let soa = self
                    .authorities
                    .iter()
                    .find_map(|record| match &record.data {
                        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                        _ => None,
                    });
                soa.unwrap_or(0).min(NEGATIVE_MAX)
            }
            ResponseCode::NoError => {
                let shortest = self.answers.iter().map(|record| record.ttl).min();
                shortest.unwrap_or(0).min(POSITIVE_MAX)
            }
            _ => FAILURE,
        }
    }

    /// A chain of aliases may end in nothing: it is negative then (RFC 2308 clause 2.2).
    fn is_positive(&self) -> bool {
        let cname = |record: &Record| record.record_type() == RecordType::CNAME;
        self.code == ResponseCode::NoError
            && !self.answers.is_empty()
            && !(self.answers.iter().all(cname)
                && self
                    .authorities
                    .iter()
                    .any(|it| it.record_type() == RecordType::SOA))
    }
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
}

struct Entry {
    answer: Arc<Answer>,
    since: Instant,
    until: Instant,
}

impl Cache {
    pub(super) fn clear(&mut self) {
        self.entries.clear();
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

    pub(super) fn put(&mut self, question: Question, answer: Arc<Answer>, now: Instant) {
        let lifetime = answer.lifetime();
        if lifetime == 0 {
            self.entries.remove(&question);
            return;
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.make_room(now);
        }
        let until = now + Duration::from_secs(lifetime.into());
        let since = now;
        self.entries.insert(
            question,
            Entry {
                answer,
                since,
                until,
            },
        );
    }

    /// Forgets what has run out, and an eighth of the rest, those that run out first, if that is
    /// not enough.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now < entry.until);
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        let mut ends: Vec<Instant> = self.entries.values().map(|entry| entry.until).collect();
        let eighth = ends.len() / 8;
        let (_, &mut end, _) = ends.select_nth_unstable(eighth);
        let mut excess = eighth + 1;
        self.entries.retain(|_, entry| {
            let goes = excess > 0 && entry.until <= end;
            excess -= usize::from(goes);
            !goes
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
