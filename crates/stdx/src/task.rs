//! Tasks with an owner: spawning, cancelling, draining.
#![allow(clippy::disallowed_methods, reason = "this is the one place that spawns tasks on tokio")]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::context;

/// A running task's result to come. Dropping it lets the task run on.
pub struct Task<T>(oneshot::Receiver<T>);

/// The task panicked or its executor ended before it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task ended without a result")]
pub struct TaskLost;

impl<T> Future for Task<T> {
    type Output = Result<T, TaskLost>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| TaskLost)
    }
}

/// Runs `future` as a task of its own: on the simulation that polls the caller, else on tokio.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (sender, receiver) = oneshot::channel();
    let body = async move {
        let output = future.await;
        // Nobody may be waiting for the result; that is the caller's choice.
        drop(sender.send(output));
    };
    match context::current() {
        Some(context) => context.spawn(Box::pin(body)),
        None => drop(tokio::spawn(body)),
    }
    Task(receiver)
}

/// Runs what blocks, such as much work on a disk, where it holds up no task; on a simulation, in its place.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TaskLost> {
    match context::current() {
        Some(_) => Ok(work()),
        None => tokio::task::spawn_blocking(work).await.map_err(|_| TaskLost),
    }
}

/// A flag that ends what listens to it; clones share the flag.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<bool>>);

impl Default for Cancel {
    fn default() -> Self {
        Cancel(Arc::new(watch::Sender::new(false)))
    }
}

impl Cancel {
    /// Raises the flag, for good.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether the flag was raised.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once the flag is raised.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(receiver.wait_for(|cancelled| *cancelled).await);
    }

    /// The future's output, or `None` when the flag is raised first; the future is then dropped.
    pub async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.cancelled() => None,
            output = future => Some(output),
        }
    }
}

/// A task and what to call it.
type Named = (&'static str, Task<()>);

/// The owner of a set of tasks: it can cancel them all and wait for their ends.
///
/// Clones share the set.
#[derive(Clone, Default)]
pub struct TaskTree {
    cancel: Cancel,
    running: Arc<Mutex<Vec<Named>>>,
}

impl TaskTree {
    /// Runs `future` as a task of this tree; it is dropped at its next `.await` when the tree is cancelled.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.keep(
            name,
            spawn(async move {
                cancel.run(future).await;
            }),
        );
    }

    /// Runs a task that ends by itself once [`TaskTree::cancel`]'s flag is raised, to finish what it holds.
    pub fn spawn_draining(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.keep(name, spawn(future));
    }

    /// The tree's flag.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Raises the flag and waits for all tasks; names those that did not end within `deadline`.
    pub async fn drain(&self, deadline: Duration) -> Result<(), Vec<&'static str>> {
        self.cancel.cancel();
        let end = crate::mono() + deadline;
        let mut late = Vec::new();
        loop {
            let tasks = std::mem::take(&mut *self.running.lock().expect("no holder of this lock panics"));
            if tasks.is_empty() {
                break;
            }
            for (name, task) in tasks {
                if crate::timeout(end - crate::mono(), task).await.is_err() {
                    late.push(name);
                }
            }
        }
        if late.is_empty() { Ok(()) } else { Err(late) }
    }

    fn keep(&self, name: &'static str, task: Task<()>) {
        let mut running = self.running.lock().expect("no holder of this lock panics");
        // Ended tasks are dropped here, so that a long-lived tree does not grow with every task it ever ran.
        running.retain_mut(|(_, task)| matches!(task.0.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        running.push((name, task));
    }
}
