//! The daemon: what `pontoon daemon` runs until it is told to stop.
//!
//! One [`Daemon`] knows the networks, the containers, the uplinks and what is stored of them. All
//! changes go through it, one at a time, from three sides: the API ([`server`]), the host (links,
//! addresses and routes, followed over rtnetlink), and the switch and the kernel (a port that is
//! gone, a process that has ended). After each change [`Daemon::apply`] describes the whole to the
//! switch ([`config`]), and brings up to date what names mean ([`resolver`]) and what the API's
//! readers see ([`view`]).
//!
//! What the kernel holds (TAPs, veth pairs) and what the store holds outlive the daemon, however
//! it ends. The store says what was asked for, one record a write; a start takes up what it names,
//! makes anew what of that is not there, and removes what nothing claims. So a death at any moment
//! leaves the change that was under way done or not done, once the next daemon has started; how
//! [`interface`] tells.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ipnet::{IpNet, Ipv6Net};
use switch::io::filter::{UplinkFilter, local_only_filter};
use switch::io::has_ipv6;
use switch::{Event, PortId, Switch};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::api::{
    self, Event as ApiEvent, EventAction, EventKind, HostSilenceKind, NameServer, PortKind,
};
use crate::host::{self, HostLink, HostState};
use crate::ipam::{self, AddressPool};
use crate::netns::Netns;

mod access;
mod command;
mod config;
mod container;
mod events;
mod failure;
mod faults;
mod interface;
mod journal;
mod life;
mod limits;
mod listener;
mod lock;
mod metrics;
mod names;
mod network;
mod privileges;
mod process;
mod publish;
mod remains;
mod resolver;
mod routing;
#[cfg(test)]
mod sample;
mod server;
mod service;
mod shares;
mod silence;
mod snat;
mod store;
mod uplink;
mod view;

pub(crate) use process::run;

pub(crate) use crate::host::UplinkChoice;

use config::Surroundings;
use container::Container;
use events::{Events, between, event};
use failure::Failure;
use faults::FaultBook;
use interface::PortKinds;
use journal::{Journal, OwnerBook};
use network::Network;
use remains::{Clearing, Remains};
use resolver::NameService;
use silence::HostSilence;
use snat::SnatPorts;
use store::{NetworkRecord, Store};
use uplink::Uplinks;
use view::{Sight, View};

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub(crate) struct DaemonOptions {
    /// Holds the store; made if it is not there.
    pub state_dir: PathBuf,
    /// For information; the socket lies here mostly.
    pub run_dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// Who may use the socket besides root; the group `pontoon`, if there is one, when absent.
    pub group: Option<String>,
    pub uplink: UplinkChoice,
    /// Threads of the switch; as many as suit the machine when absent.
    pub workers: Option<usize>,
    /// How long they look for the next frame awake; as long as suits the machine when absent.
    pub busy_poll: Option<Duration>,
    /// Whether idle CPUs are kept from halting while frames keep coming.
    pub no_halt: bool,
    /// What carries containers' frames unless they ask otherwise; TAP where it works when absent.
    pub port_kind: Option<PortKind>,
    /// Whether new networks have IPv6 unless told otherwise; if the host uses it when absent.
    pub ipv6: Option<bool>,
    /// Where networks without a subnet of their own get one from; those that Docker's users know,
    /// and a prefix of unique local addresses of the daemon's own, for a family without any.
    pub pools: Vec<AddressPool>,
    /// Subnets of the network `bridge`, when it is made; chosen from the pools for a family
    /// without.
    pub bridge_subnets: Vec<IpNet>,
    /// Lower the TCP segment size announced over an uplink to what fits its MTU.
    pub clamp_mss: bool,
    /// Bounds of the connection table.
    pub limits: nat::Limits,
    /// Servers for names that are no container's; those of `resolv_conf` when empty.
    pub dns: Vec<NameServer>,
    /// Followed as it changes.
    pub resolv_conf: PathBuf,
}

