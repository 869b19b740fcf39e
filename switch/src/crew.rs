//! The threads that carry frames, and how many of them work.
//!
//! Lane `k` is the `k`th queue of every port, with the [`Worker`] that carries its frames. The
//! kernel hands a flow and its answers to one lane, so a lane may be served by any thread, by one
//! at a time, and the frames of a flow keep their order.
//!
//! One thread serves all lanes while it keeps up. Two that take turns at a conversation let each
//! other's CPU fall idle and wake it again for every frame, which costs more than all the
//! forwarding; one that serves both ends is awake already. When it is saturated by several lanes,
//! they are dealt to one thread more; when fewer threads would do, to fewer.
//!
//! A deal is one number: of `n` threads at work, the `i`th serves the lanes `k` with `k % n == i`.
//! So dealing costs nothing per port. A thread holds a lane for the length of a vector, so one that
//! has not yet heard of a new deal and one that has do no harm to each other.

mod balance;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use nat::Time;
use parking_lot::Mutex;

use self::balance::Balance;
use self::watch::Watch;
use crate::config::PortId;
use crate::datapath::Datapath;
use crate::io::{NoHalt, Poller, Sleeper, Waker};
use crate::patience::Patience;
use crate::port::Port;
use crate::worker::Worker;

/// How long after the last frame CPUs are let halt again.
const LET_HALT_AFTER: Duration = Duration::from_millis(10);

/// [`Crew::active`] when all threads are to end.
const NONE: usize = 0;

/// See the module's description.
pub(crate) struct Crew {
    lanes: Vec<CachePadded<Lane>>,
    threads: Vec<CachePadded<Thread>>,
    /// Threads at work.
    active: CachePadded<AtomicUsize>,
    /// When to look at the load next, in nanoseconds.
    balance_due: CachePadded<AtomicU64>,
    balance: Mutex<Balance>,
    epoch: Instant,
    busy_poll: Duration,
}

struct Lane {
    poller: Poller,
    worker: Mutex<Worker>,
    /// Nanoseconds that threads were busy with it since the start.
    busy: AtomicU64,
    /// When the worker has a frame to carry on that was held back, in nanoseconds.
    due: AtomicU64,
}

/// [`Lane::due`] when no frame is held back.
const NEVER: u64 = u64::MAX;

struct Thread {
    waker: Waker,
    /// Rounds since the start, and those of them that found no frame.
    rounds: AtomicU64,
    in_vain: AtomicU64,
}

