//! A hint changes nothing, whatever it is about.

use super::*;

#[test]
fn prefetching_changes_nothing() {
    let limits = Limits {
        max_ports_per_address: 1 << 16,
        ..Limits::default()
    };
    let world = World::with(limits, 1024..=65535);
    let flow = |at: u16| udp(&format!("10.0.0.2:{}", 1 + at), "192.0.2.9:5000", b"");
    for at in 0..20_000 {
        world.out(&flow(at)).unwrap();
    }
    let mut before = world.nat.connections(world.now);
    let tuple = |bytes: Vec<u8>| {
        let mut bytes = bytes;
        let packet = Packet::parse(&mut bytes, Checksum::Complete).unwrap();
        packet.tuple().unwrap()
    };
    // Known ones, unknown ones, by the wrong path, and more than it looks at.
    for path in [World::outbound(), Path::Inbound, Path::Hairpin] {
        for first in [0, 19_990, 40_000] {
            let some = (first..first + 100).map(|at| (path, tuple(flow(at))));
            world.nat.prefetch(some);
        }
    }
    world.nat.prefetch([]);
    let mut after = world.nat.connections(world.now);
    before.sort_by_key(|info| info.original);
    after.sort_by_key(|info| info.original);
    assert_eq!(before, after);
}
