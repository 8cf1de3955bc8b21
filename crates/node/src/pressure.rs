//! How much memory, disk and process ids the machine has left.

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
    /// Bytes.
    pub disk: (u64, u64),
    pub inodes: (u64, u64),
    pub pids: (u64, u64),
}

impl Room {
    /// Asks the machine; `disk` is on the file system of pods and images.
    pub fn read(disk: &std::path::Path) -> Room {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let bytes = |name: &str| {
            let amount = memory.lines().find_map(|line| line.strip_prefix(name))?;
            amount.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
        };
        let disk = rustix::fs::statvfs(disk).map(|disk| {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
            ((bytes(disk.f_blocks), bytes(disk.f_bavail)), (disk.f_files, disk.f_favail))
        });
        let (disk, inodes) = disk.unwrap_or_default();
        let pids_max: u64 = text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0);
        // The fourth field is `running/all` of the kernel's tasks.
        let load = text("/proc/loadavg");
        let tasks =
            load.split_whitespace().nth(3).and_then(|pair| pair.split_once('/')).and_then(|(_, all)| all.parse().ok());
        Room {
            memory: bytes("MemTotal:").zip(bytes("MemAvailable:")).unwrap_or_default(),
            disk,
            inodes,
            pids: (pids_max, pids_max.saturating_sub(tasks.unwrap_or(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_machine() {
        let room = Room::read(&std::env::temp_dir());
        assert!(room.memory.1 > 0 && room.disk.0 > 0 && room.pids.0 > 0, "{room:?}");
    }
}
