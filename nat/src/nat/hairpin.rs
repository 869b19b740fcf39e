//! From inside to an external port that masquerading gave to somebody inside (RFC 4787 REQ-9, RFC
//! 5382 REQ-8), as when two containers meet through a rendezvous server beyond the uplink.
//!
//! It is as if the packet went out to the network and came back. Each side has a connection of its
//! own, the half that its own packets opened, and the filter is the same as towards the world
//! (REQ-8): what comes to A's external port passes if A has sent to the port that it comes from.
//!
//! ```text
//!                          as sent        between        as received
//!   A's packet             A:a > E:eb     E:ea > E:eb    E:ea > B:b
//!     A's half, original   A:a > E:eb
//!     B's half, reply                     E:ea > E:eb
//! ```
//!
//! The first packet of the two meets no half of the other, and is dropped, but has opened its own:
//! for TCP that makes a simultaneous open (RFC 5382 REQ-2).

use super::Nat;
use crate::conntrack::tcp::Segment;
use crate::conntrack::{Direction, Kind};
use crate::refused::Refused;
use crate::rule::RuleIndex;
use crate::time::Time;
use crate::tuple::{Protocol, Tuple};

impl Nat {
    /// Whether a packet from inside to an address of the host is to an external port.
    pub(super) fn is_mapped(&self, rules: &RuleIndex, tuple: &Tuple) -> bool {
        // Nobody dials an identifier, and a source that is not masqueraded has no port to be seen
        // with.
        matches!(tuple.protocol, Protocol::TCP | Protocol::UDP)
            && self.external_ports.load().iter().any(|(protocol, ports)| {
                *protocol == tuple.protocol && ports.contains(&tuple.dst_port)
            })
            && rules.masquerade(tuple.src).is_some()
    }

    /// The second half of the way: what the packet that was `sent`, and is `between` the two halves
    /// now, becomes for its receiver.
    ///
    /// # Errors
    /// [`Refused::Filtered`] if the receiver has not sent to where it comes from, or is who sent it:
    /// a server whose late answer is to a port that is its own by now would answer that, for ever.
    pub(super) fn cross(
        &self,
        now: Time,
        sent: &Tuple,
        between: &Tuple,
        segment: Option<&Segment>,
        length: usize,
    ) -> Result<Tuple, Refused> {
        let mut shard = self.hairpin_shard(between.src).lock();
        let (slot, direction) = shard
            .find(self.hash.tuple(between), between)
            .ok_or(Refused::Filtered)?;
        let half = shard.get_mut(slot).ok_or(Refused::Filtered)?;
        let fits = half.kind() == Kind::HairpinMapped && direction == Direction::Reply;
        let to = half.translated(direction);
        let comes_back = (to.dst, to.dst_port) == (sent.src, sent.src_port);
        if !fits || comes_back || half.is_expired(now) {
            return Err(Refused::Filtered);
        }
        let heard = half.handle(now, direction, segment, length, &self.limits.timeouts);
        self.count(heard);
        Ok(to)
    }

    /// What the packet that an ICMP error quotes was before it crossed: the same way back.
    pub(super) fn cross_back(&self, now: Time, between: &Tuple) -> Option<Tuple> {
        let shard = self.hairpin_shard(between.dst).lock();
        let key = between.reversed();
        let (slot, direction) = shard.find(self.hash.tuple(&key), &key)?;
        let half = shard.get(slot)?;
        let fits = half.kind() == Kind::HairpinMapped && direction == Direction::Reply;
        (fits && !half.is_expired(now)).then(|| half.original())
    }
}
