//! What the tests that span crates stand on.
//!
//! Two worlds. [`simulation`] is a network in memory: smoltcp hosts on the switch's in-memory
//! ports under a clock that only the test moves; it needs no right at all. The rest is the real
//! thing: a [`Scene`](scene::Scene) is a host with a daemon, and an outside host at the other end
//! of its uplink, each in a [`Namespace`](namespace::Namespace) of its own, so nothing here ever
//! touches the machine's own network; [`uml`] boots a kernel without netfilter.
//!
//! [`traffic`] makes the connections whose fate a test asserts, [`wire`] sends and watches frames,
//! [`iperf`] moves bulk, [`dns`] asks for names, [`process`] runs programs with a time limit: a
//! hang fails, and by name.

#![forbid(unsafe_code)]

pub mod dns;
pub mod iperf;
pub mod namespace;
pub mod process;
pub mod scene;
pub mod simulation;
pub mod traffic;
pub mod uml;
pub mod wire;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// The program under test: `PONTOON_BIN`, else the release build of this workspace.
///
/// # Panics
///
/// There is no such file.
pub fn pontoon() -> PathBuf {
    let path = std::env::var_os("PONTOON_BIN").map_or_else(
        || {
            let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| PathBuf::from(workspace).join("target"), PathBuf::from);
            target.join("release/pontoon")
        },
        PathBuf::from,
    );
    path.canonicalize().unwrap_or_else(|error| {
        panic!(
            "no pontoon at {} ({error}): build it with `cargo build --release`, or name it in \
             PONTOON_BIN",
            path.display()
        )
    })
}

/// Says that the calling test can't run here, and why; `tests/run` counts these lines.
///
/// Written past libtest, which keeps the output of a test that passes to itself. The line is also
/// appended to the file that `PONTOON_SKIPPED` names.
pub fn skip(why: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {name}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    if let Some(path) = std::env::var_os("PONTOON_SKIPPED") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the file that PONTOON_SKIPPED names can be written");
    }
}

/// Is this root, as the tests in namespaces need? If not, skips the calling test.
pub fn is_root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root, to make network namespaces");
    }
    root
}

/// Whether this kernel has IPv6.
pub fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// Whether this kernel has IPv6; if not, skips the calling test.
pub fn has_ipv6_or_skip() -> bool {
    if !has_ipv6() {
        skip("needs a kernel with IPv6");
    }
    has_ipv6()
}

/// Looks until `condition` holds, and returns what it found.
///
/// # Panics
///
/// It does not hold within `limit`; the panic tells `what` was awaited and the last objection.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(objection) if start.elapsed() > limit => {
                panic!("not within {limit:?}: {what}: {objection}")
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
