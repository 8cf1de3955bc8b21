//! How fast pods are placed: upstream's workloads of `test/integration/scheduler_perf` through queue and board, in memory.
//!
//! Upstream's floors are what its own runs must not fall below, API server and etcd included; here only the scheduler
//! works, on pods in their stored form, so that the ratio says what it leaves for the rest.

mod templates;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use client::{Gvk, Object};
use scheduler::plugins::PLUGINS;
use scheduler::preempt::Preemption;
use scheduler::queue::Queue;
use scheduler::{Board, Decision, Subject};

use super::report::{Measure, Report, Unit};
use templates::{Template, node, pod};

/// One of upstream's workloads, in the size that it has a floor for.
struct Workload {
    name: &'static str,
    nodes: usize,
    /// Pods that are there before: how many, which, in which namespace.
    present: &'static [(usize, Template, &'static str)],
    measured: (usize, Template, &'static str),
    /// A pod of this kind comes between so many of the measured ones, as often as at the floor's pace.
    between: Option<(usize, Template)>,
    /// Pods a second; `None` where upstream publishes none.
    floor: Option<u32>,
}

const AFFINITY: &str = "sched-0";
const MEASURED: &str = "sched-1";

/// `misc`, `affinity` and `topology_spreading` of upstream's performance configurations.
const WORKLOADS: &[Workload] = &[
    Workload { floor: Some(680), ..basic("SchedulingBasic", 1000, (10_000, Template::Default, MEASURED)) },
    Workload { floor: Some(60), ..alike("SchedulingPodAntiAffinity", 1000, 2000, Template::Apart) },
    Workload { floor: Some(35), ..alike("SchedulingPodAffinity", 5000, 5000, Template::Near) },
    Workload { floor: Some(90), ..alike("SchedulingPreferredPodAffinity", 5000, 5000, Template::RatherNear) },
    Workload { floor: Some(90), ..alike("SchedulingPreferredPodAntiAffinity", 5000, 5000, Template::RatherApart) },
    Workload { floor: Some(220), ..alike("SchedulingNodeAffinity", 5000, 10_000, Template::Zone) },
    Workload {
        present: &[
            (2000, Template::Default, AFFINITY),
            (2000, Template::Near, AFFINITY),
            (2000, Template::Apart, AFFINITY),
            (2000, Template::RatherNear, AFFINITY),
            (2000, Template::RatherApart, AFFINITY),
        ],
        floor: Some(140),
        ..basic("MixedSchedulingBasePod", 0, (5000, Template::Default, MEASURED))
    },
    Workload { floor: Some(460), ..basic("TopologySpreading", 5000, (5000, Template::Spread, MEASURED)) },
    Workload {
        floor: Some(340),
        ..basic("PreferredTopologySpreading", 5000, (5000, Template::RatherSpread, MEASURED))
    },
    Workload { floor: Some(160), ..basic("DefaultTopologySpreading", 5000, (50_000, Template::Served, MEASURED)) },
    Workload {
        between: Some((120, Template::Huge)),
        floor: Some(600),
        ..basic("Unschedulable", 20_000, (10_000, Template::Default, MEASURED))
    },
    Workload {
        present: &[(20_000, Template::Low, AFFINITY)],
        between: Some((114, Template::High)),
        floor: Some(570),
        ..basic("PreemptionAsync", 0, (5000, Template::Default, MEASURED))
    },
    Workload {
        present: &[(20_000, Template::Low, AFFINITY)],
        ..basic("PreemptionBasic", 0, (5000, Template::High, MEASURED))
    },
    Workload {
        nodes: 15_000,
        floor: Some(1100),
        ..basic("SchedulingDaemonset", 0, (30_000, Template::Named, MEASURED))
    },
];

const fn basic(name: &'static str, before: usize, measured: (usize, Template, &'static str)) -> Workload {
    let present: &[(usize, Template, &str)] = match before {
        1000 => &[(1000, Template::Default, AFFINITY)],
        5000 => &[(5000, Template::Default, AFFINITY)],
        20_000 => &[(20_000, Template::Default, AFFINITY)],
        _ => &[],
    };
    Workload { name, nodes: 5000, present, measured, between: None, floor: None }
}

