//! Load on a Service from the machine's own network: by address or by name, on new or on kept connections.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;

/// No answer may take longer.
const ANSWER: Duration = Duration::from_secs(5);

/// No name may take longer. It is short because a question asked of a server that just died is never answered.
const NAME: Duration = Duration::from_millis(300);

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Aim {
    Address(SocketAddr),
    /// A name that the cluster's DNS at this address knows.
    Name {
        dns: SocketAddr,
        name: String,
        port: u16,
    },
}

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    New,
    Kept,
}

/// What came of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often each text was answered.
    pub answers: BTreeMap<String, usize>,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Tally {
    /// How many requests were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    fn count(&mut self, result: std::io::Result<String>) {
        match result {
            Ok(answer) => *self.answers.entry(answer).or_default() += 1,
            Err(error) => self.failures.push(format!("{:?} after {} answers: {error}", stdx::mono(), self.answered())),
        }
    }
}

/// Load that goes on until it is ended.
pub struct Load {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts a thread for each aim, in the network of the calling thread.
    pub fn start(aims: &[(Aim, Connections)]) -> Load {
        let ending = Arc::new(AtomicBool::new(false));
        let threads = aims.iter().cloned().map(|(aim, connections)| {
            let ending = ending.clone();
            std::thread::spawn(move || {
                let (mut tally, mut client) = (Tally::default(), Client { aim, connections, kept: None });
                while !ending.load(Ordering::Relaxed) {
                    tally.count(client.get("/"));
                    // Constant load, not all that the machine can take: two hundred requests a second.
                    clock::pause(Duration::from_millis(5));
                }
                tally
            })
        });
        let threads = threads.collect();
        Load { ending, threads }
    }

    /// Ends it; what came of it, by aim.
    pub fn end(self) -> Vec<Tally> {
        self.ending.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("load does not panic")).collect()
    }

    /// Ends it; fails the test if any request failed, or none was made.
    pub fn end_without_failures(self) {
        for tally in self.end() {
            assert!(
                tally.failures.is_empty(),
                "{} failed of {}: {:#?}",
                tally.failures.len(),
                tally.answered() + tally.failures.len(),
                tally.failures
            );
            assert!(tally.answered() > 50, "only {} requests were made", tally.answered());
        }
    }
}

/// So many requests, one after the other.
pub fn requests(count: usize, aim: &Aim, connections: Connections) -> Tally {
    let (mut tally, mut client) = (Tally::default(), Client { aim: aim.clone(), connections, kept: None });
    (0..count).for_each(|_| tally.count(client.get("/")));
    tally
}

/// One request to a server; the answer's body, if the answer is 200.
pub fn request(address: SocketAddr, method: &str, path: &str) -> std::io::Result<String> {
    let mut client = Client { aim: Aim::Address(address), connections: Connections::New, kept: None };
    client.send(method, path)
}

struct Client {
    aim: Aim,
    connections: Connections,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    fn get(&mut self, path: &str) -> std::io::Result<String> {
        self.send("GET", path)
    }

    fn send(&mut self, method: &str, path: &str) -> std::io::Result<String> {
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let wish = if self.connections == Connections::Kept { "keep-alive" } else { "close" };
        write!(connection.get_mut(), "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: {wish}\r\n\r\n")?;
        let (answer, ends) = read_answer(&mut connection)?;
        if self.connections == Connections::Kept && !ends {
            self.kept = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&self) -> std::io::Result<BufReader<TcpStream>> {
        let address = match &self.aim {
            Aim::Address(address) => *address,
            Aim::Name { dns, name, port } => SocketAddr::new(resolve(*dns, name)?.into(), *port),
        };
        let stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

/// The body of an answer, and whether the connection ends with it.
fn read_answer(connection: &mut BufReader<TcpStream>) -> std::io::Result<(String, bool)> {
    let fault = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let (mut first, mut length, mut ends) = (String::new(), 0, false);
    connection.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(fault(format!("the answer ends in its head, after {first:?}")));
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().map_err(|_| fault(line.clone()))?,
            Some(("connection", value)) => ends = value == "close",
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).trim_end().to_owned();
    if first.starts_with("HTTP/1.1 200 ") {
        Ok((body, ends))
    } else {
        Err(fault(format!("{} {body}", first.trim_end())))
    }
}

/// The first IPv4 address of a name.
pub fn resolve(dns: SocketAddr, name: &str) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(NAME))?;
    socket.connect(dns)?;
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("labels are short"));
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let fault = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{name}: {what}"));
    let rest =
        answer.get(..length).and_then(|answer| answer.get(query.len()..)).ok_or_else(|| fault("a short answer"))?;
    if answer[3] & 15 != 0 || answer[7] == 0 {
        return Err(fault(&format!("no address: code {}, {} records", answer[3] & 15, answer[7])));
    }
    // Name (a pointer), type, class, time to live, length, address; a different first record is no address.
    match rest {
        [_, _, 0, 1, 0, 1, _, _, _, _, 0, 4, a, b, c, d, ..] => Ok(Ipv4Addr::new(*a, *b, *c, *d)),
        _ => Err(fault("an unexpected record")),
    }
}
