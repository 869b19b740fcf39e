//! The HTTP API: routes, bodies and errors. Shapes are in [`crate::api`].
//!
//! A change runs to its end on a thread for blocking work even if its client goes away, one
//! change at a time. Readers look at the last [`View`] and wait for nobody.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, body::Body as ResponseBody, middleware};
use futures_util::stream;
use serde::Deserialize;
use switch::Switch;
use switch::io::has_ipv6;
use tokio::sync::watch;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::guard;
use super::events::Events;
use super::failure::Failure;
use super::view::View;
use super::{Daemon, metrics, names};
use crate::api::{
    Attach, Connect, Connection, Container, Counters, CreateNetwork, DropCounter, Engine,
    ErrorBody, Event, EventAction, EventKind, Exit, Exited, FdbEntry, Flow, Info, Kill, NatRules,
    Network, PortCounters, PortKind, PortMapping, PublishedPort, SetFaults, SetLimits,
    SetPartition, Status,
};

mod exchange;

pub(super) use exchange::forbidden;
use exchange::{Asked, Body, MAX_BODY, Name, Refusal, Refused, gone, unknown, wrong_method};

/// One JSON object a line.
const EVENTS_TYPE: &str = "application/x-ndjson";

/// What stands for `{name}` in a path.
const NAMED: &str = "Name, id or an unambiguous beginning of the id";

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
    pub engine: Arc<Engine>,
    pub events: Arc<Events>,
}

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) fn router(api: Api) -> Router {
    documented()
        .split_for_parts()
        .0
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(guard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Every route, each with what the document says of it.
fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(openapi))
        .routes(routes!(info))
        .routes(routes!(networks, create_network, prune_networks))
        .routes(routes!(network, remove_network))
        .routes(routes!(containers, attach))
        .routes(routes!(container, detach))
        .routes(routes!(connect))
        .routes(routes!(disconnect))
        .routes(routes!(published, publish, unpublish))
        .routes(routes!(set_limits))
        .routes(routes!(set_faults, clear_faults))
        .routes(routes!(set_partition))
        .routes(routes!(clear_all_faults))
        .routes(routes!(kill))
        .routes(routes!(exited))
        .routes(routes!(wait))
        .routes(routes!(stream_events))
        .routes(routes!(fdb))
        .routes(routes!(nat_rules))
        .routes(routes!(connections))
        .routes(routes!(counters))
        .routes(routes!(prometheus))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "pontoon",
        description = "Networks, containers and published ports of a pontoon daemon, over its Unix socket."
    ),
    components(schemas(ErrorBody))
)]
struct Document;

/// This document: what can be asked, and what is answered.
#[utoipa::path(get, path = "/v1/openapi.json", responses(
    (status = 200, description = "An OpenAPI document", body = serde_json::Value),
    Refused
))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(documented().split_for_parts().1)
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
        let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = work(&mut daemon);
        let (clearing, remains) = daemon.take_remains();
        drop(daemon);
        clearing.remove(remains);
        outcome
    });
    done.await.unwrap_or_else(|error| {
        Err(Failure::Internal(format!(
            "the daemon failed at it ({error}); its log tells more"
        )))
    })
}

/// The daemon itself.
#[utoipa::path(get, path = "/v1/info", responses(
    (status = 200, description = "What was asked for", body = Info),
    Refused
))]
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
        engine: (*api.engine).clone(),
    })
}

/// All networks.
#[utoipa::path(get, path = "/v1/networks", responses(
    (status = 200, description = "What was asked for", body = Vec<Network>),
    Refused
))]
async fn networks(State(api): State<Api>) -> Json<Vec<Network>> {
    Json(api.view().networks.clone())
}

/// One network.
#[utoipa::path(get, path = "/v1/networks/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "What was asked for", body = Network),
    Refused
))]
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

/// Makes a network.
#[utoipa::path(post, path = "/v1/networks", request_body = CreateNetwork, responses(
    (status = 200, description = "The network", body = Network),
    Refused
))]
async fn create_network(
    State(api): State<Api>,
    Body(request): Body<CreateNetwork>,
) -> Answer<Network> {
    Ok(change(&api.daemon, |daemon| daemon.create_network(request))
        .await
        .map(Json)?)
}

