//! Requests as handlers take them, and answers to those that nothing can be done with.

use std::io;

use axum::Json;
use axum::body::{Body as ResponseBody, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;

use crate::api::{ErrorBody, ErrorCode};
use crate::daemon::failure::Failure;

/// Largest request taken, in bytes. The largest sensible one is a list of port mappings.
pub(super) const MAX_BODY: usize = 1 << 20;

/// Where the API tells of itself.
const DOCUMENT: &str = "GET /v1/openapi.json";

/// Whom the API speaks for.
const SELF: &str = concat!("pontoon ", env!("CARGO_PKG_VERSION"));

/// What any request may be answered with instead.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "its documentation is what it is for")]
pub(super) enum Refused {
    /// The request is wrong: asking again will not help.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// The caller may look, but not change anything.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// It names something that is not there.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The path can't be asked for with this method.
    #[response(status = 405)]
    WrongMethod(ErrorBody),
    /// Something that exists stands in the way.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The request is larger than what is taken.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The host refused what was needed: no memory, no permission, a full disk.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// The caller has too much under way already.
    #[response(status = 503)]
    Busy(ErrorBody),
}

/// Nothing is at this path, in this version of the API or because it is another one's.
pub(super) async fn unknown(request: Request) -> Refusal {
    let path = request.uri().path();
    let version = path.split('/').nth(1).unwrap_or_default();
    let number = version.strip_prefix('v').unwrap_or_default();
    let is_version = number.starts_with(|first: char| first.is_ascii_digit());
    let error = if version != "v1" && is_version {
        format!(
            "{SELF} speaks version 1 of its API, not {number}: ask for /v1/…, or use a client and a \
             daemon of one version"
        )
    } else {
        format!("nothing is at {path}; {DOCUMENT} lists the API of {SELF}")
    };
    Refusal {
        code: ErrorCode::NotFound,
        error,
    }
}

/// The path is known, the method is not one of its.
pub(super) async fn wrong_method(request: Request) -> Refusal {
    Refusal {
        code: ErrorCode::WrongMethod,
        error: format!(
            "{} does not support {}; {DOCUMENT} lists what it does",
            request.uri().path(),
            request.method()
        ),
    }
}

/// The answer to someone who may not do what was asked.
pub(in crate::daemon) fn forbidden(error: String) -> Response {
    let code = ErrorCode::Forbidden;
    Refusal { code, error }.into_response()
}

/// The answer to someone who has as much under way as anyone may have.
pub(in crate::daemon) fn busy(what: &str) -> Response {
    let code = ErrorCode::Busy;
    let error =
        format!("too many {what} of this user are in progress: end some, or try again later");
    Refusal { code, error }.into_response()
}

pub(super) fn gone(what: &str, name: &str) -> Refusal {
    Failure::NotFound(format!("there is no {what} {name:?}")).into()
}

/// A failure as the client gets it.
pub(super) struct Refusal {
    code: ErrorCode,
    error: String,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let code = match &failure {
            Failure::Invalid(_) => ErrorCode::Invalid,
            Failure::NotFound(_) => ErrorCode::NotFound,
            Failure::Conflict(_) => ErrorCode::Conflict,
            Failure::Internal(text) => {
                tracing::error!("{text}");
                ErrorCode::Internal
            }
        };
        Refusal {
            code,
            error: failure.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // No code has a status that is none.
        let status = StatusCode::from_u16(self.code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.error })).into_response()
    }
}

/// A JSON body. The content type is not looked at: there is only one.
pub(super) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refusal> {
        let bytes =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection: BytesRejection| {
                    let code = ErrorCode::from_status(rejection.status().as_u16());
                    let error = match code {
                        ErrorCode::TooLarge => {
                            format!("the request is larger than {MAX_BODY} bytes")
                        }
                        _ => format!("the request can't be read: {}", rejection.body_text()),
                    };
                    Refusal { code, error }
                })?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            let error = error.to_string();
            // What a newer client may send.
            let advice = if error.starts_with("unknown field") {
                format!("; {SELF} does not know it, see {DOCUMENT}")
            } else {
                String::new()
            };
            Refusal {
                code: ErrorCode::Invalid,
                error: format!("the request is not the JSON expected here: {error}{advice}"),
            }
        })
    }
}

/// A list that is answered piece by piece: what is not sent yet is not written yet, so its length
/// costs no memory. A short one goes as a whole, and has a length.
pub(super) fn listed<T, I>(items: I) -> Response
where
    T: Serialize,
    I: Iterator<Item = T> + Send + 'static,
{
    let mut pieces = Pieces {
        items,
        begun: false,
        ended: false,
    }
    .peekable();
    let first = pieces.next().unwrap_or_default();
    let body = match pieces.peek() {
        None => ResponseBody::from(first),
        Some(_) => {
            let pieces = std::iter::once(first).chain(pieces).map(io::Result::Ok);
            ResponseBody::from_stream(stream::iter(pieces))
        }
    };
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// A list's JSON in pieces.
struct Pieces<I> {
    items: I,
    begun: bool,
    ended: bool,
}

impl<T: Serialize, I: Iterator<Item = T>> Iterator for Pieces<I> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        /// Bytes after which a piece ends.
        const PIECE: usize = 64 * 1024;
        if self.ended {
            return None;
        }
        let mut piece = Vec::new();
        if !self.begun {
            piece.push(b'[');
        }
        while piece.len() < PIECE {
            let Some(item) = self.items.next() else {
                self.ended = true;
                piece.push(b']');
                break;
            };
            if std::mem::replace(&mut self.begun, true) {
                piece.push(b',');
            }
            // Into memory, and of types that are made for it: nothing can fail.
            let _ = serde_json::to_writer(&mut piece, &item);
        }
        self.begun = true;
        Some(piece)
    }
}

/// The name in a path.
pub(super) struct Name<T = String>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Name<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name<T>, Refusal> {
        let name = Path::<T>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Name(name))
            .map_err(|rejection: PathRejection| Refusal {
                code: ErrorCode::from_status(rejection.status().as_u16()),
                error: format!("the path is not valid: {}", rejection.body_text()),
            })
    }
}

/// What stands behind the `?`. What is not known there is left aside.
pub(super) struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asked<T>, Refusal> {
        let query = Query::try_from_uri(&parts.uri);
        query
            .map(|Query(asked)| Asked(asked))
            .map_err(|rejection| Refusal {
                code: ErrorCode::Invalid,
                error: format!("the query is not valid: {}", rejection.body_text()),
            })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_list_is_whole_however_long() {
        for count in [0usize, 1, 2, 50_000] {
            let response = listed((0..count).map(|n| format!("number {n}")));
            let body = response.into_body();
            let exact = hyper::body::Body::size_hint(&body).exact();
            assert_eq!(exact.is_some(), count < 1000, "{count}");
            let bytes = body.collect().await.unwrap().to_bytes();
            let list: Vec<String> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(list.len(), count);
        }
    }
}
