//! `watch`: what happens to the selected objects, as it happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::status::Status;
use client::Object;
use stdx::Mono;

use crate::answer::Answer;
use crate::cache::{Event, Selection, Told, TooOld, Watcher};
use crate::catalog::Served;
use crate::forms::JsonForms;
use crate::options::ReadOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::server::ApiServer;

/// A running watch.
pub(crate) struct Stream {
    pub served: Served,
    server: Arc<ApiServer>,
    source: Source,
    initial: VecDeque<Arc<Object>>,
    /// The revision of the initial objects, when their end is to be announced.
    announce: Option<u64>,
    bookmarks: Option<Mono>,
    deadline: Mono,
}

enum Source {
    Watcher(Box<Watcher>),
    /// The watch could not start where it wanted to; it says so and ends.
    Refused(Refusal),
    Over,
}

/// What a watch tells.
pub(crate) enum Item {
    /// The event is absent for objects that were there at the start.
    Object {
        told: Told,
        object: Arc<Object>,
        event: Option<Arc<Event>>,
    },
    Bookmark {
        revision: u64,
        initial_events_end: bool,
    },
    Error(Box<Status>),
}

/// About as often as upstream.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Upstream's `--min-request-timeout`: a watch without a timeout of its own lasts once to twice this long.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);

/// Starts a watch.
pub(crate) async fn watch(call: &Call<'_>, served: &Served) -> Outcome<Answer> {
    let options = ReadOptions::of_watch(&call.query)?;
    stream(call, served, &options).await.map(|stream| Answer::Watch(Box::new(stream)))
}

/// Starts a watch as the options say.
pub(crate) async fn stream(call: &Call<'_>, served: &Served, options: &ReadOptions) -> Outcome<Stream> {
    let namespace = if served.is_namespaced() { call.info.namespace.as_str() } else { "" };
    let mut selection = Selection::new(served, namespace, options, call.server)?;
    if !call.info.name.is_empty() {
        // A name in the path is what the request was authorized for; a selector may repeat it and nothing else.
        if selection.name.as_ref().is_some_and(|name| *name != call.info.name) {
            return Err(Refusal::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        selection.name = Some(call.info.name.clone());
    }
    let selection = Arc::new(selection);
    let resource = call.resource(served)?;
    let now = stdx::mono();
    let timeout = options.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let timeout = timeout.unwrap_or_else(|| stdx::backoff::jittered(TIMEOUT_MIN, stdx::random_u64()));
    let mut stream = Stream {
        served: *served,
        server: call.server.clone(),
        source: Source::Over,
        initial: VecDeque::new(),
        announce: None,
        bookmarks: options.bookmarks.then(|| now + BOOKMARK_INTERVAL),
        deadline: now + timeout,
    };
    let from_state = match (options.revision, options.send_initial_events) {
        (_, Some(wanted)) => wanted,
        (None | Some(0), None) => true,
        (Some(_), None) => false,
    };
    match options.revision {
        Some(after) if after > 0 && !from_state => {
            stream.source = match resource.watch(after, selection) {
                Ok(watcher) => Source::Watcher(Box::new(watcher)),
                Err(TooOld { floor }) => Source::Refused(too_old(after, floor)),
            };
        }
        revision => {
            let reached = match revision {
                None => call.server.cache.fresh().await?,
                Some(revision) => call.server.cache.wait_for(revision).await?,
            };
            let (snapshot, watcher) = resource.watch_from_now(selection.clone());
            if from_state {
                let narrowed = selection.exact().and_then(|(place, value)| resource.narrowed(&snapshot, place, value));
                let is_selected = |object: &&Arc<Object>| selection.matches(object);
                stream.initial = match &narrowed {
                    Some(narrowed) => narrowed.iter().filter(is_selected).cloned().collect(),
                    None => snapshot.objects.values().filter(is_selected).cloned().collect(),
                };
            }
            if options.send_initial_events == Some(true) && options.bookmarks {
                stream.announce = Some(reached.max(snapshot.revision));
            }
            stream.source = Source::Watcher(Box::new(watcher));
        }
    }
    Ok(stream)
}

fn too_old(wanted: u64, oldest: u64) -> Refusal {
    Refusal::expired(&format!("too old resource version: {wanted} ({oldest})"))
}

impl Stream {
    /// What was encoded of objects so far.
    pub(crate) fn forms(&self) -> &JsonForms {
        &self.server.cache.json
    }

    /// What the watch tells next; nothing at its end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        if let Some(object) = self.initial.pop_front() {
            return Some(Item::Object { told: Told::Added, object, event: None });
        }
        if let Some(revision) = self.announce.take() {
            return Some(Item::Bookmark { revision, initial_events_end: true });
        }
        loop {
            let watcher = match &mut self.source {
                Source::Over => return None,
                Source::Refused(refusal) => {
                    let status = refusal.0.clone();
                    self.source = Source::Over;
                    return Some(Item::Error(status));
                }
                Source::Watcher(watcher) => watcher,
            };
            let wake = self.bookmarks.map_or(self.deadline, |bookmark| bookmark.min(self.deadline));
            let stopped = self.server.state.tasks.cancel();
            let next = tokio::select! {
                biased;
                next = watcher.next() => next,
                () = stopped.cancelled() => {
                    self.source = Source::Over;
                    return None;
                }
                () = stdx::sleep_until(wake) => match self.on_time() {
                    Some(item) => return Some(item),
                    None => continue,
                },
            };
            match next {
                Ok((told, event)) => {
                    let Some(object) = event.shown(told).cloned() else { continue };
                    return Some(Item::Object { told, object, event: Some(event) });
                }
                Err(crate::cache::Lagged) => self.source = Source::Refused(too_old(0, self.server.cache.revision())),
            }
        }
    }

    /// A bookmark that is due; the end of the watch at its deadline.
    fn on_time(&mut self) -> Option<Item> {
        let now = stdx::mono();
        // Read before the cursor is looked at: what was applied by then is in the watcher's list.
        let revision = self.server.cache.revision();
        let idle = matches!(&self.source, Source::Watcher(watcher) if watcher.is_idle());
        if now >= self.deadline {
            self.source = Source::Over;
            return (self.bookmarks.is_some() && idle)
                .then_some(Item::Bookmark { revision, initial_events_end: false });
        }
        self.bookmarks = self.bookmarks.map(|_| now + BOOKMARK_INTERVAL);
        idle.then_some(Item::Bookmark { revision, initial_events_end: false })
    }
}