/// Removes a network that no container is on.
#[utoipa::path(delete, path = "/v1/networks/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "The network as it was", body = Network),
    Refused
))]
async fn remove_network(State(api): State<Api>, Name(name): Name) -> Answer<Network> {
    Ok(
        change(&api.daemon, move |daemon| daemon.remove_network(&name))
            .await
            .map(Json)?,
    )
}

/// Removes every network that no container is on.
#[utoipa::path(delete, path = "/v1/networks", responses(
    (status = 200, description = "The networks as they were", body = Vec<Network>),
    Refused
))]
async fn prune_networks(State(api): State<Api>) -> Answer<Vec<Network>> {
    Ok(change(&api.daemon, Daemon::prune_networks)
        .await
        .map(Json)?)
}

/// All containers, those that have exited too.
#[utoipa::path(get, path = "/v1/containers", responses(
    (status = 200, description = "What was asked for", body = Vec<Container>),
    Refused
))]
async fn containers(State(api): State<Api>) -> Json<Vec<Container>> {
    Json(api.view().containers.clone())
}

/// One container.
#[utoipa::path(get, path = "/v1/containers/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "What was asked for", body = Container),
    Refused
))]
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

/// Attaches a namespace as a container.
#[utoipa::path(post, path = "/v1/containers", request_body = Attach, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
async fn attach(State(api): State<Api>, Body(request): Body<Attach>) -> Answer<Container> {
    Ok(change(&api.daemon, |daemon| daemon.attach(request))
        .await
        .map(Json)?)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Force {
    /// Even if others share its namespace, who are left without a network.
    #[serde(default)]
    force: bool,
}

/// Takes a container off its networks and forgets it; its process goes on.
#[utoipa::path(delete, path = "/v1/containers/{name}", params(("name" = String, Path, description = NAMED), Force), responses(
    (status = 200, description = "The container as it was", body = Container),
    Refused
))]
async fn detach(
    State(api): State<Api>,
    Name(name): Name,
    Asked(Force { force }): Asked<Force>,
) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.detach(&name, force))
            .await
            .map(Json)?,
    )
}

/// Puts a running container on one more network.
#[utoipa::path(post, path = "/v1/containers/{name}/endpoints", params(("name" = String, Path, description = NAMED)), request_body = Connect, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Takes a running container off a network.
#[utoipa::path(delete, path = "/v1/containers/{name}/endpoints/{network}", params(("name" = String, Path, description = NAMED), ("network" = String, Path, description = NAMED)), responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// What a container publishes, and what it is used for.
#[utoipa::path(get, path = "/v1/containers/{name}/ports", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "What was asked for", body = Vec<PublishedPort>),
    Refused
))]
async fn published(State(api): State<Api>, Name(name): Name) -> Answer<Vec<PublishedPort>> {
    let view = api.view();
    let container = find_container(&view, &name)?;
    Ok(Json(view.published_ports_of(&container.id, &api.switch)))
}

/// Publishes ports of a running container, all of them or none.
#[utoipa::path(post, path = "/v1/containers/{name}/ports", params(("name" = String, Path, description = NAMED)), request_body = Vec<PortMapping>, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Withdraws ports as they were published, all of them or none. Their flows end.
#[utoipa::path(delete, path = "/v1/containers/{name}/ports", params(("name" = String, Path, description = NAMED)), request_body = Vec<PortMapping>, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Limits the traffic of endpoints of a container.
#[utoipa::path(post, path = "/v1/containers/{name}/limits", params(("name" = String, Path, description = NAMED)), request_body = SetLimits, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Makes endpoints of a container suffer faults, until the daemon ends.
#[utoipa::path(post, path = "/v1/containers/{name}/faults", params(("name" = String, Path, description = NAMED)), request_body = SetFaults, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Ends the faults of a container.
#[utoipa::path(delete, path = "/v1/containers/{name}/faults", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
async fn clear_faults(State(api): State<Api>, Name(name): Name) -> Answer<Container> {
    Ok(
        change(&api.daemon, move |daemon| daemon.clear_faults(&name))
            .await
            .map(Json)?,
    )
}

