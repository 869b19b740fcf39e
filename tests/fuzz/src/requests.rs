//! The `api` target: whatever is typed or sent.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    Attach, Connection, Container, Counters, CreateNetwork, ErrorBody, FdbEntry, Info, Mode,
    NatRules, Network, PortMapping,
};
use crate::spec;

/// The first byte chooses what the rest is read as.
pub fn api(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    match (kind % 14, std::str::from_utf8(rest)) {
        (0, Ok(text)) => port_mapping(text),
        (1, Ok(text)) => mode(text),
        (2, Ok(text)) => mac(text),
        (3, _) => json::<CreateNetwork>(rest, |_| {}),
        (4, _) => json::<Attach>(rest, |attach| {
            attach.mode.to_string();
            attach.publish.iter().for_each(tell);
        }),
        (5, _) => json::<Vec<PortMapping>>(rest, |ports| ports.iter().for_each(tell)),
        (6, _) => json::<Info>(rest, |_| {}),
        (7, _) => json::<Vec<Network>>(rest, |_| {}),
        (8, _) => json::<Vec<Container>>(rest, |containers| {
            let ports = containers.iter().flat_map(|container| &container.published);
            ports.for_each(tell);
        }),
        (9, _) => json::<Vec<FdbEntry>>(rest, |_| {}),
        (10, _) => json::<NatRules>(rest, |rules| {
            rules.publish.iter().for_each(|rule| tell(&rule.mapping));
        }),
        (11, _) => json::<Vec<Connection>>(rest, |_| {}),
        (12, _) => json::<Counters>(rest, |_| {}),
        (13, _) => json::<ErrorBody>(rest, |_| {}),
        _ => {}
    }
}

fn port_mapping(text: &str) {
    match text.parse::<PortMapping>() {
        Ok(mapping) => {
            let told = mapping.to_string();
            assert_eq!(told.parse().as_ref(), Ok(&mapping), "`{text}` as `{told}`");
            let ends = [mapping.host_port, mapping.container_port].map(|port| {
                assert!(port != 0 && mapping.count != 0, "{text}");
                u32::from(port) + u32::from(mapping.count) - 1
            });
            assert!(ends.into_iter().all(|end| end <= 0xffff), "{text}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn mode(text: &str) {
    if let Ok(mode) = text.parse::<Mode>() {
        assert_eq!(mode.to_string().parse().as_ref(), Ok(&mode), "{text}");
    }
}

fn mac(text: &str) {
    if let Ok(mac) = spec::parse_mac(text) {
        assert_eq!(spec::parse_mac(&mac).as_ref(), Ok(&mac), "{text}");
    }
}

/// A mapping that a program sent is not checked yet when a message names it.
fn tell(mapping: &PortMapping) {
    assert!(!mapping.to_string().is_empty());
}

/// What is read is written so that it is read as the same.
fn json<T: Serialize + DeserializeOwned>(bytes: &[u8], look: impl FnOnce(&T)) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    look(&value);
    let written = serde_json::to_string(&value).expect("what was read can be written");
    let again: T = serde_json::from_str(&written).expect("what was written can be read");
    let rewritten = serde_json::to_string(&again).expect("what was read can be written");
    assert_eq!(written, rewritten);
}