/// Pods of one kind after others of the same.
const fn alike(name: &'static str, before: usize, count: usize, template: Template) -> Workload {
    let present: &[(usize, Template, &str)] = match (before, template) {
        (1000, Template::Apart) => &[(1000, Template::Apart, AFFINITY)],
        (_, Template::Near) => &[(5000, Template::Near, AFFINITY)],
        (_, Template::RatherNear) => &[(5000, Template::RatherNear, AFFINITY)],
        (_, Template::RatherApart) => &[(5000, Template::RatherApart, AFFINITY)],
        _ => &[(5000, Template::Zone, AFFINITY)],
    };
    Workload { present, ..basic(name, 0, (count, template, MEASURED)) }
}

/// Measures every workload and prints pods a second beside upstream's floors.
pub fn run() -> Result<Report> {
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let mut logarithms = Vec::new();
    for workload in WORKLOADS {
        let rate = rate(workload)?;
        let measure = |value| Measure { what: workload.name.into(), value, unit: Unit::PerSecond, budget: "≥ 3 ×" };
        ours.push(measure(rate));
        if let Some(floor) = workload.floor {
            floors.push(measure(floor.into()));
            logarithms.push((rate / f64::from(floor)).ln());
        }
    }
    let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
    println!("geometric mean of the ratios: {mean:.1} × (budget: ≥ 10 ×)");
    Ok(Report { ours, peer: Some(Ok(("upstream's floor".into(), floors))) })
}

/// What a run goes by.
struct Run {
    board: Board,
    queue: Queue,
    start: stdx::Mono,
    /// Numbers for ties.
    tie: u64,
}

impl Run {
    /// Takes the next pod and places it, pushing others out if it must; whether there was one and it has a node.
    fn step(&mut self) -> Option<bool> {
        let pod = self.queue.take(self.start)?;
        let subject = templates::with_siblings(Subject::new(pod.clone()));
        self.tie = self.tie.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut decision = self.board.decide(&subject, self.tie >> 33);
        if let Decision::Nowhere(misfit) = &decision
            && let Preemption::Victims(candidate) = self.board.preempt(&subject, misfit, &[], self.tie >> 33)
        {
            // The victims go at once: how long pods take to end is not measured.
            candidate.victims.iter().for_each(|victim| self.board.nodes.remove_pod(victim.object.uid()));
            self.board.nodes.nominate(&subject.counted, &candidate.node);
            decision = self.board.decide(&subject, self.tie >> 33);
        }
        match decision {
            Decision::Node(node) => {
                self.board.nodes.assume(&subject.counted, &node);
                self.queue.remove(pod.uid());
                Some(true)
            }
            Decision::Nowhere(misfit) => {
                self.queue.failed(pod.uid(), misfit.plugins(), self.start);
                Some(false)
            }
        }
    }

    /// Adds pods and places them all.
    fn place(&mut self, pods: impl IntoIterator<Item = Arc<Object>>) -> (usize, usize) {
        pods.into_iter().for_each(|pod| self.queue.set(pod, self.start));
        let (mut placed, mut refused) = (0, 0);
        while let Some(has_node) = self.step() {
            if has_node { placed += 1 } else { refused += 1 }
        }
        (placed, refused)
    }
}

fn rate(workload: &Workload) -> Result<f64> {
    let mut run = Run { board: Board::new(PLUGINS), queue: Queue::default(), start: stdx::mono(), tie: 1 };
    let gvk = |kind| Arc::new(Gvk::new("", "v1", kind));
    let (nodes, pods) = (gvk("Node"), gvk("Pod"));
    for number in 0..workload.nodes {
        run.board.nodes.set_node(node(&nodes, number)?);
    }
    let mut number = 0;
    let mut make = |count: usize, template: Template, namespace: &str| -> Result<Vec<Arc<Object>>> {
        let first = number;
        number += count;
        (first..number).map(|number| pod(&pods, number, template, namespace)).collect()
    };
    for (count, template, namespace) in workload.present {
        let (placed, _) = run.place(make(*count, *template, namespace)?);
        ensure!(placed == *count, "{}: {placed} of {count} pods placed before", workload.name);
    }
    let (count, template, namespace) = workload.measured;
    let mut waiting = make(count, template, namespace)?;
    if let Some((every, template)) = workload.between {
        let between = make(count / every, template, namespace)?;
        for (index, pod) in between.into_iter().enumerate() {
            waiting.insert((index + 1) * every, pod);
        }
    }
    let start = stdx::mono();
    let (placed, _) = run.place(waiting);
    let took: Duration = stdx::mono() - start;
    ensure!(placed >= count, "{}: {placed} of {count} pods placed", workload.name);
    Ok(count as f64 / took.as_secs_f64())
}
