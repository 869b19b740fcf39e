//! `pontoon daemon`: the options of the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser, TypedValueParser};

use ipnet::IpNet;

use super::engine::EngineArgs;
use super::port_kinds;
use crate::api::{NameServer, PortKind};
use crate::daemon::DaemonOptions;
use crate::host::UplinkChoice;
use crate::ipam::AddressPool;

#[derive(Args)]
pub(super) struct DaemonArgs {
    /// Directory of the store, which keeps networks and containers across restarts
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pontoon")]
    state_dir: PathBuf,
    /// Directory of the socket and of the record of connections
    #[arg(long, value_name = "DIR", default_value = "/run/pontoon")]
    run_dir: PathBuf,
    /// The API's Unix socket [default: RUN_DIR/pontoon.sock]
    #[arg(
        long,
        value_name = "PATH",
        env = "PONTOON_SOCKET",
        hide_env_values = true,
        value_parser = NonEmptyStringValueParser::new().map(PathBuf::from)
    )]
    socket: Option<PathBuf>,
    /// Group whose members may read through the socket, and not change anything [default: pontoon
    /// if there is such a group, else the daemon's own]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// Interfaces to the outside: auto (all that the host routes over or has an address on), none,
    /// or their names
    #[arg(
        long,
        value_name = "auto|none|IFNAME",
        num_args = 1..,
        value_delimiter = ',',
        default_value = "auto",
        value_parser = NonEmptyStringValueParser::new()
    )]
    uplink: Vec<String>,
    /// Largest number of workers, the threads that forward frames; as many work as the load needs
    /// [default: by the number of CPUs]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    workers: Option<usize>,
    /// How long a worker polls for the next frame before it sleeps: off, auto (50 µs, off on a
    /// single CPU), or microseconds. Longer shortens round trips, off uses the least CPU
    #[arg(long, value_name = "off|auto|MICROSECONDS", default_value = "auto", value_parser = busy_poll)]
    busy_poll: BusyPoll,
    /// Keep idle CPUs from halting while frames arrive (PM QoS): the shortest round trips in a
    /// virtual machine, at the cost of power
    #[arg(long)]
    no_halt: bool,
    /// Kind of interface of new containers: tap or veth [default: tap if available]
    #[arg(long, value_parser = port_kinds(), value_name = "KIND", hide_possible_values = true)]
    port_kind: Option<PortKind>,
    /// Whether new networks have IPv6 by default [default: if the host uses it]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Address pool for the subnets of new networks, divided into subnets of the given prefix
    /// length; may be repeated [default: Docker's, and a unique local prefix for IPv6]
    #[arg(long, value_name = "CIDR[,size=LENGTH]")]
    pool: Vec<AddressPool>,
    /// Subnet of the network bridge, when it is created; may be repeated [default: from the pools]
    #[arg(long, value_name = "CIDR")]
    bridge_subnet: Vec<IpNet>,
    /// Clamp the TCP maximum segment size to the MTU of the uplink, for paths that lose ICMP
    /// "packet too big"
    #[arg(long)]
    clamp_mss: bool,
    /// DNS server for names other than containers'; may be repeated [default: those of the host's
    /// resolv.conf]
    #[arg(long, value_name = "ADDRESS[%INTERFACE]")]
    dns: Vec<NameServer>,
    /// The host's resolv.conf, followed as it changes
    #[arg(long, value_name = "PATH", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
}

impl DaemonArgs {
    fn options(self) -> anyhow::Result<DaemonOptions> {
        let socket = self
            .socket
            .unwrap_or_else(|| self.run_dir.join("pontoon.sock"));
        Ok(DaemonOptions {
            uplink: uplink_choice(self.uplink)?,
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            socket,
            group: self.group,
            workers: self.workers,
            busy_poll: self.busy_poll.0,
            no_halt: self.no_halt,
            port_kind: self.port_kind,
            ipv6: self.ipv6,
            pools: self.pool,
            bridge_subnets: self.bridge_subnet,
            clamp_mss: self.clamp_mss,
            limits: self.engine.limits(),
            dns: self.dns,
            resolv_conf: self.resolv_conf,
        })
    }
}

pub(super) fn run(args: DaemonArgs) -> anyhow::Result<ExitCode> {
    crate::daemon::run(args.options()?)?;
    Ok(ExitCode::SUCCESS)
}

/// How long to poll; none for what suits the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BusyPoll(Option<Duration>);

/// A thread that polls for longer would only be taken for a runaway.
const LONGEST_POLL: Duration = Duration::from_millis(10);

fn busy_poll(text: &str) -> Result<BusyPoll, String> {
    let micros = match text {
        "auto" => return Ok(BusyPoll(None)),
        "off" => 0,
        _ => text
            .parse()
            .map_err(|_| "not off, auto or a number of microseconds".to_owned())?,
    };
    let spell = Duration::from_micros(micros);
    if spell > LONGEST_POLL {
        return Err(format!(
            "more than {} microseconds",
            LONGEST_POLL.as_micros()
        ));
    }
    Ok(BusyPoll(Some(spell)))
}

/// An interface called `auto` or `none` can't be an uplink; Linux would allow the name.
fn uplink_choice(words: Vec<String>) -> anyhow::Result<UplinkChoice> {
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["auto"] => Ok(UplinkChoice::Auto),
        ["none"] => Ok(UplinkChoice::None),
        _ => match words
            .iter()
            .find(|word| matches!(word.as_str(), "auto" | "none"))
        {
            Some(word) => anyhow::bail!("--uplink {word} stands alone, without other interfaces"),
            None => Ok(UplinkChoice::Names(words)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(words: &[&str]) -> anyhow::Result<UplinkChoice> {
        uplink_choice(words.iter().map(|word| word.to_string()).collect())
    }

    #[test]
    fn uplinks() {
        assert!(matches!(choice(&["auto"]), Ok(UplinkChoice::Auto)));
        assert!(matches!(choice(&["none"]), Ok(UplinkChoice::None)));
        let named = choice(&["eth0", "eth1"]);
        assert!(matches!(named, Ok(UplinkChoice::Names(names)) if names == ["eth0", "eth1"]));
        for words in [
            ["auto", "eth0"],
            ["eth0", "none"],
            ["auto", "none"],
            ["auto", "auto"],
        ] {
            assert!(choice(&words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn busy_polling() {
        let micros = |micros| Ok(BusyPoll(Some(Duration::from_micros(micros))));
        assert_eq!(busy_poll("auto"), Ok(BusyPoll(None)));
        assert_eq!(busy_poll("off"), micros(0));
        assert_eq!(busy_poll("0"), micros(0));
        assert_eq!(busy_poll("200"), micros(200));
        for bad in ["", "on", "-1", "50us", "10001", "99999999999999999999"] {
            assert!(busy_poll(bad).is_err(), "{bad}");
        }
    }
}
