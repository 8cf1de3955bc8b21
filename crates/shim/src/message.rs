//! Requests to a supervisor, its answers and its announcements. Each is one packet on its socket.

use alloc::string::String;
use alloc::vec::Vec;

use crate::spec::Identity;
use crate::{choice, record};

/// The socket's name in the sandbox's folder.
pub const SOCKET: &str = "socket";
/// The name of the file with a container's last [`Report`], in the folder named like the container.
pub const REPORT: &str = "report";
/// The folder of the shared memory, in the sandbox's folder.
pub const SHM: &str = "shm";
/// The largest packet in either direction.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;
/// The largest [`crate::spec::ContainerSpec`] or [`crate::spec::ProcessSpec`].
pub const SPEC_BYTES_MAX: usize = 4 << 20;
/// The most containers in a sandbox, ended ones included.
pub const CONTAINERS_MAX: usize = 512;
/// The most processes that run by [`Op::Exec`] at once.
pub const EXECS_MAX: usize = 256;

/// With [`Op::Attach`]: the container's input is wanted.
pub const ATTACH_STDIN: i32 = 1;
/// With [`Op::Attach`]: the next file gets what the container writes to its standard output, or to its terminal.
pub const ATTACH_STDOUT: i32 = 2;
/// With [`Op::Attach`]: the next file gets what the container writes to its standard error.
pub const ATTACH_STDERR: i32 = 4;
/// The most copies of one output.
pub const COPIES_MAX: usize = 64;

choice! {
    /// What is asked.
    Op {
        /// Who are you, and what runs? Answered with `version` and `reports`.
        #[default]
        Hello = 0,
        /// Makes a container up to the point where its program would start; comes with a [`crate::spec::ContainerSpec`].
        Create = 1,
        /// Lets a created container's program start.
        Start = 2,
        /// Sends `signal` to a container's first process.
        Signal = 3,
        /// Sends SIGKILL to all processes of a container.
        KillAll = 4,
        /// Forgets a container that has ended.
        Delete = 5,
        /// Runs one more process; comes with a [`crate::spec::ProcessSpec`] and, without a terminal, with the three
        /// ends for its standard streams. Answered once its program runs, with the terminal's other end.
        Exec = 6,
        /// Sends `signal` to the process that [`Op::Exec`] started under the number `process` on this connection.
        ExecSignal = 7,
        /// Opens a container's log file anew.
        ReopenLog = 8,
        /// Answers with a new TCP socket of the sandbox's network, of address family `signal`.
        Socket = 9,
        /// Kills everything and ends; answered when all is dead.
        Shutdown = 10,
        /// Joins a running container's standard streams, as the `ATTACH_` bits of `signal` say; comes with the ends of
        /// pipes that get copies of its outputs. Answered with the terminal's other end, or with that of its input.
        Attach = 11,
    }
}

record! {
    /// A request.
    Request {
        /// Chosen by the asker, not 0; the answer carries it.
        id: u64,
        /// What is asked.
        op: Op,
        /// Which container.
        container: String,
        /// Which further process, chosen by the asker.
        process: u64,
        /// A signal number.
        signal: i32,
    }
}

choice! {
    /// What an answer or announcement says.
    Kind {
        /// It was done.
        #[default]
        Done = 0,
        /// It was not done; `text` says why.
        Failed = 1,
        /// There is no such container or process.
        Missing = 2,
        /// The process could not be started; `text` says why.
        StartFailed = 3,
        /// Announced: a container's first process has ended; `reports` has the container.
        Exited = 4,
        /// Announced: the further process `process` has ended with `code`.
        ExecExited = 5,
    }
}

record! {
    /// An answer, or an announcement (then `id` is 0).
    Reply {
        /// The request's.
        id: u64,
        /// What happened.
        kind: Kind,
        /// Why, for people.
        text: String,
        /// [`crate::VERSION`] of the supervisor.
        version: u32,
        /// Containers.
        reports: Vec<Report>,
        /// A further process's number.
        process: u64,
        /// Its exit code.
        code: i32,
    }
}

choice! {
    /// Where a container is in its life.
    State {
        /// Being made, or made.
        #[default]
        Created = 0,
        /// Running.
        Running = 1,
        /// Ended.
        Exited = 2,
    }
}

record! {
    /// A container as its supervisor knows it; also kept in a file.
    Report {
        /// [`crate::VERSION`].
        version: u32,
        /// The container.
        container: String,
        /// Its state.
        state: State,
        /// Its first process, as the machine numbers it.
        pid: u32,
        /// When the program was started, in nanoseconds since 1970.
        started_at: i64,
        /// When it ended.
        finished_at: i64,
        /// Its exit code; 128 + signal number when a signal ended it.
        code: i32,
        /// How many of its processes were killed for memory.
        oom_kills: u64,
        /// Who it runs as.
        identity: Identity,
    }
}

choice! {
    /// What a starting process tells its supervisor.
    Stage {
        /// Everything is prepared but the start of the program.
        #[default]
        Ready = 0,
        /// It cannot be; `text` says why.
        Failed = 1,
    }
}

record! {
    /// From a starting process to its supervisor; with the terminal's other end when it has one.
    FromInit {
        /// How far it is.
        stage: Stage,
        /// Why not, for people.
        text: String,
        /// Who it runs as.
        identity: Identity,
    }
}
