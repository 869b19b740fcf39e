//! `pontoon fdb`: which MAC is behind which port, by configuration or because it was seen there.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::output::{Look, OutputArgs, duration, write_table};
use crate::api::FdbEntry;

#[derive(Args)]
pub(super) struct FdbArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: FdbArgs) -> anyhow::Result<ExitCode> {
    let entries: Vec<FdbEntry> = args.client.client()?.get("/v1/fdb")?;
    args.output
        .show(&entries, |out, look| print(out, look, &entries))
}

pub(crate) fn print(out: &mut dyn Write, look: Look, entries: &[FdbEntry]) -> io::Result<()> {
    let rows = entries.iter().map(|entry| {
        [
            entry.network.clone(),
            entry.mac.clone(),
            entry.port.to_string(),
            entry.owner.clone(),
            entry
                .age_seconds
                .map_or_else(|| "static".to_owned(), duration),
        ]
    });
    write_table(out, look, ["NETWORK", "MAC", "PORT", "OWNER", "AGE"], rows)
}
