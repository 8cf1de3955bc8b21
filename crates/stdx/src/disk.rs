//! How much lies below a folder that somebody else may be writing to.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Folders deeper than this are not entered: each level above one that is being read is held open, as far as its other folders are
/// still to be read. That is within what a process may have open that has asked for all it may.
const DEPTH_MAX: usize = 1000;

/// What lies below a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the disk, not of the files: one with holes takes less than its length.
    pub bytes: u64,
    /// Files, folders and links.
    pub files: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.bytes += other.bytes;
        self.files += other.files;
    }
}

/// A folder that is still to be read.
struct Pending {
    parent: Rc<OwnedFd>,
    name: CString,
    depth: usize,
}

/// Adds up what lies below `path`, on its own file system. A file of several names counts once. No link is followed, not
/// even one that takes a folder's place while this looks; what disappears meanwhile is left out.
pub fn usage(path: &Path) -> io::Result<Usage> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let device = rustix::fs::fstat(&top)?.st_dev;
    let (mut usage, mut seen, mut left) = (Usage::default(), BTreeSet::new(), Vec::new());
    let mut next = Some((Rc::new(top), 0));
    while let Some((folder, depth)) = next.take() {
        for entry in Dir::read_from(&*folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(stat) = present(rustix::fs::statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW))? else { continue };
            if stat.st_dev != device {
                continue;
            }
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_folder && stat.st_nlink > 1 && !seen.insert(stat.st_ino) {
                continue;
            }
            usage += Usage { bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512, files: 1 };
            if is_folder && depth < DEPTH_MAX {
                left.push(Pending { parent: folder.clone(), name: name.to_owned(), depth: depth + 1 });
            }
        }
        while next.is_none()
            && let Some(pending) = left.pop()
        {
            let opened = rustix::fs::openat(&*pending.parent, &pending.name, flags, Mode::empty());
            next = present(opened)?.map(|folder| (Rc::new(folder), pending.depth));
        }
    }
    Ok(usage)
}

/// `None` for what was removed, or is something else by now.
fn present<T>(outcome: rustix::io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn counts_what_takes_room_once_and_nothing_outside() {
        let folder = std::env::temp_dir().join(format!("isopod-stdx-disk-{}", std::process::id()));
        let inside = folder.join("inside/deeper");
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("file"), vec![1; 100 << 10]).unwrap();
        fs::hard_link(inside.join("file"), folder.join("inside/same")).unwrap();
        let holes = fs::File::create(inside.join("holes")).unwrap();
        holes.set_len(1 << 30).unwrap();
        fs::create_dir(folder.join("outside")).unwrap();
        fs::write(folder.join("outside/large"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(folder.join("outside"), inside.join("link")).unwrap();
        let found = usage(&folder.join("inside")).unwrap();
        assert_eq!(found.files, 4);
        assert!((100 << 10..200 << 10).contains(&found.bytes), "{found:?}");
        assert!(usage(&inside.join("link")).is_err(), "a link is no folder");
        fs::remove_dir_all(folder).unwrap();
    }
}
