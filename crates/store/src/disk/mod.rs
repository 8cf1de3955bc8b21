//! The disk as the store sees it: one flat directory of files that can be written, synced and lost.
//!
//! What [`Real`] promises is what a file system promises: a write is durable after a later sync of its file, a new,
//! renamed or removed name after a later sync of the directory; before that, a loss of power may keep any part of it.
//! [`Sim`] is a disk in memory that makes use of every one of these liberties.

mod real;
mod sim;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use stdx::BoxFuture;

pub use real::Real;
pub use sim::{Faults, Sim};

/// The exclusive use of a disk; given up when dropped.
pub type Claim = Box<dyn Send + Sync>;

/// A directory of files.
pub trait Disk: Send + Sync + 'static {
    /// What to call the directory in messages.
    fn name(&self) -> String;

    /// Takes the disk for oneself, until the claim is dropped.
    ///
    /// # Errors
    /// The holder's process id when somebody has it.
    fn claim(&self) -> Result<Claim, ClaimError>;

    /// The names of all files, sorted.
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>>;

    /// Opens an existing file for reading.
    fn open(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>>;

    /// Makes an empty file, in place of an existing one, whose writes may take their time.
    fn create(&self, name: &str) -> BoxFuture<'_, io::Result<Arc<dyn File>>>;

    /// Makes a file of `size_bytes` zeros, in place of an existing one, with all its blocks on disk and synced, whose
    /// own writes and syncs wait for no other file's.
    fn preallocate(&self, name: &str, size_bytes: u64) -> BoxFuture<'_, io::Result<Arc<dyn File>>>;

    /// Gives a file another name, in place of an existing file.
    fn rename(&self, from: &str, to: &str) -> BoxFuture<'_, io::Result<()>>;

    /// Removes a file.
    fn remove(&self, name: &str) -> BoxFuture<'_, io::Result<()>>;

    /// Makes all names durable.
    fn sync_directory(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Somebody else uses the disk.
#[derive(Debug)]
pub enum ClaimError {
    /// The process that has it; 0 when it cannot be told.
    InUse {
        /// Its id.
        pid: u32,
    },
    /// The lock could not be tried.
    Disk(io::Error),
}

/// When a write has to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered, with all earlier writes of the file.
    Now,
    /// At the next sync.
    Later,
}

/// An open file.
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> BoxFuture<'_, io::Result<u64>>;

    /// Up to `length` bytes from `offset`; fewer only at the end of the file.
    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Vec<u8>>>;

    /// Writes all of `bytes` at `offset`.
    fn write(&self, offset: u64, bytes: Bytes, durability: Durability) -> BoxFuture<'_, io::Result<()>>;

    /// Makes all earlier writes durable.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
}
