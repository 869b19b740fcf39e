//! `compare`: pontoon beside what else connects containers, on one machine, in one run.
//!
//! ```text
//! cargo run --release -p pontoon-benches --bin compare -- --rounds 5 --seconds 2 --out DIR
//! ```
//!
//! It builds a topology for each subject in namespaces of its own, measures every row with one
//! subject after the other, round after round, takes everything down, and writes `compare.md`,
//! `compare.json` and charts. It needs root, and no measuring tool: client and server are
//! this program again, inside the namespaces. What is not installed is skipped by name.
//!
//! | file | what |
//! |---|---|
//! | `rivals/` | the subjects, one file each |
//! | `measure.rs`, `memory.rs` | the rows and their metrics |
//! | `agent.rs`, `datagrams.rs` | the measuring server and client |
//! | `lab.rs`, `process.rs`, `interrupt.rs` | namespaces, programs, Ctrl-C |
//! | `sample.rs` | medians and ratios |
//! | `goals.rs` | what is aimed at, and the floors that tests hold |
//! | `report.rs`, `chart.rs` | Markdown, JSON, SVG |
//! | `machine.rs` | kernel, CPU, date, how busy |

#![forbid(unsafe_code)]

mod agent;
mod chart;
mod datagrams;
mod goals;
mod interrupt;
mod lab;
mod machine;
mod measure;
mod memory;
mod process;
mod report;
mod rivals;
mod sample;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use nix::unistd::geteuid;

use machine::Machine;
use measure::{ROWS, Row};
use report::Report;
use rivals::pontoon::Flavour;
use rivals::{Group, Subject, Topology};
use sample::{Sample, Samples};

/// Where the measuring server listens, and on the next port. Outside every range that pontoon, the
/// kernel or a rival takes by itself.
const SERVICE: u16 = 7000;

/// How pontoon is run: what its name gets added, and the flags of its daemon. As it comes, without
/// polling, and with idle CPUs kept from halting while it polls.
const WAYS: [(&str, &[&str]); 3] = [
    ("", &[]),
    ("+sleepy", &["--busy-poll", "off"]),
    ("+no-halt", &["--no-halt"]),
];

/// After so many failures a row is not tried again with a subject.
const MOST_FAILURES: usize = 2;

/// Measures pontoon side by side with its rivals
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,

    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long a figure of traffic is measured, after 0.2 s of warm-up
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// These subjects alone (see --list)
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,

    /// These rows alone, by the beginnings of their names (see --list)
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,

    /// Where compare.md, compare.json and the charts go
    #[arg(long, default_value = "target/compare", value_name = "DIR")]
    out: PathBuf,

    /// Install missing packages by apt-get
    #[arg(long)]
    install: bool,

    /// List subjects and rows, and what is missing
    #[arg(long)]
    list: bool,

    /// Fail when a ratio is below its floor: what a test of the whole needs
    #[arg(long)]
    check: bool,

    /// The pontoon to measure [default: under cargo it is built, else the one beside this program]
    #[arg(long, value_name = "FILE")]
    pontoon: Option<PathBuf>,

    /// Measure pontoon also with these flags of its daemon; may be repeated
    #[arg(long, value_name = "NAME=FLAGS", allow_hyphen_values = true)]
    variant: Vec<String>,
}

