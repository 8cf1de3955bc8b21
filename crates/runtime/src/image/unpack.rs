//! One layer's archive becomes one folder of an overlay: whiteouts translated, nothing outside the folder touched.
//!
//! Every name is resolved by the kernel with the layer's folder as root (`openat2`, `RESOLVE_IN_ROOT`), so that `..`,
//! absolute names and symbolic links planted by the archive itself end inside, as they would in a chroot.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;
use tracing::debug;

use super::compression::decompressed;
use super::digest::{Digest, Hasher};
use super::tarball::{Member, Reader};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Names that storage drivers keep for themselves; the only one with a meaning is the next.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Symbolic links followed on the way to one parent folder, as in the kernel.
const LINKS_MAX: usize = 40;
/// The kernel's own limit on one path.
const PATH_BYTES_MAX: usize = 4096;
/// Memory that remembering folders may take.
const FOLDER_BYTES_MAX: usize = 256 << 20;

/// How much one layer may hold.
#[derive(Clone, Copy, Debug)]
pub struct LayerLimits {
    /// Members of the archive.
    pub entries_max: u64,
    /// Bytes of the uncompressed archive.
    pub bytes_max: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        LayerLimits { entries_max: 4_000_000, bytes_max: 128 << 30 }
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    #[error("read layer: {0}")]
    Read(#[source] io::Error),
    #[error("layer holds more than {0}")]
    Limit(String),
    #[error("{operation} {path:?}: {source}")]
    Entry { operation: &'static str, path: String, source: Errno },
    #[error("write {path:?}: {source}")]
    Write { path: String, source: io::Error },
    #[error("{path:?}: {why}")]
    Refused { path: String, why: &'static str },
}

/// Unpacks a layer (tar, gzip or zstd, told apart by their first bytes) into the empty folder `target` and gives the
/// digest of the uncompressed archive. `parents` are the folders of the layers below, topmost first.
pub(super) fn unpack(
    blob: impl Read,
    target: &Path,
    parents: &[PathBuf],
    limits: LayerLimits,
) -> Result<Digest, UnpackError> {
    let stream = decompressed(blob).map_err(UnpackError::Read)?;
    let mut hashed = Hashed { input: stream, hasher: Hasher::default(), bytes: 0, bytes_max: limits.bytes_max };
    let mut layer = Layer::open(target, parents)?;
    let mut reader = Reader::new(BufReader::with_capacity(256 << 10, &mut hashed));
    let mut entries = 0;
    while let Some(member) = reader.next().map_err(UnpackError::Read)? {
        entries += 1;
        if entries > limits.entries_max {
            return Err(UnpackError::Limit(format!("{} entries", limits.entries_max)));
        }
        layer.apply(&member, &mut reader)?;
    }
    layer.finish()?;
    reader.finish().map_err(UnpackError::Read)?;
    Ok(hashed.hasher.finish())
}

/// The uncompressed stream on its way to the archive reader: counted and hashed.
struct Hashed<R> {
    input: R,
    hasher: Hasher,
    bytes: u64,
    bytes_max: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        if self.bytes > self.bytes_max {
            return Err(io::Error::other(format!("more than {} bytes", self.bytes_max)));
        }
        Ok(count)
    }
}

/// A folder whose time is set last, since every entry put into it changes it.
type FolderTime = (Vec<Vec<u8>>, (i64, u32));

/// The folder being filled.
struct Layer {
    root: OwnedFd,
    parents: Vec<OwnedFd>,
    /// The parent folder of the entry before: archives list a folder's entries in a row.
    recent: Option<(Vec<Vec<u8>>, Rc<OwnedFd>)>,
    folders: Vec<FolderTime>,
    folder_bytes: usize,
}

impl Layer {
    fn open(target: &Path, parents: &[PathBuf]) -> Result<Self, UnpackError> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|source| UnpackError::Entry {
                operation: "open",
                path: path.display().to_string(),
                source,
            })
        };
        let parents = parents.iter().map(|parent| open(parent)).collect::<Result<_, _>>()?;
        Ok(Layer { root: open(target)?, parents, recent: None, folders: Vec::new(), folder_bytes: 0 })
    }

    fn apply(&mut self, member: &Member, data: &mut impl Read) -> Result<(), UnpackError> {
        let refused = |why| UnpackError::Refused { path: shown(&member.path), why };
        if member.path.len() > PATH_BYTES_MAX || member.link.len() > PATH_BYTES_MAX {
            return Err(refused("name is too long"));
        }
        if member.path.contains(&0) || member.link.contains(&0) {
            return Err(refused("name holds a zero byte"));
        }
        let mut path = components(&member.path);
        let Some(base) = path.pop() else {
            if member.kind != EntryType::Directory {
                return Err(refused("only a folder can be the root"));
            }
            let failed = fault("set owner and mode of", member);
            return self.root_folder().and_then(|root| dress(&root, member)).map_err(failed).map(|()| {
                self.remember(Vec::new(), member.mtime);
            });
        };
        if let Some(hidden) = base.strip_prefix(WHITEOUT_PREFIX) {
            if base.starts_with(WHITEOUT_META_PREFIX) && base != WHITEOUT_OPAQUE {
                return Ok(());
            }
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(refused("whiteout of no name"));
            }
            let parent = self.parent(&path, member)?;
            return whiteout(&parent, &base, hidden, member).map_err(fault("whiteout", member));
        }
        let parent = self.parent(&path, member)?;
        let was_hidden = self.make_room(&parent, &base, member)?;
        self.create(&parent, &base, member, data)?;
        if member.kind == EntryType::Directory {
            if was_hidden {
                make_opaque(&parent, &base).map_err(fault("make opaque", member))?;
            }
            path.push(base);
            self.remember(path, member.mtime);
            if self.folder_bytes > FOLDER_BYTES_MAX {
                return Err(UnpackError::Limit(format!("{FOLDER_BYTES_MAX} bytes of folder names")));
            }
        }
        Ok(())
    }

    fn remember(&mut self, path: Vec<Vec<u8>>, mtime: (i64, u32)) {
        self.folder_bytes += path.iter().map(|component| component.len() + 32).sum::<usize>();
        self.folders.push((path, mtime));
    }

    /// A readable handle of the root, which is itself only a place.
    fn root_folder(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn parent(&mut self, path: &[Vec<u8>], member: &Member) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((recent, folder)) = &self.recent
            && recent == path
        {
            return Ok(folder.clone());
        }
        let folder = Rc::new(self.folder(path, 0).map_err(fault("open parent of", member))?);
        self.recent = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// The folder at `path`, made where the archive left it out.
    fn folder(&self, path: &[Vec<u8>], links: usize) -> Result<OwnedFd, Errno> {
        match resolve(&self.root, path, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let Some((base, above)) = path.split_last() else { return Err(Errno::NOENT) };
        let parent = self.folder(above, links)?;
        match rustix::fs::mkdirat(&parent, base.as_slice(), Mode::from_raw_mode(0o755)) {
            Ok(()) => self.inherit(&parent, path, base)?,
            // A link to a folder that only a layer below has: the folder is made where the link leads.
            Err(Errno::EXIST) if links < LINKS_MAX => {
                let target = rustix::fs::readlinkat(&parent, base.as_slice(), Vec::new())?;
                let target = target.as_bytes();
                let mut led = if target.starts_with(b"/") { Vec::new() } else { above.to_vec() };
                extend(&mut led, target);
                return self.folder(&led, links + 1);
            }
            Err(Errno::EXIST) => return Err(Errno::LOOP),
            Err(errno) => return Err(errno),
        }
        resolve(&self.root, path, OFlags::empty())
    }

    /// Gives a folder that the archive left out the owner and mode it has in the layers below, which it now covers.
    fn inherit(&self, parent: &OwnedFd, path: &[Vec<u8>], base: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, base, flags, Mode::empty())?;
        for below in &self.parents {
            match resolve(below, path, OFlags::NOFOLLOW) {
                Ok(folder) => {
                    let stat = rustix::fs::statat(&folder, "", AtFlags::EMPTY_PATH)?;
                    rustix::fs::fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                    return rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777));
                }
                Err(Errno::NOENT) => {}
                // Removed or no folder there: nothing below is visible.
                Err(_) => break,
            }
        }
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
    }

    /// Removes what the new entry replaces; says whether the layer hid this name before.
    fn make_room(&mut self, parent: &OwnedFd, base: &[u8], member: &Member) -> Result<bool, UnpackError> {
        let stat = match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(fault("look at", member)(errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory && member.kind == EntryType::Directory {
            return Ok(false);
        }
        // The handle kept may be of what goes now, or lead through it.
        self.recent = None;
        if kind == FileType::Directory {
            let path = place(parent, base);
            let failed = |source| UnpackError::Write { path: shown(&member.path), source };
            std::fs::remove_dir_all(path).map_err(failed)?;
            return Ok(false);
        }
        rustix::fs::unlinkat(parent, base, AtFlags::empty()).map_err(fault("replace", member))?;
        Ok(kind == FileType::CharacterDevice && stat.st_rdev == 0)
    }

    fn create(&self, parent: &OwnedFd, base: &[u8], member: &Member, data: &mut impl Read) -> Result<(), UnpackError> {
        let failed = |errno| fault("create", member)(errno);
        match member.kind {
            EntryType::Regular | EntryType::Continuous => return file(parent, base, member, data),
            EntryType::Directory => {
                match rustix::fs::mkdirat(parent, base, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = rustix::fs::openat(parent, base, flags, Mode::empty()).map_err(failed)?;
                return dress(&folder, member).map_err(fault("set owner and mode of", member));
            }
            EntryType::Link => return self.link(parent, base, member).map_err(fault("link", member)),
            EntryType::Symlink => rustix::fs::symlinkat(member.link.as_slice(), parent, base).map_err(failed)?,
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (major, minor) = member.device;
                let (kind, device) = match member.kind {
                    EntryType::Char => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
                    EntryType::Block => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
                    _ => (FileType::Fifo, 0),
                };
                rustix::fs::mknodat(parent, base, kind, Mode::from_raw_mode(member.mode), device).map_err(failed)?;
            }
            _ => return Err(UnpackError::Refused { path: shown(&member.path), why: "unhandled kind of entry" }),
        }
        dress_at(parent, base, member).map_err(fault("set owner and mode of", member))
    }

    /// A hard link shares its target's inode, so there is nothing to dress. Its target must be in this layer.
    fn link(&self, parent: &OwnedFd, base: &[u8], member: &Member) -> Result<(), Errno> {
        let mut path = components(&member.link);
        let target = path.pop().ok_or(Errno::NOENT)?;
        let folder = resolve(&self.root, &path, OFlags::empty())?;
        rustix::fs::linkat(&folder, target.as_slice(), parent, base, AtFlags::empty())
    }

    /// Sets the folders' times, now that nothing is put into them any more.
    fn finish(self) -> Result<(), UnpackError> {
        for (path, mtime) in &self.folders {
            let failed =
                |source| UnpackError::Entry { operation: "set time of", path: shown(&path.join(&b'/')), source };
            match resolve(&self.root, path, OFlags::NOFOLLOW) {
                Ok(folder) => {
                    rustix::fs::utimensat(&folder, ".", &times(*mtime), AtFlags::empty()).map_err(failed)?;
                }
                // Replaced by a later entry of the same archive.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }
}

/// Opens a folder below `root`, which no name, link or `..` leads out of.
fn resolve(root: &OwnedFd, path: &[Vec<u8>], flags: OFlags) -> Result<OwnedFd, Errno> {
    let joined = if path.is_empty() { b".".to_vec() } else { path.join(&b'/') };
    let flags = flags | OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolving = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, joined.as_slice(), flags, Mode::empty(), resolving)
}

/// A name's parts without `.` and empty ones; `..` takes one back and stops at the root, as in a chroot.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    extend(&mut parts, path);
    parts
}

fn extend(parts: &mut Vec<Vec<u8>>, path: &[u8]) {
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part.to_vec()),
        }
    }
}

