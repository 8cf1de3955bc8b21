//! What changes in the runtime: its own stream of events, or a look at it every second where it has none, and more often where a
//! container was begun just now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::Notify;
use wire::grpc::{GrpcError, Messages};

use super::call::{Connection, is_unknown, undecodable};
use super::{proto, told};
use crate::container::ContainerState;
use crate::event::{ContainerEvent, ContainerEventType, EventSender};
use crate::sandbox::{PodSandboxMetadata, PodSandboxState};

/// How often a runtime without events is looked at. Upstream: `genericPlegRelistPeriod`.
const LOOK: Duration = Duration::from_secs(1);
/// How soon after a container's start a runtime without events is looked at; then after twice as long, and so on. What ends at
/// once would else count as running, and ready, for a whole second.
const LOOK_SOONEST: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(120);
/// How often everything is looked at although events come. Upstream: `eventedPlegRelistPeriod`.
const LOOK_BESIDES: Duration = Duration::from_secs(300);
/// How long after its beginning a subscription is taken to have begun: servers say so with their first event only.
const BEGUN: Duration = Duration::from_secs(1);

/// Tells subscribers of all that changes, until it is dropped.
pub(super) async fn run(connection: Connection, sender: EventSender, started: Arc<Notify>) {
    loop {
        let error = match follow(&connection, &sender).await {
            Err(error) if is_unknown(&error) => {
                tracing::debug!("the runtime has no events: it is looked at every second");
                return look_on(&connection, &sender, &started).await;
            }
            Err(error) => error.to_string(),
            Ok(()) => "ended".into(),
        };
        tracing::warn!(error, "runtime's events broke off");
        stdx::sleep(LOOK).await;
        sender.missed();
    }
}

/// Follows the runtime's own events.
async fn follow(connection: &Connection, sender: &EventSender) -> Result<(), GrpcError> {
    let mut events = Box::pin(connection.listen("RuntimeService/GetContainerEvents", &proto::Nothing {}));
    let mut messages: Messages = tokio::select! {
        begun = &mut events => begun?,
        () = stdx::sleep(BEGUN) => {
            sender.missed();
            loop {
                tokio::select! {
                    begun = &mut events => break begun?,
                    () = stdx::sleep(LOOK_BESIDES) => sender.missed(),
                }
            }
        }
    };
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message? else { return Ok(()) };
                let event = proto::ContainerEventResponse::decode(message).map_err(undecodable)?;
                if let Some(event) = told::event(event) {
                    sender.send(event);
                }
            }
            () = stdx::sleep(LOOK_BESIDES) => sender.missed(),
        }
    }
}

/// Looks at the runtime again and again; `started` tells that a container was.
async fn look_on(connection: &Connection, sender: &EventSender, started: &Notify) {
    let mut seen: Option<View> = None;
    let mut answers = true;
    let mut pause = LOOK;
    loop {
        match look(connection).await {
            Ok(view) => {
                match &seen {
                    Some(before) => changes(before, &view).into_iter().for_each(|event| sender.send(event)),
                    None => sender.missed(),
                }
                (seen, answers) = (Some(view), true);
            }
            Err(error) => {
                if std::mem::take(&mut answers) {
                    tracing::warn!(%error, "runtime does not answer");
                }
            }
        }
        pause = (pause * 2).min(LOOK);
        tokio::select! {
            () = stdx::sleep(pause) => {}
            () = started.notified() => {
                pause = LOOK_SOONEST;
                stdx::sleep(pause).await;
            }
        }
    }
}

/// How a sandbox or container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Made,
    Runs,
    Ended,
}

/// A sandbox or container.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    sandbox: String,
    state: State,
    pod: PodSandboxMetadata,
}

/// Everything there is, by id.
type View = BTreeMap<String, Part>;

async fn look(connection: &Connection) -> Result<View, GrpcError> {
    let limit = Some(LOOK_LIMIT);
    let all = proto::ListPodSandboxRequest::default();
    let sandboxes: proto::ListPodSandboxResponse = connection.ask("RuntimeService/ListPodSandbox", &all, limit).await?;
    let all = proto::ListContainersRequest::default();
    let containers: proto::ListContainersResponse =
        connection.ask("RuntimeService/ListContainers", &all, limit).await?;
    let mut view = View::new();
    for sandbox in sandboxes.items.into_iter().map(told::sandbox) {
        let state = if sandbox.state == PodSandboxState::Ready { State::Runs } else { State::Ended };
        view.insert(sandbox.id.clone(), Part { sandbox: sandbox.id, state, pod: sandbox.metadata });
    }
    for container in containers.containers.into_iter().map(told::container) {
        let pod = view.get(&container.pod_sandbox_id).map(|sandbox| sandbox.pod.clone()).unwrap_or_default();
        let state = match container.state {
            ContainerState::Created => State::Made,
            ContainerState::Running => State::Runs,
            ContainerState::Exited | ContainerState::Unknown => State::Ended,
        };
        view.insert(container.id, Part { sandbox: container.pod_sandbox_id, state, pod });
    }
    Ok(view)
}

/// What happened between two looks; of what went fast, the last only.
fn changes(before: &View, now: &View) -> Vec<ContainerEvent> {
    let event = |id: &str, part: &Part, event_type| ContainerEvent {
        container_id: id.to_owned(),
        pod_sandbox_id: part.sandbox.clone(),
        pod: part.pod.clone(),
        event_type,
        created_at: i64::try_from(stdx::wall().as_nanosecond()).unwrap_or(i64::MAX),
    };
    let changed = now.iter().filter(|(id, part)| before.get(*id).is_none_or(|old| old.state != part.state));
    let changed = changed.map(|(id, part)| match part.state {
        State::Made => event(id, part, ContainerEventType::Created),
        State::Runs => event(id, part, ContainerEventType::Started),
        State::Ended => event(id, part, ContainerEventType::Stopped),
    });
    let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
    changed.chain(gone.map(|(id, part)| event(id, part, ContainerEventType::Deleted))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(parts: &[(&str, State)]) -> View {
        let part = |state| Part { sandbox: "s".into(), state, pod: PodSandboxMetadata::default() };
        parts.iter().map(|(id, state)| ((*id).to_owned(), part(*state))).collect()
    }

    #[track_caller]
    fn check(before: &[(&str, State)], now: &[(&str, State)], expected: &[(&str, ContainerEventType)]) {
        let found = changes(&view(before), &view(now));
        let found: Vec<_> = found.iter().map(|event| (event.container_id.as_str(), event.event_type)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn two_looks_tell_what_happened_between_them() {
        use ContainerEventType::{Created, Deleted, Started, Stopped};
        use State::{Ended, Made, Runs};
        check(&[("a", Runs)], &[("a", Runs)], &[]);
        check(&[], &[("a", Made), ("b", Runs), ("c", Ended)], &[("a", Created), ("b", Started), ("c", Stopped)]);
        check(&[("a", Made), ("b", Runs)], &[("a", Runs), ("b", Ended)], &[("a", Started), ("b", Stopped)]);
        check(&[("a", Ended), ("b", Runs)], &[("b", Runs)], &[("a", Deleted)]);
    }
}
