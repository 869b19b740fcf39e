//! The state of a TCP connection as a bystander sees it.
//!
//! Tracking is liberal: no segment is dropped for its sequence number, and none is answered. But
//! one that lies in no window of its receiver, which will not take it either, is marked, and
//! changes nothing: neither the state nor any time. What the receiver's window is we know from its
//! acknowledgements, and from the scale in its SYN (RFC 7323 section 2.2); of a connection that was
//! picked up in mid-stream we assume the widest.
//!
//! The states are those of RFC 6146 section 3.5.2 with names people know. A RST is believed if it
//! is exactly where its receiver expects the next byte, as RFC 5961 section 3 asks of the receiver
//! itself; it shortens the timeout and deletes nothing, and traffic after it brings the connection
//! back (RFC 7857 section 2).
//!
//! Both ends may know better: a host that crashed opens the connection anew while we, and its peer,
//! still have the old one. So the last stray segment is remembered, and when the other side
//! acknowledges exactly that one, the two of them agree, and we begin again with their numbers. A
//! stranger who guesses can send one half of that, but not the other.

use pnet_packet::tcp::TcpFlags::{ACK, FIN, RST, SYN};

use super::Direction;

/// What tracking needs of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// Payload in bytes.
    pub(crate) payload: u32,
    /// The window field as it stands there, unscaled.
    pub(crate) window: u16,
    /// The window scale option of a SYN.
    pub(crate) scale: Option<u8>,
}

impl Segment {
    /// Whether the flags make sense: SYN, SYN-ACK, RST, RST-ACK, FIN-ACK or ACK, with any of PSH,
    /// URG, ECE and CWR. Scanners send the rest.
    pub(crate) fn is_valid(&self) -> bool {
        let kind = self.flags & (SYN | ACK | FIN | RST);
        kind == SYN
            || kind == SYN | ACK
            || kind == RST
            || kind == RST | ACK
            || kind == FIN | ACK
            || kind == ACK
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The first segment of a connection.
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// A segment that proves a connection which we have not seen begin, for its sender's side to
    /// be picked up. A SYN-ACK is one: its sender accepted a SYN that came before a restart.
    pub(crate) fn is_mid_stream(&self) -> bool {
        self.has(ACK) && !self.has(RST)
    }

    pub(crate) fn is_syn_ack(&self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// The sequence number after this segment: SYN and FIN count as one byte each.
    fn end(&self) -> u32 {
        self.sequence
            .wrapping_add(self.payload)
            .wrapping_add(u32::from(self.has(SYN)) + u32::from(self.has(FIN)))
    }
}

/// What became of a segment in the books; it is passed on in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Believed,
    /// In no window of its receiver.
    OutOfWindow,
    /// A RST that is not exactly where its receiver expects the next byte.
    ImplausibleReset,
}

/// A state's name, for people and for timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcpState {
    /// Picked up in mid-stream, seen from one side.
    PickedUp,
    SynSent,
    SynReceived,
    Established,
    /// One side has sent FIN: half-closed, which may last.
    FinWait,
    /// Both have sent FIN, not both are acknowledged.
    Closing,
    TimeWait,
    /// A plausible RST was the last that was heard.
    Reset,
}

impl TcpState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            TcpState::PickedUp => "picked-up",
            TcpState::SynSent => "syn-sent",
            TcpState::SynReceived => "syn-received",
            TcpState::Established => "established",
            TcpState::FinWait => "fin-wait",
            TcpState::Closing => "closing",
            TcpState::TimeWait => "time-wait",
            TcpState::Reset => "reset",
        }
    }
}

/// The largest shift of a window (RFC 7323 section 2.3): what is assumed of a side whose SYN we
/// have not seen.
const WIDEST: u8 = 14;

/// How far behind a segment may be at least, in bytes, whatever the window: keep-alives and late
/// copies are no strays.
const BEHIND: i32 = 0xffff;

/// How much less than all a SYN-ACK may acknowledge: the data of a SYN with Fast Open (RFC 7413),
/// which has to fit in one segment.
const FAST_OPEN: i32 = 1460;

/// Per-direction marks, each two bits wide: bit 0 for the original direction, bit 1 for the reply.
const SEEN_SYN: u16 = 1;
/// An ACK that counts: of a side whose SYN we know, or of a connection picked up.
const SEEN_ACK: u16 = 1 << 2;
const SEEN_FIN: u16 = 1 << 4;
/// The direction's FIN has been acknowledged by the other.
const FIN_ACKED: u16 = 1 << 6;
/// `end` of the direction is known.
const KNOWN: u16 = 1 << 8;
/// `stray` is the end of a segment of this direction.
const STRAYED: u16 = 1 << 10;
/// For both directions at once.
const RESET: u16 = 1 << 12;
const OUT_OF_WINDOW: u16 = 1 << 13;
/// What the direction has acknowledged, and its window, are not known any more: its connection was
/// stored by an earlier process.
const STALE: u16 = 1 << 14;

