//! A disk in memory that loses, tears, delays, fills and fails as real ones may.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use stdx::sim::Random;
use stdx::{BoxFuture, Cancel};

use super::{Claim, ClaimError, Disk, Durability, File};

/// What is written or lost as one piece when power fails.
const SECTOR: usize = 512;

/// What a simulated disk does to its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Power fails during the operation of this number, counted from 1 since the disk was made: it may have happened, in
    /// full, in part or not at all, and neither it nor any later one is ever answered.
    pub power_fails_at: Option<u64>,
    /// Syncs fail from the operation of this number on.
    pub sync_fails_at: Option<u64>,
    /// All files together take no more than so many bytes.
    pub capacity_bytes: Option<u64>,
    /// An operation takes up to so long.
    pub delay_max: Duration,
}

/// A disk in memory. Clones share it.
///
/// Without faults it keeps everything, as memory does, and is a fit place for a store that is to leave nothing behind.
/// [`Sim::power_cycle`] makes of it the disk that is found after a loss of power: what was synced is there; of everything
/// else any part, sector by sector and name by name, decided by the seed.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Raised when power fails.
    power_failed: Cancel,
}

struct State {
    random: Random,
    faults: Faults,
    operations: u64,
    claimed: bool,
    names: BTreeMap<String, u64>,
    /// The names as of the last sync of the directory, and what was done to them since.
    durable_names: BTreeMap<String, u64>,
    changed_names: Vec<NameChange>,
    contents: BTreeMap<u64, Content>,
    next_content: u64,
}

#[derive(Clone)]
enum NameChange {
    Link(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

/// What a file holds, under whatever name.
#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Bytes)>,
}

/// Says that power is off; the future that meets it never resolves.
struct PowerFailed;

impl Sim {
    /// An empty disk whose faults `seed` decides.
    pub fn new(seed: u64) -> Sim {
        let state = State {
            random: Random::new(seed),
            faults: Faults::default(),
            operations: 0,
            claimed: false,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changed_names: Vec::new(),
            contents: BTreeMap::new(),
            next_content: 0,
        };
        Sim(Arc::new(Shared { state: Mutex::new(state), power_failed: Cancel::default() }))
    }

    /// From now on the disk behaves so.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How many operations were begun.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Resolves when power has failed.
    pub async fn power_failed(&self) {
        self.0.power_failed.cancelled().await;
    }

    /// The disk as it is found after a loss of power now, without faults and with its operations counted from 0.
    pub fn power_cycle(&self) -> Sim {
        let mut old = self.state();
        let mut random = old.random.fork();
        let mut contents = BTreeMap::new();
        for (number, content) in &old.contents {
            let bytes = content.after_power_failure(&mut random);
            contents.insert(*number, Content { durable: bytes.clone(), bytes, unsynced: Vec::new() });
        }
        let mut names = old.durable_names.clone();
        let (fate, survived) = (random.below(3), random.below(old.changed_names.len() as u64 + 1) as usize);
        for (number, change) in old.changed_names.iter().enumerate() {
            let survives = if fate == 0 { number < survived } else { fate == 2 || random.one_in(2) };
            if survives {
                change.apply(&mut names);
            }
        }
        let next = Sim::new(random.number());
        let mut state = next.state();
        (state.contents, state.next_content) = (contents, old.next_content);
        (state.durable_names, state.names) = (names.clone(), names);
        drop(state);
        next
    }

    /// The disk as another process finds it after the one that used it was killed, on a machine that runs on: everything
    /// written is there, and what was not synced may still be lost. Without faults, its operations counted from 0.
    pub fn process_restart(&self) -> Sim {
        let mut old = self.state();
        let next = Sim::new(old.random.number());
        let mut state = next.state();
        (state.contents, state.next_content) = (old.contents.clone(), old.next_content);
        (state.durable_names, state.names) = (old.durable_names.clone(), old.names.clone());
        state.changed_names.clone_from(&old.changed_names);
        drop(state);
        next
    }

    /// All files by their names, with what they hold.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, number)| (name.clone(), state.contents[number].bytes.clone())).collect()
    }

    /// Changes a byte of a file behind its user's back, and durably.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn corrupt(&self, name: &str, offset: u64) {
        let mut state = self.state();
        let content = state.content(name).expect("the file exists");
        let offset = usize::try_from(offset).expect("files are in memory");
        content.bytes[offset] ^= 0x40;
        content.durable.clone_from(&content.bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder of this lock panics")
    }

