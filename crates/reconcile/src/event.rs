//! Events about objects: the first is created, equal ones are counted on it.
//!
//! Upstream: `client-go/tools/record`: the same event within ten minutes raises `count`, and a source may make 25 at once
//! and one more every five minutes about one object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::value::{Map, Value};
use client::{Client, ClientError, PatchKind, Target};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use stdx::{Mono, TaskTree};
use tokio::sync::mpsc;

use crate::plan::{Note, Severity};

/// Equal notes further apart than this make a new event.
const SAME_FOR: Duration = Duration::from_secs(600);
/// Events about one object that may come at once.
const BURST: f64 = 25.0;
/// Seconds until one more is allowed after the burst.
const REFILL_SECONDS: f64 = 300.0;
/// Notes that wait to be written; more are dropped and counted in the log.
const QUEUE: usize = 1000;
/// Remembered events and objects; the oldest are forgotten first.
const REMEMBERED: usize = 4096;

/// Writes notes as Events of one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    dropped: Arc<Mutex<u64>>,
}

impl Recorder {
    /// Starts the writer: `component` is the event's source, `host` its node, if any.
    pub fn start(client: Client, component: &str, host: &str, tasks: &TaskTree) -> Recorder {
        let (queue, notes) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            written: BTreeMap::new(),
            budgets: BTreeMap::new(),
        };
        tasks.spawn("event recorder", writer.run(notes));
        Recorder { queue, dropped: Arc::default() }
    }

    /// Queues a note. Never waits: events are told best effort.
    pub fn record(&self, note: Note) {
        if self.queue.try_send(note).is_err() {
            let mut dropped = self.dropped.lock().expect("no holder of this lock panics");
            *dropped += 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped = *dropped, "events dropped: more come than the API takes");
            }
        }
    }
}

/// What makes two notes the same event.
type Identity = (String, String, &'static str, String);

struct Written {
    namespace: String,
    name: String,
    count: i32,
    last: Mono,
}

struct Budget {
    left: f64,
    at: Mono,
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    written: BTreeMap<Identity, Written>,
    budgets: BTreeMap<String, Budget>,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            if !self.allowed(&note) {
                continue;
            }
            if let Err(error) = self.write(&note).await {
                // A namespace that goes takes its events with it.
                if !error.is_namespace_terminating() && !error.is_not_found() {
                    tracing::warn!(reason = note.reason, %error, "event not written");
                }
            }
        }
    }

    fn allowed(&mut self, note: &Note) -> bool {
        let now = stdx::mono();
        if self.budgets.len() >= REMEMBERED {
            self.budgets.retain(|_, budget| (now - budget.at).as_secs_f64() < BURST * REFILL_SECONDS);
        }
        let budget = self.budgets.entry(note.regarding.uid.clone()).or_insert(Budget { left: BURST, at: now });
        budget.left = (budget.left + (now - budget.at).as_secs_f64() / REFILL_SECONDS).min(BURST);
        budget.at = now;
        if budget.left < 1.0 {
            return false;
        }
        budget.left -= 1.0;
        true
    }

    async fn write(&mut self, note: &Note) -> Result<(), ClientError> {
        let now = stdx::mono();
        self.written.retain(|_, written| now - written.last < SAME_FOR);
        let identity = (note.regarding.uid.clone(), note.field.clone(), note.reason, note.message.clone());
        if let Some(written) = self.written.get_mut(&identity) {
            written.count += 1;
            written.last = now;
            let (namespace, name, count) = (written.namespace.clone(), written.name.clone(), written.count);
            match self.count(&namespace, &name, count).await {
                Err(error) if error.is_not_found() => {}
                result => return result,
            }
        }
        let (namespace, name) = self.create(note).await?;
        if self.written.len() < REMEMBERED {
            self.written.insert(identity, Written { namespace, name, count: 1, last: now });
        }
        Ok(())
    }

    async fn count(&self, namespace: &str, name: &str, count: i32) -> Result<(), ClientError> {
        let mut body = Map::default();
        body.insert("count", i64::from(count));
        body.insert("lastTimestamp", seconds(stdx::wall()).as_str());
        let body = Value::Object(body);
        let target = Target::new("", "v1", "events").namespace(namespace).name(name);
        self.client.patch(target, PatchKind::Merge, &body).await.map(drop)
    }

    async fn create(&self, note: &Note) -> Result<(String, String), ClientError> {
        let wall = stdx::wall();
        let of = &note.regarding;
        let namespace = if of.namespace.is_empty() { "default" } else { &of.namespace };
        // Upstream's name: the object's, a dot, and the moment in hexadecimal nanoseconds.
        let name = format!("{}.{:x}", of.name, wall.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(of.resource.api_version()),
                kind: Some(of.resource.kind.into()),
                namespace: Some(of.namespace.clone()).filter(|namespace| !namespace.is_empty()),
                name: Some(of.name.clone()),
                uid: Some(of.uid.clone()),
                field_path: Some(note.field.clone()).filter(|field| !field.is_empty()),
                ..ObjectReference::default()
            },
            reason: Some(note.reason.into()),
            message: Some(note.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            first_timestamp: Some(Time(wall)),
            last_timestamp: Some(Time(wall)),
            count: Some(1),
            type_: Some(match note.severity {
                Severity::Normal => "Normal".into(),
                Severity::Warning => "Warning".into(),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        };
        let target = Target::new("", "v1", "events").namespace(namespace);
        self.client.create(target, &event).await?;
        Ok((namespace.to_owned(), name))
    }
}

/// RFC 3339 with whole seconds, as times in objects are written.
fn seconds(moment: jiff::Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
