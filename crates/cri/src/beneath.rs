//! Opening what a mount's sub path names without ever leaving the volume, whatever links are put there meanwhile.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};

/// What `path` names below `volume`, opened as a path only; made as a folder, with its parents, when absent.
pub fn made(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let base = openat(CWD, volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    if let Ok(present) = open(&base, path, flags) {
        return Ok(present);
    }
    let mode = Mode::from_raw_mode(fstat(&base)?.st_mode & 0o7777);
    make(&base, path, mode)?;
    open(&base, path, flags)
}

fn open(base: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(base, path, flags, Mode::empty(), resolve)?)
}

/// Makes `path` with its parents below `base`, never leaving it.
fn make(base: &OwnedFd, path: &Path, mode: Mode) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut prefix = PathBuf::new();
    for component in path.components() {
        let name: &OsStr = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "path leaves its volume")),
        };
        let parent = open(base, if prefix.as_os_str().is_empty() { Path::new(".") } else { &prefix }, flags)?;
        prefix.push(name);
        match mkdirat(&parent, name, mode) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => drop(open(base, &prefix, flags)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
