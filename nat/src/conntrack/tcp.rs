//! The state of a TCP connection as a bystander sees it.
//!
//! Tracking is liberal: no segment is dropped for its sequence number. The numbers decide only two
//! things, whether a FIN has been acknowledged and whether a RST can be genuine. The states are
//! those of RFC 6146 section 3.5.2 with names people know: a RST shortens the timeout and deletes
//! nothing, and traffic after it brings the connection back (RFC 7857 section 2).

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

    /// The first segment of a connection.
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// A segment that proves a connection which we have not seen begin, for its sender's side to
    /// be picked up. A SYN-ACK is one: its sender accepted a SYN that came before a restart.
    pub(crate) fn is_mid_stream(&self) -> bool {
        self.flags & ACK != 0 && self.flags & RST == 0
    }

    pub(crate) fn is_syn_ack(&self) -> bool {
        self.flags & (SYN | ACK) == SYN | ACK
    }

    /// The sequence number after this segment: SYN and FIN count as one byte each.
    fn end(&self) -> u32 {
        let syn = u32::from(self.flags & SYN != 0);
        let fin = u32::from(self.flags & FIN != 0);
        self.sequence
            .wrapping_add(self.payload)
            .wrapping_add(syn + fin)
    }
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

/// How far a RST's sequence number may be from the end of what its sender has sent: behind it by
/// what is in flight, ahead of it by what was lost before it came to us. A blind guess hits with a
/// chance of 1 in 2048.
const RST_WINDOW: i32 = 1 << 20;

/// Per-direction marks, each two bits wide: bit 0 for the original direction, bit 1 for the reply.
const SEEN_SYN: u16 = 1;
/// An ACK that counts: of a side whose SYN we know, or of a connection picked up.
const SEEN_ACK: u16 = 1 << 2;
const SEEN_FIN: u16 = 1 << 4;
/// The direction's FIN has been acknowledged by the other.
const FIN_ACKED: u16 = 1 << 6;
/// `end` of the direction is known.
const KNOWN: u16 = 1 << 8;
/// For both directions at once.
const RESET: u16 = 1 << 10;

/// The state of one connection: 10 bytes, packed because padding would cost 8 bytes a connection.
#[derive(Debug, Clone, Copy, Default)]
#[repr(Rust, packed(2))]
pub(crate) struct Tcp {
    /// For each direction, the highest sequence number after what it has sent.
    end: [u32; 2],
    seen: u16,
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

    /// Takes note of a valid segment. False when it is a RST that can't be genuine, which changes
    /// nothing: it is passed on, and its receiver decides (RFC 5961 section 3).
    pub(crate) fn handle(&mut self, from: Direction, segment: &Segment) -> bool {
        let at = from.index();
        if segment.flags & RST != 0 {
            let distance = segment.sequence.wrapping_sub(self.end[at]) as i32;
            if self.has(KNOWN, from) && !(-RST_WINDOW..=RST_WINDOW).contains(&distance) {
                return false;
            }
            self.seen |= RESET;
            return true;
        }
        if segment.flags & SYN != 0 {
            self.set(SEEN_SYN, from);
            if segment.flags & ACK != 0 {
                // It answers a SYN, even one that we have not seen.
                self.set(SEEN_SYN, from.other());
            }
        } else {
            // Whoever got the RST did not believe it: a challenge ACK, or data.
            self.seen &= !RESET;
        }
        let end = segment.end();
        if !self.has(KNOWN, from) || end.wrapping_sub(self.end[at]) as i32 > 0 {
            self.end[at] = end;
            self.set(KNOWN, from);
        }
        if segment.flags & ACK != 0 {
            self.handle_ack(from, segment.acknowledgement);
        }
        if segment.flags & FIN != 0 {
            self.set(SEEN_FIN, from);
        }
        true
    }

