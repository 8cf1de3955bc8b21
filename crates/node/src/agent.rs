//! The agent's loop: pods of the API and events of the runtime, routed to one worker a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::decide::resources::Resources;
use api::projection::ServiceLite;
use api::quantity::Quantity;
use client::{Cache, Client, ClientError, Object, Target, Watched};
use cri::{Runtime, RuntimeEvent};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Pod;
use reconcile::plan::kinds::PODS;
use reconcile::{Note, Recorder, Reference, Severity};
use stdx::{BoxFuture, Mono, TaskTree, mono};

use crate::admit::{self, Refusal};
use crate::cgroup::Cgroups;
use crate::checkpoint;
use crate::evict;
use crate::orphans;
use crate::pod::create::NodeFacts;
use crate::pod::env::Sources;
use crate::pod::memory::{Verdict, Waiting};
use crate::pod::pulled::Records;
use crate::pod::seen::POD_UID;
use crate::pod::worker::{Handle, Message};
use crate::pod::{name, namespace, spec, uid};
use crate::probe::counts::Probed;
use crate::refs::{News, NodeWatch};
use crate::register::Registration;
use crate::resize::{self, Answer, Given};
use crate::services;
use crate::static_pods;
use crate::tokens::Kept;
use crate::users::Ranges;
use crate::volume::{Roots, Tokens};

/// How long the Node may take to be read when a pod is judged.
const NODE_LIMIT: Duration = Duration::from_secs(2);

/// The node's service rules, as far as an ending pod is concerned.
pub trait Rules: Send + Sync {
    /// Takes a pod out of the rules; resolves when the kernel has them, or after a bounded wait.
    fn withdraw<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()>;

    /// Nothing is left of the pod, so that nothing has to be kept out.
    fn forget(&self, pod_uid: &str);

    /// What of the machine's own may keep packets of pods from where they are to go, each in a sentence.
    fn obstacles(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What an agent is made of.
pub struct Options {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub rules: Arc<dyn Rules>,
    pub registration: Registration,
    pub cgroups: Cgroups,
    pub facts: NodeFacts,
    pub roots: Roots,
    /// Services of the whole cluster, shared with the data plane.
    pub services: Cache,
    /// Where static pods come from.
    pub static_pods: Option<static_pods::Source>,
    pub tasks: TaskTree,
}

/// What every part of the agent uses.
pub struct Context {
    pub client: Client,
    pub runtime: Arc<dyn Runtime>,
    pub rules: Arc<dyn Rules>,
    pub recorder: Recorder,
    pub cgroups: Cgroups,
    pub facts: NodeFacts,
    pub roots: Roots,
    pub services: Cache,
    pub host_ip: String,
    /// What the node has for pods.
    pub allocatable: BTreeMap<String, Quantity>,
    pub runtime_name: String,
    /// Which images were pulled with whose credentials.
    pub pulled: Records,
    /// What the node runs short of, as it is told.
    pub pressure: Mutex<evict::Watch>,
    /// Tokens that pods' volumes hold.
    pub kept: Kept,
    /// Users that pods have of their own.
    pub users: Ranges,
    /// What probes found so far.
    pub probed: Probed,
    pub tasks: TaskTree,
}

/// Tokens, and when the soonest has to be fetched again.
pub struct FetchedTokens {
    pub values: Tokens,
    pub refresh_after: Option<Duration>,
}

impl Context {
    /// Records an event about a pod or, with `field`, a part of it.
    pub fn tell(&self, pod: &Pod, field: &str, severity: Severity, reason: &'static str, message: String) {
        let regarding = Reference {
            resource: PODS,
            namespace: namespace(pod).into(),
            name: name(pod).into(),
            uid: uid(pod).into(),
        };
        self.recorder.record(Note { regarding, field: field.into(), severity, reason, message });
    }

    /// What a pod's variables and files may say besides ConfigMaps and Secrets.
    pub fn sources(&self, pod: &Pod, pod_ip: Option<IpAddr>) -> Sources {
        Sources {
            pod_ip: pod_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: self.host_ip.clone(),
            allocatable: self.allocatable.clone(),
            services: self.service_variables(pod),
            ..Sources::default()
        }
    }

    fn service_variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let snapshot = self.services.snapshot();
        let links = spec(pod).enable_service_links != Some(false);
        let own = namespace(pod);
        let mut seen: BTreeMap<&str, &ServiceLite> = BTreeMap::new();
        for service in snapshot.iter() {
            let is_api = service.namespace() == "default" && service.name() == "kubernetes";
            // A pod's own namespace wins over the API server's name.
            if links && service.namespace() == own {
                seen.insert(service.name(), service.project());
            } else if is_api {
                seen.entry(service.name()).or_insert(service.project());
            }
        }
        services::variables(seen.into_values())
    }

    /// Fetches tokens of the pod's service account, bound to the pod.
    pub async fn tokens(&self, pod: &Pod, wanted: &[(String, i64)]) -> Result<FetchedTokens, ClientError> {
        let account = spec(pod).service_account_name.unwrap_or_else(|| "default".into());
        let mut fetched = FetchedTokens { values: Tokens::new(), refresh_after: None };
        for (audience, seconds) in wanted {
            if let Some((token, left)) = self.kept.get(uid(pod), audience, *seconds) {
                fetched.refresh_after = Some(fetched.refresh_after.map_or(left, |other| other.min(left)));
                fetched.values.insert((audience.clone(), *seconds), token);
                continue;
            }
            let request = TokenRequest {
                spec: Some(TokenRequestSpec {
                    audiences: (!audience.is_empty()).then(|| vec![audience.clone()]),
                    expiration_seconds: Some(*seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: Some(name(pod).into()),
                        uid: Some(uid(pod).into()),
                    }),
                }),
                ..TokenRequest::default()
            };
            let target = Target::new("", "v1", "serviceaccounts").namespace(namespace(pod)).name(account.as_str());
            let answer = self.client.create_subresource(target, "token", &request).await?;
            let answer: TokenRequest = api::value::from_value(&answer)
                .map_err(|error| ClientError::Decode { what: "token", message: error.to_string() })?;
            let status = answer.status.unwrap_or_default();
            let expires = status.expiration_timestamp.map_or(stdx::wall(), |time| time.0);
            let left = expires.duration_since(stdx::wall()).as_secs_f64();
            // At four fifths of its life. Upstream: `token_manager.go`.
            let refresh = Duration::from_secs_f64((left * 0.8).max(1.0));
            fetched.refresh_after = Some(fetched.refresh_after.map_or(refresh, |other| other.min(refresh)));
            let token = status.token.unwrap_or_default();
            self.kept.put(uid(pod), audience, *seconds, &token, refresh);
            fetched.values.insert((audience.clone(), *seconds), token);
        }
        Ok(fetched)
    }
}