fn file(parent: &OwnedFd, base: &[u8], member: &Member, data: &mut impl Read) -> Result<(), UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened =
        rustix::fs::openat(parent, base, flags, Mode::from_raw_mode(0o600)).map_err(fault("create", member))?;
    let mut file = File::from(opened);
    let copied = io::copy(&mut data.take(member.size), &mut file)
        .map_err(|source| UnpackError::Write { path: shown(&member.path), source })?;
    if copied != member.size {
        return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    dress(&file, member).map_err(fault("set owner and mode of", member))
}

/// Owner first: changing it clears the set-user-id bit and file capabilities.
fn dress(file: &impl AsFd, member: &Member) -> Result<(), Errno> {
    let (uid, gid) = member.owner;
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode))?;
    for (name, value) in &member.xattrs {
        set_xattr(name, |name| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()))?;
    }
    rustix::fs::futimens(file, &times(member.mtime))
}

/// The same for what must not be opened: links, devices, pipes.
fn dress_at(parent: &OwnedFd, base: &[u8], member: &Member) -> Result<(), Errno> {
    let (uid, gid) = member.owner;
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, base, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), no_follow)?;
    if member.kind != EntryType::Symlink {
        rustix::fs::chmodat(parent, base, Mode::from_raw_mode(member.mode), AtFlags::empty())?;
    }
    let path = place(parent, base);
    for (name, value) in &member.xattrs {
        set_xattr(name, |name| rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()))?;
    }
    rustix::fs::utimensat(parent, base, &times(member.mtime), no_follow)
}

