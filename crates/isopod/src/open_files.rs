//! How many files this process may have open: as many as it is allowed to ask for. Containers begin with what it began with.
//!
//! A node holds a connection for each watch and some files for each pod; the soft limit of most machines, 1,024, is there for
//! programs that wait with `select`. Upstream's agent asks for a million, and its runtimes give containers the limit of before.

use runtime::OpenFiles;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit; what it was, unless it had none.
pub fn raise() -> Option<OpenFiles> {
    let before = getrlimit(Resource::Nofile);
    let (soft, hard) = (before.current?, before.maximum.unwrap_or(u64::MAX));
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft, "the limit on open files stays as it is");
    }
    Some(OpenFiles { soft, hard })
}
