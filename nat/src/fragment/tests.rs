use super::*;
use crate::checksum::Checksum;
use crate::conntrack::{Direction, Kind};
use crate::testing::{cut, ip, udp};
use crate::tuple::Tuple;

const PATH: Path = Path::Inbound;

struct Table {
    fragments: Fragments,
    limits: Limits,
    now: Time,
}

impl Table {
    fn new(limits: Limits) -> Table {
        Table {
            fragments: Fragments::new(7),
            limits,
            now: Time::ZERO,
        }
    }

    fn place(&mut self, bytes: &[u8]) -> Result<Place, Refused> {
        let mut bytes = bytes.to_vec();
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        let piece = packet.piece().unwrap();
        let key = Key::new(PATH, &packet, &piece);
        let place = self
            .fragments
            .place(self.now, &self.limits, key, &piece, &packet);
        self.check();
        place
    }

    /// What is counted is what is there, and no more than may be.
    fn check(&self) {
        let cost = |datagram: &Datagram| -> usize {
            let held = datagram.held.iter();
            held.map(|bytes| bytes.len() + HELD_OVERHEAD).sum()
        };
        let Fragments {
            datagrams,
            by_age,
            held,
            held_of,
            ..
        } = &self.fragments;
        assert_eq!(*held, datagrams.values().map(cost).sum::<usize>());
        assert_eq!(*held, held_of.values().sum::<usize>());
        assert!(*held <= self.limits.max_fragment_bytes);
        assert!(datagrams.len() <= self.limits.max_fragmented);
        assert!(by_age.len() <= 2 * datagrams.len() + MAX_RANGES + 2);
        for (key, datagram) in datagrams {
            assert!(by_age.contains(&(datagram.started, *key)), "never expires");
            assert!(datagram.ranges.0.len() <= MAX_RANGES);
            let apart = |pair: &[(u32, u32)]| pair[0].1 < pair[1].0;
            assert!(datagram.ranges.0.windows(2).all(apart));
        }
        for &bytes in held_of.values() {
            assert!(bytes > 0 && bytes <= self.limits.max_fragment_bytes_per_source);
        }
    }
}

/// Fragments of 800 bytes of data each, of a datagram of 4000.
fn pieces(src: &str, identification: u32) -> Vec<Vec<u8>> {
    let whole = udp(src, "198.51.100.1:53", &[7; 3992]);
    cut(&whole, 20, identification, &[800, 1600, 2400, 3200])
}

// Conforms: RFC4787-14
#[test]
fn a_source_holds_no_more_than_its_share_and_all_no_more_than_theirs() {
    let mut table = Table::new(Limits {
        max_fragment_bytes: 20_000,
        max_fragment_bytes_per_source: 3000,
        max_fragmented: 20,
        ..Limits::default()
    });
    for host in 0..50 {
        let src = format!("192.0.2.{host}:1");
        for identification in 0..2 {
            for piece in &pieces(&src, identification)[1..] {
                match table.place(piece) {
                    Ok(place) => assert!(matches!(place, Place::Held)),
                    Err(refused) => assert_eq!(refused, Refused::FragmentLimit),
                }
            }
        }
    }
    assert!(table.fragments.held > 15_000, "the bound is used");
    assert!(table.fragments.take_lost() > 0);
}

#[test]
fn a_source_with_all_its_share_gets_first_fragments_through() {
    let source = "192.0.2.9:1";
    let (one, other) = (pieces(source, 1), pieces(source, 2));
    let cost = |bytes: &[u8]| bytes.len() + HELD_OVERHEAD;
    let mut table = Table::new(Limits {
        max_fragment_bytes_per_source: cost(&one[1]) + cost(&one[2]),
        ..Limits::default()
    });
    for piece in &one[1..3] {
        assert!(matches!(table.place(piece), Ok(Place::Held)));
    }
    assert_eq!(table.place(&other[1]).unwrap_err(), Refused::FragmentLimit);
    assert!(matches!(table.place(&other[0]), Ok(Place::First)));
    assert!(matches!(table.place(&one[0]), Ok(Place::First)));
}

#[test]
fn a_flood_of_first_fragments_forgets_the_oldest() {
    let mut table = Table::new(Limits {
        max_fragmented: 10,
        ..Limits::default()
    });
    for identification in 0..1000 {
        let first = &pieces("192.0.2.9:1", identification)[0];
        assert!(matches!(table.place(first), Ok(Place::First)));
    }
    let repeated = &pieces("192.0.2.9:1", 999)[0];
    assert_eq!(
        table.place(repeated).unwrap_err(),
        Refused::FragmentDuplicate
    );
    let forgotten = &pieces("192.0.2.9:1", 0)[0];
    assert!(matches!(table.place(forgotten), Ok(Place::First)));
}

