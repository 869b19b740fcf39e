//! The HTTP API: routes, bodies and errors. Shapes are in [`crate::api`].
//!
//! A change runs to its end on a thread for blocking work even if its client goes away, one
//! change at a time. Readers look at the last [`View`] and wait for nobody.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

use super::Daemon;
use super::access::guard;
use super::events::Events;
use super::failure::Failure;
use super::shares::Shares;
use super::view::View;
use crate::api::{Engine, ErrorBody, Event, Info, PortKind, Privileges};

mod connections;
mod containers;
mod exchange;
mod networks;
mod ports;
mod traffic;
mod treatment;

use exchange::{Asked, MAX_BODY, Refusal, Refused, unknown, wrong_method};
pub(super) use exchange::{busy, forbidden};

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
    pub privileges: Arc<Privileges>,
    pub events: Arc<Events>,
}

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) fn router(api: Api, shares: Arc<Shares>) -> Router {
    documented()
        .split_for_parts()
        .0
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(shares, guard))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Every route, each with what the document says of it.
fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(openapi))
        .routes(routes!(info))
        .routes(routes!(stream_events))
        .merge(networks::routes())
        .merge(containers::routes())
        .merge(ports::routes())
        .merge(treatment::routes())
        .merge(connections::routes())
        .merge(traffic::routes())
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

    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Daemon) -> Result<T, Failure> + Send + 'static,
    ) -> Answer<T> {
        Ok(change(&self.daemon, work).await.map(Json)?)
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
            "the daemon failed ({error}); its log has more"
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
        host_silence: view.host_silence,
        ipv6: api.ipv6,
        kernel_ipv6: has_ipv6(),
        networks: view.networks().len(),
        containers: view.containers().len(),
        connections: api.switch.nat().len(),
        engine: (*api.engine).clone(),
        privileges: (*api.privileges).clone(),
    })
}

/// The engine's limits, as the API reports them.
pub(super) fn engine(limits: &nat::Limits) -> Engine {
    let seconds = |timeout: Duration| timeout.as_secs_f64();
    let timeouts = &limits.timeouts;
    Engine {
        max_connections: limits.max_connections,
        max_connections_per_address: limits.max_per_address,
        max_ports_per_address: limits.max_ports_per_address,
        pick_up_tcp: limits.pick_up_tcp,
        tcp_established_timeout: seconds(timeouts.tcp_established),
        tcp_transitory_timeout: seconds(timeouts.tcp_transitory),
        udp_timeout: seconds(timeouts.udp),
        udp_dns_timeout: seconds(timeouts.udp_dns),
        icmp_timeout: seconds(timeouts.icmp),
        other_timeout: seconds(timeouts.other),
    }
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
                assert_eq!(answers.len(), 9, "{method} {path}: {answers:?}");
            }
        }
    }
}
