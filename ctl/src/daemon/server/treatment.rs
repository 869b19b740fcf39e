//! How the frames of a container are treated: limits and faults.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::exchange::{Body, Name, Refused};
use super::{Answer, Api, NAMED};
use crate::api::{Container, SetFaults, SetLimits, SetPartition};
use crate::daemon::Daemon;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(set_limits))
        .routes(routes!(set_faults, clear_faults))
        .routes(routes!(set_partition))
        .routes(routes!(clear_all_faults))
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
    api.change(move |daemon| daemon.set_limits(&name, request))
        .await
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
    api.change(move |daemon| daemon.set_faults(&name, request))
        .await
}

/// Ends the faults of a container.
#[utoipa::path(delete, path = "/v1/containers/{name}/faults", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
async fn clear_faults(State(api): State<Api>, Name(name): Name) -> Answer<Container> {
    api.change(move |daemon| daemon.clear_faults(&name)).await
}

/// Ends the faults of all containers.
#[utoipa::path(delete, path = "/v1/faults", responses(
    (status = 200, description = "The containers that had faults", body = Vec<Container>),
    Refused
))]
async fn clear_all_faults(State(api): State<Api>) -> Answer<Vec<Container>> {
    api.change(Daemon::clear_all_faults).await
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
    api.change(move |daemon| daemon.set_partition(&name, &request))
        .await
}
