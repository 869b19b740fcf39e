//! What must hold after each step: the same connections, every port with one owner, none leaked.

use nat::Protocol;

use super::flow::Flow;
use super::ops::{HOSTS, ip};
use super::run::{Run, ensure};

impl Run {
    /// What must hold at any time.
    pub(crate) fn check(&self) -> Result<(), String> {
        let model = &self.model;
        let live = self.nat.connections(model.now);
        for info in &live {
            ensure(
                model.flows.iter().any(|flow| flow.info(model.now) == *info),
                || {
                    let known = model.flows.iter().find(|flow| flow.is(info));
                    let known = known.map(|flow| flow.info(model.now));
                    format!("the engine has {info:#?}\n  the model {known:#?}")
                },
            )?;
        }
        for flow in &model.flows {
            ensure(live.iter().any(|info| flow.is(info)), || {
                format!("the engine lost {} ({:?})", flow.original, flow.kind)
            })?;
        }
        ensure(live.len() == model.flows.len(), || {
            format!(
                "{} connections, the model has {}",
                live.len(),
                model.flows.len()
            )
        })?;
        let len = self.nat.len();
        let at_most = model.flows.len() + model.ghosts.len();
        ensure((live.len()..=at_most).contains(&len), || {
            format!(
                "{len} connections in the table, the model has {} to {at_most}",
                live.len()
            )
        })?;
        let stats = self.nat.stats();
        ensure(stats.connections == len, || {
            format!("{len} connections: {stats:?}")
        })?;
        ensure(stats.implausible_resets == model.implausible, || {
            format!("{} implausible RSTs: {stats:?}", model.implausible)
        })?;
        ensure(stats.out_of_window == model.out_of_window, || {
            format!("{} segments in no window: {stats:?}", model.out_of_window)
        })?;
        ensure(len <= model.limits.max_connections, || {
            format!("{len} are too many")
        })?;
        self.check_bijection()?;
        self.check_quota()?;
        self.check_free()
    }

    /// No tuple twice, and no external port with two owners.
    fn check_bijection(&self) -> Result<(), String> {
        let flows = &self.model.flows;
        for (at, flow) in flows.iter().enumerate() {
            ensure(flow.original != flow.reply, || {
                format!("both tuples of {} are one", flow.original)
            })?;
            for other in &flows[at + 1..] {
                let same_place = flow.is_hairpin() == other.is_hairpin();
                let twice = other.has(&flow.original) || other.has(&flow.reply);
                ensure(!(same_place && twice), || {
                    format!("{} and {} are one", flow.original, other.original)
                })?;
                let same_port = flow.external().is_some() && flow.external() == other.external();
                let both = flow.owns && other.owns && flow.endpoint() != other.endpoint();
                ensure(!(same_port && both), || {
                    let (port, a, b) = (flow.reply.dst_port, flow.original, other.original);
                    format!("port {port} has two owners: {a} and {b}")
                })?;
                let of_one = same_port || flow.external().is_none();
                let mapped = flow.owns && other.owns && flow.endpoint() == other.endpoint();
                ensure(!mapped || of_one, || {
                    format!("{} and {} have two ports", flow.original, other.original)
                })?;
            }
        }
        Ok(())
    }

    /// Nobody has more external ports than he may.
    fn check_quota(&self) -> Result<(), String> {
        let model = &self.model;
        for flow in &model.flows {
            let of_him = model
                .flows
                .iter()
                .filter(|it| it.owns && it.inside() == flow.inside());
            let mut ports: Vec<_> = of_him.map(Flow::endpoint).collect();
            ports.sort_unstable();
            ports.dedup();
            ensure(ports.len() <= model.limits.max_ports_per_address, || {
                format!("{} has {} external ports", flow.inside(), ports.len())
            })?;
        }
        Ok(())
    }

    /// No port leaked, and none free that is in use.
    fn check_free(&self) -> Result<(), String> {
        let model = &self.model;
        for protocol in [
            Protocol::TCP,
            Protocol::UDP,
            Protocol::ICMP,
            Protocol::ICMPV6,
        ] {
            let pool = model.pool(protocol).len();
            let used = |flows: &mut dyn Iterator<Item = &Flow>| {
                let mut used: Vec<_> = flows
                    .filter_map(|flow| flow.external())
                    .filter(|external| external.0 == protocol)
                    .collect();
                used.sort_unstable();
                used.dedup();
                let on = |host: &str| used.iter().filter(|it| it.1 == ip(host)).count();
                HOSTS.iter().map(|host| on(host)).max().unwrap_or(0)
            };
            let most = pool - used(&mut model.flows.iter());
            let least = pool - used(&mut model.flows.iter().chain(&model.ghosts));
            let free = self.nat.external_ports_free(protocol);
            ensure((least..=most).contains(&free), || {
                format!("{free} {protocol} ports are free, in the model {least} to {most}")
            })?;
        }
        Ok(())
    }
}
