//! The one task that writes: it checks transactions in order, makes groups of them durable and then shows them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stdx::{Cancel, Mono, Task};
use tokio::sync::{mpsc, oneshot};

use crate::contract::{Batch, Compare, Op, TXN_OPS_MAX, TxnOutcome};
use crate::disk::{Claim, Disk};
use crate::embedded::Options;
use crate::error::StoreError;
use crate::format::{FileKind, FrameWriter};
use crate::history::root_to_keep;
use crate::index::Index;
use crate::log::{AppendError, Log};
use crate::shared::{Health, Shared};
use crate::snapshot::{self, Picture, SnapshotError};
use crate::staging::{Decision, Now, Staging};
use crate::transform::Transform;

/// A group is written when it has reached this size, whoever else waits: more would only delay everybody's answers.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// So many requests are taken from the queue at once.
const GROUP_REQUESTS: usize = 1024;

/// After something that the committer does by itself has failed, it is left alone for this long.
const REST: Duration = Duration::from_secs(10);

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<TxnOutcome, StoreError>>;

/// What the committer is asked for.
pub(crate) enum Request {
    /// `sealed` has the sealed value of each operation, where it differs from the plain one.
    Txn {
        compares: Vec<Compare>,
        ops: Vec<Op>,
        sealed: Vec<Option<Bytes>>,
        reply: Reply,
    },
    Compact {
        revision: u64,
        reply: Reply,
    },
    Snapshot {
        reply: Reply,
    },
}

/// How the committer and its store tell each other about the end.
pub(crate) struct Flags {
    pub(crate) closing: Cancel,
    pub(crate) broken: Cancel,
    pub(crate) ended: Cancel,
}

/// Where everything is written to.
pub(crate) struct Storage {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) transform: Arc<dyn Transform>,
    pub(crate) claim: Option<Claim>,
    pub(crate) log: Log,
}

pub(crate) struct Committer {
    shared: Arc<Shared>,
    storage: Storage,
    flags: Flags,
    options: Options,
    /// Between groups this is what is published.
    staging: Staging,
    deadlines: Deadlines,
    compaction: Compaction,
    snapshots: Snapshots,
    /// Keys whose time is up are left alone until then, after their deletion has failed.
    expire_after: Mono,
    broken: Option<String>,
}

/// When and how far to compact next.
struct Compaction {
    at: Mono,
    revision: u64,
}

/// The snapshot on disk and the one in the making.
struct Snapshots {
    newest: Option<u64>,
    making: Option<Making>,
    /// Who waits for a snapshot that has not begun.
    waiting: Vec<Reply>,
    not_before: Mono,
}

struct Making {
    task: Task<Result<(), SnapshotError>>,
    cancel: Cancel,
    revision: u64,
    sealed: (Vec<u64>, u64),
    waiting: Vec<Reply>,
}

/// Transactions that become durable together.
#[derive(Default)]
struct Group {
    frame: FrameWriter,
    batches: Vec<(Arc<Batch>, Option<Index>)>,
    compact: Option<u64>,
    answers: Vec<Answer>,
}

/// What will be answered once the group is durable. Even a failed comparison waits for that: what it shows may have been
/// written by the same group.
struct Answer {
    reply: Reply,
    result: Result<TxnOutcome, StoreError>,
    /// Whether the group's frame holds something of this request.
    written: bool,
}

