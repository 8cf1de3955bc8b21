//! Users of a pod's own: a user namespace in which a range of the machine's users and groups stands for those from 0 on.
//!
//! The supervisor itself stays outside, and so do processes of containers while they still prepare: the machine's files and
//! devices are opened with the machine's privileges, and what is made inside is given to the pod's users.

use alloc::format;
use alloc::string::String;

use shim::spec::Users;

use crate::file::{self, During};
use crate::sys::{self, CWD, Fd};

/// Makes a user namespace and, owned by it, the `others` (`CLONE_NEW*`), into which the calling process goes.
pub(crate) fn make(users: &Users, others: i32) -> Result<Fd, String> {
    let error = || String::from("make namespaces with users of their own");
    let (end, hold) = sys::pipe().during(error)?;
    let flags = (libc::CLONE_NEWUSER | others) as u64;
    let Some(pid) = sys::fork(flags, None).during(error)? else {
        // Its namespaces are all there is of it. It ends when the other end is closed, also by the supervisor's end.
        drop(hold);
        drop(sys::read(end.raw(), &mut [0]));
        sys::exit(0)
    };
    let made = take(users, others, pid);
    drop((end, hold));
    sys::reap(true).during(error)?;
    made
}

fn take(users: &Users, others: i32, pid: i32) -> Result<Fd, String> {
    let map = format!("0 {} {}\n", users.first, users.length);
    for name in ["uid_map", "gid_map"] {
        file::write(&format!("/proc/{pid}/{name}"), map.as_bytes()).during(|| format!("write {name}"))?;
    }
    let open = |name: &str| {
        sys::open(CWD, &format!("/proc/{pid}/ns/{name}"), libc::O_RDONLY, 0).during(|| format!("open {name} namespace"))
    };
    for (name, kind) in [("net", libc::CLONE_NEWNET), ("ipc", libc::CLONE_NEWIPC), ("uts", libc::CLONE_NEWUTS)] {
        if others & kind != 0 {
            sys::setns(open(name)?.raw(), kind).during(|| format!("join {name} namespace"))?;
        }
    }
    open("user")
}

/// Puts the calling process among the pod's users, with every privilege there and none outside. `file` is the namespace, or a
/// process in it.
pub(crate) fn enter(file: i32) -> Result<(), String> {
    sys::setns(file, libc::CLONE_NEWUSER).during(|| "join user namespace".into())
}

/// Lets files behind a detached mount that belong to the machine's users belong to those of the namespace.
pub(crate) fn map(mount: i32, namespace: i32) -> Result<(), String> {
    sys::map_mount(mount, namespace).during(|| "map users (not every file system can do that on every kernel)".into())
}
