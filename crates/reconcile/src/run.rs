//! The one loop that runs every controller: changes to keys, keys to decisions, decisions to requests.
//!
//! A key is decided about once at a time, and not before every cache shows what its own writes did (see `freshness`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Cache, Client, Target, Watched};
use stdx::{TaskTree, mono, wall};
use tokio::sync::mpsc;

use crate::carry::{Carried, answer, carry_out, revision_after};
use crate::controller::{Authority, Controller, Facts, NodeRanges, Now, View, Watch, indexes};
use crate::event::Recorder;
use crate::plan::{Need, Outcomes, Plan, Resource};
use crate::queue::Queue;

/// Keys of one controller in work at once. Upstream: `--concurrent-*-syncs`, five for most.
const CONCURRENCY: usize = 5;
/// Rounds in which a decision may name needs before it is put off.
const NEED_ROUNDS: usize = 3;
/// How often a conflict is answered by deciding anew at once, before it counts as a failure.
const CONFLICTS_MAX: u32 = 5;

/// The caches of a process and cluster, one a kind, shared by all who read it.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    tasks: TaskTree,
    caches: Arc<Mutex<BTreeMap<Resource, Cache>>>,
}

impl Caches {
    /// No caches yet; they start when first asked for.
    pub fn new(client: Client, tasks: TaskTree) -> Caches {
        Caches { client, tasks, caches: Arc::default() }
    }

    /// The cache of a kind, started at first use.
    pub fn of(&self, resource: Resource) -> Cache {
        let mut caches = self.caches.lock().expect("no holder of this lock panics");
        let start = || {
            let mut watched = Watched::new(Target::new(resource.group, resource.version, resource.plural));
            watched.indexes = indexes(resource);
            Cache::start(&self.tasks, self.client.clone(), watched)
        };
        caches.entry(resource).or_insert_with(start).clone()
    }

    /// Waits until the caches of these kinds show everything that was carried out.
    async fn show(&self, carried: &Carried, resources: &[Resource]) {
        let mut awaited = carried.awaited.clone();
        for resource in carried.unanswered.iter().filter(|resource| resources.contains(resource)) {
            awaited.wrote(*resource, revision_after(&self.client, *resource).await);
        }
        for (resource, revision) in awaited.iter().filter(|(resource, _)| resources.contains(resource)) {
            self.of(resource).wait_for(revision).await;
        }
    }

    /// The kinds as they are now.
    pub fn view(&self, resources: &[Resource]) -> View {
        View::new(resources.iter().map(|resource| (*resource, self.of(*resource).snapshot())).collect())
    }
}

