//! Prints how many durable transactions a second the embedded store makes at several numbers of writers.
//!
//! `cargo run --release -p store --example bench [DIRECTORY] [SECONDS]`

use std::sync::Arc;
use std::time::Duration;

use store::disk::Real;
use store::{Embedded, Op, Options, Plain, RangeRequest, Store};

const VALUE_BYTES: usize = 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let default = std::env::temp_dir().join(format!("isopod-store-bench-{}", std::process::id()));
    let directory = arguments.next().map_or(default, Into::into);
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    for writers in [1, 16, 128] {
        let (writes, latency) = measure(&directory, writers, Duration::from_secs(seconds)).await?;
        println!("{writers:4} writers: {:8.0} writes/s, {latency:?} each", writes as f64 / seconds as f64);
        std::fs::remove_dir_all(&directory)?;
    }
    restart(&directory, 200_000).await?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn open(directory: &std::path::Path) -> Result<Embedded, Box<dyn std::error::Error>> {
    Ok(Embedded::open(Arc::new(Real::open(directory)?), Options::default(), Arc::new(Plain)).await?)
}

/// How many writes `writers` tasks make in `time`, each on keys of its own, and how long one takes.
async fn measure(
    directory: &std::path::Path,
    writers: usize,
    time: Duration,
) -> Result<(u64, Duration), Box<dyn std::error::Error>> {
    let store = open(directory).await?;
    let end = stdx::mono() + time;
    let tasks: Vec<_> = (0..writers)
        .map(|number| {
            let store = store.clone();
            stdx::spawn(async move {
                let mut count = 0;
                while stdx::mono() < end {
                    let key = format!("/registry/writer-{number}/{}", count % 100);
                    store.txn(vec![], vec![Op::put(key, vec![b'v'; VALUE_BYTES])]).await?;
                    count += 1;
                }
                Ok::<u64, store::StoreError>(count)
            })
        })
        .collect();
    let mut writes = 0;
    for task in tasks {
        writes += task.await??;
    }
    store.close().await;
    Ok((writes, time.mul_f64(writers as f64 / writes.max(1) as f64)))
}

/// How long it takes to open a store of `count` objects, from the log and from a snapshot.
async fn restart(directory: &std::path::Path, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let store = open(directory).await?;
    for first in (0..count).step_by(100) {
        let put = |number| Op::put(format!("/registry/pods/{number:08}"), vec![b'v'; VALUE_BYTES]);
        store.txn(vec![], (first..first + 100).map(put).collect()).await?;
    }
    for how in ["as it was left", "from a snapshot"] {
        store.close().await;
        let began = stdx::mono();
        let reopened = open(directory).await?;
        let took = stdx::mono() - began;
        let response = reopened.range_now(&RangeRequest { keys_only: true, ..RangeRequest::prefix("") })?;
        println!("restart with {} objects {how}: {took:?}", response.count);
        reopened.snapshot().await?;
        reopened.close().await;
    }
    Ok(())
}
