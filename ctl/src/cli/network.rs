//! `pontoon network`: create, list, inspect and remove networks, and put containers on them.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use self::settings::SettingsArgs;
use super::container::EndpointArgs;
use super::output::{Look, OutputArgs, joined, short_id, show_json, show_lines, write_table};
use crate::api::{Connect, CreateNetwork, Network, NetworkOptions};

mod settings;

#[derive(Subcommand)]
pub(super) enum NetworkCommand {
    /// Create a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Print everything about a network, as JSON
    Inspect(InspectArgs),
    /// Remove networks, if no container uses them
    Rm(RemoveArgs),
    /// Remove every network that no container uses
    Prune(PruneArgs),
    /// Connect a running container to a network
    Connect(ConnectArgs),
    /// Disconnect a running container from a network
    Disconnect(DisconnectArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Subnet, such as 10.1.0.0/16 or fd00:1::/64; may be repeated [default: for each family, one
    /// that overlaps no route of the host]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<IpNet>,
    /// Address of the gateway in a subnet; may be repeated [default: the first of the subnet]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Whether containers get IPv4 addresses [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Whether containers get IPv6 addresses; if not, IPv6 is off on their interfaces [default: see
    /// `pontoon info`]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Largest IP packet, in bytes [default: the MTU of the uplinks with a default route]
    // RFC 791: every host takes a datagram of 68 bytes, and none is longer than 65535.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    mtu: Option<u32>,
    /// Internal network: containers reach each other and names, and nothing else
    #[arg(long)]
    internal: bool,
    /// Isolated network: containers do not reach each other
    #[arg(long)]
    isolated: bool,
    /// Do not translate source addresses of outgoing packets; other routers need a route back
    #[arg(long)]
    no_masquerade: bool,
    /// Address of the host with which flows leave, one per family [default: that of the route
    /// taken]
    #[arg(long, visible_alias = "masquerade-address", value_name = "IP")]
    masquerade_to: Vec<IpAddr>,
    /// Part of a subnet from which containers get addresses; may be repeated
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<IpNet>,
    /// Address that no container gets; may be repeated
    #[arg(long, visible_alias = "aux-address", value_name = "IP")]
    reserve: Vec<IpAddr>,
    /// Label, to find the network by; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Only matching networks: name=PART, id=PREFIX or label=KEY[=VALUE]; several must all match
    #[arg(short, long, value_name = "FILTER", value_parser = parse_filter)]
    filter: Vec<Filter>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// Name, id or id prefix
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Accepted for consistency: the output is always JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct RemoveArgs {
    /// Names, ids or id prefixes
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct PruneArgs {
    /// Accepted for compatibility with Docker: there is no prompt
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

/// Which networks are listed.
#[derive(Clone)]
enum Filter {
    Name(String),
    Id(String),
    Label(String, Option<String>),
}

impl Filter {
    fn admits(&self, network: &Network) -> bool {
        match self {
            Filter::Name(part) => network.name.contains(part),
            Filter::Id(beginning) => network.id.starts_with(beginning),
            Filter::Label(key, value) => {
                let found = network.options.labels.get(key);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
        }
    }
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("name", part)) => Ok(Filter::Name(part.to_owned())),
        Some(("id", beginning)) => Ok(Filter::Id(beginning.to_owned())),
        Some(("label", label)) => Ok(match label.split_once('=') {
            Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
            None => Filter::Label(label.to_owned(), None),
        }),
        _ => Err("a filter is name=PART, id=BEGINNING or label=KEY[=VALUE]".to_owned()),
    }
}

#[derive(Args)]
pub(super) struct ConnectArgs {
    /// Name, id or id prefix of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or id prefix of the container
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    container: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Args)]
pub(super) struct DisconnectArgs {
    /// Name, id or id prefix of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    network: String,
    /// Name, id or id prefix of the container
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    container: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(command: NetworkCommand) -> anyhow::Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => create(args),
        NetworkCommand::Ls(args) => list(args),
        NetworkCommand::Inspect(args) => show_json(&args.client.client()?.network(&args.name)?),
        NetworkCommand::Rm(args) => remove(args),
        NetworkCommand::Prune(args) => {
            let removed: Vec<Network> = args.client.client()?.delete("/v1/networks")?;
            let names: Vec<&String> = removed.iter().map(|network| &network.name).collect();
            args.output.tell(&removed, &names)
        }
        NetworkCommand::Connect(args) => {
            let network = Connect {
                network: args.network,
                ..Connect::default()
            };
            let request = args.endpoint.complete(network);
            let client = args.client.client()?;
            let container = client.connect(&args.container, &request)?;
            // What is new stands last.
            let endpoints = container.endpoints.last().into_iter();
            let addresses: Vec<String> = endpoints
                .map(|it| joined(it.addresses.iter().map(IpNet::addr)))
                .collect();
            args.output.tell(&container, &addresses)
        }
        NetworkCommand::Disconnect(args) => {
            let client = args.client.client()?;
            let container = client.disconnect(&args.container, &args.network)?;
            args.output.tell(&container, &[&container.name])
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
        options: args.settings.complete(NetworkOptions {
            internal: args.internal,
            isolated: args.isolated,
            routed: args.no_masquerade,
            masquerade_to: args.masquerade_to,
            ip_ranges: args.ip_range,
            reserved: args.reserve,
            labels: args.label.iter().map(|label| split_label(label)).collect(),
            ..NetworkOptions::default()
        }),
    };
    let network = args.client.client()?.create_network(&request)?;
    args.output.tell(&network, &[&network.id])
}

fn split_label(label: &str) -> (String, String) {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    (key.to_owned(), value.to_owned())
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let mut networks = args.client.client()?.networks()?;
    networks.retain(|network| args.filter.iter().all(|filter| filter.admits(network)));
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

fn remove(args: RemoveArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    super::for_each(&args.names, |name| {
        let network = client.remove_network(name)?;
        args.output.tell(&network, &[&network.name]).map(drop)
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
