//! Keeps up with which container has which addresses, as a plugin for a DNS server or a proxy does.
//!
//! ```sh
//! cargo run -p pontoon-api --example addresses -- /run/pontoon/pontoon.sock
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;

use pontoon_api::client::{Client, ClientError};
use pontoon_api::{Container, Event, EventKind, Status};

type Known = BTreeMap<String, Vec<IpAddr>>;

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args_os().nth(1).map(PathBuf::from);
    let client = Client::new(&socket.unwrap_or_else(|| "/run/pontoon/pontoon.sock".into()))?;
    let mut known = Known::new();
    list(&client, &mut known)?;
    // From the oldest event on: those since the list was made are among them.
    client.events(Some(0), |event: Event| match (event.kind, event.id) {
        (EventKind::Endpoint | EventKind::Container, Some(id)) => match client.container(&id) {
            Ok(container) => {
                update(&mut known, &container);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                replace(&mut known, &event.name, Vec::new());
                Ok(())
            }
            Err(error) => Err(error),
        },
        // This program was too slow for some of the events.
        (EventKind::Stream, _) => list(&client, &mut known),
        _ => Ok(()),
    })?;
    Err("the daemon has stopped".into())
}

fn list(client: &Client, known: &mut Known) -> Result<(), ClientError> {
    let containers = client.containers()?;
    let names: Vec<String> = known.keys().cloned().collect();
    let gone = |name: &&String| !containers.iter().any(|it| it.name == **name);
    names
        .iter()
        .filter(gone)
        .for_each(|name| replace(known, name, Vec::new()));
    containers.iter().for_each(|it| update(known, it));
    Ok(())
}

fn update(known: &mut Known, container: &Container) {
    let endpoints = match container.status {
        Status::Running => &container.endpoints[..],
        Status::Exited => &[],
    };
    let addresses = endpoints.iter().flat_map(|it| &it.addresses);
    replace(
        known,
        &container.name,
        addresses.map(|it| it.addr()).collect(),
    );
}

fn replace(known: &mut Known, name: &str, addresses: Vec<IpAddr>) {
    let before = known.insert(name.to_owned(), addresses.clone());
    if before.unwrap_or_default() != addresses {
        println!("{name} {addresses:?}");
    }
}
