//! `isopod why`: reads what concerns an object, lets the pure part judge it, and prints that.

mod access;
mod placement;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use api::decide::trouble;
use api::meta;
use api::value::Value;
use cli::args::{Output, Why};
use cli::why::{self as judge, Finding, Kind, World};
use client::{Client, ClientConfig, HttpTransport, ListOptions, LogOptions, Object, Target};
use resources::{Backing, Facts, Scope};
use serde_json::json;

use crate::paths::Paths;

/// Pods of a workload that are looked at closely: their logs, their configuration, where they could run.
const PODS_MAX: usize = 5;
/// Lines of a log that are shown.
const LOG_LINES: u32 = 10;
const LOG_BYTES_MAX: u32 = 4 << 10;
/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Reads, judges and prints.
pub async fn run(asked: Why) -> anyhow::Result<()> {
    let config = config(&asked)?;
    let transport = HttpTransport::new(&config, "isopod").context("connect to the cluster")?;
    let client = Client::new(Arc::new(transport), "isopod");
    let namespace = asked.namespace.clone().or(config.namespace).unwrap_or_else(|| "default".to_owned());
    let words: Vec<&str> = asked.what.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["auth", verb, resource] => {
            let place = if asked.all_namespaces { "" } else { namespace.as_str() };
            access::run(&client, verb, resource, place, &asked).await
        }
        ["auth", ..] => bail!("say what is to be done: isopod why auth VERB RESOURCE"),
        [one] => match one.split_once('/') {
            Some((kind, name)) => of_object(&client, kind, name, &namespace, asked.output).await,
            None => bail!("{one:?} is no KIND/NAME, such as pod/web"),
        },
        [kind, name] => of_object(&client, kind, name, &namespace, asked.output).await,
        _ => bail!("one object at a time: KIND/NAME"),
    }
}

/// The kubeconfig: the one that is named, that of the cluster whose folder is named, or what kubectl would take.
fn config(asked: &Why) -> anyhow::Result<ClientConfig> {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let first = named.and_then(|value| std::env::split_paths(&value).find(|path| path.exists()));
    let of_folder = |folder: &std::path::Path| Paths::new(folder).map(|paths| paths.kubeconfig());
    let path: PathBuf = match (&asked.kubeconfig, &asked.data_dir, first) {
        (Some(path), ..) => path.clone(),
        (None, Some(folder), _) => of_folder(folder)?,
        (None, None, Some(path)) => path,
        (None, None, None) => of_folder(std::path::Path::new("/var/lib/isopod"))?,
    };
    ClientConfig::from_kubeconfig(&path, asked.context.as_deref())
        .with_context(|| format!("read {} (is there a cluster?)", path.display()))
}

async fn of_object(client: &Client, kind: &str, name: &str, namespace: &str, output: Output) -> anyhow::Result<()> {
    let known = "pod, deployment, replicaset, service, node, namespace";
    let kind = Kind::parse(kind).with_context(|| format!("{kind:?} is none of the kinds known here: {known}"))?;
    let (group, plural) = kind.resource();
    let namespace = if kind.is_namespaced() { namespace } else { "" };
    let target = Target::new(group, "v1", plural).namespace(namespace).name(name);
    let object = client.get(target).await.with_context(|| format!("get {}/{name}", kind.word()))?;
    let object = tree(&object);
    let world = Reading::new(client).world(kind, &object).await;
    let findings = judge::findings(kind, &object, &world);
    let title = match namespace {
        "" => format!("{}/{name}", kind.word()),
        namespace => format!("{}/{name} in namespace {namespace}", kind.word()),
    };
    print(&title, &judge::well(kind, &object, &world), &findings, &world.unread, output);
    Ok(())
}

fn print(title: &str, well: &str, findings: &[Finding], unread: &[String], output: Output) {
    match output {
        Output::Text => print!("{}", judge::report(title, well, findings, unread)),
        Output::Json => {
            let answer = json!({"of": title, "well": findings.is_empty(), "findings": findings, "unread": unread});
            println!("{answer:#}");
        }
    }
}

/// What cannot be decoded is as good as empty: nothing is judged by it.
fn tree(object: &Object) -> Value {
    object.tree().unwrap_or_default()
}

