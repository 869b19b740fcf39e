//! `pontoon fault`: latency, loss, duplicates and partitions, on request and until the daemon ends.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::output::{Look, OutputArgs, write_table};
use crate::api::{Container, Fault, Faults, SetFaults, SetPartition};
use crate::client::{Client, container_path};
use crate::rate;

/// What is not named stays as it is; `0ms` and `0%` end a fault. Nothing of it outlives the daemon.
#[derive(Args)]
#[command(override_usage = "pontoon fault [NAME] [OPTIONS]
       pontoon fault --partition NAME [OTHER]
       pontoon fault --heal NAME [OTHER]
       pontoon fault --clear [NAME]")]
pub(super) struct FaultCommand {
    /// Name, id or id prefix; a second one with --partition and --heal
    #[arg(value_name = "NAME", num_args = 0..=2, value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    /// Latency added in each direction, such as 20ms; a round trip takes twice as much longer
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    latency: Option<Duration>,
    /// Jitter: how much the latency varies, up and down; frames keep their order
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// Share of frames that are lost, such as 1%
    #[arg(long, value_name = "PERCENT", value_parser = rate::parse_percent)]
    loss: Option<u32>,
    /// Share of frames that are duplicated
    #[arg(long, value_name = "PERCENT", value_parser = rate::parse_percent)]
    duplicate: Option<u32>,
    /// Random seed, to reproduce a run [default: random]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Apply to frames towards the container only
    #[arg(long = "in", conflicts_with = "outward")]
    inward: bool,
    /// Apply to frames from the container only
    #[arg(long = "out")]
    outward: bool,
    /// Only the endpoint on this network [default: all endpoints of the container]
    #[arg(long, visible_alias = "net")]
    network: Option<String>,
    /// Partition a container from another one, or from everything
    #[arg(long, group = "verb")]
    partition: bool,
    /// End a partition
    #[arg(long, group = "verb")]
    heal: bool,
    /// Clear all impairments and partitions of a container, or of all containers
    #[arg(long, group = "verb")]
    clear: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

impl FaultCommand {
    /// Whether one of the options that change a fault is there.
    fn changes(&self) -> bool {
        let times = self.latency.or(self.jitter).is_some();
        times || self.loss.or(self.duplicate).is_some() || self.seed.is_some()
    }

    /// `faults` with what these options name.
    fn change(&self, mut faults: Faults) -> Faults {
        for (fault, meant) in [
            (&mut faults.inward, !self.outward),
            (&mut faults.outward, !self.inward),
        ] {
            if meant {
                self.change_one(fault);
            }
        }
        // Another seed only for who asks for one, or begins.
        faults.seed = self.seed.or(faults.seed);
        faults
    }

    fn change_one(&self, fault: &mut Fault) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        fault.latency_us = self.latency.map_or(fault.latency_us, micros);
        fault.jitter_us = self.jitter.map_or(fault.jitter_us, micros);
        fault.loss_per_million = self.loss.unwrap_or(fault.loss_per_million);
        fault.duplicate_per_million = self.duplicate.unwrap_or(fault.duplicate_per_million);
    }
}

/// Changes what is named, and tells what holds then.
pub(super) fn run(args: FaultCommand) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let verb = args.partition || args.heal || args.clear;
    anyhow::ensure!(
        !(verb && (args.changes() || args.inward || args.outward || args.network.is_some())),
        "--partition, --heal and --clear take names of containers and no other option"
    );
    let containers = match (&args.names[..], args.clear, args.partition || args.heal) {
        ([], true, _) => client.delete::<Vec<Container>>("/v1/faults")?,
        ([name], true, _) => vec![client.delete(&faults_path(name))?],
        ([name], _, true) => vec![part(&client, name, None, args.partition)?],
        ([name, other], _, true) => vec![part(&client, name, Some(other), args.partition)?],
        ([name], false, false) if args.changes() => vec![change_each(&client, name, &args)?],
        ([name], false, false) => vec![client.container(name)?],
        ([], false, false) if !args.changes() => client.containers()?,
        ([], ..) => anyhow::bail!("name the container to impair: pontoon fault NAME …"),
        _ => anyhow::bail!("two containers go with --partition and --heal only"),
    };
    args.output
        .show(&containers, |out, look| print(out, look, &containers))
}

fn faults_path(name: &str) -> String {
    format!("{}/faults", container_path(name))
}

fn part(
    client: &Client,
    name: &str,
    other: Option<&String>,
    parted: bool,
) -> anyhow::Result<Container> {
    let path = format!("{}/partition", container_path(name));
    let from = other.cloned();
    Ok(client.post(&path, &SetPartition { from, parted })?)
}

/// Each endpoint keeps what is not named.
fn change_each(client: &Client, name: &str, args: &FaultCommand) -> anyhow::Result<Container> {
    let mut container = client.container(name)?;
    let wanted = |network: &String| args.network.as_ref().is_none_or(|it| it == network);
    let endpoints = container.endpoints.iter();
    let mut requests: Vec<SetFaults> = endpoints
        .filter(|endpoint| wanted(&endpoint.network))
        .map(|endpoint| SetFaults {
            network: Some(endpoint.network.clone()),
            faults: args.change(endpoint.faults.clone()),
        })
        .collect();
    if requests.is_empty() {
        // The daemon says why there is none.
        requests.push(SetFaults {
            network: args.network.clone(),
            faults: args.change(Faults::default()),
        });
    }
    for request in &requests {
        container = client.post(&faults_path(name), request)?;
    }
    Ok(container)
}

fn print(out: &mut dyn Write, look: Look, containers: &[Container]) -> io::Result<()> {
    let mut rows = Vec::new();
    for container in containers {
        let partition = match (
            container.partition.from_everything,
            &container.partition.from,
        ) {
            (true, _) => "everything".to_owned(),
            (false, names) => names.join(", "),
        };
        for endpoint in &container.endpoints {
            let faults = &endpoint.faults;
            for (way, fault) in [("in", &faults.inward), ("out", &faults.outward)] {
                rows.push([
                    container.name.clone(),
                    endpoint.network.clone(),
                    way.to_owned(),
                    time(fault.latency_us),
                    time(fault.jitter_us),
                    chance(fault.loss_per_million),
                    chance(fault.duplicate_per_million),
                    partition.clone(),
                ]);
            }
        }
    }
    let header = [
        "NAME",
        "NETWORK",
        "DIRECTION",
        "LATENCY",
        "JITTER",
        "LOSS",
        "DUPLICATE",
        "PARTITIONED FROM",
    ];
    write_table(out, look, header, rows)
}

fn time(micros: u64) -> String {
    match micros {
        0 => String::new(),
        _ => humantime::format_duration(Duration::from_micros(micros)).to_string(),
    }
}

fn chance(per_million: u32) -> String {
    match per_million {
        0 => String::new(),
        _ => rate::percent(per_million),
    }
}
