//! Faults on request. They are an experiment, not a property of the container: nothing of them is
//! stored, and a daemon that starts again has none.

use std::collections::HashMap;
use std::time::Duration;

use switch::config::{Fault as SwitchFault, MILLION};

use super::Daemon;
use super::container::Container;
use super::failure::Failure;
use super::names::random;
use crate::api::{self, Fault, Faults, Partition, SetFaults, SetPartition, Status};

/// Frames are held in memory while they are late.
const LONGEST: Duration = Duration::from_secs(10);

/// Who suffers what, by the ids of containers and networks.
#[derive(Debug, Default)]
pub(super) struct FaultBook {
    /// By container and network.
    faults: HashMap<(String, String), Faults>,
    cut_off: Vec<String>,
    /// Pairs, each once.
    parted: Vec<(String, String)>,
}

impl FaultBook {
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty() && self.cut_off.is_empty() && self.parted.is_empty()
    }

    /// What happens to an endpoint's frames, towards it and from it.
    pub(super) fn of(&self, container: &str, network: &str) -> [SwitchFault; 2] {
        let faults = self.told(container, network);
        let seed = faults.seed.unwrap_or(0);
        [fault(&faults.inward, seed), fault(&faults.outward, !seed)]
    }

    /// The same for people.
    pub(super) fn told(&self, container: &str, network: &str) -> Faults {
        if self.faults.is_empty() {
            return Faults::default();
        }
        let key = (container.to_owned(), network.to_owned());
        self.faults.get(&key).cloned().unwrap_or_default()
    }

    pub(super) fn is_cut_off(&self, container: &str) -> bool {
        self.cut_off.iter().any(|id| id == container)
    }

    /// Those that a container is parted from.
    pub(super) fn parted_from<'a>(
        &self,
        id: &str,
        containers: &'a [Container],
    ) -> impl Iterator<Item = &'a Container> {
        // Mostly nobody is, and there may be a thousand.
        let others = match self.parted.is_empty() {
            true => &[],
            false => containers,
        };
        let others = others.iter();
        others.filter(move |other| self.are_parted(id, &other.record.id))
    }

    fn are_parted(&self, one: &str, other: &str) -> bool {
        self.parted.iter().any(|pair| is_pair(pair, one, other))
    }

    /// Has an endpoint suffer these instead of those that it had.
    pub(super) fn put(&mut self, container: &str, network: &str, faults: Faults) {
        let key = (container.to_owned(), network.to_owned());
        if faults.is_none() {
            self.faults.remove(&key);
        } else {
            self.faults.insert(key, faults);
        }
    }

    /// Ends all faults of a container; true if there were any.
    fn clear(&mut self, container: &str) -> bool {
        let size = |book: &FaultBook| book.faults.len() + book.cut_off.len() + book.parted.len();
        let before = size(self);
        self.faults.retain(|(id, _), _| id != container);
        self.cut_off.retain(|id| id != container);
        self.parted
            .retain(|(one, other)| one != container && other != container);
        size(self) < before
    }

    fn part(&mut self, one: &str, other: Option<&str>, parted: bool) {
        match other {
            None => {
                self.cut_off.retain(|id| id != one);
                if parted {
                    self.cut_off.push(one.to_owned());
                }
            }
            Some(other) => {
                self.parted.retain(|pair| !is_pair(pair, one, other));
                if parted {
                    self.parted.push((one.to_owned(), other.to_owned()));
                }
            }
        }
    }
}

fn is_pair((left, right): &(String, String), one: &str, other: &str) -> bool {
    (left == one && right == other) || (left == other && right == one)
}

impl Daemon {
    /// Has a running container suffer faults, instead of those it had.
    pub(super) fn set_faults(
        &mut self,
        wanted: &str,
        request: SetFaults,
    ) -> Result<api::Container, Failure> {
        let mut faults = request.faults;
        check(&faults)?;
        let position = self.find_container(wanted)?;
        let endpoints = self.endpoints_of(position, request.network.as_deref())?;
        let seed = match faults.seed {
            Some(seed) => seed,
            None => u64::from_ne_bytes(random()?),
        };
        faults.seed = Some(seed);
        let record = &self.containers[position].record;
        for at in endpoints {
            let network = &record.endpoints[at].network;
            self.faults.put(&record.id, network, faults.clone());
        }
        tracing::info!("{} has other faults now", record.name);
        let id = record.id.clone();
        self.forget_faults_of_the_gone();
        self.apply();
        self.tell_container(&id)
    }

    /// Cuts a running container off from another one or from everything, or ends that.
    pub(super) fn set_partition(
        &mut self,
        wanted: &str,
        request: &SetPartition,
    ) -> Result<api::Container, Failure> {
        let id = self.id_of_running(wanted)?;
        let other = match &request.from {
            Some(other) => Some(self.id_of_running(other)?),
            None => None,
        };
        if other.as_ref() == Some(&id) {
            return Err(Failure::Invalid(format!(
                "{wanted} cannot be partitioned from itself: name another container"
            )));
        }
        self.faults.part(&id, other.as_deref(), request.parted);
        self.forget_faults_of_the_gone();
        self.apply();
        self.tell_container(&id)
    }

