//! `pontoon events`: what happens, as it happens.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;

use super::output::{joined, published};
use crate::api::Event;

#[derive(Args)]
pub(super) struct EventsArgs {
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Only matching events: kind=container, action=ended, name=NAME or network=NAME; several
    /// values of one key are alternatives, different keys must all match
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Filter>,
    /// Begin with the event of this number; 0 for all that the daemon still keeps
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
    #[command(flatten)]
    client: super::ClientArgs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    key: Key,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Kind,
    Action,
    Name,
    Network,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let (key, value) = text.split_once('=').ok_or("it has no `=`")?;
        let key = match key {
            "kind" | "type" => Key::Kind,
            "action" | "event" => Key::Action,
            "name" | "container" => Key::Name,
            "network" => Key::Network,
            _ => {
                return Err(format!("`{key}` is none of kind, action, name and network"));
            }
        };
        Ok(Filter {
            key,
            value: value.to_owned(),
        })
    }
}

impl Filter {
    fn lets_through(&self, event: &Event) -> bool {
        match self.key {
            Key::Kind => event.kind.to_string() == self.value,
            Key::Action => event.action.to_string() == self.value,
            Key::Name => event.name == self.value,
            Key::Network => {
                event.network.as_ref() == Some(&self.value)
                    || (event.kind.to_string() == "network" && event.name == self.value)
            }
        }
    }
}

/// What was lost is always told.
fn passes(filters: &[Filter], event: &Event) -> bool {
    event.lost.is_some()
        || filters.iter().all(|one| {
            let same_key = filters.iter().filter(|other| other.key == one.key);
            same_key.into_iter().any(|other| other.lets_through(event))
        })
}

pub(super) fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    args.client.client()?.events(args.since, |event: Event| {
        if !passes(&args.filter, &event) {
            return Ok(());
        }
        let line = if args.json {
            serde_json::to_string(&event)?
        } else {
            describe(&event)
        };
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .context("cannot write to standard output")
    })?;
    anyhow::bail!("the daemon has stopped")
}

/// One line for people.
fn describe(event: &Event) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(event.time);
    let mut line = format!("{} ", humantime::format_rfc3339_millis(time));
    // Writing to a string does not fail.
    let _ = match event.lost {
        Some(lost) => write!(line, "{lost} events were lost: this reader was too slow"),
        None => write!(line, "{} {} {}", event.kind, event.name, event.action),
    };
    if let Some(network) = &event.network {
        let _ = write!(line, ", network {network}");
    }
    if !event.addresses.is_empty() {
        let _ = write!(line, ", {}", joined(&event.addresses));
    }
    if let Some(port) = &event.port {
        let _ = write!(line, ", {}", published(port));
    }
    if let Some(code) = event.exit_code {
        let _ = write!(line, ", exit code {code}");
    }
    if let Some(reason) = &event.reason {
        let _ = write!(line, ": {reason}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{EventAction, EventKind};

    fn ended() -> Event {
        Event {
            seq: 7,
            time: 1_700_000_000_123,
            kind: EventKind::Container,
            action: EventAction::Ended,
            name: "web".to_owned(),
            id: Some("abc".to_owned()),
            network: None,
            addresses: Vec::new(),
            port: None,
            exit_code: Some(3),
            reason: Some("its command has ended".to_owned()),
            lost: None,
        }
    }

    // Feature: events
    #[test]
    fn an_event_is_a_line() {
        assert_eq!(
            describe(&ended()),
            "2023-11-14T22:13:20.123Z container web ended, exit code 3: its command has ended"
        );
    }

    // Feature: events
    #[test]
    fn filters_of_one_key_are_alternatives() {
        let passes = |texts: &[&str]| {
            let filters: Vec<Filter> = texts.iter().map(|it| it.parse().unwrap()).collect();
            passes(&filters, &ended())
        };
        assert!(passes(&[]) && passes(&["kind=container", "name=web"]));
        assert!(passes(&["action=created", "action=ended"]));
        assert!(!passes(&["kind=container", "name=other"]) && !passes(&["network=web"]));
        assert!("colour=red".parse::<Filter>().is_err() && "kind".parse::<Filter>().is_err());
    }
}
