//! The supervisor's one loop: it waits for requests, ends of processes and output, and deals with each at once.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use shim::VERSION;
use shim::message::{CONTAINERS_MAX, EXECS_MAX, FromInit, Kind, Op, Reply, Request, SHM, SPEC_BYTES_MAX, Stage, State};
use shim::spec::{ContainerSpec, PidMode, ProcessSpec, SandboxSpec};
use shim::wire::Wire;

use crate::container::{Asker, Container, exit_code};
use crate::exec::Exec;
use crate::file::{self, During};
use crate::sys::{self, CWD, Errno, Fd, MOUNT_ATTR_RDONLY};
use crate::{cgroup, process};

/// The most agents that are connected at once.
const CONNECTIONS_MAX: usize = 64;
/// The largest request.
const REQUEST_BYTES_MAX: usize = 4096;
/// The largest word from a starting process.
const FROM_INIT_BYTES_MAX: usize = 16 * 1024;

/// The process namespaces that the supervisor deals with.
pub(crate) struct Namespaces {
    own: Fd,
    /// The sandbox's shared one, with the process that keeps it.
    shared: Option<(Fd, i32)>,
    /// That of the users that the sandbox has of its own.
    users: Option<Fd>,
}

impl Namespaces {
    /// Opens the supervisor's own and, when wanted, makes one for the sandbox.
    pub(crate) fn open(share: bool, users: Option<Fd>) -> Result<Namespaces, String> {
        let error = || String::from("make process namespace");
        let open = |pid: &str| sys::open(CWD, &format!("/proc/{pid}/ns/pid"), libc::O_RDONLY, 0).during(error);
        let own = open("self")?;
        if !share {
            return Ok(Namespaces { own, shared: None, users });
        }
        let Some(pid) = sys::fork(libc::CLONE_NEWPID as u64, None).during(error)? else { keep_namespace() };
        Ok(Namespaces { own, shared: Some((open(&pid.to_string())?, pid)), users })
    }

    /// Forks into the namespace behind `file`, or into the supervisor's own.
    fn fork_into(&self, file: Option<i32>, flags: u64, cgroup: Option<i32>) -> sys::Result<Option<i32>> {
        let Some(file) = file else { return sys::fork(flags, cgroup) };
        sys::setns(file, libc::CLONE_NEWPID)?;
        let child = sys::fork(flags, cgroup);
        if !matches!(child, Ok(None)) {
            sys::setns(self.own.raw(), libc::CLONE_NEWPID)?;
        }
        child
    }
}

/// The life of a shared process namespace's first process: it reaps whatever is orphaned. Containers see it, and some
/// may trace it, so it must have nothing that they have not: no files, no privileges, an empty root.
fn keep_namespace() -> ! {
    if confine().is_err() {
        sys::exit(1);
    }
    loop {
        if sys::reap(true).is_err() {
            sys::wait_for_child_signal();
        }
    }
}

fn confine() -> Result<(), String> {
    let error = || String::from("confine process");
    sys::prctl(libc::PR_SET_DUMPABLE, 0).during(error)?;
    sys::set_name(c"pause").during(error)?;
    sys::close_from(0, false).during(error)?;
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP).during(error)?;
    sys::mount("", "/", "", libc::MS_REC | libc::MS_SLAVE, "").during(error)?;
    let root = sys::new_mount("tmpfs", &[("nr_inodes", "1")], MOUNT_ATTR_RDONLY).during(error)?;
    let here = sys::open(CWD, ".", libc::O_PATH | libc::O_DIRECTORY, 0).during(error)?;
    sys::move_mount(root.raw(), here.raw()).during(error)?;
    sys::fchdir(root.raw()).during(error)?;
    drop((root, here));
    sys::pivot_root_here().during(error)?;
    sys::unmount(".").during(error)?;
    sys::chdir("/").during(error)?;
    process::become_nobody()
}

/// What a wait was about.
#[derive(Clone)]
enum Source {
    Children,
    Listener,
    Connection(u32),
    Sync(String),
    ExecSync(i32),
    Output(String, usize),
    Copy(String, usize, usize),
    Leaving(String, usize),
}

/// A pod's supervisor.
pub(crate) struct Supervisor {
    spec: SandboxSpec,
    children: Fd,
    listener: Fd,
    namespaces: Namespaces,
    connections: BTreeMap<u32, Fd>,
    connections_seen: u32,
    containers: BTreeMap<String, Container>,
    execs: Vec<Exec>,
    /// Who asked for the end.
    ending: Option<Asker>,
}