enum Event {
    Requests(Vec<Request>),
    Due,
    SnapshotDone(Result<(), SnapshotError>),
    Closing,
    Ended,
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        storage: Storage,
        flags: Flags,
        options: Options,
        staging: Staging,
        snapshot: Option<u64>,
    ) -> Committer {
        let now = stdx::mono();
        let deadlines = Deadlines::of(&staging.index);
        let compaction = Compaction {
            at: options.compact_interval.map_or(Mono(Duration::MAX), |interval| now + interval),
            revision: staging.revision,
        };
        let snapshots = Snapshots { newest: snapshot, making: None, waiting: Vec::new(), not_before: now };
        Committer {
            shared,
            storage,
            flags,
            options,
            staging,
            deadlines,
            compaction,
            snapshots,
            expire_after: now,
            broken: None,
        }
    }

    /// Lets the revision counter jump, before the committer runs.
    pub(crate) async fn advance(&mut self, revision: u64) -> Result<(), AppendError> {
        let mut frame = FrameWriter::default();
        frame.advance(revision);
        self.storage.log.append(frame).await?;
        self.staging.revision = revision;
        self.compaction.revision = revision;
        self.shared.advance(revision);
        Ok(())
    }

    /// Works until all handles to the store are dropped or it is closed.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            self.upkeep().await;
            match self.event(&mut requests).await {
                Event::Requests(requests) => self.commit(requests).await,
                Event::Due => {}
                Event::SnapshotDone(result) => self.finish_snapshot(result),
                Event::Closing => requests.close(),
                Event::Ended => break,
            }
        }
        if let Some(making) = self.snapshots.making.take() {
            making.cancel.cancel();
            // Whether it was finished or cut short, the log holds everything.
            drop(making.task.await);
        }
        self.storage.log.end().await;
    }

    async fn event(&mut self, requests: &mut mpsc::Receiver<Request>) -> Event {
        let due = self.next_due();
        let mut taken = Vec::new();
        let closing_seen = requests.is_closed();
        tokio::select! {
            biased;
            count = requests.recv_many(&mut taken, GROUP_REQUESTS) => {
                if count == 0 { Event::Ended } else { Event::Requests(taken) }
            }
            result = finished(&mut self.snapshots.making) => Event::SnapshotDone(result),
            () = self.flags.closing.cancelled(), if !closing_seen => Event::Closing,
            () = stdx::sleep_until(due), if due != Mono(Duration::MAX) => Event::Due,
        }
    }

    /// When something is to be done that nobody asks for.
    fn next_due(&self) -> Mono {
        if self.broken.is_some() {
            return Mono(Duration::MAX);
        }
        let expiry = self.deadlines.first().map_or(Mono(Duration::MAX), |first| first.max(self.expire_after));
        expiry.min(self.compaction.at)
    }

    /// What nobody asks for: expiry, compaction, snapshots.
    async fn upkeep(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let now = stdx::mono();
        if now >= self.next_due() {
            let mut group = Group::default();
            self.stage_compaction(&mut group, now);
            self.stage_expiry(&mut group, now);
            if self.flush(group).await.is_err() {
                self.expire_after = now + REST;
            }
        }
        if self.broken.is_none() && self.snapshot_is_due(now) {
            self.begin_snapshot();
        }
    }

    fn stage_compaction(&mut self, group: &mut Group, now: Mono) {
        let Some(interval) = self.options.compact_interval else { return };
        if now < self.compaction.at {
            return;
        }
        let target = std::mem::replace(&mut self.compaction.revision, self.staging.revision);
        self.compaction.at = now + interval;
        // An idle store has nothing to compact, and then nothing is written.
        drop(self.stage_compact(target, group));
    }

    fn stage_expiry(&mut self, group: &mut Group, now: Mono) {
        if now < self.expire_after {
            return;
        }
        let mut due = self.deadlines.due(now).peekable();
        while due.peek().is_some() && group.frame.len() < GROUP_BYTES {
            let ops: Vec<Op> = due.by_ref().take(TXN_OPS_MAX).map(|key| Op::Delete { key: key.clone() }).collect();
            if let Decision::Change(batch) = self.staging.decide(&[], &ops, &Now::read()) {
                let root = root_to_keep(batch.revision, &self.staging.index);
                group.change(batch, root, &[], &[]);
            }
        }
    }

    /// Decides requests in their order and answers them.
    async fn commit(&mut self, requests: Vec<Request>) {
        let now = Now::read();
        let mut group = Group::default();
        for request in requests {
            self.stage(request, &mut group, &now);
            if group.frame.len() >= GROUP_BYTES {
                // Everybody in the group is told what became of it.
                drop(self.flush(std::mem::take(&mut group)).await);
            }
        }
        drop(self.flush(group).await);
    }

    fn stage(&mut self, request: Request, group: &mut Group, now: &Now) {
        match request {
            Request::Snapshot { reply } => self.snapshots.waiting.push(reply),
            Request::Compact { revision, reply } => {
                let result = self.stage_compact(revision, group);
                group.answers.push(Answer { reply, written: result.is_ok(), result });
            }
            Request::Txn { compares, ops, sealed, reply } => {
                let decision = self.staging.decide(&compares, &ops, now);
                let written = matches!(decision, Decision::Change(_));
                let result = match decision {
                    Decision::Failed(current) => Ok(TxnOutcome::Failed { current }),
                    Decision::Nothing => Ok(TxnOutcome::Committed { revision: self.staging.revision }),
                    Decision::NoSpace => Err(over_quota(self.options.quota_bytes)),
                    Decision::Change(batch) => {
                        let revision = batch.revision;
                        let root = root_to_keep(revision, &self.staging.index);
                        group.change(batch, root, &ops, &sealed);
                        Ok(TxnOutcome::Committed { revision })
                    }
                };
                group.answers.push(Answer { reply, result, written });
            }
        }
    }

    fn stage_compact(&mut self, revision: u64, group: &mut Group) -> Result<TxnOutcome, StoreError> {
        let compact_revision = self.shared.compact_revision().max(group.compact.unwrap_or(0));
        if revision <= compact_revision {
            return Err(StoreError::Compacted { compact_revision });
        }
        if revision > self.staging.revision {
            return Err(StoreError::FutureRevision { current: self.staging.revision });
        }
        group.frame.compact(revision);
        group.compact = Some(revision);
        Ok(TxnOutcome::Committed { revision })
    }

    /// Makes a group durable, shows it, and answers.
    async fn flush(&mut self, mut group: Group) -> Result<(), StoreError> {
        let outcome = self.append(&mut group).await;
        if let Err(error) = &outcome {
            // Nothing that is not durable may be built upon.
            (self.staging.index, self.staging.revision) = self.shared.newest();
            if let StoreError::Unknown { reason } = error {
                self.fail(reason);
            }
        } else if !group.batches.is_empty() || group.compact.is_some() {
            for (batch, _) in &group.batches {
                self.deadlines.follow(batch);
            }
            self.shared.publish(std::mem::take(&mut group.batches), &self.staging.index, group.compact);
        }
        for answer in group.answers {
            answer.send(outcome.as_ref().err());
        }
        outcome
    }

    async fn append(&mut self, group: &mut Group) -> Result<(), StoreError> {
        if let Some(reason) = &self.broken {
            return Err(StoreError::Broken { reason: reason.clone() });
        }
        if group.frame.is_empty() {
            return Ok(());
        }
        let limits = self.options.limits();
        if let Some(revision) = self.shared.with_history(|history| history.overgrown(&limits))
            && group.compact.is_none_or(|compact| compact < revision)
        {
            group.frame.compact(revision);
            group.compact = Some(revision);
        }
        match self.storage.log.append(std::mem::take(&mut group.frame)).await {
            Ok(()) => Ok(()),
            Err(AppendError::NoSpace(error)) => Err(StoreError::NoSpace { reason: error.to_string() }),
            Err(AppendError::Broken(error)) => Err(StoreError::Unknown { reason: error.to_string() }),
        }
    }

    fn fail(&mut self, reason: &str) {
        tracing::error!(reason, disk = self.storage.disk.name(), "the store's log cannot be written any more");
        self.broken = Some(reason.to_owned());
        self.shared.end(Health::Broken(reason.to_owned()));
        self.flags.broken.cancel();
    }

    fn snapshot_is_due(&self, now: Mono) -> bool {
        let grown = self.options.snapshot_log_bytes.max(self.staging.index.size_bytes() / 2);
        let due = now >= self.snapshots.not_before && self.storage.log.appended_bytes() > grown;
        self.snapshots.making.is_none() && (due || !self.snapshots.waiting.is_empty())
    }

    fn begin_snapshot(&mut self) {
        let log = &mut self.storage.log;
        let (revision, replay_from, sealed) = (self.staging.revision, log.current_segment(), log.take_sealed());
        let old = self.snapshots.newest.filter(|newest| *newest != revision);
        let segments = sealed.0.iter().map(|number| FileKind::Segment.name(*number));
        let picture = Picture {
            index: self.staging.index.clone(),
            revision,
            compact_revision: self.shared.compact_revision(),
            replay_from,
            obsolete: segments.chain(old.map(|revision| FileKind::Snapshot.name(revision))).collect(),
        };
        let cancel = Cancel::default();
        let (disk, transform) = (self.storage.disk.clone(), self.storage.transform.clone());
        let task = stdx::spawn(snapshot::write(disk, transform, picture, cancel.clone()));
        let waiting = std::mem::take(&mut self.snapshots.waiting);
        self.snapshots.making = Some(Making { task, cancel, revision, sealed, waiting });
    }

    fn finish_snapshot(&mut self, result: Result<(), SnapshotError>) {
        let Some(making) = self.snapshots.making.take() else { return };
        let answer = match result {
            Ok(()) => {
                self.snapshots.newest = Some(making.revision);
                Ok(TxnOutcome::Committed { revision: making.revision })
            }
            Err(error) => {
                tracing::warn!(error = stdx::told(&error), "no snapshot was made; the log is kept instead");
                self.storage.log.return_sealed(making.sealed);
                self.snapshots.not_before = stdx::mono() + REST;
                Err(StoreError::NoSpace { reason: stdx::told(&error) })
            }
        };
        for reply in making.waiting {
            // Who no longer waits needs no answer.
            drop(reply.send(answer.clone()));
        }
    }
}

