//! Where the two differ, and mean to.

use crate::net::{PUBLISHED, Side};
use crate::packet::{ICMP, TCP};
use crate::scenario::{Flow, Step, Twist};
use crate::seen::{Body, Port, Seen};

/// One intended difference.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Whether it is this one.
    is: fn(&Case<'_>) -> bool,
}

/// A step in which the two differ.
pub(crate) struct Case<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) step: &'a Step,
    /// A RST of the flow came through before.
    pub(crate) after_reset: bool,
    pub(crate) kernel: &'a [Seen],
    pub(crate) ours: &'a [Seen],
}

pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "checksums",
        reason: "the kernel drops a packet whose checksum is wrong; pontoon changes checksums by \
                 what it changes in the packet, so the packet arrives as wrong as it came, and its \
                 receiver drops it",
        is: |case| {
            matches!(
                case.step.twist,
                Twist::BadHeaderSum | Twist::BadTransportSum
            ) && case.kernel.is_empty()
                && !case.ours.is_empty()
                && case.ours.iter().all(|seen| seen.sums != (true, true))
        },
    },
    Difference {
        name: "last hop from the wire",
        reason: "both tell a sender on the wire that its packet died on the way to a container, but \
                 pontoon not of what no port leads to; it writes the error as a router inside and \
                 translates it on its way out, so its TTL is one less, and writes it before the TCP \
                 state is judged",
        is: |case| {
            let to_wire = |told: &Seen| told.side == Side::Outside && is_time_exceeded(told);
            case.step.twist == Twist::LastHop
                && case.ours.iter().all(to_wire)
                && case.kernel.iter().all(to_wire)
        },
    },
    Difference {
        name: "last hop of a hairpin",
        reason: "with its last hop a packet still reaches the host, to whose address it is, and \
                 pontoon hands it over; the kernel has translated it by then, and tells its sender \
                 that it died",
        is: |case| {
            case.step.twist == Twist::LastHop
                && case.flow.is_hairpin()
                && case.ours.is_empty()
                && matches!(case.kernel, [told] if is_time_exceeded(told))
        },
    },
    Difference {
        name: "errors in fragments",
        reason: "the kernel puts an ICMP error together before it looks at it; pontoon does not, and \
                 without the whole there is no telling whether it is sound. None needs to be in \
                 fragments: they fit into 576 bytes (RFC 1812), or 1280 (RFC 4443)",
        is: |case| {
            matches!(case.step.twist, Twist::Fragments { .. })
                && case.ours.is_empty()
                && matches!(case.kernel, [error] if matches!(error.what.body, Body::Error { .. }))
        },
    },
    Difference {
        name: "after a reset",
        reason: "the kernel forgets a connection with the RST that ends it, and takes what follows \
                 for something new, or for nothing; pontoon shortens its time and forgets nothing \
                 (RFC 7857 section 2), so that the challenge to a forged RST finds its way, and \
                 errors about the last packets too",
        is: |case| {
            case.after_reset
                && case.flow.is_allowed()
                && case.kernel.len() <= 1
                && matches!(case.ours, [seen] if seen.sums == (true, true))
        },
    },
    Difference {
        name: "from a published port",
        reason: "when a server speaks from its published port to a peer whose connection is over, \
                 the kernel masquerades it as a new client; pontoon lets it keep the port that it \
                 is reached by, so that a flow lives through a restart whoever speaks first",
        is: |case| {
            let [kernel] = case.kernel else { return false };
            let mut kept = kernel.clone();
            kept.what.src.1 = Port::Fixed(PUBLISHED);
            kernel.has_chosen_source() && case.flow.protocol == TCP && case.ours == [kept]
        },
    },
    Difference {
        name: "TCP states",
        reason: "the kernel drops segments that its state machine does not expect; pontoon is a \
                 bystander, which may have missed some, and leaves it to the ends (RFC 7857)",
        is: |case| {
            case.flow.protocol == TCP
                && case.flow.is_allowed()
                && case.kernel.is_empty()
                && matches!(case.ours, [seen] if seen.sums == (true, true) && seen.what.protocol == TCP)
        },
    },
];

fn is_time_exceeded(seen: &Seen) -> bool {
    let exceeded = if seen.what.protocol == ICMP {
        (11, 0)
    } else {
        (3, 0)
    };
    matches!(seen.what.body, Body::Error { kind, .. } if kind == exceeded)
}

/// The difference that a case is, if it is an intended one.
pub(crate) fn intended(case: &Case<'_>) -> Option<&'static Difference> {
    DIFFERENCES.iter().find(|difference| (difference.is)(case))
}
