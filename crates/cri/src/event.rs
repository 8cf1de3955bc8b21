//! What a runtime announces, so that nobody needs to poll it.

use tokio::sync::broadcast;

use crate::sandbox::PodSandboxMetadata;

/// How many events a subscriber may be behind before it is told to list instead.
const EVENTS_BEHIND_MAX: usize = 1024;

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventType {
    /// It was created.
    Created,
    /// Its process started.
    Started,
    /// Its process ended.
    Stopped,
    /// It was removed.
    Deleted,
}

/// A change of one container, or of a sandbox (then `container_id` is the sandbox's id, as in CRI).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container, or the sandbox itself.
    pub container_id: String,
    /// The sandbox it belongs to.
    pub pod_sandbox_id: String,
    /// The pod it belongs to.
    pub pod: PodSandboxMetadata,
    /// What happened.
    pub event_type: ContainerEventType,
    /// When, in nanoseconds since 1970.
    pub created_at: i64,
}

/// What a subscriber of [`Events`] sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something changed.
    Container(ContainerEvent),
    /// Events were lost, or the runtime's connection was: list everything.
    Missed,
}

/// One subscription; see [`EventSender`].
pub struct Events(broadcast::Receiver<RuntimeEvent>);

impl Events {
    /// The next event; `None` once the runtime is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<RuntimeEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(RuntimeEvent::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// A runtime's end of its event stream.
#[derive(Clone, Debug)]
pub struct EventSender(broadcast::Sender<RuntimeEvent>);

impl Default for EventSender {
    fn default() -> Self {
        EventSender(broadcast::Sender::new(EVENTS_BEHIND_MAX))
    }
}

impl EventSender {
    /// A subscription to all events from now on.
    pub fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }

    /// Tells every subscriber.
    pub fn send(&self, event: ContainerEvent) {
        // With no subscriber there is nobody to tell.
        drop(self.0.send(RuntimeEvent::Container(event)));
    }

    /// Tells every subscriber to list everything.
    pub fn missed(&self) {
        drop(self.0.send(RuntimeEvent::Missed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> ContainerEvent {
        ContainerEvent {
            container_id: number.to_string(),
            pod_sandbox_id: "s".into(),
            pod: PodSandboxMetadata::default(),
            event_type: ContainerEventType::Started,
            created_at: 0,
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_list() {
        let sender = EventSender::default();
        let mut events = sender.subscribe();
        for number in 0..=EVENTS_BEHIND_MAX {
            sender.send(event(number));
        }
        assert_eq!(events.next().await, Some(RuntimeEvent::Missed));
        assert_eq!(events.next().await, Some(RuntimeEvent::Container(event(1))));
        drop(sender);
        let mut rest = 0;
        while events.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, EVENTS_BEHIND_MAX - 1);
    }
}
