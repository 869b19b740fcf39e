//! The client's side of the API: one request over the daemon's Unix socket.
//!
//! [`Client`] blocks its caller. It has a method for each thing that a plugin asks for; the rest of
//! the API is reached with [`get`](Client::get), [`post`](Client::post) and
//! [`delete`](Client::delete), and the functions here write the paths.
//!
//! A pathname socket does not belong to a network namespace, so a client that has entered a
//! container's namespace still reaches its daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Attach, Connect, ConnectionFilter, Container, CreateNetwork, ErrorBody, ErrorCode, Event, Info,
    Network, PortMapping, PublishedPort,
};

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens on this socket.
    #[error(
        "no pontoon daemon answers on {} (is it running? start it with: pontoon daemon)",
        .0.display()
    )]
    NoDaemon(PathBuf),
    /// The caller may not connect to this socket.
    #[error(
        "no permission to use {}: run as root or as a member of the group that owns it",
        .0.display()
    )]
    Permission(PathBuf),
    /// The socket cannot be connected to for another reason.
    #[error("cannot connect to {}: {source}", .socket.display())]
    Connect {
        /// The daemon's socket.
        socket: PathBuf,
        /// What connect(2) failed with.
        source: io::Error,
    },
    /// The request has no JSON form, or its path is not valid.
    #[error("the request cannot be written down: {0}")]
    Request(String),
    /// The connection ended before the answer did.
    #[error("the daemon on {} broke off: {source}", .socket.display())]
    Exchange {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the HTTP connection failed with.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon refuses the request.
    #[error("{message}")]
    Refused {
        /// What kind of failure it is.
        code: ErrorCode,
        /// The daemon's own words.
        message: String,
    },
    /// The answer is not one of this API.
    #[error("what answers on {} is not this version's daemon: {problem}", .socket.display())]
    Foreign {
        /// The socket that was asked.
        socket: PathBuf,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl ClientError {
    /// Returns what the daemon refused the request with; nothing if it did not get that far.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the daemon knows nothing of the thing that was asked for.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }
}

/// Asks the daemon behind one socket; a connection a request.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Nothing is connected yet. The runtime starts no thread, so the process may still change its
    /// namespaces.
    ///
    /// # Errors
    /// The process has no descriptor left for the runtime.
    pub fn new(socket: &Path) -> io::Result<Client> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Client {
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// What the daemon was started with, and how much it holds.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn info(&self) -> Result<Info, ClientError> {
        self.get("/v1/info")
    }

    /// All networks.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks")
    }

    /// The network of this name, id or beginning of an id.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn network(&self, name: &str) -> Result<Network, ClientError> {
        self.get(&network_path(name))
    }

    /// Creates a network, and returns it.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn create_network(&self, request: &CreateNetwork) -> Result<Network, ClientError> {
        self.post("/v1/networks", request)
    }

    /// Removes a network, and returns it as it was.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn remove_network(&self, name: &str) -> Result<Network, ClientError> {
        self.delete(&network_path(name))
    }

    /// All containers, also those that have ended and are kept.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn containers(&self) -> Result<Vec<Container>, ClientError> {
        self.get("/v1/containers")
    }

    /// The container of this name, id or beginning of an id.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn container(&self, name: &str) -> Result<Container, ClientError> {
        self.get(&container_path(name))
    }

    /// Makes a container of a namespace, and returns it.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn attach(&self, request: &Attach) -> Result<Container, ClientError> {
        self.post("/v1/containers", request)
    }

    /// Removes a container's network, and returns the container as it was. `force` also where other
    /// containers share its namespace.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn detach(&self, name: &str, force: bool) -> Result<Container, ClientError> {
        self.delete(&deletion_path(name, force))
    }

    /// Gives a container an endpoint on one more network.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn connect(&self, container: &str, request: &Connect) -> Result<Container, ClientError> {
        self.post(&endpoints_path(container), request)
    }

    /// Removes a container's endpoint on a network.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn disconnect(&self, container: &str, network: &str) -> Result<Container, ClientError> {
        self.delete(&endpoint_path(container, network))
    }

    /// What a container publishes, and how much it is used.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn published(&self, container: &str) -> Result<Vec<PublishedPort>, ClientError> {
        self.get(&ports_path(container))
    }

    /// Publishes ports of a container, or changes who may use those that it publishes already.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn publish(
        &self,
        container: &str,
        ports: &[PortMapping],
    ) -> Result<Container, ClientError> {
        self.post(&ports_path(container), &ports)
    }

    /// Withdraws ports of a container, whatever their `allow`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn unpublish(
        &self,
        container: &str,
        ports: &[PortMapping],
    ) -> Result<Container, ClientError> {
        self.delete_with(&ports_path(container), &ports)
    }

    /// Calls `heard` with each event until the daemon stops or `heard` fails: those from number
    /// `since` on that the daemon still knows (0 for all of them), or only new ones. `heard` may
    /// make requests itself.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`]; and what `heard` fails with.
    pub fn events<E: From<ClientError>>(
        &self,
        since: Option<u64>,
        heard: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        match since {
            Some(number) => self.stream(&format!("/v1/events?since={number}"), heard),
            None => self.stream("/v1/events", heard),
        }
    }

    /// Asks for what is at `path`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new())
    }

    /// None if there is no answer within `limit`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn get_within<T: DeserializeOwned>(
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

    /// Calls `heard` with what each line of an answer holds, until the answer ends. `heard`
    /// may make requests itself.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`]; and what `heard` fails with.
    pub fn stream<T: DeserializeOwned, E: From<ClientError>>(
        &self,
        path: &str,
        mut heard: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let response = self.send(Method::GET, path, Bytes::new());
        let response = self.runtime.block_on(response)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if !is_success(status) {
            let answer = self.runtime.block_on(body.collect());
            let answer = answer.map_err(|error| self.broke_off(error))?.to_bytes();
            return Err(self.refusal(path, status, &answer).into());
        }
        let mut begun = Vec::new();
        // `heard` is called outside of the runtime, which cannot run within itself.
        while let Some(frame) = self.runtime.block_on(body.frame()) {
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
    }

    /// Sends `body` to `path`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::POST, path, encode(body)?)
    }

    /// Deletes what is at `path`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, Bytes::new())
    }

    /// Deletes what `body` names of what is at `path`.
    ///
    /// # Errors
    /// As of every request, see [`ClientError`].
    pub fn delete_with<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::DELETE, path, encode(body)?)
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
        (status, answer): (u16, Bytes),
    ) -> Result<T, ClientError> {
        if !is_success(status) {
            return Err(self.refusal(path, status, &answer));
        }
        serde_json::from_slice(&answer)
            .map_err(|error| self.foreign(format!("the answer to {path} is malformed: {error}")))
    }

    fn refusal(&self, path: &str, status: u16, answer: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(answer) {
            Ok(body) => ClientError::Refused {
                code: ErrorCode::from_status(status),
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
            source: source.into(),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status().as_u16();
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

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    // A path that is no UTF-8 is all that JSON can't carry here.
    let json = serde_json::to_vec(body).map_err(|e| ClientError::Request(e.to_string()))?;
    Ok(json.into())
}

/// Where a container is.
pub fn container_path(name: &str) -> String {
    format!("/v1/containers/{}", encode_segment(name))
}

/// A container for DELETE; `force` where others share its namespace.
pub fn deletion_path(name: &str, force: bool) -> String {
    let query = if force { "?force=true" } else { "" };
    format!("{}{query}", container_path(name))
}

/// Where a container's endpoints are.
pub fn endpoints_path(container: &str) -> String {
    format!("{}/endpoints", container_path(container))
}

/// Where a container's endpoint on a network is.
pub fn endpoint_path(container: &str, network: &str) -> String {
    format!("{}/{}", endpoints_path(container), encode_segment(network))
}

/// Where a container's published ports are.
pub fn ports_path(container: &str) -> String {
    format!("{}/ports", container_path(container))
}

/// Where a network is.
pub fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", encode_segment(name))
}

/// Where the connections are that `filter` selects.
pub fn connections_path(filter: &ConnectionFilter) -> String {
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
