//! Waiting for queues: a worker sleeps here when no frame came for a while.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

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

/// Wakes the worker that waits for it, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// A waker that `poller` reports as `token`.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(poller: &Poller, token: u64) -> io::Result<Waker> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|error| context("eventfd of a waker", error))?;
        poller.add(std::os::fd::AsFd::as_fd(&event), token)?;
        Ok(Waker {
            event: Arc::new(event),
        })
    }

    /// Makes the poller report the token, now or at its next wait.
    pub fn wake(&self) {
        // Fails only when the counter would overflow, and then a wake-up is pending already.
        self.event.write(1).ok();
    }

    /// Takes back the wake-ups so far; call it when the token is reported, before looking at what
    /// it announces.
    pub fn reset(&self) {
        self.event.read().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn wakes_and_times_out() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new(&poller, 3).unwrap();
        let mut ready = vec![1, 2];
        let before = Instant::now();
        poller
            .wait(&mut ready, Some(Duration::from_micros(1500)))
            .unwrap();
        assert!(ready.is_empty() && before.elapsed() >= Duration::from_micros(1500));
        let other = waker.clone();
        std::thread::spawn(move || other.wake()).join().unwrap();
        poller.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [3]);
        waker.reset();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert!(ready.is_empty());
        poller
            .wait(&mut ready, Some(Duration::from_nanos(1)))
            .unwrap();
        waker.wake();
        poller.wait(&mut ready, Some(Duration::MAX)).unwrap();
        assert_eq!(ready, [3]);
    }
}
