//! What happens to a packet: found or opened, rewritten or refused.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::admission::Opening;
use super::{Nat, Path, Translated};
use crate::conntrack::tcp::{Heard, Segment};
use crate::conntrack::{Direction, Kind, Shard};
use crate::icmp::{self, Quote};
use crate::packet::{Content, Packet};
use crate::refused::Refused;
use crate::rewrite::rewrite;
use crate::time::Time;
use crate::tuple::Tuple;

impl Nat {
    /// Translates a packet in place.
    ///
    /// On [`Path::Outbound`] a source that no rule masquerades passes as it is, and its flow is
    /// tracked.
    ///
    /// Fragments that need translation are refused here; see
    /// [`translate_fragment`](Nat::translate_fragment).
    ///
    /// # Errors
    /// [`Refused`] says why not; the packet is then untouched, and nothing was allocated for it.
    pub fn translate(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
    ) -> Result<Translated, Refused> {
        match packet.content() {
            Content::Flow(tuple) => self.translate_flow(now, path, packet, &tuple),
            Content::IcmpError => self.translate_error(now, path, packet),
            Content::Fragment => self.pass(path, packet, Refused::Fragment),
            Content::Other => self.pass(path, packet, Refused::UnsupportedProtocol),
        }
    }

    fn translate_flow(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
        tuple: &Tuple,
    ) -> Result<Translated, Refused> {
        let segment = packet.segment();
        if segment.is_some_and(|segment| !segment.is_valid()) {
            // A host answers for itself.
            return Err(match path {
                Path::Hairpin if !self.is_published(tuple.protocol, tuple.dst, tuple.dst_port) => {
                    Refused::NotPublished
                }
                _ => Refused::InvalidTcpFlags,
            });
        }
        let is_reply = packet.is_echo_reply();
        let mut shard = self.shard(path, tuple).lock();
        let known = self.known(now, path, &mut shard, tuple, segment.as_ref());
        // With an identifier of 0 a tuple does not tell a reply from a request.
        let known = known.filter(|(_, direction, _)| {
            !tuple.is_icmp() || is_reply == (*direction == Direction::Reply)
        });
        let (slot, direction, new) = match known {
            Some(known) => known,
            None => {
                let Some(opening) = self.opening(path, tuple, segment.as_ref(), is_reply)? else {
                    return self.pass(path, packet, Refused::NotOpening);
                };
                let slot = self.open(now, &mut shard, &opening)?;
                (slot, opening.direction, true)
            }
        };
        let Some(connection) = shard.get_mut(slot) else {
            return Err(Refused::NoMapping);
        };
        let (length, timeouts) = (packet.len(), &self.limits.timeouts);
        let heard = connection.handle(now, direction, segment.as_ref(), length, timeouts);
        self.count(heard);
        let mut to = connection.translated(direction);
        let translated = Translated {
            connection: match direction {
                Direction::Original => *tuple,
                Direction::Reply => to.reversed(),
            },
            kind: connection.kind(),
            direction,
            new,
        };
        drop(shard);
        if translated.kind == Kind::HairpinMapped {
            to = self.cross(now, tuple, &to, segment.as_ref(), length)?;
        }
        rewrite(packet, tuple, &to);
        Ok(translated)
    }

