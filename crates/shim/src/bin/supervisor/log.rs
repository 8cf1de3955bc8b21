//! A container's log file and its rotation.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use shim::spec::LogLimits;

use crate::file;
use crate::sys::{self, CWD, Fd, Result};

/// An open log file.
pub(crate) struct LogFile {
    path: String,
    file: Option<Fd>,
    size_bytes: u64,
    limits: LogLimits,
    /// The time that the file bears which was rotated away last, in nanoseconds.
    rotated_at: i64,
}

impl LogFile {
    /// Opens the log file at `path`, which may exist already.
    pub(crate) fn open(path: &str, limits: &LogLimits) -> Result<LogFile> {
        let mut log = LogFile { path: path.into(), file: None, size_bytes: 0, limits: limits.clone(), rotated_at: 0 };
        log.reopen()?;
        Ok(log)
    }

    /// Opens whatever is at the path now.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW;
        let file = sys::open(CWD, &self.path, flags, 0o640)?;
        self.size_bytes = sys::stat(file.raw(), "")?.1;
        self.file = Some(file);
        Ok(())
    }

    /// Appends whole lines. A container must not stand still because its log cannot be written, so what does not fit on
    /// the disk is lost, as with upstream's runtimes.
    pub(crate) fn append(&mut self, lines: &[u8], now: i64) {
        if self.limits.bytes_max != 0
            && self.size_bytes != 0
            && self.size_bytes + lines.len() as u64 > self.limits.bytes_max
        {
            self.rotate(now);
        }
        if self.file.is_none() {
            drop(self.reopen());
        }
        if let Some(file) = &self.file
            && file::write_all(file.raw(), lines).is_ok()
        {
            self.size_bytes += lines.len() as u64;
        }
    }

    fn rotate(&mut self, now: i64) {
        // Names differ by seconds. A file that is full before its second is over bears a time to come: waiting for that time would
        // let whoever writes fast enough fill the disk.
        let at = now.max(self.rotated_at + 1_000_000_000);
        let old = format!("{}.{}", self.path, shim::time::compact(at));
        if sys::stat(CWD, &old).is_ok() || sys::rename(&self.path, &old).is_err() {
            return;
        }
        self.rotated_at = at;
        self.file = None;
        self.prune();
    }

    /// Removes the oldest rotated files beyond the limit.
    fn prune(&self) {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or((".", &self.path));
        let Ok(folder) = sys::open(CWD, folder, libc::O_RDONLY | libc::O_DIRECTORY, 0) else { return };
        let prefix = format!("{name}.");
        let names = sys::list(folder.raw()).unwrap_or_default();
        let mut rotated: Vec<&str> = names
            .iter()
            .filter_map(|name| core::str::from_utf8(name).ok())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        rotated.sort_unstable();
        let kept = (self.limits.files_max.max(1) - 1) as usize;
        let surplus = rotated.len().saturating_sub(kept);
        for name in &rotated[..surplus] {
            drop(sys::unlink(folder.raw(), name));
        }
    }
}
