//! Accidents: what changes or goes wrong while a world lives, and whom that excuses from coming to
//! a good end.

use std::time::Duration;

use super::flow::{Flow, Outcome, State};
use super::plan::{Accident, FlowPlan, Party, Way, What};
use super::{HostId, PATIENCE, World, check};

/// What happens at a moment: an accident, or its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Accident(Accident),
    Arrive(Party),
    Up(Party, HostId),
}

/// What there is to know of a flow for whoever disturbs it.
pub(super) struct Disturbable {
    plan: FlowPlan,
    published: Option<usize>,
    pub(super) server: Option<Party>,
    pub(super) is_stream: bool,
    /// Its source is translated if it comes from a container.
    leaves: bool,
}

impl World {
    /// What is due, happens.
    pub(super) fn happen(&mut self) -> Result<(), String> {
        let now = self.simulation.now();
        while let Some(index) = self.to_do.iter().position(|&(at, _)| at <= now) {
            let (_, step) = self.to_do.remove(index);
            self.step(now, step)?;
            self.survey();
            self.confused = now;
        }
        Ok(())
    }

    fn step(&mut self, now: Duration, step: Step) -> Result<(), String> {
        match step {
            Step::Accident(Accident::Replace { who, gap }) => {
                let Some(id) = self.hosts.remove(&who) else {
                    return Ok(());
                };
                self.disturb(now, |_, flow| {
                    flow.plan.client == who || flow.server == Some(who)
                });
                for flow in &mut self.flows {
                    if matches!(flow.state, State::Running(host, _) if host == id) {
                        flow.state = State::Over(Outcome::Abandoned);
                    }
                }
                self.services.retain(|service| service.host != id);
                self.simulation.remove_container(id);
                let (nat, time) = (self.simulation.datapath().nat(), self.simulation.time());
                check::forgotten(nat, time, [who.of(false), who.of(true)])?;
                self.to_do.push((now + gap, Step::Arrive(who)));
            }
            Step::Arrive(who) => {
                self.arrive(who);
                self.simulation.configure();
                // Its address may have been asked for in vain until now.
                self.disturb(now, |_, flow| flow.server == Some(who));
            }
            Step::Accident(Accident::Republish { index, to }) => {
                self.publish(index, to);
                self.simulation.configure();
                self.disturb(now, |_, flow| flow.published == Some(index));
                self.targets[index].push((now, to));
            }
            Step::Accident(Accident::Restart) => {
                self.simulation.restart();
                let picks_up = self.plan.limits.pick_up_tcp;
                // Who was masqueraded gets another external port. A published stream is found
                // again from either side, unless the server speaks first and two ports lead to it;
                // and whoever asks again is answered.
                self.disturb(now, |world, flow| {
                    let masqueraded = flow.plan.client.is_container() && flow.leaves;
                    let found = |index| picks_up && world.is_only(index);
                    let lost = flow.published.is_some_and(|index| !found(index));
                    flow.is_stream && (masqueraded || lost)
                });
            }
            Step::Accident(Accident::Down { who, time }) => {
                if let Some(&id) = self.hosts.get(&who) {
                    self.simulation.set_down(id, true);
                    self.to_do.push((now + time, Step::Up(who, id)));
                }
            }
            Step::Up(who, id) => {
                if self.hosts.get(&who) == Some(&id) {
                    self.simulation.set_down(id, false);
                }
            }
            Step::Accident(Accident::NewMac { who, announce }) => {
                let generation = self.generations.entry(who).or_insert(0);
                *generation += 1;
                let mac = who.mac(*generation);
                self.simulation.change_mac(self.hosts[&who], mac, announce);
            }
        }
        Ok(())
    }

    /// Whether no other published port leads to where this one does.
    fn is_only(&self, index: usize) -> bool {
        let to = |index: usize| {
            let published = self.plan.publish[index];
            let target = self.target(index);
            (
                target,
                published.protocol,
                published.to_port(),
                published.v6,
            )
        };
        let mut others = (0..self.plan.publish.len()).filter(|&other| other != index);
        !others.any(|other| to(other) == to(index))
    }

    /// Excuses flows that have begun and are not over.
    fn disturb(&mut self, now: Duration, which: impl Fn(&World, Disturbable) -> bool) {
        let excused: Vec<usize> = (0..self.flows.len())
            .filter(|&index| {
                let flow = &self.flows[index];
                let running = matches!(flow.state, State::Running(..));
                let begun = running || flow.plan.at <= now;
                begun && !flow.is_over() && which(self, self.disturbable(flow))
            })
            .collect();
        for index in excused {
            let flow = &mut self.flows[index];
            flow.disturbed = true;
            flow.give_up = now + PATIENCE;
        }
    }

    pub(super) fn disturbable(&self, flow: &Flow) -> Disturbable {
        let (published, server) = match flow.plan.way {
            Way::Direct(server) => (None, Some(server)),
            Way::Published { index, .. } => (Some(index), self.target(index)),
        };
        Disturbable {
            plan: flow.plan,
            published,
            server,
            is_stream: matches!(flow.plan.what, What::Stream { .. }),
            leaves: published.is_some() || matches!(server, Some(Party::Outside(_))),
        }
    }
}
