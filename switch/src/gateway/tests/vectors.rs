//! Vectors of frames, among so many connections that the engine fetches those of a vector ahead.

use super::*;
use crate::datapath::Counters;
use crate::worker::VECTOR;

/// More than the engine thinks fit in the cache by themselves.
const FLOWS: u16 = 5000;

fn far(flow: u16) -> String {
    format!("2001:db8:9::{flow:x}")
}

/// So many flows of container 1, from one port.
fn crowded() -> Lan {
    let mut lan = lan();
    let asked = only(lan.send_and_hear(1, &routed(1, &far(0), 64, (4242, 53)))).1;
    lan.send_and_hear(3, &router_answers(&asked));
    for flow in 1..FLOWS {
        assert_eq!(lan.send(1, &routed(1, &far(flow), 64, (4242, 53))), [3]);
    }
    assert_eq!(lan.datapath.nat().len(), usize::from(FLOWS));
    lan
}

/// What each port heard, in its order.
fn by_port(mut heard: Vec<(usize, Vec<u8>)>) -> Vec<(usize, Vec<u8>)> {
    heard.sort_by_key(|(port, _)| *port);
    heard
}

fn drops(lan: &Lan) -> Vec<(DropReason, u64)> {
    let Counters { drops, .. } = lan.datapath.counters();
    drops
        .into_iter()
        .filter(|(_, frames)| *frames > 0)
        .collect()
}

/// Flows known and new, and a packet of each cut off anywhere.
fn mixture(make: impl Fn(u16) -> Vec<u8>) -> Vec<Vec<u8>> {
    let whole = make(7);
    let cut = (1..whole.len()).map(|length| whole[..length].to_vec());
    let arp = [&whole[..12], &[8, 6, 0, 1]].concat();
    let flows = (0..FLOWS + 9).step_by(61).map(make);
    cut.chain([arp])
        .zip(flows)
        .flat_map(|(one, other)| [one, other])
        .collect()
}

#[test]
fn a_vector_fares_as_its_frames_do_one_by_one() {
    let external = {
        let mut lan = crowded();
        let (_, out) = only(lan.send_and_hear(1, &routed(1, &far(7), 64, (4242, 53))));
        read(&out).3
    };
    let outward = mixture(|flow| routed(1, &far(flow), 64, (4242, 53)));
    let inward = mixture(|flow| {
        let answer = datagram(53, external);
        packet([ROUTER, UPLINK], [&far(flow), HOST], UDP, 60, &answer)
    });
    let (mut singly, mut together) = (crowded(), crowded());
    for (port, frames) in [(1, outward), (3, inward)] {
        for vector in frames.chunks(VECTOR) {
            let one_by_one = vector.iter();
            let heard = one_by_one.flat_map(|frame| singly.send_and_hear(port, frame));
            let heard = by_port(heard.collect());
            assert_eq!(by_port(together.send_vector(port, vector)), heard);
        }
    }
    assert_eq!(drops(&together), drops(&singly));
    assert!(
        drops(&singly)
            .iter()
            .any(|(reason, _)| *reason == DropReason::Malformed)
    );
}