/// The state of one connection, in 28 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp {
    /// For each direction, the highest sequence number after what it has sent.
    end: [u32; 2],
    /// For each direction, the highest acknowledgement it has sent, if `SEEN_ACK` is set.
    acked: [u32; 2],
    /// The end of the last segment that was in no window.
    stray: u32,
    /// For each direction, the window it gave with `acked`, to be shifted by `scale`.
    window: [u16; 2],
    scale: [u8; 2],
    seen: u16,
}

impl Default for Tcp {
    fn default() -> Tcp {
        Tcp {
            end: [0; 2],
            acked: [0; 2],
            stray: 0,
            window: [0; 2],
            scale: [WIDEST; 2],
            seen: 0,
        }
    }
}

/// How far sequence number `a` is after `b`: the numbers are a circle, and it is the shorter way
/// round.
fn after(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b).cast_signed()
}

fn reaches(a: u32, b: u32) -> bool {
    after(a, b) >= 0
}

impl Tcp {
    fn has(&self, mark: u16, direction: Direction) -> bool {
        self.seen & (mark << direction.index()) != 0
    }

    fn has_both(&self, mark: u16) -> bool {
        self.seen & (mark * 3) == mark * 3
    }

    fn has_any(&self, mark: u16) -> bool {
        self.seen & (mark * 3) != 0
    }

    fn set(&mut self, mark: u16, direction: Direction) {
        self.seen |= mark << direction.index();
    }

    /// Whether any segment of the connection was marked as out of window.
    pub(crate) fn has_been_out_of_window(&self) -> bool {
        self.seen & OUT_OF_WINDOW != 0
    }

    /// Takes note of a valid segment. Only one that is believed changes the state.
    pub(crate) fn handle(&mut self, from: Direction, segment: &Segment) -> Heard {
        if segment.has(RST) {
            return self.handle_reset(from, segment);
        }
        let to = from.other();
        if segment.is_syn() && self.has(KNOWN, from) && !self.has(KNOWN, to) {
            // Nobody has answered the last SYN, and this is a new attempt or a copy.
            *self = Tcp::default();
        } else if !self.is_in_window(from, segment) {
            let confirms =
                segment.has(ACK) && self.has(STRAYED, to) && segment.acknowledgement == self.stray;
            if !confirms {
                self.stray = segment.end();
                self.seen &= !(STRAYED * 3);
                self.set(STRAYED, from);
                self.seen |= OUT_OF_WINDOW;
                return Heard::OutOfWindow;
            }
            let agreed = self.stray;
            *self = Tcp::default();
            self.end[to.index()] = agreed;
            self.set(KNOWN, to);
            self.seen |= OUT_OF_WINDOW;
        }
        if segment.has(SYN) {
            self.handle_syn(from, segment);
        } else {
            // Whoever got the RST did not believe it: a challenge ACK, or data.
            self.seen &= !RESET;
        }
        let (at, end) = (from.index(), segment.end());
        if !self.has(KNOWN, from) || reaches(end, self.end[at]) {
            self.end[at] = end;
            self.set(KNOWN, from);
        }
        if segment.has(ACK) {
            self.handle_ack(from, segment);
        }
        if segment.has(FIN) {
            self.set(SEEN_FIN, from);
        }
        Heard::Believed
    }

    /// RFC 5961 section 3.2 makes the receiver answer a RST that is in its window but not at the
    /// very place with a challenge; nothing has happened until it gets the right one.
    fn handle_reset(&mut self, from: Direction, segment: &Segment) -> Heard {
        let to = from.other();
        let at_the_place = self.has(SEEN_ACK, to)
            && !self.has(STALE, to)
            && segment.sequence == self.acked[to.index()];
        // Right behind what its sender has sent, the acknowledgement being under way.
        let at_the_end = self.has(KNOWN, from) && segment.sequence == self.end[from.index()];
        // A connection that is refused: it has no number of its own (RFC 9293 section 3.10.7.1).
        let refusal = !self.has(KNOWN, from)
            && self.has(KNOWN, to)
            && segment.has(ACK)
            && segment.acknowledgement == self.end[to.index()];
        if at_the_place || at_the_end || refusal {
            self.seen |= RESET;
            Heard::Believed
        } else {
            Heard::ImplausibleReset
        }
    }

    /// The window that this side gave last, in bytes: less than a gigabyte.
    fn window(&self, side: Direction) -> i32 {
        i32::from(self.window[side.index()]) << self.scale[side.index()]
    }

    /// The widest window that this side could give, in bytes.
    fn widest(&self, side: Direction) -> i32 {
        BEHIND << self.scale[side.index()]
    }

