//! Bulk by iperf3, from one namespace to another.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::eventually;
use crate::namespace::Namespace;
use crate::process::{Background, run_within};

/// A run of iperf3, what the client says of it in JSON under `end`.
///
/// The client in `from` connects to `address`, behind which a server in `to` listens at `port`; it
/// takes these further options.
///
/// # Panics
///
/// The two do not meet, or speak no JSON.
#[track_caller]
pub fn iperf(
    from: &Namespace,
    address: (IpAddr, u16),
    (to, port): (&Namespace, u16),
    options: &[&str],
) -> Value {
    let mut server =
        Background::start(
            to.command("iperf3")
                .args(["-s", "-1", "-p", &port.to_string()]),
        );
    eventually("iperf3 listens", Duration::from_secs(5), || {
        assert!(server.has_ended().is_none(), "{}", server.output());
        let listening = to.sh("ss -Hltn");
        if listening.contains(&format!(":{port} ")) {
            Ok(())
        } else {
            Err(listening)
        }
    });
    let (address, port) = (address.0.to_string(), address.1.to_string());
    let mut client = from.command("iperf3");
    client
        .args(["-c", &address, "-p", &port, "-J"])
        .args(options);
    let report = run_within(&mut client, Duration::from_secs(30)).success();
    let mut report: Value = serde_json::from_str(&report).expect("iperf3 -J speaks JSON");
    report["end"].take()
}

/// Bits a second of one TCP stream that arrive, over so many seconds.
#[track_caller]
pub fn tcp_rate(
    from: &Namespace,
    address: (IpAddr, u16),
    to: (&Namespace, u16),
    seconds: u32,
) -> f64 {
    let end = iperf(from, address, to, &["-t", &seconds.to_string()]);
    end["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap_or_else(|| panic!("no rate in {end}"))
}
