//! A process that writes to real files is killed; what it was told of is there afterwards.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use store::disk::Real;
use store::{Embedded, Op, OpenError, Options, Plain, Store, TxnOutcome};

/// Tells this program, started anew, to be the process that is killed.
const DIRECTORY: &str = "STORE_KILL_TEST_DIRECTORY";
const WRITERS: usize = 8;

fn options() -> Options {
    Options { segment_bytes: 64 * 1024, snapshot_log_bytes: 256 * 1024, ..Options::default() }
}

async fn open(path: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(Arc::new(Real::open(path).unwrap()), options(), Arc::new(Plain)).await
}

/// Removes its directory in the end, also after a failure.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The process that is killed: writes and says so on its standard output, for ever.
async fn victim(path: PathBuf) {
    let store = open(&path).await.unwrap();
    let writers: Vec<_> = (0..WRITERS).map(|number| stdx::spawn(write_for_ever(store.clone(), number))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write_for_ever(store: Embedded, number: usize) {
    let key = format!("key-{number}");
    let mut count: u64 = store.get_now(key.as_bytes()).map_or(0, |entry| read(&entry.value));
    loop {
        count += 1;
        let mut value = count.to_string().into_bytes();
        value.resize(200, b' ');
        match store.txn(vec![], vec![Op::put(key.clone(), value)]).await.unwrap() {
            TxnOutcome::Committed { revision } => println!("\nacknowledged {number} {count} {revision}"),
            TxnOutcome::Failed { .. } => unreachable!("nothing is compared"),
        }
    }
}

fn read(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().trim().parse().unwrap()
}

fn start(path: &Path, test: &str) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(DIRECTORY, path).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Kills the process after so many acknowledgements and returns the last of each writer, and the highest revision.
fn kill_after(mut child: Child, acknowledgements: usize) -> ([u64; WRITERS], u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut counts, mut highest) = ([0; WRITERS], 0);
    let mut seen = 0;
    for line in lines {
        let line = line.unwrap();
        let Some(rest) = line.strip_prefix("acknowledged ") else { continue };
        // The last line may have been cut off by the kill.
        let numbers: Vec<u64> = rest.split(' ').map_while(|number| number.parse().ok()).collect();
        let [writer, count, revision] = numbers[..] else { continue };
        counts[writer as usize] = count;
        highest = highest.max(revision);
        seen += 1;
        if seen == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (counts, highest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return victim(path.into()).await;
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("isopod-store-kill-{}", std::process::id())));
    for round in 0..5 {
        let child = start(&scratch.0, "what_was_acknowledged_survives_kill_9");
        let (counts, highest) = kill_after(child, 500 + 700 * round);
        let store = open(&scratch.0).await.unwrap();
        for (number, count) in counts.into_iter().enumerate() {
            let found = store.get_now(format!("key-{number}").as_bytes()).map_or(0, |entry| read(&entry.value));
            assert!(found == count || found == count + 1, "round {round}: {found} where {count} was acknowledged");
        }
        assert!(highest > 0 && store.revision() >= highest, "{} is below {highest}", store.revision());
        store.close().await;
    }
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_the_pid_of_its_holder() {
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return victim(path.into()).await;
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("isopod-store-inuse-{}", std::process::id())));
    let mut child = start(&scratch.0, "a_directory_in_use_is_refused_with_the_pid_of_its_holder");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.find(|line| line.as_ref().unwrap().starts_with("acknowledged"));
    let refused = open(&scratch.0).await.map(drop);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.is_some());
    assert!(matches!(refused, Err(OpenError::InUse { pid, .. }) if pid == child.id()), "{refused:?}");
    drop(open(&scratch.0).await.unwrap());
}
