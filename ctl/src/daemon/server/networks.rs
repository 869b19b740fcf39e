//! Networks: listed, made, removed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::exchange::{Body, Name, Refused, gone};
use super::{Answer, Api, NAMED};
use crate::api::{CreateNetwork, Network};
use crate::daemon::{Daemon, names};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(networks, create_network, prune_networks))
        .routes(routes!(network, remove_network))
}

/// All networks.
#[utoipa::path(get, path = "/v1/networks", responses(
    (status = 200, description = "What was asked for", body = Vec<Network>),
    Refused
))]
async fn networks(State(api): State<Api>) -> Json<Vec<Arc<Network>>> {
    Json(api.view().networks().cloned().collect())
}

/// One network.
#[utoipa::path(get, path = "/v1/networks/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "What was asked for", body = Network),
    Refused
))]
async fn network(State(api): State<Api>, Name(name): Name) -> Answer<Arc<Network>> {
    let view = api.view();
    let entries = view.networks().map(|it| (it.id.as_str(), it.name.as_str()));
    let id = names::resolve("network", &name, entries)?;
    let found = view.networks().find(|network| network.id == id);
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
    api.change(|daemon| daemon.create_network(request)).await
}

/// Removes a network that no container is on.
#[utoipa::path(delete, path = "/v1/networks/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "The network as it was", body = Network),
    Refused
))]
async fn remove_network(State(api): State<Api>, Name(name): Name) -> Answer<Network> {
    api.change(move |daemon| daemon.remove_network(&name)).await
}

/// Removes every network that no container is on.
#[utoipa::path(delete, path = "/v1/networks", responses(
    (status = 200, description = "The networks as they were", body = Vec<Network>),
    Refused
))]
async fn prune_networks(State(api): State<Api>) -> Answer<Vec<Network>> {
    api.change(Daemon::prune_networks).await
}
