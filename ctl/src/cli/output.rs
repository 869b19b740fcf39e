//! What the printers share: tables, JSON, and how numbers and names are written.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use comfy_table::{Attribute, Cell, Table};
use ipnet::IpNet;
use serde::Serialize;

use crate::api::{Flow, PortMapping};
use crate::spec::port_range;

/// The choice that every command offers that has something to say.
#[derive(Args)]
pub(super) struct OutputArgs {
    /// Print JSON, with every detail
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    /// Prints `value` to standard output: as JSON, or with `table` for people.
    pub(super) fn show<T: Serialize + ?Sized>(
        &self,
        value: &T,
        table: impl FnOnce(&mut dyn Write, Look) -> io::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        print(|out| {
            if self.json {
                write_json(out, value)
            } else {
                table(out, Look::of_stdout())
            }
        })
    }

    /// Prints `value` as JSON, or `lines`.
    pub(super) fn tell<T: Serialize + ?Sized>(
        &self,
        value: &T,
        lines: &[impl fmt::Display],
    ) -> anyhow::Result<ExitCode> {
        self.show(value, |out, _| write_lines(out, lines))
    }
}

/// Prints lines for scripts: names, ids.
pub(super) fn show_lines(lines: &[impl fmt::Display]) -> anyhow::Result<ExitCode> {
    print(|out| write_lines(out, lines))
}

fn write_lines(out: &mut dyn Write, lines: &[impl fmt::Display]) -> io::Result<()> {
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Prints JSON to standard output, for commands that know no other form.
pub(super) fn show_json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<ExitCode> {
    print(|out| write_json(out, value))
}

fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&mut out)
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn write_json<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// For whom a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// A file, a pipe or a test: text alone.
    Plain,
    /// A terminal: the header stands out.
    Terminal,
}

impl Look {
    pub(crate) fn of_stdout() -> Look {
        // https://no-color.org: set and not empty means plain.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if io::stdout().is_terminal() && !refused {
            Look::Terminal
        } else {
            Look::Plain
        }
    }
}

/// A table as Docker's: columns by spaces, no lines, no wrapping, so that `awk` reads it too.
pub(super) fn write_table<const N: usize>(
    out: &mut dyn Write,
    look: Look,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let mut table = Table::new();
    // What the terminal is, is decided by `look` alone.
    table
        .load_style(comfy_table::presets::NOTHING)
        .force_no_tty();
    if look == Look::Terminal {
        table.enforce_styling();
        table.style_text_only();
    }
    table.set_header(header.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for row in rows {
        table.add_row(row.map(|text| printable(&text)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Text of others (names of processes, words of a daemon), with what would steer a terminal
/// escaped and an empty text made visible.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// At most `length` characters, with a sign where text is missing.
pub(super) fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(length.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The beginning of an id, as Docker shows it.
pub(super) fn short_id(id: &str) -> &str {
    id.char_indices().nth(12).map_or(id, |(end, _)| &id[..end])
}

pub(super) fn joined(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Decimal units, as Docker counts traffic.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// The two largest units of a time in seconds: `59s`, `4m59s`, `119h59m`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long ago something was, roughly, as Docker says it.
pub(super) fn ago(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// The address and ports of one side, where no address means every address of the host.
pub(super) fn at(address: Option<IpAddr>, ports: &str) -> String {
    match address {
        None => format!("*:{ports}"),
        Some(IpAddr::V4(address)) => format!("{address}:{ports}"),
        Some(IpAddr::V6(address)) => format!("[{address}]:{ports}"),
    }
}

/// A published mapping as `ps` tells it: `*:9000-9099->80-179/tcp from 10.0.0.0/8`.
pub(super) fn published(mapping: &PortMapping) -> String {
    format!(
        "{}->{}/{}{}",
        at(
            mapping.host_ip,
            &port_range(mapping.host_port, mapping.count)
        ),
        port_range(mapping.container_port, mapping.count),
        mapping.protocol,
        from(mapping)
    )
}

/// Whom a published port is for, to be put behind it: nothing when it is for everybody.
pub(super) fn from(mapping: &PortMapping) -> String {
    /// More would bury the rest of the line.
    const TOLD: usize = 3;
    if mapping.allow.is_empty() {
        return String::new();
    }
    let told: Vec<String> = mapping
        .allow
        .iter()
        .take(TOLD)
        .map(IpNet::to_string)
        .collect();
    let more = match mapping.allow.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(" from {}{more}", told.join(" "))
}

/// One direction of a connection. ICMP has no ports: its identifier stands in `src_port` of a
/// request and in `dst_port` of a reply, and the other is 0.
pub(super) fn flow(protocol: &str, flow: &Flow) -> String {
    if protocol.to_ascii_lowercase().starts_with("icmp") {
        return format!(
            "{} -> {} id {}",
            flow.src,
            flow.dst,
            flow.src_port.max(flow.dst_port)
        );
    }
    format!(
        "{} -> {}",
        SocketAddr::new(flow.src, flow.src_port),
        SocketAddr::new(flow.dst, flow.dst_port)
    )
}
