use std::num::NonZeroU64;
use std::time::Duration;

use crate::config::{Conduct, Fault, Limit, MILLION, PortId, Treatment};
use crate::drop::DropReason;
use crate::frame::MacAddr;
use crate::io::{Queue, memory_port};
use crate::testing::{Lan, frame, mac};

const LATENCY: Duration = Duration::from_millis(20);

/// Endpoints 1 to 3, the first of which is treated so.
fn lan(change: impl FnOnce(&mut Treatment)) -> Lan {
    let mut treatment = untreated(1);
    change(&mut treatment);
    let mut lan = Lan::new(3).with(|config| config.treatments = vec![treatment]);
    // A clock starts with its burst saved up.
    lan.now += Duration::from_secs(10);
    lan
}

fn untreated(port: u32) -> Treatment {
    Treatment {
        port: PortId(port),
        from: Conduct::default(),
        to: Conduct::default(),
        cut_off: false,
        parted_from: Vec::new(),
    }
}

fn late() -> Fault {
    Fault {
        latency: LATENCY,
        ..Fault::default()
    }
}

/// A frame with a number in it.
fn numbered(to: u8, from: u8, number: u8) -> Vec<u8> {
    let mut frame = frame(mac(to), mac(from));
    frame[20] = number;
    frame
}

#[test]
fn a_late_frame_arrives_late_and_only_that_way() {
    let mut lan = lan(|it| it.from.fault = late());
    assert_eq!(lan.due(), None);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), []);
    assert_eq!(lan.due(), Some(lan.now + LATENCY));
    assert_eq!(lan.send(2, &frame(mac(1), mac(2))), [1]);
    assert!(lan.wait(LATENCY - Duration::from_nanos(1)).is_empty());
    let heard = lan.wait(Duration::from_nanos(1));
    assert_eq!(heard, [(2, frame(mac(2), mac(1)))]);
    assert_eq!(lan.due(), None);
}

#[test]
fn both_ways_add_up_and_frames_keep_their_order() {
    let mut lan = lan(|it| {
        it.from.fault = late();
        it.to.fault = late();
    });
    // The first endpoint asks itself by way of the others: nobody answers, so send both ways.
    for number in 0..100 {
        assert_eq!(lan.send(1, &numbered(2, 1, number)), []);
        assert_eq!(lan.send(2, &numbered(1, 2, number)), []);
    }
    let heard = lan.wait(LATENCY);
    let numbers = |port: usize| {
        let of = heard.iter().filter(move |(at, _)| *at == port);
        of.map(|(_, frame)| frame[20]).collect::<Vec<_>>()
    };
    assert_eq!(numbers(1), (0..100).collect::<Vec<_>>());
    assert_eq!(numbers(2), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_broadcast_is_late_where_it_is_to_be_late() {
    let mut lan = lan(|it| it.to.fault = late());
    assert_eq!(lan.send(2, &frame(MacAddr::BROADCAST, mac(2))), [0, 3]);
    let heard = lan.wait(LATENCY);
    assert_eq!(heard, [(1, frame(MacAddr::BROADCAST, mac(2)))]);
}

#[test]
fn a_limit_holds_back_and_then_drops() {
    // A frame of 60 bytes a millisecond, ten at once.
    let limit = Limit {
        bits_per_second: NonZeroU64::new(480_000),
        burst_bytes: Some(600),
        packets_per_second: None,
    };
    for inward in [false, true] {
        let mut lan = lan(|it| {
            let conduct = if inward { &mut it.to } else { &mut it.from };
            conduct.limit = limit.clone();
        });
        let (from, to) = if inward { (2, 1) } else { (1, 2) };
        let mut at_once = 0;
        for number in 0..200 {
            at_once += lan
                .send(usize::from(from), &numbered(to, from, number))
                .len();
        }
        assert_eq!(at_once, 11);
        // What half a second brings, and the one that begins then.
        let mut heard = Vec::new();
        for millis in 1..1000 {
            let now = lan.wait(Duration::from_millis(1));
            assert_eq!(now.len(), usize::from(heard.len() < 189), "{millis}");
            heard.extend(now);
            if heard.len() == 189 {
                break;
            }
        }
        let numbers: Vec<u8> = heard.iter().map(|(_, frame)| frame[20]).collect();
        assert_eq!(numbers, (11..200).collect::<Vec<_>>());
        assert_eq!(lan.drops(DropReason::RateLimited), 0);
        for number in 0..1000 {
            let frame = numbered(to, from, number as u8);
            lan.send(usize::from(from), &frame);
        }
        assert!(lan.drops(DropReason::RateLimited) > 400);
    }
}

#[test]
fn lost_and_doubled() {
    let mut lossy = lan(|it| it.to.fault.loss = MILLION);
    assert_eq!(lossy.send(2, &frame(mac(1), mac(2))), []);
    assert_eq!(lossy.drops(DropReason::FaultLoss), 1);
    assert_eq!(lossy.send(1, &frame(mac(2), mac(1))), [2]);

    let mut lan = lan(|it| it.from.fault.duplicate = MILLION);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), [2]);
    assert_eq!(lan.wait(Duration::ZERO), [(2, frame(mac(2), mac(1)))]);
    assert_eq!(lan.due(), None);
}

