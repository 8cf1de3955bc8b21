//! From the program that the agent ran to a supervisor apart from it.

use alloc::format;
use alloc::string::String;

use shim::VERSION;
use shim::message::{SHM, SOCKET, SPEC_BYTES_MAX};
use shim::spec::SandboxSpec;
use shim::wire::Wire;

use crate::file::{self, During};
use crate::supervisor::{Namespaces, Supervisor};
use crate::sys::{self, CWD, Fd};
use crate::{cgroup, process, users};

/// Starts the supervisor of the sandbox in `folder` and answers once it can be asked. The supervisor is a child that
/// this process leaves behind: it belongs to no session, terminal or waiting parent.
pub(crate) fn start(folder: &str) -> Result<(), String> {
    // Nothing that the agent had open by mistake stays open.
    sys::close_from(3, false).during(|| "close files".into())?;
    let content = file::read_open(0, SPEC_BYTES_MAX).during(|| "read specification".into())?;
    let spec = SandboxSpec::decode(&content).map_err(|_| String::from("read specification: malformed"))?;
    if spec.version != VERSION {
        return Err(format!("read specification: version {} is not known", spec.version));
    }
    let (answer, tell) = sys::pipe().during(|| "make pipe".into())?;
    match sys::fork(0, None).during(|| "fork".into())? {
        Some(_) => {
            drop(tell);
            let text = file::read_open(answer.raw(), 4096).during(|| "hear from supervisor".into())?;
            if text == b"ok" { Ok(()) } else { Err(String::from_utf8(text).unwrap_or_default()) }
        }
        None => {
            drop(answer);
            live(spec, folder, tell)
        }
    }
}

fn live(spec: SandboxSpec, folder: &str, tell: Fd) -> ! {
    match prepare(spec, folder) {
        Ok(mut supervisor) => {
            drop(file::write_all(tell.raw(), b"ok"));
            drop(tell);
            supervisor.run()
        }
        Err(text) => {
            drop(file::write_all(tell.raw(), text.as_bytes()));
            sys::exit(1)
        }
    }
}

fn prepare(spec: SandboxSpec, folder: &str) -> Result<Supervisor, String> {
    let error = |what: &'static str| move || String::from(what);
    sys::set_name(c"isopod-shim").during(error("set name"))?;
    sys::setsid().during(error("start session"))?;
    sys::umask(0o022);
    let null = sys::open(CWD, "/dev/null", libc::O_RDWR, 0).during(error("open /dev/null"))?;
    for number in 0..3 {
        sys::dup2(null.raw(), number).during(error("redirect standard streams"))?;
    }
    sys::reset_signals().during(error("reset signals"))?;
    sys::block_signals().during(error("block signals"))?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).during(error("adopt orphans"))?;
    // The agent does without huge pages, and says so for all its children; containers decide for themselves.
    sys::prctl(libc::PR_SET_THP_DISABLE, 0).during(error("allow huge pages"))?;
    process::set_oom_score_adj(spec.oom_score_adj);
    cgroup::join(&spec.cgroup)?;
    let children = sys::child_signals().during(error("watch children"))?;
    sys::chdir(folder).during(|| format!("enter {folder}"))?;
    let users = enter_namespaces(&spec)?;
    if spec.shm_bytes != 0 {
        mount_shm(&spec)?;
    }
    let namespaces = Namespaces::open(spec.shared_pid, users)?;
    // Whoever can connect knows that everything above is done.
    let listener = sys::listen(SOCKET).during(error("listen"))?;
    Ok(Supervisor::new(spec, children, listener, namespaces))
}

/// Answers the namespace of the pod's own users, if it has any.
fn enter_namespaces(spec: &SandboxSpec) -> Result<Option<Fd>, String> {
    let kinds = [
        (spec.network, libc::CLONE_NEWNET),
        (spec.ipc, libc::CLONE_NEWIPC),
        (!spec.hostname.is_empty(), libc::CLONE_NEWUTS),
    ];
    let flags = kinds.iter().filter(|(wanted, _)| *wanted).fold(0, |flags, (_, kind)| flags | kind);
    let users = match spec.users.length {
        0 => sys::unshare(flags).map(|()| None).during(|| "make namespaces".into())?,
        _ => Some(users::make(&spec.users, flags)?),
    };
    if !spec.hostname.is_empty() {
        sys::set_hostname(&spec.hostname).during(|| format!("set host name {}", spec.hostname))?;
    }
    if spec.network {
        sys::loopback_up().during(|| "bring up loopback interface".into())?;
    }
    for sysctl in &spec.sysctls {
        file::write(&format!("/proc/sys/{}", sysctl.name), sysctl.value.as_bytes())
            .during(|| format!("set kernel parameter {}", sysctl.name))?;
    }
    Ok(users)
}

fn mount_shm(spec: &SandboxSpec) -> Result<(), String> {
    match sys::mkdir(CWD, SHM, 0o700) {
        Err(sys::Errno(libc::EEXIST)) => {}
        outcome => outcome.during(|| "make folder for shared memory".into())?,
    }
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    let options = format!("mode=1777,size={}", spec.shm_bytes);
    sys::mount("shm", SHM, "tmpfs", flags, &options).during(|| "mount shared memory".into())
}