/// Starts controllers on shared caches.
pub struct Runner {
    pub client: Client,
    pub caches: Caches,
    pub tasks: TaskTree,
    /// The certificate of the API server's authority, PEM.
    pub root_ca: Arc<str>,
    /// From where nodes get the addresses of their pods.
    pub node_ranges: Option<NodeRanges>,
    /// How long a node may be silent; upstream's default when absent.
    pub node_monitor_grace_period: Option<Duration>,
    /// Who signs requests for certificates.
    pub authority: Option<Arc<dyn Authority>>,
    /// Makes the client of one controller, which acts under its own service account.
    pub client_of: Box<dyn Fn(&'static str) -> Client + Send + Sync>,
}

impl Runner {
    /// Starts one controller; it runs until the task tree is cancelled.
    pub fn start<C: Controller>(&self) {
        let client = (self.client_of)(C::NAME);
        let component = if C::COMPONENT.is_empty() { format!("{}-controller", C::NAME) } else { C::COMPONENT.into() };
        let recorder = Recorder::start(client.clone(), &component, "", &self.tasks);
        let facts = Facts {
            authority: self.authority.clone(),
            root_ca: self.root_ca.clone(),
            node_ranges: self.node_ranges.clone(),
            node_monitor_grace_period: self.node_monitor_grace_period,
            ..Facts::default()
        };
        let this = Loop::<C>::new(client, recorder, self.caches.clone(), facts);
        self.tasks.spawn(C::NAME, this.run());
    }
}

/// What the loop waits for.
enum Arrival<K, M> {
    Changed(usize, Vec<client::Change>),
    Finished(Finish<K, M>),
    Due,
}

/// The two ends of the work on a key.
enum Finish<K, M> {
    /// All requests are answered: another key may be worked on.
    Carried,
    /// The caches show what the requests did: the key may be decided about again, with what is remembered of it.
    Rested(K, Carried, Option<Duration>, M),
}

struct Loop<C: Controller> {
    work: Work,
    caches: Caches,
    watches: Arc<Vec<Watch<C::Key>>>,
    resources: Vec<Resource>,
    queue: Queue<C::Key>,
    states: BTreeMap<C::Key, State<C::Memory>>,
    running: usize,
}

/// What carrying out a decision takes.
#[derive(Clone)]
struct Work {
    client: Client,
    recorder: Recorder,
    facts: Facts,
}

/// What is remembered of a key between decisions.
struct State<M> {
    last: Outcomes,
    conflicts: u32,
    memory: M,
}

impl<M: Default> Default for State<M> {
    fn default() -> Self {
        State { last: Outcomes::default(), conflicts: 0, memory: M::default() }
    }
}

impl<C: Controller> Loop<C> {
    fn new(client: Client, recorder: Recorder, caches: Caches, facts: Facts) -> Self {
        let watches = C::watches();
        let mut resources: Vec<Resource> = watches.iter().map(|watch| watch.resource).collect();
        resources.sort_unstable();
        resources.dedup();
        Loop {
            work: Work { client, recorder, facts },
            caches,
            watches: Arc::new(watches),
            resources,
            queue: Queue::default(),
            states: BTreeMap::new(),
            running: 0,
        }
    }

    async fn run(mut self) {
        let (changed, mut changes) = mpsc::channel(64);
        let subscriptions = TaskTree::default();
        let _ended_with_the_loop = EndWith(subscriptions.clone());
        for (index, watch) in self.watches.iter().enumerate() {
            let mut changes = self.caches.of(watch.resource).subscribe();
            let changed = changed.clone();
            subscriptions.spawn("subscription", async move {
                // The loop is gone when the controller was stopped.
                while changed.send((index, changes.next().await)).await.is_ok() {}
            });
        }
        for resource in &self.resources {
            self.caches.of(*resource).synced().await;
        }
        let (finished, mut finishes) = mpsc::channel(CONCURRENCY);
        loop {
            let due = self.queue.next_due();
            let arrival = tokio::select! {
                // What is finished first: there is never more of it than of work, so it keeps nobody waiting.
                biased;
                Some(finish) = finishes.recv() => Arrival::Finished(finish),
                Some((index, batch)) = changes.recv() => Arrival::Changed(index, batch),
                () = due_at(due) => Arrival::Due,
            };
            self.apply(arrival);
            while self.running < CONCURRENCY {
                let Some(key) = self.queue.take(mono()) else { break };
                self.decide(key, &finished);
            }
        }
    }

    fn apply(&mut self, arrival: Arrival<C::Key, C::Memory>) {
        match arrival {
            Arrival::Due => {}
            Arrival::Changed(index, batch) => {
                let view = self.caches.view(&self.resources);
                let watch = &self.watches[index];
                for object in batch.iter().flat_map(|change| change.old.iter().chain(&change.new)) {
                    for key in (watch.concerns)(&view, object) {
                        self.queue.add(key);
                    }
                }
            }
            Arrival::Finished(Finish::Carried) => self.running -= 1,
            Arrival::Finished(Finish::Rested(key, carried, again, memory)) => {
                self.states.entry(key.clone()).or_default().memory = memory;
                self.finish(key, carried, again);
            }
        }
    }

