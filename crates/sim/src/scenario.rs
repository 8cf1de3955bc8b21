//! What the user does, and what befalls the cluster meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::User;
use client::{Action, Body, Client, PatchKind, Target, WriteOptions};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use stdx::sim::{NodeContext, Random, Simulation};

use crate::cluster::{Control, Loops, Surroundings};
use crate::court::{Bounds, Court};
use crate::link::{Address, Weather};
use crate::observer;
use crate::rest;
use crate::worker::{GOOD, MISSING, SICK, Worker};

pub const NAMESPACE: &str = "default";
/// Of the Deployment and its Service.
pub const NAME: &str = "web";
/// The map in which the user counts, to see whether anything is lost.
const LEDGER: &str = "ledger";
const WORKERS: usize = 3;
/// With the surge, as many pods as there are processors.
const REPLICAS_MAX: u64 = 7;
/// A roll-out that cannot succeed is left alone for so long.
const STUCK: Duration = Duration::from_secs(90);

/// One seed's story.
pub struct Scenario {
    random: Random,
    around: Surroundings,
    control: Control,
    loops: Loops,
    workers: Vec<Worker>,
    user: NodeContext,
    client: Client,
    /// Pods above the desired number, and pods that may be missing from it.
    slack: (usize, usize),
    replicas: usize,
    image: &'static str,
    told: Vec<String>,
}

impl Scenario {
    /// Machines that are off, and an observer.
    pub fn new(simulation: &Simulation, seed: u64, court: Court, folder: PathBuf) -> Scenario {
        let around = Surroundings { address: Address::default(), weather: Weather::default(), court };
        let mut random = Random::new(seed);
        observer::start(simulation, &around);
        Scenario {
            control: Control::new(simulation, seed, &around),
            loops: Loops::new(simulation, &around),
            workers: (1..=WORKERS).map(|number| Worker::new(simulation, number, &around, &folder)).collect(),
            user: simulation.node("user"),
            client: around.client(User::master("user"), "user"),
            slack: [(1, 0), (0, 1), (2, 1), (2, 2)][random.below(4) as usize],
            replicas: 1 + random.below(REPLICAS_MAX) as usize,
            image: GOOD[0],
            told: Vec::new(),
            random,
            around,
        }
    }

    /// Plays the story and tells it in a line.
    pub async fn play(mut self) -> String {
        self.control.start().await;
        self.around.weather.set(true);
        self.loops.start();
        self.workers.iter().for_each(Worker::start);
        self.count_in_the_ledger();
        self.begin().await;
        for _ in 0..3 + self.random.below(3) {
            if self.around.court.is_decided() {
                break;
            }
            self.episode().await;
        }
        if !self.around.court.is_decided() {
            self.end().await;
        }
        self.told.join("; ")
    }

    /// What is wanted now allows this.
    fn bounds(&self) -> Bounds {
        Bounds { ceiling: self.replicas + self.slack.0, floor: self.replicas.saturating_sub(self.slack.1) }
    }

    async fn begin(&mut self) {
        self.around.court.rest(self.bounds());
        self.told.push(format!("{} replicas, surge {}, unavailable {}", self.replicas, self.slack.0, self.slack.1));
        let deployment = deployment(self.replicas, self.slack, self.image);
        insist(&self.client, Target::of::<Deployment>().namespace(NAMESPACE), create(&deployment)).await;
        let service = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        insist(&self.client, Target::of::<Service>().namespace(NAMESPACE), create(&service)).await;
        self.come_to_rest().await;
    }

    /// One or two changes, perhaps a misfortune, and then rest.
    async fn episode(&mut self) {
        self.change().await;
        let mishap = self.random.one_in(2);
        let again = self.random.one_in(2);
        self.pass(20).await;
        if mishap {
            self.mishap().await;
        }
        if again {
            self.pass(20).await;
            self.change().await;
        }
        self.come_to_rest().await;
    }

    async fn pass(&mut self, seconds_max: u64) {
        let millis = self.random.below(seconds_max * 1000);
        stdx::sleep(Duration::from_millis(millis)).await;
    }

    async fn change(&mut self) {
        self.image = match self.random.below(8) {
            0 => SICK,
            1 => MISSING,
            number => GOOD[number as usize % GOOD.len()],
        };
        if self.random.one_in(2) {
            self.replicas = 1 + self.random.below(REPLICAS_MAX) as usize;
        }
        self.told.push(format!("{} × {}", self.replicas, self.image));
        self.ask().await;
    }

    /// Asks for what is wanted now.
    async fn ask(&self) {
        self.around.court.widen(self.bounds());
        let wanted = serde_json::json!({"spec": {"replicas": self.replicas, "template": {"spec": {"containers": [
            {"name": "app", "image": self.image}]}}}});
        let target = Target::of::<Deployment>().namespace(NAMESPACE).name(NAME);
        insist(&self.client, target, patch(PatchKind::Strategic, &wanted)).await;
    }

    async fn mishap(&mut self) {
        // Longer than anything is under way, so that the dead do not act after their successors have looked.
        let down = Duration::from_millis(500 + self.random.below(20_000));
        let worker = self.random.below(WORKERS as u64) as usize;
        match self.random.below(4) {
            0 => {
                self.told.push("controllers killed".into());
                self.loops.restart(down).await;
            }
            1 => {
                self.told.push("control plane lost power".into());
                self.around.court.disturb();
                self.control.lose_power(down).await;
            }
            2 => {
                self.told.push(format!("agent of {} killed", self.workers[worker].name));
                self.workers[worker].restart_agent(down).await;
            }
            _ => {
                self.told.push(format!("{} lost power", self.workers[worker].name));
                self.around.court.disturb();
                self.workers[worker].lose_power(down).await;
            }
        }
    }

    async fn come_to_rest(&mut self) {
        let witness = self.around.witness();
        let court = self.around.court.clone();
        let good = GOOD.contains(&self.image);
        if !good {
            stdx::sleep(STUCK).await;
        }
        if let Err((invariant, why)) = rest::wait(&witness, &court, &self.workers, good).await {
            return court.accuse(invariant, why);
        }
        // A roll-out that is stuck holds what it had, so nothing is narrowed before one succeeds.
        if good {
            court.rest(self.bounds());
        }
    }

    /// With nothing going wrong any more, everything comes right.
    async fn end(&mut self) {
        self.around.weather.set(false);
        self.image = GOOD[0];
        self.ask().await;
        self.come_to_rest().await;
        let witness = self.around.witness();
        let ledger = witness.get(Target::of::<ConfigMap>().namespace(NAMESPACE).name(LEDGER)).await;
        let revision = ledger.map(|ledger| ledger.revision()).unwrap_or_default();
        self.user.note(&format!("ends at {revision}"));
    }

    /// Counts upwards in a ConfigMap: what was acknowledged is there at every later look.
    fn count_in_the_ledger(&self) {
        let (client, court, witness) = (self.client.clone(), self.around.court.clone(), self.around.witness());
        drop(self.user.run(async move {
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
}

/// Tries again until the server has done it.
async fn insist(client: &Client, target: Target, action: Action) {
    loop {
        match client.send(target.clone(), action.clone()).await {
            Ok(_) => return,
            Err(error) if error.is_already_exists() => return,
            Err(error) => tracing::debug!(%error, "the user tries again"),
        }
        stdx::sleep(Duration::from_millis(300)).await;
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

fn deployment(replicas: usize, slack: (usize, usize), image: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": NAME}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": slack.0, "maxUnavailable": slack.1}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "app", "image": image,
                        "resources": {"requests": {"cpu": "1"}},
                        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
                    }],
                },
            },
        },
    })
}
