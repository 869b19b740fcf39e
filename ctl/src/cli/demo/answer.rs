//! What the demo's server and clients say, as it is printed and as it is read back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// What a server answered, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The client as the server saw it.
    pub(super) you: SocketAddr,
    /// The server as it sees itself.
    pub(super) me: SocketAddr,
    pub(super) timing: Timing,
}

/// Whole microseconds, as they are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// The TCP handshake; UDP and ICMP have none.
    pub(super) connect_us: Option<u64>,
    /// Median from question to answer.
    pub(super) round_trip_us: u64,
    pub(super) rounds: usize,
}

/// An ICMP echo reply, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) from: IpAddr,
    pub(super) ttl: u8,
    /// ICMP header and data.
    pub(super) bytes: usize,
    pub(super) timing: Timing,
}

impl Timing {
    pub(super) fn of(connect: Option<Duration>, mut rounds: Vec<Duration>) -> Result<Timing> {
        rounds.sort_unstable();
        let median = rounds
            .get(rounds.len() / 2)
            .context("no answer came to be timed")?;
        Ok(Timing {
            connect_us: connect.map(micros),
            round_trip_us: micros(*median),
            rounds: rounds.len(),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connect) = self.connect_us {
            write!(f, "connected in {connect} µs, ")?;
        }
        write!(
            f,
            "answered in {} µs (median of {})",
            self.round_trip_us, self.rounds
        )
    }
}

impl FromStr for Timing {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Timing> {
        let parse = || {
            let (connect_us, rest) = match text.strip_prefix("connected in ") {
                Some(rest) => {
                    let (connect, rest) = rest.split_once(" µs, ")?;
                    (Some(connect.parse().ok()?), rest)
                }
                None => (None, text),
            };
            let (round_trip, rest) = rest.strip_prefix("answered in ")?.split_once(" µs ")?;
            let rounds = rest.strip_prefix("(median of ")?.strip_suffix(')')?;
            Some(Timing {
                connect_us,
                round_trip_us: round_trip.parse().ok()?,
                rounds: rounds.parse().ok()?,
            })
        };
        parse().ok_or_else(|| anyhow!("{text:?} is no timing of a demo client"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", sentence(self.you, self.me), self.timing)
    }
}

impl FromStr for Answer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Answer> {
        let (said, timing) = text.trim_end().split_once('\n').unwrap_or((text, ""));
        let (you, me) = parse_sentence(said)?;
        Ok(Answer {
            you,
            me,
            timing: timing.parse()?,
        })
    }
}

impl fmt::Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes from {}, ttl {}\n{}",
            self.bytes, self.from, self.ttl, self.timing
        )
    }
}

impl FromStr for Echo {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Echo> {
        let parse = || {
            let (said, timing) = text.trim_end().split_once('\n')?;
            let (bytes, rest) = said.split_once(" bytes from ")?;
            let (from, ttl) = rest.split_once(", ttl ")?;
            Some(Echo {
                from: from.parse().ok()?,
                ttl: ttl.parse().ok()?,
                bytes: bytes.parse().ok()?,
                timing: timing.parse().ok()?,
            })
        };
        parse().ok_or_else(|| anyhow!("{text:?} is no echo of a demo client"))
    }
}

/// The line that the server says.
pub(super) fn sentence(you: SocketAddr, me: SocketAddr) -> String {
    format!("you are {you}, I am {me}")
}

/// The client and the server, from the server's line.
pub(super) fn parse_sentence(text: &str) -> Result<(SocketAddr, SocketAddr)> {
    let parse = || {
        let (you, me) = text
            .trim()
            .strip_prefix("you are ")?
            .split_once(", I am ")?;
        Some((you.parse().ok()?, me.parse().ok()?))
    };
    parse().ok_or_else(|| anyhow!("{text:?} is no answer of a demo server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_echoes_are_read_back_as_they_were_printed() {
        let timing = Timing {
            connect_us: Some(143),
            round_trip_us: 38,
            rounds: 50,
        };
        let answer = Answer {
            you: "172.17.0.3:40112".parse().unwrap(),
            me: "[fd00::2]:80".parse().unwrap(),
            timing,
        };
        let printed = answer.to_string();
        assert_eq!(
            printed,
            "you are 172.17.0.3:40112, I am [fd00::2]:80\n\
             connected in 143 µs, answered in 38 µs (median of 50)"
        );
        assert_eq!((printed + "\n").parse::<Answer>().unwrap(), answer);

        let timing = Timing {
            connect_us: None,
            ..timing
        };
        let echo = Echo {
            from: "192.0.2.2".parse().unwrap(),
            ttl: 63,
            bytes: 64,
            timing,
        };
        assert_eq!(echo.to_string().parse::<Echo>().unwrap(), echo);
    }

    #[test]
    fn junk_is_refused_and_quoted() {
        for junk in [
            "",
            "you are",
            "you are x, I am y\n",
            "you are 1.2.3.4:5, I am 1.2.3.4:5",
        ] {
            assert!(junk.parse::<Answer>().is_err(), "{junk:?}");
            assert!(junk.parse::<Echo>().is_err(), "{junk:?}");
        }
        assert_eq!(
            parse_sentence("HTTP/1.1 400").unwrap_err().to_string(),
            "\"HTTP/1.1 400\" is no answer of a demo server"
        );
    }
}
