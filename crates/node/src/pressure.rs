//! Whether the machine runs short of memory, disk or process ids, by upstream's thresholds of eviction.
//!
//! Only told, not acted upon: pods are not evicted for it yet.

/// Upstream: `memory.available<100Mi`.
const MEMORY_BYTES_MIN: u64 = 100 << 20;
/// Upstream: `nodefs.available<10%`, and 5 % of the inodes.
const DISK_PERCENT_MIN: u64 = 10;
const INODES_PERCENT_MIN: u64 = 5;
/// Upstream has no default; with a twentieth left, starting anything may fail.
const PIDS_PERCENT_MIN: u64 = 5;

/// What the machine runs short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// What the machine has and has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub memory_available: u64,
    /// Bytes (or blocks), and how many of them are left.
    pub disk: (u64, u64),
    pub inodes: (u64, u64),
    pub pids: (u64, u64),
}

impl Room {
    /// Asks the machine; `disk` is on the file system of pods and images. What cannot be read counts as plenty.
    pub fn read(disk: &std::path::Path) -> Room {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let kilobytes = available.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        let disk =
            rustix::fs::statvfs(disk).map(|disk| ((disk.f_blocks, disk.f_bavail), (disk.f_files, disk.f_favail)));
        let (disk, inodes) = disk.unwrap_or_default();
        let pids_max: u64 = text("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0);
        // The fourth field is `running/all` of the kernel's tasks.
        let load = text("/proc/loadavg");
        let tasks =
            load.split_whitespace().nth(3).and_then(|pair| pair.split_once('/')).and_then(|(_, all)| all.parse().ok());
        Room {
            memory_available: kilobytes.map_or(u64::MAX, |kilobytes| kilobytes * 1024),
            disk,
            inodes,
            pids: (pids_max, pids_max.saturating_sub(tasks.unwrap_or(0))),
        }
    }

    /// What is short. Pure.
    pub fn pressure(&self) -> Pressure {
        let short = |(all, left): (u64, u64), percent_min: u64| {
            all > 0 && u128::from(left) * 100 < u128::from(all) * u128::from(percent_min)
        };
        Pressure {
            memory: self.memory_available < MEMORY_BYTES_MIN,
            disk: short(self.disk, DISK_PERCENT_MIN) || short(self.inodes, INODES_PERCENT_MIN),
            pids: short(self.pids, PIDS_PERCENT_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(room: Room, expected: Pressure) {
        assert_eq!(room.pressure(), expected, "{room:?}");
    }

    #[test]
    fn tells_what_is_short() {
        let plenty = Room { memory_available: 1 << 30, disk: (100, 10), inodes: (100, 5), pids: (1000, 50) };
        check(plenty, Pressure::default());
        check(Room { memory_available: 99 << 20, ..plenty }, Pressure { memory: true, ..Pressure::default() });
        check(Room { disk: (100, 9), ..plenty }, Pressure { disk: true, ..Pressure::default() });
        check(Room { inodes: (100, 4), ..plenty }, Pressure { disk: true, ..Pressure::default() });
        check(Room { pids: (1000, 49), ..plenty }, Pressure { pids: true, ..Pressure::default() });
        // A file system without inodes of its own is never short of them.
        check(Room { inodes: (0, 0), ..plenty }, Pressure::default());
    }

    #[test]
    fn reads_this_machine() {
        let room = Room::read(&std::env::temp_dir());
        assert!(room.memory_available > 0 && room.disk.0 > 0 && room.pids.0 > 0, "{room:?}");
    }
}