impl Crew {
    /// A crew of a thread a lane, as many as `datapath` has workers, of which one is at work.
    /// Threads look for the next frame awake for `busy_poll` at the most.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub(crate) fn new(datapath: &Arc<Datapath>, busy_poll: Duration) -> io::Result<Crew> {
        let lane = |index| {
            Ok(CachePadded::new(Lane {
                poller: Poller::new()?,
                worker: Mutex::new(Worker::new(Arc::clone(datapath), index)),
                busy: AtomicU64::new(0),
                due: AtomicU64::new(NEVER),
            }))
        };
        let lanes = (0..datapath.workers())
            .map(lane)
            .collect::<io::Result<Vec<_>>>()?;
        let thread = |_| {
            Ok(CachePadded::new(Thread {
                waker: Waker::new()?,
                rounds: AtomicU64::new(0),
                in_vain: AtomicU64::new(0),
            }))
        };
        Ok(Crew {
            threads: lanes.iter().map(thread).collect::<io::Result<_>>()?,
            active: CachePadded::new(AtomicUsize::new(1)),
            balance_due: CachePadded::default(),
            balance: Mutex::new(Balance::new(lanes.len())),
            lanes,
            epoch: Instant::now(),
            busy_poll,
        })
    }

    /// The time all of the data path lives by: since the crew was called together.
    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.epoch.elapsed().as_nanos() as u64)
    }

    /// How many threads are at work.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Has the queues of `port` served, each in its lane.
    ///
    /// # Errors
    ///
    /// The kernel refuses to watch one of them; the others are then to be taken out again.
    pub(crate) fn attach(&self, port: &Port) -> io::Result<()> {
        let token = u64::from(port.id.0);
        let mut queues = self.lanes.iter().zip(port.queues());
        queues.try_for_each(|(lane, queue)| lane.poller.add(queue.fd(), token))
    }

    /// Takes the queues of `port` out.
    pub(crate) fn detach(&self, port: &Port) {
        for (lane, queue) in self.lanes.iter().zip(port.queues()) {
            // Fails when a thread found the port gone and stopped listening: as good.
            let _ = lane.poller.remove(queue.fd());
        }
    }

    /// Tells all threads to end.
    pub(crate) fn dismiss(&self) {
        self.deal(NONE);
    }

    /// Serves as thread `me` until the crew is dismissed. While it polls, and a little longer, idle
    /// CPUs are kept from halting if there is a `no_halt`.
    pub(crate) fn serve(&self, me: usize, mut no_halt: Option<NoHalt>) {
        let thread = &self.threads[me];
        let mut ready = Vec::new();
        let mut sleeper = Sleeper::default();
        let mut patience = Patience::new(self.busy_poll);
        let mut watches = vec![Watch::default(); self.lanes.len()];
        let mut now = self.now();
        for round in 0usize.. {
            let active = self.active();
            if active == NONE {
                return;
            }
            let awake = patience.is_awake();
            if !awake {
                let pollers = self
                    .lanes_of(me, active)
                    .map(|lane| &self.lanes[lane].poller);
                let due = self.until_due(self.lanes_of(me, active));
                let held = no_halt.as_mut().filter(|no_halt| no_halt.is_held());
                let halt = held.is_some().then_some(LET_HALT_AFTER);
                let limit = due.into_iter().chain(halt).min();
                if !sleeper.sleep(&thread.waker, pollers, limit)
                    && let Some(held) = held
                    && limit == halt
                {
                    held.hold(false);
                }
                now = self.now();
            }
            let mut came = false;
            for (place, lane) in self.lanes_of(me, active).enumerate() {
                let watch = &mut watches[lane];
                let look = if awake {
                    !watch.is_quiet() || (round + lane).is_multiple_of(watch::NOW_AND_THEN)
                } else {
                    sleeper.is_ready(place)
                };
                let lane = &self.lanes[lane];
                if !look && !lane.is_due(now) {
                    continue;
                }
                if lane.serve(now, watch, &mut ready, awake) {
                    let after = self.now();
                    lane.busy
                        .fetch_add((after - now).as_nanos() as u64, Ordering::Relaxed);
                    now = after;
                    came = true;
                }
            }
            thread.rounds.fetch_add(1, Ordering::Relaxed);
            if came {
                patience.saw_frames(now);
                if patience.is_awake()
                    && let Some(no_halt) = &mut no_halt
                {
                    no_halt.hold(true);
                }
                self.balance(now);
            } else if awake {
                thread.in_vain.fetch_add(1, Ordering::Relaxed);
                now = self.now();
                patience.saw_nothing(now);
                // Whom the last frame woke may be waiting for this very CPU: the scheduler likes
                // to keep those together who wake each other.
                std::thread::yield_now();
                now = self.now();
            }
        }
    }

    /// The lanes that fall to thread `me` when so many are at work.
    fn lanes_of(&self, me: usize, active: usize) -> impl Iterator<Item = usize> + use<> {
        let end = if me < active { self.lanes.len() } else { me };
        (me..end).step_by(active)
    }

    /// How long a thread that serves these lanes may sleep; for ever if no frame is held back.
    fn until_due(&self, lanes: impl Iterator<Item = usize>) -> Option<Duration> {
        let dues = lanes.map(|lane| self.lanes[lane].due.load(Ordering::Relaxed));
        let due = dues.min().filter(|&due| due != NEVER)?;
        Some(Time::from_nanos(due) - self.now())
    }

    /// Looks at the load when it is time to, and deals the lanes anew if need be.
    fn balance(&self, now: Time) {
        if now.as_nanos() < self.balance_due.load(Ordering::Relaxed) {
            return;
        }
        // Whoever holds it does what is to be done.
        let Some(mut balance) = self.balance.try_lock() else {
            return;
        };
        let due = now + balance::WINDOW;
        self.balance_due.store(due.as_nanos(), Ordering::Relaxed);
        let active = self.active();
        let wanted = balance.threads(now, self, active);
        if wanted != active {
            self.deal(wanted);
        }
    }

    fn deal(&self, active: usize) {
        // Not to be undone by a thread that is about to deal when the crew is dismissed.
        let dealt = self
            .active
            .fetch_update(Ordering::Release, Ordering::Relaxed, |before| {
                (before != NONE).then_some(active)
            });
        if dealt.is_ok() {
            self.threads.iter().for_each(|thread| thread.waker.wake());
        }
    }
}

impl Lane {
    /// Carries what waits, a vector of each port at the most; false when nothing did.
    fn serve(&self, now: Time, watch: &mut Watch, ready: &mut Vec<u64>, awake: bool) -> bool {
        watch.look();
        if !(awake && watch.guess(ready)) {
            if let Err(error) = self.poller.wait(ready, Some(Duration::ZERO)) {
                panic!("{error}");
            }
            watch.learn(ready);
        }
        let mut frames = 0;
        if self.is_due(now) {
            let mut worker = self.worker.lock();
            frames += worker.release(now);
            self.note_due(&worker);
        }
        for &port in &*ready {
            let port = PortId(port as u32);
            let appetite = watch.appetite(port);
            let mut worker = self.worker.lock();
            match worker.poll_some(now, port, appetite) {
                Ok(0) => {}
                Ok(received) => {
                    watch.saw(port);
                    frames += received;
                }
                Err(lost) => {
                    // Fails when the control plane has just removed the port: as good.
                    let _ = self.poller.remove(worker.queue(&lost.port).fd());
                    worker.tell_of(&lost);
                }
            }
            self.note_due(&worker);
        }
        watch.found(frames > 0);
        frames > 0
    }
}

impl Lane {
    /// Whether a frame that was held back is to go on.
    fn is_due(&self, now: Time) -> bool {
        now.as_nanos() >= self.due.load(Ordering::Relaxed)
    }

    fn note_due(&self, worker: &Worker) {
        let due = worker.due().map_or(NEVER, Time::as_nanos);
        self.due.store(due, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
