//! What the user does, and what befalls the cluster meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use client::{Action, Body, Client, DeleteOptions, ListOptions, PatchKind, Propagation, Target, WriteOptions};
use futures_util::future::join;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use stdx::sim::{NodeContext, Random, Simulation};

use crate::cluster::{Story, Surroundings};
use crate::court::{Bounds, Court};
use crate::mishap::Machines;
use crate::observer;
use crate::rest;
use crate::worker::{GOOD, MISSING, SICK};

pub const NAMESPACE: &str = "default";
/// Of the Deployment and its Service.
pub const NAME: &str = "web";
/// The map in which the user counts, to see whether anything is lost.
const LEDGER: &str = "ledger";
/// With the surge, as many pods as there are processors.
const REPLICAS_MAX: u64 = 7;
/// A roll-out that cannot succeed is left alone for so long.
const STUCK: Duration = Duration::from_secs(90);
/// Before the user tries again, what was asked for last has arrived or never will.
const AGAIN: Duration = Duration::from_millis(600);

/// One seed's story.
pub struct Scenario {
    random: Random,
    around: Surroundings,
    machines: Machines,
    user: User,
}

/// What the user wants, and the way to ask for it.
struct User {
    random: Random,
    around: Surroundings,
    node: NodeContext,
    client: Client,
    /// Pods above the desired number, and pods that may be missing from it.
    slack: (usize, usize),
    min_ready_seconds: u64,
    replicas: usize,
    image: &'static str,
}

impl Scenario {
    /// Machines that are off, and an observer.
    pub fn new(simulation: &Simulation, seed: u64, court: Court, folder: PathBuf) -> Scenario {
        let around = Surroundings { court, ..Surroundings::default() };
        let mut random = Random::new(seed);
        observer::start(simulation, &around);
        let machines = Machines::new(simulation, seed, &around, random.fork(), &folder);
        let user = User::new(simulation, &around, random.fork());
        Scenario { random, around, machines, user }
    }

    /// What has happened so far.
    pub fn story(&self) -> Story {
        self.around.story.clone()
    }

    /// Plays the story and tells it in a line.
    pub async fn play(mut self) -> String {
        self.machines.start().await;
        self.around.weather.set(true);
        self.user.count_in_the_ledger();
        self.user.begin().await;
        self.come_to_rest().await;
        for _ in 0..3 + self.random.below(3) {
            if self.around.court.is_decided() {
                break;
            }
            self.episode().await;
        }
        if !self.around.court.is_decided() {
            self.end().await;
        }
        self.around.story.told()
    }

    /// One to four changes, up to two misfortunes meanwhile, and then rest.
    async fn episode(&mut self) {
        let mishaps = [0, 0, 1, 1, 1, 2][self.random.below(6) as usize];
        let changes = 1 + self.random.below(4);
        join(self.machines.suffer(mishaps), self.user.change_often(changes)).await;
        self.come_to_rest().await;
    }

    async fn come_to_rest(&mut self) {
        let witness = self.around.witness();
        let court = self.around.court.clone();
        let good = GOOD.contains(&self.user.image);
        if !good {
            stdx::sleep(STUCK).await;
        }
        if let Err((invariant, why)) = rest::wait(&witness, &court, &self.machines.workers, good).await {
            return court.accuse(invariant, why);
        }
        // A roll-out that is stuck holds what it had, so nothing is narrowed before one succeeds.
        if good {
            court.rest(self.user.bounds());
        }
    }

    /// With nothing going wrong any more, everything comes right.
    async fn end(&mut self) {
        self.around.weather.set(false);
        self.user.image = GOOD[0];
        self.user.ask().await;
        self.come_to_rest().await;
        let witness = self.around.witness();
        let ledger = witness.get(Target::of::<ConfigMap>().namespace(NAMESPACE).name(LEDGER)).await;
        let revision = ledger.map(|ledger| ledger.revision()).unwrap_or_default();
        self.user.node.note(&format!("ends at {revision}"));
    }
}

impl User {
    fn new(simulation: &Simulation, around: &Surroundings, mut random: Random) -> User {
        User {
            around: around.clone(),
            node: simulation.node("user"),
            client: around.client(apiserver::User::master("user"), "user"),
            slack: [(1, 0), (2, 0), (0, 1), (2, 1), (2, 2)][random.below(5) as usize],
            min_ready_seconds: [0, 0, 3][random.below(3) as usize],
            replicas: 1 + random.below(REPLICAS_MAX) as usize,
            image: GOOD[0],
            random,
        }
    }

    /// What is wanted now allows this.
    fn bounds(&self) -> Bounds {
        Bounds { ceiling: self.replicas + self.slack.0, floor: self.replicas.saturating_sub(self.slack.1) }
    }

    async fn begin(&mut self) {
        self.around.court.begin(self.bounds());
        let (surge, unavailable) = self.slack;
        self.around.story.tell(format!("{} replicas, surge {surge}, unavailable {unavailable}", self.replicas));
        self.create().await;
        let service = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        insist(&self.client, Target::of::<Service>().namespace(NAMESPACE), create(&service)).await;
    }

    async fn create(&self) {
        let target = Target::of::<Deployment>().namespace(NAMESPACE);
        insist(&self.client, target, create(&self.deployment())).await;
    }