    /// Runs one operation: counts it, delays it, and lets power fail in it when it is time.
    fn operation<'a, T: Send + 'a>(
        &'a self,
        body: impl FnOnce(&mut State) -> io::Result<T> + Send + 'a,
    ) -> BoxFuture<'a, io::Result<T>> {
        Box::pin(async move {
            let delay = self.state().delay();
            if !delay.is_zero() {
                stdx::sleep(delay).await;
            }
            match self.run(body) {
                Ok(result) => result,
                Err(PowerFailed) => {
                    self.0.power_failed.cancel();
                    std::future::pending().await
                }
            }
        })
    }

    fn run<T>(&self, body: impl FnOnce(&mut State) -> io::Result<T>) -> Result<io::Result<T>, PowerFailed> {
        let mut state = self.state();
        state.operations += 1;
        let fails_at = state.faults.power_fails_at.unwrap_or(u64::MAX);
        if state.operations > fails_at {
            return Err(PowerFailed);
        }
        if state.operations == fails_at {
            // The operation was under way. A sync among these makes nothing durable, a write stays unsynced: what is
            // found afterwards is any part of both.
            state.faults.sync_fails_at = Some(0);
            drop(body(&mut state));
            return Err(PowerFailed);
        }
        Ok(body(&mut state))
    }

    fn open_content(&self, number: u64) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), number })
    }
}

impl State {
    fn delay(&mut self) -> Duration {
        match u64::try_from(self.faults.delay_max.as_nanos()) {
            Ok(0) => Duration::ZERO,
            Ok(limit) => Duration::from_nanos(self.random.below(limit)),
            Err(_) => self.faults.delay_max,
        }
    }

    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        let number = self.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        self.contents.get_mut(&number).ok_or(io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, name: &str) -> u64 {
        self.next_content += 1;
        self.contents.insert(self.next_content, Content::default());
        self.change(NameChange::Link(name.to_owned(), self.next_content));
        self.next_content
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.changed_names.push(change);
    }

    fn sync_allowed(&self) -> io::Result<()> {
        match self.faults.sync_fails_at {
            Some(from) if self.operations >= from => Err(io::Error::other("simulated failure of a sync")),
            _ => Ok(()),
        }
    }

    fn check_capacity(&self, more: usize) -> io::Result<()> {
        let Some(capacity) = self.faults.capacity_bytes else { return Ok(()) };
        let used: usize =
            self.names.values().filter_map(|number| self.contents.get(number)).map(|c| c.bytes.len()).sum();
        if (used + more) as u64 > capacity { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&mut self, number: u64, offset: u64, bytes: Bytes) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let length = self.contents.get(&number).map_or(0, |content| content.bytes.len());
        self.check_capacity((offset + bytes.len()).saturating_sub(length))?;
        let content = self.contents.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        put(&mut content.bytes, offset, &bytes);
        content.unsynced.push((offset, bytes));
        Ok(())
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        self.sync_allowed()?;
        let content = self.contents.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        for (offset, bytes) in std::mem::take(&mut content.unsynced) {
            put(&mut content.durable, offset, &bytes);
        }
        Ok(())
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Link(name, number) => drop(names.insert(name.clone(), *number)),
            NameChange::Rename(from, to, number) => {
                names.remove(from);
                names.insert(to.clone(), *number);
            }
            NameChange::Remove(name) => drop(names.remove(name)),
        }
    }
}

impl Content {
    /// Of every unsynced write all, nothing, or some of its sectors.
    fn after_power_failure(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (offset, written) in &self.unsynced {
            let fate = random.below(3);
            let (mut at, end) = (*offset, offset + written.len());
            while at < end {
                let next = (at / SECTOR + 1) * SECTOR;
                let next = next.min(end);
                if fate == 2 || (fate == 1 && random.one_in(2)) {
                    put(&mut bytes, at, &written[at - offset..next - offset]);
                }
                at = next;
            }
        }
        bytes
    }
}

