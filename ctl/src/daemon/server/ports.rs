//! Published ports of a container.

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::containers::find_container;
use super::exchange::{Body, Name, Refused};
use super::{Answer, Api, NAMED};
use crate::api::{Container, PortMapping, PublishedPort};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(published, publish, unpublish))
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
    api.change(move |daemon| daemon.publish(&name, mappings))
        .await
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
    api.change(move |daemon| daemon.unpublish(&name, mappings))
        .await
}
