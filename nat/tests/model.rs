//! The engine against a naive NAT that is obviously right: see `model/reference.rs`.
//!
//! Any sequence of packets, of time steps, of publications and withdrawals is done to both. What
//! the engine decides freely (which external port, who gives way in a full table) is held against
//! the rules of choice; everything else must agree: translated or refused and why, each byte of
//! the packet, the connections with their states and times to live, the ports that are free.
//!
//! A failing case is shrunk and printed as a table of packets, and its seed is added to
//! `model.proptest-regressions`, which is kept. The ordinary run is bounded; for hours of it:
//!
//! ```text
//! PROPTEST_CASES=1000000 cargo test --release -p pontoon-nat --test model
//! ```

#[path = "model/check.rs"]
mod check;
#[path = "model/flow.rs"]
mod flow;
#[path = "model/judge.rs"]
mod judge;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/run.rs"]
mod run;
#[path = "model/tcp.rs"]
mod tcp;
#[path = "model/wire.rs"]
mod wire;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// Some ten seconds of them in a debug build, unless the environment says otherwise.
fn cases() -> u32 {
    let set = std::env::var("PROPTEST_CASES").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model.proptest-regressions"),
        ))),
        cases: cases(),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    // Conforms: PROOF-model RFC4787-1 RFC4787-8 RFC4787-9 RFC4787-11 RFC6888-8
    #[test]
    fn engine_and_reference_agree(
        setup in ops::setup(),
        ops in ops::ops(),
    ) {
        run::Run::new(&setup).all(&ops).map_err(TestCaseError::fail)?;
    }
}