/// All that the daemon knows. Its methods block, for milliseconds mostly, and are called on threads
/// for blocking work of the runtime.
struct Daemon {
    switch: Arc<Switch>,
    store: Store,
    kinds: PortKinds,
    /// For containers that ask for none, and for the host's interfaces.
    port_kind: PortKind,
    /// Whether new networks have IPv6 unless told otherwise.
    ipv6: bool,
    /// The IPv6 subnets of networks are cut from this.
    ula: Ipv6Net,
    /// See [`DaemonOptions::pools`].
    pools: Vec<AddressPool>,
    /// Inode of the namespace that the daemon is in.
    netns: u64,
    host: HostState,
    networks: Vec<Network>,
    /// In the order of their attachment.
    containers: Vec<Container>,
    /// Of endpoints and networks that are gone; removed when the change at hand is made.
    remains: Vec<Remains>,
    clearing: Clearing,
    uplinks: Uplinks,
    faults: FaultBook,
    clamp_mss: bool,
    snat: SnatPorts,
    silence: HostSilence,
    /// It was told that no further port for outgoing flows can be held.
    snat_exhausted: bool,
    resolver: NameService,
    next_network: u32,
    last_rule: u32,
    /// Whose each inside address is, for the connections that are kept for the next daemon.
    owners: OwnerBook,
    /// The switch forwards.
    is_up: bool,
    /// Ids of containers that were adopted and whose interfaces have not been looked at.
    unsettled: Vec<String>,
    /// None where the run directory can't have one.
    journal: Option<Journal>,
    /// Takes the ids of containers whose process has ended.
    ends: mpsc::Sender<String>,
    view: watch::Sender<Arc<View>>,
    events: Arc<Events>,
    /// What the next [`Daemon::apply`] tells beyond what has changed in the view.
    news: Vec<ApiEvent>,
}

/// A daemon, and where it hears from.
struct Started {
    daemon: Daemon,
    host: watch::Receiver<HostState>,
    events: mpsc::Receiver<Event>,
    ends: mpsc::Receiver<String>,
}

