//! A container as its supervisor holds it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use shim::VERSION;
use shim::line::{Lines, Stream};
use shim::message::{REPORT, Report, State};
use shim::spec::{CgroupSpec, ContainerSpec, LogLimits, PidMode};
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
}

impl Output {
    /// What to wait for.
    pub(crate) fn raw(&self) -> i32 {
        self.file.raw()
    }
}

/// A container.
pub(crate) struct Container {
    /// What everybody may know.
    pub(crate) report: Report,
    /// Its control groups.
    pub(crate) cgroup: CgroupSpec,
    /// The socket to its first process, until that runs its program.
    pub(crate) sync: Option<Fd>,
    /// Who waits for that process to get on.
    pub(crate) asker: Option<Asker>,
    /// Where its outputs come from.
    pub(crate) outputs: Vec<Output>,
    /// The other end of its standard input, kept so that the input does not end.
    stdin: Option<Fd>,
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
        outputs.push(Output { file: ours, lines: Lines::new(stream) });
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
    /// Starts the container's first process, up to its gate. `fork` makes it in the right process namespace.
    pub(crate) fn create(
        id: &str,
        spec: &ContainerSpec,
        limits: &LogLimits,
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
            init::container(spec, raw, theirs.raw())
        };
        let report = Report { version: VERSION, container: id.to_string(), pid: pid as u32, ..Report::default() };
        Ok(Container {
            report,
            cgroup: spec.cgroup.clone(),
            sync: Some(sync),
            asker: None,
            outputs: streams.outputs,
            stdin: streams.stdin,
            log,
            own_pids: spec.pid == PidMode::Own,
            folder: id.to_string(),
        })
    }

    /// Takes over the terminal that the container's first process made.
    pub(crate) fn adopt_terminal(&mut self, terminal: Fd) {
        drop(sys::set_nonblocking(terminal.raw()));
        self.outputs.push(Output { file: terminal, lines: Lines::new(Stream::Stdout) });
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
            if !self.read_once(index) {
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
                true
            }
            Err(Errno(libc::EAGAIN | libc::EINTR)) => false,
            // The end; a terminal's is an error.
            Ok(_) | Err(_) => {
                output.lines.finish(now, &mut text);
                drop(self.outputs.remove(index));
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
