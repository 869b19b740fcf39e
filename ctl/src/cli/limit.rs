//! `pontoon limit`: bandwidth and packet rate of an endpoint, from its beginning (`run`, `attach`,
//! `network connect`) or while it runs.

use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::{Look, OutputArgs, bytes, write_table};
use crate::api::{Container, Endpoint, Limit, Limits, SetLimits};
use crate::client::{Client, container_path};
use crate::rate;

/// What `run`, `attach`, `network connect` and `limit` take.
#[derive(Args)]
pub(super) struct LimitArgs {
    /// Bandwidth towards the container, such as 100mbit; off for no limit
    #[arg(long, value_name = "RATE", value_parser = setting(rate::parse_bits))]
    rate_in: Option<Setting>,
    /// Bandwidth from the container
    #[arg(long, value_name = "RATE", value_parser = setting(rate::parse_bits))]
    rate_out: Option<Setting>,
    /// Packets per second towards the container
    #[arg(long, value_name = "NUMBER", value_parser = setting(number))]
    pps_in: Option<Setting>,
    /// Packets per second from the container
    #[arg(long, value_name = "NUMBER", value_parser = setting(number))]
    pps_out: Option<Setting>,
    /// Burst towards the container after a pause, such as 64kb [default: 10 ms' worth]
    #[arg(long, value_name = "SIZE", value_parser = setting(rate::parse_bytes))]
    burst_in: Option<Setting>,
    /// Burst from the container after a pause
    #[arg(long, value_name = "SIZE", value_parser = setting(rate::parse_bytes))]
    burst_out: Option<Setting>,
}

/// A number, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting(Option<u64>);

fn setting(
    parse: impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<Setting, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "off" => Ok(Setting(None)),
        _ => parse(text).map(|number| Setting(Some(number))),
    }
}

fn number(text: &str) -> Result<u64, String> {
    u64::from_str(text).map_err(|_| format!("`{text}` is not a number"))
}

impl LimitArgs {
    /// `limits` with what these options name.
    pub(super) fn change(&self, limits: Limits) -> Limits {
        let Limits { inward, outward } = limits;
        Limits {
            inward: change(inward, [self.rate_in, self.burst_in, self.pps_in]),
            outward: change(outward, [self.rate_out, self.burst_out, self.pps_out]),
        }
    }

    fn are_none(&self) -> bool {
        let rates = [self.rate_in, self.burst_in, self.pps_in];
        let others = [self.rate_out, self.burst_out, self.pps_out];
        rates.into_iter().chain(others).all(|it| it.is_none())
    }
}

fn change(limit: Limit, [rate, burst, packets]: [Option<Setting>; 3]) -> Limit {
    let new = |asked: Option<Setting>, before| asked.map_or(before, |Setting(value)| value);
    let bits_per_second = new(rate, limit.bits_per_second);
    // A burst means nothing without a rate.
    let kept = limit.burst_bytes.filter(|_| bits_per_second.is_some());
    Limit {
        bits_per_second,
        burst_bytes: new(burst, kept),
        packets_per_second: new(packets, limit.packets_per_second),
    }
}

#[derive(Args)]
pub(super) struct LimitCommand {
    /// Name, id or id prefix [default: list all running containers]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Only the endpoint on this network [default: all endpoints of the container]
    #[arg(long, visible_alias = "net", requires = "name")]
    network: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Remove all limits
    #[arg(long, requires = "name", conflicts_with_all = ["rate_in", "rate_out", "pps_in", "pps_out", "burst_in", "burst_out"])]
    clear: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Changes what is named, and tells what holds then.
pub(super) fn run(args: LimitCommand) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let Some(name) = &args.name else {
        anyhow::ensure!(
            args.limits.are_none(),
            "name the container that is to be limited: pontoon limit NAME …"
        );
        let containers = client.containers()?;
        return args
            .output
            .show(&containers, |out, look| print(out, look, &containers));
    };
    let container = if args.clear {
        set(&client, name, args.network.clone(), Limits::default())?
    } else if args.limits.are_none() {
        client.container(name)?
    } else {
        change_each(&client, name, &args)?
    };
    args.output.show(&container, |out, look| {
        print(out, look, std::slice::from_ref(&container))
    })
}

/// Each endpoint keeps what is not named.
fn change_each(client: &Client, name: &str, args: &LimitCommand) -> anyhow::Result<Container> {
    let mut container = client.container(name)?;
    let networks: Vec<(String, Limits)> = match &args.network {
        Some(network) => {
            let found = container.endpoints.iter().find(|it| it.network == *network);
            let before = found.map(|it| it.limits.clone()).unwrap_or_default();
            vec![(network.clone(), before)]
        }
        None => {
            let endpoints = container.endpoints.iter();
            endpoints
                .map(|it| (it.network.clone(), it.limits.clone()))
                .collect()
        }
    };
    if networks.is_empty() {
        // The daemon says why there is nothing to limit.
        return set(client, name, None, args.limits.change(Limits::default()));
    }
    for (network, before) in networks {
        container = set(client, name, Some(network), args.limits.change(before))?;
    }
    Ok(container)
}

fn set(
    client: &Client,
    name: &str,
    network: Option<String>,
    limits: Limits,
) -> anyhow::Result<Container> {
    let path = format!("{}/limits", container_path(name));
    Ok(client.post(&path, &SetLimits { network, limits })?)
}

fn print(out: &mut dyn Write, look: Look, containers: &[Container]) -> io::Result<()> {
    let rows = containers.iter().flat_map(|container| {
        container.endpoints.iter().flat_map(|endpoint| {
            let Endpoint {
                network, limits, ..
            } = endpoint;
            [("in", &limits.inward), ("out", &limits.outward)].map(|(direction, limit)| {
                let rate = limit.bits_per_second.map(rate::bits);
                let packets = limit.packets_per_second.map(|count| count.to_string());
                [
                    container.name.clone(),
                    network.clone(),
                    direction.to_owned(),
                    rate.unwrap_or_default(),
                    limit.burst_bytes.map(bytes).unwrap_or_default(),
                    packets.unwrap_or_default(),
                ]
            })
        })
    });
    let header = ["NAME", "NETWORK", "DIRECTION", "RATE", "BURST", "PACKETS/S"];
    write_table(out, look, header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> LimitArgs {
        LimitArgs {
            rate_in: None,
            rate_out: None,
            pps_in: None,
            pps_out: None,
            burst_in: None,
            burst_out: None,
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let outward = Limit {
            bits_per_second: Some(1_000_000),
            burst_bytes: Some(5_000),
            packets_per_second: Some(7),
        };
        let before = Limits {
            outward: outward.clone(),
            ..Limits::default()
        };
        assert_eq!(args().change(before.clone()), before);
        assert!(args().are_none());
        let faster = LimitArgs {
            rate_in: Some(Setting(Some(9_000))),
            pps_out: Some(Setting(None)),
            ..args()
        };
        assert!(!faster.are_none());
        let after = faster.change(before.clone());
        assert_eq!(after.inward.bits_per_second, Some(9_000));
        assert_eq!(
            after.outward,
            Limit {
                packets_per_second: None,
                ..outward
            }
        );
        let off = LimitArgs {
            rate_out: Some(Setting(None)),
            ..args()
        };
        assert_eq!(off.change(before).outward.burst_bytes, None);
    }

    #[test]
    fn off_is_a_setting() {
        let parse = setting(rate::parse_bits);
        assert_eq!(parse("off"), Ok(Setting(None)));
        assert_eq!(parse("1mbit"), Ok(Setting(Some(1_000_000))));
        assert!(parse("fast").is_err());
    }
}
