//! Why a request is refused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of an answer with a 4xx or 5xx status.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A sentence for people: what failed, on which object, and what to do.
    pub error: String,
}

/// What kind of failure an answer reports, carried by its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// 400: the request is wrong; asking again does not help.
    Invalid,
    /// 403: the caller may read, but not change anything.
    Forbidden,
    /// 404: the request names something that does not exist.
    NotFound,
    /// 405: the path does not support this method.
    WrongMethod,
    /// 409: something that exists is in the way: a name, an address, a port, a container.
    Conflict,
    /// 413: the request is too large.
    TooLarge,
    /// 500: the host refused what was needed: no memory, no permission, a full disk.
    Internal,
    /// 503: the caller has too many connections or requests in progress; try again later.
    Busy,
}

impl ErrorCode {
    /// Returns the HTTP status that carries the code.
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::Invalid => 400,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::WrongMethod => 405,
            ErrorCode::Conflict => 409,
            ErrorCode::TooLarge => 413,
            ErrorCode::Internal => 500,
            ErrorCode::Busy => 503,
        }
    }

    /// Returns the code that an HTTP status carries. One that only a newer daemon sends is the
    /// general code of its class, as RFC 9110 section 15 has it.
    pub fn from_status(status: u16) -> ErrorCode {
        match status {
            403 => ErrorCode::Forbidden,
            404 => ErrorCode::NotFound,
            405 => ErrorCode::WrongMethod,
            409 => ErrorCode::Conflict,
            413 => ErrorCode::TooLarge,
            503 => ErrorCode::Busy,
            500.. => ErrorCode::Internal,
            _ => ErrorCode::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_a_code() {
        for code in [
            ErrorCode::Invalid,
            ErrorCode::Forbidden,
            ErrorCode::NotFound,
            ErrorCode::WrongMethod,
            ErrorCode::Conflict,
            ErrorCode::TooLarge,
            ErrorCode::Internal,
            ErrorCode::Busy,
        ] {
            assert_eq!(ErrorCode::from_status(code.status()), code);
        }
        assert_eq!(ErrorCode::from_status(429), ErrorCode::Invalid);
        assert_eq!(ErrorCode::from_status(507), ErrorCode::Internal);
    }
}
