//! The `api` target: whatever is typed or sent.

use pontoon_api::{
    Attach, Connect, Connection, ConnectionFilter, Container, Counters, CreateNetwork, ErrorBody,
    Event, Exit, Exited, FdbEntry, Info, Kill, Mode, NatRules, Network, PortMapping, PublishedPort,
    SetFaults, SetLimits, SetPartition, rate, spec,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What an input may be read as. New ones come last: the first byte of what is kept chooses.
const READERS: [fn(&[u8]); 28] = [
    |bytes| text(bytes, port_mapping),
    |bytes| text(bytes, mode),
    |bytes| text(bytes, mac),
    |bytes| json::<CreateNetwork>(bytes, |_| {}),
    |bytes| {
        json::<Attach>(bytes, |attach| {
            attach.mode.to_string();
            attach.publish.iter().for_each(tell);
        });
    },
    |bytes| json::<Vec<PortMapping>>(bytes, |ports| ports.iter().for_each(tell)),
    |bytes| json::<Info>(bytes, |_| {}),
    |bytes| json::<Vec<Network>>(bytes, |_| {}),
    |bytes| {
        json::<Vec<Container>>(bytes, |containers| {
            let ports = containers.iter().flat_map(|container| &container.published);
            ports.for_each(tell);
        });
    },
    |bytes| json::<Vec<FdbEntry>>(bytes, |_| {}),
    |bytes| {
        json::<NatRules>(bytes, |rules| {
            rules.publish.iter().for_each(|rule| tell(&rule.mapping));
        });
    },
    |bytes| json::<Vec<Connection>>(bytes, |_| {}),
    |bytes| json::<Counters>(bytes, |_| {}),
    |bytes| json::<ErrorBody>(bytes, |_| {}),
    |bytes| text(bytes, network),
    |bytes| text(bytes, |text| size(text, rate::parse_bits, rate::bits)),
    |bytes| {
        text(bytes, |text| {
            size(text, rate::parse_bytes, |bytes| bytes.to_string())
        })
    },
    |bytes| text(bytes, |text| size(text, rate::parse_percent, rate::percent)),
    |bytes| json::<Connect>(bytes, |_| {}),
    |bytes| json::<SetLimits>(bytes, |_| {}),
    |bytes| json::<SetFaults>(bytes, |_| {}),
    |bytes| json::<SetPartition>(bytes, |_| {}),
    |bytes| json::<Kill>(bytes, |_| {}),
    |bytes| json::<Exited>(bytes, |_| {}),
    |bytes| json::<Exit>(bytes, |_| {}),
    |bytes| json::<Event>(bytes, |_| {}),
    |bytes| {
        json::<Vec<PublishedPort>>(bytes, |ports| ports.iter().for_each(|it| tell(&it.mapping)))
    },
    |bytes| json::<ConnectionFilter>(bytes, |_| {}),
];

/// The first byte chooses what the rest is read as.
pub fn api(data: &[u8]) {
    if let Some((&kind, rest)) = data.split_first() {
        READERS[usize::from(kind) % READERS.len()](rest);
    }
}

fn text(bytes: &[u8], read: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

fn port_mapping(text: &str) {
    match text.parse::<PortMapping>() {
        Ok(mapping) => {
            let told = mapping.to_string();
            assert_eq!(told.parse().as_ref(), Ok(&mapping), "`{text}` as `{told}`");
            assert!(mapping.container_port != 0 && mapping.count != 0, "{text}");
            // A host port of 0 is still to be chosen.
            for port in [mapping.host_port, mapping.container_port] {
                let end = u32::from(port) + u32::from(mapping.count) - 1;
                assert!(port == 0 || end <= 0xffff, "{text}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn network(text: &str) {
    if let Ok(network) = spec::parse_network(text) {
        let told = network.to_string();
        assert_eq!(spec::parse_network(&told).as_ref(), Ok(&network), "{text}");
    }
}

/// A number with a unit.
fn size<N: Copy + std::fmt::Debug + PartialEq>(
    text: &str,
    parse: fn(&str) -> Result<N, String>,
    tell: fn(N) -> String,
) {
    match parse(text) {
        Ok(size) => assert_eq!(parse(&tell(size)), Ok(size), "{text}"),
        Err(error) => assert!(!error.is_empty()),
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
