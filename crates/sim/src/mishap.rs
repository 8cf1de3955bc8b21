//! What befalls the machines of a cluster.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;
use stdx::sim::{Random, Simulation};

use crate::cluster::{Control, Loops, Surroundings};
use crate::worker::{PROCESSORS, Worker};

const WORKERS: usize = 3;
/// A process or machine is down for at least so long: longer than anything is under way, so that the dead do not act
/// after their successors have looked.
const DOWN_MIN: Duration = Duration::from_millis(500);
const DOWN_MAX_MILLIS: u64 = 20_000;
/// Within this time a machine that has power again has told what became of its pods, lost requests included.
const SPEAKS_AGAIN: Duration = Duration::from_secs(15);
/// Power fails, and processes die, within so many writes from when it is decided.
const WRITES_MAX: u64 = 40;
/// Recovery is itself cut within so many operations of the disk.
const RECOVERY_OPERATIONS_MAX: u64 = 30;
/// Clocks jump by up to so much, and then run too fast or too slow by up to so many parts per million. A controller whose
/// clock is late by more takes each new pod for too young all the longer, and a roll-out takes them one by one.
const JUMP_SECONDS_MAX: u64 = 60;
const DRIFT_PPM_MAX: u64 = 20_000;

/// Every machine of the cluster.
pub struct Machines {
    random: Random,
    around: Surroundings,
    control: Control,
    loops: Loops,
    pub workers: Vec<Worker>,
}

impl Machines {
    /// Machines that are off.
    pub fn new(simulation: &Simulation, seed: u64, around: &Surroundings, random: Random, folder: &Path) -> Machines {
        Machines {
            control: Control::new(simulation, seed, around),
            loops: Loops::new(simulation, around),
            workers: (1..=WORKERS).map(|number| Worker::new(simulation, number, around, folder)).collect(),
            around: around.clone(),
            random,
        }
    }

    /// Switches everything on.
    pub async fn start(&mut self) {
        self.control.start().await;
        self.loops.start();
        self.workers.iter().for_each(Worker::start);
    }

    /// So many misfortunes, one after the other.
    pub async fn suffer(&mut self, times: u64) {
        for _ in 0..times {
            let millis = self.random.below(20_000);
            stdx::sleep(Duration::from_millis(millis)).await;
            self.mishap().await;
        }
    }

    async fn mishap(&mut self) {
        let down = DOWN_MIN + Duration::from_millis(self.random.below(DOWN_MAX_MILLIS));
        let write = 1 + self.random.below(WRITES_MAX);
        match self.random.below(10) {
            0 => {
                self.tell("control plane lost power".into());
                self.control.lose_power(down).await;
            }
            1 => self.control_dies_at(write, down).await,
            2 => {
                self.tell("control plane and controllers lost power".into());
                self.loops.kill();
                self.control.lose_power(down).await;
                self.loops.revive();
            }
            3 | 4 => {
                self.tell(format!("controllers killed at write {write}"));
                self.loops.cut_at(write, down).await;
            }
            5 => {
                self.tell("controllers cut off".into());
                self.loops.cable.cut(down * 3).await;
            }
            6 => self.upset_clocks(),
            other => self.worker_suffers(other, down).await,
        }
    }

    async fn control_dies_at(&mut self, write: u64, down: Duration) {
        let recovery = self.random.one_in(2).then(|| 1 + self.random.below(RECOVERY_OPERATIONS_MAX));
        self.tell(format!("control plane lost power at write {write}, then at {recovery:?} of its recovery"));
        self.control.lose_power_at(write, recovery, down).await;
    }

    async fn worker_suffers(&mut self, how: u64, down: Duration) {
        let worker = &mut self.workers[self.random.below(WORKERS as u64) as usize];
        match how {
            7 => {
                self.around.story.tell(format!("agent of {} killed", worker.name));
                worker.restart_agent(down).await;
            }
            8 => {
                self.around.story.tell(format!("{} cut off", worker.name));
                worker.cable.cut(down).await;
            }
            _ => {
                self.around.story.tell(format!("{} lost power", worker.name));
                self.around.court.disturb();
                self.around.court.spare(PROCESSORS as usize);
                worker.lose_power(down).await;
                // Until it says so, its pods look as if nothing had happened to them, and the cluster as if it were at rest.
                stdx::sleep(SPEAKS_AGAIN).await;
            }
        }
    }

    fn upset_clocks(&mut self) {
        let seconds = self.random.below(JUMP_SECONDS_MAX).cast_signed();
        let seconds = if self.random.one_in(2) { seconds } else { -seconds };
        let drift = self.random.below(DRIFT_PPM_MAX).cast_signed();
        let drift = if self.random.one_in(2) { drift } else { -drift };
        let node = match self.random.below(WORKERS as u64 + 2) as usize {
            0 => &self.control.node,
            1 => &self.loops.node,
            number => &self.workers[number - 2].node,
        };
        node.step_wall(SignedDuration::from_secs(seconds));
        node.drift(i32::try_from(drift).unwrap_or(0));
        let name = node.name();
        self.around.story.tell(format!("clock of {name} jumps {seconds} s and drifts {drift} ppm"));
    }

    fn tell(&self, text: String) {
        self.around.story.tell(text);
    }
}
