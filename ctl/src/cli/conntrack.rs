//! `pontoon conntrack`: the connections, each with the tuples of both directions.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::output::{Look, OutputArgs, bytes, duration, flow, write_table};
use crate::api::Connection;

#[derive(Args)]
pub(super) struct ConntrackArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: ConntrackArgs) -> anyhow::Result<ExitCode> {
    let connections: Vec<Connection> = args.client.client()?.get("/v1/connections")?;
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
