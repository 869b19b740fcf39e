//! What must outlive the daemon: networks and attached containers, in one redb file.
//!
//! A record is JSON under its id. A write is durable when the call returns, or nothing was
//! written: the caller undoes what it was about to record.

use std::fs;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use switch::frame::MacAddr;

use super::command::CommandProcess;
use super::life::Identity;
use super::names::random;
use crate::api::{
    Limits, Mode, NameSettings, NetworkOptions, PortKind, PortMapping, Status, Target,
};

type Records = TableDefinition<'static, &'static str, &'static [u8]>;

const NETWORKS: Records = TableDefinition::new("networks");
const CONTAINERS: Records = TableDefinition::new("containers");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Raised when a record changes in a way an older daemon would misread.
const FORMAT: u64 = 2;

/// What this pontoon reads as well, and raises to [`FORMAT`]: a container had one endpoint at most.
const FORMER: u64 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub id: String,
    pub name: String,
    /// IPv4 ones first; an older daemon knew no other.
    pub subnets: Vec<IpNet>,
    /// One for each subnet, in the same order.
    pub gateways: Vec<IpAddr>,
    #[serde(with = "mac_text")]
    pub gateway_mac: MacAddr,
    pub host_interface: String,
    pub mtu: u32,
    /// Seconds since 1970.
    pub created: u64,
    #[serde(default)]
    pub options: NetworkOptions,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub mode: Mode,
    pub target: Target,
    pub identity: Identity,
    pub command: Vec<String>,
    /// Seconds since 1970.
    pub created: u64,
    pub status: Status,
    /// As it is told once the container has exited; what a kill will lead to before that.
    #[serde(default)]
    pub exit_code: Option<u8>,
    /// In the order of their making. None in the modes that have no interface of their own, and
    /// once the container has ended.
    #[serde(alias = "endpoint", deserialize_with = "several")]
    pub endpoints: Vec<EndpointRecord>,
    pub published: Vec<PortMapping>,
    #[serde(default)]
    pub names: NameSettings,
    pub remove_on_exit: bool,
    /// The target is a `pontoon run`, which tells how its command ended.
    #[serde(default)]
    pub supervised: bool,
    /// The command of a supervisor; none of one that an earlier version attached.
    #[serde(default)]
    pub process: Option<CommandProcess>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    /// Id of the network.
    pub network: String,
    pub interface: String,
    #[serde(with = "mac_text")]
    pub mac: MacAddr,
    /// IPv4 ones first.
    pub addresses: Vec<IpNet>,
    pub port_kind: PortKind,
    /// The host's end of the veth pair; a TAP has none.
    pub host_interface: Option<String>,
    /// Further names on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub gateway_priority: i32,
    #[serde(default)]
    pub limits: Limits,
}

/// A list, or what format 1 had in its place: one or nothing.
fn several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<EndpointRecord>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Several {
        List(Vec<EndpointRecord>),
        Former(Option<Box<EndpointRecord>>),
    }
    Ok(match Several::deserialize(from)? {
        Several::List(list) => list,
        Several::Former(one) => one.map(|one| *one).into_iter().collect(),
    })
}

impl NetworkRecord {
    /// The network as a kernel without IPv6 can have it. It may have no subnet then.
    pub(super) fn without_ipv6(mut self) -> NetworkRecord {
        self.subnets.retain(|subnet| subnet.addr().is_ipv4());
        self.gateways.retain(IpAddr::is_ipv4);
        self
    }
}

/// The open file. A failed write closes it, because redb refuses to go on after an I/O error, and
/// the next call opens it anew: a disk that was full for a while costs only what was asked
/// meanwhile.
pub(super) struct Store {
    path: PathBuf,
    database: Option<Database>,
}

/// What a daemon starts with.
pub(super) struct Stored {
    /// 40 bits drawn at random when the store was made: the global id of the daemon's unique local
    /// addresses (RFC 4193 clause 3.2.2).
    pub global_id: u64,
    pub networks: Vec<NetworkRecord>,
    /// Those attached first come first.
    pub containers: Vec<ContainerRecord>,
}

impl Store {
    /// Opens or creates the store in `state_dir`, and reads all of it.
    pub(super) fn load(state_dir: &Path) -> anyhow::Result<(Store, Stored)> {
        let load = || -> anyhow::Result<(Store, Stored)> {
            let mut store = Store::open(state_dir)?;
            let stored = Stored {
                global_id: store.global_id()?,
                networks: store.networks()?,
                containers: store.containers()?,
            };
            Ok((store, stored))
        };
        heedless_of_panics(load).with_context(|| {
            format!(
                "what was stored in {} can't be had (if pontoon.redb is damaged, put a copy of it \
                 back, or move it away to start without networks and containers)",
                state_dir.display()
            )
        })
    }

    /// Closes the file, so that the next daemon need not check it. A later write opens it again.
    pub(super) fn close(&mut self) {
        self.database = None;
    }

