//! What a supervisor is told to make: a sandbox, a container, a process.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{choice, record};

record! {
    /// A sandbox, given to the supervisor at its start.
    SandboxSpec {
        /// [`crate::VERSION`].
        version: u32,
        /// The host name in a name space of its own; empty stays in the machine's.
        hostname: String,
        /// Whether it has a network of its own.
        network: bool,
        /// Whether it has interprocess communication of its own.
        ipc: bool,
        /// Whether its containers share one process namespace.
        shared_pid: bool,
        /// Kernel parameters, as paths below `/proc/sys` and values.
        sysctls: Vec<Pair>,
        /// Control groups that the supervisor itself joins.
        cgroup: CgroupSpec,
        /// Who is killed first when memory runs out; raised to what the kernel allows.
        oom_score_adj: i32,
        /// Size of the shared memory that its containers see at `/dev/shm`; 0 makes none.
        shm_bytes: u64,
        /// When log files are rotated.
        log: LogLimits,
        /// The users that it has of its own.
        users: Users,
    }
}

record! {
    /// Users and groups of the machine that stand for a pod's own, from 0 on.
    Users {
        /// The machine's number of the pod's 0.
        first: u32,
        /// How many there are; 0 for a pod that has the machine's.
        length: u32,
    }
}

record! {
    /// A name and its value.
    Pair {
        /// The name.
        name: String,
        /// The value.
        value: String,
    }
}

record! {
    /// When log files are rotated.
    LogLimits {
        /// Bytes of a file that is not rotated yet; 0 never rotates.
        bytes_max: u64,
        /// How many files are kept, the current one included.
        files_max: u32,
    }
}

record! {
    /// Control groups that exist already.
    CgroupSpec {
        /// Their folders: one of the unified hierarchy, or one of each hierarchy of version 1.
        folders: Vec<String>,
        /// Whether it is the unified hierarchy.
        unified: bool,
        /// The file in which a line `oom_kill N` counts processes killed for memory; empty counts none.
        oom_file: String,
    }
}

record! {
    /// A container, given with the request to create it.
    ContainerSpec {
        /// [`crate::VERSION`].
        version: u32,
        /// Its first process.
        process: ProcessSpec,
        /// Its root file system.
        root: RootSpec,
        /// What is mounted into it, in this order.
        mounts: Vec<MountSpec>,
        /// Its device files.
        devices: Vec<DeviceSpec>,
        /// Paths that are hidden.
        masked_paths: Vec<String>,
        /// Paths that cannot be written.
        readonly_paths: Vec<String>,
        /// Whose process namespace it lives in.
        pid: PidMode,
        /// With [`PidMode::Target`]: a process of that namespace.
        pid_target: u32,
        /// Its control groups.
        cgroup: CgroupSpec,
        /// Its standard streams.
        io: IoSpec,
        /// The users that its pod has of its own.
        users: Users,
    }
}

choice! {
    /// Whose process namespace a container lives in.
    PidMode {
        /// Its own.
        #[default]
        Own = 0,
        /// The sandbox's shared one.
        Pod = 1,
        /// The machine's.
        Host = 2,
        /// That of a given process.
        Target = 3,
    }
}

record! {
    /// A root file system of layers.
    RootSpec {
        /// Folder to mount it on; nobody outside of the container sees it there.
        target: String,
        /// Read-only layers, the lowest first.
        layers: Vec<String>,
        /// The folder for what is changed.
        upper: String,
        /// An empty folder on the same disk.
        work: String,
        /// Whether it cannot be written.
        readonly: bool,
    }
}

choice! {
    /// What kind of thing is mounted.
    MountKind {
        /// A file or folder of the machine.
        #[default]
        Bind = 0,
        /// A new file system, whose type is the mount's `source`.
        New = 1,
        /// The control groups of version 1 whose controller (or `name=`) is the mount's `source`.
        CgroupV1 = 2,
        /// An image's layers, read-only; the mount's `source` is a folder to put them together on.
        Layers = 3,
    }
}

choice! {
    /// Whether later mounts are seen on the other side.
    Propagation {
        /// No.
        #[default]
        Private = 0,
        /// The container sees the machine's.
        Slave = 1,
        /// Both see each other's.
        Shared = 2,
    }
}

record! {
    /// One mount.
    MountSpec {
        /// What kind.
        kind: MountKind,
        /// Path of the machine, type of file system, or controller.
        source: String,
        /// For a bind or layers: what below `source`, never left by whatever links; empty is itself.
        below: String,
        /// Where in the container.
        target: String,
        /// Options of a new file system.
        options: Vec<Pair>,
        /// `MOUNT_ATTR_*` bits.
        attributes: u64,
        /// Whether the attributes hold for what is mounted below a bind, too.
        recursive: bool,
        /// Propagation of a bind.
        propagation: Propagation,
        /// With [`MountKind::Layers`]: the layers, the lowest first, two at least.
        layers: Vec<String>,
        /// Whether files that belong to the machine's users belong to the pod's in here.
        mapped: bool,
    }
}

record! {
    /// A device file.
    DeviceSpec {
        /// Where in the container.
        path: String,
        /// Type and permission bits, as in `st_mode`.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// Owner.
        uid: u32,
        /// Owning group.
        gid: u32,
    }
}

record! {
    /// A container's standard streams.
    IoSpec {
        /// Whether standard input stays open; else it is empty.
        stdin: bool,
        /// Whether there is a terminal.
        tty: bool,
        /// The log file; empty writes none.
        log_path: String,
        /// Whether standard input ends with the first one attached to it.
        stdin_once: bool,
    }
}

record! {
    /// A process to be run in a container.
    ProcessSpec {
        /// [`crate::VERSION`].
        version: u32,
        /// Program and arguments.
        args: Vec<String>,
        /// Environment, as `NAME=value`.
        env: Vec<String>,
        /// Working directory, absolute.
        cwd: String,
        /// Who it runs as, by the image's files.
        user: UserSpec,
        /// Who it runs as, when that is known; then `user` does not count.
        identity: Option<Identity>,
        /// What it may do.
        privileges: Privileges,
        /// Limits.
        rlimits: Vec<Rlimit>,
        /// Who is killed first when memory runs out; raised to what the kernel allows.
        oom_score_adj: i32,
        /// Whether it has a terminal.
        tty: bool,
    }
}

record! {
    /// A user as asked for.
    UserSpec {
        /// `""`, `uid`, `name`, `uid:gid`, `name:group` …
        user: String,
        /// Further groups.
        groups: Vec<u32>,
        /// Whether the groups that the image's files give the user count, too.
        image_groups: bool,
    }
}

record! {
    /// A user as found.
    Identity {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// All groups, the primary one included.
        groups: Vec<u32>,
        /// Home folder.
        home: String,
    }
}

record! {
    /// What a process may do.
    Privileges {
        /// Bounding set, a bit per capability.
        bounding: u64,
        /// Effective and permitted set.
        effective: u64,
        /// Inheritable set.
        inheritable: u64,
        /// Ambient set.
        ambient: u64,
        /// Whether no program can gain privileges.
        no_new_privs: bool,
        /// System call filters, in the order of installation.
        seccomp: Vec<Filter>,
    }
}

record! {
    /// A program for the kernel's system call filter.
    Filter {
        /// Its instructions, each eight bytes as the kernel lays them out.
        instructions: Vec<u64>,
    }
}

record! {
    /// One limit of a process.
    Rlimit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    }
}
