//! `pontoon drops`: the frames that went nowhere, by reason.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use super::output::{Look, OutputArgs, write_table};
use crate::api::{Counters, DropCounter};

#[derive(Args)]
pub(super) struct DropsArgs {
    /// Include reasons with no dropped frames
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: super::ClientArgs,
}

pub(super) fn run(args: DropsArgs) -> anyhow::Result<ExitCode> {
    let counters: Counters = args.client.client()?.get("/v1/counters")?;
    let mut drops = counters.drops;
    drops.retain(|drop| args.all || drop.frames > 0);
    args.output
        .show(&drops, |out, look| print(out, look, &drops))
}

pub(crate) fn print(out: &mut dyn Write, look: Look, drops: &[DropCounter]) -> io::Result<()> {
    let rows = drops.iter().map(|drop| {
        [
            drop.frames.to_string(),
            drop.reason.clone(),
            drop.explanation.clone(),
        ]
    });
    write_table(out, look, ["FRAMES", "REASON", "EXPLANATION"], rows)
}
