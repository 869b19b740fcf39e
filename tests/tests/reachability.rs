//! What networks of each kind may reach: a table, a page that is rendered from it, and a test that
//! tries every cell.
//!
//! Each kind of network has two containers. One tries everything that the table names, with a
//! default route to its gateway, which inside an internal network only its own root would make.
//! What it may reach must answer; what it may not must hear nothing of it, which its own record
//! proves.

mod reachability {
    pub(crate) mod attempt;
    pub(crate) mod scenery;
    pub(crate) mod table;
}

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use pontoon_tests::has_ipv6;
use pontoon_tests::scene::{PORT_KINDS, Scene};

use reachability::attempt::{Outcome, Probe};
use reachability::scenery::Scenery;
use reachability::table::{Family, KINDS, LINES, render};

/// Probes at once: most of the time is spent waiting for what should not come.
const WORKERS: usize = 96;

/// A lost datagram is no verdict on a busy machine: what is expected is tried this many times.
const ATTEMPTS: usize = 5;

// Feature: isolation networks
#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reachability.md");
    let page = render();
    if std::env::var_os("PONTOON_RENEW_PAGES").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/reachability.md differs from the table in tests/tests/reachability/table.rs: renew \
         it with PONTOON_RENEW_PAGES=1 cargo test -p pontoon-tests --test reachability the_page"
    );
}

// Feature: isolation networks publishing names
#[test]
fn every_cell_is_as_the_table_says_with_a_tap() {
    try_every_cell(PORT_KINDS[0]);
}

// Feature: isolation networks publishing names
#[test]
fn every_cell_is_as_the_table_says_with_a_veth() {
    try_every_cell(PORT_KINDS[1]);
}

fn try_every_cell(port_kind: &'static str) {
    let Some(scene) = Scene::with_port_kind(port_kind) else {
        return;
    };
    let scenery = Scenery::new(&scene);
    let probes = Mutex::new(all_probes(&scenery));
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some((cell, probe)) = probes.lock().expect("no panic").pop_front() else {
                        return;
                    };
                    if let Some(outcome) = contradiction(&scenery, &probe) {
                        let problem = format!("{cell}: {probe}: {outcome:?}");
                        wrong.lock().expect("no panic").push(problem);
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().expect("no panic");
    wrong.sort();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every probe of every cell, with the cell's name.
fn all_probes<'a>(scenery: &'a Scenery) -> VecDeque<(String, Probe<'a>)> {
    let mut probes = VecDeque::new();
    for line in LINES {
        for &family in line.families {
            if family == Family::V6 && !has_ipv6() {
                continue;
            }
            for (kind, expected) in KINDS.into_iter().zip(line.expected) {
                let cell = format!("{kind:?}, {family:?}: {}", line.text);
                for probe in scenery.probes(line.target, kind, family, expected) {
                    probes.push_back((cell.clone(), probe));
                }
            }
        }
    }
    probes
}

/// What became of a probe, if it is not what the table says.
fn contradiction(scenery: &Scenery, probe: &Probe) -> Option<Outcome> {
    if !probe.expected {
        let outcome = scenery.try_once(probe);
        return (outcome != Outcome::Nothing).then_some(outcome);
    }
    let mut outcome = Outcome::Nothing;
    for _ in 0..ATTEMPTS {
        outcome = scenery.try_once(probe);
        if outcome == Outcome::Answered {
            return None;
        }
    }
    Some(outcome)
}
