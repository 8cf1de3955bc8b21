//! What a new process of a container does between its birth and its program's start. Everything here runs in the child.

use alloc::format;
use alloc::string::String;

use shim::spec::{CgroupSpec, ContainerSpec, ProcessSpec, Users};

use crate::file::During;
use crate::mounts::{self, Root};
use crate::sys::{self, Fd};
use crate::{cgroup, process, users};

/// Builds a container around the calling process and runs its program. `users` is the namespace of those that its pod has of
/// its own.
pub(crate) fn container(spec: &ContainerSpec, streams: [i32; 3], sync: i32, users: Option<i32>) -> ! {
    if let Err(text) = process::settle(streams, sync, users) {
        // Too early for the socket: the supervisor sees the end alone.
        drop(sys::write(2, text.as_bytes()));
        sys::exit(1)
    }
    process::fail(match build(spec, users.map(|_| process::KEPT)) {
        Ok(()) => String::from("program ended before it began"),
        Err(text) => text,
    })
}

fn build(spec: &ContainerSpec, users: Option<i32>) -> Result<(), String> {
    if !spec.cgroup.unified {
        cgroup::join(&spec.cgroup)?;
    }
    process::set_oom_score_adj(spec.process.oom_score_adj);
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP).during(|| "make namespaces".into())?;
    sys::umask(0);
    let root = Root::mount(spec, users)?;
    root.fill(spec)?;
    root.enter(spec.root.readonly)?;
    sys::umask(0o022);
    make_cwd(&spec.process.cwd, &spec.users)?;
    let identity = process::identity(&spec.process)?;
    let terminal = match spec.io.tty {
        true => Some(console()?),
        false => None,
    };
    process::own_streams(&identity, &spec.users);
    if let Some(namespace) = users {
        users::enter(namespace)?;
        // What is mounted is the pod's users' from here on, who may not take apart what was put together for them.
        sys::unshare(libc::CLONE_NEWNS).during(|| "make mount namespace".into())?;
    }
    process::finish(&spec.process, identity, terminal)
}

/// Makes the working directory when the image lacks it, as upstream's runtimes do.
fn make_cwd(cwd: &str, users: &Users) -> Result<(), String> {
    for (end, _) in cwd.match_indices('/').skip(1).chain([(cwd.len(), "")]) {
        match sys::mkdir(sys::CWD, &cwd[..end], 0o755) {
            Ok(()) => mounts::own(sys::CWD, &cwd[..end], users.first)?,
            // What is wrong with it is told when it is entered.
            Err(_) if sys::stat(sys::CWD, &cwd[..end]).is_ok() => {}
            Err(error) => return Err(format!("mkdir {}: {error}", &cwd[..end])),
        }
    }
    Ok(())
}

/// A terminal that is also seen as `/dev/console`.
fn console() -> Result<Fd, String> {
    let (master, number) = process::open_terminal()?;
    let error = || String::from("mount console");
    let console = sys::open(sys::CWD, "/dev/console", libc::O_RDONLY | libc::O_CREAT | libc::O_NOFOLLOW, 0o666);
    let target = console.and_then(|_| sys::open(sys::CWD, "/dev/console", libc::O_PATH | libc::O_NOFOLLOW, 0));
    let tree = sys::open_tree(sys::CWD, &format!("/dev/pts/{number}"), false).during(error)?;
    sys::move_mount(tree.raw(), target.during(error)?.raw()).during(error)?;
    Ok(master)
}

/// Joins the container whose first process is `init` and runs one more program in it. `groups` are joined first, unless
/// the process was born in them; `users` are those of the container's pod.
pub(crate) fn exec(
    spec: &ProcessSpec,
    groups: Option<&CgroupSpec>,
    users: &Users,
    init: i32,
    streams: [i32; 3],
    sync: i32,
) -> ! {
    if let Err(text) = process::settle(streams, sync, Some(init)) {
        // Too early for the socket: the supervisor sees the end alone.
        drop(sys::write(2, text.as_bytes()));
        sys::exit(1)
    }
    process::fail(match enter(groups, spec.oom_score_adj).and_then(|()| run(spec, users)) {
        Ok(()) => String::from("program ended before it began"),
        Err(text) => text,
    })
}

fn enter(groups: Option<&CgroupSpec>, oom_score_adj: i32) -> Result<(), String> {
    if let Some(groups) = groups {
        cgroup::join(groups)?;
    }
    // Else it had the supervisor's, which is ended last of all. The container's own /proc may be anything.
    process::set_oom_score_adj(oom_score_adj);
    // The process namespace was entered by being born there.
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    sys::setns(process::KEPT, kinds).during(|| "join namespaces".into())
}

fn run(spec: &ProcessSpec, users: &Users) -> Result<(), String> {
    sys::umask(0o022);
    let identity = process::identity(spec)?;
    let terminal = match spec.tty {
        true => Some(process::open_terminal()?.0),
        false => None,
    };
    process::own_streams(&identity, users);
    if users.length != 0 {
        users::enter(process::KEPT)?;
    }
    process::finish(spec, identity, terminal)
}
