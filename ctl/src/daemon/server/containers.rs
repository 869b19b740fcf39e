//! Containers: attached, put on networks and taken off, and how they end.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::exchange::{Asked, Body, Name, Refusal, Refused, gone};
use super::{Answer, Api, NAMED};
use crate::api::{
    Attach, Connect, Container, EventAction, EventKind, Exit, Exited, Kill, Status, Target,
};
use crate::daemon::access::Peer;
use crate::daemon::failure::Failure;
use crate::daemon::names;
use crate::daemon::view::View;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(containers, attach))
        .routes(routes!(container, detach))
        .routes(routes!(connect))
        .routes(routes!(disconnect))
        .routes(routes!(kill))
        .routes(routes!(exited))
        .routes(routes!(wait))
}

/// All containers, those that have exited too.
#[utoipa::path(get, path = "/v1/containers", responses(
    (status = 200, description = "What was asked for", body = Vec<Container>),
    Refused
))]
async fn containers(State(api): State<Api>) -> Json<Vec<Arc<Container>>> {
    Json(api.view().containers().cloned().collect())
}

/// One container.
#[utoipa::path(get, path = "/v1/containers/{name}", params(("name" = String, Path, description = NAMED)), responses(
    (status = 200, description = "What was asked for", body = Container),
    Refused
))]
async fn container(State(api): State<Api>, Name(name): Name) -> Answer<Arc<Container>> {
    find_container(&api.view(), &name).map(Json)
}

pub(super) fn find_container(view: &View, name: &str) -> Result<Arc<Container>, Refusal> {
    let entries = view
        .containers()
        .map(|it| (it.id.as_str(), it.name.as_str()));
    let id = names::resolve("container", name, entries)?;
    let found = view.containers().find(|container| container.id == id);
    found.cloned().ok_or_else(|| gone("container", name))
}

/// Attaches a namespace as a container.
#[utoipa::path(post, path = "/v1/containers", request_body = Attach, responses(
    (status = 200, description = "The container", body = Container),
    Refused
))]
async fn attach(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(mut request): Body<Attach>,
) -> Answer<Container> {
    api.change(move |daemon| {
        if let Target::Pid(pid) = &mut request.target {
            *pid = peer.number(*pid)?;
        }
        daemon.attach(request)
    })
    .await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Force {
    /// Even if others share its namespace, who are left without a network.
    #[serde(default)]
    force: bool,
}

/// Takes a container off its networks and forgets it. What was attached goes on; a command that
/// `pontoon run` started is killed.
#[utoipa::path(delete, path = "/v1/containers/{name}", params(("name" = String, Path, description = NAMED), Force), responses(
    (status = 200, description = "The container as it was", body = Container),
    Refused
))]
async fn detach(
    State(api): State<Api>,
    Name(name): Name,
    Asked(Force { force }): Asked<Force>,
) -> Answer<Container> {
    api.change(move |daemon| daemon.detach(&name, force)).await
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
    api.change(move |daemon| daemon.connect(&name, request))
        .await
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
    api.change(move |daemon| daemon.disconnect(&name, &network))
        .await
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
    api.change(move |daemon| daemon.kill(&name, &request.signal))
        .await
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
    api.change(move |daemon| daemon.exited(&name, told.exit_code))
        .await
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