impl Drop for Committer {
    /// Also when the task is dropped at an `.await`, nobody waits in vain and the disk is free before that is told.
    fn drop(&mut self) {
        self.shared.end(Health::Closed);
        drop(self.storage.claim.take());
        self.flags.ended.cancel();
    }
}

/// The result of the snapshot in the making; never, when there is none.
async fn finished(making: &mut Option<Making>) -> Result<(), SnapshotError> {
    match making {
        Some(making) => (&mut making.task).await.unwrap_or(Err(SnapshotError::Cancelled)),
        None => std::future::pending().await,
    }
}

fn over_quota(quota_bytes: u64) -> StoreError {
    StoreError::NoSpace { reason: format!("its quota of {quota_bytes} bytes is used up") }
}

impl Group {
    /// Adds a change. `ops` are the operations it came from, of which some may have changed nothing.
    fn change(&mut self, batch: Arc<Batch>, root: Option<Index>, ops: &[Op], sealed: &[Option<Bytes>]) {
        let count = u16::try_from(batch.events.len()).expect("operations are limited to far less");
        self.frame.txn(batch.revision, count);
        let mut sealed = ops.iter().zip(sealed);
        for event in &batch.events {
            match &event.value {
                None => self.frame.delete(&event.key),
                Some(entry) => {
                    let sealed = sealed.find(|(op, _)| *op.key() == event.key).and_then(|(_, sealed)| sealed.as_ref());
                    self.frame.put(&entry.key, sealed.unwrap_or(&entry.value), entry.lifetime());
                }
            }
        }
        self.batches.push((batch, root));
    }
}

