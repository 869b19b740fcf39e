//! Signals for containers' commands: how people name them, and how they are sent.

use std::fmt;

use nix::libc::{SIGRTMAX, SIGRTMIN};
use nix::sys::signal::{SigSet, Signal};

/// A signal by its number. Unlike [`Signal`], it may be a real-time one (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalNumber(i32);

impl SignalNumber {
    pub(crate) const KILL: SignalNumber = SignalNumber(Signal::SIGKILL as i32);
    pub(crate) const CHILD: SignalNumber = SignalNumber(Signal::SIGCHLD as i32);
    pub(crate) const CONTINUE: SignalNumber = SignalNumber(Signal::SIGCONT as i32);

    /// A number that the kernel has a signal for. The C library keeps those between the standard
    /// ones and its SIGRTMIN for itself.
    pub(crate) fn new(number: i32) -> Option<SignalNumber> {
        let real_time = (SIGRTMIN()..=SIGRTMAX()).contains(&number);
        let known = real_time || Signal::try_from(number).is_ok();
        known.then_some(SignalNumber(number))
    }

    pub(crate) fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) if self.0 == SIGRTMIN() => f.write_str("SIGRTMIN"),
            Err(_) => write!(f, "SIGRTMIN+{}", self.0 - SIGRTMIN()),
        }
    }
}

/// The signals that `pontoon run` passes on to its command when they are sent to itself: all but
/// those that stop it, which the shell that started it must see, and those of its own faults.
pub(crate) fn forwarded() -> SigSet {
    let mut signals = SigSet::all();
    for own in [
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGABRT,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGSEGV,
        Signal::SIGSYS,
        Signal::SIGTRAP,
    ] {
        signals.remove(own);
    }
    signals
}

/// A signal by name, with or without `SIG`, or by number: `TERM`, `SIGTERM`, `15`, `RTMIN+3`,
/// `RTMAX-1`.
pub(crate) fn signal(text: &str) -> Result<SignalNumber, String> {
    let unknown = || format!("there is no signal `{text}`");
    if let Ok(number) = text.parse::<i32>() {
        return SignalNumber::new(number).ok_or_else(|| format!("there is no signal {number}"));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(SIGRTMIN()),
        (_, Some("")) => Some(SIGRTMAX()),
        (Some(rest), _) => distance(rest, '+').and_then(|it| SIGRTMIN().checked_add(it)),
        (_, Some(rest)) => distance(rest, '-').and_then(|it| SIGRTMAX().checked_sub(it)),
        (None, None) => {
            let aliased = match name {
                "CLD" => "CHLD",
                "POLL" => "IO",
                "IOT" => "ABRT",
                other => other,
            };
            let signal = format!("SIG{aliased}").parse::<Signal>();
            return signal.map_or_else(|_| Err(unknown()), |it| Ok(SignalNumber(it as i32)));
        }
    };
    let real_time = real_time.filter(|number| (SIGRTMIN()..=SIGRTMAX()).contains(number));
    real_time.map(SignalNumber).ok_or_else(unknown)
}

/// The number behind `sign`.
fn distance(text: &str, sign: char) -> Option<i32> {
    let digits = text.strip_prefix(sign)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_several_names() {
        for name in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            let signal = signal(name).unwrap();
            assert_eq!((signal.raw(), signal.to_string().as_str()), (15, "SIGTERM"));
        }
        for name in [
            "",
            "SIG",
            "NONE",
            "0",
            "-1",
            "99",
            "TERM ",
            "RT",
            "SIGSIGTERM",
        ] {
            assert!(signal(name).is_err(), "{name}");
        }
    }

    // signal(7): SIGRTMIN depends on the C library; systemd uses RTMIN+3 and others.
    #[test]
    fn real_time_signals_have_names_and_numbers() {
        let number = |name: &str| signal(name).map(SignalNumber::raw);
        assert_eq!(number("RTMIN"), Ok(SIGRTMIN()));
        assert_eq!(number("SIGRTMIN+3"), Ok(SIGRTMIN() + 3));
        assert_eq!(number("rtmax-1"), Ok(SIGRTMAX() - 1));
        assert_eq!(number("RTMAX"), Ok(64));
        assert_eq!(number("37"), Ok(37));
        assert_eq!(
            signal("37").unwrap().to_string(),
            format!("SIGRTMIN+{}", 37 - SIGRTMIN())
        );
        for name in [
            "RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN+-1", "65", "33",
        ] {
            assert!(signal(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_supervisor_can_be_stopped() {
        let forwarded = forwarded();
        assert!(forwarded.contains(Signal::SIGHUP) && forwarded.contains(Signal::SIGPWR));
        assert!(!forwarded.contains(Signal::SIGTSTP) && !forwarded.contains(Signal::SIGSEGV));
    }
}
