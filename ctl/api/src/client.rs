//! The client's side of the API: one request over the daemon's Unix socket.
//!
//! Blocking for the caller. A pathname socket does not belong to a network namespace, so a client
//! that has entered a container's namespace still reaches its daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::api::{ConnectionFilter, Container, ErrorBody};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "no pontoon daemon answers on {} (is it running? start it with: pontoon daemon)",
        .0.display()
    )]
    NoDaemon(PathBuf),
    #[error(
        "no permission to use {}: run as root or as a member of the group that owns it",
        .0.display()
    )]
    Permission(PathBuf),
    #[error("cannot connect to {}: {source}", .socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the request cannot be written down: {0}")]
    Request(String),
    #[error("the daemon on {} broke off: {source}", .socket.display())]
    Exchange {
        socket: PathBuf,
        source: hyper::Error,
    },
    /// The daemon's own words.
    #[error("{message}")]
    Refused { status: StatusCode, message: String },
    #[error("what answers on {} is not this version's daemon: {problem}", .socket.display())]
    Foreign { socket: PathBuf, problem: String },
}

impl ClientError {
    /// Whether the daemon knows nothing of the thing that was asked for.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(
            self,
            ClientError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            }
        )
    }
}

/// Asks the daemon behind one socket; a connection a request.
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Nothing is connected yet. The runtime starts no thread, so the process may still change its
    /// namespaces.
    pub(crate) fn new(socket: &Path) -> io::Result<Client> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Client {
            socket: socket.to_owned(),
            runtime,
        })
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new())
    }

    /// None if there is no answer within `limit`.
    pub(crate) fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<Option<T>, ClientError> {
        let exchange = self.exchange(Method::GET, path, Bytes::new());
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, exchange).await });
        match answer {
            Ok(answer) => self.decode(path, answer?).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Calls `heard` with what each line of an answer holds, until the answer ends.
    pub(crate) fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        mut heard: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let response = self.send(Method::GET, path, Bytes::new()).await?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let answer = body.collect().await.map_err(|e| self.broke_off(e))?;
                return Err(self.refusal(path, status, &answer.to_bytes()).into());
            }
            let mut begun = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broke_off(error))?;
                let Ok(bytes) = frame.into_data() else {
                    continue;
                };
                begun.extend_from_slice(&bytes);
                while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = begun.drain(..=end).collect();
                    let value = serde_json::from_slice(&line).map_err(|error| {
                        self.foreign(format!("a line of {path} is malformed: {error}"))
                    })?;
                    heard(value)?;
                }
            }
            Ok(())
        })
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::POST, path, encode(body)?)
    }

    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, Bytes::new())
    }

    pub(crate) fn delete_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, encode(body)?)
    }

    /// The container of this name, id or beginning of an id.
    pub(crate) fn container(&self, name: &str) -> Result<Container, ClientError> {
        self.get(&container_path(name))
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = self.runtime.block_on(self.exchange(method, path, body))?;
        self.decode(path, answer)
    }

    fn decode<T: DeserializeOwned>(
        &self,
        path: &str,
        (status, answer): (StatusCode, Bytes),
    ) -> Result<T, ClientError> {
        if !status.is_success() {
            return Err(self.refusal(path, status, &answer));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| self.foreign(format!("the answer to {path} is malformed: {error}")))
    }

    fn refusal(&self, path: &str, status: StatusCode, answer: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(answer) {
            Ok(body) => ClientError::Refused {
                status,
                message: body.error,
            },
            Err(_) => self.foreign(format!("it answers {path} with {status}")),
        }
    }

    fn foreign(&self, problem: String) -> ClientError {
        ClientError::Foreign {
            socket: self.socket.clone(),
            problem,
        }
    }

    fn broke_off(&self, source: hyper::Error) -> ClientError {
        ClientError::Exchange {
            socket: self.socket.clone(),
            source,
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((
            status,
            body.map_err(|error| self.broke_off(error))?.to_bytes(),
        ))
    }

    /// A request, and the beginning of its answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                // A socket file whose daemon is gone refuses.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoDaemon(socket)
                }
                io::ErrorKind::PermissionDenied => ClientError::Permission(socket),
                _ => ClientError::Connect { socket, source },
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broke_off(error))?;
        // It ends with the exchange; what it fails with, the request fails with too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "pontoon")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broke_off(error))
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    // A path that is no UTF-8 is all that JSON can't carry here.
    let json = serde_json::to_vec(body).map_err(|e| ClientError::Request(e.to_string()))?;
    Ok(json.into())
}

pub(crate) fn container_path(name: &str) -> String {
    format!("/v1/containers/{}", encode_segment(name))
}

/// For DELETE; `force` where others share the container's namespace.
pub(crate) fn deletion_path(name: &str, force: bool) -> String {
    let query = if force { "?force=true" } else { "" };
    format!("{}{query}", container_path(name))
}

pub(crate) fn endpoints_path(container: &str) -> String {
    format!("{}/endpoints", container_path(container))
}

pub(crate) fn endpoint_path(container: &str, network: &str) -> String {
    format!("{}/{}", endpoints_path(container), encode_segment(network))
}

pub(crate) fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", encode_segment(name))
}

pub(crate) fn connections_path(filter: &ConnectionFilter) -> String {
    let ConnectionFilter {
        container,
        protocol,
        address,
        port,
    } = filter;
    let port = port.map(|port| port.to_string());
    let said = [
        ("container", container),
        ("protocol", protocol),
        ("address", address),
        ("port", &port),
    ];
    let said = said.iter().filter_map(|(key, value)| {
        let value = encode_segment(value.as_ref()?);
        Some(format!("{key}={value}"))
    });
    let query: Vec<String> = said.collect();
    match query.is_empty() {
        true => "/v1/connections".to_owned(),
        false => format!("/v1/connections?{}", query.join("&")),
    }
}

/// One segment of a path: everything but RFC 3986's unreserved characters percent-encoded, so that
/// no name that is typed can reach another resource.
fn encode_segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
