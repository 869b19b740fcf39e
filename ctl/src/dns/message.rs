//! Queries as they come, and answers as they go.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Largest query taken, in bytes. One question with EDNS options needs less than a tenth.
pub(super) const QUERY_MAX: usize = 4096;

/// Largest answer sent in a datagram, in bytes, and asked for from upstream: what passes every
/// path whole (the DNS flag day of 2020).
pub(super) const DATAGRAM_MAX: u16 = 1232;

/// Largest answer over TCP, in bytes.
pub(super) const STREAM_MAX: u16 = u16::MAX;

/// Most addresses in an answer: in no case more than a TCP message holds.
const ADDRESSES_MAX: usize = 1000;

/// Nobody may remember a container's name: it may go, and come back with another address.
const OWN_TTL: u32 = 0;

/// What came in.
pub(super) enum Received {
    /// No query at all: to answer could make two servers answer each other for ever.
    Noise,
    /// Refused as it is.
    Refused(Message),
    /// One question of class IN.
    Query(Message),
}

/// Reads a query. Never fails: what can't be read is refused or is noise.
pub(super) fn receive(bytes: &[u8]) -> Received {
    // RFC 1035 clause 4.1.1: id, flags, and the numbers of records in the four sections.
    let [id1, id2, flags, _, questions @ .., _, _] = match bytes.first_chunk::<12>() {
        Some(header) => *header,
        None => return Received::Noise,
    };
    if flags & 0x80 != 0 {
        return Received::Noise;
    }
    let id = u16::from_be_bytes([id1, id2]);
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let refuse = |code| Received::Refused(Message::error_msg(id, op_code, code));
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    // One question, and no record but the additional ones, before anything is made for so many.
    if questions != [0, 1, 0, 0, 0, 0] {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(query) = Message::from_vec(&without_options(bytes)) else {
        return refuse(ResponseCode::FormErr);
    };
    let Some(question) = query.queries.first() else {
        return refuse(ResponseCode::FormErr);
    };
    // RFC 6891 clause 6.1.3.
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Received::Refused(failure(&query, ResponseCode::BADVERS));
    }
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || transfer {
        return Received::Refused(failure(&query, ResponseCode::Refused));
    }
    Received::Query(query)
}

/// An answer to `query` without records.
pub(super) fn reply(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.queries = query.queries.clone();
    // RFC 6891 clause 7: an OPT record answers one, and none answers none.
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.edns = Some(edns);
    }
    reply
}

/// An answer that tells of a failure only.
pub(super) fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut reply = reply(query);
    reply.metadata.response_code = code;
    reply
}

/// Answers with the addresses of a name, of the family that is asked for, from the one in place
/// `turn` on: none of a family that the name has none of (NODATA, RFC 2308 clause 2.2).
pub(super) fn addresses(query: &Message, addresses: &[IpAddr], turn: usize) -> Message {
    let mut reply = reply(query);
    reply.metadata.authoritative = true;
    let Some(question) = query.queries.first() else {
        return reply;
    };
    let wanted: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|address| match question.query_type() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        })
        .collect();
    let from = turn.checked_rem(wanted.len()).unwrap_or(0);
    let turned = wanted[from..].iter().chain(&wanted[..from]);
    reply.answers = turned
        .take(ADDRESSES_MAX)
        .map(|address| {
            let data = match *address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            Record::from_rdata(question.name().clone(), OWN_TTL, data)
        })
        .collect();
    reply
}

/// Answers with the name of an address.
pub(super) fn pointer(query: &Message, name: &str) -> Message {
    let mut reply = reply(query);
    reply.metadata.authoritative = true;
    let asked = query.queries.first();
    let asked = asked.filter(|it| matches!(it.query_type(), RecordType::PTR | RecordType::ANY));
    // Docker takes names that DNS does not, such as a..b: those have no pointer.
    if let (Some(question), Ok(mut name)) = (asked, Name::from_ascii(name)) {
        name.set_fqdn(true);
        let data = RData::PTR(PTR(name));
        let record = Record::from_rdata(question.name().clone(), OWN_TTL, data);
        reply.answers.push(record);
    }
    reply
}

/// Says that the name that was asked for is `name`, whose records the answer has.
pub(super) fn prepend_alias(reply: &mut Message, name: &Name) {
    if let Some(question) = reply.queries.first() {
        let data = RData::CNAME(CNAME(name.clone()));
        let record = Record::from_rdata(question.name().clone(), OWN_TTL, data);
        reply.answers.insert(0, record);
    }
}

/// There is such a name, with no record of the type that is asked for (RFC 2308 clause 2.2).
pub(super) fn no_data(query: &Message) -> Message {
    let mut reply = reply(query);
    reply.metadata.authoritative = true;
    reply
}

/// There is no such name.
pub(super) fn nobody(query: &Message) -> Message {
    let mut reply = failure(query, ResponseCode::NXDomain);
    reply.metadata.authoritative = true;
    reply
}

/// Largest datagram that who sent `query` takes, in bytes.
pub(super) fn datagram_limit(query: &Message) -> u16 {
    query.max_payload().min(DATAGRAM_MAX)
}

