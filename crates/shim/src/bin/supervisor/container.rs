//! A container as its supervisor holds it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use shim::VERSION;
use shim::line::{Lines, Stream};
use shim::message::{ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT, COPIES_MAX, REPORT, Report, State};
use shim::spec::{CgroupSpec, ContainerSpec, LogLimits, PidMode, Users};
use shim::wire::Wire;

use crate::file::{self, During};
use crate::log::LogFile;
use crate::sys::{self, CWD, Errno, Fd};
use crate::{cgroup, init};

/// How much of one stream is read before the others get their turn.
const READS_IN_TURN: u32 = 16;

/// Who waits for an answer: a connection and a request.
pub(crate) type Asker = (u32, u64);

/// One of a container's outputs.
pub(crate) struct Output {
    file: Fd,
    lines: Lines,
    stream: Stream,
    /// Those who are attached to it.
    pub(crate) copies: Vec<Copy>,
}

impl Output {
    fn new(file: Fd, stream: Stream) -> Output {
        Output { file, lines: Lines::new(stream), stream, copies: Vec::new() }
    }

    /// What to wait for; nothing while somebody attached has not taken what was read last. The container stands still
    /// then, as with upstream's runtimes: whoever is attached loses nothing.
    pub(crate) fn raw(&self) -> Option<i32> {
        let held_up = self.copies.iter().any(Copy::is_behind);
        (!held_up).then_some(self.file.raw())
    }

    /// Hands `bytes` to everybody attached; who is gone is forgotten.
    fn copy(&mut self, bytes: &[u8]) {
        self.copies.retain_mut(|copy| {
            copy.pending.extend_from_slice(bytes);
            copy.push()
        });
    }
}

/// The end of a pipe to somebody who is attached.
pub(crate) struct Copy {
    file: Fd,
    /// What was read and not taken yet: no more than one read while the output goes on, a pipe's content at its end.
    pending: Vec<u8>,
}

impl Copy {
    /// What to wait for; an error there says that nobody reads any more.
    pub(crate) fn raw(&self) -> i32 {
        self.file.raw()
    }

    /// Whether something waits to be taken.
    pub(crate) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Hands on what can be taken now; false when nobody is there any more.
    fn push(&mut self) -> bool {
        while !self.pending.is_empty() {
            match sys::write(self.file.raw(), &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(libc::EAGAIN)) => return true,
                Err(_) => return false,
            }
        }
        // An idle container keeps no buffer.
        self.pending = Vec::new();
        true
    }
}

/// A container.
pub(crate) struct Container {
    /// What everybody may know.
    pub(crate) report: Report,
    /// Its control groups.
    pub(crate) cgroup: CgroupSpec,
    /// The users that its pod has of its own.
    pub(crate) users: Users,
    /// The socket to its first process, until that runs its program.
    pub(crate) sync: Option<Fd>,
    /// Who waits for that process to get on.
    pub(crate) asker: Option<Asker>,
    /// Where its outputs come from.
    pub(crate) outputs: Vec<Output>,
    /// The other end of its standard input, kept so that the input does not end.
    stdin: Option<Fd>,
    stdin_once: bool,
    tty: bool,
    /// Copies of outputs that have ended, until they are taken.
    pub(crate) leaving: Vec<Copy>,
    log: Option<LogFile>,
    /// Whether its other processes end with the first one by the kernel's doing.
    own_pids: bool,
    folder: String,
}

/// The container's ends of its standard streams, and ours.
struct Streams {
    theirs: [Fd; 3],
    stdin: Option<Fd>,
    outputs: Vec<Output>,
}

fn null() -> Result<Fd, String> {
    sys::open(CWD, "/dev/null", libc::O_RDWR, 0).during(|| "open /dev/null".into())
}

