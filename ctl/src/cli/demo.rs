//! `pontoon demo`: the whole of pontoon on one machine, with nothing but the kernel's tun or veth.
//!
//! A host and an outside host in namespaces of their own, a wire between them, the daemon and two
//! containers on the host; then four conversations, each shown with what the server saw, how long
//! it took and what the switch remembers of it, and the same in brief by IPv6 where the kernel has
//! it. Nothing printed is known beforehand: every
//! address, entry and table is read back from the programs that run.
//!
//! | file | what |
//! |---|---|
//! | `privilege.rs` | the right to make namespaces, for root and for ordinary users |
//! | `stage.rs` | namespaces, daemon, containers, commands; taking it all down |
//! | `wire.rs` | the cable between host and outside |
//! | `conversation.rs` | the conversations, and what is right about each |
//! | `peer.rs`, `answer.rs` | the small server and its client, and what they say |
//! | `report.rs` | how it is printed |
//! | `interrupt.rs` | Ctrl-C |

mod answer;
mod conversation;
mod interrupt;
mod peer;
mod privilege;
mod report;
mod stage;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getppid, getuid};

use super::port_kinds;
use crate::api::{Connection, Container, Endpoint, Info, Network, PortKind};
use conversation::{Cast, SERVER_PORT, paths, walk, walk_briefly};
use report::{Report, Topology};
use stage::{OUTSIDE, OUTSIDE_V6, Place, Stage, UPLINK, UPLINK_V6, typed};

/// A path that fails is tried again and again, and each try leaves an entry.
const MOST_CONNECTIONS: usize = 12;

#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Kind of interface of the containers: tap or veth [default: what the kernel has]
    #[arg(long, value_parser = port_kinds(), value_name = "KIND")]
    port_kind: Option<PortKind>,

    /// Kind of wire between the host and the outside: tap or veth [default: what the kernel has]
    #[arg(long, value_parser = port_kinds(), value_name = "KIND", hide_possible_values = true)]
    wire: Option<PortKind>,

    /// Be the demo's server: tell TCP and UDP callers on PORT who they are
    #[arg(long, hide = true, value_name = "PORT", group = "role")]
    serve: Option<u16>,

    /// Be the demo's client: ask the server at ADDRESS who it sees
    #[arg(long, hide = true, value_name = "ADDRESS:PORT", group = "role")]
    ask: Option<SocketAddr>,

    /// Ask over UDP rather than TCP
    #[arg(long, hide = true, requires = "ask")]
    udp: bool,

    /// Send ICMP echo requests to ADDRESS
    #[arg(long, hide = true, value_name = "ADDRESS", group = "role")]
    ping: Option<Ipv4Addr>,

    /// Become another pontoon command, one that ends with its parent
    #[arg(
        long,
        hide = true,
        value_name = "COMMAND",
        num_args = 1..,
        allow_hyphen_values = true,
        group = "role"
    )]
    tether: Option<Vec<OsString>>,
}

/// Runs the demo, or the part in it that a hidden option names. The process must have one thread
/// only: an ordinary user's demo moves into a user namespace, which the kernel allows to no other.
///
/// Exits with 0 when every path works, with 1 when one does not.
///
/// # Errors
///
/// No namespace, no wire, no daemon: what the kernel or the user is not allowed, or lacks.
pub(crate) fn run(args: DemoArgs) -> Result<ExitCode> {
    match args {
        DemoArgs {
            serve: Some(port), ..
        } => peer::serve(port),
        DemoArgs {
            ask: Some(address),
            udp,
            ..
        } => peer::ask(address, udp),
        DemoArgs {
            ping: Some(address),
            ..
        } => peer::ping(address),
        DemoArgs {
            tether: Some(command),
            ..
        } => tether(command),
        DemoArgs {
            port_kind, wire, ..
        } => perform(port_kind, wire),
    }
}

/// Becomes `pontoon COMMAND`, after asking the kernel to end it when the demo dies, however
/// suddenly. The request survives exec (PR_SET_PDEATHSIG, prctl(2)).
fn tether(command: Vec<OsString>) -> Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGTERM).context("tie this process to its parent")?;
    let parent = getppid().to_string();
    if std::env::var(peer::DEMO_PID).is_ok_and(|demo| demo != parent) {
        // The parent died before the kernel was asked.
        return Ok(ExitCode::FAILURE);
    }
    let error = Command::new("/proc/self/exe")
        .arg0("pontoon")
        .args(command)
        .exec();
    Err(error).context("execute /proc/self/exe")
}