    fn handle_ack(&mut self, from: Direction, acknowledgement: u32) {
        // While we wait for a SYN-ACK, a bare ACK is a challenge (RFC 5961 section 4): it does not
        // establish anything.
        if self.has(SEEN_SYN, from) || !self.has_any(SEEN_SYN) {
            self.set(SEEN_ACK, from);
        }
        let to = from.other();
        let beyond = acknowledgement.wrapping_sub(self.end[to.index()]) as i32;
        if self.has(SEEN_FIN, to) && beyond >= 0 {
            self.set(FIN_ACKED, to);
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
mod tests {
    use super::Direction::{Original, Reply};
    use super::*;

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
        Segment {
            flags,
            sequence,
            acknowledgement,
            payload,
        }
    }

    /// Both initial sequence numbers are close to the wrap.
    const HERE: u32 = u32::MAX - 5;
    const THERE: u32 = u32::MAX;

    fn established() -> Tcp {
        let mut tcp = Tcp::default();
        tcp.handle(Original, &segment(SYN, HERE, 0, 0));
        assert_eq!(tcp.state(), TcpState::SynSent);
        tcp.handle(Reply, &segment(SYN | ACK, THERE, HERE.wrapping_add(1), 0));
        assert_eq!(tcp.state(), TcpState::SynReceived);
        tcp.handle(
            Original,
            &segment(ACK, HERE.wrapping_add(1), THERE.wrapping_add(1), 0),
        );
        assert_eq!(tcp.state(), TcpState::Established);
        tcp
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut tcp = established();
        let (here, there) = (HERE.wrapping_add(1), THERE.wrapping_add(1));
        tcp.handle(Original, &segment(FIN | ACK, here, there, 100));
        assert_eq!(tcp.state(), TcpState::FinWait);
        let after = here.wrapping_add(101);
        // An acknowledgement of the data, not of the FIN.
        tcp.handle(Reply, &segment(FIN | ACK, there, after.wrapping_sub(1), 0));
        assert_eq!(tcp.state(), TcpState::Closing);
        tcp.handle(Reply, &segment(ACK, there.wrapping_add(1), after, 0));
        assert_eq!(tcp.state(), TcpState::Closing);
        tcp.handle(Original, &segment(ACK, after, there.wrapping_add(1), 0));
        assert_eq!(tcp.state(), TcpState::TimeWait);
    }

    #[test]
    fn rfc_5382_req_2_simultaneous_open_completes() {
        let mut tcp = Tcp::default();
        tcp.handle(Original, &segment(SYN, 100, 0, 0));
        tcp.handle(Reply, &segment(SYN, 900, 0, 0));
        assert_eq!(tcp.state(), TcpState::SynReceived);
        tcp.handle(Original, &segment(SYN | ACK, 100, 901, 0));
        tcp.handle(Reply, &segment(SYN | ACK, 900, 101, 0));
        assert_eq!(tcp.state(), TcpState::Established);
    }

    #[test]
    fn rfc_7857_traffic_after_a_reset_brings_the_connection_back() {
        let mut tcp = established();
        let here = HERE.wrapping_add(1);
        assert!(tcp.handle(Original, &segment(RST, here, 0, 0)));
        assert_eq!(tcp.state(), TcpState::Reset);
        tcp.handle(Reply, &segment(ACK, THERE.wrapping_add(1), here, 0));
        assert_eq!(tcp.state(), TcpState::Established);
    }

    #[test]
    fn a_blind_reset_changes_nothing() {
        let mut tcp = established();
        assert!(!tcp.handle(Reply, &segment(RST, THERE.wrapping_add(1 << 21), 0, 0)));
        assert!(!tcp.handle(
            Reply,
            &segment(RST | ACK, THERE.wrapping_sub(1 << 21), 0, 0)
        ));
        assert_eq!(tcp.state(), TcpState::Established);
        assert!(tcp.handle(Reply, &segment(RST, THERE.wrapping_add(5000), 0, 0)));
        assert_eq!(tcp.state(), TcpState::Reset);
    }

    #[test]
    fn a_refused_connection_is_reset_whatever_the_sequence_number() {
        let mut tcp = Tcp::default();
        tcp.handle(Original, &segment(SYN, 123_456_789, 0, 0));
        assert!(tcp.handle(Reply, &segment(RST | ACK, 0, 123_456_790, 0)));
        assert_eq!(tcp.state(), TcpState::Reset);
    }

    #[test]
    fn rfc_5961_a_challenge_ack_does_not_advance_the_state() {
        let mut tcp = Tcp::default();
        tcp.handle(Original, &segment(SYN, 100, 0, 0));
        tcp.handle(Reply, &segment(ACK, 77_000, 55_000, 0));
        tcp.handle(Original, &segment(ACK, 101, 77_000, 0));
        assert_eq!(tcp.state(), TcpState::SynSent);
        // And a SYN within an established connection does not either.
        let mut tcp = established();
        tcp.handle(Original, &segment(SYN, 7, 0, 0));
        assert_eq!(tcp.state(), TcpState::Established);
    }

    #[test]
    fn picked_up_in_the_middle() {
        let mut tcp = Tcp::default();
        tcp.handle(Original, &segment(ACK, 100, 200, 10));
        assert_eq!(tcp.state(), TcpState::PickedUp);
        tcp.handle(Reply, &segment(ACK, 200, 110, 0));
        assert_eq!(tcp.state(), TcpState::Established);
        // After the SYN, before the SYN-ACK.
        let mut tcp = Tcp::default();
        tcp.handle(Reply, &segment(SYN | ACK, 100, 200, 0));
        assert_eq!(tcp.state(), TcpState::SynReceived);
        tcp.handle(Original, &segment(ACK, 200, 101, 0));
        assert_eq!(tcp.state(), TcpState::Established);
    }

    #[test]
    fn flags_that_make_sense() {
        let valid = (0..=255u8)
            .filter(|&flags| segment(flags, 0, 0, 0).is_valid())
            .count();
        // Six combinations times PSH, URG, ECE and CWR at will.
        assert_eq!(valid, 6 * 16);
        assert!(!segment(0, 0, 0, 0).is_valid());
        assert!(!segment(SYN | FIN, 0, 0, 0).is_valid());
        assert!(!segment(FIN, 0, 0, 0).is_valid());
        assert!(segment(SYN, 0, 0, 0).is_syn());
        assert!(!segment(SYN | ACK, 0, 0, 0).is_syn());
        assert!(segment(SYN | ACK, 0, 0, 0).is_mid_stream());
        assert!(!segment(RST | ACK, 0, 0, 0).is_mid_stream());
    }
}