fn streams(spec: &ContainerSpec) -> Result<Streams, String> {
    if spec.io.tty {
        // The terminal is made inside; ours comes with the news that all is ready.
        return Ok(Streams { theirs: [null()?, null()?, null()?], stdin: None, outputs: Vec::new() });
    }
    let mut outputs = Vec::new();
    let mut output = |stream| {
        let (ours, theirs) = sys::pipe().during(|| "make pipe".into())?;
        sys::set_nonblocking(ours.raw()).during(|| "make pipe".into())?;
        outputs.push(Output::new(ours, stream));
        Ok::<Fd, String>(theirs)
    };
    let (stdout, stderr) = (output(Stream::Stdout)?, output(Stream::Stderr)?);
    let (stdin, input) = match spec.io.stdin {
        true => sys::pipe().map(|(theirs, ours)| (theirs, Some(ours))).during(|| "make pipe".into())?,
        false => (null()?, None),
    };
    Ok(Streams { theirs: [stdin, stdout, stderr], stdin: input, outputs })
}

impl Container {
    /// Starts the container's first process, up to its gate. `users` is the namespace of the pod's own, `fork` makes the process
    /// in the right process namespace.
    pub(crate) fn create(
        id: &str,
        spec: &ContainerSpec,
        limits: &LogLimits,
        users: Option<i32>,
        fork: impl FnOnce(u64, Option<i32>) -> sys::Result<Option<i32>>,
    ) -> Result<Container, String> {
        let log = match spec.io.log_path.as_str() {
            "" => None,
            path => Some(LogFile::open(path, limits).during(|| format!("open log file {path}"))?),
        };
        let streams = streams(spec)?;
        let (sync, theirs) = sys::socket_pair().during(|| "make socket".into())?;
        let birthplace = cgroup::birthplace(&spec.cgroup).during(|| "open control group".into())?;
        let flags = if spec.pid == PidMode::Own { libc::CLONE_NEWPID as u64 } else { 0 };
        let Some(pid) = fork(flags, birthplace.as_ref().map(Fd::raw)).during(|| "fork".into())? else {
            let raw = [0, 1, 2].map(|number| streams.theirs[number].raw());
            init::container(spec, raw, theirs.raw(), users)
        };
        let report = Report { version: VERSION, container: id.to_string(), pid: pid as u32, ..Report::default() };
        Ok(Container {
            report,
            cgroup: spec.cgroup.clone(),
            users: spec.users.clone(),
            sync: Some(sync),
            asker: None,
            outputs: streams.outputs,
            stdin: streams.stdin,
            stdin_once: spec.io.stdin_once,
            tty: spec.io.tty,
            leaving: Vec::new(),
            log,
            own_pids: spec.pid == PidMode::Own,
            folder: id.to_string(),
        })
    }

    /// Takes over the terminal that the container's first process made.
    pub(crate) fn adopt_terminal(&mut self, terminal: Fd) {
        drop(sys::set_nonblocking(terminal.raw()));
        self.outputs.push(Output::new(terminal, Stream::Stdout));
    }

