//! Plays seeds: `sim --seeds 500`, or `sim --seed 7 [--log]` for one.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};

/// What was asked for.
struct Asked {
    seeds: std::ops::Range<u64>,
    log: bool,
}

/// Shows the wall clock of the simulated machine that logs.
struct NodeTime;

impl tracing_subscriber::fmt::time::FormatTime for NodeTime {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", stdx::wall().strftime("%H:%M:%S%.3f"))
    }
}

fn asked() -> anyhow::Result<Asked> {
    let mut asked = Asked { seeds: 0..20, log: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
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
            other => bail!("unknown argument {other}; known are --seeds N, --from N, --seed N, --log"),
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
    let next = AtomicU64::new(asked.seeds.start);
    let failures: Mutex<u64> = Mutex::new(0);
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !asked.seeds.contains(&seed) {
                return;
            }
            let report = sim::run(seed);
            if let Some(violation) = &report.violation {
                *failures.lock().expect("no holder of this lock panics") += 1;
                println!("seed {seed}: {}: {} [{}]", violation.invariant, violation.text, report.summary);
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
    let failed = *failures.lock().expect("no holder of this lock panics");
    let count = asked.seeds.end - asked.seeds.start;
    println!("{count} seeds, each played twice: {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
