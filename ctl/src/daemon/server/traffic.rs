//! What the switch and its NAT know and count.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::exchange::{Refused, listed};
use crate::api::{Counters, DropCounter, FdbEntry, NatRules, PortCounters};
use crate::daemon::metrics;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(fdb))
        .routes(routes!(nat_rules))
        .routes(routes!(counters))
        .routes(routes!(prometheus))
}

/// Which MAC address is behind which port of the switch.
#[utoipa::path(get, path = "/v1/fdb", responses(
    (status = 200, description = "What was asked for", body = Vec<FdbEntry>),
    Refused
))]
async fn fdb(State(api): State<Api>) -> Response {
    let view = api.view();
    let rows = api.switch.fdb().into_iter().map(move |row| FdbEntry {
        network: view.network_name(row.network.0),
        mac: row.mac.to_string(),
        port: row.port.0,
        owner: view.owner(row.port.0),
        age_seconds: row.age.map(|age| age.as_secs()),
    });
    listed(rows)
}

/// The rules of address translation.
#[utoipa::path(get, path = "/v1/nat", responses(
    (status = 200, description = "What was asked for", body = NatRules),
    Refused
))]
async fn nat_rules(State(api): State<Api>) -> Json<NatRules> {
    Json(api.view().rules())
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
                hosts_own_frames: counters.hosts_own,
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
