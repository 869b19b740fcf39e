//! Network namespaces with names of their own, which are gone when the test is over.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use crate::process::{run, signal_process};

/// `tests/run` removes what a killed test left behind by this prefix and the pid that follows.
pub const PREFIX: &str = "pontoon-test-";

/// A network namespace in the care of `ip netns`, with `lo` up.
///
/// Dropping it kills what still runs in it and removes it; unless the test has failed already, it
/// also proves that nothing but pontoon did the work there: no rule of netfilter, no bridge.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// # Panics
    ///
    /// `ip` is not installed, or may not make namespaces.
    pub fn new(label: &str) -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name])).success();
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A program in the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// A line of shell in the namespace; returns its output.
    ///
    /// # Panics
    ///
    /// It fails.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        run(self.command("sh").args(["-ec", line])).success()
    }

    /// `ip` with these arguments, in the namespace; returns its output.
    ///
    /// # Panics
    ///
    /// It fails.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.split_whitespace();
        run(Command::new("ip").args(["-n", &self.name]).args(arguments)).success()
    }

    /// Runs `action` on a thread in the namespace. Sockets made there belong to the namespace for
    /// good and can be used from any thread.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("the namespace's file can be opened");
        let enter = || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            action()
        };
        let result = thread::scope(|scope| scope.spawn(enter).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The MAC of an interface, in the form `02:00:00:00:00:01`.
    pub fn mac(&self, interface: &str) -> String {
        self.sh(&format!("cat /sys/class/net/{interface}/address"))
            .trim()
            .to_owned()
    }

    /// What else might be doing the work here: rules of netfilter, bridges, forwarding.
    fn other_helpers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let bridges = run(
            Command::new("ip").args(["-n", &self.name, "-o", "link", "show", "type", "bridge"])
        );
        if !bridges.stdout.trim().is_empty() {
            found.push(format!("a bridge device: {}", bridges.stdout));
        }
        // Fails on a kernel that has no nf_tables, and then there can be no rule.
        let rules = run(self.command("nft").args(["list", "ruleset"]));
        if !rules.stdout.trim().is_empty() {
            found.push(format!("nftables rules: {}", rules.stdout));
        }
        // The tables of the older iptables that are loaded for this namespace.
        let tables = run(self.command("sh").args([
            "-c",
            "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null",
        ]));
        if !tables.stdout.trim().is_empty() {
            found.push(format!("iptables tables: {}", tables.stdout));
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            // The second one is not there on a kernel without IPv6.
            let forwarding = run(self.command("cat").arg(format!("/proc/sys/net/{setting}")));
            if !matches!(forwarding.stdout.trim(), "0" | "") {
                found.push(format!("{setting} is {}", forwarding.stdout));
            }
        }
        found
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let helpers = if thread::panicking() {
            Vec::new()
        } else {
            self.other_helpers()
        };
        let pids = run(Command::new("ip").args(["netns", "pids", &self.name])).stdout;
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
            signal_process(pid, Signal::SIGKILL);
        }
        run(Command::new("ip").args(["netns", "delete", &self.name]));
        if !helpers.is_empty() {
            panic!(
                "something besides pontoon was at work in {}: {}",
                self.name,
                helpers.join("; ")
            );
        }
    }
}

/// Joins two namespaces by a veth pair whose ends have these names, both up.
pub fn join(a: (&Namespace, &str), b: (&Namespace, &str)) {
    a.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        a.1,
        b.1,
        b.0.name()
    ));
    for (namespace, interface) in [a, b] {
        namespace.ip(&format!("link set {interface} up"));
    }
}
