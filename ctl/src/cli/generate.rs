//! `pontoon completions` and `pontoon man`: what a shell and man(1) want to know, generated from
//! the grammar itself.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, EXIT_CODES};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell; save the output where it looks for completions
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// Output directory; created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pontoon", &mut script);
    io::stdout()
        .lock()
        .write_all(&script)
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// One page for `pontoon`, one for each of its commands.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let out = args.out.display();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {out}"))?;
    // The exit codes stand on every page: each is read alone.
    let mut command = Cli::command().mut_subcommands(|page| page.after_help(EXIT_CODES));
    command.build();
    clap_mangen::generate_to(command, &args.out)
        .with_context(|| format!("cannot write the pages to {out}"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Feature: operations
    #[test]
    fn there_is_a_page_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("man");
        man(&ManArgs { out: out.clone() }).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = out.join(format!("pontoon-{}.1", command.get_name()));
            assert_eq!(page.exists(), !command.is_hide_set(), "{}", page.display());
        }
        let page = std::fs::read_to_string(out.join("pontoon-run.1")).unwrap();
        assert!(page.contains("125") && page.contains("detach"), "{page}");
        assert!(out.join("pontoon-network-create.1").exists());
    }

    // Feature: operations
    #[test]
    fn every_shell_is_told_of_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pontoon", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(
                    command.is_hide_set() || script.contains(name),
                    "{shell}: {name}"
                );
            }
        }
    }
}