impl Disk for Sim {
    fn name(&self) -> String {
        "simulated disk".into()
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        let mut state = self.state();
        if state.claimed {
            return Err(ClaimError::InUse { pid: std::process::id() });
        }
        state.claimed = true;
        drop(state);
        Ok(Box::new(SimClaim(self.clone())))
    }

    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.operation(|state| Ok(state.names.keys().cloned().collect()))
    }

    fn open(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let name = name.to_owned();
        self.operation(move |state| {
            let number = state.names.get(&name).copied().ok_or(io::ErrorKind::NotFound)?;
            Ok(self.open_content(number))
        })
    }

    fn create(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let name = name.to_owned();
        self.operation(move |state| {
            let number = state.create(&name);
            Ok(self.open_content(number))
        })
    }

    fn preallocate(&self, name: &str, size_bytes: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let name = name.to_owned();
        self.operation(move |state| {
            let number = state.create(&name);
            let size = usize::try_from(size_bytes).map_err(io::Error::other)?;
            state.write(number, 0, vec![0; size].into())?;
            state.sync(number)?;
            Ok(self.open_content(number))
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.operation(move |state| {
            let number = state.names.get(&from).copied().ok_or(io::ErrorKind::NotFound)?;
            state.change(NameChange::Rename(from, to, number));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, io::Result<()>> {
        let name = name.to_owned();
        self.operation(move |state| {
            state.content(&name)?;
            state.change(NameChange::Remove(name));
            Ok(())
        })
    }

    fn sync_directory(&self) -> BoxFuture<'_, io::Result<()>> {
        self.operation(|state| {
            state.sync_allowed()?;
            state.durable_names = state.names.clone();
            state.changed_names.clear();
            let named = state.names.values().copied().collect::<std::collections::BTreeSet<u64>>();
            // Nobody keeps a file open that has lost its name, but for a moment at the end of its writer.
            state.contents.retain(|number, _| named.contains(number));
            Ok(())
        })
    }
}

struct SimClaim(Sim);

impl Drop for SimClaim {
    fn drop(&mut self) {
        self.0.state().claimed = false;
    }
}

struct SimFile {
    disk: Sim,
    number: u64,
}

impl SimFile {
    fn read_now(&self, state: &State, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = &state.contents.get(&self.number).ok_or(io::ErrorKind::NotFound)?.bytes;
        let start = usize::try_from(offset).map_err(io::Error::other)?.min(bytes.len());
        let end = start.saturating_add(length).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }
}

impl File for SimFile {
    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.disk.operation(|state| {
            let content = state.contents.get(&self.number).ok_or(io::ErrorKind::NotFound)?;
            Ok(content.bytes.len() as u64)
        })
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        self.disk.operation(move |state| self.read_now(state, offset, length))
    }

    fn write(&self, offset: u64, bytes: Bytes, durability: Durability) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.disk.operation(move |state| state.write(self.number, offset, bytes)).await?;
            match durability {
                Durability::Now => self.sync().await,
                Durability::Later => Ok(()),
            }
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.disk.operation(|state| state.sync(self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stdx::sim::Simulation;

    fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
        Simulation::new(1).run_until(future).unwrap()
    }

    #[test]
    fn synced_writes_survive_and_unsynced_ones_are_kept_lost_or_torn() {
        let disk = run(async {
            let disk = Sim::new(3);
            let file = disk.create("file").await.unwrap();
            file.write(0, vec![1; 4096].into(), Durability::Now).await.unwrap();
            disk.sync_directory().await.unwrap();
            file.write(1024, vec![2; 2048].into(), Durability::Later).await.unwrap();
            drop(disk.create("unsynced name").await.unwrap());
            disk
        });
        let (mut kept, mut lost, mut torn, mut names) = (0, 0, 0, [0, 0]);
        for _ in 0..100 {
            let found = disk.power_cycle();
            names[found.state().names.len() - 1] += 1;
            let bytes = found.state().content("file").unwrap().bytes.clone();
            assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|byte| *byte == 1));
            let sectors: Vec<u8> = bytes[1024..3072].chunks(SECTOR).map(|sector| sector[0]).collect();
            match sectors[..] {
                [1, 1, 1, 1] => lost += 1,
                [2, 2, 2, 2] => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(kept > 10 && lost > 10 && torn > 10, "{kept} {lost} {torn}");
        assert!(names[0] > 10 && names[1] > 10, "{names:?}");
    }

    #[test]
    fn power_fails_once_and_for_good() {
        let (answered, operations) = run(async {
            let disk = Sim::new(3);
            disk.set_faults(Faults { power_fails_at: Some(3), ..Faults::default() });
            let writer = disk.clone();
            let answered = Arc::new(Mutex::new(0));
            let count = answered.clone();
            drop(stdx::spawn(async move {
                for _ in 0..10 {
                    writer.list().await.unwrap();
                    *count.lock().unwrap() += 1;
                }
            }));
            disk.power_failed().await;
            stdx::sleep(Duration::from_secs(1)).await;
            let answered = *answered.lock().unwrap();
            (answered, disk.operations())
        });
        assert_eq!((answered, operations), (2, 3));
    }

    #[test]
    fn it_fills_up_and_its_syncs_fail_when_told_to() {
        run(async {
            let disk = Sim::new(3);
            disk.set_faults(Faults { capacity_bytes: Some(1000), ..Faults::default() });
            let file = disk.preallocate("file", 900).await.unwrap();
            let full = disk.preallocate("other", 101).await.map(drop).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            file.write(800, vec![0; 200].into(), Durability::Now).await.unwrap();
            assert!(file.write(999, vec![0; 2].into(), Durability::Now).await.is_err());
            disk.set_faults(Faults { sync_fails_at: Some(0), ..Faults::default() });
            file.write(0, vec![9; 10].into(), Durability::Later).await.unwrap();
            assert!(file.sync().await.is_err() && disk.sync_directory().await.is_err());
        });
    }
}
