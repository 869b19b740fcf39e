//! Keeping idle CPUs from halting.
//!
//! Whoever a frame is for has mostly fallen asleep, and its CPU has halted with it. To wake that CPU
//! takes some 10 to 30 µs in a virtual machine, most of a round trip. While somebody asks for a
//! wake-up latency of zero (the kernel's Documentation/power/pm_qos_interface.rst), idle CPUs poll
//! for work instead. That costs power, and on a shared machine what the neighbours could have used:
//! so only by request, and only while frames keep coming.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use super::context;

const DEVICE: &str = "/dev/cpu_dma_latency";

/// The kernel's own value for "any latency will do", in microseconds.
const ANY: i32 = 2_000_000_000;

/// A request to the kernel, withdrawn when dropped.
#[derive(Debug)]
pub(crate) struct NoHalt {
    request: File,
    held: bool,
}

impl NoHalt {
    /// A request that asks for nothing yet.
    ///
    /// # Errors
    ///
    /// This kernel has no such thing (CONFIG_CPU_IDLE, CONFIG_PM), or no right to it.
    pub(crate) fn new() -> io::Result<NoHalt> {
        let request = OpenOptions::new()
            .write(true)
            .open(DEVICE)
            .map_err(|error| context(format_args!("keep CPUs from halting by {DEVICE}"), error))?;
        Ok(NoHalt {
            request,
            held: false,
        })
    }

    /// Keeps CPUs from halting, or lets them. A change wakes every idle CPU once.
    pub(crate) fn hold(&mut self, hold: bool) {
        if hold == self.held {
            return;
        }
        let latency = if hold { 0 } else { ANY };
        // It can't fail: the kernel takes four bytes as they are.
        self.request.write_all(&latency.to_ne_bytes()).ok();
        self.held = hold;
    }

    /// Whether CPUs are kept from halting now.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What all requests of the machine come to, in microseconds.
    fn latency() -> i32 {
        let mut bytes = [0; 4];
        File::open(DEVICE).unwrap().read_exact(&mut bytes).unwrap();
        i32::from_ne_bytes(bytes)
    }

    #[test]
    fn cpus_are_kept_from_halting_while_it_is_held() {
        let mut no_halt = match NoHalt::new() {
            Ok(no_halt) => no_halt,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let before = latency();
        no_halt.hold(true);
        assert_eq!(latency(), 0);
        no_halt.hold(false);
        assert_eq!(latency(), before);
        no_halt.hold(true);
        drop(no_halt);
        assert_eq!(latency(), before);
    }
}