impl Daemon {
    fn start(
        options: &DaemonOptions,
        (switch, events): (Switch, crossbeam_channel::Receiver<Event>),
    ) -> anyhow::Result<Started> {
        let (store, stored) = Store::load(&options.state_dir)?;
        let ula = ipam::ula_prefix(stored.global_id);
        let (networks, containers) = (stored.networks, stored.containers);

        let runtime = Handle::current();
        let claimed: Vec<String> = networks
            .iter()
            .map(|network| network.host_interface.clone())
            .chain(
                containers
                    .iter()
                    .flat_map(|container| &container.endpoints)
                    .filter_map(|endpoint| endpoint.host_interface.clone()),
            )
            .collect();
        let before = runtime.block_on(host::snapshot(interface::is_ours))?;
        network::remove_strays(&before.links, &claimed);
        // A daemon before this one has tried, in this boot: then not before frames are carried, for
        // the kernel takes its time to remove what was made for it.
        let is_there = |network: &NetworkRecord| {
            let name = &network.host_interface;
            before.links.iter().any(|link| link.name == *name)
        };
        let is_known = !networks.is_empty() && networks.iter().all(is_there);
        let kinds = match is_known {
            true => PortKinds::assumed(),
            false => PortKinds::probe(),
        };
        let port_kind =
            network::choose_kind(&kinds, options.port_kind).map_err(anyhow::Error::msg)?;
        let watched = runtime.block_on(host::watch(interface::is_ours))?;

        let events = forward(events)?;
        let (ends, ended) = mpsc::channel(64);
        let stack = resolver::Stack::create(port_kind, &switch);
        let stack = stack.inspect_err(|error| {
            tracing::warn!("names are the host's to answer, and its firewall's to drop: {error}");
        });
        let resolver = NameService::new(&options.dns, &options.resolv_conf, stack.ok());
        let mut daemon = Daemon {
            switch: Arc::new(switch),
            store,
            kinds,
            port_kind,
            ipv6: options.ipv6.unwrap_or_else(host::uses_ipv6),
            ula,
            pools: options.pools.clone(),
            netns: Netns::current()?.inode(),
            host: watched.borrow().clone(),
            networks: Vec::new(),
            containers: Vec::new(),
            remains: Vec::new(),
            clearing: Clearing::default(),
            uplinks: Uplinks::new(options.uplink.clone()),
            faults: FaultBook::default(),
            clamp_mss: options.clamp_mss,
            snat: SnatPorts::new(),
            silence: HostSilence::default(),
            snat_exhausted: false,
            resolver,
            next_network: 0,
            last_rule: 0,
            owners: OwnerBook::default(),
            is_up: false,
            unsettled: Vec::new(),
            journal: None,
            ends,
            view: watch::Sender::new(Arc::default()),
            events: Arc::new(Events::new()),
            news: Vec::new(),
        };
        daemon.uplinks.follow(&daemon.switch, &daemon.host);
        HostSilence::remove_strays(&daemon.host, daemon.uplinks.all());
        for mut record in networks {
            let id = daemon.new_network_id();
            let name = record.name.clone();
            if !has_ipv6() {
                record = record.without_ipv6();
                if record.subnets.is_empty() {
                    let why = "this kernel has no IPv6";
                    tracing::warn!("network {name} is left out: {why}");
                    let mut lost = event(EventKind::Network, EventAction::Lost, &name);
                    lost.id = Some(record.id);
                    lost.reason = Some(why.to_owned());
                    daemon.news.push(lost);
                    continue;
                }
            }
            let interface = &record.host_interface;
            if !before.links.iter().any(|link| link.name == *interface) {
                tracing::info!("{interface} of network {name} is not there; it is made anew");
                let mut restored = event(EventKind::Interface, EventAction::Restored, interface);
                restored.network = Some(name.clone());
                restored.reason = Some("it had vanished while no daemon ran".to_owned());
                daemon.news.push(restored);
            }
            let network = Network::open(record, id, port_kind, &daemon.switch)
                .with_context(|| format!("can't bring network {name} back"))?;
            daemon.networks.push(network);
        }
        // The first start of all: nothing is there to be taken up before.
        daemon.is_up = daemon.networks.is_empty();
        daemon
            .ensure_bridge(&options.bridge_subnets)
            .context("can't make the network bridge")?;
        let mtus = |network: &Network| (network.record.id.clone(), network.record.mtu);
        let mtus = daemon.networks.iter().map(mtus).collect();
        let workers = daemon.switch.workers();
        let home = Netns::current()?;
        for (record, found) in container::find(containers, workers, &mtus, &home) {
            daemon.adopt(record, found);
        }
        daemon.hold_first_ports();
        // Until now the switch knows no port, and no frame has been forwarded: a packet of a
        // connection that is not restored yet would open another one.
        daemon.restore_connections(&options.run_dir);
        daemon.is_up = true;
        daemon.apply_as(EventAction::Adopted);
        daemon.follow_silence();
        daemon.keep_connections(&options.run_dir);
        if is_known {
            daemon.kinds = PortKinds::probe();
            daemon.port_kind = network::choose_kind(&daemon.kinds, options.port_kind)
                .map_err(anyhow::Error::msg)?;
        }
        let status = (daemon.networks.len(), daemon.containers.len());
        tracing::info!(
            "{} workers, {} ports; {} networks, {} containers",
            daemon.switch.workers(),
            match daemon.port_kind {
                PortKind::Tap => "TAP",
                PortKind::Veth => "veth",
            },
            status.0,
            status.1
        );
        Ok(Started {
            daemon,
            host: watched,
            events,
            ends: ended,
        })
    }

    /// Puts what is known into force: the filters of the uplinks, the switch's description, the
    /// names, and what the API's readers see and its listeners hear.
    ///
    /// Not before the switch forwards: a start does so once, with everything.
    fn apply(&mut self) {
        if self.is_up {
            self.apply_as(EventAction::Created);
        }
    }

