//! The rows of the comparison: what each measures, in which unit, and which way is better.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::agent::{Outcome, Probe};
use crate::memory::bytes_a_connection;
use crate::process::run_with;
use crate::rivals::{Form, Route, Subject, Topology};

/// Which way of a topology a row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Across,
    Published,
    Loopback,
}

/// What a row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Traffic {
        way: Way,
        probe: Probe,
        streams: u8,
        /// Of a datagram's payload, bytes.
        size: u16,
    },
    Attach,
    Publish {
        count: u16,
        form: Form,
    },
    Memory,
}

/// One thing that is done with every subject, in turn; it gives one or more [`Metric`]s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    title: &'static str,
    work: Work,
}

const fn bulk(key: &'static str, title: &'static str, way: Way, probe: Probe, streams: u8) -> Row {
    let work = Work::Traffic {
        way,
        probe,
        streams,
        size: 0,
    };
    Row { key, title, work }
}

const fn single(key: &'static str, title: &'static str, way: Way, probe: Probe, size: u16) -> Row {
    let work = Work::Traffic {
        way,
        probe,
        streams: 1,
        size,
    };
    Row { key, title, work }
}

const fn publish(key: &'static str, title: &'static str, count: u16, form: Form) -> Row {
    Row {
        key,
        title,
        work: Work::Publish { count, form },
    }
}

/// All rows, in the order of the tables.
pub(crate) const ROWS: [Row; 25] = [
    bulk(
        "tcp1-send",
        "TCP ×1, container sends",
        Way::Across,
        Probe::Send,
        1,
    ),
    bulk(
        "tcp1-receive",
        "TCP ×1, container receives",
        Way::Across,
        Probe::Receive,
        1,
    ),
    bulk(
        "tcp4-send",
        "TCP ×4, container sends",
        Way::Across,
        Probe::Send,
        4,
    ),
    bulk(
        "tcp4-receive",
        "TCP ×4, container receives",
        Way::Across,
        Probe::Receive,
        4,
    ),
    single(
        "udp64",
        "UDP received, 64 B",
        Way::Across,
        Probe::Datagrams,
        64,
    ),
    single(
        "udp1400",
        "UDP received, 1400 B",
        Way::Across,
        Probe::Datagrams,
        1400,
    ),
    single("rr", "TCP round trip", Way::Across, Probe::RoundTrips, 0),
    single("crr", "TCP connections", Way::Across, Probe::Connections, 0),
    bulk(
        "published-tcp1",
        "published port, TCP ×1 in",
        Way::Published,
        Probe::Send,
        1,
    ),
    bulk(
        "published-tcp4",
        "published port, TCP ×4 in",
        Way::Published,
        Probe::Send,
        4,
    ),
    single(
        "published-rr",
        "published port, round trip",
        Way::Published,
        Probe::RoundTrips,
        0,
    ),
    single(
        "published-crr",
        "published port, connections",
        Way::Published,
        Probe::Connections,
        0,
    ),
    bulk(
        "loopback-tcp1",
        "127.0.0.1 published, TCP ×1 in",
        Way::Loopback,
        Probe::Send,
        1,
    ),
    bulk(
        "loopback-tcp4",
        "127.0.0.1 published, TCP ×4 in",
        Way::Loopback,
        Probe::Send,
        4,
    ),
    single(
        "loopback-rr",
        "127.0.0.1 published, round trip",
        Way::Loopback,
        Probe::RoundTrips,
        0,
    ),
    single(
        "loopback-crr",
        "127.0.0.1 published, connections",
        Way::Loopback,
        Probe::Connections,
        0,
    ),
    Row {
        key: "attach",
        title: "attach a container",
        work: Work::Attach,
    },
    publish("publish-1", "publish 1 port", 1, Form::Singles),
    publish(
        "publish-100",
        "publish 100 ports one by one",
        100,
        Form::Singles,
    ),
    publish(
        "publish-400",
        "publish 400 ports one by one",
        400,
        Form::Singles,
    ),
    publish(
        "publish-10000",
        "publish 10,000 ports one by one",
        10_000,
        Form::Singles,
    ),
    publish(
        "range-100",
        "publish a range of 100 ports",
        100,
        Form::Range,
    ),
    publish(
        "range-400",
        "publish a range of 400 ports",
        400,
        Form::Range,
    ),
    publish(
        "range-10000",
        "publish a range of 10,000 ports",
        10_000,
        Form::Range,
    ),
    Row {
        key: "memory",
        title: "memory a connection, of 60,000",
        work: Work::Memory,
    },
];

/// A figure that is compared. Its key is `ROW` or `ROW.PART`, and names it in the JSON file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Metric {
    pub(crate) key: String,
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// Else lower is.
    pub(crate) higher_is_better: bool,
}

impl Metric {
    /// Is it about the CPU that another figure took?
    pub(crate) fn is_cpu(&self) -> bool {
        self.key.ends_with(".cpu")
    }
}

