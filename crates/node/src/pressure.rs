//! How much memory, disk and process ids the machine has left.

use std::path::{Path, PathBuf};

/// Folders on the file systems that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// On that of pods: their volumes and logs. Upstream: `nodefs`.
    pub pods: PathBuf,
    /// On that of images and of what containers write beside volumes. Upstream: `imagefs`.
    pub images: PathBuf,
}

impl Disks {
    /// Everything on one.
    pub fn one(folder: &Path) -> Disks {
        Disks { pods: folder.to_path_buf(), images: folder.to_path_buf() }
    }

    /// Whether images have a file system of their own.
    pub fn are_apart(&self) -> bool {
        let device = |folder: &Path| rustix::fs::stat(folder).map(|stat| stat.st_dev).ok();
        matches!((device(&self.pods), device(&self.images)), (Some(pods), Some(images)) if pods != images)
    }
}

/// What the machine runs short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// What the machine has, and how much of it is left; a capacity of 0 is one that could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub memory: (u64, u64),
    /// Bytes of the file system of pods.
    pub disk: (u64, u64),
    pub inodes: (u64, u64),
    /// Bytes of the file system of images and of what containers write; mostly the same.
    pub image_disk: (u64, u64),
    pub image_inodes: (u64, u64),
    pub pids: (u64, u64),
}

/// Bytes and inodes of a file system.
fn of_disk(folder: &Path) -> ((u64, u64), (u64, u64)) {
    let disk = rustix::fs::statvfs(folder).map(|disk| {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        ((bytes(disk.f_blocks), bytes(disk.f_bavail)), (disk.f_files, disk.f_favail))
    });
    disk.unwrap_or_default()
}

impl Room {
    /// Asks the machine.
    pub fn read(disks: &Disks) -> Room {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let bytes = |name: &str| {
            let amount = memory.lines().find_map(|line| line.strip_prefix(name))?;
            amount.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
        };
        let (disk, inodes) = of_disk(&disks.pods);
        let (image_disk, image_inodes) = of_disk(&disks.images);
        let pids_max: u64 = text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0);
        // The fourth field is `running/all` of the kernel's tasks.
        let load = text("/proc/loadavg");
        let tasks =
            load.split_whitespace().nth(3).and_then(|pair| pair.split_once('/')).and_then(|(_, all)| all.parse().ok());
        Room {
            memory: bytes("MemTotal:").zip(bytes("MemAvailable:")).unwrap_or_default(),
            disk,
            inodes,
            image_disk,
            image_inodes,
            pids: (pids_max, pids_max.saturating_sub(tasks.unwrap_or(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let disks = Disks::one(&std::env::temp_dir());
        let room = Room::read(&disks);
        assert!(room.memory.1 > 0 && room.disk.0 > 0 && room.pids.0 > 0, "{room:?}");
        assert_eq!((room.image_disk.0, disks.are_apart()), (room.disk.0, false));
        assert!(Disks { images: "/proc".into(), ..disks }.are_apart());
    }
}