/// The bytes of an answer. One that is longer than `limit` is marked as truncated, so that it is
/// asked for again over TCP, and sent with as many of its answers as fit (RFC 2181 clause 9): some
/// C libraries know no TCP (musl before 1.2.4), and make do with those.
pub(super) fn encode(reply: &Message, limit: u16) -> Vec<u8> {
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(limit) => bytes,
        Ok(bytes) => {
            let short = reply.truncate().to_vec().unwrap_or_default();
            fill_up(short, &bytes, limit.into())
        }
        // Only what came from upstream can't be written again, if it was strange enough.
        Err(_) => failure(reply, ResponseCode::ServFail)
            .to_vec()
            .unwrap_or_default(),
    }
}

/// `short`, which has no answers, with those of `whole` that fit. The bytes of both are the same up
/// to the first answer, and compressed names refer to what is before them (RFC 1035 clause 4.1.4).
fn fill_up(mut short: Vec<u8>, whole: &[u8], limit: usize) -> Vec<u8> {
    let room = limit.saturating_sub(short.len());
    let all = count(whole, ANSWERS).unwrap_or(0);
    let Some(start) = questions_end(whole) else {
        return short;
    };
    let (mut end, mut fit) = (start, 0u16);
    while usize::from(fit) < all {
        match record_end(whole, end) {
            Some(next) if next - start <= room => (end, fit) = (next, fit + 1),
            _ => break,
        }
    }
    let (Some(records), true) = (whole.get(start..end), start <= short.len()) else {
        return short;
    };
    // An OPT record may follow.
    short.splice(start..start, records.iter().copied());
    short[ANSWERS..AUTHORITIES].copy_from_slice(&fit.to_be_bytes());
    short
}

/// Bytes of the header of a message (RFC 1035 clause 4.1.1).
const HEADER: usize = 12;

/// `bytes` with the options of OPT records unreadable: nothing here depends on them, so one that is
/// strange must not make a whole message unreadable. What is no message stays as it is.
pub(super) fn without_options(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let records = records(&bytes).unwrap_or_default();
    for (start, end) in records {
        let Some(head) = name_end(&bytes, start) else {
            continue;
        };
        let data = head + 10;
        if bytes[head..head + 2] == OPT && end - data >= 4 {
            // One option that nobody knows (RFC 6891 clause 9), as long as all.
            let length = u16::try_from(end - data - 4).unwrap_or_default();
            bytes[data..data + 2].copy_from_slice(&UNKNOWN_OPTION);
            bytes[data + 2..data + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

/// `bytes` without what follows the answers. None if that can't be found.
pub(super) fn answers_alone(bytes: &[u8]) -> Option<Vec<u8>> {
    let records = records(bytes)?;
    let answers = count(bytes, ANSWERS)?;
    let end = match answers.checked_sub(1) {
        Some(last) => records.get(last)?.1,
        None => questions_end(bytes)?,
    };
    let mut bytes = bytes.get(..end)?.to_vec();
    bytes[AUTHORITIES..HEADER].fill(0);
    Some(bytes)
}

/// `bytes` without any record. None if the end of the question can't be found.
pub(super) fn question_alone(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.get(..questions_end(bytes)?)?.to_vec();
    bytes.get_mut(ANSWERS..HEADER)?.fill(0);
    Some(bytes)
}

/// Where the header counts answers and authorities (RFC 1035 clause 4.1.1).
const ANSWERS: usize = 6;
const AUTHORITIES: usize = 8;

/// The type of an OPT record.
const OPT: [u8; 2] = 41u16.to_be_bytes();

/// For local use (RFC 6891 clause 9).
const UNKNOWN_OPTION: [u8; 2] = 65_001u16.to_be_bytes();

fn count(bytes: &[u8], at: usize) -> Option<usize> {
    let count = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([count[0], count[1]]).into())
}

/// Where the one question ends, if there is one.
fn questions_end(bytes: &[u8]) -> Option<usize> {
    match count(bytes, 4)? {
        0 => Some(HEADER),
        1 => Some(name_end(bytes, HEADER)? + 4),
        _ => None,
    }
}

/// Where each record begins and ends. None unless all are there.
fn records(bytes: &[u8]) -> Option<Vec<(usize, usize)>> {
    let mut at = questions_end(bytes)?;
    let mut records = Vec::new();
    for section in [ANSWERS, AUTHORITIES, AUTHORITIES + 2] {
        for _ in 0..count(bytes, section)? {
            let end = record_end(bytes, at)?;
            if end > bytes.len() {
                return None;
            }
            records.push((at, end));
            at = end;
        }
    }
    Some(records)
}

/// Where the name that begins at `at` ends.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            // A pointer is the end.
            length if length >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// Where the record that begins at `at` ends: a name, 10 bytes, the last two of which say how many
/// bytes of data follow.
fn record_end(bytes: &[u8], at: usize) -> Option<usize> {
    let data = name_end(bytes, at)? + 10;
    let length = bytes.get(data - 2..data)?;
    Some(data + usize::from(u16::from_be_bytes([length[0], length[1]])))
}