#[test]
fn who_is_cut_off_hears_nothing_and_is_not_heard() {
    let mut lan = lan(|it| it.cut_off = true);
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), []);
    assert_eq!(lan.send(2, &frame(mac(1), mac(2))), []);
    assert_eq!(lan.send(2, &frame(MacAddr::BROADCAST, mac(2))), [0, 3]);
    assert_eq!(lan.drops(DropReason::Partitioned), 3);
    lan.config.treatments.clear();
    lan.configure();
    assert_eq!(lan.send(1, &frame(mac(2), mac(1))), [2]);
}

#[test]
fn parted_ports_reach_all_but_each_other() {
    let mut lan = lan(|it| it.parted_from = vec![PortId(2)]);
    let other = Treatment {
        parted_from: vec![PortId(1)],
        ..untreated(2)
    };
    lan.config.treatments.push(other);
    lan.configure();
    for (one, other) in [(1, 2), (2, 1)] {
        let from = usize::from(one);
        assert_eq!(lan.send(from, &frame(mac(other), mac(one))), []);
        assert_eq!(lan.send(from, &frame(mac(3), mac(one))), [3]);
        assert_eq!(lan.send(from, &frame(MacAddr::BROADCAST, mac(one))), [0, 3]);
        assert_eq!(lan.send(3, &frame(mac(one), mac(3))), [from]);
    }
    assert_eq!(lan.drops(DropReason::Partitioned), 4);
}

#[test]
fn a_late_frame_never_reaches_whoever_has_its_ports_number_next() {
    let mut lan = lan(|it| it.to.fault = late());
    assert_eq!(lan.send(2, &frame(mac(1), mac(2))), []);
    lan.datapath.remove_port(PortId(1));
    let (queue, next) = memory_port(10).unwrap();
    let port = lan.datapath.add_port(vec![Queue::Memory(queue)]).unwrap();
    assert_eq!(port, PortId(1));
    lan.configure();
    lan.wait(LATENCY);
    assert!(next.recv().is_none());
    assert_eq!(lan.drops(DropReason::EgressGone), 1);
}

#[test]
fn what_is_held_is_bounded() {
    let mut lan = lan(|it| it.from.fault.latency = Duration::from_secs(10));
    let mut large = frame(mac(2), mac(1));
    large.resize(60_000, 0);
    for _ in 0..300 {
        lan.send(1, &large);
    }
    let dropped = lan.drops(DropReason::DelayFull);
    assert_eq!(dropped, 300 - (16 << 20) / 60_128);
    let heard = lan.wait(Duration::from_secs(10));
    assert_eq!(heard.len() as u64, 300 - dropped);
    // And what has gone on makes room.
    lan.send(1, &large);
    assert_eq!(lan.drops(DropReason::DelayFull), dropped);
}

#[test]
fn a_limit_that_did_not_change_keeps_its_clock() {
    let limit = Limit {
        packets_per_second: NonZeroU64::new(100),
        ..Limit::default()
    };
    let mut lan = lan(|it| it.from.limit = limit);
    let burst = |lan: &mut Lan| {
        (0..50)
            .map(|_| lan.send(1, &frame(mac(2), mac(1))).len())
            .sum::<usize>()
    };
    assert_eq!(burst(&mut lan), 11);
    lan.configure();
    assert_eq!(burst(&mut lan), 0);
    lan.config.treatments[0].from.limit.packets_per_second = NonZeroU64::new(101);
    lan.configure();
    assert_eq!(burst(&mut lan), 11);
}
