//! The switch as a whole: a data path, its workers' threads, and one that keeps house.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nat::{Nat, Time};
use parking_lot::Mutex;

use crate::config::{Config, NetworkId, PortId};
use crate::crew::Crew;
use crate::datapath::{Counters, Datapath, Event, FdbRow};
use crate::fdb::FdbStats;
use crate::io::{NoHalt, Queue};
use crate::multicast::groups::Row as GroupRow;
use crate::port::Port;

/// What a switch is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that may carry frames, and queues of every port; at least one. As many of them work
    /// as the load needs.
    pub workers: usize,
    /// How long a thread looks for the next frame awake before it sleeps. Zero: never.
    pub busy_poll: Duration,
    /// Whether idle CPUs are kept from halting while frames keep coming: the shortest round trips,
    /// at the price of power.
    pub no_halt: bool,
    pub limits: nat::Limits,
    /// Makes external ports and hashes unpredictable. A simulation chooses it.
    pub seed: u64,
}

impl Default for Settings {
    /// Two workers or one a CPU; busy polling except on a single CPU, where it would only keep the
    /// frame's maker from making it.
    fn default() -> Settings {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Settings {
            workers: cpus.clamp(2, 16),
            busy_poll: if cpus > 1 {
                Duration::from_micros(50)
            } else {
                Duration::ZERO
            },
            no_halt: false,
            limits: nat::Limits::default(),
            seed: random_seed(),
        }
    }
}

/// How often connections and learned addresses are looked at for expiry.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// See the module's description. Dropping it stops the threads; interfaces stay as they are.
pub struct Switch {
    datapath: Arc<Datapath>,
    crew: Arc<Crew>,
    /// Ports that were added before the first configuration. Their frames wait in the kernel until
    /// it is in force; None from then on.
    waiting: Mutex<Option<Vec<PortId>>>,
    /// Dropped to tell the housekeeper.
    alive: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Switch {
    /// Starts the threads. The receiver gets what the control plane should know.
    pub fn start(settings: Settings) -> io::Result<(Switch, Receiver<Event>)> {
        let settings = Settings {
            workers: settings.workers.max(1),
            ..settings
        };
        let (datapath, events) = Datapath::new(&settings);
        datapath.silence_host();
        let (alive, sleep) = crossbeam_channel::bounded::<()>(0);
        let mut switch = Switch {
            crew: Arc::new(Crew::new(&datapath, settings.busy_poll)?),
            datapath,
            waiting: Mutex::new(Some(Vec::new())),
            alive: Some(alive),
            threads: Vec::with_capacity(settings.workers + 1),
        };
        for index in 0..settings.workers {
            let crew = Arc::clone(&switch.crew);
            let no_halt = settings.no_halt.then(NoHalt::new).transpose()?;
            switch.spawn(format!("worker-{index}"), move || {
                crew.serve(index, no_halt);
            })?;
        }
        let (datapath, crew) = (Arc::clone(&switch.datapath), Arc::clone(&switch.crew));
        switch.spawn("housekeeper".to_owned(), move || {
            while sleep.recv_timeout(HOUSEKEEPING) == Err(RecvTimeoutError::Timeout) {
                datapath.tick(crew.now());
            }
        })?;
        Ok((switch, events))
    }

    /// How many queues every port must have: one for each thread that may work.
    pub fn workers(&self) -> usize {
        self.datapath.workers()
    }

    /// Adds a port and starts to read it, but not before the switch is configured for the first
    /// time. Its frames are dropped until a configuration names it.
    pub fn add_port(&self, queues: Vec<Queue>) -> io::Result<PortId> {
        let id = self.datapath.add_port(queues)?;
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.push(id),
            None => self.attach(id)?,
        }
        Ok(id)
    }

    fn attach(&self, id: PortId) -> io::Result<()> {
        let topology = self.datapath.topology();
        let Some(port) = topology.port(id) else {
            return Ok(());
        };
        let attached = self.crew.attach(port);
        if attached.is_err() {
            self.remove_port(id);
        }
        attached
    }

    /// Takes a port away. Its queues close with the value returned, unless a worker uses them still;
    /// the kernel takes some 20 ms for that, so mind the thread.
    pub fn remove_port(&self, id: PortId) -> Option<Arc<Port>> {
        let port = Arc::clone(self.datapath.topology().port(id)?);
        self.crew.detach(&port);
        self.datapath.remove_port(id);
        Some(port)
    }

    /// Whether the TAP device of a port outlives this process, in whatever namespace the device is
    /// by now. A port of another kind has none, and nothing is done.
    ///
    /// # Errors
    /// The device is gone (EBADFD).
    pub fn set_persist(&self, id: PortId, persist: bool) -> io::Result<()> {
        let topology = self.datapath.topology();
        match topology.port(id).map(|port| port.queue(0)) {
            // One flag of the device, not of the queue.
            Some(Queue::Tap(queue)) => queue.set_persist(persist),
            _ => Ok(()),
        }
    }

    /// Whether the port that has this number now is gone. An [`Event::PortGone`] may tell of the one
    /// that had it before.
    pub fn is_lost(&self, id: PortId) -> bool {
        self.datapath
            .topology()
            .port(id)
            .is_some_and(|port| port.is_lost())
    }

    /// Lets go of ports of SCTP that are held for associations out to the world, for whoever wants to
    /// publish them to hold them instead.
    pub fn release_sctp(&self, ports: &RangeInclusive<u16>) {
        self.datapath.release_sctp(ports);
    }

    /// Puts a new description of the world in force, whole.
    pub fn configure(&self, config: Config) {
        self.datapath.configure(self.now(), config);
        for port in self.waiting.lock().take().into_iter().flatten() {
            if let Err(error) = self.attach(port) {
                tracing::error!("port {port} carries nothing: {error}");
            }
        }
    }

    pub fn nat(&self) -> &Nat {
        self.datapath.nat()
    }

    /// The time all of the data path lives by: since the switch started.
    pub fn now(&self) -> Time {
        self.crew.now()
    }

    pub fn fdb(&self) -> Vec<FdbRow> {
        self.datapath.fdb(self.now())
    }

    pub fn groups(&self) -> Vec<(NetworkId, GroupRow)> {
        self.datapath.groups(self.now())
    }

    pub fn fdb_stats(&self) -> Vec<(NetworkId, FdbStats)> {
        self.datapath.fdb_stats()
    }

    pub fn counters(&self) -> Counters {
        self.datapath.counters()
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name).spawn(move || {
            let alarm = Alarm;
            work();
            std::mem::forget(alarm);
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.crew.dismiss();
        self.alive = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A switch that lost a worker would silently carry half its flows: end the process loudly
/// instead. Interfaces persist, and the next daemon adopts them.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        tracing::error!(
            "thread {} of the switch died; stopping the process",
            thread::current().name().unwrap_or("?")
        );
        std::process::abort();
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
