//! Limits of endpoints: checked here, kept in the container's record, put into force by the switch.

use std::num::NonZeroU64;
use std::sync::Arc;

use switch::PortId;
use switch::config::{Conduct, Limit as SwitchLimit, Treatment};

use super::Daemon;
use super::container::Container;
use super::failure::Failure;
use super::faults::FaultBook;
use super::store::ContainerRecord;
use crate::api::{self, Limit, Limits, SetLimits};
use crate::rate;

/// Below that, a full frame takes more than a second and a half.
const LEAST_RATE: u64 = 8_000;

impl Daemon {
    /// Puts limits on a running container, instead of those it had.
    pub(super) fn set_limits(
        &mut self,
        wanted: &str,
        request: SetLimits,
    ) -> Result<api::Container, Failure> {
        check(&request.limits)?;
        let position = self.find_container(wanted)?;
        let endpoints = self.endpoints_of(position, request.network.as_deref())?;
        let mut record = ContainerRecord::clone(&self.containers[position].record);
        for at in endpoints {
            record.endpoints[at].limits = request.limits.clone();
        }
        self.store.put_container(&record)?;
        let id = record.id.clone();
        self.containers[position].record = Arc::new(record);
        self.apply();
        self.tell_container(&id)
    }

    /// Positions of a container's endpoints: the one on a network, or all of them.
    pub(super) fn endpoints_of(
        &self,
        position: usize,
        network: Option<&str>,
    ) -> Result<Vec<usize>, Failure> {
        let record = &self.containers[position].record;
        let network = match network {
            Some(wanted) => Some(&self.networks[self.find_network(wanted)?].record),
            None => None,
        };
        let endpoints = record.endpoints.iter().enumerate();
        let found: Vec<usize> = endpoints
            .filter(|(_, endpoint)| network.is_none_or(|it| it.id == endpoint.network))
            .map(|(at, _)| at)
            .collect();
        match (found.is_empty(), network) {
            (false, _) => Ok(found),
            (true, Some(network)) => Err(Failure::NotFound(format!(
                "container {} is not on network {}",
                record.name, network.name
            ))),
            (true, None) => Err(Failure::Conflict(format!(
                "container {} has no interface of its own: name the container whose network it \
                 shares, or one that runs",
                record.name
            ))),
        }
    }
}

/// What can be no limit.
pub(super) fn check(limits: &Limits) -> Result<(), Failure> {
    for (direction, limit) in [("in", &limits.inward), ("out", &limits.outward)] {
        if let Some(rate) = limit.bits_per_second.filter(|rate| *rate < LEAST_RATE) {
            return Err(Failure::Invalid(format!(
                "a rate of {} ({direction}) is too low to carry a frame: choose {} or more, or \
                 partition the container (pontoon fault --partition)",
                rate::bits(rate),
                rate::bits(LEAST_RATE)
            )));
        }
        if limit.packets_per_second == Some(0) {
            return Err(Failure::Invalid(format!(
                "0 packets per second ({direction}) cannot be a limit: choose 1 or more, or \
                 partition the container (pontoon fault --partition)"
            )));
        }
        if limit.burst_bytes.is_some() && limit.bits_per_second.is_none() {
            return Err(Failure::Invalid(format!(
                "a burst ({direction}) needs a rate: give one"
            )));
        }
    }
    Ok(())
}

/// What the switch is to hold each endpoint's port to.
pub(super) fn treatments(containers: &[Container], faults: &FaultBook) -> Vec<Treatment> {
    let mut treatments = Vec::new();
    for container in containers {
        let record = &container.record;
        let parted_from: Vec<PortId> = faults
            .parted_from(&record.id, containers)
            .flat_map(|other| other.plugs.iter().map(|plug| plug.port))
            .collect();
        for (endpoint, plug) in record.endpoints.iter().zip(&container.plugs) {
            let [inward, outward] = faults.of(&record.id, &endpoint.network);
            let treatment = Treatment {
                port: plug.port,
                from: Conduct {
                    limit: limit(&endpoint.limits.outward),
                    fault: outward,
                },
                to: Conduct {
                    limit: limit(&endpoint.limits.inward),
                    fault: inward,
                },
                cut_off: faults.is_cut_off(&record.id),
                parted_from: parted_from.clone(),
            };
            let nothing = Conduct::default();
            if treatment.from != nothing
                || treatment.to != nothing
                || treatment.cut_off
                || !treatment.parted_from.is_empty()
            {
                treatments.push(treatment);
            }
        }
    }
    treatments
}

fn limit(limit: &Limit) -> SwitchLimit {
    SwitchLimit {
        bits_per_second: limit.bits_per_second.and_then(NonZeroU64::new),
        burst_bytes: limit.burst_bytes,
        packets_per_second: limit.packets_per_second.and_then(NonZeroU64::new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_can_be() {
        let out = |bits_per_second, burst_bytes, packets_per_second| Limits {
            outward: Limit {
                bits_per_second,
                burst_bytes,
                packets_per_second,
            },
            ..Limits::default()
        };
        for good in [
            out(None, None, None),
            out(Some(8_000), Some(1), None),
            out(Some(u64::MAX), Some(u64::MAX), Some(u64::MAX)),
            out(None, None, Some(1)),
        ] {
            assert!(check(&good).is_ok(), "{good:?}");
        }
        for bad in [
            out(Some(0), None, None),
            out(Some(7_999), None, None),
            out(None, Some(1500), None),
            out(None, None, Some(0)),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