/// Names in `trusted.` steer the overlay itself, so an image may not set them; what the file system does not keep is
/// left out. Both as containerd does.
fn set_xattr(name: &[u8], set: impl FnOnce(&[u8]) -> Result<(), Errno>) -> Result<(), Errno> {
    if name.starts_with(b"trusted.") {
        debug!(name = %shown(name), "extended attribute of an image left out");
        return Ok(());
    }
    match set(name) {
        Err(Errno::NOTSUP) => {
            debug!(name = %shown(name), "file system does not keep extended attribute");
            Ok(())
        }
        result => result,
    }
}

/// Hides a name of the layers below, or with the opaque marker all names in the folder.
fn whiteout(parent: &OwnedFd, base: &[u8], hidden: &[u8], member: &Member) -> Result<(), Errno> {
    if base == WHITEOUT_OPAQUE {
        return make_opaque(parent, b".");
    }
    match rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
        // A whiteout never concerns its own layer. What the layer has of that name covers the layers below already,
        // except that a folder would be merged with theirs.
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => make_opaque(parent, hidden),
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?;
            let (uid, gid) = (Uid::from_raw(member.owner.0), Gid::from_raw(member.owner.1));
            rustix::fs::chownat(parent, hidden, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        Err(errno) => Err(errno),
    }
}

fn make_opaque(parent: &OwnedFd, base: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent, base, flags, Mode::empty())?;
    rustix::fs::fsetxattr(&folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// A path to an entry of an open folder, for calls that take no handle. The folder cannot be swapped underneath.
fn place(parent: &OwnedFd, base: &[u8]) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", parent.as_raw_fd())).join(OsStr::from_bytes(base))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn fault(operation: &'static str, member: &Member) -> impl FnOnce(Errno) -> UnpackError + use<> {
    let path = shown(&member.path);
    move |source| UnpackError::Entry { operation, path, source }
}

#[cfg(test)]
mod tests;
