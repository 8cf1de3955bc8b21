//! Plays seeds: `sim --seeds 500`, or `sim --seed 7 [--log]` for one; `--find ceiling` ends with the first that breaks that.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, bail};

/// What was asked for.
struct Asked {
    seeds: std::ops::Range<u64>,
    log: bool,
    /// Once only, without the proof that the second time is the same.
    once: bool,
    /// The end comes when this invariant was found broken.
    find: Option<String>,
}

/// Shows the wall clock of the simulated machine that logs.
struct NodeTime;

impl tracing_subscriber::fmt::time::FormatTime for NodeTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", stdx::wall().strftime("%H:%M:%S%.3f"))
    }
}

fn asked() -> anyhow::Result<Asked> {
    let mut asked = Asked { seeds: 0..20, log: false, once: false, find: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--find" {
            let invariant = words.next().context("an invariant is missing")?;
            if !sim::INVARIANTS.iter().any(|(name, _)| *name == invariant) {
                bail!("{invariant} is not an invariant");
            }
            asked.find = Some(invariant);
            continue;
        }
        let mut number = || -> anyhow::Result<u64> {
            words.next().context("a number is missing")?.parse().with_context(|| format!("the number after {word}"))
        };
        match word.as_str() {
            "--seeds" => asked.seeds = asked.seeds.start..asked.seeds.start + number()?,
            "--from" => {
                let from = number()?;
                asked.seeds = from..from + (asked.seeds.end - asked.seeds.start);
            }
            "--seed" => {
                let seed = number()?;
                asked.seeds = seed..seed + 1;
            }
            "--log" => asked.log = true,
            "--once" => asked.once = true,
            other => {
                bail!(
                    "unknown argument {other}; known are --seeds N, --from N, --seed N, --find INVARIANT, --once, --log"
                )
            }
        }
    }
    Ok(asked)
}

fn main() -> anyhow::Result<ExitCode> {
    let asked = asked()?;
    if asked.log {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        let format = tracing_subscriber::fmt().with_ansi(false).with_timer(NodeTime);
        format.with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let failed = play(&asked);
    let count = asked.seeds.end - asked.seeds.start;
    let times = if asked.once { "once" } else { "twice" };
    println!("{count} seeds, each played {times}: {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays on every core, tells what fails, and counts it.
fn play(asked: &Asked) -> u64 {
    let next = AtomicU64::new(asked.seeds.start);
    let failed = AtomicU64::new(0);
    let found = AtomicBool::new(false);
    let play = || {
        while !found.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !asked.seeds.contains(&seed) {
                return;
            }
            let report = if asked.once { sim::run_once(seed) } else { sim::run(seed) };
            if let Some(violation) = &report.violation {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: {}: {} [{}]", violation.invariant, violation.text, report.summary);
                if asked.find.as_deref() == Some(violation.invariant) {
                    found.store(true, Ordering::Relaxed);
                }
            } else if asked.seeds.end - asked.seeds.start == 1 {
                println!("seed {seed}: {:016x} [{}]", report.trace, report.summary);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    failed.into_inner()
}
