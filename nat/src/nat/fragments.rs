//! What happens to a fragment: the first one of a datagram is translated like a packet of its flow,
//! the others follow it. See [`fragment`](crate::fragment) for what is kept of them.

use super::{Nat, Path, Translated};
use crate::fragment::{Key, Lead, Place};
use crate::layout::is_extension;
use crate::packet::{Content, Packet};
use crate::refused::Refused;
use crate::time::Time;
use crate::tuple::Tuple;

impl Nat {
    /// Translates a fragment in place; a whole packet too, as [`translate`](Nat::translate) does.
    ///
    /// None when the fragment came before the first one of its datagram. The engine then holds a
    /// copy, and the packet is untouched. When the first one comes, and whatever becomes of it, the
    /// copies are appended to `released`: each a packet from its IP header on, as it came in. Hand
    /// them in again behind the first one, by the same path.
    ///
    /// The datagram gets an identification of its own when its addresses change. Only the first
    /// fragment counts for its connection, and refreshes it.
    ///
    /// # Errors
    /// [`Refused`] says why not; the packet is then untouched. What was refused to the first
    /// fragment is refused to all.
    pub fn translate_fragment(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
        released: &mut Vec<Box<[u8]>>,
    ) -> Result<Option<Translated>, Refused> {
        let Some(piece) = packet.piece() else {
            return self.translate(now, path, packet).map(Some);
        };
        // Nothing would be translated, and there is no flow to find: it just passes. Behind an
        // extension header of IPv6 the protocol is not known yet, so there the first one decides.
        if matches!(path, Path::Outbound { .. })
            && (packet.is_ipv4() || !is_extension(packet.protocol()))
            && let Ok(passed) = self.pass(path, packet, Refused::Fragment)
        {
            return Ok(Some(passed));
        }
        let key = Key::new(path, packet, &piece);
        // Held until the end, so that what comes meanwhile by another worker finds either nothing
        // or the first one's outcome.
        let mut fragments = self.fragments.lock();
        match fragments.place(now, &self.limits, key, &piece, packet)? {
            Place::Held => Ok(None),
            Place::Behind(lead) => Ok(Some(lead.apply(packet))),
            Place::First => {
                let before = (packet.src(), packet.dst());
                let tuple = packet.head().ok().and_then(|head| head.tuple());
                let outcome = self.translate_first(now, path, packet).map(|translated| {
                    let (src, dst) = (packet.src(), packet.dst());
                    let identification = ((src, dst) != before)
                        .then(|| fragments.fresh_identification(packet.is_ipv4()));
                    if let Some(identification) = identification {
                        packet.set_identification(identification);
                    }
                    Lead {
                        tuple,
                        translated,
                        src,
                        dst,
                        identification,
                    }
                });
                released.extend(fragments.decide(key, &piece, outcome));
                outcome.map(|lead| Some(lead.translated))
            }
        }
    }

    /// The flow of a packet from inside, as its sender sees it. All fragments of a datagram have
    /// that of the first one; those that come before it have none.
    pub fn flow(&self, packet: &mut Packet<'_>) -> Option<Tuple> {
        let Some(piece) = packet.piece() else {
            return packet.tuple();
        };
        if piece.offset == 0 {
            return packet.head().ok()?.tuple();
        }
        let external = packet.src();
        let key = Key::new(Path::Outbound { external }, packet, &piece);
        self.fragments.lock().tuple(&key)
    }

    /// How many held fragments were dropped since the last call: because the first one of their
    /// datagram did not come in time, because of an overlap, or because others needed the room.
    /// They have no other trace, so ask about once a second and count them as
    /// [`Refused::FragmentUnfinished`].
    pub fn lost_fragments(&self, now: Time) -> usize {
        let mut fragments = self.fragments.lock();
        fragments.expire(now, &self.limits);
        fragments.take_lost()
    }

    /// An identification for an IPv4 packet that the caller cuts into fragments, of the same kind as
    /// those that the engine gives: no other datagram has had it for long.
    pub fn fresh_identification(&self) -> u16 {
        self.fragments.lock().fresh_identification(true) as u16
    }

    fn translate_first(
        &self,
        now: Time,
        path: Path,
        packet: &mut Packet<'_>,
    ) -> Result<Translated, Refused> {
        let mut head = packet.head().map_err(|_| Refused::FragmentTiny)?;
        match head.content() {
            // Its checksum covers the fragments to come, so there is no telling whether it is
            // sound; and an error fits into 576 bytes, or 1280 of IPv6 (RFC 1812 section 4.3.2.3,
            // RFC 4443 section 2.4).
            Content::IcmpError => self.pass(path, &head, Refused::FragmentedError),
            _ => self.translate(now, path, &mut head),
        }
    }
}
