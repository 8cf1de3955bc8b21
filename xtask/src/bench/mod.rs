//! `cargo xtask bench NAME [--peer FOLDER]`: what the budgets speak of, measured on the release binary.
//!
//! Every bench but `scheduling`, which needs no cluster, runs in network, mount and process namespaces of its own, so that
//! nothing it starts outlives it or meets a cluster that runs on the machine.

mod density;
mod load;
mod memory;
mod peer;
mod pod;
mod pod_start;
mod ready;
mod report;
mod requests;
mod rules;
mod scheduling;
mod server;
mod stage;
mod watches;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::release::Release;
use crate::{example, release};
use report::Report;
use stage::Stage;

/// What to measure, and beside whom.
#[derive(clap::Args)]
pub struct Options {
    /// One of the benches, or `all`.
    name: String,
    /// A folder with another Kubernetes' `kube-apiserver` and its `etcd`, which then bear the same load.
    #[arg(long, value_name = "FOLDER")]
    peer: Option<PathBuf>,
    /// A folder with `isopod` and `example-api` that were built before, in place of a build of this checkout.
    #[arg(long, value_name = "FOLDER")]
    release: Option<PathBuf>,
    /// How many seconds a server that does nothing is looked at; the budgets speak of 600.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
}

type Bench = fn(&Stage) -> Result<Report>;

/// The benches, in the order in which `all` runs them.
const BENCHES: &[(&str, Bench)] = &[
    ("ready", ready::run),
    ("memory", memory::run),
    ("pod-start", pod_start::run),
    ("density", density::run),
    ("creates", requests::creates),
    ("gets", requests::gets),
    ("lists", requests::lists),
    ("watches", watches::run),
    ("rules", rules::run),
];

/// Says that this process is inside its namespaces already, and where the prepared files are.
const INSIDE: &str = "ISOPOD_BENCH_FILES";

/// The bench that needs no cluster.
const SCHEDULING: &str = "scheduling";

/// Measures and prints one table a bench.
pub fn run(options: &Options) -> Result<()> {
    if options.name == SCHEDULING {
        return schedule();
    }
    let chosen: Vec<_> = BENCHES.iter().filter(|(name, _)| options.name == "all" || options.name == *name).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("no bench is named {}; there are {}, {SCHEDULING} and all", options.name, names.join(", "));
    }
    let Some(files) = std::env::var_os(INSIDE) else { return enter(options) };
    let (isopod, archive) = prepared(Path::new(&files));
    let stage = Stage::new(isopod, archive, options.peer.clone(), Duration::from_secs(options.idle))?;
    let mut failed = Vec::new();
    for (name, bench) in chosen {
        // One that fails takes nothing from the others.
        match bench(&stage) {
            Err(error) => failed.push(format!("{name}: {error:#}")),
            Ok(report) => {
                println!("{}", report.table(name));
                if let Some(Err(error)) = report.peer {
                    failed.push(format!("{name}, the peer: {error:#}"));
                }
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

/// Measures the scheduler alone, with this program as a release build.
fn schedule() -> Result<()> {
    if cfg!(debug_assertions) {
        return Err(Command::new(release::xtask()?).args(std::env::args_os().skip(1)).exec())
            .context("run the release build");
    }
    println!("{}", scheduling::run()?.table(SCHEDULING));
    Ok(())
}

fn prepared(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("isopod"), folder.join("image.tar"))
}

/// Builds what needs the network, then goes on as the child of a first process in namespaces of its own.
fn enter(options: &Options) -> Result<()> {
    let release = match &options.release {
        Some(folder) => Release { isopod: folder.join("isopod"), example: folder.join("example-api") },
        None => release::build()?,
    };
    let folder = std::env::temp_dir().join(format!("isopod-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let (isopod, archive) = prepared(&folder);
    std::fs::copy(&release.isopod, &isopod).with_context(|| format!("copy {}", release.isopod.display()))?;
    let packed = example::archive(&release, example::IMAGE)?;
    std::fs::copy(&packed, &archive).with_context(|| format!("copy {}", packed.display()))?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // The first process of a process namespace inherits orphans; a shell reaps them while it waits.
    unshare.args([
        "sh",
        "-c",
        "mount -t tmpfs isopod-bench /run && ip link set lo up && \"$@\"; ended=$?; rm -rf \"$0\"; exit $ended",
    ]);
    // A release build: what bears the load must not be what limits it.
    unshare.arg(&folder).arg(release::xtask()?).args(std::env::args_os().skip(1));
    Err(unshare.env(INSIDE, &folder).exec()).context("run unshare, of the package util-linux")
}
