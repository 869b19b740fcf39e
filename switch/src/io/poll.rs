//! Waiting for queues: a thread looks here for frames, and sleeps here when none came for a while.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::context;

/// Descriptors reported by one wait at most; the others are reported by the next.
const EVENTS: usize = 64;

/// A set of descriptors, each with a token of the caller's, and the wait for one to be readable.
/// Level-triggered: a descriptor is reported as long as something waits, is wrong, or has ended.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new() -> io::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|error| context("make an epoll set", error))?;
        Ok(Poller { epoll })
    }

    /// Adds a descriptor, to be reported as `token`.
    ///
    /// # Errors
    ///
    /// The descriptor is in the set already, or `fs.epoll.max_user_watches` is reached.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
            .map_err(|error| context("add to an epoll set", error))
    }

    /// Reports a descriptor of the set no more, until it is added to it again by
    /// [`resume`](Poller::resume); but for one that is wrong or has ended.
    ///
    /// # Errors
    ///
    /// The descriptor is not in the set.
    pub(crate) fn pause(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.modify(fd, EpollEvent::new(EpollFlags::empty(), token))
    }

    /// Reports a descriptor again.
    ///
    /// # Errors
    ///
    /// The descriptor is not in the set.
    pub(crate) fn resume(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.modify(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
    }

    fn modify(&self, fd: BorrowedFd<'_>, mut event: EpollEvent) -> io::Result<()> {
        self.epoll
            .modify(fd, &mut event)
            .map_err(|error| context("change an epoll set", error))
    }

    /// Removes a descriptor. Closing it removes it too, unless it was duplicated.
    ///
    /// # Errors
    ///
    /// The descriptor is not in the set.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll
            .delete(fd)
            .map_err(|error| context("remove from an epoll set", error))
    }

    /// Waits until a descriptor is ready or `timeout` has passed, rounded up to milliseconds; for
    /// ever without one. Replaces the contents of `ready` by the tokens, none after a timeout or a
    /// signal.
    ///
    /// # Errors
    ///
    /// None that a caller can cause.
    pub fn wait(&self, ready: &mut Vec<u64>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded down, a wait of 0.9 ms would be a busy loop.
            Some(timeout) => i32::try_from(timeout.as_nanos().div_ceil(1_000_000))
                .ok()
                .and_then(|milliseconds| EpollTimeout::try_from(milliseconds).ok())
                .unwrap_or(EpollTimeout::MAX),
        };
        ready.clear();
        let mut events = [EpollEvent::empty(); EVENTS];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => ready.extend(events[..count].iter().map(|event| event.data())),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(context("wait for an epoll set", error)),
        }
        Ok(())
    }
}

impl AsFd for Poller {
    /// Readable while [`wait`](Poller::wait) would report something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// Wakes the one thread that sleeps on it, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Waker> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|error| context("eventfd of a waker", error))?;
        Ok(Waker {
            event: Arc::new(event),
        })
    }

    /// Ends the sleep on it, the present one or the next.
    pub(crate) fn wake(&self) {
        // Fails only when the counter would overflow, and then a wake-up is pending already.
        self.event.write(1).ok();
    }
}

/// A thread's sleep on several pollers. It keeps its room, so that going to sleep allocates nothing.
#[derive(Default)]
pub(crate) struct Sleeper<'a> {
    /// The waker's descriptor, then those of the pollers.
    watched: Vec<PollFd<'a>>,
}

impl<'a> Sleeper<'a> {
    /// Sleeps until one of `pollers` has something to report, `waker` wakes or `limit` has passed;
    /// the wake-ups so far are taken back. False when it was the time. It may end for no reason.
    ///
    /// # Panics
    ///
    /// Never for a reason that the caller can cause.
    pub(crate) fn sleep(
        &mut self,
        waker: &'a Waker,
        pollers: impl Iterator<Item = &'a Poller>,
        limit: Option<Duration>,
    ) -> bool {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        self.watched.clear();
        self.watched.push(watch(waker.event.as_fd()));
        self.watched
            .extend(pollers.map(|poller| watch(poller.as_fd())));
        // Milliseconds, as poll(2) counts, would let a limited link lie idle.
        let woken = match ppoll(&mut self.watched, limit.map(TimeSpec::from), None) {
            Ok(ready) => ready > 0,
            Err(Errno::EINTR) => true,
            Err(error) => panic!("sleep on {} descriptors: {error}", self.watched.len()),
        };
        if self.watched[0].any() == Some(true) {
            waker.event.read().ok();
        }
        woken
    }

    /// Whether the `place`th poller ended the sleep.
    pub(crate) fn is_ready(&self, place: usize) -> bool {
        self.watched
            .get(place + 1)
            .is_some_and(|watched| watched.any() == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_times_out() {
        let (poller, mut ready) = (Poller::new().unwrap(), vec![1, 2]);
        let before = Instant::now();
        poller
            .wait(&mut ready, Some(Duration::from_micros(1500)))
            .unwrap();
        assert!(ready.is_empty() && before.elapsed() >= Duration::from_micros(1500));
    }

    #[test]
    fn a_sleep_ends_by_a_poller_or_by_the_waker() {
        let waker = Waker::new().unwrap();
        let pollers = [Poller::new().unwrap(), Poller::new().unwrap()];
        let events = [0, 1].map(|_| EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        for (poller, event) in pollers.iter().zip(&events) {
            poller.add(event.as_fd(), 7).unwrap();
        }
        let mut sleeper = Sleeper::default();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        sleeper.sleep(&waker, pollers.iter(), None);
        assert!(!sleeper.is_ready(0) && !sleeper.is_ready(1));
        thread.join().unwrap();

        events[1].write(1).unwrap();
        sleeper.sleep(&waker, pollers.iter(), None);
        assert!(!sleeper.is_ready(0) && sleeper.is_ready(1));
        let mut ready = Vec::new();
        pollers[1].wait(&mut ready, Some(Duration::MAX)).unwrap();
        assert_eq!(ready, [7]);

        events[1].read().unwrap();
        let (limit, before) = (Duration::from_micros(500), Instant::now());
        assert!(!sleeper.sleep(&waker, pollers.iter(), Some(limit)));
        assert!(before.elapsed() >= limit, "all is quiet");
        waker.wake();
        waker.wake();
        sleeper.sleep(&waker, pollers[1..].iter(), None);
        assert!(!sleeper.is_ready(0) && !sleeper.is_ready(1));
    }
}