#[test]
fn a_complete_datagram_leaves_its_identification_free_and_nothing_behind() {
    let mut table = Table::new(Limits::default());
    for round in 0..1000 {
        for piece in &pieces("192.0.2.9:1", round % 3) {
            let mut bytes = piece.clone();
            let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
            let first = packet.piece().unwrap();
            let key = Key::new(PATH, &packet, &first);
            match table.place(piece) {
                Ok(Place::First) => {
                    let refused = Err(Refused::NoMapping);
                    assert!(table.fragments.decide(key, &first, refused).is_empty());
                }
                other => assert_eq!(other.unwrap_err(), Refused::NoMapping),
            }
        }
        assert!(table.fragments.datagrams.is_empty());
    }
    assert_eq!(table.fragments.take_lost(), 0);
}

#[test]
fn an_address_that_goes_takes_the_datagrams_from_and_to_it_along() {
    let mut table = Table::new(Limits::default());
    let held = |table: &mut Table, source: &str| {
        let place = table.place(&pieces(source, 1)[1]).unwrap();
        matches!(place, Place::Held)
    };
    let sources = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"];
    for source in sources {
        assert!(held(&mut table, source));
    }
    // From it.
    table.fragments.forget_address(ip("192.0.2.2"));
    assert_eq!(table.fragments.take_lost(), 1);
    assert_eq!(table.fragments.datagrams.len(), 2);
    // To it, by the address that the sender knows.
    table.fragments.forget_address(ip("198.51.100.1"));
    assert_eq!(table.fragments.take_lost(), 2);
    assert!(table.fragments.datagrams.is_empty());
    // To it, by its own.
    let container = ip("10.0.0.2");
    let lead = Lead {
        tuple: None,
        translated: Translated {
            connection: Tuple {
                src: ip("192.0.2.1"),
                dst: ip("198.51.100.1"),
                src_port: 1,
                dst_port: 53,
                protocol: Protocol::UDP,
            },
            kind: Kind::Publish(1),
            direction: Direction::Original,
            new: true,
        },
        src: ip("192.0.2.1"),
        dst: container,
        identification: None,
    };
    let first = &pieces(sources[0], 1)[0];
    assert!(matches!(table.place(first), Ok(Place::First)));
    let mut bytes = first.clone();
    let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
    let piece = packet.piece().unwrap();
    let key = Key::new(PATH, &packet, &piece);
    assert!(table.fragments.decide(key, &piece, Ok(lead)).is_empty());
    table.fragments.forget_address(ip("10.0.0.3"));
    assert!(
        !held(&mut table, sources[0]),
        "it goes where the first one went"
    );
    table.fragments.forget_address(container);
    assert!(held(&mut table, sources[0]));
}

#[test]
fn identifications_repeat_only_after_all_were_used() {
    let mut identifications = Identifications {
        secret: 5,
        count: 0,
    };
    let mut seen = vec![false; 1 << 16];
    for _ in 0..1 << 16 {
        let identification = identifications.next(16);
        assert!(!std::mem::replace(&mut seen[identification as usize], true));
    }
    let mut wide: Vec<u32> = (0..100_000).map(|_| identifications.next(32)).collect();
    let steps_of_one = wide
        .windows(2)
        .filter(|pair| pair[1].wrapping_sub(pair[0]) == 1);
    assert!(steps_of_one.count() < 10, "a counter shows through");
    wide.sort_unstable();
    wide.dedup();
    assert_eq!(wide.len(), 100_000);
}

#[test]
fn ranges_join_and_tell_a_repeat_from_an_overlap() {
    let mut ranges = Ranges::default();
    assert_eq!(ranges.insert(16, 24), Ok(()));
    assert_eq!(ranges.insert(0, 8), Ok(()));
    assert_eq!(ranges.insert(8, 16), Ok(()));
    assert_eq!(ranges.0, [(0, 24)]);
    assert_eq!(ranges.insert(8, 24), Err(Refused::FragmentDuplicate));
    assert_eq!(ranges.insert(16, 32), Err(Refused::FragmentOverlap));
    assert_eq!(ranges.insert(32, 40), Ok(()));
    assert_eq!(ranges.insert(24, 48), Err(Refused::FragmentOverlap));
    assert_eq!(ranges.insert(24, 33), Err(Refused::FragmentOverlap));
    assert_eq!(ranges.insert(24, 32), Ok(()));
    for at in 0..MAX_RANGES as u32 - 1 {
        assert_eq!(ranges.insert(100 + 2 * at, 101 + 2 * at), Ok(()));
    }
    assert_eq!(ranges.insert(5000, 5001), Err(Refused::FragmentLimit));
    assert_eq!(ranges.insert(99, 100), Ok(()), "that adds no range");
}
