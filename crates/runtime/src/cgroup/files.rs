//! The files of one control group.

use std::io;
use std::path::Path;

use super::values::Setting;
use super::{Result, failed};

/// How deep groups are nested that are removed.
const DEPTH_MAX: u32 = 16;

/// A file's text.
pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

/// Writes `value` in one system call, as control groups want it.
pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(failed("write", path))
}

/// Writes a setting in the group's `folder`; an optional one's file may be missing.
pub(super) fn apply(folder: &Path, setting: &Setting) -> Result<()> {
    let path = folder.join(&setting.file);
    if setting.optional && !path.exists() {
        return Ok(());
    }
    write(&path, &setting.value)
}

/// Sends SIGKILL to all processes of the group in `folder` and of its children.
pub(super) fn kill(folder: &Path) -> Result<()> {
    let switch = folder.join("cgroup.kill");
    if switch.exists() {
        return write(&switch, "1");
    }
    walk(folder, 0, &mut |folder| {
        for line in processes(folder)?.lines() {
            let pid = line.parse().ok().and_then(rustix::process::Pid::from_raw);
            match pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL)) {
                Some(Err(error)) if error != rustix::io::Errno::SRCH => {
                    return Err(failed("kill processes of", folder)(error.into()));
                }
                _ => {}
            }
        }
        Ok(())
    })
}

/// Whether neither the group in `folder` nor a child has a process.
pub(super) fn is_empty(folder: &Path) -> bool {
    let mut empty = true;
    let walked = walk(folder, 0, &mut |folder| {
        empty &= processes(folder)?.trim().is_empty();
        Ok(())
    });
    walked.is_ok() && empty
}

/// Removes the group in `folder`, children first.
pub(super) fn remove(folder: &Path) -> Result<()> {
    walk(folder, 0, &mut |folder| match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove control group", folder)(error)),
        _ => Ok(()),
    })
}

fn processes(folder: &Path) -> Result<String> {
    match std::fs::read_to_string(folder.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        outcome => outcome.map_err(failed("read processes of", folder)),
    }
}

/// Visits a folder and all below, children first; a missing one is nothing to visit.
fn walk(folder: &Path, depth: u32, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", folder))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < DEPTH_MAX {
            walk(&entry.path(), depth + 1, visit)?;
        }
    }
    visit(folder)
}
