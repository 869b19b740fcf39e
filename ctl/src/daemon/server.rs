//! The HTTP API: routes, bodies and errors. Shapes are in [`crate::api`].
//!
//! A change runs to its end on a thread for blocking work even if its client goes away, one
//! change at a time. Readers look at the last [`View`] and wait for nobody.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Body as ResponseBody, body::Bytes, middleware};
use futures_util::stream;
use serde::de::DeserializeOwned;
use switch::Switch;
use switch::io::has_ipv6;
use tokio::sync::watch;

use super::access::guard;
use super::events::Events;
use super::failure::Failure;
use super::view::{TrafficByRule, View};
use super::{Daemon, names};
use crate::api::{
    Attach, Connect, Connection, Container, Counters, CreateNetwork, DropCounter, ErrorBody,
    EventAction, EventKind, Exit, Exited, FdbEntry, Flow, Info, Kill, NatRules, Network,
    PortCounters, PortKind, PortMapping, PublishedPort, SetFaults, SetLimits, SetPartition, Status,
};

/// Largest request taken, in bytes. The largest sensible one is a list of port mappings.
const MAX_BODY: usize = 1 << 20;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub daemon: Arc<Mutex<Daemon>>,
    pub view: watch::Receiver<Arc<View>>,
    pub switch: Arc<Switch>,
    pub state_dir: Arc<PathBuf>,
    pub run_dir: Arc<PathBuf>,
    pub port_kind: PortKind,
    pub ipv6: bool,
    pub events: Arc<Events>,
}

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/info", get(info))
        .route(
            "/v1/networks",
            get(networks).post(create_network).delete(prune_networks),
        )
        .route("/v1/networks/{name}", get(network).delete(remove_network))
        .route("/v1/containers", get(containers).post(attach))
        .route("/v1/containers/{name}", get(container).delete(detach))
        .route("/v1/containers/{name}/endpoints", post(connect))
        .route(
            "/v1/containers/{name}/endpoints/{network}",
            axum::routing::delete(disconnect),
        )
        .route(
            "/v1/containers/{name}/ports",
            get(published).post(publish).delete(unpublish),
        )
        .route("/v1/containers/{name}/limits", post(set_limits))
        .route(
            "/v1/containers/{name}/faults",
            post(set_faults).delete(clear_faults),
        )
        .route("/v1/containers/{name}/partition", post(set_partition))
        .route("/v1/faults", axum::routing::delete(clear_all_faults))
        .route("/v1/containers/{name}/kill", post(kill))
        .route("/v1/containers/{name}/exit", post(exited))
        .route("/v1/containers/{name}/wait", get(wait))
        .route("/v1/events", get(stream_events))
        .route("/v1/fdb", get(fdb))
        .route("/v1/nat", get(nat_rules))
        .route("/v1/connections", get(connections))
        .route("/v1/counters", get(counters))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(guard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

impl Api {
    fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }
}

/// Runs `work` on the daemon when its turn comes.
pub(super) async fn change<T: Send + 'static>(
    daemon: &Arc<Mutex<Daemon>>,
    work: impl FnOnce(&mut Daemon) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let daemon = Arc::clone(daemon);
    let done = tokio::task::spawn_blocking(move || {
        work(&mut daemon.lock().unwrap_or_else(PoisonError::into_inner))
    });
    done.await.unwrap_or_else(|error| {
        Err(Failure::Internal(format!(
            "the daemon failed at it ({error}); its log tells more"
        )))
    })
}

async fn info(State(api): State<Api>) -> Json<Info> {
    let view = api.view();
    Json(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        workers: api.switch.workers(),
        uplinks: view.uplinks.clone(),
        state_dir: api.state_dir.to_path_buf(),
        run_dir: api.run_dir.to_path_buf(),
        port_kind: api.port_kind,
        ipv6: api.ipv6,
        kernel_ipv6: has_ipv6(),
        networks: view.networks.len(),
        containers: view.containers.len(),
        connections: api.switch.nat().len(),
    })
}

async fn networks(State(api): State<Api>) -> Json<Vec<Network>> {
    Json(api.view().networks.clone())
}

async fn network(State(api): State<Api>, Name(name): Name) -> Answer<Network> {
    let view = api.view();
    let entries = view
        .networks
        .iter()
        .map(|it| (it.id.as_str(), it.name.as_str()));
    let id = names::resolve("network", &name, entries)?;
    let found = view.networks.iter().find(|network| network.id == id);
    found
        .cloned()
        .map(Json)
        .ok_or_else(|| gone("network", &name))
}

async fn create_network(
    State(api): State<Api>,
    Body(request): Body<CreateNetwork>,
) -> Answer<Network> {
    Ok(change(&api.daemon, |daemon| daemon.create_network(request))
        .await
        .map(Json)?)
}

async fn remove_network(State(api): State<Api>, Name(name): Name) -> Answer<Network> {
    Ok(
        change(&api.daemon, move |daemon| daemon.remove_network(&name))
            .await
            .map(Json)?,
    )
}

