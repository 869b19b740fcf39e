//! The switch as a whole: a data path, its workers' threads, and one that keeps house.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nat::{Nat, Time};

use crate::config::{Config, NetworkId, PortId};
use crate::datapath::{Counters, Datapath, Event, FdbRow};
use crate::fdb::FdbStats;
use crate::io::{Poller, Queue, Waker};
use crate::worker::{self, Worker};

/// What a switch is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that carry frames, each with a queue of every port; at least one.
    pub workers: usize,
    /// How long a worker looks for the next frame awake before it sleeps. Zero: never.
    pub busy_poll: Duration,
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
    pollers: Arc<Vec<Poller>>,
    epoch: Instant,
    /// Each tells one worker to stop.
    stop: Vec<Waker>,
    /// Dropped to tell the housekeeper.
    alive: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Switch {
    /// Starts the workers. The receiver gets what the control plane should know.
    pub fn start(settings: Settings) -> io::Result<(Switch, Receiver<Event>)> {
        let workers = settings.workers.max(1);
        let settings = Settings {
            workers,
            ..settings
        };
        let (datapath, events) = Datapath::new(&settings);
        let pollers = (0..workers)
            .map(|_| Poller::new())
            .collect::<io::Result<Vec<_>>>()?;
        let stop = pollers
            .iter()
            .map(|poller| Waker::new(poller, worker::STOP));
        let (alive, sleep) = crossbeam_channel::bounded::<()>(0);
        let mut switch = Switch {
            datapath,
            stop: stop.collect::<io::Result<_>>()?,
            pollers: Arc::new(pollers),
            epoch: Instant::now(),
            alive: Some(alive),
            threads: Vec::with_capacity(workers + 1),
        };
        for index in 0..workers {
            let worker = Worker::new(Arc::clone(&switch.datapath), index);
            let pollers = Arc::clone(&switch.pollers);
            let (epoch, busy_poll) = (switch.epoch, settings.busy_poll);
            switch.spawn(format!("worker-{index}"), move || {
                worker::run(worker, &pollers[index], epoch, busy_poll);
            })?;
        }
        let (datapath, epoch) = (Arc::clone(&switch.datapath), switch.epoch);
        switch.spawn("housekeeper".to_owned(), move || {
            while sleep.recv_timeout(HOUSEKEEPING) == Err(RecvTimeoutError::Timeout) {
                datapath.tick(since(epoch));
            }
        })?;
        Ok((switch, events))
    }

    /// How many queues every port must have: one a worker.
    pub fn workers(&self) -> usize {
        self.datapath.workers()
    }

    /// Adds a port and starts to read it. Its frames are dropped until a configuration names it.
    pub fn add_port(&self, queues: Vec<Queue>) -> io::Result<PortId> {
        let id = self.datapath.add_port(queues)?;
        let topology = self.datapath.topology();
        let port = topology.port(id).expect("added above");
        for (poller, queue) in self.pollers.iter().zip(port.queues()) {
            if let Err(error) = poller.add(queue.fd(), u64::from(id.0)) {
                self.remove_port(id);
                return Err(error);
            }
        }
        Ok(id)
    }

    /// Takes a port away. Its queues close once no worker uses them.
    pub fn remove_port(&self, id: PortId) {
        let topology = self.datapath.topology();
        let Some(port) = topology.port(id) else {
            return;
        };
        for (poller, queue) in self.pollers.iter().zip(port.queues()) {
            // Fails when a worker found the port gone and stopped listening: as good.
            let _ = poller.remove(queue.fd());
        }
        self.datapath.remove_port(id);
    }

    /// Whether the port that has this number now is gone. An [`Event::PortGone`] may tell of the one
    /// that had it before.
    pub fn is_lost(&self, id: PortId) -> bool {
        self.datapath
            .topology()
            .port(id)
            .is_some_and(|port| port.is_lost())
    }

    /// Puts a new description of the world in force, whole.
    pub fn configure(&self, config: Config) {
        self.datapath.configure(self.now(), config);
    }

    pub fn nat(&self) -> &Nat {
        self.datapath.nat()
    }

    /// The time all of the data path lives by: since the switch started.
    pub fn now(&self) -> Time {
        since(self.epoch)
    }

    pub fn fdb(&self) -> Vec<FdbRow> {
        self.datapath.fdb(self.now())
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
        self.stop.iter().for_each(Waker::wake);
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

fn since(epoch: Instant) -> Time {
    Time::from_nanos(epoch.elapsed().as_nanos() as u64)
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
