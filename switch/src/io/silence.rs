//! Keeps the host's kernel out of the associations of SCTP that are masqueraded.
//!
//! SCTP keeps its ports through the translation, since its checksum covers them. So an association's
//! external port is the one that its container chose, and nobody holds that beforehand. The host has
//! SCTP if its containers have, being one kernel, and answers what is for no association of its own
//! with ABORT (RFC 9260 section 8.4), which the peer believes. So the worker that forwards the first
//! packet of an association opens a socket that listens behind a filter, as published ports have one:
//! before there can be any answer.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use nat::Time;
use parking_lot::Mutex;

use super::reserve::hold_sctp;

/// An external address and port.
type Place = (IpAddr, u16);

/// Ports that are held at the most, a descriptor each. The kernel is not kept from further ones, so
/// that associations without end cost nobody else his descriptors.
const MOST: usize = 1024;

/// How often it is looked which of them are still in use.
const PATIENCE: Duration = Duration::from_secs(30);

/// The ports that are held.
#[derive(Default)]
pub(crate) struct Silence {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Each with when it was last asked for.
    places: HashMap<Place, (OwnedFd, Time)>,
    looked: Time,
}

impl Silence {
    /// An association was opened that its peer sees come from here. What can't be held is not: on a
    /// kernel without SCTP, which says nothing anyway, or where the host itself has the port.
    pub(crate) fn hold(&self, now: Time, place: Place) {
        // To make a socket would have a kernel load the module.
        if place.1 == 0 || !Path::new("/proc/net/sctp").exists() {
            return;
        }
        let mut held = self.held.lock();
        if let Some((_, asked)) = held.places.get_mut(&place) {
            *asked = now;
        } else if held.places.len() < MOST
            && let Ok(Some(socket)) = hold_sctp(Some(place.0), place.1)
        {
            held.places.insert(place, (socket, now));
        }
    }

    /// Lets go of ports that are to be held otherwise.
    pub(crate) fn release(&self, ports: &RangeInclusive<u16>) {
        let mut held = self.held.lock();
        held.places.retain(|(_, port), _| !ports.contains(port));
    }

    /// Lets go of what is none of `in_use` any more, once in a while; that is only asked for then.
    pub(crate) fn tidy(&self, now: Time, in_use: impl FnOnce() -> HashSet<Place>) {
        {
            let mut held = self.held.lock();
            if held.places.is_empty() || now - held.looked < PATIENCE {
                return;
            }
            held.looked = now;
        }
        let in_use = in_use();
        let mut held = self.held.lock();
        // What was asked for meanwhile may not be in the list yet.
        held.places
            .retain(|place, (_, asked)| *asked >= now || in_use.contains(place));
    }
}
