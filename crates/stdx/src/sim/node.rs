//! A simulated machine: its clocks, its chance, its tasks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::clock::Clock;
use super::{Node, Shared, State, Task, drop_tasks};
use crate::BoxFuture;
use crate::context::{self, Context};
use crate::task;
use crate::time::Mono;

/// One life of a simulated node: everything between a start and a kill. Clones are the same life.
#[derive(Clone)]
pub struct NodeContext {
    shared: Arc<Shared>,
    name: Arc<str>,
    life: u64,
}

impl NodeContext {
    pub(super) fn current(shared: &Arc<Shared>, name: &str) -> NodeContext {
        let name: Arc<str> = name.into();
        let mut guard = shared.state();
        let State { random, nodes, now, .. } = &mut *guard;
        let node = nodes.entry(name.clone()).or_insert_with(|| {
            let mut random = random.fork();
            // Monotonic clocks of different machines have nothing to do with each other.
            let shown = Duration::from_secs(random.below(1_000_000));
            Node { life: 0, clock: Clock::new(shown, *now), random }
        });
        let life = node.life;
        drop(guard);
        NodeContext { shared: shared.clone(), name, life }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `future` as a task of this node; see [`crate::spawn`].
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> task::Task<T> {
        context::with(Arc::new(self.clone()), || task::spawn(future))
    }

    /// Drops all tasks of this life, as when the machine loses power. A task that kills its own node runs on up to its
    /// next `.await`.
    pub fn kill(&self) {
        let mut state = self.shared.state();
        let Some(node) = state.nodes.get_mut(&self.name).filter(|node| node.life == self.life) else { return };
        node.life += 1;
        let killed: Vec<u64> =
            state.tasks.iter().filter(|(_, task)| task.node.name == self.name).map(|(number, _)| *number).collect();
        let tasks: Vec<Task> = killed.iter().filter_map(|number| state.tasks.remove(number)).collect();
        drop(state);
        drop_tasks(tasks.into_iter());
    }

    /// Kills the node, if it still lives, and begins its next life. Its clocks run on.
    pub fn restart(&self) -> NodeContext {
        self.kill();
        NodeContext::current(&self.shared, &self.name)
    }

    /// Whether this life is over.
    pub fn is_killed(&self) -> bool {
        self.with_node(|node, _| node.life) != self.life
    }

    /// Sets the node's wall clock forwards or backwards.
    pub fn step_wall(&self, step: jiff::SignedDuration) {
        self.with_node(|node, _| node.clock.step_wall(step));
    }

    /// Lets the node's clocks run too fast by so many parts per million (too slow, when negative) from now on.
    pub fn drift(&self, drift_ppm: i32) {
        self.with_node(|node, now| node.clock.drift(drift_ppm, now));
    }

    /// Adds something observed to the simulation's trace.
    pub fn note(&self, observed: &str) {
        self.shared.state().trace.add(observed.as_bytes());
    }

    fn with_node<T>(&self, look: impl FnOnce(&mut Node, Duration) -> T) -> T {
        let mut state = self.shared.state();
        let now = state.now;
        look(state.nodes.get_mut(&self.name).expect("nodes are never removed"), now)
    }
}

impl Context for NodeContext {
    fn wall(&self) -> jiff::Timestamp {
        self.with_node(|node, now| node.clock.wall(now))
    }

    fn mono(&self) -> Mono {
        self.with_node(|node, now| node.clock.mono(now))
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let mut state = self.shared.state();
        if state.nodes[&self.name].life != self.life {
            drop(state);
            // A killed node runs nothing; its destructors must not bring it back to life.
            drop(future);
            return;
        }
        let number = state.number();
        state.tasks.insert(number, Task { node: self.clone(), future: Some(future) });
        drop(state);
        self.shared.ready().insert(number);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = Mono(self.mono().0.saturating_add(duration));
        Box::pin(Sleep { node: self.clone(), deadline, timer: None })
    }

    fn random(&self, bytes: &mut [u8]) {
        self.with_node(|node, _| node.random.fill(bytes));
    }
}

struct Sleep {
    node: NodeContext,
    deadline: Mono,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    /// Looks at the clock anew each time, because its rate may have changed while it was waited for.
    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<()> {
        let shared = self.node.shared.clone();
        let mut state = shared.state();
        let old = self.timer.take().and_then(|timer| state.timers.remove(&timer));
        let now = state.now;
        let clock = &state.nodes[&self.node.name].clock;
        let poll = if clock.mono(now) >= self.deadline {
            Poll::Ready(())
        } else {
            if let Some(at) = clock.virtual_time(self.deadline) {
                let timer = (at, state.number());
                state.timers.insert(timer, context.waker().clone());
                self.timer = Some(timer);
            }
            Poll::Pending
        };
        drop(state);
        drop(old);
        poll
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            let waker = self.node.shared.state().timers.remove(&timer);
            drop(waker);
        }
    }
}