/// Reads what concerns an object; what may not be read is noted, and left out.
struct Reading<'c> {
    client: &'c Client,
    unread: Vec<String>,
}

impl<'c> Reading<'c> {
    fn new(client: &'c Client) -> Reading<'c> {
        Reading { client, unread: Vec::new() }
    }

    async fn world(mut self, kind: Kind, object: &Value) -> World {
        let namespace = meta::namespace(object).to_owned();
        let mut world = World { now: stdx::wall(), ..World::default() };
        if kind.is_namespaced() {
            world.events = self.events(&namespace).await;
            world.replica_sets = self.trees(target("apps", "replicasets").namespace(&namespace), None).await;
            world.nodes = self.trees(target("", "nodes"), None).await;
            world.pods = match kind {
                Kind::Pod => vec![object.clone()],
                // Pods elsewhere tell whether the Service is in the wrong namespace.
                Kind::Service => self.trees(target("", "pods"), None).await,
                _ => self.trees(target("", "pods").namespace(&namespace), None).await,
            };
        }
        match kind {
            Kind::Service => {
                let selector = format!("kubernetes.io/service-name={}", meta::name(object));
                let options = ListOptions { label_selector: Some(selector), ..ListOptions::default() };
                world.slices =
                    self.list(target("discovery.k8s.io", "endpointslices").namespace(&namespace), options).await;
            }
            Kind::Node => {
                let here = format!("spec.nodeName={}", meta::name(object));
                world.pods = self.trees(target("", "pods"), Some(here)).await;
                world.budgets = self.trees(target("policy", "poddisruptionbudgets"), None).await;
            }
            Kind::Namespace => world.left = self.left(object).await,
            _ => {}
        }
        self.look_closely(&namespace, kind, object, &mut world).await;
        world.unread = self.unread;
        world
    }

    /// Logs, configuration and the scheduler's decision for the pods that have trouble.
    async fn look_closely(&mut self, namespace: &str, kind: Kind, object: &Value, world: &mut World) {
        let concerned = |pod: &&Value| match kind {
            Kind::Pod => true,
            Kind::Node | Kind::Namespace => false,
            _ => meta::namespace(pod) == namespace && trouble::trouble(pod).is_some(),
        };
        let mine = concerning(kind, object, world);
        let pods: Vec<Value> =
            world.pods.iter().filter(concerned).filter(|pod| mine(pod)).take(PODS_MAX).cloned().collect();
        for pod in &pods {
            self.logs(pod, world).await;
            self.keys(pod, world).await;
        }
        let unplaced: Vec<&Value> = pods.iter().filter(|pod| placement::is_unplaced(pod)).collect();
        if !unplaced.is_empty() {
            match placement::of(self.client, &unplaced, world).await {
                Ok(placements) => world.placements = placements,
                Err(error) => self.unread.push(format!("nodes and pods, to see where a pod could run: {error}")),
            }
        }
    }

    async fn events(&mut self, namespace: &str) -> Vec<Value> {
        let mut events = self.trees(target("", "events").namespace(namespace), None).await;
        let at = |event: &Value| {
            let paths = [&["series", "lastObservedTime"][..], &["lastTimestamp"], &["eventTime"], &["firstTimestamp"]];
            let text = paths.into_iter().filter_map(|path| event.str_at(path)).find(|text| !text.is_empty());
            text.and_then(|text| text.parse::<jiff::Timestamp>().ok()).unwrap_or_default()
        };
        events.sort_by_key(at);
        events
    }

    async fn left(&mut self, namespace: &Value) -> Vec<Value> {
        if meta::deletion_timestamp(namespace).is_none() {
            return Vec::new();
        }
        let mut left = Vec::new();
        let kinds = resources::RESOURCES.iter().map(|kind| kind.facts());
        let kept = |facts: &&Facts| facts.scope == Scope::Namespaced && matches!(facts.backing, Backing::Stored { .. });
        for facts in kinds.filter(kept) {
            let target = Target::new(facts.group, facts.version, facts.plural).namespace(meta::name(namespace));
            left.extend(self.trees(target, None).await);
        }
        left
    }

    async fn trees(&mut self, target: Target, field_selector: Option<String>) -> Vec<Value> {
        self.list(target, ListOptions { field_selector, ..ListOptions::default() }).await
    }

    async fn list(&mut self, target: Target, options: ListOptions) -> Vec<Value> {
        let plural = target.resource.clone();
        match self.client.list_pages(target, options, PAGE).await {
            Ok(list) => list.items.iter().map(|object| tree(object)).collect(),
            Err(error) => {
                self.unread.push(format!("{plural}: {}", stdx::told(&error)));
                Vec::new()
            }
        }
    }

    /// The last words of containers that ended.
    async fn logs(&mut self, pod: &Value, world: &mut World) {
        let statuses: Vec<(String, bool)> = trouble::container_statuses(pod)
            .filter(|(_, status)| {
                let ended = |state: &str| status.at(&[state, "terminated"]).is_some();
                ended("state") || ended("lastState")
            })
            .map(|(_, status)| {
                let name = status.str_at(&["name"]).unwrap_or_default().to_owned();
                // While it waits to be started again, the log is that of the run that ended.
                (name, status.at(&["state", "running"]).is_some())
            })
            .collect();
        for (container, previous) in statuses {
            let of = target("", "pods").namespace(meta::namespace(pod)).name(meta::name(pod));
            let options = LogOptions {
                container: Some(container.clone()),
                previous,
                tail_lines: Some(LOG_LINES),
                limit_bytes: Some(LOG_BYTES_MAX),
            };
            match self.client.log(of, options).await {
                Ok(text) => {
                    let lines = text.lines().map(ToOwned::to_owned).collect();
                    world.logs.insert(format!("{}/{container}", meta::name(pod)), lines);
                }
                Err(error) => {
                    self.unread.push(format!("log of {}/{container}: {}", meta::name(pod), stdx::told(&error)))
                }
            }
        }
    }

    /// The keys of ConfigMaps and Secrets that messages name.
    async fn keys(&mut self, pod: &Value, world: &mut World) {
        let messages: Vec<String> = trouble::container_statuses(pod)
            .filter_map(|(_, status)| status.str_at(&["state", "waiting", "message"]).map(ToOwned::to_owned))
            .collect();
        for (word, kind, plural) in [("ConfigMap", "configmap", "configmaps"), ("Secret", "secret", "secrets")] {
            let marker = format!(" in {word} {}/", meta::namespace(pod));
            for name in messages.iter().filter_map(|message| message.split_once(&marker)).map(|(_, name)| name.trim()) {
                let of = target("", plural).namespace(meta::namespace(pod)).name(name);
                match self.client.get(of).await {
                    Ok(object) => drop(world.keys.insert(format!("{kind}/{name}"), keys_of(&tree(&object)))),
                    Err(error) => self.unread.push(format!("{kind} {name}: {}", stdx::told(&error))),
                }
            }
        }
    }
}

/// Which pods an object is about.
fn concerning(kind: Kind, object: &Value, world: &World) -> impl Fn(&Value) -> bool + use<> {
    let uid = meta::uid(object).to_owned();
    let owns = move |owner: &str, of: &Value| {
        meta::owner_references(of).iter().any(|reference| reference.str_at(&["uid"]) == Some(owner))
    };
    let sets: Vec<String> = match kind {
        Kind::Deployment => {
            world.replica_sets.iter().filter(|set| owns(&uid, set)).map(|set| meta::uid(set).to_owned()).collect()
        }
        _ => vec![uid],
    };
    let selector: BTreeMap<String, String> = object
        .at(&["spec", "selector"])
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|selector| selector.iter())
        .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())))
        .collect();
    move |pod: &Value| match kind {
        Kind::Deployment | Kind::ReplicaSet => sets.iter().any(|set| owns(set, pod)),
        Kind::Service => selector.iter().all(|(key, value)| meta::label(pod, key) == Some(value)),
        _ => true,
    }
}

fn keys_of(object: &Value) -> Vec<String> {
    let fields = ["data", "binaryData"].into_iter().filter_map(|field| object.get(field).and_then(Value::as_object));
    fields.flat_map(|map| map.iter().map(|(key, _)| key.to_string())).collect()
}

fn target(group: &'static str, plural: &'static str) -> Target {
    Target::new(group, "v1", plural)
}