impl Supervisor {
    /// A supervisor of an empty sandbox.
    pub(crate) fn new(spec: SandboxSpec, children: Fd, listener: Fd, namespaces: Namespaces) -> Self {
        Supervisor {
            spec,
            children,
            listener,
            namespaces,
            connections: BTreeMap::new(),
            connections_seen: 0,
            containers: BTreeMap::new(),
            execs: Vec::new(),
            ending: None,
        }
    }

    /// Works until it is told to end.
    pub(crate) fn run(&mut self) -> ! {
        loop {
            let (sources, mut entries) = self.entries();
            if sys::poll(&mut entries).is_err() {
                continue;
            }
            // Outputs of one container are numbered: the last first, so that the end of one does not renumber others.
            // They come before what adds to them: a request, or the end of a process.
            for (source, _) in sources.into_iter().zip(&entries).rev().filter(|(_, entry)| entry.revents != 0) {
                self.apply(source);
            }
            if let Some(asker) = self.ending
                && self.is_empty()
            {
                self.end(asker);
            }
        }
    }

    fn entries(&self) -> (Vec<Source>, Vec<libc::pollfd>) {
        let (mut sources, mut entries) = (Vec::new(), Vec::new());
        let mut add_for = |events: i16, file: i32, source: Source| {
            entries.push(libc::pollfd { fd: file, events, revents: 0 });
            sources.push(source);
        };
        let mut add = |file: i32, source: Source| add_for(libc::POLLIN, file, source);
        add(self.children.raw(), Source::Children);
        add(self.listener.raw(), Source::Listener);
        for (number, file) in &self.connections {
            add(file.raw(), Source::Connection(*number));
        }
        for (id, container) in &self.containers {
            if let Some(sync) = &container.sync {
                add(sync.raw(), Source::Sync(id.clone()));
            }
        }
        for exec in &self.execs {
            if let Some(sync) = &exec.sync {
                add(sync.raw(), Source::ExecSync(exec.pid));
            }
        }
        for (id, container) in &self.containers {
            for (index, output) in container.outputs.iter().enumerate() {
                if let Some(file) = output.raw() {
                    add_for(libc::POLLIN, file, Source::Output(id.clone(), index));
                }
                for (number, copy) in output.copies.iter().enumerate() {
                    let events = if copy.is_behind() { libc::POLLOUT } else { 0 };
                    add_for(events, copy.raw(), Source::Copy(id.clone(), index, number));
                }
            }
            for (index, copy) in container.leaving.iter().enumerate() {
                add_for(libc::POLLOUT, copy.raw(), Source::Leaving(id.clone(), index));
            }
        }
        (sources, entries)
    }