    /// Opens or creates `pontoon.redb` in `state_dir`.
    fn open(state_dir: &Path) -> anyhow::Result<Store> {
        let mut store = Store {
            path: state_dir.join("pontoon.redb"),
            database: None,
        };
        store.opened()?;
        Ok(store)
    }

    fn global_id(&mut self) -> anyhow::Result<u64> {
        let meta = self.opened()?.begin_read()?.open_table(META)?;
        let id = meta.get("global_id")?.map(|id| id.value());
        id.ok_or_else(|| anyhow!("the store has no global id"))
    }

    fn networks(&mut self) -> anyhow::Result<Vec<NetworkRecord>> {
        let mut records: Vec<NetworkRecord> = self.all(NETWORKS)?;
        records.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        Ok(records)
    }

    fn containers(&mut self) -> anyhow::Result<Vec<ContainerRecord>> {
        let mut records: Vec<ContainerRecord> = self.all(CONTAINERS)?;
        records.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        Ok(records)
    }

    pub(super) fn put_network(&mut self, record: &NetworkRecord) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        self.write(NETWORKS, [(record.id.as_str(), Some(&bytes[..]))])
            .with_context(|| format!("network {} was not recorded", record.name))
    }

    pub(super) fn put_container(&mut self, record: &ContainerRecord) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        self.write(CONTAINERS, [(record.id.as_str(), Some(&bytes[..]))])
            .with_context(|| format!("container {} was not recorded", record.name))
    }

    /// All of them, or none.
    pub(super) fn remove_networks(&mut self, ids: &[String]) -> anyhow::Result<()> {
        self.write(NETWORKS, ids.iter().map(|id| (id.as_str(), None)))
            .context("the networks' removal was not recorded")
    }

    pub(super) fn remove_container(&mut self, id: &str) -> anyhow::Result<()> {
        self.write(CONTAINERS, [(id, None)])
            .context("the container's removal was not recorded")
    }

    fn opened(&mut self) -> anyhow::Result<&Database> {
        if self.database.is_none() {
            let database = open_database(&self.path)
                .with_context(|| format!("can't open the store {}", self.path.display()))?;
            self.database = Some(database);
        }
        self.database
            .as_ref()
            .ok_or_else(|| anyhow!("the store is not open"))
    }

    fn all<T: DeserializeOwned>(&mut self, table: Records) -> anyhow::Result<Vec<T>> {
        let path = self.path.clone();
        let transaction = self.opened()?.begin_read()?;
        let mut records = Vec::new();
        for entry in transaction.open_table(table)?.iter()? {
            let (id, bytes) = entry?;
            records.push(serde_json::from_slice(bytes.value()).with_context(|| {
                format!(
                    "{}: the record {:?} can't be read",
                    path.display(),
                    id.value()
                )
            })?);
        }
        Ok(records)
    }

    /// Writes records, and takes those away that have no bytes.
    fn write<'a>(
        &mut self,
        table: Records,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> anyhow::Result<()> {
        let path = self.path.clone();
        let result = commit(self.opened()?, table, changes);
        if result.is_err() {
            self.database = None;
        }
        result.with_context(|| format!("can't write {} (is its disk full?)", path.display()))
    }
}

/// redb trusts what it has written, and panics on some of what a damaged disk makes of it. That is an
/// error of the file, and the words of the panic are no help to anybody.
fn heedless_of_panics<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    outcome.unwrap_or_else(|_| Err(anyhow!("pontoon.redb is damaged")))
}

fn open_database(path: &Path) -> anyhow::Result<Database> {
    // A creation cut short (by a full disk) leaves a file of zeroes, which redb takes for a
    // foreign one; an empty file it takes for a new one.
    let fresh = fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
    let database = Database::create(path);
    if fresh && database.is_err() {
        let _ = fs::remove_file(path);
    }
    let database = database?;
    let transaction = database.begin_write()?;
    {
        transaction.open_table(NETWORKS)?;
        transaction.open_table(CONTAINERS)?;
        let mut meta = transaction.open_table(META)?;
        if meta.get("global_id")?.is_none() {
            let [a, b, c, d, e] = random()?;
            meta.insert("global_id", u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))?;
        }
        let found = meta.get("format")?.map(|format| format.value());
        match found {
            None | Some(FORMER) => {
                meta.insert("format", FORMAT)?;
            }
            Some(FORMAT) => {}
            Some(other) => bail!(
                "it has format {other}, this pontoon knows {FORMAT}: use the pontoon that wrote it, \
                 or another --state-dir"
            ),
        }
    }
    transaction.commit()?;
    Ok(database)
}