    /// The same, with a word for what is new.
    fn apply_as(&mut self, appeared: EventAction) {
        self.resolver.follow(&self.networks, &self.containers);
        let filter = config::filter(&self.networks, &self.containers, &self.snat, &self.host);
        self.silence_host(&filter);
        self.uplinks.set_filter(filter);
        self.owners.follow(&self.containers);
        self.switch.configure(self.describe());
        let uplinks = self.uplinks.all();
        let before = self.view.borrow().clone();
        let sight = Sight {
            networks: &self.networks,
            containers: &self.containers,
            uplinks,
            host: &self.host,
            names: &self.resolver,
            faults: &self.faults,
            host_silence: match self.snat.is_silent() {
                true => HostSilenceKind::Tc,
                false => HostSilenceKind::Sockets,
            },
        };
        let view = View::new(&sight, &before);
        let mut news = std::mem::take(&mut self.news);
        news.extend(between(&before, &view, appeared));
        // Listeners after readers: who hears of a change finds it.
        self.view.send_replace(Arc::new(view));
        self.events.tell(news);
    }

    /// The whole of it, for the switch.
    fn describe(&self) -> switch::config::Config {
        config::build(
            &self.networks,
            &self.containers,
            self.uplinks.all(),
            &self.host,
            &self.faults,
            &self.resolver,
            self.clamp_mss,
        )
    }

    /// Takes up the connections of the daemon before this one: see [`journal`].
    fn restore_connections(&mut self, run_dir: &Path) {
        let Some(records) = journal::load(run_dir, self.netns) else {
            return;
        };
        for (protocol, ports) in nat::external_ports(&records) {
            self.hold_external_ports(protocol, &ports);
        }
        self.resolver.follow(&self.networks, &self.containers);
        self.owners.follow(&self.containers);
        let owners = self.owners.read();
        let switch = Arc::clone(&self.switch);
        let now = switch.now();
        switch.nat().set_rules(now, self.describe().nat);
        let owner = |address: IpAddr| owners.get(&address).copied();
        let epoch = journal::epoch(&switch);
        let restored = switch.nat().restore(now, epoch, &records, owner);
        if restored.kept + restored.dropped() > 0 {
            tracing::info!(
                "{} connections go on; not restored: {restored:?}",
                restored.kept
            );
        }
    }

    /// Keeps a record of all connections for the next daemon.
    fn keep_connections(&mut self, run_dir: &Path) {
        let (switch, owners) = (Arc::clone(&self.switch), self.owners.clone());
        match Journal::start(run_dir, self.netns, switch, owners) {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => tracing::warn!(
                "connections will not outlive a restart: {}: {error}",
                run_dir.display()
            ),
        }
    }

    /// Writes them a last time; the workers forward still.
    fn write_connections(&mut self) {
        if let Some(mut journal) = self.journal.take() {
            journal.close();
        }
    }

    /// Keeps the host's kernel from what is for the switch.
    fn silence_host(&mut self, filter: &UplinkFilter) {
        let ports = silence::ingress_ports(filter, &self.snat, &self.containers);
        self.silence.set(self.uplinks.all(), ports);
    }

    /// External ports need sockets no more, or again. True if they have changed.
    fn follow_silence(&mut self) -> bool {
        // An uplink that is gone may come back: until then nothing is to be silenced.
        if self.uplinks.all().is_empty() {
            return false;
        }
        let before = self.snat.is_silent();
        let change = self.snat.set_silent(self.silence.is_complete());
        // Behind the sockets: one that is not the first any more may still do what it is for.
        self.silence.remove_refused();
        let changed = self.change_external_ports(&change);
        if !changed && self.snat.is_silent() != before {
            self.apply();
        }
        changed
    }

    /// Looks after what changes without news: classifiers that somebody took away, and ports that
    /// processes of the host have bound or given up.
    fn look_after_ports(&mut self) {
        if self.silence.look() {
            self.apply();
            self.follow_silence();
        }
        let change = self.snat.look();
        self.change_external_ports(&change);
    }

    /// True if anything has changed.
    fn change_external_ports(&mut self, change: &snat::Change) -> bool {
        if change.is_empty() {
            return false;
        }
        let (nat, now) = (self.switch.nat(), self.switch.now());
        let ended = snat::withdraw(nat, now, change);
        if ended > 0 {
            tracing::info!("{ended} outgoing flows end, whose ports the host needs");
        }
        self.apply();
        for (protocol, range) in &change.added {
            snat::announce(self.switch.nat(), *protocol, vec![range.clone()]);
        }
        true
    }

