//! What is left of endpoints and networks that nothing names any more: interfaces, and sockets on them. To remove
//! one the kernel waits until no CPU can see it (RCU), some 20 ms, and as many remove themselves in
//! that time as there are threads that ask. So it is done without the daemon, which goes on
//! meanwhile; who asked for it waits.

use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use switch::port::Port;

use super::Daemon;
use super::container::remove_tap;
use super::network::remove_interface;
use super::store::EndpointRecord;
use crate::netns::Netns;

/// Threads that wait for the kernel at a time.
const THREADS: usize = 8;

/// Of one endpoint or network.
pub(super) struct Remains {
    /// Inode of the namespace of the container, or of the host.
    pub netns: u64,
    /// Its descriptors close with it, if no worker has it any more.
    pub port: Option<Arc<Port>>,
    pub interface: Interface,
}

pub(super) enum Interface {
    /// In the host's namespace: that of a network, or a veth's end, with which the other one goes.
    OfHost(String),
    /// A TAP, in the namespace that it has moved to.
    Tap(Netns, Box<EndpointRecord>),
    /// It goes with its namespace.
    Gone,
}

impl Remains {
    fn remove(self) {
        // First: the descriptors of an interface that is no more close at once, on whichever thread.
        match &self.interface {
            Interface::OfHost(name) => remove_interface(name),
            Interface::Tap(netns, endpoint) => remove_tap(netns, endpoint),
            Interface::Gone => {}
        }
        drop(self.port);
    }
}

/// What is to be removed, and what is being removed.
#[derive(Clone, Default)]
pub(super) struct Clearing(Arc<Progress>);

#[derive(Default)]
struct Progress {
    /// Namespaces, one for each of the remains.
    busy: Mutex<Vec<u64>>,
    done: Condvar,
}

impl Daemon {
    /// Hands over what is to be removed while the daemon goes on, and what tells of its progress.
    pub(super) fn take_remains(&mut self) -> (Clearing, Vec<Remains>) {
        let remains = std::mem::take(&mut self.remains);
        self.clearing.announce(&remains);
        (self.clearing.clone(), remains)
    }

    /// Waits until a namespace is free of what was in it before.
    pub(super) fn clear(&mut self, netns: u64) {
        let (clearing, remains) = self.take_remains();
        clearing.remove(remains);
        clearing.wait_for(netns);
    }
}

impl Clearing {
    /// Notes what will be removed, so that [`Clearing::wait_for`] waits for it.
    pub(super) fn announce(&self, remains: &[Remains]) {
        let namespaces = remains.iter().map(|it| it.netns);
        self.0.busy.lock().extend(namespaces);
    }

    /// Removes what was announced.
    pub(super) fn remove(&self, remains: Vec<Remains>) {
        let remove = |one: Remains| {
            let netns = one.netns;
            one.remove();
            let mut busy = self.0.busy.lock();
            if let Some(place) = busy.iter().position(|it| *it == netns) {
                busy.swap_remove(place);
            }
            self.0.done.notify_all();
        };
        let threads = remains.len().min(THREADS);
        if threads <= 1 {
            remains.into_iter().for_each(remove);
            return;
        }
        let remains = Mutex::new(remains);
        let next = || remains.lock().pop();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(one) = next() {
                        remove(one);
                    }
                });
            }
        });
    }

    /// Waits until nothing is being removed from a namespace, where the names of interfaces are free
    /// again then.
    pub(super) fn wait_for(&self, netns: u64) {
        let mut busy = self.0.busy.lock();
        while busy.contains(&netns) {
            self.0.done.wait(&mut busy);
        }
    }
}
