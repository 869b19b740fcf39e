//! Waits for the first client of every published socket that has had none: one thread and one epoll
//! for all of them, so that an idle socket needs no task.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Door, State};

/// See the module's description.
pub(super) struct Watch {
    epoll: Epoll,
    idle: Mutex<Doors>,
}

#[derive(Default)]
struct Doors {
    by_token: HashMap<u64, Arc<Door>>,
    last_token: u64,
}

/// The watch of this process, which begins with the first question for it and never ends.
///
/// # Errors
/// No descriptor or thread can be had for it.
pub(super) fn watch() -> io::Result<Arc<Watch>> {
    static WATCH: Mutex<Option<Arc<Watch>>> = Mutex::new(None);
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watch) = &*watch {
        return Ok(watch.clone());
    }
    let begun = Arc::new(Watch {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        idle: Mutex::default(),
    });
    let watching = begun.clone();
    thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || watching.run())?;
    Ok(watch.insert(begun).clone())
}

impl Watch {
    /// Opens `door` when a client comes, once. The token is for [`Watch::forget`].
    pub(super) fn add(&self, door: &Arc<Door>) -> io::Result<u64> {
        let token = {
            let mut doors = self.doors();
            doors.last_token += 1;
            let token = doors.last_token;
            doors.by_token.insert(token, door.clone());
            token
        };
        let added = match &*door.state() {
            State::Idle(idle) => {
                // Once: whoever serves it watches it himself.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT;
                self.epoll.add(idle.as_fd(), EpollEvent::new(flags, token))
            }
            State::Serving(_) | State::Closed => Ok(()),
        };
        match added {
            Ok(()) => Ok(token),
            Err(error) => {
                self.forget(token);
                Err(error.into())
            }
        }
    }

    /// A door is closed. Its socket leaves the epoll by itself when it closes.
    pub(super) fn forget(&self, token: u64) {
        self.doors().by_token.remove(&token);
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!("can't wait for clients on this host: {error}");
                    thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            for event in &events[..ready] {
                // None if it was closed at this moment.
                let door = self.doors().by_token.remove(&event.data());
                let Some(door) = door else {
                    continue;
                };
                if let State::Idle(idle) = &*door.state() {
                    // Or it would count as watched twice. It can't but be there.
                    let _ = self.epoll.delete(idle.as_fd());
                }
                door.open();
            }
        }
    }
}