/// What this program is, inside a namespace.
#[derive(Debug, Subcommand)]
enum Role {
    /// Be the measuring server
    #[command(hide = true)]
    Serve(agent::ServeArgs),
    /// Be the measuring client
    #[command(hide = true)]
    Call(agent::CallArgs),
    /// Be the bare forwarder
    #[command(hide = true)]
    Bare(rivals::bare::BareArgs),
    /// Become a program that ends with its parent
    #[command(hide = true)]
    Tether {
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.role {
        Some(Role::Serve(args)) => agent::serve(args),
        Some(Role::Call(args)) => agent::call(args),
        Some(Role::Bare(args)) => rivals::bare::forward(args),
        Some(Role::Tether { command }) => process::tether(command),
        None if cli.list => list(&cli),
        None => compare(&cli),
    };
    match (result, interrupt::interrupted()) {
        (Ok(()), None) => ExitCode::SUCCESS,
        (_, Some(signal)) => {
            eprintln!("compare: {signal}: interrupted, and cleaned up");
            ExitCode::from(128 + signal as u8)
        }
        (Err(error), None) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list(cli: &Cli) -> Result<()> {
    println!("Subjects:");
    for subject in subjects(cli, Path::new("pontoon"))? {
        println!("  {:16} {}", subject.name(), subject.about());
        for (program, package) in subject.missing() {
            println!(
                "  {:16} {program} is not installed (apt-get install {package})",
                ""
            );
        }
    }
    println!("Rows:");
    for row in ROWS {
        let metrics = row.metrics();
        let units: Vec<&str> = metrics.iter().map(|metric| metric.unit).collect();
        let title = metrics.first().map_or("", |metric| metric.title.as_str());
        println!("  {:16} {title}: {}", row.key, units.join(", "));
    }
    Ok(())
}

/// Everything there is, less what `--only` leaves out. Rivals come first in a group's tables.
fn subjects(cli: &Cli, pontoon: &Path) -> Result<Vec<Subject>> {
    let mut subjects = Subject::RIVALS.to_vec();
    let mut variants = Vec::new();
    for variant in &cli.variant {
        let parts = variant.split_once('=');
        let (name, flags) =
            parts.with_context(|| format!("--variant {variant}: not NAME=FLAGS"))?;
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        variants.push((format!("+{name}"), flags));
    }
    let own = |(suffix, flags): (&str, &[&str])| {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        (suffix.to_owned(), flags)
    };
    for (name, group, port_kind, ways) in [
        ("pontoon-tap", Group::Switched, "tap", &WAYS[..]),
        ("pontoon-veth", Group::Switched, "veth", &WAYS[..1]),
        ("pontoon-nat", Group::Translated, "tap", &WAYS[..]),
        ("pontoon-nat-veth", Group::Translated, "veth", &WAYS[..1]),
    ] {
        let ways = ways.iter().copied().map(own);
        for (suffix, flags) in ways.chain(variants.iter().cloned()) {
            subjects.push(Subject::Pontoon(Flavour {
                name: format!("{name}{suffix}"),
                group,
                port_kind,
                flags,
                binary: pontoon.to_owned(),
            }));
        }
    }
    for name in &cli.only {
        if !subjects.iter().any(|subject| subject.name() == name) {
            bail!("--only {name}: there is no such subject; --list tells them");
        }
    }
    let wanted = |subject: &Subject| {
        cli.only.is_empty() || cli.only.iter().any(|name| name == subject.name())
    };
    subjects.retain(wanted);
    Ok(subjects)
}

fn rows(cli: &Cli) -> Result<Vec<Row>> {
    for prefix in &cli.rows {
        if !ROWS.iter().any(|row| row.key.starts_with(prefix.as_str())) {
            bail!("--rows {prefix}: there is no such row; --list tells them");
        }
    }
    Ok(ROWS
        .into_iter()
        .filter(|row| row.is_chosen(&cli.rows))
        .collect())
}

fn compare(cli: &Cli) -> Result<()> {
    if cli.rounds == 0 || !(0.1..=600.0).contains(&cli.seconds) {
        bail!("--rounds must be 1 or more, --seconds from 0.1 to 600");
    }
    let rows = rows(cli)?;
    let subjects = subjects(cli, Path::new("pontoon"))?;
    if !geteuid().is_root() {
        bail!("namespaces and rivals need root; run it with sudo");
    }
    interrupt::watch()?;
    lab::sweep();
    // A build or another run may replace the program meanwhile: measure one and the same.
    let copies = lab::directory()?;
    let copy = copies.path().join("pontoon");
    if subjects.iter().any(Subject::is_pontoon) {
        let original = pontoon(cli)?;
        std::fs::copy(&original, &copy).with_context(|| format!("copy {}", original.display()))?;
    }
    let machine = Machine::this();
    let mut run = Run::default();
    for subject in self::subjects(cli, &copy)? {
        run.prepare(subject, cli.install)?;
    }
    for round in 0..cli.rounds {
        run.round(round, cli.rounds, &rows, cli.seconds)?;
    }
    let report = Report {
        machine: &machine,
        rounds: cli.rounds,
        seconds: cli.seconds,
        subjects: &run.subjects,
        rows: &rows,
        samples: &run.samples,
        notes: &run.notes,
    };
    report.write(&cli.out)?;
    println!("written: {}", cli.out.join("compare.md").display());
    if run.samples.is_empty() {
        bail!("nothing could be measured");
    }
    if cli.check {
        goals::check(&rows, &run.samples)?;
    }
    Ok(())
}

/// The file of the pontoon to measure. Under cargo it is built first, so that it is never an old
/// one, with the profile and into the directory of this program.
fn pontoon(cli: &Cli) -> Result<PathBuf> {
    if let Some(file) = &cli.pontoon {
        return Ok(file.clone());
    }
    let this = std::env::current_exe().context("find this program's file")?;
    let directory = this.parent().context("find this program's directory")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "-p", "pontoon", "--bin", "pontoon"]);
        build
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        if let Some(target) = directory.parent() {
            build.arg("--target-dir").arg(target);
        }
        if directory.ends_with("release") {
            build.arg("--release");
        }
        println!("building pontoon");
        process::run_with(&mut build, b"", Duration::from_secs(1800))?;
    }
    let file = directory.join("pontoon");
    if !file.is_file() {
        bail!(
            "{} is not there: build it (cargo build --release -p pontoon), or name one with --pontoon",
            file.display()
        );
    }
    Ok(file)
}

