//! IGMP and MLD snooping (RFC 4541): IP multicast goes to those who asked for its group.
//!
//! ```text
//!  a report (join, leave) ─► groups.rs notes it ─► the host, and ports with multicast routers
//!  a query ────────────────► its port has a router ─► everyone
//!  a packet to a group ────► known: its listeners, routers, the host
//!                            unknown, or nobody keeps asking: everyone
//! ```
//!
//! It errs on the side of flooding. Groups of the link itself (224.0.0.x, ff02::x: routing
//! protocols, neighbour discovery, mDNS) go to everyone, always. What was reported counts only
//! while a querier makes the listeners report again; the gateway is one (`querier.rs`). A port that
//! is new, or that listens to more groups than it may, gets everything.
//!
//! Only untagged frames are looked into, and of IGMPv3 and MLDv2 only the groups: a listener to
//! some sources of a group gets them all.

pub mod groups;
pub(crate) mod querier;
mod wire;

use crate::bridge::Flood;
use crate::config::Snooping;
use crate::datapath::{Egress, Pass};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::topology::{Member, Segment};
use wire::Heard;

impl Pass<'_> {
    /// Decides where a frame to a group other than broadcast goes; `None` for to everyone.
    pub(crate) fn snoop(
        &mut self,
        segment: &Segment,
        sender: Member,
        snooping: &Snooping,
        frame: &Frame,
    ) -> Result<Option<Egress>, DropReason> {
        let is_host = segment.network.host_port == Some(sender.port);
        match wire::read(frame).ok_or(DropReason::Malformed)? {
            Heard::Nothing => Ok(None),
            Heard::Packet(group) => {
                self.egresses.clear();
                if !segment.multicast.listeners(self.now, group, self.egresses) {
                    return Ok(None);
                }
                self.gathered(segment, sender).map(Some)
            }
            Heard::Query(query) => {
                // A guarded container is no router, of multicast neither.
                if sender.single && !is_host {
                    return Err(DropReason::RogueRouter);
                }
                let router = (!is_host).then_some(sender.port);
                segment.multicast.handle_query(self.now, router, &query);
                Ok(None)
            }
            Heard::Report(records) => {
                self.admit_flood(segment, sender, Flood::Multicast)?;
                // The host gets everything anyhow.
                if !is_host {
                    segment
                        .multicast
                        .handle_report(self.now, sender, records, snooping);
                }
                // Not to other listeners, who would keep their own reports to themselves
                // (RFC 4541 section 2.1.1, rule 1).
                self.egresses.clear();
                segment
                    .multicast
                    .routers(self.now, records.is_v4(), self.egresses);
                match self.gathered(segment, sender) {
                    Err(DropReason::NobodyElse) => Ok(Some(Egress::Consumed)),
                    other => other.map(Some),
                }
            }
        }
    }

    /// To the ports gathered, and the host, as far as the sender may reach them.
    fn gathered(&mut self, segment: &Segment, sender: Member) -> Result<Egress, DropReason> {
        self.egresses.extend(segment.network.host_port);
        self.egresses.sort_unstable();
        self.egresses.dedup();
        let topology = self.topology;
        self.egresses.retain(|&port| {
            port != sender.port && !(sender.isolated && topology.is_isolated(port))
        });
        if self.egresses.is_empty() {
            return Err(DropReason::NobodyElse);
        }
        Ok(Egress::Several)
    }
}

#[cfg(test)]
mod tests;
