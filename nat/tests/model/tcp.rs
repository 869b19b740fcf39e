//! TCP as a bystander sees it: what each side has shown of itself, in so many words.

use nat::Direction;

use super::wire::{ACK, FIN, RST, SYN, Segment};

#[derive(Debug, Clone, Copy, Default)]
struct Side {
    /// Its SYN has been seen, or what proves it.
    syn: bool,
    /// It has acknowledged something, having sent its own SYN.
    ack: bool,
    fin: bool,
    /// The other side has acknowledged its FIN.
    fin_acked: bool,
    /// The highest sequence number after what it has sent.
    end: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tcp {
    sides: [Side; 2],
    reset: bool,
}

/// Whether `a` is after `b` or the same, sequence numbers being a circle.
fn reaches(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

/// Flags that some conforming sender makes (RFC 9293).
pub(crate) fn makes_sense(flags: u8) -> bool {
    let meaningful = [SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, ACK];
    meaningful.contains(&(flags & (SYN | ACK | FIN | RST)))
}

impl Tcp {
    /// False when it is a RST too far from what its sender has sent (RFC 5961 section 3).
    pub(crate) fn hear(&mut self, from: Direction, segment: Segment) -> bool {
        let (me, you) = (from.index(), from.other().index());
        let has = |flag| segment.flags & flag != 0;
        if has(RST) {
            if let Some(end) = self.sides[me].end {
                let ahead = segment.sequence.wrapping_sub(end);
                let behind = end.wrapping_sub(segment.sequence);
                if ahead.min(behind) > 1 << 20 {
                    return false;
                }
            }
            self.reset = true;
            return true;
        }
        if has(SYN) {
            self.sides[me].syn = true;
            self.sides[you].syn |= has(ACK);
        } else {
            // RFC 7857 section 2: traffic after a RST means that it was not believed.
            self.reset = false;
        }
        let end = segment
            .sequence
            .wrapping_add(u32::from(segment.payload))
            .wrapping_add(u32::from(has(SYN)))
            .wrapping_add(u32::from(has(FIN)));
        if self.sides[me].end.is_none_or(|old| reaches(end, old)) {
            self.sides[me].end = Some(end);
        }
        if has(ACK) {
            // A bare ACK against our SYN is a challenge (RFC 5961 section 4), unless no SYN was
            // seen at all: then the connection is older than we are.
            let picked_up = !self.sides[me].syn && !self.sides[you].syn;
            self.sides[me].ack |= self.sides[me].syn || picked_up;
            let yours = &mut self.sides[you];
            let end = yours.end.unwrap_or(0);
            yours.fin_acked |= yours.fin && reaches(segment.acknowledgement, end);
        }
        self.sides[me].fin |= has(FIN);
        true
    }

    pub(crate) fn state(&self) -> &'static str {
        let both = |what: fn(&Side) -> bool| self.sides.iter().all(what);
        let any = |what: fn(&Side) -> bool| self.sides.iter().any(what);
        if self.reset {
            "reset"
        } else if both(|side| side.fin_acked) {
            "time-wait"
        } else if both(|side| side.fin) {
            "closing"
        } else if both(|side| side.ack) {
            if any(|side| side.fin) {
                "fin-wait"
            } else {
                "established"
            }
        } else if both(|side| side.syn) {
            "syn-received"
        } else if any(|side| side.syn) {
            "syn-sent"
        } else {
            "picked-up"
        }
    }
}