fn commit<'a>(
    database: &Database,
    table: Records,
    changes: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> anyhow::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(table)?;
        for (id, bytes) in changes {
            match bytes {
                Some(bytes) => {
                    records.insert(id, bytes)?;
                }
                None => {
                    records.remove(id)?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// A MAC address as its usual text, so that the store reads as people write.
mod mac_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use switch::frame::MacAddr;

    pub(super) fn serialize<S: Serializer>(mac: &MacAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MacAddr, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Limit, Protocol};

    fn container(id: &str) -> ContainerRecord {
        ContainerRecord {
            id: id.to_owned(),
            name: format!("name-of-{id}"),
            mode: Mode::Network("bridge".to_owned()),
            target: Target::Netns("/run/netns/x".into()),
            identity: Identity {
                boot: "b".to_owned(),
                netns: 4026532000,
                started: None,
            },
            command: vec!["sh".to_owned()],
            created: 1,
            status: Status::Running,
            exit_code: None,
            endpoints: vec![EndpointRecord {
                network: "n".to_owned(),
                interface: "eth0".to_owned(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                addresses: vec!["172.17.0.2/16".parse().unwrap()],
                port_kind: PortKind::Tap,
                host_interface: None,
                aliases: vec!["cache".to_owned()],
                gateway_priority: -1,
                limits: Limits {
                    outward: Limit {
                        bits_per_second: Some(1_000_000),
                        ..Limit::default()
                    },
                    ..Limits::default()
                },
            }],
            published: vec![PortMapping {
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: 8080,
                container_port: 80,
                count: 1,
                allow: Vec::new(),
            }],
            names: NameSettings::default(),
            remove_on_exit: true,
            supervised: false,
            process: None,
        }
    }

    #[test]
    fn records_survive_closing_and_opening() {
        let dir = tempfile::tempdir().unwrap();
        let network = NetworkRecord {
            id: "n".to_owned(),
            name: "bridge".to_owned(),
            subnets: vec!["172.17.0.0/16".parse().unwrap()],
            gateways: vec!["172.17.0.1".parse().unwrap()],
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            host_interface: "pontoon0".to_owned(),
            mtu: 1500,
            created: 7,
            options: NetworkOptions {
                internal: true,
                ..NetworkOptions::default()
            },
        };
        let mut store = Store::open(dir.path()).unwrap();
        store.put_network(&network).unwrap();
        store.put_container(&container("a")).unwrap();
        store.put_container(&container("b")).unwrap();
        store.remove_container("a").unwrap();
        let id = store.global_id().unwrap();
        drop(store);

        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.global_id().unwrap(), id);
        let elsewhere = tempfile::tempdir().unwrap();
        let mut other = Store::open(elsewhere.path()).unwrap();
        assert_ne!(other.global_id().unwrap(), id, "40 bits of chance");
        assert_eq!(store.networks().unwrap(), [network]);
        assert_eq!(store.containers().unwrap(), [container("b")]);
        store.remove_networks(&["n".to_owned()]).unwrap();
        assert_eq!(store.networks().unwrap(), []);
    }

    #[test]
    fn a_record_of_the_former_format_has_one_endpoint_or_none() {
        let mut record = serde_json::to_value(container("a")).unwrap();
        let fields = record.as_object_mut().unwrap();
        let mut endpoint = fields.remove("endpoints").unwrap()[0].take();
        endpoint.as_object_mut().unwrap().remove("aliases");
        endpoint.as_object_mut().unwrap().remove("gateway_priority");
        endpoint.as_object_mut().unwrap().remove("limits");
        fields.insert("endpoint".to_owned(), endpoint);
        let read: ContainerRecord = serde_json::from_value(record.clone()).unwrap();
        let mut expected = container("a");
        expected.endpoints[0].aliases.clear();
        expected.endpoints[0].gateway_priority = 0;
        expected.endpoints[0].limits = Limits::default();
        assert_eq!(read, expected);

        record["endpoint"] = serde_json::Value::Null;
        let read: ContainerRecord = serde_json::from_value(record).unwrap();
        assert_eq!(read.endpoints, []);
    }

    #[test]
    fn a_newer_format_is_refused_and_told() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let database = Database::create(dir.path().join("pontoon.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert("format", FORMAT + 1)
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = Store::open(dir.path())
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap();
        assert!(error.contains("format 3"), "{error}");
    }

    #[test]
    fn a_foreign_file_is_refused_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pontoon.redb");
        fs::write(&path, b"something else entirely").unwrap();
        assert!(Store::open(dir.path()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"something else entirely");
    }

    /// /dev/full refuses every write with ENOSPC but can't hold a file, so the store's directory
    /// is taken away instead: the write fails, and the store opens again when it is back.
    #[test]
    fn a_failed_open_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.database = None;
        let (path, away) = (dir.path().join("pontoon.redb"), dir.path().join("away"));
        fs::rename(&path, &away).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(store.put_container(&container("a")).is_err());
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        store.put_container(&container("a")).unwrap();
        assert_eq!(store.containers().unwrap().len(), 1);
    }
}
