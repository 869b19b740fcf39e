//! `pontoon conntrack`: the connections, each with the tuples of both directions; counted, and ended.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::output::{Look, OutputArgs, bytes, duration, flow, write_table};
use crate::api::{Connection, ConnectionFilter, Flushed};
use crate::client::connections_path;

#[derive(Args)]
pub(super) struct ConntrackArgs {
    /// Only connections of this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only connections of this protocol: tcp, udp, sctp, icmp, icmpv6, or a number
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// Only connections with an address in this network, before or after translation
    #[arg(long, value_name = "NETWORK")]
    address: Option<String>,
    /// Only connections with this TCP, UDP or SCTP port, before or after translation
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Print the number of matching connections
    #[arg(long, conflicts_with = "flush")]
    count: bool,
    /// Delete the matching connections (all of them without a filter); later packets open new ones
    #[arg(long)]
    flush: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: ConntrackArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    let path = connections_path(&ConnectionFilter {
        container: args.container,
        protocol: args.protocol,
        address: args.address,
        port: args.port,
    });
    if args.flush {
        let flushed: Flushed = client.delete(&path)?;
        let told = match flushed.connections {
            1 => "1 connection ended".to_owned(),
            count => format!("{count} connections ended"),
        };
        return args.output.tell(&flushed, &[told]);
    }
    let connections: Vec<Connection> = client.get(&path)?;
    if args.count {
        let count = connections.len();
        return args.output.tell(&count, &[count]);
    }
    args.output
        .show(&connections, |out, look| print(out, look, &connections))
}

/// Packets and bytes are told as original/reply.
pub(crate) fn print(out: &mut dyn Write, look: Look, connections: &[Connection]) -> io::Result<()> {
    let header = [
        "PROTOCOL", "STATE", "ORIGINAL", "REPLY", "EXPIRES", "PACKETS", "BYTES",
    ];
    let rows = connections.iter().map(|connection| {
        let [packets_there, packets_back] = connection.packets;
        let [bytes_there, bytes_back] = connection.bytes;
        [
            connection.protocol.clone(),
            connection.state.clone(),
            flow(&connection.protocol, &connection.original),
            flow(&connection.protocol, &connection.reply),
            duration(connection.expires_seconds),
            format!("{packets_there}/{packets_back}"),
            format!("{}/{}", bytes(bytes_there), bytes(bytes_back)),
        ]
    });
    write_table(out, look, header, rows)
}