    fn apply(&mut self, source: Source) {
        match source {
            Source::Children => self.reap(),
            Source::Listener => self.accept(),
            Source::Connection(number) => self.hear(number),
            Source::Sync(id) => self.container_got_on(&id),
            Source::ExecSync(pid) => self.exec_got_on(pid),
            Source::Output(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.read_output(index);
                }
            }
            Source::Copy(id, output, copy) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.push_copy(output, copy);
                }
            }
            Source::Leaving(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.push_leaving(index);
                }
            }
        }
    }

    fn accept(&mut self) {
        if let Ok(connection) = sys::accept(self.listener.raw())
            && self.connections.len() < CONNECTIONS_MAX
        {
            self.connections_seen += 1;
            self.connections.insert(self.connections_seen, connection);
        }
    }

    fn hear(&mut self, number: u32) {
        let mut buffer = [0u8; REQUEST_BYTES_MAX];
        let Some(connection) = self.connections.get(&number) else { return };
        match sys::receive(connection.raw(), &mut buffer) {
            Ok((0, _)) => self.disconnect(number),
            Ok((length, files)) => match Request::decode(&buffer[..length]) {
                Ok(request) => self.answer((number, request.id), request, files),
                Err(_) => self.disconnect(number),
            },
            Err(Errno(libc::EAGAIN | libc::EINTR)) => {}
            Err(_) => self.disconnect(number),
        }
    }

    /// Forgets a connection; what it had running as further processes ends.
    fn disconnect(&mut self, number: u32) {
        self.connections.remove(&number);
        for exec in self.execs.iter().filter(|exec| exec.asker.0 == number) {
            drop(sys::kill(exec.pid, libc::SIGKILL));
        }
    }

    fn send(&mut self, connection: u32, reply: &Reply, files: &[i32]) {
        let Some(socket) = self.connections.get(&connection) else { return };
        // One that does not listen must not make us wait: it will find out by itself when it connects again.
        if sys::send(socket.raw(), &reply.encode(), files, libc::MSG_DONTWAIT).is_err() {
            self.disconnect(connection);
        }
    }

    fn reply(&mut self, (connection, id): Asker, kind: Kind, text: String) {
        self.send(connection, &Reply { id, kind, text, version: VERSION, ..Reply::default() }, &[]);
    }

    fn reply_outcome(&mut self, asker: Asker, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.reply(asker, Kind::Done, String::new()),
            Err(text) => self.reply(asker, Kind::Failed, text),
        }
    }

    fn reply_report(&mut self, (connection, id): Asker, container: &str) {
        let reports = self.containers.get(container).map(|container| container.report.clone()).into_iter().collect();
        self.send(connection, &Reply { id, version: VERSION, reports, ..Reply::default() }, &[]);
    }

    fn answer(&mut self, asker: Asker, request: Request, files: Vec<Fd>) {
        match request.op {
            Op::Hello => {
                let reports = self.containers.values().map(|container| container.report.clone()).collect();
                let reply = Reply { id: request.id, version: VERSION, reports, ..Reply::default() };
                self.send(asker.0, &reply, &[]);
            }
            Op::Create => {
                if let Err(text) = self.create(asker, &request.container, files) {
                    self.reply(asker, Kind::StartFailed, text);
                }
            }
            Op::Exec => {
                if let Err(text) = self.exec(asker, &request, files) {
                    self.reply(asker, Kind::StartFailed, text);
                }
            }
            Op::ExecSignal => {
                let known = self.execs.iter().find(|exec| exec.asker.0 == asker.0 && exec.process == request.process);
                match known.map(|exec| sys::kill(exec.pid, request.signal)) {
                    Some(outcome) => self.reply_outcome(asker, outcome.during(|| "kill".into())),
                    None => self.reply(asker, Kind::Missing, String::new()),
                }
            }
            Op::Socket => match sys::socket(request.signal, libc::SOCK_STREAM | libc::SOCK_NONBLOCK) {
                Ok(socket) => {
                    let reply = Reply { id: request.id, version: VERSION, ..Reply::default() };
                    self.send(asker.0, &reply, &[socket.raw()]);
                }
                Err(error) => self.reply(asker, Kind::Failed, error.to_string()),
            },
            Op::Attach => self.attach(asker, &request, files),
            Op::Shutdown => self.shut_down(asker),
            Op::Start | Op::Signal | Op::KillAll | Op::Delete | Op::ReopenLog => self.answer_one(asker, &request),
        }
    }

    /// Answers what is about one existing container.
    fn answer_one(&mut self, asker: Asker, request: &Request) {
        let Some(container) = self.containers.get_mut(&request.container) else {
            return self.reply(asker, Kind::Missing, String::new());
        };
        let ended = container.report.state == State::Exited;
        let outcome = match request.op {
            Op::Start if container.report.state == State::Created && container.asker.is_none() => {
                container.asker = Some(asker);
                match container.start() {
                    // Answered when the program runs.
                    Ok(()) => return,
                    Err(text) => {
                        container.asker = None;
                        Err(text)
                    }
                }
            }
            Op::Start => Err("container is not in created state".into()),
            Op::Signal if !ended => sys::kill(container.report.pid as i32, request.signal).during(|| "kill".into()),
            Op::KillAll if !ended => {
                drop(sys::kill(container.report.pid as i32, libc::SIGKILL));
                cgroup::kill_all(&container.cgroup);
                Ok(())
            }
            Op::Delete if container.report.state == State::Running => Err("container is running".into()),
            Op::Delete => {
                // One that waits at its gate never gets through; that it ends concerns nobody.
                if !ended {
                    drop(sys::kill(container.report.pid as i32, libc::SIGKILL));
                }
                self.containers.remove(&request.container);
                Ok(())
            }
            Op::ReopenLog => container.reopen_log(),
            _ => Ok(()),
        };
        self.reply_outcome(asker, outcome);
    }

    fn attach(&mut self, asker: Asker, request: &Request, files: Vec<Fd>) {
        let Some(container) = self.containers.get_mut(&request.container) else {
            return self.reply(asker, Kind::Missing, String::new());
        };
        match container.attach(request.signal, files) {
            Ok(input) => {
                let reply = Reply { id: request.id, version: VERSION, ..Reply::default() };
                let files: Vec<i32> = input.iter().map(Fd::raw).collect();
                self.send(asker.0, &reply, &files);
            }
            Err(text) => self.reply(asker, Kind::Failed, text),
        }
    }

    fn create(&mut self, asker: Asker, id: &str, files: Vec<Fd>) -> Result<(), String> {
        let spec = read_spec(&files, ContainerSpec::decode)?;
        match self.containers.get_mut(id) {
            // An agent that died in between asks again.
            Some(container) if container.report.state == State::Created && container.sync.is_some() => {
                if container.asker.is_some() {
                    container.asker = Some(asker);
                } else {
                    self.reply_report(asker, id);
                }
                return Ok(());
            }
            Some(_) => return Err("container exists already".into()),
            None => {}
        }
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return Err("container has an invalid name".into());
        }
        if self.containers.len() >= CONTAINERS_MAX || self.ending.is_some() {
            return Err("sandbox takes no more containers".into());
        }
        let target;
        let namespace = match spec.pid {
            PidMode::Own | PidMode::Host => None,
            PidMode::Pod => Some(self.namespaces.shared.as_ref().ok_or("sandbox shares no processes")?.0.raw()),
            PidMode::Target => {
                let path = format!("/proc/{}/ns/pid", spec.pid_target);
                target = sys::open(CWD, &path, libc::O_RDONLY, 0).during(|| "find target process".into())?;
                Some(target.raw())
            }
        };
        let fork = |flags, cgroup| self.namespaces.fork_into(namespace, flags, cgroup);
        let users = self.namespaces.users.as_ref().map(Fd::raw);
        let mut container = Container::create(id, &spec, &self.spec.log, users, fork)?;
        container.asker = Some(asker);
        self.containers.insert(id.into(), container);
        Ok(())
    }

    fn exec(&mut self, asker: Asker, request: &Request, mut files: Vec<Fd>) -> Result<(), String> {
        let spec = read_spec(&files, ProcessSpec::decode)?;
        files.remove(0);
        let container = self.containers.get(&request.container).ok_or("container does not exist")?;
        if container.report.state != State::Running {
            return Err("container is not in running state".into());
        }
        if self.execs.len() >= EXECS_MAX {
            return Err("too many processes were started from outside".into());
        }
        let path = format!("/proc/{}/ns/pid", container.report.pid);
        let namespace = sys::open(CWD, &path, libc::O_RDONLY, 0).during(|| "find container's process".into())?;
        let fork = |cgroup| self.namespaces.fork_into(Some(namespace.raw()), 0, cgroup);
        self.execs.push(Exec::start(asker, request.process, container, &spec, files, fork)?);
        Ok(())
    }

    /// A container's first process said how far it is, or runs its program.
    fn container_got_on(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(sync) = &container.sync else { return };
        let (from_init, terminal) = hear_init(sync);
        let Some(asker) = container.asker.take() else {
            // Nobody asked, so it went by itself: its end will be told as such.
            container.sync = None;
            return;
        };
        match from_init {
            Some(FromInit { stage: Stage::Ready, identity, .. }) => {
                container.report.identity = identity;
                terminal.into_iter().for_each(|terminal| container.adopt_terminal(terminal));
                match container.write_report() {
                    Ok(()) => self.reply_report(asker, id),
                    Err(text) => self.give_up(asker, id, text),
                }
            }
            Some(FromInit { text, .. }) => self.give_up(asker, id, text),
            None if container.report.state == State::Running => {
                container.sync = None;
                self.reply_report(asker, id);
            }
            None => self.give_up(asker, id, "container's first process ended before it was ready".into()),
        }
    }

    /// Forgets a container that could not be made.
    fn give_up(&mut self, asker: Asker, id: &str, text: String) {
        if let Some(container) = self.containers.remove(id) {
            drop(sys::kill(container.report.pid as i32, libc::SIGKILL));
        }
        self.reply(asker, Kind::StartFailed, text);
    }

    /// A further process said how far it is, or runs its program.
    fn exec_got_on(&mut self, pid: i32) {
        let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) else { return };
        let exec = &mut self.execs[index];
        let Some(sync) = &exec.sync else { return };
        let (from_init, terminal) = hear_init(sync);
        let asker = exec.asker;
        match from_init {
            Some(FromInit { stage: Stage::Ready, .. }) => {
                exec.terminal = terminal;
                if file::write_all(sync.raw(), b"g").is_err() {
                    drop(sys::kill(pid, libc::SIGKILL));
                }
            }
            Some(FromInit { text, .. }) => {
                self.execs.remove(index);
                self.reply(asker, Kind::StartFailed, text);
            }
            None => {
                exec.sync = None;
                let (process, terminal) = (exec.process, exec.terminal.take());
                let reply = Reply { id: asker.1, version: VERSION, process, ..Reply::default() };
                let files: Vec<i32> = terminal.iter().map(Fd::raw).collect();
                self.send(asker.0, &reply, &files);
            }
        }
    }

    fn reap(&mut self) {
        // Only says that there is something; who it is, `wait` tells.
        drop(sys::read(self.children.raw(), &mut [0; 128]));
        while let Ok(Some((pid, status))) = sys::reap(false) {
            let container = self.containers.iter().find(|(_, container)| container.report.pid == pid as u32);
            if let Some(id) = container.map(|(id, _)| id.clone()) {
                self.container_ended(&id, status);
            } else if self.execs.iter().any(|exec| exec.pid == pid) {
                self.exec_ended(pid, status);
            }
        }
    }

    fn container_ended(&mut self, id: &str, status: i32) {
        // What it said last comes first; nothing more can follow, so this ends.
        while self.containers.get(id).is_some_and(|container| container.sync.is_some()) {
            self.container_got_on(id);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        let was_running = container.report.state == State::Running;
        if let Err(text) = container.ended(status) {
            // An agent that is here hears it all the same.
            drop(file::write("/dev/kmsg", format!("isopod-shim: {text}\n").as_bytes()));
        }
        if was_running {
            let reports = alloc::vec![container.report.clone()];
            let reply = Reply { kind: Kind::Exited, version: VERSION, reports, ..Reply::default() };
            self.announce(&reply);
        }
    }

    fn exec_ended(&mut self, pid: i32, status: i32) {
        while self.execs.iter().any(|exec| exec.pid == pid && exec.sync.is_some()) {
            self.exec_got_on(pid);
        }
        let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) else { return };
        let exec = self.execs.remove(index);
        let (kind, code) = (Kind::ExecExited, exit_code(status));
        let reply = Reply { kind, version: VERSION, process: exec.process, code, ..Reply::default() };
        self.send(exec.asker.0, &reply, &[]);
    }

    fn announce(&mut self, reply: &Reply) {
        let connections: Vec<u32> = self.connections.keys().copied().collect();
        for connection in connections {
            self.send(connection, reply, &[]);
        }
    }

    fn shut_down(&mut self, asker: Asker) {
        self.ending = Some(asker);
        for exec in &self.execs {
            drop(sys::kill(exec.pid, libc::SIGKILL));
        }
        for container in self.containers.values().filter(|container| container.report.state != State::Exited) {
            drop(sys::kill(container.report.pid as i32, libc::SIGKILL));
            cgroup::kill_all(&container.cgroup);
        }
        if let Some((_, pid)) = &self.namespaces.shared {
            drop(sys::kill(*pid, libc::SIGKILL));
        }
    }

    fn is_empty(&self) -> bool {
        self.execs.is_empty() && self.containers.values().all(|container| container.report.state == State::Exited)
    }

    fn end(&mut self, asker: Asker) -> ! {
        if self.spec.shm_bytes != 0 {
            // When it is in use by somebody else it goes with its last user.
            drop(sys::unmount(SHM));
        }
        self.reply(asker, Kind::Done, String::new());
        sys::exit(0)
    }
}

/// What a starting process said; nothing when it runs its program or has ended.
fn hear_init(sync: &Fd) -> (Option<FromInit>, Option<Fd>) {
    let mut buffer = [0u8; FROM_INIT_BYTES_MAX];
    match sys::receive(sync.raw(), &mut buffer) {
        Ok((length, files)) if length > 0 => {
            let malformed =
                || FromInit { stage: Stage::Failed, text: "malformed answer".into(), ..FromInit::default() };
            let from_init = FromInit::decode(&buffer[..length]).unwrap_or_else(|_| malformed());
            (Some(from_init), files.into_iter().next())
        }
        Ok(_) | Err(_) => (None, None),
    }
}

/// The specification in the first of `files`.
fn read_spec<T>(files: &[Fd], decode: impl FnOnce(&[u8]) -> Result<T, shim::wire::Malformed>) -> Result<T, String> {
    let file = files.first().ok_or("specification is missing")?;
    let content = file::read_open(file.raw(), SPEC_BYTES_MAX).during(|| "read specification".into())?;
    decode(&content).map_err(|_| "specification is malformed".into())
}
