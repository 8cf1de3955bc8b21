//! Error numbers of system calls, as text.

use core::fmt;

/// An error number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TEXTS.iter().find(|(number, _)| *number == self.0) {
            Some((_, text)) => formatter.write_str(text),
            None => write!(formatter, "errno {}", self.0),
        }
    }
}

/// The system's own texts in lower case, as Go prints them, for what can happen to a container's start.
const TEXTS: [(i32, &str); 36] = [
    (libc::EPERM, "operation not permitted"),
    (libc::ENOENT, "no such file or directory"),
    (libc::ESRCH, "no such process"),
    (libc::EINTR, "interrupted system call"),
    (libc::EIO, "input/output error"),
    (libc::ENXIO, "no such device or address"),
    (libc::E2BIG, "argument list too long"),
    (libc::ENOEXEC, "exec format error"),
    (libc::EBADF, "bad file descriptor"),
    (libc::ECHILD, "no child processes"),
    (libc::EAGAIN, "resource temporarily unavailable"),
    (libc::ENOMEM, "cannot allocate memory"),
    (libc::EACCES, "permission denied"),
    (libc::EFAULT, "bad address"),
    (libc::EBUSY, "device or resource busy"),
    (libc::EEXIST, "file exists"),
    (libc::EXDEV, "invalid cross-device link"),
    (libc::ENODEV, "no such device"),
    (libc::ENOTDIR, "not a directory"),
    (libc::EISDIR, "is a directory"),
    (libc::EINVAL, "invalid argument"),
    (libc::ENFILE, "too many open files in system"),
    (libc::EMFILE, "too many open files"),
    (libc::ENOTTY, "inappropriate ioctl for device"),
    (libc::ETXTBSY, "text file busy"),
    (libc::EFBIG, "file too large"),
    (libc::ENOSPC, "no space left on device"),
    (libc::EROFS, "read-only file system"),
    (libc::EPIPE, "broken pipe"),
    (libc::ENAMETOOLONG, "file name too long"),
    (libc::ENOSYS, "function not implemented"),
    (libc::ENOTEMPTY, "directory not empty"),
    (libc::ELOOP, "too many levels of symbolic links"),
    (libc::EOPNOTSUPP, "operation not supported"),
    (libc::EADDRINUSE, "address already in use"),
    (libc::EDQUOT, "disk quota exceeded"),
];
