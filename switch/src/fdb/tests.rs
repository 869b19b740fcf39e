use super::*;

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn limits(macs_per_port: usize, macs: usize) -> Bridge {
    Bridge {
        macs_per_port,
        macs,
        ..Bridge::default()
    }
}

const A: PortId = PortId(1);
const B: PortId = PortId(2);

/// The two indices agree.
fn check(fdb: &Fdb) {
    let table = fdb.table.read();
    let held: usize = table.held.values().map(|held| held.macs.len()).sum();
    assert_eq!(held, table.entries.len());
    for (mac, entry) in &table.entries {
        assert_eq!(table.held[&entry.port].macs[entry.slot], *mac);
    }
}

// Conforms: SWITCH-learning
// Feature: switching
#[test]
fn learns_refreshes_moves_and_ages() {
    let (fdb, limits) = (Fdb::default(), limits(8, 100));
    assert_eq!(fdb.learn(at(0), mac(1), A, &limits), Learned::New);
    assert_eq!(fdb.learn(at(200), mac(1), A, &limits), Learned::Known);
    assert_eq!(fdb.lookup(at(499), mac(1)), Some(A));
    let moved = fdb.learn(at(499), mac(1), B, &limits);
    assert_eq!(moved, Learned::Moved { from: A });
    assert_eq!(fdb.stats().moved, 1);
    assert_eq!(fdb.lookup(at(500), mac(1)), Some(B));
    assert_eq!(fdb.lookup(at(799), mac(1)), None);
    fdb.age(at(799));
    assert!(fdb.rows(at(500)).is_empty());
    check(&fdb);
}

// Conforms: LINUX-bridge-fdb-learning-limit
// Feature: switching
#[test]
fn a_port_over_its_limit_loses_only_its_own_entries() {
    let (fdb, limits) = (Fdb::default(), limits(4, 1000));
    fdb.learn(at(0), mac(1000), B, &limits);
    for n in 0..100 {
        fdb.learn(at(1), mac(n), A, &limits);
    }
    assert_eq!(fdb.lookup(at(1), mac(1000)), Some(B));
    assert_eq!(fdb.rows(at(1)).len(), 5);
    assert_eq!(fdb.stats().evicted, 96);
    // Moving there is no way round the limit.
    fdb.learn(at(1), mac(1000), A, &limits);
    assert_eq!(fdb.rows(at(1)).len(), 4);
    check(&fdb);
}

// Conforms: OVS-mac-table-fairness
#[test]
fn a_full_table_takes_from_whoever_holds_most() {
    let (fdb, limits) = (Fdb::default(), limits(1000, 100));
    let held = |port| {
        let rows = fdb.rows(at(1));
        rows.iter().filter(|row| row.port == port).count()
    };
    fdb.learn(at(0), mac(u32::MAX), B, &limits);
    for n in 0..500 {
        fdb.learn(at(1), mac(n), A, &limits);
    }
    assert_eq!((held(A), held(B)), (99, 1));
    // The modest one may grow at the cost of the greedy one, until both hold as much.
    for n in 0..500 {
        fdb.learn(at(1), mac(1000 + n), B, &limits);
    }
    assert_eq!((held(A), held(B)), (50, 50));
    // A third one gets its share of both, and a fourth.
    for (port, from) in [(PortId(3), 2000), (PortId(4), 3000)] {
        for n in 0..500 {
            fdb.learn(at(1), mac(from + n), port, &limits);
        }
    }
    for port in [A, B, PortId(3), PortId(4)] {
        assert!((24..=26).contains(&held(port)), "{port}: {}", held(port));
    }
    check(&fdb);
}

#[test]
fn what_is_in_use_outlives_what_is_not() {
    let (fdb, limits) = (Fdb::default(), limits(16, 1000));
    for n in 0..16 {
        fdb.learn(at(0), mac(n), A, &limits);
    }
    for n in 0..1000 {
        fdb.learn(at(2 + n), mac(7), A, &limits);
        fdb.learn(at(2 + n), mac(1000 + n as u32), A, &limits);
    }
    assert_eq!(fdb.lookup(at(1002), mac(7)), Some(A));
    check(&fdb);
}

#[test]
fn ports_that_leave_take_their_entries_along() {
    let (fdb, limits) = (Fdb::default(), limits(8, 100));
    fdb.learn(at(0), mac(1), A, &limits);
    fdb.learn(at(0), mac(2), B, &limits);
    fdb.retain_ports(|port| port != A);
    assert_eq!(fdb.lookup(at(0), mac(1)), None);
    assert_eq!(fdb.lookup(at(0), mac(2)), Some(B));
    check(&fdb);
}