/// Ends the faults of all containers.
#[utoipa::path(delete, path = "/v1/faults", responses(
    (status = 200, description = "The containers that had faults", body = Vec<Container>),
    Refused
))]
async fn clear_all_faults(State(api): State<Api>) -> Answer<Vec<Container>> {
    Ok(change(&api.daemon, Daemon::clear_all_faults)
        .await
        .map(Json)?)
}

/// Cuts a container off from others.
#[utoipa::path(post, path = "/v1/containers/{name}/partition", params(("name" = String, Path, description = NAMED)), request_body = SetPartition, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// Sends a signal to the command of a container that `pontoon run` started.
#[utoipa::path(post, path = "/v1/containers/{name}/kill", params(("name" = String, Path, description = NAMED)), request_body = Kill, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
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

/// For the supervisor of a command: tells how the command has ended.
#[utoipa::path(post, path = "/v1/containers/{name}/exit", params(("name" = String, Path, description = NAMED)), request_body = Exited, responses(
    (status = 200, description = "What is told of it from now on", body = Exit),
    Refused
))]
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

/// Answers when the container has ended.
#[utoipa::path(get, path = "/v1/containers/{name}/wait", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "How it has ended", body = Exit),
    Refused
))]
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Since {
    /// Begin with the event of this number; with what comes from now on when absent.
    since: Option<u64>,
}

/// What happens, as it happens: one JSON object a line, without end.
#[utoipa::path(get, path = "/v1/events", params(
Since), responses(
    (status = 200, description = "Events, each batch flushed as it comes", body = Event,
        content_type = EVENTS_TYPE),
    Refused
))]
async fn stream_events(State(api): State<Api>, Asked(Since { since }): Asked<Since>) -> Response {
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
    let kind = [(header::CONTENT_TYPE, EVENTS_TYPE)];
    (kind, ResponseBody::from_stream(lines)).into_response()
}

/// Which MAC address is behind which port of the switch.
#[utoipa::path(get, path = "/v1/fdb", responses(
    (status = 200, description = "What was asked for", body = Vec<FdbEntry>),
    Refused
))]
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

/// The rules of address translation.
#[utoipa::path(get, path = "/v1/nat", responses(
    (status = 200, description = "What was asked for", body = NatRules),
    Refused
))]
async fn nat_rules(State(api): State<Api>) -> Json<NatRules> {
    Json(api.view().rules.clone())
}

/// The connections that are tracked.
#[utoipa::path(get, path = "/v1/connections", responses(
    (status = 200, description = "What was asked for", body = Vec<Connection>),
    Refused
))]
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

/// Frames by port, and frames dropped by reason.
#[utoipa::path(get, path = "/v1/counters", responses(
    (status = 200, description = "What was asked for", body = Counters),
    Refused
))]
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

/// What is counted, published ports with it, as Prometheus reads it.
#[utoipa::path(get, path = "/v1/metrics", responses(
    (status = 200, description = "Metrics in the text format", body = String,
        content_type = metrics::TYPE),
    Refused
))]
async fn prometheus(State(api): State<Api>) -> Response {
    let kind = [(header::CONTENT_TYPE, metrics::TYPE)];
    (kind, metrics::write(&api.view(), &api.switch)).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every name that the document refers to is one that it explains.
    #[test]
    fn the_document_is_whole() {
        let document = serde_json::to_value(documented().split_for_parts().1).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let known: BTreeSet<String> = schemas
            .keys()
            .map(|name| format!("#/components/schemas/{name}"))
            .collect();
        let mut unread = vec![&document];
        let mut referred = BTreeSet::new();
        while let Some(value) = unread.pop() {
            referred.extend(value["$ref"].as_str().map(str::to_owned));
            unread.extend(value.as_object().into_iter().flat_map(|it| it.values()));
            unread.extend(value.as_array().into_iter().flatten());
        }
        assert_eq!(known, referred);
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(path.starts_with("/v1/"), "{path}");
            for (method, operation) in item.as_object().unwrap() {
                let told = operation["summary"].as_str().is_some();
                let answers = operation["responses"].as_object().unwrap();
                assert!(told && answers.contains_key("200"), "{method} {path}");
                assert_eq!(answers.len(), 8, "{method} {path}: {answers:?}");
            }
        }
    }
}
