//! Containers' logs.

use http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use wire::Body;

use super::{Query, look_up, text};
use crate::agent::Agent;
use crate::logs::{self, LogOptions};
use crate::pod::{find_container, spec};

fn log_options(query: &Query) -> Result<LogOptions, String> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(value) => value.parse::<u64>().map(Some).map_err(|_| format!("invalid {name}: {value:?}\n")),
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => {
            Some(stdx::wall() - jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| format!("invalid sinceTime: {time:?}\n"))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
        since,
        stream: query.get("stream").filter(|stream| *stream != "All").map(str::to_owned),
    })
}

/// Answers with a container's log.
pub(super) async fn answer(
    agent: &Agent,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Response<Body> {
    let options = match log_options(query) {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error),
    };
    let (pod_object, seen) = match look_up(agent, namespace, pod).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    if find_container(&spec(&pod_object), container).is_none() {
        return text(StatusCode::BAD_REQUEST, &format!("container {container} is not valid for pod {pod}\n"));
    }
    let status = match (seen.newest(container), options.previous) {
        (Some(newest), false) => newest,
        (Some(newest), true) => match seen.before(newest) {
            Some(before) => before,
            None => {
                let message = format!("previous terminated container {container:?} in pod {pod:?} not found\n");
                return text(StatusCode::BAD_REQUEST, &message);
            }
        },
        (None, _) => return text(StatusCode::BAD_REQUEST, &waits(&pod_object, container, pod)),
    };
    let runtime = agent.context().runtime.clone();
    match logs::stream((&status.log_path).into(), options, runtime, status.id.clone()) {
        Ok(stream) => {
            use futures_util::StreamExt as _;
            let pieces = stream.map(|piece| piece.map_err(|error| wire::BodyError::Produce(error.into())));
            let mut response = Response::new(Body::stream(pieces));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to try resolving symlinks in path {:?}: {error}\n", status.log_path),
        ),
    }
}

/// Why a container has no log yet, as upstream says it.
fn waits(pod_object: &Pod, container: &str, pod: &str) -> String {
    let statuses = pod_object.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let waiting = statuses.into_iter().flatten().find(|status| status.name == container);
    let reason = waiting.and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match reason {
        Some(reason) => format!("container {container:?} in pod {pod:?} is waiting to start: {reason}\n"),
        None => format!("container {container:?} in pod {pod:?} is not available\n"),
    }
}
