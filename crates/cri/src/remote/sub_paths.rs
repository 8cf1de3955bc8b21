//! Sub paths of mounts: CRI knows whole paths only, so what a sub path names is opened here, without ever leaving its
//! volume, and bound to a place of its own, which the runtime is told instead.
//!
//! Places are `SANDBOX/NAME-ATTEMPT/INDEX` below one folder: what has to be undone is found there also after a restart.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, statat};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};

use crate::beneath;
use crate::container::{ContainerMetadata, Mount};
use crate::error::{Error, Result};

/// Where sub paths are bound.
#[derive(Clone, Debug)]
pub(super) struct SubPaths(PathBuf);

impl SubPaths {
    pub(super) fn new(folder: PathBuf) -> SubPaths {
        SubPaths(folder)
    }

    fn of_container(&self, sandbox_id: &str, metadata: &ContainerMetadata) -> PathBuf {
        self.0.join(sandbox_id).join(format!("{}-{}", metadata.name, metadata.attempt))
    }

    /// The mounts with places in place of their sub paths. Those of images stay: CRI knows them.
    pub(super) fn resolved(
        &self,
        sandbox_id: &str,
        metadata: &ContainerMetadata,
        mut mounts: Vec<Mount>,
    ) -> Result<Vec<Mount>> {
        let folder = self.of_container(sandbox_id, metadata);
        let places = mounts.iter_mut().enumerate().filter(|(_, mount)| {
            // An empty sub path is the volume itself.
            mount.image.is_none() && !mount.sub_path.is_empty()
        });
        for (index, mount) in places {
            let place = folder.join(index.to_string());
            bind(mount, &place).map_err(|error| Error::Mount {
                container_path: mount.container_path.clone(),
                message: error.to_string(),
            })?;
            mount.host_path = place.display().to_string();
            mount.sub_path.clear();
        }
        Ok(mounts)
    }

    /// Undoes what was bound for a container.
    pub(super) fn forget_container(&self, sandbox_id: &str, metadata: &ContainerMetadata) -> Result<()> {
        self.forget(&self.of_container(sandbox_id, metadata), 1)
    }

    /// Undoes what was bound for all containers of a sandbox.
    pub(super) fn forget_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.forget(&self.0.join(sandbox_id), 2)
    }

    /// Undoes what was bound for all sandboxes but these: others were removed behind the agent's back.
    pub(super) fn retain(&self, sandboxes: &[String]) -> Result<()> {
        let failed = |error: io::Error| Error::Internal(format!("list sub paths {}: {error}", self.0.display()));
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if !sandboxes.iter().any(|sandbox| *sandbox.as_str() == *entry.file_name()) {
                self.forget(&entry.path(), 2)?;
            }
        }
        Ok(())
    }

    fn forget(&self, folder: &Path, depth: u32) -> Result<()> {
        unbind(folder, depth)
            .map_err(|error| Error::Internal(format!("unbind sub paths {}: {error}", folder.display())))
    }
}

fn bind(mount: &Mount, place: &Path) -> io::Result<()> {
    if !Path::new(&mount.host_path).exists() {
        std::fs::create_dir_all(&mount.host_path)?;
    }
    let opened = beneath::made(Path::new(&mount.host_path), Path::new(&mount.sub_path))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // What an earlier try that came to nothing has bound.
    unbind(place, 0)?;
    if kind == FileType::Directory {
        std::fs::create_dir(place)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, place, flags, Mode::from_raw_mode(0o600))?;
    }
    Ok(mount_bind_recursive(format!("/proc/self/fd/{}", opened.as_raw_fd()), place)?)
}

/// Unmounts what is mounted `depth` levels below `path`, and removes it. It never goes into what is mounted, and removes only
/// what is empty: nothing of a volume is ever touched.
fn unbind(path: &Path, depth: u32) -> io::Result<()> {
    let is_folder = match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if depth > 0 && is_folder {
        for entry in std::fs::read_dir(path)? {
            unbind(&entry?.path(), depth - 1)?;
        }
        return std::fs::remove_dir(path);
    }
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as the tests of real containers do.
    #[test]
    fn a_sub_path_is_bound_and_undone_without_touching_the_volume() {
        let folder = std::env::temp_dir().join(format!("isopod-cri-sub-paths-{}", std::process::id()));
        let volume = folder.join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("file"), "content").unwrap();
        let paths = SubPaths::new(folder.join("places"));
        let metadata = ContainerMetadata { name: "c".into(), attempt: 1 };
        let mount = |sub_path: &str| Mount {
            host_path: volume.display().to_string(),
            container_path: "/x".into(),
            sub_path: sub_path.into(),
            ..Mount::default()
        };
        let mounts = vec![mount("file"), mount("made/deep"), mount("")];
        for _ in 0..2 {
            let resolved = paths.resolved("s", &metadata, mounts.clone()).unwrap();
            assert_eq!(std::fs::read_to_string(&resolved[0].host_path).unwrap(), "content");
            std::fs::write(Path::new(&resolved[1].host_path).join("new"), "").unwrap();
            assert_eq!(resolved[2].host_path, volume.display().to_string());
            assert!(resolved.iter().all(|mount| mount.sub_path.is_empty()));
        }
        assert!(volume.join("made/deep/new").exists());
        assert!(matches!(
            paths.resolved("s", &metadata, vec![mount("../out")]),
            Err(Error::Mount { container_path, .. }) if container_path == "/x"
        ));
        paths.retain(&["s".to_owned()]).unwrap();
        assert!(folder.join("places/s/c-1/0").exists());
        paths.resolved("lost", &metadata, mounts).unwrap();
        paths.retain(&["s".to_owned()]).unwrap();
        assert!(!folder.join("places/lost").exists() && folder.join("places/s/c-1/0").exists());
        paths.forget_container("s", &metadata).unwrap();
        paths.forget_sandbox("s").unwrap();
        paths.retain(&[]).unwrap();
        paths.forget_sandbox("s").unwrap();
        assert!(!folder.join("places/s").exists());
        assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "content");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
