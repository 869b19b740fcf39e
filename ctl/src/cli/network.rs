//! `pontoon network`: create, list, inspect and remove networks, and put containers on them.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::container::EndpointArgs;
use super::output::{Look, OutputArgs, joined, short_id, show_json, show_lines, write_table};
use crate::api::{Connect, Container, CreateNetwork, Network};
use crate::client::{endpoint_path, endpoints_path, network_path};

#[derive(Subcommand)]
pub(super) enum NetworkCommand {
    /// Create a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Tell everything about a network, as JSON
    Inspect(InspectArgs),
    /// Remove networks that no container uses
    Rm(RemoveArgs),
    /// Put a running container on one more network
    Connect(ConnectArgs),
    /// Take a running container off a network
    Disconnect(DisconnectArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Addresses of the network, as 10.1.0.0/16 or fd00:1::/64; may be repeated [default: for each
    /// family, one that overlaps no route of the host]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<IpNet>,
    /// The gateway's address in a subnet; may be repeated [default: the first of the subnet]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Whether containers get IPv4 addresses [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Whether containers get IPv6 addresses; if not, IPv6 is off on their interfaces [default: as
    /// `pontoon info` says]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Bytes of an IP packet [default: the uplink's]
    // RFC 791: every host takes a datagram of 68 bytes, and none is longer than 65535.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    mtu: Option<u32>,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Print ids alone
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Name, id or beginning of an id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Accepted for the sake of uniformity: the output is always JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct RemoveArgs {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct ConnectArgs {
    /// Name, id or beginning of an id of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or beginning of an id of the container
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    container: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct DisconnectArgs {
    /// Name, id or beginning of an id of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or beginning of an id of the container
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    container: String,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(command: NetworkCommand) -> anyhow::Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => create(args),
        NetworkCommand::Ls(args) => list(args),
        NetworkCommand::Inspect(args) => {
            let network: Network = args.client.client()?.get(&network_path(&args.name))?;
            show_json(&network)
        }
        NetworkCommand::Rm(args) => remove(args),
        NetworkCommand::Connect(args) => {
            let path = endpoints_path(&args.container);
            let network = Connect {
                network: args.network,
                ..Connect::default()
            };
            let request = args.endpoint.complete(network);
            let container: Container = args.client.client()?.post(&path, &request)?;
            // What is new stands last.
            let endpoints = container.endpoints.last().into_iter();
            show_lines(
                &endpoints
                    .map(|it| joined(it.addresses.iter().map(IpNet::addr)))
                    .collect::<Vec<_>>(),
            )
        }
        NetworkCommand::Disconnect(args) => {
            let path = endpoint_path(&args.container, &args.network);
            let container: Container = args.client.client()?.delete(&path)?;
            show_lines(&[container.name])
        }
    }
}

fn create(args: CreateArgs) -> anyhow::Result<ExitCode> {
    let request = CreateNetwork {
        name: args.name,
        subnets: args.subnet,
        gateways: args.gateway,
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        mtu: args.mtu,
    };
    let network: Network = args.client.client()?.post("/v1/networks", &request)?;
    show_lines(&[network.id])
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let networks: Vec<Network> = args.client.client()?.get("/v1/networks")?;
    if args.quiet {
        let ids: Vec<_> = networks
            .iter()
            .map(|network| short_id(&network.id))
            .collect();
        return show_lines(&ids);
    }
    args.output
        .show(&networks, |out, look| print(out, look, &networks))
}

/// Goes on after a network that cannot be removed, as Docker does, and fails in the end.
fn remove(args: RemoveArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let mut failed = false;
    for name in &args.names {
        match client.delete::<Network>(&network_path(name)) {
            Ok(network) => {
                show_lines(&[network.name])?;
            }
            Err(error) => {
                super::complain(&error.into());
                failed = true;
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

pub(crate) fn print(out: &mut dyn Write, look: Look, networks: &[Network]) -> io::Result<()> {
    let header = [
        "NETWORK ID",
        "NAME",
        "SUBNET",
        "GATEWAY",
        "INTERFACE",
        "MTU",
        "CONTAINERS",
    ];
    let rows = networks.iter().map(|network| {
        [
            short_id(&network.id).to_owned(),
            network.name.clone(),
            joined(&network.subnets),
            joined(&network.gateways),
            network.host_interface.clone(),
            network.mtu.to_string(),
            joined(&network.containers),
        ]
    });
    write_table(out, look, header, rows)
}