    /// The daemon ends. Containers that stay have flows that the next daemon takes up: the host
    /// says nothing of them in between.
    pub(super) fn end_silence(&mut self) {
        let runs = |container: &Container| container.record.status == api::Status::Running;
        if !self.containers.iter().any(runs) {
            self.silence.clear();
        }
    }

    /// The host's links, addresses, routes or neighbours have changed.
    fn follow_host(&mut self, host: HostState) {
        let links = |daemon: &Daemon| -> Vec<_> {
            daemon
                .uplinks
                .all()
                .iter()
                .map(|uplink| uplink.link.clone())
                .collect()
        };
        let surroundings = |daemon: &Daemon| {
            Surroundings::new(&daemon.networks, daemon.uplinks.all(), &daemon.host)
        };
        let (before, surrounded) = (links(self), surroundings(self));
        self.host = host;
        self.silence.retry();
        if self.uplinks.follow(&self.switch, &self.host) {
            self.renew_listeners();
        }
        let published = self.retry_ports();
        // Interfaces of ours come and go all the time, and matter to nobody here.
        let after = links(self);
        let surrounds = surroundings(self);
        if published || after != before || surrounds != surrounded {
            self.note_uplinks(&before, &after);
            // What names mean may depend on the network that the host is in.
            if after != before || !surrounds.is_same_network(&surrounded) {
                self.resolver.forget();
            }
            self.apply();
            self.follow_silence();
        }
    }

    /// What SIGHUP asks for: looks at the host again, past what is followed anyway.
    fn reload(&mut self) {
        tracing::info!("SIGHUP: the host's network and its servers for names are read again");
        self.resolver.forget();
        self.read_host();
    }

    /// Asks for the host's state now: news of what was done just before takes a moment.
    fn read_host(&mut self) {
        match Handle::current().block_on(host::snapshot(interface::is_ours)) {
            Ok(host) => self.follow_host(host),
            Err(error) => tracing::warn!("{error}; what is known of it must do"),
        }
    }

    fn note_uplinks(&mut self, before: &[HostLink], after: &[HostLink]) {
        let interface = |link: &HostLink, action| event(EventKind::Interface, action, &link.name);
        let same = |one: &HostLink, other: &HostLink| one.index == other.index;
        for link in before {
            match after.iter().find(|it| same(it, link)) {
                None => self.news.push(interface(link, EventAction::Removed)),
                Some(now) if now != link => self.news.push(interface(now, EventAction::Changed)),
                Some(_) => {}
            }
        }
        for link in after
            .iter()
            .filter(|link| !before.iter().any(|it| same(it, link)))
        {
            self.news.push(interface(link, EventAction::Created));
        }
    }

    /// The published sockets must not hear what comes in through an uplink.
    fn renew_listeners(&self) {
        let filter = local_only_filter(&self.uplinks.indexes());
        for published in self
            .containers
            .iter()
            .flat_map(|container| &container.published)
        {
            published.renew_filter(&filter);
        }
    }

    /// What the switch has to tell.
    fn handle_event(&mut self, event: Event) {
        match event {
            // The event may have waited while the port was removed and its number given to another.
            Event::PortGone { port, .. } if !self.switch.is_lost(port) => {}
            Event::PortGone { port, error } => self.port_gone(port, &error),
            Event::ExternalPortsLow { protocol } => self.grow_external_ports(protocol),
        }
    }

    fn port_gone(&mut self, port: PortId, error: &str) {
        if let Some((position, at)) = self.find_plug(port) {
            self.endpoint_gone(position, at, error);
        } else if let Some(position) = self.networks.iter().position(|it| it.port == port) {
            self.restore_host_interface(position);
        } else if let Some(position) = self.uplinks.position(port) {
            let name = &self.uplinks.all()[position].link.name;
            tracing::info!("uplink {name} is gone: {error}");
            let mut gone = event(EventKind::Interface, EventAction::Removed, name);
            gone.reason = Some(error.to_owned());
            self.news.push(gone);
            self.uplinks.forget(&self.switch, position);
            self.renew_listeners();
            self.apply();
            self.follow_silence();
        }
    }