    /// Opens the gate.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let sync = self.sync.as_ref().ok_or("container is not in created state")?;
        self.report.state = State::Running;
        self.report.started_at = sys::now();
        // Written before anything runs: whoever finds a running container finds when it started.
        self.write_report()?;
        file::write_all(sync.raw(), b"g").during(|| "open gate".into())
    }

    /// Keeps the report where an agent finds it that was away.
    pub(crate) fn write_report(&self) -> Result<(), String> {
        let path = format!("{}/{REPORT}", self.folder);
        file::replace(&path, &self.report.encode()).during(|| format!("write {path}"))
    }

    /// Reads from output `index`; it is forgotten when it has ended.
    pub(crate) fn read_output(&mut self, index: usize) {
        for _ in 0..READS_IN_TURN {
            if self.outputs.get(index).is_none_or(|output| output.raw().is_none()) || !self.read_once(index) {
                return;
            }
        }
    }

    /// Whether there may be more to read.
    fn read_once(&mut self, index: usize) -> bool {
        // Empty lines become fifty times as long in a log: what is read at once decides how much memory that takes.
        let mut buffer = [0u8; 4096];
        let Some(output) = self.outputs.get_mut(index) else { return false };
        let mut text = Vec::new();
        let now = sys::now();
        let more = match sys::read(output.file.raw(), &mut buffer) {
            Ok(length) if length > 0 => {
                output.lines.push(&buffer[..length], now, &mut text);
                output.copy(&buffer[..length]);
                true
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => false,
            // The end; a terminal's is an error.
            Ok(_) | Err(_) => {
                output.lines.finish(now, &mut text);
                let ended = self.outputs.remove(index);
                self.leaving.extend(ended.copies.into_iter().filter(Copy::is_behind));
                false
            }
        };
        if let Some(log) = &mut self.log
            && !text.is_empty()
        {
            log.append(&text, now);
        }
        more
    }

    /// Joins the standard streams as `wanted` says; `files` get copies of the outputs. What is handed back is for the asker:
    /// the terminal, or the input, which ends with it when it is to end with the first one attached.
    pub(crate) fn attach(&mut self, wanted: i32, files: Vec<Fd>) -> Result<Option<Fd>, String> {
        if self.report.state != State::Running {
            return Err("container is not in running state".into());
        }
        let mut files = files.into_iter();
        for (bit, stream) in [(ATTACH_STDOUT, Stream::Stdout), (ATTACH_STDERR, Stream::Stderr)] {
            if wanted & bit == 0 {
                continue;
            }
            let file = files.next().ok_or("a pipe is missing")?;
            sys::set_nonblocking(file.raw()).during(|| "prepare pipe".into())?;
            // One that has ended has no more to say: then the pipe ends at once.
            if let Some(output) = self.outputs.iter_mut().find(|output| output.stream == stream) {
                if output.copies.len() >= COPIES_MAX {
                    return Err("too many are attached".into());
                }
                output.copies.push(Copy { file, pending: Vec::new() });
            }
        }
        let duplicate = |file: &Fd| sys::dup_above(file.raw(), 3).during(|| "hand out input".into()).map(Some);
        match &self.stdin {
            _ if self.tty => self.outputs.first().map_or(Ok(None), |output| duplicate(&output.file)),
            Some(_) if wanted & ATTACH_STDIN != 0 && self.stdin_once => Ok(self.stdin.take()),
            Some(stdin) if wanted & ATTACH_STDIN != 0 => duplicate(stdin),
            _ => Ok(None),
        }
    }

    /// Somebody attached can take more, or is gone: whoever has taken everything is waited for only to learn of that.
    pub(crate) fn push_copy(&mut self, output: usize, copy: usize) {
        let Some(output) = self.outputs.get_mut(output) else { return };
        if output.copies.get_mut(copy).is_some_and(|copy| !copy.is_behind() || !copy.push()) {
            drop(output.copies.remove(copy));
        }
    }

    /// The same for what has ended.
    pub(crate) fn push_leaving(&mut self, index: usize) {
        let Some(copy) = self.leaving.get_mut(index) else { return };
        if !copy.push() || !copy.is_behind() {
            drop(self.leaving.remove(index));
        }
    }

    /// Opens the log file anew.
    pub(crate) fn reopen_log(&mut self) -> Result<(), String> {
        match &mut self.log {
            Some(log) => log.reopen().during(|| "reopen log file".into()),
            None => Ok(()),
        }
    }

    /// Notes that the first process has ended with `status` as of `wait`: the other processes end, too, what they wrote
    /// is logged, and all is written down.
    pub(crate) fn ended(&mut self, status: i32) -> Result<(), String> {
        if !self.own_pids {
            cgroup::kill_all(&self.cgroup);
        }
        while !self.outputs.is_empty() {
            while self.read_once(0) {}
            // What somebody else still holds open is not this container's any more.
            if let Some(mut output) = (!self.outputs.is_empty()).then(|| self.outputs.remove(0)) {
                let (mut text, now) = (Vec::new(), sys::now());
                output.lines.finish(now, &mut text);
                self.leaving.extend(output.copies.into_iter().filter(Copy::is_behind));
                if let Some(log) = self.log.as_mut().filter(|_| !text.is_empty()) {
                    log.append(&text, now);
                }
            }
        }
        (self.stdin, self.log, self.sync) = (None, None, None);
        self.report.state = State::Exited;
        self.report.finished_at = sys::now();
        self.report.code = exit_code(status);
        self.report.oom_kills = cgroup::oom_kills(&self.cgroup);
        self.write_report()
    }
}

/// The exit code of a process whose status as of `wait` is given.
pub(crate) fn exit_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        signal => 128 + signal,
    }
}
