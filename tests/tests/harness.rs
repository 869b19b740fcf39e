//! The proofs that other tests rest on do find what they look for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use pontoon_tests::is_root_or_skip;
use pontoon_tests::namespace::{Namespace, join};
use pontoon_tests::process::{run, run_within};
use pontoon_tests::traffic::{dial, ping};
use pontoon_tests::wire::Witness;

/// What dropping a namespace says, if it objects to anything.
fn objection(namespace: Namespace) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(namespace))).err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn a_bridge_is_found() {
    if !is_root_or_skip() {
        return;
    }
    let namespace = Namespace::new("bridge");
    let made = run(namespace
        .command("ip")
        .args(["link", "add", "br0", "type", "bridge"]));
    // On a kernel without bridges there is nothing to find.
    let objection = objection(namespace).unwrap_or_default();
    assert_eq!(
        made.status.success(),
        objection.contains("br0"),
        "{objection}"
    );
}

#[test]
fn a_rule_of_netfilter_is_found() {
    if !is_root_or_skip() {
        return;
    }
    let namespace = Namespace::new("rule");
    let made = run(namespace
        .command("nft")
        .args(["add", "table", "inet", "found"]));
    let objection = objection(namespace).unwrap_or_default();
    assert_eq!(
        made.status.success(),
        objection.contains("found"),
        "{objection}"
    );
}

#[test]
fn forwarding_is_found() {
    if !is_root_or_skip() {
        return;
    }
    let namespace = Namespace::new("forwarding");
    namespace.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    let objection = objection(namespace).expect("forwarding is objected to");
    assert!(objection.contains("ip_forward"), "{objection}");
}

#[test]
fn the_witness_sees_a_reset() {
    if !is_root_or_skip() {
        return;
    }
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    join((&left, "eth0"), (&right, "eth0"));
    left.ip("addr add 10.0.0.1/24 dev eth0");
    right.ip("addr add 10.0.0.2/24 dev eth0");
    ping(&left, [10, 0, 0, 2].into()).success();
    let witness = Witness::start(&left, "eth0", "tcp[tcpflags] & tcp-rst != 0");
    dial(&left, ([10, 0, 0, 2], 81)).expect_err("nobody listens there");
    let seen = witness.stop();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(objection(left).or(objection(right)).is_none());
}

#[test]
fn a_program_that_hangs_fails_by_name() {
    let hang = catch_unwind(|| {
        run_within(Command::new("sleep").arg("1000"), Duration::from_millis(50));
    });
    let message = hang.expect_err("it does not end");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(message.contains("\"sleep\" \"1000\""), "{message}");
}
