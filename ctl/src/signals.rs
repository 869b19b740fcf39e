//! Signals for containers' commands: which there are, and how people name them.

use nix::sys::signal::Signal;

/// The signals that `pontoon run` passes on to its command. KILL needs no passing on: the kernel
/// ends the command with its supervisor.
pub(crate) const FORWARDED: [Signal; 11] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGIO,
    Signal::SIGURG,
    Signal::SIGWINCH,
];

/// A signal by name, with or without `SIG`, or by number.
pub(crate) fn signal(text: &str) -> Result<Signal, String> {
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| format!("there is no signal {number}"));
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    format!("SIG{name}")
        .parse()
        .map_err(|_| format!("there is no signal `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_several_names() {
        for name in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(signal(name), Ok(Signal::SIGTERM), "{name}");
        }
        for name in ["", "SIG", "NONE", "0", "-1", "99", "TERM "] {
            assert!(signal(name).is_err(), "{name}");
        }
    }
}
