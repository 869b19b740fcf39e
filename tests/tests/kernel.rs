//! On a kernel without netfilter, bridges and IPv6: user-mode-linux, as an ordinary user too. And on
//! the same kernel with SCTP, which few others have.

use pontoon_tests::uml::boot;

fn passes(modules: &[&str], script: &str, environment: &[(&str, &str)], words: &[&str]) {
    let Some(ended) = boot(modules, script, environment) else {
        return;
    };
    assert_eq!(
        ended.code, 0,
        "{script} with {modules:?}:\n{}",
        ended.output
    );
    for word in words {
        assert!(
            ended.output.contains(word),
            "no {word:?} in:\n{}",
            ended.output
        );
    }
    assert!(
        ended.output.contains("no bridge, no netfilter, no IPv6"),
        "{}",
        ended.output
    );
}

// Feature: no-netfilter docker-cli-637 gvisor-7469
#[test]
fn demo_with_tun_and_veth() {
    passes(&["tun", "veth"], "demo.sh", &[], &["127.0.0.1"]);
}

// Feature: no-netfilter
#[test]
fn demo_with_veth_only() {
    passes(&["veth"], "demo.sh", &[], &["127.0.0.1"]);
}

// Feature: no-netfilter
#[test]
fn demo_with_tun_only() {
    passes(&["tun"], "demo.sh", &[], &["127.0.0.1"]);
}

// Feature: no-netfilter docker-cli-637 gvisor-7469
#[test]
fn redis_with_tun_and_veth() {
    let words = [
        "PONG from 127.0.0.1",
        "PONG from 203.0.113.5",
        "PONG from 192.0.2.1 to outside",
    ];
    passes(&["tun", "veth"], "redis.sh", &[], &words);
}

// Feature: no-netfilter
#[test]
fn redis_with_veth_only() {
    let words = [
        "PONG from 127.0.0.1",
        "PONG from 203.0.113.5",
        "PONG from 192.0.2.1 to outside",
    ];
    passes(&["veth"], "redis.sh", &[], &words);
}

// Feature: no-netfilter
#[test]
fn redis_with_tun_only() {
    passes(
        &["tun"],
        "redis.sh",
        &[],
        &["PONG from 127.0.0.1", "PONG from 203.0.113.5"],
    );
}

#[test]
fn neither_is_told_in_one_line() {
    passes(&[], "neither.sh", &[], &["neither tun nor veth"]);
}

/// Associations of the kernel's own SCTP, with ports of a kind.
fn sctp(port_kind: &str, lengths: &str) {
    // In the order in which they need each other; HMAC is for SCTP's cookies.
    let modules = [
        "crc-ccitt",
        "ipv6",
        "udp_tunnel",
        "ip6_udp_tunnel",
        "sctp",
        "hmac",
        "tun",
        "veth",
    ];
    let environment = [("PONTOON_KIND", port_kind), ("PONTOON_LENGTHS", lengths)];
    let Some(ended) = boot(&modules, "sctp.sh", &environment) else {
        return;
    };
    assert_eq!(ended.code, 0, "by {port_kind}:\n{}", ended.output);
    for answer in ["192.0.2.1", "web", "192.0.2.2"] {
        let answered = ended.output.contains(&format!("{answer} answered"));
        assert!(answered, "{answer}:\n{}", ended.output);
    }
}

// Conforms: SCTP-host-silent LINUX-sctp-by-address
#[test]
fn sctp_by_tap() {
    sctp("tap", "1,1000,20000");
}

/// A veth leaves the cutting of large messages to its far end, too, and what it leaves there no
/// packet socket gets: those have to be sent again, cut.
// Conforms: SCTP-host-silent LINUX-sctp-by-address
#[test]
fn sctp_by_veth() {
    sctp("veth", "1,1000");
}
