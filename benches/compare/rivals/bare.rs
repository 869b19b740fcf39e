//! A forwarder with nothing between its two ends: what a userspace switch on TAPs can reach here.
//!
//! One thread reads a frame of one TAP and writes it to the other, through one buffer, unparsed, and
//! looks for the next one awake for [`SPELL`] after the last. Whatever pontoon is slower than this
//! is pontoon's; whatever this is slower than the kernel's bridge is the price of leaving the kernel.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use switch::io::{TapOptions, TapQueue, open_tap};

use super::{Topology, vde};

pub(crate) const ABOUT: &str =
    "a bare loop over two TAPs, one thread, polling 50 µs: the limit of userspace";

/// How long it looks for the next frame before it sleeps.
const SPELL: Duration = Duration::from_micros(50);
/// Frames of one direction before the other has its turn.
const TURN: usize = 32;
/// A super-frame and its vnet header.
const ROOM: usize = 1 << 17;

/// The TAPs, made in the namespace that it runs in.
#[derive(Debug, Args)]
pub(crate) struct BareArgs {
    one: String,
    other: String,
}

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::new()?;
    let host = topology.host.clone();
    let program = std::env::current_exe().context("find this program")?;
    let forwarder = topology
        .lab
        .start(&host, &program, &["bare", "tap0", "tap1"])?;
    forwarder.wait_until("ready", || host.has_link("tap0") && host.has_link("tap1"))?;
    vde::hand_over_taps(&mut topology)?;
    Ok(topology)
}

/// Forwards until it is killed.
///
/// # Errors
///
/// A TAP can't be made, or is gone.
pub(crate) fn forward(args: &BareArgs) -> Result<()> {
    let open = |name: &str| -> Result<TapQueue> {
        let mut queues = open_tap(name, 1, TapOptions::default())?;
        queues.pop().context("a TAP without a queue")
    };
    let taps = [open(&args.one)?, open(&args.other)?];
    let mut frame = vec![0; ROOM];
    let mut last = Instant::now();
    loop {
        let there = turn(&taps[0], &taps[1], &mut frame)?;
        let back = turn(&taps[1], &taps[0], &mut frame)?;
        if there + back > 0 {
            last = Instant::now();
        } else if last.elapsed() >= SPELL {
            let mut watched = taps
                .each_ref()
                .map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN));
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => bail!("wait for two TAPs: {error}"),
            }
        }
    }
}

fn turn(from: &TapQueue, to: &TapQueue, frame: &mut [u8]) -> Result<usize> {
    for count in 0..TURN {
        match read(from, frame) {
            // A TAP that is down, or full, loses the frame, as a wire would.
            Ok(bytes) => drop(write(to, &frame[..bytes])),
            Err(Errno::EAGAIN) => return Ok(count),
            Err(Errno::EINTR) => {}
            Err(error) => bail!("read from a TAP: {error}"),
        }
    }
    Ok(TURN)
}
