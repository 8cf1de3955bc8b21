//! Control groups that the agent made: joining, killing, counting.

use alloc::format;
use alloc::string::String;

use shim::spec::CgroupSpec;

use crate::file::{self, During};
use crate::sys::{self, CWD, Fd, Result};

/// How often a group is read again while its processes end.
const KILL_ROUNDS_MAX: u32 = 200;

/// Moves the calling process into the groups.
pub(crate) fn join(cgroup: &CgroupSpec) -> core::result::Result<(), String> {
    for folder in &cgroup.folders {
        // For one thread, `tasks` is the same as `cgroup.procs` without waiting for all processors to agree.
        let name = if cgroup.unified { "cgroup.procs" } else { "tasks" };
        file::write(&format!("{folder}/{name}"), b"0").during(|| format!("join control group {folder}"))?;
    }
    Ok(())
}

/// The group to be born into, where the kernel can do that.
pub(crate) fn birthplace(cgroup: &CgroupSpec) -> Result<Option<Fd>> {
    match cgroup.folders.first() {
        Some(folder) if cgroup.unified => sys::open(CWD, folder, libc::O_PATH | libc::O_DIRECTORY, 0).map(Some),
        _ => Ok(None),
    }
}

/// Sends SIGKILL to every process of the group until there is none, or as often as makes sense.
pub(crate) fn kill_all(cgroup: &CgroupSpec) {
    let Some(folder) = cgroup.folders.first() else { return };
    if cgroup.unified && file::write(&format!("{folder}/cgroup.kill"), b"1").is_ok() {
        return;
    }
    let path = format!("{folder}/cgroup.procs");
    for _ in 0..KILL_ROUNDS_MAX {
        let processes = read(&path);
        let mut lines = processes.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0).peekable();
        if lines.peek().is_none() {
            return;
        }
        for pid in lines {
            // It may have ended since.
            drop(sys::kill(pid, libc::SIGKILL));
        }
        sys::pause_millisecond();
    }
}

/// How many processes of the group were killed for memory.
pub(crate) fn oom_kills(cgroup: &CgroupSpec) -> u64 {
    let text = read(&cgroup.oom_file);
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// A group's file as text; empty when the group is gone.
fn read(path: &str) -> String {
    let content = file::read_regular(path, 1 << 20).unwrap_or_default();
    String::from_utf8(content).unwrap_or_default()
}
