//! Is there room: how many requests may be under way at once.

use std::sync::Arc;

use api::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::Outcome;
use crate::request::RequestInfo;
use crate::user::{MASTERS, User};

/// Upstream's defaults.
const READS_MAX: usize = 400;
const WRITES_MAX: usize = 200;
/// Watches, logs and streams into containers. A watch costs about a kilobyte here.
const LONG_RUNNING_MAX: usize = 200_000;

/// The limits of requests under way.
pub(crate) struct Room {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
}

/// A request's place; it is given back when this is dropped.
pub(crate) type Place = Option<OwnedSemaphorePermit>;

impl Default for Room {
    fn default() -> Room {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Room { reads: semaphore(READS_MAX), writes: semaphore(WRITES_MAX), long_running: semaphore(LONG_RUNNING_MAX) }
    }
}

impl Room {
    /// A place for the request, or 429. Masters are never turned away, so that a flooded cluster can be mended.
    pub(crate) fn enter(&self, what: &RequestInfo, who: &User) -> Outcome<Place> {
        let semaphore = if is_long_running(what) {
            &self.long_running
        } else if what.is_read() || !what.is_resource {
            &self.reads
        } else {
            &self.writes
        };
        match semaphore.clone().try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) if who.is_in(MASTERS) => Ok(None),
            Err(_) => Err(Status::too_many_requests("Too many requests, please try again later.", 1).into()),
        }
    }
}

/// Whether the request may last as long as its client likes.
pub(crate) fn is_long_running(what: &RequestInfo) -> bool {
    what.verb == "watch" || matches!(what.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}
