//! slirp4netns, with the largest MTU it takes: its best case.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{FIRST_PORT, Form, Need, OUTSIDE, Topology, last_port};
use crate::lab::Namespace;
use crate::{SERVICE, interrupt};

pub(crate) const ABOUT: &str = "slirp4netns, MTU 65520; ports are published through its API socket";
pub(crate) const NEEDS: &[Need] = &[("slirp4netns", "slirp4netns")];

/// The API's sockets, in the lab's directory.
const SOCKET: &str = "slirp.sock";
const FRESH_SOCKET: &str = "fresh.sock";

/// Of the container, always.
const GUEST: &str = "10.0.2.100";

pub(crate) fn build() -> Result<Topology> {
    let mut topology = Topology::with_outside()?;
    let container = topology.container.clone();
    start(&mut topology, &container, SOCKET)?;
    for port in [SERVICE, SERVICE + 1] {
        publish_port(&topology, SOCKET, port)?;
    }
    topology.lead_across(OUTSIDE);
    topology.lead_published();
    topology.lead_loopback();
    Ok(topology)
}

fn start(topology: &mut Topology, inside: &Namespace, socket: &str) -> Result<()> {
    let host = topology.host.clone();
    let socket = topology.lab.file(socket);
    // One of before would look as if this one were ready.
    let _ = std::fs::remove_file(&socket);
    let api = format!("--api-socket={socket}");
    let path = inside.path();
    let path = path.to_string_lossy();
    let arguments = [
        "--configure",
        "--mtu=65520",
        "--netns-type=path",
        &api,
        &path,
        "tap0",
    ];
    let program = topology.lab.start(&host, "slirp4netns", &arguments)?;
    program.wait_until("ready", || {
        inside.has_default_route() && std::path::Path::new(&socket).exists()
    })
}

pub(super) fn attach(topology: &mut Topology, fresh: &Namespace) -> Result<Duration> {
    let before = topology.lab.program_count();
    let start_time = Instant::now();
    let started = start(topology, fresh, FRESH_SOCKET);
    let took = start_time.elapsed();
    topology.lab.stop_after(before);
    started.map(|()| took)
}

/// One request to the API socket, which serves one a connection.
fn ask(topology: &Topology, socket: &str, request: &Value) -> Result<()> {
    let path = topology.lab.file(socket);
    let mut stream = UnixStream::connect(&path).with_context(|| format!("connect to {path}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.to_string().as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("read slirp4netns' answer")?;
    let answer: Value = serde_json::from_str(&answer).context("parse slirp4netns' answer")?;
    if let Some(error) = answer.get("error") {
        bail!("slirp4netns: {request}: {error}");
    }
    Ok(())
}

fn publish_port(topology: &Topology, socket: &str, port: u16) -> Result<()> {
    let arguments = json!({
        "proto": "tcp", "host_addr": "0.0.0.0", "host_port": port,
        "guest_addr": GUEST, "guest_port": port,
    });
    let request = json!({"execute": "add_hostfwd", "arguments": arguments});
    ask(topology, socket, &request)
}

/// On a slirp4netns of its own, which is killed afterwards: to withdraw thousands of ports one by
/// one takes it minutes.
pub(super) fn publish(topology: &mut Topology, count: u16, form: Form) -> Result<Option<Duration>> {
    if form == Form::Range {
        return Ok(None);
    }
    let fresh = topology.lab.namespace("fresh")?;
    let before = topology.lab.program_count();
    let took = start(topology, &fresh, FRESH_SOCKET).and_then(|()| {
        let start_time = Instant::now();
        for port in FIRST_PORT..=last_port(count) {
            interrupt::check()?;
            publish_port(topology, FRESH_SOCKET, port)?;
        }
        Ok(start_time.elapsed())
    });
    topology.lab.stop_after(before);
    topology.lab.remove(&fresh);
    took.map(Some)
}