fn perform(port_kind: Option<PortKind>, wire: Option<PortKind>) -> Result<ExitCode> {
    let start = Instant::now();
    let user = getuid();
    let user_namespace = privilege::acquire()?;
    interrupt::watch()?;

    let mut out = io::stdout();
    let mut report = Report::new(&mut out, report::colour_wanted());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let privilege = if user_namespace {
        format!("user {user}, in a user namespace")
    } else {
        "privileged".to_owned()
    };
    let about = format!("Linux {}, {privilege}", kernel.trim());
    report.title("pontoon demo", &about)?;

    let mut stage = Stage::build(wire)?;
    let shown = show(&mut stage, &mut report, port_kind);
    let interrupted = interrupt::interrupted();
    let unwatched = is_broken_pipe(&shown);
    if interrupted.is_none() && !unwatched && !matches!(shown, Ok(0)) {
        report.section("the end of the daemon's log")?;
        report.output(&stage.log_tail())?;
    }
    let down = stage.take_down().context("clean up");

    if let Some(signal) = interrupted {
        down?;
        // Not even that, if the terminal has hung up.
        let _ = report.verdict(false, &format!("{signal}: interrupted, and cleaned up"));
        return Ok(ended_by(signal));
    }
    if unwatched {
        // `pontoon demo | head`: the reader has seen enough. As if ended by the signal.
        return Ok(ended_by(Signal::SIGPIPE));
    }
    // What failed first is what to tell.
    let failed = shown?;
    down?;
    let seconds = start.elapsed().as_secs_f64();
    let text = match failed {
        0 => format!("every path works; all is cleaned up again, after {seconds:.1} s"),
        1 => format!("1 path failed; all is cleaned up, after {seconds:.1} s"),
        more => format!("{more} paths failed; all is cleaned up, after {seconds:.1} s"),
    };
    report.verdict(failed == 0, &text)?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The exit code that a shell gives to what a signal ended.
fn ended_by(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}

fn is_broken_pipe<T>(outcome: &Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The play itself; returns how many paths failed.
fn show(stage: &mut Stage, report: &mut Report<'_>, port_kind: Option<PortKind>) -> Result<usize> {
    let (cast, by_ipv6) = set_up(stage, report, port_kind)?;
    let mut failed = 0;
    for (index, path) in paths(&cast).iter().enumerate() {
        if !walk(stage, report, index + 1, path)? {
            failed += 1;
        }
    }
    if let Some(cast) = by_ipv6 {
        let title = "5. the same four by IPv6";
        let story = "neighbour discovery in place of ARP; unique local addresses inside (RFC 4193)";
        if !walk_briefly(stage, report, title, story, &paths(&cast))? {
            failed += 1;
        }
    }
    tables(stage, report)?;
    Ok(failed)
}

/// What the daemon knows in the end. Two of its tables are wider than a terminal may be and are
/// told in fewer columns.
fn tables(stage: &mut Stage, report: &mut Report<'_>) -> Result<()> {
    report.section("what the daemon knows now")?;
    let containers: Vec<Container> = stage.json(&["ps", "--json"])?;
    report.subject("containers", "pontoon ps")?;
    report.containers(&containers)?;
    for (subject, table) in [
        ("the switch's forwarding table", "fdb"),
        ("rules of address translation", "nat"),
        ("frames that were dropped, and why", "drops"),
    ] {
        report.subject(subject, &typed(&[table]))?;
        let text = stage.output(Place::Host, &[table])?;
        report.output(&text)?;
        if text.lines().count() == 1 {
            report.note("(none)")?;
        }
    }
    let connections: Vec<Connection> = stage.json(&["conntrack", "--json"])?;
    report.subject("connections", "pontoon conntrack")?;
    for connection in connections.iter().take(MOST_CONNECTIONS) {
        report.connection(connection)?;
    }
    if connections.len() > MOST_CONNECTIONS {
        report.note(&format!(
            "and {} more",
            connections.len() - MOST_CONNECTIONS
        ))?;
    }
    Ok(())
}

/// Who plays by IPv4, and by IPv6 where there is any.
fn set_up(
    stage: &mut Stage,
    report: &mut Report<'_>,
    kind: Option<PortKind>,
) -> Result<(Cast, Option<Cast>)> {
    let forwarding = stage.forbid_kernel_forwarding()?;
    report.note(&format!(
        "a host and an outside host in fresh namespaces: no bridge, no netfilter rule, \
         ip_forward = {forwarding}"
    ))?;
    report.section("setting up")?;
    report.note("state, socket and log are in a directory of the demo's own (PONTOON_SOCKET)")?;
    let daemon = stage.start_daemon(kind)?;
    report.command(Place::Host.name(), &daemon)?;
    let server = stage.start_outside_server(SERVER_PORT)?;
    report.command(Place::Outside.name(), &server)?;
    let serve = ["pontoon", "demo", "--serve", "80"];
    let publish = ["-p", "8080:80", "-p", "8080:80/udp"];
    let mut start = |name: &str, publish: &[&str]| -> Result<Container> {
        let mut command = vec!["run", "-d", "--rm", "--name", name];
        command.extend(publish);
        command.push("--");
        command.extend(serve);
        report.command(Place::Host.name(), &typed(&command))?;
        stage.start_container(name, &command)
    };
    let web = start("web", &publish)?;
    let client = start("client", &[])?;

    let info: Info = stage.json(&["info", "--json"])?;
    let networks: Vec<Network> = stage.json(&["network", "ls", "--json"])?;
    let endpoint = |container: &Container| {
        container
            .endpoints
            .first()
            .cloned()
            .ok_or_else(|| anyhow!("container {} has no endpoint", container.name))
    };
    let (web_endpoint, client_endpoint) = (endpoint(&web)?, endpoint(&client)?);
    let address = |endpoint: &Endpoint, is_ipv6: bool| {
        let mut addresses = endpoint.addresses.iter().map(IpNet::addr);
        addresses.find(|address| address.is_ipv6() == is_ipv6)
    };
    let gateway = |is_ipv6: bool| {
        let mut gateways = web_endpoint.gateways.iter().copied();
        gateways.find(|gateway| gateway.is_ipv6() == is_ipv6)
    };
    let network = networks
        .iter()
        .find(|network| network.name == web_endpoint.network)
        .with_context(|| format!("pontoon network ls has no {}", web_endpoint.network))?;
    let gateway_v4 = gateway(false).context("the network has no gateway")?;
    let cast = Cast {
        client: address(&client_endpoint, false).context("container client has no address")?,
        web: address(&web_endpoint, false).context("container web has no address")?,
        gateway: gateway_v4,
        uplink: UPLINK.into(),
        outside: OUTSIDE.into(),
        loopback: Ipv4Addr::LOCALHOST.into(),
    };
    let by_ipv6 = || {
        Some(Cast {
            client: address(&client_endpoint, true)?,
            web: address(&web_endpoint, true)?,
            gateway: gateway(true)?,
            uplink: UPLINK_V6.into(),
            outside: OUTSIDE_V6.into(),
            loopback: Ipv6Addr::LOCALHOST.into(),
        })
    };
    let by_ipv6 = if stage.has_ipv6() { by_ipv6() } else { None };
    report.picture(&Topology {
        containers: vec![
            ("client".to_owned(), cast.client),
            ("web".to_owned(), cast.web),
        ],
        port_kind: web_endpoint.port_kind.to_string(),
        wire: stage.wire_kind().to_string(),
        gateway: gateway_v4,
        host_interface: network.host_interface.clone(),
        workers: info.workers,
        uplink: info.uplinks.join(", "),
        uplink_address: UPLINK.into(),
        outside_address: OUTSIDE.into(),
    })?;
    Ok((cast, by_ipv6))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(line: &str) -> Result<DemoArgs, clap::Error> {
        CommandLine::try_parse_from(line.split_whitespace()).map(|line| line.demo)
    }

    #[test]
    fn the_command_line() {
        let plain = parse("demo --port-kind veth --wire tap").unwrap();
        assert_eq!(
            (plain.port_kind, plain.wire),
            (Some(PortKind::Veth), Some(PortKind::Tap))
        );
        assert_eq!(parse("demo --serve 80").unwrap().serve, Some(80));
        assert!(parse("demo --ask 192.0.2.1:80 --udp").unwrap().udp);
        assert!(parse("demo --udp").is_err());
        assert!(parse("demo --serve 80 --ping 192.0.2.1").is_err());
        let tethered = parse("demo --tether daemon --state-dir /x --workers 2").unwrap();
        assert_eq!(
            tethered.tether.unwrap(),
            ["daemon", "--state-dir", "/x", "--workers", "2"]
        );
    }
}