async fn prune_networks(State(api): State<Api>) -> Answer<Vec<Network>> {
    Ok(change(&api.daemon, Daemon::prune_networks)
        .await
        .map(Json)?)
}

async fn containers(State(api): State<Api>) -> Json<Vec<Container>> {
    Json(api.view().containers.clone())
}

async fn container(State(api): State<Api>, Name(name): Name) -> Answer<Container> {
    find_container(&api.view(), &name).map(Json)
}

fn find_container(view: &View, name: &str) -> Result<Container, Refusal> {
    let entries = view
        .containers
        .iter()
        .map(|it| (it.id.as_str(), it.name.as_str()));
    let id = names::resolve("container", name, entries)?;
    let found = view.containers.iter().find(|container| container.id == id);
    found.cloned().ok_or_else(|| gone("container", name))
}

async fn attach(State(api): State<Api>, Body(request): Body<Attach>) -> Answer<Container> {
    Ok(change(&api.daemon, |daemon| daemon.attach(request))
        .await
        .map(Json)?)
}

async fn detach(State(api): State<Api>, Name(name): Name) -> Answer<Container> {
    Ok(change(&api.daemon, move |daemon| daemon.detach(&name))
        .await
        .map(Json)?)
}

async fn connect(
    State(api): State<Api>,
    Name(name): Name,
    Body(request): Body<Connect>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.connect(&name, request))
            .await
            .map(Json)?,
    )
}

async fn disconnect(
    State(api): State<Api>,
    Name((name, network)): Name<(String, String)>,
) -> Answer<Container> {
    Ok(change(&api.daemon, move |daemon| {
        daemon.disconnect(&name, &network)
    })
    .await
    .map(Json)?)
}

async fn published(State(api): State<Api>, Name(name): Name) -> Answer<Vec<PublishedPort>> {
    let view = api.view();
    let container = find_container(&view, &name)?;
    let carried = traffic_by_rule(&api.switch);
    let published = view.published.get(&container.id);
    let ports = published.into_iter().flatten();
    Ok(Json(ports.map(|port| port.tell(&carried)).collect()))
}

fn traffic_by_rule(switch: &Switch) -> TrafficByRule {
    switch.nat().traffic(switch.now()).into_iter().collect()
}

async fn publish(
    State(api): State<Api>,
    Name(name): Name,
    Body(mappings): Body<Vec<PortMapping>>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.publish(&name, mappings))
            .await
            .map(Json)?,
    )
}

async fn unpublish(
    State(api): State<Api>,
    Name(name): Name,
    Body(mappings): Body<Vec<PortMapping>>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.unpublish(&name, mappings))
            .await
            .map(Json)?,
    )
}

async fn set_limits(
    State(api): State<Api>,
    Name(name): Name,
    Body(request): Body<SetLimits>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.set_limits(&name, request))
            .await
            .map(Json)?,
    )
}

async fn set_faults(
    State(api): State<Api>,
    Name(name): Name,
    Body(request): Body<SetFaults>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.set_faults(&name, request))
            .await
            .map(Json)?,
    )
}

async fn clear_faults(State(api): State<Api>, Name(name): Name) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.clear_faults(&name))
            .await
            .map(Json)?,
    )
}

async fn clear_all_faults(State(api): State<Api>) -> Answer<Vec<Container>> {
    Ok(change(&api.daemon, Daemon::clear_all_faults)
        .await
        .map(Json)?)
}

async fn set_partition(
    State(api): State<Api>,
    Name(name): Name,
    Body(request): Body<SetPartition>,
) -> Answer<Container> {
    Ok(change(&api.daemon, move |daemon| {
        daemon.set_partition(&name, &request)
    })
    .await
    .map(Json)?)
}

async fn kill(
    State(api): State<Api>,
    Name(name): Name,
    Body(request): Body<Kill>,
) -> Answer<Container> {
    Ok(change(&api.daemon, move |daemon| {
        daemon.kill(&name, &request.signal)
    })
    .await
    .map(Json)?)
}

async fn exited(
    State(api): State<Api>,
    Name(name): Name,
    Body(told): Body<Exited>,
) -> Answer<Exit> {
    Ok(change(&api.daemon, move |daemon| {
        daemon.exited(&name, told.exit_code)
    })
    .await
    .map(Json)?)
}

async fn wait(State(api): State<Api>, Name(name): Name) -> Answer<Exit> {
    // Before the look at what is: what happens after it is heard.
    let mut listener = api.events.listen(None);
    let container = find_container(&api.view(), &name)?;
    let exit = |exit_code| {
        Json(Exit {
            id: container.id.clone(),
            name: container.name.clone(),
            exit_code,
        })
    };
    if container.status == Status::Exited {
        return Ok(exit(container.exit_code));
    }
    while let Some(heard) = listener.heard().await {
        for event in heard {
            if event.lost.is_some() {
                let now = find_container(&api.view(), &container.id)?;
                if now.status == Status::Exited {
                    return Ok(exit(now.exit_code));
                }
            } else if event.kind == EventKind::Container && event.id.as_ref() == Some(&container.id)
            {
                match event.action {
                    EventAction::Ended => return Ok(exit(event.exit_code)),
                    // Its network was taken away; what ends it is nobody's knowledge any more.
                    EventAction::Removed => return Ok(exit(None)),
                    _ => {}
                }
            }
        }
    }
    Err(Failure::Internal("the daemon stops".to_owned()).into())
}

