//! What went wrong, in the four kinds that a client tells apart.

use std::fmt;

/// A request that failed. The text says what failed, on which thing, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request itself is wrong: asking again will not help.
    Invalid(String),
    /// It names something that is not there.
    NotFound(String),
    /// Something that exists stands in the way: a name, an address, a port, a container.
    Conflict(String),
    /// The host refused what was needed: no memory, no permission, a full disk.
    Internal(String),
}

impl Failure {
    pub(super) fn text(&self) -> &str {
        match self {
            Failure::Invalid(text)
            | Failure::NotFound(text)
            | Failure::Conflict(text)
            | Failure::Internal(text) => text,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Internal(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Internal(format!("{error:#}"))
    }
}