impl Answer {
    /// Tells the requester, given why the group failed if it did.
    fn send(self, failure: Option<&StoreError>) {
        let result = match failure {
            None => self.result,
            // What was not in the frame has certainly not happened.
            Some(StoreError::Unknown { reason }) if !self.written => Err(StoreError::Broken { reason: reason.clone() }),
            Some(error) => Err(error.clone()),
        };
        // Who no longer waits needs no answer.
        drop(self.reply.send(result));
    }
}

/// The keys that are to be deleted, by when.
struct Deadlines(BTreeSet<(Mono, Bytes)>);

impl Deadlines {
    fn of(index: &Index) -> Deadlines {
        let end = |entry: &Arc<crate::entry::Entry>| Some((entry.expiry.as_ref()?.at, entry.key.clone()));
        Deadlines(index.iter().filter_map(end).collect())
    }

    fn first(&self) -> Option<Mono> {
        self.0.first().map(|(at, _)| *at)
    }

    fn due(&self, now: Mono) -> impl Iterator<Item = &Bytes> {
        self.0.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| key)
    }

    fn follow(&mut self, batch: &Batch) {
        for event in &batch.events {
            if let Some(old) = event.prev.as_ref().and_then(|entry| entry.expiry.as_ref()) {
                self.0.remove(&(old.at, event.key.clone()));
            }
            if let Some(new) = event.value.as_ref().and_then(|entry| entry.expiry.as_ref()) {
                self.0.insert((new.at, event.key.clone()));
            }
        }
    }
}