    /// Counts what the books do not believe.
    pub(super) fn count(&self, heard: Heard) {
        let counter = match heard {
            Heard::Believed => return,
            Heard::OutOfWindow => &self.counters.out_of_window,
            Heard::ImplausibleReset => &self.counters.implausible_resets,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The live connection of a packet: its slot, the packet's direction, and whether the packet
    /// opens it anew.
    fn known(
        &self,
        now: Time,
        path: Path,
        shard: &mut Shard,
        tuple: &Tuple,
        segment: Option<&Segment>,
    ) -> Option<(u32, Direction, bool)> {
        let (slot, direction) = shard.find(self.hash.tuple(tuple), tuple)?;
        let connection = shard.get_mut(slot)?;
        if connection.is_expired(now) {
            self.end(now, shard, &mut self.ledger.lock(), slot);
            return None;
        }
        if !belongs(path, connection.kind(), direction) {
            return None;
        }
        if let Path::Outbound { external } = path
            && connection.is_masqueraded()
            && connection.reply().dst != external
            && self.has_moved(tuple.src, connection.reply().dst, external)
        {
            self.end(now, shard, &mut self.ledger.lock(), slot);
            return None;
        }
        // TIME-WAIT ends early for a new connection (RFC 9293 section 3.6.1), and so does what a
        // RST left behind.
        // From outside that takes a published port: the peer of a masqueraded flow may not open one.
        let may_open =
            direction == Direction::Original || matches!(connection.kind(), Kind::Publish(_));
        let new = may_open && connection.is_over() && segment.is_some_and(Segment::is_syn);
        if new {
            shard.reopen(slot);
            self.counters.opened.fetch_add(1, Ordering::Relaxed);
        }
        Some((slot, direction, new))
    }

    /// Whether a flow from `source`, masqueraded as `mapped`, now leaves by another interface,
    /// whose address is `external`.
    fn has_moved(&self, source: IpAddr, mapped: IpAddr, external: IpAddr) -> bool {
        let rules = self.rules.load();
        let rule = rules.masquerade(source);
        rule.is_none_or(|rule| rule.to.is_none()) && !rules.same_link(mapped, external)
    }

    /// What connection a packet of no known flow opens. None when it is to pass untracked. An echo
    /// reply opens nothing.
    fn opening(
        &self,
        path: Path,
        tuple: &Tuple,
        segment: Option<&Segment>,
        is_reply: bool,
    ) -> Result<Option<Opening>, Refused> {
        let rules = self.rules.load();
        let syn = segment.is_none_or(Segment::is_syn);
        let mid_stream = self.limits.pick_up_tcp && segment.is_some_and(Segment::is_mid_stream);
        // A SYN-ACK is the second segment, of the side that did not open.
        let picked_up = mid_stream && !segment.is_some_and(Segment::is_syn_ack);
        let opens = (syn || picked_up) && !is_reply;
        let opening = match path {
            Path::Outbound { external } => {
                let rule = rules.masquerade(tuple.src);
                let external = rule.and_then(|rule| rule.to).unwrap_or(external);
                // A published port is a mapping that was there before: what the container sends
                // from it has the port that it is reached by, and belongs to a flow from outside.
                // This is what carries such a flow through a restart when the container speaks
                // first.
                let Tuple {
                    protocol,
                    src,
                    src_port,
                    dst,
                    ..
                } = *tuple;
                if let Some(claim) = rules.published_as(dst, protocol, src, src_port, external) {
                    return match syn || mid_stream {
                        true => Ok(Some(Opening::answered(tuple, claim))),
                        false => Err(Refused::NotOpening),
                    };
                }
                if rule.is_none() {
                    let opens = (syn || mid_stream) && !is_reply;
                    return Ok(opens.then(|| Opening::routed(tuple)));
                }
                if external.is_ipv4() != tuple.src.is_ipv4() || external.is_unspecified() {
                    return Err(Refused::NoExternalAddress);
                }
                Opening::masqueraded(tuple, external, Kind::Masquerade)
            }
            Path::Inbound => {
                let target = rules
                    .published_to(tuple.src, tuple.protocol, tuple.dst, tuple.dst_port)?
                    .ok_or(Refused::NoMapping)?;
                Opening::published(tuple, target)
            }
            Path::Hairpin => {
                match rules.published_to(tuple.src, tuple.protocol, tuple.dst, tuple.dst_port)? {
                    Some(target) => Opening::hairpin(tuple, target),
                    None if self.is_mapped(&rules, tuple) => {
                        let rule = rules.masquerade(tuple.src);
                        let external = rule.and_then(|rule| rule.to).unwrap_or(tuple.dst);
                        // Its own port being published, it is reached by that one only.
                        let Tuple {
                            protocol,
                            src,
                            src_port,
                            dst,
                            ..
                        } = *tuple;
                        let claim = rules.published_as(dst, protocol, src, src_port, external);
                        if claim.is_some() || external.is_ipv4() != src.is_ipv4() {
                            return Err(Refused::Filtered);
                        }
                        Opening::masqueraded(tuple, external, Kind::HairpinMapped)
                    }
                    None => return Err(Refused::NotPublished),
                }
            }
        };
        if opens {
            Ok(Some(opening))
        } else {
            Err(Refused::NotOpening)
        }
    }

    /// An ICMP error: see [`icmp`](crate::icmp) for the picture.
    fn translate_error(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
    ) -> Result<Translated, Refused> {
        let Some(quote) = Quote::parse(packet) else {
            return self.pass(path, packet, Refused::BadQuote);
        };
        let key = quote.tuple.reversed();
        let found = {
            let shard = self.shard(path, &key).lock();
            shard
                .find(self.hash.tuple(&key), &key)
                .and_then(|(slot, direction)| {
                    let connection = shard.get(slot)?;
                    let fits =
                        belongs(path, connection.kind(), direction) && !connection.is_expired(now);
                    fits.then(|| {
                        let quoted = connection.tuple(direction.other());
                        (connection.original(), connection.kind(), direction, quoted)
                    })
                })
        };
        let found = match found {
            Some((connection, kind @ Kind::HairpinMapped, direction, between)) => self
                .cross_back(now, &between)
                .map(|quoted| (connection, kind, direction, quoted)),
            found => found,
        };
        let Some((connection, kind, direction, quoted)) = found else {
            return self.pass(path, packet, Refused::IcmpUnrelated);
        };
        if !icmp::has_valid_checksum(packet) {
            return Err(Refused::BadIcmpChecksum);
        }
        if !quote.has_valid_checksum(packet) {
            return Err(Refused::BadQuote);
        }
        if kind != Kind::Routed {
            // A router outside keeps its address. Of everything else the receiver sees the address
            // it talked to, and nothing of the inside (RFC 5508 REQ-5).
            let src = match path {
                Path::Inbound if packet.src() != key.src => packet.src(),
                _ => quoted.dst,
            };
            quote.rewrite(packet, &quoted, src, quoted.src);
        }
        Ok(Translated {
            connection,
            kind,
            direction,
            new: false,
        })
    }

    /// A packet that cannot be tracked passes when nothing would have to be translated, and is
    /// refused otherwise.
    pub(super) fn pass(
        &self,
        path: Path,
        packet: &Packet<'_>,
        refused: Refused,
    ) -> Result<Translated, Refused> {
        let (protocol, src, dst) = (packet.protocol(), packet.src(), packet.dst());
        let rules = self.rules.load();
        match path {
            Path::Outbound { .. }
                if rules.masquerade(src).is_some() || rules.claims_any(protocol, src) =>
            {
                Err(refused)
            }
            Path::Outbound { .. } => Ok(Translated {
                connection: packet.tuple().unwrap_or(Tuple {
                    src,
                    dst,
                    src_port: 0,
                    dst_port: 0,
                    protocol,
                }),
                kind: Kind::Routed,
                direction: Direction::Original,
                new: false,
            }),
            // It may be a piece of a flow's packet, or of the host's own.
            Path::Inbound if refused == Refused::Fragment => Err(Refused::Fragment),
            Path::Inbound if matches!(refused, Refused::BadQuote | Refused::FragmentedError) => {
                Err(refused)
            }
            Path::Inbound => Err(Refused::NoMapping),
            Path::Hairpin if refused == Refused::Fragment && rules.publishes_any(protocol, dst) => {
                Err(Refused::Fragment)
            }
            Path::Hairpin => Err(Refused::NotPublished),
        }
    }
}

/// Whether packets of this direction of such a connection come by this path. One that comes by
/// another has a forged address: a reply from inside, or an inside address on the wire.
fn belongs(path: Path, kind: Kind, direction: Direction) -> bool {
    match (kind, direction) {
        (Kind::Masquerade | Kind::Routed, Direction::Original)
        | (Kind::Publish(_), Direction::Reply) => matches!(path, Path::Outbound { .. }),
        (Kind::Masquerade | Kind::Routed, Direction::Reply)
        | (Kind::Publish(_), Direction::Original) => path == Path::Inbound,
        (Kind::Hairpin(_), _) | (Kind::HairpinMapped, Direction::Original) => path == Path::Hairpin,
        // What comes back to a half has crossed the other, and comes by no path.
        (Kind::HairpinMapped, Direction::Reply) => false,
    }
}