/// The comparison while it runs.
#[derive(Default)]
struct Run {
    /// Those that work, each with its topology at the same place in `topologies`.
    subjects: Vec<Subject>,
    topologies: Vec<Topology>,
    samples: Samples,
    notes: Vec<String>,
    /// Subject and row of each failure.
    failures: Vec<(String, &'static str)>,
}

impl Run {
    fn note(&mut self, note: String) {
        println!("{note}");
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Builds a subject's topology, or notes why not.
    fn prepare(&mut self, subject: Subject, install: bool) -> Result<()> {
        if install {
            for (_, package) in subject.missing() {
                let mut apt = Command::new("apt-get");
                apt.args(["install", "-y", "--no-install-recommends", package]);
                apt.env("DEBIAN_FRONTEND", "noninteractive");
                println!("installing {package}");
                if let Err(error) = process::run_with(&mut apt, b"", Duration::from_secs(600)) {
                    interrupt::check()?;
                    self.note(format!("{package} can't be installed: {error:#}"));
                }
            }
        }
        if let Some((program, package)) = subject.missing().first() {
            let name = subject.name();
            self.note(format!(
                "skipped: {name}: {program} is not installed (apt-get install {package})"
            ));
            return Ok(());
        }
        match subject.build() {
            Ok(topology) => {
                println!("built: {}", subject.name());
                self.subjects.push(subject);
                self.topologies.push(topology);
            }
            Err(error) => {
                interrupt::check()?;
                self.note(format!("skipped: {}: {error:#}", subject.name()));
            }
        }
        Ok(())
    }

    /// Measures every row with every subject once, in turn: A B A B. Every other round goes
    /// through the subjects in reverse, so that none always comes after the same one.
    fn round(&mut self, round: usize, rounds: usize, rows: &[Row], seconds: f64) -> Result<()> {
        for row in rows {
            let count = self.subjects.len();
            for place in 0..count {
                let index = if round.is_multiple_of(2) {
                    place
                } else {
                    count - 1 - place
                };
                self.measure(round, rounds, row, index, seconds)?;
            }
        }
        Ok(())
    }

    fn measure(
        &mut self,
        round: usize,
        rounds: usize,
        row: &Row,
        index: usize,
        seconds: f64,
    ) -> Result<()> {
        let (subject, topology) = (&self.subjects[index], &mut self.topologies[index]);
        let name = subject.name().to_owned();
        let failures = self.failures.iter();
        if failures
            .filter(|(subject, key)| *subject == name && *key == row.key)
            .count()
            >= MOST_FAILURES
        {
            return Ok(());
        }
        let values = match row.measure(subject, topology, seconds) {
            Ok(values) => values,
            Err(error) => {
                interrupt::check()?;
                self.failures.push((name.clone(), row.key));
                self.note(format!("{name}: {}: {error:#}", row.key));
                return Ok(());
            }
        };
        for (metric, value) in row.metrics().into_iter().zip(values) {
            if !metric.is_cpu() {
                println!(
                    "{}/{rounds} {:16} {:14} {value:.2} {}",
                    round + 1,
                    metric.key,
                    name,
                    metric.unit
                );
            }
            self.samples.add(Sample {
                round,
                subject: name.clone(),
                metric: metric.key,
                value,
            });
        }
        Ok(())
    }
}