    /// Holds more ports for outgoing flows, if those of `protocol` are few: two blocks at least,
    /// and half as many again as there are, so that a burst of new flows rarely outruns the news.
    fn grow_external_ports(&mut self, protocol: nat::Protocol) {
        self.follow_silence();
        let enough = (self.snat.count(protocol) / 2).max(2 * usize::from(snat::BLOCK));
        let mut free = self.switch.nat().external_ports_free(protocol);
        let mut ports = Vec::new();
        let mut failed = None;
        while free < enough && failed.is_none() {
            match self.snat.grow(protocol) {
                Ok(block) if block.is_empty() => break,
                Ok(block) => {
                    free += block.iter().map(ExactSizeIterator::len).sum::<usize>();
                    ports.extend(block);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.have_external_ports(protocol, ports, failed);
    }

    /// Holds the first external ports of this daemon. Without sockets where the uplinks drop what
    /// is for them: if a daemon before this one has seen to that, its program stays until
    /// [`Daemon::apply`] replaces it by one for all ports, so that the host's kernel never answers
    /// in between.
    fn hold_first_ports(&mut self) {
        if !self.silence.take_up(self.uplinks.all()) {
            let filter = config::filter(&self.networks, &self.containers, &self.snat, &self.host);
            self.silence_host(&filter);
        }
        for protocol in [nat::Protocol::TCP, nat::Protocol::UDP] {
            let privileged = self.snat.hold_privileged(protocol);
            self.grow_external_ports(protocol);
            snat::announce(self.switch.nat(), protocol, privileged);
        }
    }

    /// Holds ports that connections of an earlier daemon had.
    fn hold_external_ports(&mut self, protocol: nat::Protocol, wanted: &BTreeSet<u16>) {
        let mut ports = Vec::new();
        let mut failed = None;
        while !self.snat.holds_all(protocol, wanted) && failed.is_none() {
            match self.snat.grow(protocol) {
                Ok(block) if block.is_empty() => break,
                Ok(block) => ports.extend(block),
                Err(error) => failed = Some(error),
            }
        }
        self.have_external_ports(protocol, ports, failed);
    }

    fn have_external_ports(
        &mut self,
        protocol: nat::Protocol,
        ports: Vec<RangeInclusive<u16>>,
        failed: Option<io::Error>,
    ) {
        if !ports.is_empty() {
            // The filter first: an answer that it drops would be lost. Before the first frame it is
            // set anyway.
            if self.is_up {
                self.apply();
            }
            tracing::debug!("outgoing {protocol} flows may use ports {ports:?} too");
            snat::announce(self.switch.nat(), protocol, ports);
        }
        // Told once, and not with every flow that finds no port.
        match failed {
            Some(error) if !self.snat_exhausted => {
                tracing::warn!("no further port for outgoing {protocol} flows: {error}");
                self.snat_exhausted = true;
            }
            Some(_) => {}
            None => self.snat_exhausted = false,
        }
    }

    fn tell_network(&self, id: &str) -> Result<api::Network, Failure> {
        let view = self.view.borrow();
        view.networks()
            .find(|network| network.id == id)
            .map(|network| api::Network::clone(network))
            .ok_or_else(|| Failure::NotFound(format!("network {id} is gone")))
    }

    fn tell_container(&self, id: &str) -> Result<api::Container, Failure> {
        let view = self.view.borrow();
        view.containers()
            .find(|container| container.id == id)
            .map(|container| api::Container::clone(container))
            .ok_or_else(|| Failure::NotFound(format!("container {id} is gone")))
    }
}

/// Carries the switch's events from its channel, which blocks, to one that the runtime can wait on.
fn forward(events: crossbeam_channel::Receiver<Event>) -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(64);
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || {
            // Ends with the switch or with the daemon.
            while let Ok(event) = events.recv() {
                if sender.blocking_send(event).is_err() {
                    break;
                }
            }
        })?;
    Ok(receiver)
}

/// Tells a shared record from every other one while it lives, and from itself as it was before a
/// change: who changes it copies it.
fn identity<T>(record: &Arc<T>) -> usize {
    Arc::as_ptr(record).addr()
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