impl Row {
    /// Is the row named by one of these, or does its key begin with one that is no row's own?
    /// `publish` is all of publish-…, and publish-1 is not publish-100.
    pub(crate) fn is_chosen(&self, names: &[String]) -> bool {
        let is_row = |name: &String| ROWS.iter().any(|row| row.key == name);
        names.is_empty()
            || names.iter().any(|name| {
                self.key == name || (!is_row(name) && self.key.starts_with(name.as_str()))
            })
    }

    /// What it gives, in the order of the tables.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let metric = |part: &str, more: &str, unit, higher_is_better| Metric {
            key: format!("{}{part}", self.key),
            title: format!("{}{more}", self.title),
            unit,
            higher_is_better,
        };
        let probe = match self.work {
            Work::Traffic { probe, .. } => probe,
            Work::Memory => return vec![metric("", "", "B", false)],
            Work::Attach | Work::Publish { .. } => return vec![metric("", "", "ms", false)],
        };
        let cpu = |unit| metric(".cpu", ": CPU", unit, false);
        match probe {
            Probe::Send | Probe::Receive => {
                vec![metric("", "", "Gbit/s", true), cpu("s/Gbit")]
            }
            Probe::Datagrams => vec![metric("", "", "kpps", true), cpu("s/million")],
            Probe::RoundTrips => vec![
                metric(".p50", ", median", "µs", false),
                metric(".p99", ", 99 %", "µs", false),
                cpu("s/million"),
            ],
            Probe::Connections => vec![metric("", "", "/s", true), cpu("s/million")],
        }
    }

    /// Measures once: a value for each of [`Row::metrics`], or none if the subject has no such
    /// way or step.
    ///
    /// # Errors
    ///
    /// The path does not work, or a program of the subject fails.
    pub(crate) fn measure(
        &self,
        subject: &Subject,
        topology: &mut Topology,
        seconds: f64,
    ) -> Result<Vec<f64>> {
        let took = match self.work {
            Work::Traffic {
                way,
                probe,
                streams,
                size,
            } => {
                let route = match way {
                    Way::Across => &topology.across,
                    Way::Published => &topology.published,
                    Way::Loopback => &topology.loopback,
                };
                let Some(route) = route else {
                    return Ok(Vec::new());
                };
                let outcome = call(route, probe, streams, size, seconds)?;
                return Ok(values(probe, &outcome));
            }
            Work::Memory => return Ok(bytes_a_connection(subject)?.into_iter().collect()),
            Work::Attach => subject.attach(topology)?,
            Work::Publish { count, form } => subject.publish(topology, count, form)?,
        };
        Ok(took
            .map(|took| took.as_secs_f64() * 1e3)
            .into_iter()
            .collect())
    }
}

/// In the order of [`Row::metrics`].
fn values(probe: Probe, outcome: &Outcome) -> Vec<f64> {
    let cpu = outcome.cpu_seconds / outcome.total.max(1.0);
    match probe {
        Probe::Send | Probe::Receive => vec![outcome.rate / 1e9, cpu * 1e9],
        Probe::Datagrams => vec![outcome.rate / 1e3, cpu * 1e6],
        Probe::RoundTrips => {
            let times = [outcome.p50, outcome.p99].map(Option::unwrap_or_default);
            vec![times[0], times[1], cpu * 1e6]
        }
        Probe::Connections => vec![outcome.rate, cpu * 1e6],
    }
}

/// Runs the measuring client where the route begins.
fn call(route: &Route, probe: Probe, streams: u8, size: u16, seconds: f64) -> Result<Outcome> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("call").arg("--netns").arg(route.from.path());
    command.arg("--target").arg(route.to.to_string());
    command.arg("--probe").arg(probe.name());
    command.arg("--streams").arg(streams.to_string());
    command.arg("--size").arg(size.to_string());
    command.arg("--seconds").arg(seconds.to_string());
    let limit = Duration::from_secs_f64(seconds) + Duration::from_secs(20);
    let finished = run_with(&mut command, b"", limit)?;
    serde_json::from_str(&finished.stdout).context("parse what the client says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_gives_as_many_values_as_metrics() {
        let outcome = Outcome {
            rate: 1.0,
            total: 1.0,
            ..Outcome::default()
        };
        for row in ROWS {
            let expected = match row.work {
                Work::Traffic { probe, .. } => values(probe, &outcome).len(),
                _ => 1,
            };
            assert_eq!(row.metrics().len(), expected, "{}", row.key);
        }
    }

    #[test]
    fn rows_are_chosen_by_name_or_beginning() {
        let chosen = |name: &str| {
            let names = [name.to_owned()];
            ROWS.iter().filter(|row| row.is_chosen(&names)).count()
        };
        assert_eq!(chosen("publish-1"), 1);
        assert_eq!(chosen("publish-"), 4);
        assert_eq!(chosen("none"), 0);
    }

    #[test]
    fn the_row_of_memory_says_how_many() {
        let row = ROWS.iter().find(|row| row.key == "memory").unwrap();
        assert!(row.title.ends_with("60,000"));
        assert_eq!(crate::memory::FLOWS, 60_000);
    }

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<&str> = ROWS.iter().map(|row| row.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ROWS.len());
    }
}
