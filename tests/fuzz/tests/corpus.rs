//! Every input that was kept, through its target again: what once failed stays mended, and what
//! once was reached is reached on every run, on any compiler.

use std::panic::{self, AssertUnwindSafe};

use pontoon_fuzz::corpus::{self, TARGETS};

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(of, _)| *of == name).expect("listed");
    let inputs = corpus::load(name).unwrap_or_else(|error| panic!("{error}"));
    assert!(!inputs.is_empty(), "nothing is kept of {name}");
    for (number, input) in inputs.iter().enumerate() {
        let run = AssertUnwindSafe(|| target(&input.bytes));
        if panic::catch_unwind(run).is_err() {
            let what = input.name.as_deref().unwrap_or("not named");
            panic!("input {} of {name} ({what}) fails", number + 1);
        }
    }
}

// Conforms: PROOF-fuzz
#[test]
fn frame() {
    replay("frame");
}

// Conforms: PROOF-fuzz CVE-2020-1983
#[test]
fn fragments() {
    replay("fragments");
}

// Conforms: PROOF-fuzz
#[test]
fn nat() {
    replay("nat");
}

// Conforms: PROOF-fuzz
#[test]
fn api() {
    replay("api");
}
