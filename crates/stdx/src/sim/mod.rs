//! A deterministic executor: one seed decides everything that chance, threads and clocks decide elsewhere.
//!
//! A [`Simulation`] holds nodes. Each has its own wall and monotonic clock and its own tasks, and can be killed. One thread
//! polls one ready task at a time, chosen by the seed; when no task is ready, virtual time jumps to the next timer. So a
//! simulated hour takes as long as what happens in it, and the same seed gives the same run, which [`Simulation::trace`]
//! proves.
//!
//! What runs in it may use `stdx` and everything that needs no runtime (`tokio::sync` among it). It must not use threads,
//! sockets, real clocks, or `tokio::select!` without `biased`, whose choice is not the seed's.

mod clock;
mod node;
mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Wake, Waker};
use std::time::Duration;

use crate::BoxFuture;
use crate::context;
use clock::Clock;
pub use node::NodeContext;
pub use random::Random;

/// So many polls in a row without virtual time passing are taken for a loop that never ends.
const POLLS_PER_INSTANT_MAX: u64 = 1_000_000;

/// How long a run may take in virtual time if nothing else is said.
const RUN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a run ended before its future did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Every task waits for another and no timer is set.
    #[error("simulation with seed {seed} has stalled: no task is ready and no timer is set")]
    Stalled {
        /// The seed that shows it.
        seed: u64,
    },
    /// The run took too long in virtual time.
    #[error("simulation with seed {seed} has passed its deadline")]
    Deadline {
        /// The seed that shows it.
        seed: u64,
    },
    /// Tasks keep each other busy without time passing.
    #[error("simulation with seed {seed} spins: {POLLS_PER_INSTANT_MAX} polls in one instant")]
    Spinning {
        /// The seed that shows it.
        seed: u64,
    },
}

/// Simulated nodes and the executor that runs their tasks. Dropping it drops all tasks.
pub struct Simulation {
    shared: Arc<Shared>,
}

impl Simulation {
    /// A simulation without nodes, decided by `seed`.
    pub fn new(seed: u64) -> Simulation {
        let state = State {
            seed,
            random: Random::new(seed),
            trace: Trace::default(),
            now: Duration::ZERO,
            next_number: 0,
            tasks: BTreeMap::new(),
            timers: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        Simulation { shared: Arc::new(Shared { state: Mutex::new(state), ready: Arc::default() }) }
    }

    /// The node of this name as it runs now; a new one, when there is none.
    pub fn node(&self, name: &str) -> NodeContext {
        NodeContext::current(&self.shared, name)
    }

    /// Runs `future` on a node called `test`, and everything else beside it, until it is done.
    ///
    /// # Errors
    /// When it can never be done, or not within a day of virtual time.
    ///
    /// # Panics
    /// When a task does.
    pub fn run_until<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RunError> {
        let output = Arc::new(Mutex::new(None));
        let slot = output.clone();
        let body = async move {
            let value = future.await;
            *slot.lock().expect(POISONED) = Some(value);
        };
        context::Context::spawn(&self.node("test"), Box::pin(body));
        let end = self.now() + RUN_MAX;
        loop {
            if let Some(value) = output.lock().expect(POISONED).take() {
                return Ok(value);
            }
            self.step(end)?;
        }
    }

    /// Runs everything for a while of virtual time. That nothing happens any more is no error.
    ///
    /// # Errors
    /// [`RunError::Spinning`].
    pub fn run_for(&self, duration: Duration) -> Result<(), RunError> {
        let end = self.now() + duration;
        loop {
            match self.step(end) {
                Ok(()) => {}
                Err(RunError::Spinning { seed }) => return Err(RunError::Spinning { seed }),
                Err(RunError::Stalled { .. } | RunError::Deadline { .. }) => {
                    self.shared.state().now = end;
                    return Ok(());
                }
            }
        }
    }

    /// The virtual time since the beginning.
    pub fn now(&self) -> Duration {
        self.shared.state().now
    }

    /// A number that differs, all but certainly, between two runs that differ in any poll or note.
    pub fn trace(&self) -> u64 {
        self.shared.state().trace.0
    }

    /// Polls all tasks that are ready, in the seed's order, and then lets time jump to the next timer, at most to `end`.
    fn step(&self, end: Duration) -> Result<(), RunError> {
        let mut polls = 0;
        while let Some(task) = self.shared.choose() {
            self.shared.poll(task);
            polls += 1;
            if polls == POLLS_PER_INSTANT_MAX {
                return Err(RunError::Spinning { seed: self.shared.state().seed });
            }
        }
        if polls > 0 {
            return Ok(());
        }
        self.shared.advance(end)
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = self.shared.state();
            eprintln!("simulation with seed {} failed after {:?} of virtual time", state.seed, state.now);
        }
        let tasks = {
            let mut state = self.shared.state();
            // Destructors of tasks must not begin new ones.
            state.nodes.values_mut().for_each(|node| node.life += 1);
            std::mem::take(&mut state.tasks)
        };
        drop_tasks(tasks.into_values());
    }
}

