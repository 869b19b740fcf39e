//! Pipes, through which the kernel hands what one socket received to another without copying it
//! (splice(2)).
//!
//! A pipe is taken for one handing over and given back empty, so a few serve any number of
//! connections: more are in use only while receivers are slower than their senders.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pipes at the most, of two descriptors each.
const MOST: usize = 16;

/// Bytes that a pipe should hold; `fs.pipe-max-size` allows as many by default. With the 64 KiB that
/// it has unasked, splice takes twice the time.
const SIZE: i32 = 1 << 20;

/// Pipes that are empty and nobody's.
static FREE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// A pipe, and how much is in it. Dropped instead of [given back](Pipe::give_back), it is closed.
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled: usize,
    _permit: OwnedSemaphorePermit,
}

impl Pipe {
    /// An empty one, or none if all are in use or none can be made.
    pub(super) fn take() -> Option<Pipe> {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.or_else(Pipe::make)
    }

    fn make() -> Option<Pipe> {
        static PERMITS: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let permits = PERMITS.get_or_init(|| Arc::new(Semaphore::new(MOST)));
        let permit = permits.clone().try_acquire_owned().ok()?;
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        // A smaller one does as well.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SIZE));
        Some(Pipe {
            reader,
            writer,
            filled: 0,
            _permit: permit,
        })
    }

    pub(super) fn give_back(self) {
        if self.is_empty() {
            FREE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what has come to a socket: how many bytes, 0 at its end. The pipe must be empty, or
    /// that it is full would look like a socket without data (both are `WouldBlock`).
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let length = transfer(socket, &self.writer, SIZE as usize)?;
        self.filled += length;
        Ok(length)
    }

    /// Sends what is in it, or some of that.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.filled -= transfer(&self.reader, socket, self.filled)?;
        Ok(())
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    Ok(splice(from, None, to, None, length, flags)?)
}
