//! A watch: a cursor in the list of events that concern it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use client::Object;
use tokio::sync::Notify;

use super::resource::{Event, ResourceCache};
use super::selection::Selection;

/// What a set of watches has in common. The narrowest restriction of a watch decides where it listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    All,
    Namespace(String),
    /// Objects of this name in whatever namespace.
    Name(String),
    /// Objects whose declared selectable field (by its place in the declaration) has this value. Stays last.
    Field(usize, String),
}

/// Events that concern the watches of one [`TopicKey`]; shares the window's events, so it costs next to nothing.
#[derive(Default)]
pub(crate) struct Topic {
    events: Mutex<Events>,
    arrival: Notify,
}

#[derive(Default)]
struct Events {
    list: VecDeque<Arc<Event>>,
    /// How many events were dropped from the front of the list.
    dropped: u64,
}

impl Topic {
    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().expect("no holder of this lock panics")
    }

    /// Adds an event and drops those that left the window.
    pub(super) fn push(&self, event: Arc<Event>, floor: u64) {
        let mut events = self.events();
        while events.list.front().is_some_and(|oldest| oldest.revision <= floor) {
            events.list.pop_front();
            events.dropped += 1;
        }
        events.list.push_back(event);
        drop(events);
        self.arrival.notify_waiters();
    }

    /// Ends all watches of this topic.
    pub(super) fn close(&self) {
        let mut events = self.events();
        events.list.clear();
        events.dropped = u64::MAX;
        drop(events);
        self.arrival.notify_waiters();
    }

    fn end(&self) -> u64 {
        let events = self.events();
        events.dropped.saturating_add(events.list.len() as u64)
    }
}

/// What a watch is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Added,
    Modified,
    Deleted,
}

impl Told {
    /// The `type` of the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Told::Added => "ADDED",
            Told::Modified => "MODIFIED",
            Told::Deleted => "DELETED",
        }
    }
}

/// The watch was too slow: what it should be told next has left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

/// A watch. It holds a place in a list and no buffer.
pub struct Watcher {
    cache: Arc<ResourceCache>,
    key: TopicKey,
    topic: Arc<Topic>,
    cursor: u64,
    selection: Arc<Selection>,
    backlog: VecDeque<Arc<Event>>,
    /// Nothing up to this revision is told, although it may not have come yet.
    after: u64,
}

/// Events handed over at once, so that the lock of a busy topic is held shortly.
const BATCH_MAX: usize = 64;

impl Watcher {
    pub(super) fn new(
        cache: Arc<ResourceCache>,
        key: TopicKey,
        topic: Arc<Topic>,
        selection: Arc<Selection>,
        backlog: VecDeque<Arc<Event>>,
    ) -> Watcher {
        let cursor = topic.end();
        Watcher { cache, key, topic, cursor, selection, backlog, after: 0 }
    }

    /// The same watch, but of what is newer than a revision that this server may not have reached.
    pub(super) fn after(self, after: u64) -> Watcher {
        let mut watcher = self;
        watcher.after = after;
        watcher
    }

    /// The next event that the watch selects.
    pub async fn next(&mut self) -> Result<(Told, Arc<Event>), Lagged> {
        loop {
            while let Some(event) = self.backlog.pop_front() {
                if event.revision <= self.after {
                    continue;
                }
                if let Some(told) = self.selection.told(&event) {
                    return Ok((told, event));
                }
            }
            let topic = self.topic.clone();
            let mut arrival = std::pin::pin!(topic.arrival.notified());
            arrival.as_mut().enable();
            if !self.fetch()? {
                arrival.await;
            }
        }
    }

    /// Moves what has come into the backlog; whether there was any.
    fn fetch(&mut self) -> Result<bool, Lagged> {
        let events = self.topic.events();
        let Some(from) = self.cursor.checked_sub(events.dropped) else { return Err(Lagged) };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(events.list.len());
        self.backlog.extend(events.list.range(from..).take(BATCH_MAX).cloned());
        self.cursor += self.backlog.len() as u64;
        Ok(!self.backlog.is_empty())
    }

    /// Whether everything that has come so far was told.
    pub fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.topic.end() == self.cursor
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.leave(&self.key, &self.topic);
    }
}

impl Event {
    /// The object that a watch is shown with an event.
    pub fn shown(&self, told: Told) -> Option<&Arc<Object>> {
        match told {
            Told::Added | Told::Modified => self.object.as_ref(),
            Told::Deleted => self.gone(),
        }
    }
}
