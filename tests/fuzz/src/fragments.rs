//! The `fragments` target: datagrams in pieces, in any order and mixed, some with a piece that
//! overlaps, through [`Nat::translate_fragment`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use nat::{
    Checksum, Limits, Masquerade, Nat, Packet, Path, Protocol, Publish, Rules, Sources, Time,
};

use crate::packet::{HOST4, HOST6, Shape, address};
use crate::sums;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    datagrams: Vec<Cut<'a>>,
    /// Which datagram's next piece comes.
    schedule: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Cut<'a> {
    shape: Shape<'a>,
    way: Way,
    id: u8,
    /// Lengths of the pieces, in units of 8 bytes; the last one takes the rest.
    lengths: Vec<u8>,
    /// Whom to exchange each piece with.
    order: Vec<u8>,
    /// A further piece in between: when, where, how long.
    extra: Option<(u8, u16, u16)>,
    /// Seconds before each piece.
    pauses: Vec<u8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Way {
    Out,
    In,
    Hairpin,
}

impl Way {
    fn path(self, ipv6: bool) -> Path {
        let external = if ipv6 { HOST6.into() } else { HOST4.into() };
        match self {
            Way::Out => Path::Outbound { external },
            Way::In => Path::Inbound,
            Way::Hairpin => Path::Hairpin,
        }
    }
}

/// A datagram on its way: as it was, and its pieces still to come, the next one last.
struct Sending {
    whole: Vec<u8>,
    path: Path,
    pieces: Vec<Vec<u8>>,
    pauses: Vec<u8>,
    /// Nothing overlaps, nothing comes late: whatever passes, passes whole.
    clean: bool,
    passed: Vec<Vec<u8>>,
}

/// See the crate's description.
pub fn fragments(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let nat = engine();
    let mut now = Time::ZERO;
    let cuts = input.datagrams.iter().take(4);
    let mut sending: Vec<Sending> = cuts.filter_map(Cut::send).collect();
    // Two with one identification between the same hosts are one to everybody.
    let mut keys = HashMap::new();
    for datagram in &sending {
        *keys.entry(key(&datagram.whole)).or_insert(0) += 1;
    }
    for datagram in &mut sending {
        datagram.clean &= keys[&key(&datagram.whole)] == 1;
    }
    let mut schedule = input.schedule.iter().copied().chain(std::iter::repeat(0));
    while let Some(next) = choose(&sending, schedule.next().unwrap_or(0)) {
        let datagram = &mut sending[next];
        let Some(piece) = datagram.pieces.pop() else {
            break;
        };
        now += Duration::from_secs(u64::from(datagram.pauses.pop().unwrap_or(0) % 8));
        let mut waiting = vec![piece];
        while !waiting.is_empty() {
            let mut bytes = waiting.remove(0);
            let before = bytes.clone();
            let Ok(mut packet) = Packet::parse(&mut bytes, Checksum::Complete) else {
                continue;
            };
            let mut released = Vec::new();
            match nat.translate_fragment(now, datagram.path, &mut packet, &mut released) {
                Ok(Some(_)) => {
                    assert_eq!(bytes.len(), before.len());
                    datagram.passed.push(bytes);
                }
                Ok(None) | Err(_) => assert_eq!(bytes, before, "changed, and not passed"),
            }
            waiting.extend(released.into_iter().map(Vec::from));
        }
    }
    let all_in_time = now < Time::ZERO + nat.limits().timeouts.fragment;
    for datagram in &sending {
        datagram.check(all_in_time);
    }
    check_disjoint(&sending);
    now += Duration::from_secs(24 * 3600);
    for _ in 0..16 {
        nat.expire(now);
    }
    nat.lost_fragments(now);
    assert!(nat.is_empty(), "connections outlive their time");
}

fn engine() -> Nat {
    let nat = Nat::new(Limits::default(), 1);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        nat.add_external_ports(protocol, 61000..=61127);
    }
    let sources = ["10.0.0.0/8", "fd00::/16"].map(|source| Masquerade {
        source: source.parse().expect("a subnet"),
        to: None,
    });
    let publish = (0..4u8).map(|at| Publish {
        id: u32::from(at),
        protocol: [Protocol::TCP, Protocol::UDP][usize::from(at & 1)],
        host: None,
        ports: 8000..=8019,
        to: address(0, at & 2 != 0),
        to_port: 80,
        allow: Sources::default(),
    });
    let rules = Rules {
        masquerade: sources.into(),
        publish: publish.collect(),
        local: vec![HOST4.into(), HOST6.into()],
        ..Rules::default()
    };
    nat.set_rules(Time::ZERO, rules);
    nat
}

/// The datagram whose turn it is.
fn choose(sending: &[Sending], which: u8) -> Option<usize> {
    let waiting: Vec<usize> = (0..sending.len())
        .filter(|&at| !sending[at].pieces.is_empty())
        .collect();
    waiting
        .get(usize::from(which) % waiting.len().max(1))
        .copied()
}

