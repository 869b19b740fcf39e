use super::Direction::{Original, Reply};
use super::*;

fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u32) -> Segment {
    Segment {
        flags,
        sequence,
        acknowledgement,
        payload,
        window: 0x2000,
        scale: None,
    }
}

/// Both initial sequence numbers are close to the wrap.
const HERE: u32 = u32::MAX - 5;
const THERE: u32 = u32::MAX;
/// Where both begin with data.
const DATA: u32 = HERE.wrapping_add(1);
const ANSWER: u32 = THERE.wrapping_add(1);

/// A connection with its handshake done, windows of 8192 bytes shifted by `scale`.
fn established_with(scale: Option<u8>) -> Tcp {
    let mut tcp = Tcp::default();
    let syn = |segment: Segment| Segment { scale, ..segment };
    tcp.handle(Original, &syn(segment(SYN, HERE, 0, 0)));
    assert_eq!(tcp.state(), TcpState::SynSent);
    tcp.handle(Reply, &syn(segment(SYN | ACK, THERE, DATA, 0)));
    assert_eq!(tcp.state(), TcpState::SynReceived);
    tcp.handle(Original, &segment(ACK, DATA, ANSWER, 0));
    tcp.handle(Reply, &segment(ACK, ANSWER, DATA, 0));
    assert_eq!(tcp.state(), TcpState::Established);
    tcp
}

fn established() -> Tcp {
    established_with(None)
}

#[test]
fn a_connection_opens_and_closes() {
    let mut tcp = established();
    tcp.handle(Original, &segment(FIN | ACK, DATA, ANSWER, 100));
    assert_eq!(tcp.state(), TcpState::FinWait);
    let after = DATA.wrapping_add(101);
    // An acknowledgement of the data, not of the FIN.
    tcp.handle(Reply, &segment(FIN | ACK, ANSWER, after.wrapping_sub(1), 0));
    assert_eq!(tcp.state(), TcpState::Closing);
    tcp.handle(Reply, &segment(ACK, ANSWER.wrapping_add(1), after, 0));
    assert_eq!(tcp.state(), TcpState::Closing);
    tcp.handle(Original, &segment(ACK, after, ANSWER.wrapping_add(1), 0));
    assert_eq!(tcp.state(), TcpState::TimeWait);
    assert!(!tcp.has_been_out_of_window());
}

// Conforms: RFC5382-2
#[test]
fn rfc_5382_req_2_simultaneous_open_completes() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(SYN, 100, 0, 0));
    tcp.handle(Reply, &segment(SYN, 900, 0, 0));
    assert_eq!(tcp.state(), TcpState::SynReceived);
    tcp.handle(Original, &segment(SYN | ACK, 100, 901, 0));
    tcp.handle(Reply, &segment(SYN | ACK, 900, 101, 0));
    assert_eq!(tcp.state(), TcpState::Established);
    assert!(!tcp.has_been_out_of_window());
}

// Conforms: RFC7857
#[test]
fn rfc_7857_traffic_after_a_reset_brings_the_connection_back() {
    let mut tcp = established();
    let reset = tcp.handle(Original, &segment(RST, DATA, 0, 0));
    assert_eq!((reset, tcp.state()), (Heard::Believed, TcpState::Reset));
    tcp.handle(Reply, &segment(ACK, ANSWER, DATA, 0));
    assert_eq!(tcp.state(), TcpState::Established);
}

// Conforms: LINUX-inexact-rst LINUX-rst-invalid TCP-rst-exact
#[test]
fn a_reset_is_believed_exactly_where_it_is_expected() {
    let mut tcp = established();
    // 100 bytes, of which 40 are acknowledged.
    tcp.handle(Reply, &segment(ACK, ANSWER, DATA, 100));
    tcp.handle(Original, &segment(ACK, DATA, ANSWER.wrapping_add(40), 0));
    for far in [0, 39, 41, 99, 101, 5000, 1 << 21, 1 << 31, u32::MAX] {
        for flags in [RST, RST | ACK] {
            let reset = segment(flags, ANSWER.wrapping_add(far), DATA, 0);
            let heard = tcp.clone().handle(Reply, &reset);
            assert_eq!(heard, Heard::ImplausibleReset, "{far}");
        }
    }
    assert_eq!(tcp.state(), TcpState::Established);
    for near in [40, 100] {
        let mut tcp = tcp;
        tcp.handle(Reply, &segment(RST, ANSWER.wrapping_add(near), 0, 0));
        assert_eq!(tcp.state(), TcpState::Reset);
    }
}

#[test]
fn a_refusal_names_the_syn_that_it_refuses() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(SYN, 123_456_789, 0, 0));
    for wrong in [segment(RST | ACK, 0, 123_456_789, 0), segment(RST, 0, 0, 0)] {
        assert_eq!(tcp.handle(Reply, &wrong), Heard::ImplausibleReset);
        assert_eq!(tcp.state(), TcpState::SynSent);
    }
    tcp.handle(Reply, &segment(RST | ACK, 0, 123_456_790, 0));
    assert_eq!(tcp.state(), TcpState::Reset);
}

