//! Files in a directory of the machine.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use stdx::BoxFuture;
use tokio::sync::oneshot;

use super::{Claim, ClaimError, Disk, Durability, File};

/// The file whose lock is the claim on the directory; it holds the process id of the holder.
const LOCK: &str = "LOCK";

/// A directory on the machine's disk.
///
/// System calls on files block, so they run on two threads of the disk's own: one for the files that
/// [`Disk::preallocate`] made, where somebody waits for every sync, and one for everything else.
pub struct Real {
    directory: Arc<PathBuf>,
    log: Lane,
    background: Lane,
}

impl Real {
    /// Opens `directory`, making it (for its owner only) when it does not exist.
    ///
    /// # Errors
    /// Those of making the directory and of starting threads.
    pub fn open(directory: impl AsRef<Path>) -> io::Result<Real> {
        let directory = directory.as_ref();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Real {
            directory: Arc::new(directory.to_owned()),
            log: Lane::start("store-log")?,
            background: Lane::start("store-files")?,
        })
    }

    /// Runs `body` with the path of `name` on the background thread.
    fn with_path<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, io::Result<T>> {
        let path = self.directory.join(name);
        self.background.run(move || body(&path))
    }
}

impl Disk for Real {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    fn claim(&self) -> Result<Claim, ClaimError> {
        let path = self.directory.join(LOCK);
        let file =
            options().read(true).write(true).create(true).truncate(false).open(path).map_err(ClaimError::Disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(ClaimError::InUse { pid: read_pid(&file) }),
            Err(fs::TryLockError::Error(error)) => return Err(ClaimError::Disk(error)),
        }
        write_pid(&file).map_err(ClaimError::Disk)?;
        Ok(Box::new(RealClaim { _lock: file, lanes: [self.log.clone(), self.background.clone()] }))
    }

    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.with_path("", |path| {
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.extend(entry.file_name().into_string());
                }
            }
            names.sort();
            Ok(names)
        })
    }

    fn open(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let lane = self.background.clone();
        self.with_path(name, move |path| {
            // Writing is needed to sync; nothing is written.
            let file = options().read(true).write(true).open(path)?;
            Ok(Arc::new(RealFile { file: Arc::new(file), lane }) as Arc<dyn File>)
        })
    }

    fn create(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let lane = self.background.clone();
        self.with_path(name, move |path| {
            let file = options().read(true).write(true).create(true).truncate(true).open(path)?;
            Ok(Arc::new(RealFile { file: Arc::new(file), lane }) as Arc<dyn File>)
        })
    }

    fn preallocate(&self, name: &str, size_bytes: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>> {
        let lane = self.log.clone();
        self.with_path(name, move |path| {
            let file = options().read(true).write(true).create(true).truncate(true).open(path)?;
            write_zeros(&file, size_bytes)?;
            file.sync_all()?;
            Ok(Arc::new(RealFile { file: Arc::new(file), lane }) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>> {
        let to = self.directory.join(to);
        self.with_path(from, move |from| fs::rename(from, to))
    }

    fn remove(&self, name: &str) -> BoxFuture<'_, io::Result<()>> {
        self.with_path(name, |path| fs::remove_file(path))
    }

    fn sync_directory(&self) -> BoxFuture<'_, io::Result<()>> {
        self.with_path("", |path| fs::File::open(path)?.sync_all())
    }
}

/// The lock on the directory.
struct RealClaim {
    _lock: fs::File,
    lanes: [Lane; 2],
}

impl Drop for RealClaim {
    /// Waits for calls that are still under way, so that they do not touch what is already the next holder's.
    fn drop(&mut self) {
        self.lanes.iter().for_each(Lane::wait);
    }
}

/// Files are their owner's alone.
fn options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.mode(0o600);
    options
}

fn read_pid(mut file: &fs::File) -> u32 {
    let mut text = String::new();
    // Between locking and writing the holder's file is empty, and a stranger may have written anything.
    match file.read_to_string(&mut text) {
        Ok(_) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

fn write_pid(mut file: &fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// Zeros written out, and not only reserved: a reserved block costs a change of metadata at its first sync.
fn write_zeros(mut file: &fs::File, size_bytes: u64) -> io::Result<()> {
    const CHUNK: usize = 256 * 1024;
    let zeros = vec![0; CHUNK];
    let mut left = size_bytes;
    while left > 0 {
        let chunk = left.min(CHUNK as u64);
        file.write_all(&zeros[..chunk as usize])?;
        left -= chunk;
    }
    Ok(())
}

struct RealFile {
    file: Arc<fs::File>,
    lane: Lane,
}

impl File for RealFile {
    fn size(&self) -> BoxFuture<'_, io::Result<u64>> {
        let file = self.file.clone();
        self.lane.run(move || Ok(file.metadata()?.len()))
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let file = self.file.clone();
        self.lane.run(move || read_up_to(&file, offset, length))
    }

    fn write(&self, offset: u64, bytes: Bytes, durability: Durability) -> BoxFuture<'_, io::Result<()>> {
        let file = self.file.clone();
        self.lane.run(move || {
            file.write_all_at(&bytes, offset)?;
            match durability {
                Durability::Now => file.sync_data(),
                Durability::Later => Ok(()),
            }
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        let file = self.file.clone();
        self.lane.run(move || file.sync_all())
    }
}

fn read_up_to(file: &fs::File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let available = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; available.min(length as u64) as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// A thread that runs blocking calls one after the other; it ends with the last clone.
#[derive(Clone)]
struct Lane(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Lane {
    fn start(name: &str) -> io::Result<Lane> {
        let (sender, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for job in receiver {
                job();
            }
        })?;
        Ok(Lane(sender))
    }

    /// Blocks until everything asked for so far is done.
    fn wait(&self) {
        let (sender, receiver) = mpsc::channel::<()>();
        // A lane that has ended has nothing under way; then the sender is gone and the receiver returns at once.
        drop(self.0.send(Box::new(move || drop(sender))));
        if receiver.recv().is_ok() {
            unreachable!("nothing is ever sent");
        }
    }

    /// The call is made even when the future is dropped, so that what was begun is not left half done.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let (sender, receiver) = oneshot::channel();
        // Nobody may be waiting any more; a lane that is gone shows as a lost answer.
        let sent = self.0.send(Box::new(move || drop(sender.send(job()))));
        Box::pin(async move {
            sent.map_err(|_| lost())?;
            receiver.await.unwrap_or_else(|_| Err(lost()))
        })
    }
}

fn lost() -> io::Error {
    io::Error::other("the disk's thread has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("isopod-store-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        path
    }

    #[tokio::test]
    async fn a_second_claim_is_refused_with_the_holders_pid_until_the_first_is_dropped() {
        let path = directory("claim");
        let (one, two) = (Real::open(&path).unwrap(), Real::open(&path).unwrap());
        let claim = one.claim().map_err(|_| ()).unwrap();
        assert!(matches!(two.claim(), Err(ClaimError::InUse { pid }) if pid == std::process::id()));
        drop(claim);
        assert!(two.claim().is_ok());
        fs::remove_dir_all(&path).unwrap();
    }

    #[tokio::test]
    async fn files_keep_what_was_written_and_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let path = directory("files");
        let disk = Real::open(&path).unwrap();
        let file = disk.preallocate("a", 300_000).await.unwrap();
        file.write(10, Bytes::from_static(b"hello"), Durability::Now).await.unwrap();
        disk.rename("a", "b").await.unwrap();
        disk.sync_directory().await.unwrap();
        let file = disk.open("b").await.unwrap();
        assert_eq!(file.size().await.unwrap(), 300_000);
        assert_eq!(file.read(9, 7).await.unwrap(), b"\0hello\0");
        assert_eq!(file.read(299_999, 7).await.unwrap(), b"\0");
        assert_eq!(disk.list().await.unwrap(), ["b"]);
        assert_eq!(fs::metadata(path.join("b")).unwrap().permissions().mode() & 0o777, 0o600);
        disk.remove("b").await.unwrap();
        assert!(disk.open("b").await.is_err());
        fs::remove_dir_all(&path).unwrap();
    }
}
