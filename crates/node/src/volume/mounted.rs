//! Mounts below the folders of pods: what is there, and how it goes before the folders do.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

/// How often what is mounted is looked at again after some of it was unmounted.
const ROUNDS_MAX: u32 = 8;

/// A mount of this process's view.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    shared: bool,
}

/// The lines of `/proc/self/mountinfo`, in the order in which they were mounted.
fn parse(text: &[u8]) -> Vec<Mounted> {
    let line = |line: &[u8]| {
        let mut words = line.split(|byte| *byte == b' ');
        let point = PathBuf::from(OsString::from_vec(unescape(words.nth(4)?)));
        let shared = words.skip(1).take_while(|word| *word != b"-").any(|word| word.starts_with(b"shared:"));
        Some(Mounted { point, shared })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn read() -> io::Result<Vec<Mounted>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// Unmounts everything at and below `folder`: our own, and what containers let be seen on this side. What still is
/// mounted then must not be removed: it may be anybody's.
pub fn clear(folder: &Path) -> io::Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    for _ in 0..ROUNDS_MAX {
        let points: Vec<PathBuf> =
            read()?.into_iter().map(|mounted| mounted.point).filter(|point| point.starts_with(&folder)).collect();
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Gone with another one.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                outcome => outcome?,
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("something stays mounted below {}", folder.display())))
}

/// Removes a folder of pods with all it holds, but nothing that is only mounted there.
pub fn remove(folder: &Path) -> io::Result<()> {
    clear(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sees to it that mounts below `folder` are seen by those who share it. Upstream does it for its whole folder of pods.
pub fn share(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    let mounts = read()?;
    // The longest path, and of the same the last one, is what is seen.
    let holder = mounts.iter().filter(|mounted| folder.starts_with(&mounted.point)).enumerate();
    let holder = holder.max_by_key(|(place, mounted)| (mounted.point.as_os_str().len(), *place));
    if holder.is_some_and(|(_, mounted)| mounted.shared) {
        return Ok(());
    }
    mount_bind(&folder, &folder)?;
    Ok(mount_change(&folder, MountPropagationFlags::SHARED)?)
}

/// Mounts a new file system unless `folder` is one already.
pub fn mount_new(folder: &Path, kind: &str, options: &str) -> io::Result<()> {
    if is_mounted(folder)? {
        return Ok(());
    }
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount(kind, folder, kind, flags, options.as_c_str())?)
}

fn is_mounted(folder: &Path) -> io::Result<bool> {
    let folder = folder.canonicalize()?;
    Ok(read()?.iter().any(|mounted| mounted.point == folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_mounted() {
        let text =
            b"22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n30 22 0:5 / /a\\040b\\134c rw - tmpfs tmpfs rw\n";
        let expected =
            [("/sys", true), ("/a b\\c", false)].map(|(point, shared)| Mounted { point: point.into(), shared });
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn what_is_mounted_in_a_pods_folder_outlives_it() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("not root: nothing can be mounted, so this is not tested");
        }
        let root = std::env::temp_dir().join(format!("isopod-node-mounted-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        for folder in ["pod/volume/deep", "precious"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("precious/file"), "").unwrap();
        share(&root.join("pod/volume")).unwrap();
        share(&root.join("pod/volume")).unwrap();
        mount_bind(root.join("precious"), root.join("pod/volume/deep")).unwrap();
        mount_new(&root.join("pod"), "tmpfs", "size=4096").unwrap();
        mount_new(&root.join("pod"), "tmpfs", "size=4096").unwrap();
        remove(&root.join("pod")).unwrap();
        assert!(root.join("precious/file").exists());
        assert!(!root.join("pod").exists());
        remove(&root.join("pod")).unwrap();
        fs::remove_dir_all(&root).unwrap();
    }
}
