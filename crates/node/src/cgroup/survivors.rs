//! Ending what lives on in a control group whose owner is gone: a runtime that is killed can lose sight of processes.
//!
//! Upstream: `podContainerManagerImpl.tryKillingCgroupProcesses`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::folders;

/// How long what is killed may take to end. What takes longer hangs in the kernel: whoever asked comes again.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Kills all processes of a group and of those below it, and waits until they have ended.
pub(super) fn end(group: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for pid in processes(group)? {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => found.push((pid, process)),
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    // Numbers may have been taken by others before they were opened: those are not in the group.
    let still_there = processes(group)?;
    found.retain(|(pid, _)| still_there.contains(pid));
    tracing::warn!(group = %group.display(), processes = found.len(), "processes that their runtime lost are killed");
    for (_, process) in &found {
        match pidfd_send_signal(process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.into_iter().try_for_each(|(_, process)| ended(&process))
}

fn ended(process: &OwnedFd) -> io::Result<()> {
    let limit = Timespec::try_from(END_LIMIT).map_err(io::Error::other)?;
    let mut waits = [PollFd::new(process, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut waits, Some(&limit)))?;
    Ok(())
}

/// The processes in a group and in those below it. One of another namespace of numbers has none here.
fn processes(group: &Path) -> io::Result<Vec<Pid>> {
    let text = match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => text,
        // A group that is gone; or one of threads, whose processes are those of a group above.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let own = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?));
    let mut found: Vec<Pid> = own.collect();
    for below in folders(group)? {
        found.append(&mut processes(&below)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_group_and_those_below_it_hold_is_ended_and_nothing_else() {
        let group = std::env::temp_dir().join(format!("isopod-node-survivors-{}", std::process::id()));
        drop(fs::remove_dir_all(&group));
        fs::create_dir_all(group.join("below")).unwrap();
        let sleep = || Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut own, mut below, mut other) = (sleep(), sleep(), sleep());
        fs::write(group.join("cgroup.procs"), format!("{}\n0\n", own.id())).unwrap();
        fs::write(group.join("below/cgroup.procs"), format!("{}\n", below.id())).unwrap();
        end(&group).unwrap();
        assert!(!own.wait().unwrap().success() && !below.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        end(&group.join("absent")).unwrap();
        fs::remove_dir_all(&group).unwrap();
    }
}