/// One JSON object a line, each batch flushed as it comes.
async fn stream_events(State(api): State<Api>, request: Request) -> Result<Response, Refusal> {
    let since = match request.uri().query() {
        None => None,
        Some(query) => {
            let number = query.strip_prefix("since=").map(str::parse);
            let Some(Ok(number)) = number else {
                let problem = format!("{query:?} is not since=NUMBER, the number of an event");
                return Err(Failure::Invalid(problem).into());
            };
            Some(number)
        }
    };
    let lines = stream::unfold(api.events.listen(since), |mut listener| async {
        let mut lines = Vec::new();
        for event in listener.heard().await? {
            if let Err(error) = serde_json::to_writer(&mut lines, &event) {
                return Some((Err(error), listener));
            }
            lines.push(b'\n');
        }
        Some((Ok(lines), listener))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, ResponseBody::from_stream(lines)).into_response())
}

async fn fdb(State(api): State<Api>) -> Json<Vec<FdbEntry>> {
    let view = api.view();
    let rows = api.switch.fdb().into_iter().map(|row| FdbEntry {
        network: view.network_name(row.network.0),
        mac: row.mac.to_string(),
        port: row.port.0,
        owner: view.owner(row.port.0),
        age_seconds: row.age.map(|age| age.as_secs()),
    });
    Json(rows.collect())
}

async fn nat_rules(State(api): State<Api>) -> Json<NatRules> {
    Json(api.view().rules.clone())
}

async fn connections(State(api): State<Api>) -> Json<Vec<Connection>> {
    let flow = |tuple: &nat::Tuple| Flow {
        src: tuple.src,
        dst: tuple.dst,
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
    };
    let rows = api
        .switch
        .nat()
        .connections(api.switch.now())
        .into_iter()
        .map(|row| Connection {
            protocol: row.original.protocol.to_string(),
            state: row.state.to_owned(),
            original: flow(&row.original),
            reply: flow(&row.reply),
            expires_seconds: row.expires_in.as_secs(),
            packets: row.packets,
            bytes: row.bytes,
        });
    Json(rows.collect())
}

async fn counters(State(api): State<Api>) -> Json<Counters> {
    let view = api.view();
    let counted = api.switch.counters();
    Json(Counters {
        ports: counted
            .ports
            .into_iter()
            .map(|(port, counters)| PortCounters {
                port: port.0,
                owner: view.owner(port.0),
                rx_frames: counters.rx_frames,
                rx_bytes: counters.rx_bytes,
                tx_frames: counters.tx_frames,
                tx_bytes: counters.tx_bytes,
            })
            .collect(),
        drops: counted
            .drops
            .into_iter()
            .map(|(reason, frames)| DropCounter {
                reason: reason.name(),
                explanation: reason.to_string(),
                frames,
            })
            .collect(),
    })
}

async fn unknown(request: Request) -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        error: format!("there is nothing at {}", request.uri().path()),
    }
}

async fn wrong_method(request: Request) -> Refusal {
    Refusal {
        status: StatusCode::METHOD_NOT_ALLOWED,
        error: format!(
            "{} can't be asked to {}",
            request.uri().path(),
            request.method()
        ),
    }
}

/// The answer to someone who may not do what was asked.
pub(super) fn forbidden(error: String) -> Response {
    let status = StatusCode::FORBIDDEN;
    Refusal { status, error }.into_response()
}

fn gone(what: &str, name: &str) -> Refusal {
    Failure::NotFound(format!("there is no {what} {name:?}")).into()
}

/// A failure as the client gets it.
struct Refusal {
    status: StatusCode,
    error: String,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let status = match &failure {
            Failure::Invalid(_) => StatusCode::BAD_REQUEST,
            Failure::NotFound(_) => StatusCode::NOT_FOUND,
            Failure::Conflict(_) => StatusCode::CONFLICT,
            Failure::Internal(text) => {
                tracing::error!("{text}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Refusal {
            status,
            error: failure.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

/// A JSON body. The content type is not looked at: there is only one.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Refusal> {
        let bytes =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection: BytesRejection| {
                    let status = rejection.status();
                    let error = match status {
                        StatusCode::PAYLOAD_TOO_LARGE => {
                            format!("the request is larger than {MAX_BODY} bytes")
                        }
                        _ => format!("the request can't be read: {}", rejection.body_text()),
                    };
                    Refusal { status, error }
                })?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| Refusal {
                status: StatusCode::BAD_REQUEST,
                error: format!("the request is not the JSON expected here: {error}"),
            })
    }
}

/// The name in a path.
struct Name<T = String>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Name<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name<T>, Refusal> {
        let name = Path::<T>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Name(name))
            .map_err(|rejection: PathRejection| Refusal {
                status: rejection.status(),
                error: format!("the path can't be read: {}", rejection.body_text()),
            })
    }
}