// Conforms: TCP-challenge-ack LINUX-syn-challenge-ack
#[test]
fn rfc_5961_a_challenge_ack_does_not_advance_the_state() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(SYN, 100, 0, 0));
    let challenge = tcp.handle(Reply, &segment(ACK, 77_000, 55_000, 0));
    assert_eq!(challenge, Heard::OutOfWindow);
    // The RST that it provokes does not end what it is not about.
    let reset = tcp.handle(Original, &segment(RST, 55_000, 0, 0));
    assert_eq!(reset, Heard::ImplausibleReset);
    assert_eq!(tcp.state(), TcpState::SynSent);
    tcp.handle(Original, &segment(SYN, 100, 0, 0));
    tcp.handle(Reply, &segment(SYN | ACK, 900, 101, 0));
    assert_eq!(tcp.state(), TcpState::SynReceived);

    // A SYN within an established connection: the peer challenges it, and a client that has
    // forgotten the connection then resets it where the peer expects that.
    let mut tcp = established();
    let syn = tcp.handle(Original, &segment(SYN, 7_000_000, 0, 0));
    assert_eq!(
        (syn, tcp.state()),
        (Heard::OutOfWindow, TcpState::Established)
    );
    let challenge = tcp.handle(Reply, &segment(ACK, ANSWER, DATA, 0));
    assert_eq!(challenge, Heard::Believed);
    tcp.handle(Original, &segment(RST, DATA, 0, 0));
    assert_eq!(tcp.state(), TcpState::Reset);
}

// Conforms: TCP-out-of-window
#[test]
fn a_segment_outside_the_window_is_marked_and_changes_nothing() {
    for (scale, window) in [(None, 0x2000), (Some(0), 0x2000), (Some(7), 0x2000 << 7)] {
        let tcp = established_with(scale);
        let widest = 0xffff << scale.unwrap_or(0);
        let inside = [
            (DATA.wrapping_add(window), ANSWER),
            (DATA.wrapping_sub(widest), ANSWER),
            (DATA, ANSWER.wrapping_sub(widest)),
        ];
        let outside = [
            (DATA.wrapping_add(window + 1), ANSWER),
            // The FIN is a byte.
            (DATA.wrapping_sub(widest + 2), ANSWER),
            (DATA, ANSWER.wrapping_add(1)),
            (DATA, ANSWER.wrapping_sub(widest + 1)),
        ];
        for (sequence, acknowledgement) in inside {
            let mut tcp = tcp;
            let heard = tcp.handle(Original, &segment(ACK, sequence, acknowledgement, 0));
            assert_eq!(heard, Heard::Believed);
            assert!(!tcp.has_been_out_of_window());
        }
        for (sequence, acknowledgement) in outside {
            let mut tcp = tcp;
            let fin = segment(FIN | ACK, sequence, acknowledgement, 0);
            assert_eq!(tcp.handle(Original, &fin), Heard::OutOfWindow);
            assert_eq!(tcp.state(), TcpState::Established);
            assert!(tcp.has_been_out_of_window());
            // Nor does it undo a RST.
            tcp.handle(Original, &segment(RST, DATA, 0, 0));
            tcp.handle(Original, &fin);
            assert_eq!(tcp.state(), TcpState::Reset);
        }
    }
}

/// With the widest windows a gigabyte either way is in the window, and half the circle is two.
#[test]
fn the_widest_window_does_not_reach_round_the_circle() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(ACK, 101, 901, 0));
    // Its SYN-ACK is far behind what the other side has acknowledged, as far as we can tell.
    let syn_ack = Segment {
        scale: Some(7),
        ..segment(SYN | ACK, 3 << 30, 99, 0)
    };
    tcp.handle(Reply, &syn_ack);
    tcp.handle(Original, &segment(ACK, 0x2000, 3 << 30, 0));
    // In the window that was given with 901, and further ahead of its own SYN-ACK than any is wide.
    let heard = tcp.handle(Reply, &segment(ACK, 2 << 20, 99, 0));
    assert_eq!(heard, Heard::Believed);
    assert!(!tcp.has_been_out_of_window());
}

// Conforms: TCP-window-scale
#[test]
fn windows_are_scaled_if_both_sides_say_so() {
    let mut tcp = Tcp::default();
    let with = |scale, segment: Segment| Segment { scale, ..segment };
    tcp.handle(Original, &with(Some(7), segment(SYN, 100, 0, 0)));
    tcp.handle(Reply, &segment(SYN | ACK, 900, 101, 0));
    tcp.handle(Original, &segment(ACK, 101, 901, 0));
    let within = tcp
        .clone()
        .handle(Reply, &segment(ACK, 901 + 0x2000, 101, 0));
    assert_eq!(within, Heard::Believed);
    let beyond = tcp.handle(Reply, &segment(ACK, 901 + 0x2001, 101, 0));
    assert_eq!(beyond, Heard::OutOfWindow);
}