impl Cut<'_> {
    /// None for what is no whole packet.
    fn send(&self) -> Option<Sending> {
        let whole = self.shape.whole();
        let parts = sums::parts(&whole)?;
        let ipv6 = parts.src.is_ipv6();
        let fixed = if ipv6 { 40 } else { parts.transport };
        let body = parts.bytes.len() - fixed;
        let mut pieces = Vec::new();
        let mut at = 0;
        for length in self.lengths.iter().take(24) {
            let length = usize::from(*length).max(1) * 8;
            if at + length >= body {
                break;
            }
            pieces.push(piece(parts.bytes, fixed, self.id, (at, at + length)));
            at += length;
        }
        pieces.push(piece(parts.bytes, fixed, self.id, (at, body)));
        let many = pieces.len() > 1;
        for (at, other) in self.order.iter().enumerate().take(pieces.len()) {
            let other = usize::from(*other) % pieces.len();
            pieces.swap(at, other);
        }
        let mut clean = many;
        if let Some((when, start, length)) = self.extra
            && many
        {
            clean = false;
            let start = usize::from(start) * 8 % body.max(1) / 8 * 8;
            let end = (start + usize::from(length).max(1)).min(body);
            let when = usize::from(when) % (pieces.len() + 1);
            pieces.insert(when, piece(parts.bytes, fixed, self.id, (start, end)));
        }
        Some(Sending {
            path: self.way.path(ipv6),
            pieces,
            pauses: self.pauses.clone(),
            clean,
            passed: Vec::new(),
            whole: parts.bytes.to_vec(),
        })
    }
}

/// The bytes from `range.0` to `range.1` of what follows a packet's fixed header, as a fragment.
fn piece(whole: &[u8], fixed: usize, id: u8, range: (usize, usize)) -> Vec<u8> {
    let body = &whole[fixed..];
    let more = range.1 < body.len();
    let data = &body[range.0..range.1];
    let mut piece = whole[..fixed].to_vec();
    if whole[0] >> 4 == 4 {
        let fields = (range.0 / 8) as u16 | u16::from(more) << 13;
        piece[2..4].copy_from_slice(&((fixed + data.len()) as u16).to_be_bytes());
        piece[4..6].copy_from_slice(&u16::from(id).to_be_bytes());
        piece[6..8].copy_from_slice(&fields.to_be_bytes());
        piece[10..12].fill(0);
        let checksum = sums::header_checksum(&piece);
        piece[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let fields = range.0 as u16 | u16::from(more);
        piece[4..6].copy_from_slice(&((8 + data.len()) as u16).to_be_bytes());
        let next = std::mem::replace(&mut piece[6], 44);
        piece.extend([next, 0]);
        piece.extend(fields.to_be_bytes());
        piece.extend([0, 0, 0, id]);
    }
    piece.extend(data);
    piece
}

/// One piece read again.
struct Read {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    first: u8,
    start: usize,
    end: usize,
    more: bool,
}

fn read(piece: &[u8]) -> (Read, &[u8]) {
    let parts = sums::parts(piece).expect("a piece is a packet");
    let (src, dst) = (parts.src, parts.dst);
    let word = |at| sums::word(piece, at);
    let (id, first, start, more, data) = if piece[0] >> 4 == 4 {
        let data = &parts.bytes[usize::from(piece[0] & 15) * 4..];
        let fields = word(6);
        let start = usize::from(fields & 0x1fff) * 8;
        (
            u32::from(word(4)),
            piece[9],
            start,
            fields & 0x2000 != 0,
            data,
        )
    } else {
        let fields = word(42);
        let id = u32::from(word(44)) << 16 | u32::from(word(46));
        let start = usize::from(fields & 0xfff8);
        (id, piece[40], start, fields & 1 != 0, &parts.bytes[48..])
    };
    let end = start + data.len();
    let read = Read {
        src,
        dst,
        id,
        first,
        start,
        end,
        more,
    };
    (read, data)
}

/// What two datagrams must not have in common.
fn key(whole: &[u8]) -> Option<(IpAddr, IpAddr)> {
    sums::parts(whole).map(|parts| (parts.src, parts.dst))
}

impl Sending {
    /// What passed is all of the datagram or nothing of it, with sums as good as before.
    fn check(&self, in_time: bool) {
        if !self.clean || !in_time || self.passed.is_empty() {
            return;
        }
        let mut pieces: Vec<(Read, &[u8])> = self.passed.iter().map(|piece| read(piece)).collect();
        pieces.sort_by_key(|(piece, _)| piece.start);
        let (first, _) = &pieces[0];
        let mut body = Vec::new();
        for (piece, data) in &pieces {
            let same = (piece.src, piece.dst, piece.id) == (first.src, first.dst, first.id);
            assert!(same, "pieces of one datagram parted");
            assert_eq!(piece.start, body.len(), "a piece is missing");
            body.extend_from_slice(data);
        }
        let (last, _) = &pieces[pieces.len() - 1];
        assert!(!last.more, "the end is missing");
        // Put together, it is the datagram with other addresses and ports.
        let mut whole = self.whole.clone();
        let fixed = whole.len() - body.len();
        whole[fixed..].copy_from_slice(&body);
        let from = &self.passed[0];
        if first.src.is_ipv4() {
            whole[12..20].copy_from_slice(&from[12..20]);
        } else {
            whole[8..40].copy_from_slice(&from[8..40]);
            assert_eq!(whole[6], first.first);
        }
        let errors =
            |packet: &[u8]| sums::errors(packet, false).and_then(|errors| errors.transport);
        assert_eq!(errors(&whole), errors(&self.whole), "a checksum went wrong");
    }
}

/// Nobody who receives what was translated sees two pieces of one datagram overlap.
fn check_disjoint(sending: &[Sending]) {
    let mut ranges: HashMap<_, Vec<(usize, usize)>> = HashMap::new();
    for datagram in sending {
        for piece in &datagram.passed {
            let (piece, _) = read(piece);
            let untouched = key(&datagram.whole) == Some((piece.src, piece.dst));
            if untouched || (piece.start == 0 && !piece.more) {
                continue;
            }
            let of = ranges
                .entry((piece.src, piece.dst, piece.id, piece.first))
                .or_default();
            let apart = |&(start, end): &(usize, usize)| end <= piece.start || piece.end <= start;
            assert!(of.iter().all(apart), "an overlap passed");
            of.push((piece.start, piece.end));
        }
    }
}
