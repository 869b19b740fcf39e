//! The options of `pontoon daemon` that bound the connection table.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

/// The defaults are at or above what the RFCs ask for; see the crate `nat`.
#[derive(Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct EngineArgs {
    /// Size of the connection table [default: 262144]
    #[arg(long, value_name = "NUMBER", value_parser = count())]
    max_connections: Option<usize>,
    /// Connections per container address [default: a quarter of the table]
    #[arg(long, value_name = "NUMBER", value_parser = count())]
    max_connections_per_address: Option<usize>,
    /// External ports per container address, for outgoing flows [default: 4096]
    #[arg(long, value_name = "NUMBER", value_parser = count())]
    max_ports_per_address: Option<usize>,
    /// Whether a TCP connection may be picked up in the middle, as after a restart of the daemon
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pick_up_tcp: bool,
    /// Idle timeout of established TCP connections, such as 2h4m [default: 2h4m]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    tcp_established_timeout: Option<Duration>,
    /// Idle timeout of TCP connections that open, close or were reset [default: 4m]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    tcp_transitory_timeout: Option<Duration>,
    /// Idle timeout of UDP [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    udp_timeout: Option<Duration>,
    /// Idle timeout of UDP to port 53 [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    udp_dns_timeout: Option<Duration>,
    /// Idle timeout of ICMP echo [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    icmp_timeout: Option<Duration>,
    /// Idle timeout of SCTP and of protocols translated by address only [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    other_timeout: Option<Duration>,
}

/// The table's indices are 32 bits wide.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 30)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) {
        return Err("connections are looked at once a second: 1s is the least".to_owned());
    }
    Ok(time)
}

impl EngineArgs {
    pub(super) fn limits(&self) -> nat::Limits {
        let mut limits = nat::Limits::default();
        let usual = limits.max_connections / limits.max_per_address;
        limits.max_connections = self.max_connections.unwrap_or(limits.max_connections);
        // Established flows give way to nobody, so what one may have must leave room for others.
        limits.max_per_address = self
            .max_connections_per_address
            .unwrap_or((limits.max_connections / usual).max(1));
        if let Some(ports) = self.max_ports_per_address {
            limits.max_ports_per_address = ports;
        }
        limits.pick_up_tcp = self.pick_up_tcp;
        let timeouts = &mut limits.timeouts;
        for (timeout, wanted) in [
            (&mut timeouts.tcp_established, self.tcp_established_timeout),
            (&mut timeouts.tcp_transitory, self.tcp_transitory_timeout),
            (&mut timeouts.udp, self.udp_timeout),
            (&mut timeouts.udp_dns, self.udp_dns_timeout),
            (&mut timeouts.icmp, self.icmp_timeout),
            (&mut timeouts.other, self.other_timeout),
        ] {
            *timeout = wanted.unwrap_or(*timeout);
        }
        limits
    }
}
