//! Whole files: read, written, replaced.

use alloc::string::String;
use alloc::vec::Vec;

use crate::sys::{self, CWD, Errno, Result};

/// A failed system call with what it was for, as a text for people.
pub(crate) trait During<T> {
    /// The error as `WHAT: REASON`.
    fn during(self, what: impl FnOnce() -> String) -> core::result::Result<T, String>;
}

impl<T> During<T> for Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> core::result::Result<T, String> {
        self.map_err(|errno| alloc::format!("{}: {errno}", what()))
    }
}

/// What can be read from `file`; an error when it is more than `bytes_max`.
pub(crate) fn read_open(file: i32, bytes_max: usize) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        match sys::read(file, &mut buffer) {
            Ok(0) => return Ok(content),
            Ok(length) => content.extend_from_slice(&buffer[..length]),
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
        if content.len() > bytes_max {
            return Err(Errno(libc::EFBIG));
        }
    }
}

/// What is in the regular file at `path`; a pipe or device there is an error rather than a place to hang.
pub(crate) fn read_regular(path: &str, bytes_max: usize) -> Result<Vec<u8>> {
    let file = sys::open(CWD, path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
    if sys::stat(file.raw(), "")?.0 & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno(libc::EINVAL));
    }
    read_open(file.raw(), bytes_max)
}

/// Writes all of `bytes` to a file that exists.
pub(crate) fn write(path: &str, bytes: &[u8]) -> Result<()> {
    let file = sys::open(CWD, path, libc::O_WRONLY, 0)?;
    write_all(file.raw(), bytes)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: i32, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match sys::write(file, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Puts `bytes` in place of what `path` held: a reader sees the old or the new, never a part.
pub(crate) fn replace(path: &str, bytes: &[u8]) -> Result<()> {
    let new = alloc::format!("{path}.new");
    let file = sys::open(CWD, &new, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o600)?;
    write_all(file.raw(), bytes)?;
    sys::rename(&new, path)
}