const POISONED: &str = "no holder of this lock panics";

struct Shared {
    state: Mutex<State>,
    /// Tasks to poll. Ordered, because the order in which tasks are woken need not be the seed's.
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

struct State {
    seed: u64,
    random: Random,
    trace: Trace,
    now: Duration,
    next_number: u64,
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(Duration, u64), Waker>,
    nodes: BTreeMap<Arc<str>, Node>,
}

struct Task {
    node: NodeContext,
    /// Taken while the task is polled.
    future: Option<BoxFuture<'static, ()>>,
}

struct Node {
    /// Counts restarts. Tasks of an earlier life are gone, and what they left behind can spawn none.
    life: u64,
    clock: Clock,
    random: Random,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of a task is on its way through here when the simulation is dropped.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn ready(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes one of the ready tasks.
    fn choose(&self) -> Option<u64> {
        let mut ready = self.ready();
        if ready.is_empty() {
            return None;
        }
        let chosen = self.state().random.below(ready.len() as u64);
        let task = *ready.iter().nth(chosen as usize).expect("the number is below the length");
        ready.remove(&task);
        Some(task)
    }

    fn poll(&self, number: u64) {
        let (node, mut future) = {
            let mut state = self.state();
            let now = state.now;
            state.trace.add(&number.to_le_bytes());
            state.trace.add(&now.as_nanos().to_le_bytes());
            // The task may have ended or been killed since it was woken.
            let Some(task) = state.tasks.get_mut(&number) else { return };
            let Some(future) = task.future.take() else { return };
            (task.node.clone(), future)
        };
        let waker = Waker::from(Arc::new(TaskWaker { number, ready: self.ready.clone() }));
        let mut task_context = std::task::Context::from_waker(&waker);
        context::with(Arc::new(node), || {
            let poll = future.as_mut().poll(&mut task_context);
            let mut state = self.state();
            let ended = match (poll, state.tasks.get_mut(&number)) {
                (Poll::Pending, Some(task)) => {
                    task.future = Some(future);
                    return;
                }
                (Poll::Pending, None) => Some(future),
                (Poll::Ready(()), _) => {
                    state.tasks.remove(&number);
                    Some(future)
                }
            };
            // What is dropped with the future may spawn or wake, so the lock is given back before.
            drop(state);
            drop(ended);
        });
    }

    /// Lets time jump to the next timer and wakes who waits for it.
    fn advance(&self, end: Duration) -> Result<(), RunError> {
        let mut state = self.state();
        let seed = state.seed;
        let Some((&(at, _), _)) = state.timers.first_key_value() else { return Err(RunError::Stalled { seed }) };
        if at > end {
            return Err(RunError::Deadline { seed });
        }
        state.now = state.now.max(at);
        let mut due = Vec::new();
        while let Some(first) = state.timers.first_entry()
            && first.key().0 <= at
        {
            due.push(first.remove());
        }
        drop(state);
        due.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

/// Drops tasks under their own context, because destructors may ask for the time or spawn.
fn drop_tasks(tasks: impl Iterator<Item = Task>) {
    for task in tasks {
        context::with(Arc::new(task.node), || drop(task.future));
    }
}

struct TaskWaker {
    number: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(self.number);
    }
}

/// FNV-1a over everything that is decided.
struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Trace(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
