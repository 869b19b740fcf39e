//! TCP as a bystander sees it: what each side has shown of itself, in so many words.

use nat::Direction;

use super::wire::{ACK, FIN, RST, SYN, Segment};

#[derive(Debug, Clone, Copy, Default)]
struct Side {
    /// Its SYN has been seen, or what proves it.
    syn: bool,
    /// What it has acknowledged last, having sent its own SYN.
    acked: Option<u32>,
    /// The window it gave with that, in units of its scale.
    window: u32,
    /// How far its windows are shifted, once its SYN has told.
    scale: Option<u32>,
    fin: bool,
    /// The other side has acknowledged its FIN.
    fin_acked: bool,
    /// The highest sequence number after what it has sent.
    end: Option<u32>,
}

impl Side {
    /// RFC 7323 section 2.3: no window is shifted further than by 14.
    fn shift(&self) -> u32 {
        self.scale.unwrap_or(14)
    }

    /// Bytes of the widest window it could ever give.
    fn widest(&self) -> i64 {
        0xffff << self.shift()
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tcp {
    sides: [Side; 2],
    reset: bool,
    /// The last segment that was in no window: whose it was, and its end.
    stray: Option<(usize, u32)>,
    strayed: bool,
}

/// What is made of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Believed,
    OutOfWindow,
    ImplausibleReset,
}

/// How far `a` is after `b`: sequence numbers are a circle, and it is the shorter way round.
fn after(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b) as i32)
}

/// Flags that some conforming sender makes (RFC 9293).
pub(crate) fn makes_sense(flags: u8) -> bool {
    let meaningful = [SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, ACK];
    meaningful.contains(&(flags & (SYN | ACK | FIN | RST)))
}

fn end_of(segment: Segment) -> u32 {
    let flags = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    segment
        .sequence
        .wrapping_add(u32::from(segment.payload) + flags)
}

impl Tcp {
    pub(crate) fn has_strayed(&self) -> bool {
        self.strayed
    }

    pub(crate) fn hear(&mut self, from: Direction, segment: Segment) -> Heard {
        let (me, you) = (from.index(), from.other().index());
        let has = |flag| segment.flags & flag != 0;
        if has(RST) {
            // RFC 5961 section 3: where the receiver expects the next byte, as far as we can
            // tell, or in answer to a SYN.
            let (mine, yours) = (&self.sides[me], &self.sides[you]);
            let expected = [mine.end, yours.acked].contains(&Some(segment.sequence));
            let refuses =
                mine.end.is_none() && has(ACK) && yours.end == Some(segment.acknowledgement);
            if !expected && !refuses {
                return Heard::ImplausibleReset;
            }
            self.reset = true;
            return Heard::Believed;
        }
        let unanswered = self.sides[me].end.is_some() && self.sides[you].end.is_none();
        if has(SYN) && !has(ACK) && unanswered {
            *self = Tcp::default();
        }
        if !self.is_in_window(me, you, segment) {
            let agreed = self
                .stray
                .filter(|&stray| has(ACK) && stray == (you, segment.acknowledgement));
            let Some((_, end)) = agreed else {
                self.stray = Some((me, end_of(segment)));
                self.strayed = true;
                return Heard::OutOfWindow;
            };
            *self = Tcp {
                strayed: true,
                ..Tcp::default()
            };
            self.sides[you].end = Some(end);
        }
        if has(SYN) {
            if self.sides[me].end.is_none() {
                self.sides[me].scale = Some(u32::from(segment.scale.unwrap_or(0).min(14)));
                if has(ACK) && segment.scale.is_none() {
                    self.sides[you].scale = Some(0);
                }
            }
            self.sides[me].syn = true;
            self.sides[you].syn |= has(ACK);
        } else {
            // RFC 7857 section 2: traffic after a RST means that it was not believed.
            self.reset = false;
        }
        let end = end_of(segment);
        if self.sides[me].end.is_none_or(|old| after(end, old) > 0) {
            self.sides[me].end = Some(end);
        }
        if has(ACK) {
            let acknowledgement = segment.acknowledgement;
            // A bare ACK against our SYN is a challenge (RFC 5961 section 4), unless no SYN was
            // seen at all: then the connection is older than we are.
            let picked_up = !self.sides[me].syn && !self.sides[you].syn;
            let mine = &mut self.sides[me];
            let newer = mine
                .acked
                .is_none_or(|old| after(acknowledgement, old) >= 0);
            if (mine.syn || picked_up) && newer {
                mine.acked = Some(acknowledgement);
                mine.window = u32::from(segment.window);
                if has(SYN) {
                    // It is not scaled in a SYN, so it is brought to units, rounded up.
                    mine.window = (mine.window + (1 << mine.shift()) - 1) >> mine.shift();
                }
            }
            let yours = &mut self.sides[you];
            yours.fin_acked |= yours.fin && after(acknowledgement, yours.end.unwrap_or(0)) >= 0;
        }
        self.sides[me].fin |= has(FIN);
        Heard::Believed
    }

    /// Whether the other side may take the segment.
    fn is_in_window(&self, me: usize, you: usize, segment: Segment) -> bool {
        let (mine, yours) = (&self.sides[me], &self.sides[you]);
        let has = |flag| segment.flags & flag != 0;
        if has(SYN) {
            let first_or_copy = match mine.end {
                Some(end) => (1..=0xffff).contains(&after(end, segment.sequence)),
                None => has(ACK) || yours.end.is_none() || yours.syn,
            };
            // All but the data of a SYN with Fast Open.
            let slack = if mine.end.is_some() { 0xffff } else { 1460 };
            let answers = match yours.end {
                Some(end) if has(ACK) => (0..=slack).contains(&after(end, segment.acknowledgement)),
                _ => true,
            };
            return first_or_copy && answers;
        }
        if mine.end.is_none() && !mine.syn && yours.syn {
            return false;
        }
        if let (Some(end), Some(acked)) = (mine.end, yours.acked) {
            let window = i64::from(yours.window) << yours.shift();
            if after(segment.sequence, acked) > window
                || after(end, end_of(segment)) > yours.widest()
            {
                return false;
            }
        }
        yours
            .end
            .is_none_or(|end| (0..=mine.widest()).contains(&after(end, segment.acknowledgement)))
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
        } else if both(|side| side.acked.is_some()) {
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