/// A running agent.
pub struct Agent {
    context: Arc<Context>,
    pods: Cache,
    registration: Registration,
    workers: Mutex<BTreeMap<String, Known>>,
    source: Option<static_pods::Source>,
    /// Static pods by uid, as the folder has them now; before it was read, those that an earlier agent ran.
    statics: Mutex<BTreeMap<String, Pod>>,
    /// The folder was read, or there is none.
    knows_statics: AtomicBool,
    /// Something happened to a mirror of one.
    mirrors: tokio::sync::Notify,
    /// There may be room by now for pods that wait for other resources.
    room: tokio::sync::Notify,
}

/// A pod that this agent has or had a worker for.
#[derive(Clone)]
struct Known {
    worker: Handle,
    /// The API has it no more. Before that a worker that has ended is not begun anew: it has done its work.
    gone: bool,
    /// It was not admitted: it takes no room.
    refused: bool,
    /// What it was given, as of which generation of it was asked for.
    given: Given,
    generation: i64,
    /// It asks for something else.
    asks: Option<Asks>,
}

/// A pod that asks for other resources than it was given.
#[derive(Clone)]
struct Asks {
    pod: Pod,
    since: Mono,
    told: Option<Answer>,
}

impl Known {
    fn of(worker: Handle, pod: &Pod) -> Known {
        let generation = pod.metadata.generation.unwrap_or(0);
        Known { worker, gone: false, refused: false, given: resize::asked(pod), generation, asks: None }
    }
}