    /// Ends all faults of a container, the partitions that others have with it too.
    pub(super) fn clear_faults(&mut self, wanted: &str) -> Result<api::Container, Failure> {
        let position = self.find_container(wanted)?;
        let id = self.containers[position].record.id.clone();
        self.faults.clear(&id);
        self.apply();
        self.tell_container(&id)
    }

    /// Ends all faults there are, and describes the containers that had some, as they are then.
    pub(super) fn clear_all_faults(&mut self) -> Result<Vec<api::Container>, Failure> {
        let suffers = |container: &api::Container| {
            !container.partition.is_none()
                || container.endpoints.iter().any(|it| !it.faults.is_none())
        };
        let view = self.view.borrow().clone();
        let had_some = view.containers().filter(|it| suffers(it));
        let had_some: Vec<String> = had_some.map(|it| it.id.clone()).collect();
        self.faults = FaultBook::default();
        self.apply();
        had_some.iter().map(|id| self.tell_container(id)).collect()
    }

    fn forget_faults_of_the_gone(&mut self) {
        let known = |id: &str| self.containers.iter().any(|it| it.record.id == id);
        let book = &self.faults;
        let mut gone: Vec<String> = book.faults.keys().map(|(id, _)| id.clone()).collect();
        gone.extend(book.cut_off.iter().cloned());
        gone.extend(
            book.parted
                .iter()
                .flat_map(|(one, other)| [one, other])
                .cloned(),
        );
        gone.retain(|id| !known(id));
        for id in gone {
            self.faults.clear(&id);
        }
    }

    fn id_of_running(&self, wanted: &str) -> Result<String, Failure> {
        let record = &self.containers[self.find_container(wanted)?].record;
        if record.status == Status::Exited {
            return Err(Failure::Conflict(format!(
                "container {} has exited: there is nothing to partition",
                record.name
            )));
        }
        Ok(record.id.clone())
    }
}

/// Whom a container is cut off from.
pub(super) fn partition(book: &FaultBook, id: &str, containers: &[Container]) -> Partition {
    let parted = book.parted_from(id, containers);
    Partition {
        from_everything: book.is_cut_off(id),
        from: parted.map(|other| other.record.name.clone()).collect(),
    }
}

fn check(faults: &Faults) -> Result<(), Failure> {
    let longest = LONGEST.as_micros() as u64;
    for fault in [&faults.inward, &faults.outward] {
        for (what, micros) in [("latency", fault.latency_us), ("jitter", fault.jitter_us)] {
            if micros > longest {
                return Err(Failure::Invalid(format!(
                    "a {what} of {micros} µs is too long: {} s at most, as frames are held in \
                     memory meanwhile",
                    LONGEST.as_secs()
                )));
            }
        }
        for (what, chance) in [
            ("loss", fault.loss_per_million),
            ("duplicate", fault.duplicate_per_million),
        ] {
            if chance > MILLION {
                return Err(Failure::Invalid(format!(
                    "a {what} of {chance} in a million is more than all: choose from 0 to {MILLION}"
                )));
            }
        }
    }
    Ok(())
}

fn fault(fault: &Fault, seed: u64) -> SwitchFault {
    let none = *fault == Fault::default();
    SwitchFault {
        latency: Duration::from_micros(fault.latency_us),
        jitter: Duration::from_micros(fault.jitter_us),
        loss: fault.loss_per_million,
        duplicate: fault.duplicate_per_million,
        // A way without faults is like any other.
        seed: if none { 0 } else { seed },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_hold_both_ways_and_end() {
        let mut book = FaultBook::default();
        book.part("a", Some("b"), true);
        book.part("b", Some("a"), true);
        book.part("c", None, true);
        assert!(book.are_parted("a", "b") && book.are_parted("b", "a"));
        assert!(!book.are_parted("a", "c") && book.is_cut_off("c"));
        assert!(book.clear("b"));
        assert!(!book.clear("b") && !book.are_parted("a", "b"));
        book.part("c", None, false);
        assert!(!book.is_cut_off("c"));
    }

    #[test]
    fn what_can_be_no_fault_is_refused() {
        let with = |change: fn(&mut Fault)| {
            let mut faults = Faults::default();
            change(&mut faults.inward);
            check(&faults)
        };
        assert!(with(|it| it.latency_us = 10_000_000).is_ok());
        assert!(with(|it| it.latency_us = 10_000_001).is_err());
        assert!(with(|it| it.jitter_us = u64::MAX).is_err());
        assert!(with(|it| it.loss_per_million = MILLION).is_ok());
        assert!(with(|it| it.loss_per_million = MILLION + 1).is_err());
        assert!(with(|it| it.duplicate_per_million = u32::MAX).is_err());
    }
}
