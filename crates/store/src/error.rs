//! What can go wrong, by what the caller may do about it.

use std::io;

/// Why a store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The asked revision is no longer kept: read or list anew.
    #[error("required revision has been compacted, oldest is {compact_revision}")]
    Compacted {
        /// Reads work from this revision on, watches from the one above.
        compact_revision: u64,
    },
    /// The asked revision does not exist yet.
    #[error("required revision is a future revision, newest is {current}")]
    FutureRevision {
        /// The newest revision.
        current: u64,
    },
    /// The transaction may or may not have happened, then or later: read before going on.
    #[error("outcome of the transaction is unknown: {reason}")]
    Unknown {
        /// What broke.
        reason: String,
    },
    /// The store is full (deleting still works) or its disk is. Nothing happened.
    #[error("store is full: {reason}")]
    NoSpace {
        /// Which limit was met.
        reason: String,
    },
    /// The transaction breaks a limit or names a key twice. Nothing happened.
    #[error("invalid transaction: {reason}")]
    Invalid {
        /// Which limit, and what was asked.
        reason: String,
    },
    /// A value could not be encrypted. Nothing happened.
    #[error("seal value of {key}: {reason}")]
    Seal {
        /// The key of the value.
        key: String,
        /// What the transform said.
        reason: String,
    },
    /// The store broke earlier and takes no more writes; what was acknowledged can still be read. Nothing happened.
    #[error("store has failed: {reason}")]
    Broken {
        /// What broke.
        reason: String,
    },
    /// The store is closed. Nothing happened.
    #[error("store is closed")]
    Closed,
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another store in this one) has it open.
    #[error("data directory {directory} is in use by process {pid}")]
    InUse {
        /// The directory.
        directory: String,
        /// The process that holds it; 0 when it cannot be told.
        pid: u32,
    },
    /// The disk did not do what was asked.
    #[error("{operation} {file}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds what was never written so. Going on would lose acknowledged writes, so nothing is touched.
    #[error("{file} is corrupt at offset {offset}: {reason}; restore the directory from a backup")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file that others refer to is not there.
    #[error("{file} is missing: {reason}; restore the directory from a backup")]
    Missing {
        /// The file.
        file: String,
        /// Who needs it.
        reason: String,
    },
    /// A file was written by a release with a newer format.
    #[error("{file} has format version {found}, this release reads up to {supported}")]
    Version {
        /// The file.
        file: String,
        /// The version in its header.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// A value could not be decrypted, for example because its key is no longer configured.
    #[error("open value of {key} in {file}: {reason}")]
    Unseal {
        /// The file.
        file: String,
        /// The key of the value.
        key: String,
        /// What the transform said.
        reason: String,
    },
}