    /// Decides about a key, carries the plan out in a task, and lets the key rest until the caches show what it did.
    fn decide(&mut self, key: C::Key, finished: &mpsc::Sender<Finish<C::Key, C::Memory>>) {
        let view = self.caches.view(&self.resources);
        let state = self.states.entry(key.clone()).or_default();
        let observed = C::observe(&view, &key);
        let now = Now { wall: wall(), mono: mono() };
        // Whoever decides again after fetching facts begins with the same memory.
        let before = state.memory.clone();
        let mut memory = before.clone();
        let plan = C::reconcile(&observed, now, &state.last, &self.work.facts, &mut memory);
        drop(observed);
        tracing::trace!(
            controller = C::NAME,
            ?key,
            actions = plan.stages.iter().map(Vec::len).sum::<usize>(),
            "decided"
        );
        self.running += 1;
        let (work, finished, last) = (self.work.clone(), finished.clone(), state.last.clone());
        let (caches, resources) = (self.caches.clone(), self.resources.clone());
        drop(stdx::spawn(async move {
            let (carried, again) = settle::<C>(work, view, &key, plan, &last, (before, &mut memory)).await;
            // The loop is gone when the controller was stopped; then nobody asks any more.
            drop(finished.send(Finish::Carried).await);
            caches.show(&carried, &resources).await;
            tracing::trace!(controller = C::NAME, ?key, conflict = carried.conflict, "rested");
            drop(finished.send(Finish::Rested(key, carried, again, memory)).await);
        }));
    }

    fn finish(&mut self, key: C::Key, carried: Carried, again: Option<Duration>) {
        let state = self.states.entry(key.clone()).or_default();
        state.last = carried.outcomes;
        state.conflicts = if carried.conflict { state.conflicts + 1 } else { 0 };
        let failed = !state.last.failures.is_empty() || state.conflicts > CONFLICTS_MAX;
        let idle = !failed && !carried.conflict && again.is_none();
        self.queue.done(&key);
        if failed {
            for failure in &state.last.failures {
                tracing::debug!(controller = C::NAME, ?key, message = failure.message, "action failed");
            }
            self.queue.retry(&key, mono());
        } else {
            self.queue.succeed(&key);
            if carried.conflict {
                self.queue.add(key.clone());
            }
        }
        if let Some(again) = again {
            self.queue.add_at(key.clone(), mono() + again);
        }
        if idle {
            self.states.remove(&key);
        }
    }
}

/// Ends the tasks of a tree when dropped.
struct EndWith(TaskTree);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.cancel().cancel();
    }
}

async fn due_at(due: Option<stdx::Mono>) {
    match due {
        Some(due) => stdx::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Fetches what the decision lacks, asks for it again, and carries the final plan out.
async fn settle<C: Controller>(
    work: Work,
    view: View,
    key: &C::Key,
    plan: Plan,
    last: &Outcomes,
    (before, memory): (C::Memory, &mut C::Memory),
) -> (Carried, Option<Duration>) {
    let mut plan = plan;
    let mut facts = work.facts.clone();
    for _ in 0..NEED_ROUNDS {
        if plan.needs.is_empty() {
            break;
        }
        for need in std::mem::take(&mut plan.needs) {
            if let Need::Certificate { request, usages, seconds } = &need {
                let made = facts.authority.as_ref().map_or_else(
                    || Err("this cluster has no authority that signs".to_owned()),
                    |authority| authority.sign(request, usages, Duration::from_secs(*seconds)),
                );
                facts.certificates.insert(need, made);
                continue;
            }
            match answer(&work.client, &need).await {
                Ok(yes) => drop(facts.answers.insert(need, yes)),
                Err(error) => {
                    tracing::debug!(controller = C::NAME, ?key, %error, "a need could not be answered");
                    return (Carried { conflict: true, ..Carried::default() }, None);
                }
            }
        }
        let now = Now { wall: wall(), mono: mono() };
        *memory = before.clone();
        plan = C::reconcile(&C::observe(&view, key), now, last, &facts, memory);
    }
    let again = plan.again_after;
    (carry_out(&work.client, &work.recorder, plan).await, again)
}
