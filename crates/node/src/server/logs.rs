//! Containers' logs.

use cri::{ContainerState, ContainerStatus};
use http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::api::core::v1::ContainerStatus as Told;
use wire::Body;

use super::{Query, look_up, text};
use crate::agent::Agent;
use crate::logs::{self, LogOptions};
use crate::pod::plan::told;
use crate::pod::seen::Seen;
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
    let Some((role, _)) = find_container(&spec(&pod_object), container) else {
        return text(StatusCode::BAD_REQUEST, &format!("container {container} is not valid for pod {pod}\n"));
    };
    let told = told(&pod_object, role, container);
    let status = match chosen(&seen, told, container, options.previous) {
        Some(status) => status,
        None if options.previous => {
            let message = format!("previous terminated container {container:?} in pod {pod:?} not found\n");
            return text(StatusCode::BAD_REQUEST, &message);
        }
        None => return text(StatusCode::BAD_REQUEST, &waits(told, container, pod)),
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

/// The try of a container whose log is meant. One that waits to be tried again has as its previous one what ended last, and
/// one that was never tried again has no other log, either. Upstream: `validateContainerLogStatus`.
fn chosen<'s>(seen: &'s Seen, told: Option<&Told>, container: &str, previous: bool) -> Option<&'s ContainerStatus> {
    let newest = seen.newest(container)?;
    let waits = told.and_then(|told| told.state.as_ref()).is_some_and(|state| state.waiting.is_some());
    match newest.state {
        ContainerState::Created => seen.before(newest),
        ContainerState::Exited if previous && waits => Some(newest),
        _ if previous => seen.before(newest),
        _ => Some(newest),
    }
}

/// Why a container has no log yet, as upstream says it.
fn waits(told: Option<&Told>, container: &str, pod: &str) -> String {
    let Some(told) = told else { return format!("container {container:?} in pod {pod:?} is not available\n") };
    let reason = told.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
    let waits = format!("container {container:?} in pod {pod:?} is waiting to start");
    match reason {
        Some("ErrImagePull") => format!("{waits}: image can't be pulled\n"),
        Some("ImagePullBackOff") => format!("{waits}: trying and failing to pull image\n"),
        Some(reason) => format!("{waits}: {reason}\n"),
        None => format!("{waits} - no logs yet\n"),
    }
}

#[cfg(test)]
mod tests {
    use cri::ContainerMetadata;

    use super::*;

    /// Which try is shown of one that is in this state after one that has ended, when its status says this.
    #[track_caller]
    fn check(state: ContainerState, told: &str, previous: bool, expected: Option<u32>) {
        let attempt = |attempt, state| ContainerStatus {
            metadata: ContainerMetadata { name: "c".into(), attempt },
            state,
            ..ContainerStatus::default()
        };
        let containers = vec![attempt(1, state), attempt(0, ContainerState::Exited)];
        let seen = Seen { containers, ..Seen::default() };
        let json =
            format!(r#"{{"name":"c","image":"","imageID":"","ready":false,"restartCount":0,"state":{{{told}}}}}"#);
        let told: Told = serde_json::from_str(&json).unwrap();
        let chosen = chosen(&seen, Some(&told), "c", previous);
        assert_eq!(chosen.map(|chosen| chosen.metadata.attempt), expected, "{state:?}, {json}");
    }

    const WAITS: &str = r#""waiting":{"reason":"CrashLoopBackOff"}"#;

    #[test]
    fn what_waits_to_be_tried_again_is_its_own_previous_one() {
        check(ContainerState::Exited, WAITS, true, Some(1));
        check(ContainerState::Exited, WAITS, false, Some(1));
        check(ContainerState::Exited, r#""terminated":{"exitCode":0}"#, true, Some(0));
        check(ContainerState::Running, r#""running":{}"#, true, Some(0));
        check(ContainerState::Running, r#""running":{}"#, false, Some(1));
        check(ContainerState::Created, WAITS, false, Some(0));
    }

    #[test]
    fn why_there_is_no_log_is_told_in_upstreams_words() {
        let check = |json: &str, expected: &str| {
            let json = format!(r#"{{"name":"c","image":"","imageID":"","ready":false,"restartCount":0{json}}}"#);
            let told: Told = serde_json::from_str(&json).unwrap();
            assert_eq!(waits(Some(&told), "c", "p"), format!("container \"c\" in pod \"p\" is {expected}\n"));
        };
        let state = |reason: &str| format!(r#","state":{{"waiting":{{"reason":"{reason}"}}}}"#);
        check(&state("ImagePullBackOff"), "waiting to start: trying and failing to pull image");
        check(&state("ErrImagePull"), "waiting to start: image can't be pulled");
        check(&state("PodInitializing"), "waiting to start: PodInitializing");
        check("", "waiting to start - no logs yet");
        assert_eq!(waits(None, "c", "p"), "container \"c\" in pod \"p\" is not available\n");
    }
}