impl Agent {
    /// Makes an agent; [`Agent::run`] runs it.
    pub async fn new(options: Options) -> cri::Result<Arc<Agent>> {
        let node = options.facts.name.clone();
        let version = options.runtime.version().await?;
        let recorder = Recorder::start(options.client.clone(), "kubelet", &node, &options.tasks);
        let watched = Watched::new(Target::new("", "v1", "pods")).fields(format!("spec.nodeName={node}"));
        let pods = Cache::start(&options.tasks, options.client.clone(), watched);
        let context = Context {
            client: options.client,
            runtime: options.runtime,
            rules: options.rules,
            recorder,
            cgroups: options.cgroups,
            facts: options.facts,
            roots: options.roots.clone(),
            services: options.services,
            host_ip: options.registration.address.to_string(),
            allocatable: options.registration.allocatable(),
            runtime_name: version.runtime_name,
            pulled: Records::open(&options.roots.disk),
            pressure: Mutex::default(),
            kept: Kept::default(),
            users: Ranges::default(),
            probed: Probed::default(),
            tasks: options.tasks,
        };
        Ok(Arc::new(Agent {
            context: Arc::new(context),
            pods,
            registration: options.registration,
            workers: Mutex::default(),
            knows_statics: AtomicBool::new(options.static_pods.is_none()),
            source: options.static_pods,
            statics: Mutex::default(),
            mirrors: tokio::sync::Notify::new(),
            room: tokio::sync::Notify::new(),
        }))
    }