    /// Whether the receiver might take this segment. What we cannot know counts for it.
    fn is_in_window(&self, from: Direction, segment: &Segment) -> bool {
        let to = from.other();
        let (from_known, to_known) = (self.has(KNOWN, from), self.has(KNOWN, to));
        let (sent, received) = (self.end[from.index()], self.end[to.index()]);
        if segment.has(SYN) {
            // A first SYN in answer to one, or a copy. Another SYN is of another connection, and
            // is answered with a challenge (RFC 5961 section 4.2).
            let fits = if from_known {
                (1..=BEHIND).contains(&after(sent, segment.sequence))
            } else {
                !to_known || self.has(SEEN_SYN, to) || segment.has(ACK)
            };
            let early = if from_known { BEHIND } else { FAST_OPEN };
            let acknowledges = !segment.has(ACK)
                || !to_known
                || (0..=early).contains(&after(received, segment.acknowledgement));
            return fits && acknowledges;
        }
        if !from_known && self.has(SEEN_SYN, to) && !self.has(SEEN_SYN, from) {
            // In place of a SYN-ACK a bare ACK: of an older connection, a challenge (RFC 5961
            // section 4.2). It has the wrong numbers, and establishes nothing.
            return false;
        }
        if from_known && self.has(SEEN_ACK, to) && !self.has(STALE, to) {
            // Acknowledgements that we have seen may have been lost after us, so the sender may
            // be a whole window behind.
            let fits = after(segment.sequence, self.acked[to.index()]) <= self.window(to)
                && after(sent, segment.end()) <= self.widest(to);
            if !fits {
                return false;
            }
        }
        !to_known || (0..=self.widest(from)).contains(&after(received, segment.acknowledgement))
    }

    fn handle_syn(&mut self, from: Direction, segment: &Segment) {
        let to = from.other();
        self.set(SEEN_SYN, from);
        if segment.has(ACK) {
            // It answers a SYN, even one that we have not seen.
            self.set(SEEN_SYN, to);
        }
        // A copy has nothing new to say.
        if !self.has(KNOWN, from) {
            self.scale[from.index()] = segment.scale.unwrap_or(0).min(WIDEST);
            if segment.has(ACK) && segment.scale.is_none() {
                // Windows are scaled if both sides say so.
                self.scale[to.index()] = 0;
            }
        }
    }

    fn handle_ack(&mut self, from: Direction, segment: &Segment) {
        let acknowledgement = segment.acknowledgement;
        let at = from.index();
        if self.has(SEEN_SYN, from) || !self.has_any(SEEN_SYN) {
            let first = !self.has(SEEN_ACK, from) || self.has(STALE, from);
            if first || reaches(acknowledgement, self.acked[at]) {
                self.acked[at] = acknowledgement;
                self.window[at] = if segment.has(SYN) {
                    // The window of a SYN is never scaled.
                    let unit = 1u32 << self.scale[at];
                    // At most the field itself.
                    u32::from(segment.window).div_ceil(unit) as u16
                } else {
                    segment.window
                };
            }
            self.set(SEEN_ACK, from);
            self.seen &= !(STALE << at);
        }
        let to = from.other();
        if self.has(SEEN_FIN, to) && reaches(acknowledgement, self.end[to.index()]) {
            self.set(FIN_ACKED, to);
        }
    }

    /// What outlives a process of it: see [`record`](super::record).
    pub(crate) fn store(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..2].copy_from_slice(&self.seen.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.scale);
        bytes[4..8].copy_from_slice(&self.end[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.end[1].to_le_bytes());
        bytes
    }

    pub(crate) fn restore(bytes: [u8; 12]) -> Tcp {
        let [s0, s1, scale0, scale1, a0, a1, a2, a3, b0, b1, b2, b3] = bytes;
        let marks = u16::from_le_bytes([s0, s1]);
        // Behind a FIN nothing comes, so there the end still holds.
        let finished = (marks / SEEN_FIN) & 3;
        let known = (finished * KNOWN) & marks;
        let kept = ((SEEN_SYN | SEEN_ACK | SEEN_FIN | FIN_ACKED) * 3) | OUT_OF_WINDOW;
        Tcp {
            end: [[a0, a1, a2, a3], [b0, b1, b2, b3]].map(u32::from_le_bytes),
            scale: [scale0, scale1].map(|scale| scale.min(WIDEST)),
            seen: (marks & kept) | known | (STALE * 3),
            ..Tcp::default()
        }
    }

    pub(crate) fn state(&self) -> TcpState {
        if self.seen & RESET != 0 {
            TcpState::Reset
        } else if self.has_both(FIN_ACKED) {
            TcpState::TimeWait
        } else if self.has_both(SEEN_FIN) {
            TcpState::Closing
        } else if !self.has_both(SEEN_ACK) {
            if self.has_both(SEEN_SYN) {
                TcpState::SynReceived
            } else if self.has_any(SEEN_SYN) {
                TcpState::SynSent
            } else {
                TcpState::PickedUp
            }
        } else if self.has_any(SEEN_FIN) {
            TcpState::FinWait
        } else {
            TcpState::Established
        }
    }
}

#[cfg(test)]
mod tests;