    async fn change_often(&mut self, times: u64) {
        self.change().await;
        for _ in 1..times {
            let millis = self.random.below(15_000);
            stdx::sleep(Duration::from_millis(millis)).await;
            self.change().await;
        }
    }

    async fn change(&mut self) {
        match self.random.below(12) {
            0 => return self.start_over().await,
            1 => return self.delete_a_pod().await,
            _ => {}
        }
        self.image = match self.random.below(8) {
            0 => SICK,
            1 => MISSING,
            number => GOOD[number as usize % GOOD.len()],
        };
        match self.random.below(8) {
            0 => self.replicas = self.random.below(REPLICAS_MAX + 1) as usize,
            1 | 2 => self.replicas = self.nearby(),
            _ => {}
        }
        self.around.story.tell(format!("{} × {}", self.replicas, self.image));
        self.ask().await;
    }

    /// One or two more or fewer, as an autoscaler would have it.
    fn nearby(&mut self) -> usize {
        let step = 1 + self.random.below(2) as usize;
        let replicas = if self.random.one_in(2) { self.replicas + step } else { self.replicas.saturating_sub(step) };
        replicas.clamp(1, REPLICAS_MAX as usize)
    }

    /// Asks for what is wanted now.
    async fn ask(&self) {
        self.around.court.widen(self.bounds());
        let wanted = serde_json::json!({"spec": {"replicas": self.replicas, "template": {"spec": {"containers": [
            {"name": "app", "image": self.image}]}}}});
        let target = Target::of::<Deployment>().namespace(NAMESPACE).name(NAME);
        insist(&self.client, target, patch(PatchKind::Strategic, &wanted)).await;
    }

    /// Deletes the Deployment and leaves its pods, which another of the same name then takes over.
    async fn start_over(&self) {
        self.around.story.tell("deployment made anew over its orphans".into());
        let target = Target::of::<Deployment>().namespace(NAMESPACE).name(NAME);
        let options = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
        loop {
            match self.client.delete(target.clone(), options.clone()).await {
                Err(error) if error.is_not_found() => break,
                Err(error) => tracing::debug!(%error, "the user tries again"),
                // It goes when its dependents are without it.
                Ok(_) => {}
            }
            stdx::sleep(AGAIN).await;
        }
        self.create().await;
    }

    async fn delete_a_pod(&mut self) {
        let target = Target::of::<Pod>().namespace(NAMESPACE);
        let Ok(pods) = self.client.list(target.clone(), ListOptions::default()).await else { return };
        if pods.items.is_empty() {
            return;
        }
        let pod = &pods.items[self.random.below(pods.items.len() as u64) as usize];
        self.around.story.tell(format!("{} deleted", pod.name()));
        self.around.court.spare(1);
        drop(self.client.delete(target.name(pod.name()), DeleteOptions::of_uid(pod.uid())).await);
    }

    /// Counts upwards in a ConfigMap: what was acknowledged is there at every later look.
    fn count_in_the_ledger(&self) {
        let (client, court, witness) = (self.client.clone(), self.around.court.clone(), self.around.witness());
        drop(self.node.run(async move {
            let target = Target::of::<ConfigMap>().namespace(NAMESPACE);
            let first = serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LEDGER}, "data": {"count": "0"}});
            insist(&client, target.clone(), create(&first)).await;
            let mut acknowledged = 0u64;
            for count in 1u64.. {
                stdx::sleep(Duration::from_secs(7)).await;
                let wanted = serde_json::json!({"data": {"count": count.to_string()}});
                let named = target.clone().name(LEDGER);
                if client.send(named.clone(), patch(PatchKind::Merge, &wanted)).await.is_ok() {
                    acknowledged = count;
                }
                // While the server is down there is nothing to look at.
                let Ok(object) = witness.get(named).await else { continue };
                let found: Option<u64> =
                    object.typed::<ConfigMap>().ok().and_then(|map| map.data?.get("count")?.parse().ok());
                if found.is_none_or(|found| found < acknowledged) {
                    court.accuse("durability", format!("{acknowledged} was acknowledged, {found:?} is there"));
                }
            }
        }));
    }

    fn deployment(&self) -> serde_json::Value {
        let (surge, unavailable) = self.slack;
        serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
            "spec": {
                "replicas": self.replicas,
                "minReadySeconds": self.min_ready_seconds,
                "selector": {"matchLabels": {"app": NAME}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {
                    "metadata": {"labels": {"app": NAME}},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{
                            "name": "app", "image": self.image,
                            "resources": {"requests": {"cpu": "1"}},
                            "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
                        }],
                    },
                },
            },
        })
    }
}

/// Tries again until the server has done it.
async fn insist(client: &Client, target: Target, action: Action) {
    loop {
        match client.send(target.clone(), action.clone()).await {
            Ok(_) => return,
            Err(error) if error.is_already_exists() => return,
            Err(error) => tracing::debug!(%error, "the user tries again"),
        }
        stdx::sleep(AGAIN).await;
    }
}

fn bytes(json: &serde_json::Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn create(json: &serde_json::Value) -> Action {
    Action::Create(Body::json(bytes(json)), WriteOptions::default())
}

fn patch(kind: PatchKind, json: &serde_json::Value) -> Action {
    Action::Patch(kind, bytes(json).into(), WriteOptions::default())
}
