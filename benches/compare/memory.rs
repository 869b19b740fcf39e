//! What a connection costs in memory: how much more the machine or the daemon holds when
//! [`FLOWS`] of them are open.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;
use crate::lab::Namespace;
use crate::rivals::Subject;

/// UDP flows of one container, fewer than one address may have anywhere.
pub(crate) const FLOWS: u32 = 60_000;
/// Each flow goes to an address of its own, from here on: a range for benchmarks (RFC 2544, RFC
/// 6890), which the peer drops without a word.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Datagrams between two pauses of a millisecond: slower than any path, so that none is lost.
const BURST: u32 = 40;

/// Bytes of memory a connection, in a topology made for this; `None` if the subject has no
/// connection table whose size can be told.
///
/// # Errors
///
/// The subject can't be built, or does not hold the flows.
pub(crate) fn bytes_a_connection(subject: &Subject) -> Result<Option<f64>> {
    if !subject.tells_memory() {
        return Ok(None);
    }
    let topology = subject.build()?;
    let before = settled(|| subject.memory(&topology))?;
    open_flows(&topology.container)?;
    let start = Instant::now();
    while subject.connections(&topology)? < u64::from(FLOWS) {
        interrupt::check()?;
        if start.elapsed() > Duration::from_secs(10) {
            bail!(
                "{} of {FLOWS} flows were opened",
                subject.connections(&topology)?
            );
        }
        open_flows(&topology.container)?;
    }
    let after = settled(|| subject.memory(&topology))?;
    let bytes = after.saturating_sub(before);
    Ok(Some(bytes as f64 / f64::from(FLOWS)))
}

/// A reading that no longer changes: the kernel frees what another measurement left in its own
/// time. After some seconds any reading will do.
fn settled(read: impl Fn() -> Result<u64>) -> Result<u64> {
    const STILL: u64 = 200_000;
    let start = Instant::now();
    let mut last = read()?;
    loop {
        thread::sleep(Duration::from_millis(400));
        let now = read()?;
        if now.abs_diff(last) < STILL || start.elapsed() > Duration::from_secs(6) {
            return Ok(now);
        }
        last = now;
    }
}

fn open_flows(container: &Namespace) -> Result<()> {
    container.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a UDP socket")?;
        for flow in 0..FLOWS {
            let target = Ipv4Addr::from_bits(FIRST.to_bits() + flow);
            socket
                .send_to(b"x", (target, 9))
                .with_context(|| format!("send to {target}"))?;
            if flow % BURST == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })?
}

/// The number behind `key:` in a file of /proc that counts in kB, in bytes.
///
/// # Errors
///
/// The file or the key is not there.
pub(crate) fn kilobytes(file: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let value = text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    let value = value.with_context(|| format!("no {key} in {file}"))?;
    Ok(value * 1024)
}