    /// What the agent's parts use; for its server.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// A pod of this node by name, if the agent has it.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.pods.snapshot().get(namespace, name).cloned()
    }

    /// Every pod of this node.
    pub fn pods(&self) -> Vec<Arc<Object>> {
        self.pods.snapshot().iter().cloned().collect()
    }

    /// Runs until the task tree is cancelled.
    pub async fn run(self: Arc<Agent>) {
        let tasks = self.context.tasks.clone();
        tasks.spawn("registration", self.registration.clone().run(self.context.clone()));
        tasks.spawn("upkeep", crate::upkeep::run(self.clone()));
        let mut runtime_events = self.context.runtime.events();
        let mut changes = self.pods.subscribe();
        let mut referred = NodeWatch::start(&tasks, &self.context.client, &self.context.facts.name);
        self.resume();
        if let Some(source) = self.source.clone() {
            tasks.spawn("static pods", static_pods::run(self.clone(), source));
        }
        let mut listed = false;
        loop {
            tokio::select! {
                biased;
                // Nothing else is started, and nothing removed, before the first complete list from the API.
                () = self.synced(), if !listed => {
                    listed = true;
                    self.compare().await;
                }
                batch = changes.next(), if listed => {
                    for change in batch {
                        let both = [change.old.as_ref(), change.new.as_ref()];
                        if both.into_iter().flatten().any(|pod| pod.meta().annotations.get(static_pods::MIRROR).is_some()) {
                            self.mirrors.notify_one();
                        }
                        match (change.old, change.new) {
                            (old, Some(new)) => {
                                // The name may be another pod's by now.
                                if let Some(old) = old.filter(|old| old.uid() != new.uid()) {
                                    self.tell(old.uid(), Message::Gone).await;
                                }
                                self.tell_pod(&new).await;
                            }
                            (Some(old), None) => {
                                self.context.probed.forget(old.uid());
                                self.tell(old.uid(), Message::Gone).await;
                            }
                            (None, None) => {}
                        }
                    }
                    self.judge_resizes().await;
                }
                () = self.room.notified(), if listed => self.judge_resizes().await,
                news = referred.next(), if listed => self.tell_of(&news).await,
                event = runtime_events.next() => match event {
                    Some(RuntimeEvent::Container(event)) => self.tell(&event.pod.uid, Message::Runtime).await,
                    Some(RuntimeEvent::Missed) => self.tell_all().await,
                    None => return,
                },
            }
        }
    }

    /// Goes on with what an earlier agent had accepted, with or without an API.
    fn resume(&self) {
        for checkpoint in checkpoint::all(&self.context.roots.memory) {
            let uid = uid(&checkpoint.pod).to_owned();
            // What it asks for by now is heard from the API.
            let known = |worker| Known { generation: -1, ..Known::of(worker, &checkpoint.pod) };
            let worker = Handle::start(self.context.clone(), checkpoint.pod.clone(), Some(checkpoint.clone()), None);
            if self.source.is_some() && static_pods::is_static(&checkpoint.pod) {
                self.statics().insert(uid.clone(), checkpoint.pod.clone());
            }
            self.workers().insert(uid, known(worker));
        }
    }

    async fn synced(&self) {
        self.context.services.synced().await;
        self.pods.synced().await;
    }

    /// Brings what runs here up to the first list: new pods begin, and those that the API does not have end.
    async fn compare(&self) {
        let first = self.pods.snapshot();
        // The oldest come first where not all have room.
        let mut oldest: Vec<&Arc<Object>> = first.iter().collect();
        oldest.sort_by_key(|object| object.meta().creation);
        for object in oldest {
            self.tell_pod(object).await;
        }
        self.judge_resizes().await;
        self.mirrors.notify_one();
        let statics = self.static_pods();
        let resumed: Vec<String> = self.workers().keys().filter(|uid| !statics.contains_key(*uid)).cloned().collect();
        for uid in resumed {
            if !first.iter().any(|pod| pod.uid() == uid) {
                self.tell(&uid, Message::Gone).await;
            }
        }
        self.keep_house().await;
    }

    /// Ends and removes what is here of pods that nobody knows.
    pub(crate) async fn keep_house(&self) {
        if self.knows_all_pods() {
            self.remove_strangers().await;
            orphans::remove(self).await;
        }
    }

    /// Whether everybody has been heard who may want a pod here.
    fn knows_all_pods(&self) -> bool {
        self.knows_pods() && self.knows_statics.load(Ordering::Acquire)
    }

    /// Whether somebody wants a pod here, or its worker has not ended yet.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        let works = self.workers().get(uid).is_some_and(|known| !(known.gone && known.worker.is_over()));
        works || self.statics().contains_key(uid) || self.pods.snapshot().iter().any(|pod| pod.uid() == uid)
    }

    async fn tell_pod(&self, object: &Arc<Object>) {
        // A mirror is told of, not run.
        if object.meta().annotations.get(static_pods::MIRROR).is_some() {
            return;
        }
        self.note_what_is_asked(object);
        if self.tell_worker(object.uid(), Message::Pod(object.clone())).await {
            return;
        }
        match object.typed::<Pod>() {
            Ok(pod) if self.is_over(&pod) => {}
            Ok(pod) => {
                let refusal = self.refusal(&pod).await;
                let refused = refusal.is_some();
                let worker = Handle::start(self.context.clone(), pod.clone(), None, refusal);
                let mut workers = self.workers();
                workers.retain(|_, known| !(known.gone && known.worker.is_over()));
                workers.insert(object.uid().to_owned(), Known { refused, ..Known::of(worker, &pod) });
            }
            Err(error) => tracing::error!(?object, %error, "pod does not have its kind's shape"),
        }
    }

    /// Runs these static pods, and ends those that are not among them any more.
    pub(crate) async fn set_static(&self, pods: BTreeMap<String, Pod>) {
        let before = std::mem::replace(&mut *self.statics(), pods.clone());
        self.knows_statics.store(true, Ordering::Release);
        for uid in before.keys().filter(|uid| !pods.contains_key(*uid)) {
            self.tell(uid, Message::Gone).await;
        }
        for (uid, pod) in pods {
            // Also one that an earlier agent began.
            if self.workers().get(&uid).is_some_and(|known| !(known.gone && known.worker.is_over())) {
                continue;
            }
            let refusal = self.refusal(&pod).await;
            let refused = refusal.is_some();
            let worker = Handle::start(self.context.clone(), pod.clone(), None, refusal);
            self.workers().insert(uid, Known { refused, ..Known::of(worker, &pod) });
        }
        self.judge_resizes_again();
    }

    /// Has pods that wait for other resources judged once more.
    pub(crate) fn judge_resizes_again(&self) {
        self.room.notify_one();
    }

    /// Static pods by uid.
    pub(crate) fn static_pods(&self) -> BTreeMap<String, Pod> {
        self.statics().clone()
    }

    /// Tells a static pod's worker by which uid the API knows its mirror.
    pub(crate) async fn mirrored(&self, uid: &str, mirror: &str) {
        self.tell(uid, Message::Mirror(mirror.to_owned())).await;
    }

    /// Waits until something happens to a mirror.
    pub(crate) async fn mirrors_changed(&self) {
        self.mirrors.notified().await;
    }

    /// Whether the API's pods of this node have been listed.
    pub(crate) fn knows_pods(&self) -> bool {
        self.pods.is_synced()
    }

    fn statics(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Pod>> {
        self.statics.lock().expect("no holder of this lock panics")
    }

    /// Why a new pod is not admitted, if it is not; an event says so.
    async fn refusal(&self, pod: &Pod) -> Option<Waiting> {
        // One that is deleted already only has to be cleaned up.
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let others = self.admitted();
        let of_machine = admit::machine::admit(pod, &self.context.facts);
        let node = self.node().await;
        let refusal = match of_machine.and_then(|()| admit::admit(pod, &node, others.iter())) {
            Err(refusal) => refusal,
            Ok(()) => {
                let pressure = self.context.pressure.lock().expect("no holder of this lock panics").told();
                let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
                let message = evict::keeps_out(pressure, class == Some("BestEffort"), is_critical(pod))?;
                Refusal { reason: "Evicted", message }
            }
        };
        self.context.tell(pod, "", Severity::Warning, refusal.reason, refusal.message.clone());
        let message = admit::told(&refusal, pod);
        Some(Waiting { reason: refusal.reason.into(), message })
    }

    /// Pods that have a place on this node, with what they were given.
    pub(crate) fn admitted(&self) -> Vec<Pod> {
        let workers = self.workers().clone();
        let admitted = |uid: &str| workers.get(uid).filter(|known| !known.refused);
        let snapshot = self.pods.snapshot();
        let pods = snapshot.iter().filter_map(|object| {
            let known = admitted(object.uid())?;
            Some(resize::with(object.typed::<Pod>().ok()?, &known.given))
        });
        let pods: Vec<Pod> = pods.filter(admit::has_place).collect();
        let statics = self.static_pods().into_iter().filter(|(uid, _)| admitted(uid).is_some()).map(|(_, pod)| pod);
        pods.into_iter().chain(statics).collect()
    }

    /// Notes when a pod that runs asks for other resources than it was given.
    fn note_what_is_asked(&self, object: &Object) {
        let mut workers = self.workers();
        let Some(known) = workers.get_mut(object.uid()) else { return };
        let generation = object.meta().generation;
        if known.generation == generation {
            return;
        }
        let Ok(pod) = object.typed::<Pod>() else { return };
        known.generation = generation;
        let before = known.asks.take();
        if !known.refused && (before.is_some() || resize::asked(&pod) != known.given) {
            let since = before.map_or_else(mono, |before| before.since);
            known.asks = Some(Asks { pod, since, told: None });
        }
    }

    /// Gives pods that ask for other resources what there is room for: those first that ask for less, then the important ones,
    /// then those that are guaranteed what they use, then those that have waited longest. Upstream: `sortPendingResizes`.
    async fn judge_resizes(&self) {
        let mut waiting: Vec<(String, Asks, Given)> = {
            let workers = self.workers();
            let present = workers.iter().filter(|(_, known)| !known.gone);
            let asks = present.filter_map(|(uid, known)| Some((uid, known.asks.clone()?, known.given.clone())));
            asks.map(|(uid, asks, given)| (uid.clone(), asks, given)).collect()
        };
        waiting.sort_by_key(|(_, asks, given)| {
            let priority = asks.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
            let class = asks.pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
            (resize::grows(&asks.pod, given), std::cmp::Reverse(priority), class != Some("Guaranteed"), asks.since)
        });
        for (uid, asks, _) in waiting {
            let node = admit::Node { allocatable: self.allocatable(), ..admit::Node::default() };
            let answer = resize::judge(&asks.pod, &node, self.admitted().iter());
            if asks.told.as_ref() != Some(&answer) {
                self.answer_resize(&uid, asks, answer).await;
            }
        }
    }

    async fn answer_resize(&self, uid: &str, asks: Asks, answer: Answer) {
        let pod = asks.pod.clone();
        let (given, fresh) = {
            let mut workers = self.workers();
            let Some(known) = workers.get_mut(uid) else { return };
            let fresh = resize::asked(&pod);
            let changes = fresh != known.given;
            if answer == Answer::Granted {
                (known.given, known.asks) = (fresh, None);
            } else {
                known.asks = Some(Asks { told: Some(answer.clone()), ..asks });
            }
            (known.given.clone(), changes)
        };
        let tell = |severity, reason: &'static str, what: &str, why: Option<&str>| {
            let text = format!("Pod resize {what}: {}", resize::details(&pod, why));
            self.context.tell(&pod, "", severity, reason, text);
        };
        let waits = |reason: &str, message: &str| Some(Waiting { reason: reason.into(), message: message.into() });
        let pending = match &answer {
            Answer::Granted => {
                if fresh {
                    tell(Severity::Normal, "ResizeStarted", "started", None);
                }
                None
            }
            Answer::Deferred(why) => {
                tell(Severity::Warning, "ResizeDeferred", "Deferred", Some(why));
                waits("Deferred", why)
            }
            Answer::Infeasible(why) => {
                tell(Severity::Warning, "ResizeInfeasible", "Infeasible", Some(why));
                waits("Infeasible", why)
            }
        };
        self.tell(uid, Message::Given(given, pending)).await;
    }

    fn allocatable(&self) -> Resources {
        let amounts = self.registration.reserved.allocatable(self.registration.machine.capacity());
        Resources::parse(Some(&amounts)).unwrap_or_default()
    }

    /// What a pod has to fit: labels and taints as the API has them, since others set them.
    async fn node(&self) -> admit::Node {
        let registration = &self.registration;
        let allocatable = self.allocatable();
        let mut node = admit::Node { name: registration.name.clone(), allocatable, ..admit::Node::default() };
        let target = Target::new("", "v1", "nodes").name(registration.name.as_str());
        match stdx::timeout(NODE_LIMIT, self.context.client.find(target)).await {
            Ok(Ok(Some(object))) => {
                let found = object.typed::<k8s_openapi::api::core::v1::Node>().unwrap_or_default();
                node.labels = found.metadata.labels.unwrap_or_default();
                let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
                node.taints = taints
                    .into_iter()
                    .map(|taint| (taint.key, taint.value.unwrap_or_default(), taint.effect))
                    .collect();
            }
            Ok(Ok(None)) => node.labels = registration.all_labels(),
            Ok(Err(error)) => tracing::warn!(%error, "node not read: a pod is judged without its labels and taints"),
            Err(stdx::Elapsed) => {
                tracing::warn!("node not read in time: a pod is judged without its labels and taints")
            }
        }
        node
    }

    /// This agent's registration.
    pub(crate) fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Records an event about this node.
    pub(crate) fn tell_node(&self, severity: Severity, reason: &'static str, message: String) {
        self.registration.tell(&self.context, severity, reason, message);
    }

    /// Ends a pod for the node's sake, or not, if it has ended.
    pub(crate) async fn end(&self, uid: &str, verdict: Verdict) {
        self.tell(uid, Message::Verdict(verdict)).await;
    }

    /// An ended pod needs a worker only to be removed.
    fn is_over(&self, pod: &Pod) -> bool {
        let ended =
            matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        ended && pod.metadata.deletion_timestamp.is_none()
    }

    async fn tell(&self, uid: &str, message: Message) {
        self.tell_worker(uid, message).await;
    }

    /// Tells the pods that refer to what changed.
    async fn tell_of(&self, news: &[News]) {
        let pods = self.pods.snapshot();
        for news in news {
            for object in pods.by_namespace(&news.namespace) {
                // One that has not a pod's shape is told of where its worker is started.
                if object.typed::<Pod>().is_ok_and(|pod| news.concerns(&pod)) {
                    self.tell(object.uid(), Message::Referred).await;
                }
            }
        }
    }

    async fn tell_all(&self) {
        let uids: Vec<String> = self.workers().keys().cloned().collect();
        for uid in uids {
            self.tell(&uid, Message::Runtime).await;
        }
    }

    /// Tells the pod's worker, if there is or was one.
    async fn tell_worker(&self, uid: &str, message: Message) -> bool {
        let worker = match self.workers().get_mut(uid) {
            None => return false,
            Some(known) => {
                known.gone |= matches!(message, Message::Gone);
                known.worker.clone()
            }
        };
        // One that has ended has nothing left to do about its pod.
        worker.tell(message).await;
        true
    }

    /// Ends what runs on this node for pods that the API does not have.
    async fn remove_strangers(&self) {
        let sandboxes = match self.context.runtime.list_pod_sandbox(cri::PodSandboxFilter::default()).await {
            Ok(sandboxes) => sandboxes,
            Err(error) => return tracing::warn!(%error, "sandboxes not listed: strangers stay"),
        };
        for sandbox in sandboxes {
            let uid = sandbox.labels.get(POD_UID).cloned().unwrap_or_default();
            if uid.is_empty() || self.knows(&uid) {
                continue;
            }
            let pod = stranger(&sandbox);
            let worker = Handle::start(self.context.clone(), pod.clone(), None, None);
            worker.tell(Message::Gone).await;
            self.workers().insert(uid, Known { gone: true, ..Known::of(worker, &pod) });
        }
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.workers.lock().expect("no holder of this lock panics")
    }
}

/// Whether a pod is among those that the cluster itself lives by. Upstream: `IsCriticalPod`.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    static_pods::is_static(pod)
        || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= 2_000_000_000)
}

/// As much of a forgotten pod as it takes to end it.
fn stranger(sandbox: &cri::PodSandbox) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(sandbox.metadata.name.clone());
    pod.metadata.namespace = Some(sandbox.metadata.namespace.clone());
    pod.metadata.uid = Some(sandbox.metadata.uid.clone());
    pod.metadata.creation_timestamp = Timestamp::from_nanosecond(sandbox.created_at.into())
        .ok()
        .map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time);
    pod
}
