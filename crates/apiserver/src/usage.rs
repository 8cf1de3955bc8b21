//! `metrics.k8s.io`: what nodes and pods use, asked of the agents when somebody wants to know.
//!
//! Nobody asks, nothing runs: samples come with questions, and processor use is a rate between two of them. A node that was not
//! asked lately is asked twice, a second apart. Upstream: the metrics server, which asks every agent four times a minute.

mod book;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::projection::PodLite;
use api::status::{Status, Target};
use api::value::to_value;
use client::{Gvk, Key, Object};
use futures_util::StreamExt as _;
use http::Request;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use resources::metrics::{ContainerMetrics, NodeMetrics, PodMetrics};
use serde::Serialize;
use stdx::BoxFuture;
use wire::Body;

use self::book::{Book, Pair};
use self::sample::{Sample, Used};
use crate::answer::Answer;
use crate::cache::Selection;
use crate::catalog::Served;
use crate::dial::{DialError, NodeEndpoint};
use crate::options::ReadOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::server::ApiServer;
use crate::stored;
use crate::subresources::proxy::node_endpoint;
use crate::verbs::list::Page;
use crate::verbs::not_found;

/// An agent that takes longer is left out of the answer.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// And whoever waits for others to ask it, or for a second answer, does so no longer than this.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// So many agents are asked at the same time.
const ASKED_MAX: usize = 32;
/// An agent's answer: some hundred bytes a container.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What agents told lately, by node.
#[derive(Default)]
pub(crate) struct Usage(Mutex<BTreeMap<String, Arc<Book>>>);

impl Usage {
    fn book(&self, node: &str) -> Arc<Book> {
        let mut books = self.0.lock().expect("no holder of this lock panics");
        books.entry(node.to_owned()).or_default().clone()
    }

    /// Forgets nodes that are gone.
    fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().expect("no holder of this lock panics").retain(|node, _| exists(node));
    }
}

/// Answers `get` and `list`.
pub(crate) async fn answer(call: &Call<'_>, served: &Served) -> Outcome<Answer> {
    if call.info.verb == "list" {
        return page(call, served, &ReadOptions::of_list(&call.query)?).await.map(Answer::List);
    }
    call.server.cache.fresh().await?;
    let key = call.key(served);
    let of = measured(served, call.server)?;
    let found = of.snapshot().objects.get(&key).cloned();
    let target = |resource| Target { group: "", resource, name: key.name() };
    // The metrics server's words, which tell what is not there from what was not measured.
    let word = if served.is_namespaced() { "pods" } else { "node" };
    let object = found.ok_or_else(|| Status::not_found(target(word)))?;
    let mut made = metrics(call, served, &[object]).await?;
    let object = made.pop().ok_or_else(|| not_found(served, key.as_str()))?;
    Ok(Answer::Object { code: 200, served: *served, object })
}

/// Everything that is selected and measured. There are no chunks: it is as of now, and not as of a revision.
pub(crate) async fn page(call: &Call<'_>, served: &Served, options: &ReadOptions) -> Outcome<Page> {
    call.server.cache.fresh().await?;
    let namespace = if served.is_namespaced() { call.info.namespace.as_str() } else { "" };
    let selection = Selection::new(served, namespace, options, call.server)?;
    let snapshot = measured(served, call.server)?.snapshot();
    let selected: Vec<Arc<Object>> =
        snapshot.objects.values().filter(|object| selection.matches(object)).cloned().collect();
    let items = metrics(call, served, &selected).await?;
    Ok(Page { served: *served, revision: 0, items, continue_token: String::new(), remaining: None })
}

/// The objects that are measured.
fn measured<'s>(served: &Served, server: &'s ApiServer) -> Outcome<&'s Arc<crate::cache::ResourceCache>> {
    let prefix = if served.is_namespaced() { "pods" } else { "minions" };
    server.cache.resource(prefix).ok_or_else(Refusal::no_such_path)
}

/// The metrics of pods or nodes, of those that have any.
async fn metrics(call: &Call<'_>, served: &Served, objects: &[Arc<Object>]) -> Outcome<Vec<Arc<Object>>> {
    let by_node: Vec<(&str, &Arc<Object>)> = match served.is_namespaced() {
        true => objects.iter().filter_map(|pod| Some((runs_on(pod)?, pod))).collect(),
        false => objects.iter().map(|node| (node.name(), node)).collect(),
    };
    let nodes: BTreeSet<&str> = by_node.iter().map(|(node, _)| *node).collect();
    let told = ask_all(call, nodes).await;
    let mut made = Vec::new();
    for (node, object) in by_node {
        let Some(pair) = told.get(node) else { continue };
        let tree = match served.is_namespaced() {
            true => of_pod(served, object, pair),
            false => of_node(served, object, pair),
        };
        if let Some(tree) = tree {
            made.push(Arc::new(object_of(served, object.key(), &tree?)?));
        }
    }
    Ok(made)
}

/// The node on which a pod runs.
fn runs_on(pod: &Object) -> Option<&str> {
    let lite: &PodLite = pod.project();
    let node = &*lite.spec.node_name;
    (&*lite.status.phase == "Running" && !node.is_empty()).then_some(node)
}

