//! Further processes in running containers.

use alloc::string::String;
use alloc::vec::Vec;

use shim::spec::ProcessSpec;

use crate::cgroup;
use crate::container::{Asker, Container};
use crate::file::During;
use crate::init;
use crate::sys::{self, CWD, Fd};

/// A further process. It belongs to the connection that asked for it and ends with it.
pub(crate) struct Exec {
    /// Who asked.
    pub(crate) asker: Asker,
    /// The asker's number for it.
    pub(crate) process: u64,
    /// The process.
    pub(crate) pid: i32,
    /// The socket to it, until it runs its program.
    pub(crate) sync: Option<Fd>,
    /// Its terminal, until it is handed to the asker.
    pub(crate) terminal: Option<Fd>,
}

impl Exec {
    /// Starts a process in `container`; `files` are its streams unless it has a terminal. `fork` makes it in the right
    /// process namespace.
    pub(crate) fn start(
        asker: Asker,
        process: u64,
        container: &Container,
        spec: &ProcessSpec,
        files: Vec<Fd>,
        fork: impl FnOnce(Option<i32>) -> sys::Result<Option<i32>>,
    ) -> Result<Exec, String> {
        let null = sys::open(CWD, "/dev/null", libc::O_RDWR, 0).during(|| "open /dev/null".into())?;
        let streams = match (spec.tty, files.as_slice()) {
            (true, []) => [null.raw(); 3],
            (false, [stdin, stdout, stderr]) => [stdin.raw(), stdout.raw(), stderr.raw()],
            _ => return Err("wrong number of streams".into()),
        };
        let init = sys::pidfd_open(container.report.pid as i32).during(|| "find container's process".into())?;
        let (sync, theirs) = sys::socket_pair().during(|| "make socket".into())?;
        let birthplace = cgroup::birthplace(&container.cgroup).during(|| "open control group".into())?;
        let Some(pid) = fork(birthplace.as_ref().map(Fd::raw)).during(|| "fork".into())? else {
            let groups = Some(&container.cgroup).filter(|groups| !groups.unified);
            init::exec(spec, groups, &container.users, init.raw(), streams, theirs.raw())
        };
        Ok(Exec { asker, process, pid, sync: Some(sync), terminal: None })
    }
}