// Conforms: LINUX-synack-old
#[test]
fn a_syn_ack_of_an_earlier_connection_establishes_nothing() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(SYN, 500_000, 0, 0));
    let old = tcp.handle(Reply, &segment(SYN | ACK, 900, 101, 0));
    assert_eq!((old, tcp.state()), (Heard::OutOfWindow, TcpState::SynSent));
    // The client resets that one, and the connection that it wants comes about.
    let reset = tcp.handle(Original, &segment(RST, 101, 0, 0));
    assert_eq!(reset, Heard::ImplausibleReset);
    tcp.handle(Reply, &segment(SYN | ACK, 7_000_000, 500_001, 0));
    tcp.handle(Original, &segment(ACK, 500_001, 7_000_001, 0));
    assert_eq!(tcp.state(), TcpState::Established);
}

// Conforms: LINUX-synack-reuse
#[test]
fn what_both_sides_began_anew_is_followed() {
    // The server has forgotten the connection, and the client dials from the same port again.
    let mut tcp = established();
    let syn = tcp.handle(Original, &segment(SYN, 1 << 30, 0, 0));
    assert_eq!(syn, Heard::OutOfWindow);
    tcp.handle(Reply, &segment(SYN | ACK, 3 << 30, (1 << 30) + 1, 0));
    assert_eq!(tcp.state(), TcpState::SynReceived);
    tcp.handle(Original, &segment(ACK, (1 << 30) + 1, (3 << 30) + 1, 0));
    assert_eq!(tcp.state(), TcpState::Established);
    // One half of that, and a guess, does nothing.
    let mut tcp = established();
    tcp.handle(Original, &segment(SYN, 1 << 30, 0, 0));
    let guess = tcp.handle(Reply, &segment(SYN | ACK, 3 << 30, 1 << 30, 0));
    assert_eq!(
        (guess, tcp.state()),
        (Heard::OutOfWindow, TcpState::Established)
    );
    // Nor does the whole of it from one side.
    let mut tcp = established();
    tcp.handle(Reply, &segment(ACK, 1 << 30, 5, 0));
    tcp.handle(Reply, &segment(ACK, 1 << 30, 1 << 30, 0));
    assert_eq!(tcp.state(), TcpState::Established);
    assert_eq!(tcp.end, established().end);
}

// Conforms: LINUX-ack-loss-stall
#[test]
fn lost_acknowledgements_make_no_strays() {
    let mut tcp = established_with(Some(7));
    // The SYN-ACK once more, the last acknowledgement of the handshake being lost.
    let copy = tcp.handle(Reply, &segment(SYN | ACK, THERE, DATA, 0));
    assert_eq!(
        (copy, tcp.state()),
        (Heard::Believed, TcpState::Established)
    );
    // A megabyte is acknowledged, but the sender never hears of it and begins again.
    tcp.handle(Original, &segment(ACK, DATA, ANSWER, 1_000_000));
    tcp.handle(
        Reply,
        &segment(ACK, ANSWER, DATA.wrapping_add(1_000_000), 0),
    );
    let again = tcp.handle(Original, &segment(ACK, DATA, ANSWER, 1448));
    assert_eq!(again, Heard::Believed);
    // A keep-alive is one byte behind; a probe of a closed window is at its edge.
    let at = DATA.wrapping_add(1_000_000);
    let alive = tcp.handle(Original, &segment(ACK, at.wrapping_sub(1), ANSWER, 0));
    assert_eq!(alive, Heard::Believed);
    let closed = Segment {
        window: 0,
        ..segment(ACK, ANSWER, at, 0)
    };
    tcp.handle(Reply, &closed);
    let probe = tcp.handle(Original, &segment(ACK, at, ANSWER, 1));
    assert_eq!(probe, Heard::Believed);
    assert!(!tcp.has_been_out_of_window());
}

#[test]
fn a_syn_that_nobody_answered_is_tried_again_with_another_number() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(SYN, 100, 0, 0));
    tcp.handle(Original, &segment(SYN, 3 << 30, 0, 0));
    tcp.handle(Reply, &segment(SYN | ACK, 900, (3 << 30) + 1, 0));
    assert_eq!(tcp.state(), TcpState::SynReceived);
    assert!(!tcp.has_been_out_of_window());
}

// Conforms: OVS-tcp-pick-up
#[test]
fn picked_up_in_the_middle() {
    let mut tcp = Tcp::default();
    tcp.handle(Original, &segment(ACK, 100, 200, 10));
    assert_eq!(tcp.state(), TcpState::PickedUp);
    tcp.handle(Reply, &segment(ACK, 200, 110, 0));
    assert_eq!(tcp.state(), TcpState::Established);
    // The scale being unknown, the window is taken for the widest.
    let far = tcp.handle(Original, &segment(ACK, 110 + (0x2000 << 14), 200, 0));
    assert_eq!(far, Heard::Believed);
    assert!(!tcp.has_been_out_of_window());
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