/// What the agents of these nodes tell; those that tell nothing are left out.
async fn ask_all(call: &Call<'_>, nodes: BTreeSet<&str>) -> BTreeMap<String, Pair> {
    if let Some(known) = call.server.cache.resource("minions").map(|nodes| nodes.snapshot()) {
        call.server.usage.keep(|node| known.objects.contains_key(&Key::new("", node)));
    }
    let mut questions = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node_endpoint(call, node) {
            Ok(endpoint) => questions.push(lately(call.server.clone(), endpoint)),
            Err(refusal) => tracing::warn!(node, error = refusal.0.message, "usage not asked for"),
        }
    }
    futures_util::stream::iter(questions).buffer_unordered(ASKED_MAX).filter_map(std::future::ready).collect().await
}

/// A node with two samples of it: those at hand, or new ones.
fn lately(server: Arc<ApiServer>, node: NodeEndpoint) -> BoxFuture<'static, Option<(String, Pair)>> {
    Box::pin(async move {
        let late = |_| DialError { reason: "no answer in time".to_owned() };
        match stdx::timeout(ANSWER_LIMIT, pair(&server, &node)).await.map_err(late).flatten() {
            Ok(pair) => Some((node.name, pair)),
            Err(error) => {
                tracing::warn!(node = node.name, %error, "usage not told");
                None
            }
        }
    })
}

async fn pair(server: &ApiServer, node: &NodeEndpoint) -> Result<Pair, DialError> {
    let book = server.usage.book(&node.name);
    // Who waits for a turn finds what the one before them was told.
    let _turn = book.turn().await;
    loop {
        if let Some(pair) = book.pair(stdx::mono()) {
            return Ok(pair);
        }
        if let Some(early) = book.early(stdx::mono()) {
            stdx::sleep(early).await;
        }
        let asked = stdx::timeout(ASK_LIMIT, ask(server, node)).await;
        let sample = asked.map_err(|_| DialError { reason: "no answer in time".to_owned() })??;
        book.keep(stdx::mono(), sample);
    }
}

async fn ask(server: &ApiServer, node: &NodeEndpoint) -> Result<Sample, DialError> {
    let failed = |reason: String| DialError { reason };
    let request = Request::get("/metrics/resource").body(Body::Empty).map_err(|error| failed(error.to_string()))?;
    let mut response = server.dialer.node(node, request).await?;
    let body = response.body_mut().read(ANSWER_BYTES_MAX).await.map_err(|error| failed(error.to_string()))?;
    if !response.status().is_success() {
        return Err(failed(format!("the agent answered {}", response.status())));
    }
    let now = i64::try_from(stdx::wall().as_nanosecond()).unwrap_or(i64::MAX);
    Ok(Sample::parse(&String::from_utf8_lossy(&body), now))
}

type Tree = Outcome<api::value::Value>;

fn of_node(served: &Served, node: &Object, pair: &Pair) -> Option<Tree> {
    let used = Used::between(pair.before.node.as_ref(), pair.last.node.as_ref()?)?;
    let metrics = NodeMetrics {
        api_version: served.api_version(),
        kind: served.kind.to_owned(),
        metadata: metadata(node),
        timestamp: time(used.at),
        window: window(&used),
        usage: usage(&used),
    };
    Some(tree(&metrics))
}

/// A pod is shown when all its containers were measured, by the earliest of its containers' times.
fn of_pod(served: &Served, pod: &Object, pair: &Pair) -> Option<Tree> {
    let key = (pod.namespace().to_owned(), pod.name().to_owned());
    let last = pair.last.pods.get(&key)?;
    let before = pair.before.pods.get(&key);
    let used: Option<Vec<(&String, Used)>> = last
        .iter()
        .map(|(name, point)| Some((name, Used::between(before.and_then(|before| before.get(name)), point)?)))
        .collect();
    let used = used?;
    let earliest = used.iter().map(|(_, used)| used).min_by_key(|used| used.at)?;
    let metrics = PodMetrics {
        api_version: served.api_version(),
        kind: served.kind.to_owned(),
        metadata: metadata(pod),
        timestamp: time(earliest.at),
        window: window(earliest),
        containers: used
            .iter()
            .map(|(name, used)| ContainerMetrics { name: (*name).clone(), usage: usage(used) })
            .collect(),
    };
    Some(tree(&metrics))
}

fn metadata(of: &Object) -> ObjectMeta {
    let labels: BTreeMap<String, String> =
        of.meta().labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    ObjectMeta {
        name: Some(of.name().to_owned()),
        namespace: (!of.namespace().is_empty()).then(|| of.namespace().to_owned()),
        labels: (!labels.is_empty()).then_some(labels),
        creation_timestamp: Some(Time(stdx::wall())),
        ..ObjectMeta::default()
    }
}

fn time(nanoseconds: i64) -> Time {
    Time(jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default())
}

fn window(used: &Used) -> String {
    api::codec::duration_text(used.window)
}

fn usage(used: &Used) -> resources::metrics::Usage {
    use api::quantity::{Format, Quantity as Amount};
    let memory = Amount::new(i64::try_from(used.memory_bytes).unwrap_or(i64::MAX), Format::BinarySi);
    let cpu = Amount::parse(&format!("{}n", used.nanocores)).unwrap_or_default();
    BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_string())), ("memory".to_owned(), Quantity(memory.to_string()))])
}

fn tree(typed: &impl Serialize) -> Tree {
    to_value(typed).map_err(Refusal::internal)
}

/// What is answered, as if it had been kept.
fn object_of(served: &Served, key: &Key, tree: &api::value::Value) -> Outcome<Object> {
    let kind = Arc::new(Gvk::new(served.group, served.version, served.kind));
    Ok(Object::new(kind, key.clone(), "", 0, stored::body(served, tree)?))
}
