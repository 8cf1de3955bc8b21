//! Content by digest on disk: written apart, checked, then moved into place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::digest::{Digest, Hasher};
use super::error::{ImageError, at};

/// The folder of blobs and the folder where they are written before they are complete.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    complete: PathBuf,
    ingest: PathBuf,
}

impl Blobs {
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        let blobs = Blobs { complete: root.join("blobs/sha256"), ingest: root.join("ingest") };
        make_folder(&blobs.complete)?;
        make_folder(&blobs.ingest)?;
        Ok(blobs)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.complete
    }

    pub(super) fn ingest_folder(&self) -> &Path {
        &self.ingest
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.complete.join(digest.hex())
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(at("open", &path))
    }

    /// A small blob, checked again: disks rot.
    pub(super) fn read(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let mut content = Vec::new();
        self.open_blob(digest)?.take(bytes_max + 1).read_to_end(&mut content).map_err(at("read", &path))?;
        if content.len() as u64 > bytes_max {
            return Err(ImageError::Invalid(format!("{digest} is larger than {bytes_max} bytes")));
        }
        check(&path.display().to_string(), digest, &Digest::of(&content))?;
        Ok(content)
    }

    pub(super) fn put(&self, content: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(content);
        if !self.contains(&digest) {
            let mut partial = Partial::fresh(self)?;
            partial.write(content)?;
            partial.finish(self, &digest)?;
        }
        Ok(digest)
    }
}

/// Refuses content whose digest is not the expected one.
pub(super) fn check(what: &str, expected: &Digest, actual: &Digest) -> Result<(), ImageError> {
    if expected == actual {
        return Ok(());
    }
    Err(ImageError::Corrupt { what: what.to_owned(), expected: *expected, actual: *actual })
}

/// A blob being written.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    bytes: u64,
}

impl Partial {
    /// One that continues where an earlier download of the same blob was broken off, unless another process is at it.
    pub(super) fn resumed(blobs: &Blobs, digest: &Digest) -> Result<Self, ImageError> {
        let path = blobs.ingest.join(digest.hex());
        let file = options().truncate(false).open(&path).map_err(at("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Partial::fresh(blobs),
            Err(errno) => return Err(at("lock", &path)(errno.into())),
        }
        // Between opening and locking, its last writer may have completed and moved it.
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let here = fs::symlink_metadata(&path).map(inode).ok();
        if here != Some(file.metadata().map(inode).map_err(at("look at", &path))?) {
            return Partial::fresh(blobs);
        }
        let mut partial = Partial { file, path, hasher: Hasher::default(), bytes: 0 };
        partial.take_over()?;
        Ok(partial)
    }

    /// An empty one under a name of its own.
    pub(super) fn fresh(blobs: &Blobs) -> Result<Self, ImageError> {
        let path = blobs.ingest.join(format!("new-{:016x}", stdx::random_u64()));
        let file = options().create_new(true).open(&path).map_err(at("create", &path))?;
        Ok(Partial { file, path, hasher: Hasher::default(), bytes: 0 })
    }

    /// Bytes present.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), ImageError> {
        self.file.write_all(content).map_err(at("write", &self.path))?;
        self.hasher.update(content);
        self.bytes += content.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub(super) fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(at("truncate", &self.path))?;
        self.hasher = Hasher::default();
        self.bytes = 0;
        Ok(())
    }

    /// Removes it: its content is of no use.
    pub(super) fn discard(self) -> Result<(), ImageError> {
        fs::remove_file(&self.path).map_err(at("remove", &self.path))
    }

    /// Makes the blob durable and visible if it is what `digest` says; else removes it.
    pub(super) fn finish(self, blobs: &Blobs, digest: &Digest) -> Result<(), ImageError> {
        let actual = self.hasher.finish();
        if let Err(error) = check("content", digest, &actual) {
            fs::remove_file(&self.path).map_err(at("remove", &self.path))?;
            return Err(error);
        }
        self.file.sync_data().map_err(at("sync", &self.path))?;
        let path = blobs.path(digest);
        fs::rename(&self.path, &path).map_err(at("move", &self.path))?;
        sync_folder(&blobs.complete)
    }

    /// Gives the content's digest and the file holding it, which stays in the ingest folder.
    pub(super) fn leave(self) -> (PathBuf, Digest, u64) {
        (self.path, self.hasher.finish(), self.bytes)
    }

    fn take_over(&mut self) -> Result<(), ImageError> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("read", &self.path)(error)),
            }
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

/// Makes a folder only its owner may enter, with those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), ImageError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at("sync", path))
}
