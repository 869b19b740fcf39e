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
mod turns;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use nat::Time;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use self::balance::Balance;
use self::turns::{Turn, Turns};
use self::watch::Watch;
use crate::config::PortId;
use crate::datapath::Datapath;
use crate::io::{NoHalt, Poller, Sleeper, Waker, set_cpu_turn};
use crate::patience::Patience;
use crate::port::Port;
use crate::worker::{Carried, Worker};

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
    work: Mutex<Work>,
    /// Nanoseconds that threads were busy with it since the start, but for what could have waited.
    busy: AtomicU64,
    /// When the worker has a frame to carry on that was held back, or a port has rested, in
    /// nanoseconds.
    due: AtomicU64,
}

/// What one thread at a time does for a lane.
struct Work {
    worker: Worker,
    turns: Turns,
}

/// What a look at a lane found.
#[derive(Clone, Copy, Default)]
struct Found {
    frames: usize,
    /// Frames carried besides, because nothing else was to be done.
    meanwhile: usize,
}

/// How a thread looks at a lane.
#[derive(Clone, Copy)]
struct Look {
    /// It polls, and would look again at once.
    awake: bool,
    /// Nobody else wants its CPU, and frames are not about to come.
    idle: bool,
}

/// The turns on a CPU that a thread asks for: the shortest there are.
const CPU_TURN: Duration = Duration::from_micros(100);
/// How long after frames the next ones of a conversation come: both ends answer within it.
const A_WHILE: Duration = Duration::from_micros(25);
/// A CPU that a thread gave up was wanted by nobody if it is back so soon.
const NOBODY_ELSE: Duration = Duration::from_micros(5);

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
        let light = Arc::default();
        let lane = |index| {
            Ok(CachePadded::new(Lane {
                poller: Poller::new()?,
                work: Mutex::new(Work {
                    worker: Worker::new(Arc::clone(datapath), index),
                    turns: Turns::new(Arc::clone(&light)),
                }),
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
        // A wish: without it a thread that wakes for a frame may wait for a process that never
        // sleeps, for a whole tick (4 ms).
        let _ = set_cpu_turn(CPU_TURN.as_nanos() as u64);
        let mut ready = Vec::new();
        let mut sleeper = Sleeper::default();
        let mut patience = Patience::new(self.busy_poll);
        let mut watches = vec![Watch::default(); self.lanes.len()];
        let mut now = self.now();
        let mut idle = false;
        let mut last = now;
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
            let mut found = Found::default();
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
                let idle = idle && now - last >= A_WHILE;
                let clock = || self.now();
                let here = lane.serve(now, clock, watch, &mut ready, Look { awake, idle });
                if here.frames + here.meanwhile > 0 {
                    let after = self.now();
                    if here.frames > 0 {
                        lane.busy
                            .fetch_add((after - now).as_nanos() as u64, Ordering::Relaxed);
                    }
                    now = after;
                    found.frames += here.frames;
                    found.meanwhile += here.meanwhile;
                }
            }
            thread.rounds.fetch_add(1, Ordering::Relaxed);
            if found.frames > 0 {
                last = now;
                patience.saw_frames(now);
                if patience.is_awake()
                    && let Some(no_halt) = &mut no_halt
                {
                    no_halt.hold(true);
                }
                self.balance(now);
            } else if awake {
                thread.in_vain.fetch_add(1, Ordering::Relaxed);
                if found.meanwhile > 0 {
                    patience.was_busy(now);
                }
                now = self.now();
                patience.saw_nothing(now);
                // Whom the last frame woke may be waiting for this very CPU: the scheduler likes
                // to keep those together who wake each other.
                std::thread::yield_now();
                let before = now;
                now = self.now();
                idle = now - before < NOBODY_ELSE;
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
    /// Carries what waits, a turn of each port at the most.
    fn serve(
        &self,
        now: Time,
        clock: impl Fn() -> Time,
        watch: &mut Watch,
        ready: &mut Vec<u64>,
        look: Look,
    ) -> Found {
        let mut work = self.work.lock();
        let Work { worker, turns } = &mut *work;
        watch.look();
        turns.look();
        let mut resumed = false;
        while let Some(port) = turns.rested(now) {
            resumed = true;
            self.listen(worker, port, true);
        }
        if resumed || !(look.awake && watch.guess(ready)) {
            if let Err(error) = self.poller.wait(ready, Some(Duration::ZERO)) {
                panic!("{error}");
            }
            watch.learn(ready);
        }
        let mut found = Found::default();
        if worker.due().is_some_and(|due| due <= now) {
            found.frames += worker.release(now);
        }
        let (mut at, alone) = (now, ready.len() == 1);
        for &port in &*ready {
            let port = PortId(port as u32);
            let asked = turns.grant(at, port, watch.appetite(port), alone);
            if asked == 0 {
                continue;
            }
            let Some((carried, turn)) = self.turn(worker, turns, port, asked, &mut at, &clock)
            else {
                continue;
            };
            if carried.frames > 0 {
                watch.saw(port);
                found.frames += carried.frames;
            }
            let turn = Turn {
                peers: worker.peers(),
                ..turn
            };
            let mut rest = turns.charge(at, port, &turn);
            if let Some(until) = carried.closed_until {
                rest = Some(turns.rest(port, until));
            }
            if rest.is_some() {
                self.listen(worker, port, false);
            }
        }
        if found.frames == 0
            && look.awake
            && look.idle
            && let Some((port, asked)) = turns.meanwhile()
            && let Some((carried, turn)) = self.turn(worker, turns, port, asked, &mut at, &clock)
        {
            found.meanwhile = carried.frames;
            turns.charge_meanwhile(port, &turn);
        }
        watch.found(found.frames);
        let dues = [worker.due(), turns.due()];
        let due = dues.into_iter().flatten().min();
        self.due
            .store(due.map_or(NEVER, Time::as_nanos), Ordering::Relaxed);
        found
    }

    /// Carries so many frames of a port, and moves the time on. None if the port is gone.
    fn turn(
        &self,
        worker: &mut Worker,
        turns: &Turns,
        port: PortId,
        asked: usize,
        at: &mut Time,
        clock: impl Fn() -> Time,
    ) -> Option<(Carried, Turn<'static>)> {
        let before = turns.is_suspect(port).then(cpu_time);
        let carried = match worker.poll_some(*at, port, asked) {
            Ok(carried) => carried,
            Err(lost) => {
                // Fails when the control plane has just removed the port: as good.
                let _ = self.poller.remove(worker.queue(&lost.port).fd());
                worker.tell_of(&lost);
                return None;
            }
        };
        let after = clock();
        let turn = Turn {
            asked,
            frames: carried.frames,
            bytes: carried.bytes,
            took: after - *at,
            cpu: before.map(|before| cpu_time().saturating_sub(before)),
            peers: &[],
            shared: carried.shared,
        };
        *at = after;
        Some((carried, turn))
    }

    /// Whether the poller is to report frames of a port.
    fn listen(&self, worker: &Worker, port: PortId, listen: bool) {
        worker.with_queue(port, |queue| {
            let (fd, token) = (queue.fd(), u64::from(port.0));
            // Fails when the control plane has just removed the port: as good.
            let _ = match listen {
                true => self.poller.resume(fd, token),
                false => self.poller.pause(fd, token),
            };
        });
    }
}

/// How long this thread had a CPU so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    Duration::from(time.unwrap_or(TimeSpec::new(0, 0)))
}

impl Lane {
    /// Whether a frame that was held back is to go on.
    fn is_due(&self, now: Time) -> bool {
        now.as_nanos() >= self.due.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
