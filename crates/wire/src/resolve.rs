//! Names to addresses without `getaddrinfo`: literals, `localhost`, the hosts file, then the name servers of resolv.conf.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one name server is given for one answer, as in the C library.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the list of name servers is walked.
const ROUNDS: usize = 2;
/// Name servers and search domains beyond these counts are ignored, as in the C library.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers know no such name, or no address of it.
    #[error("lookup {host}: no such host")]
    NoSuchHost {
        /// What was looked up.
        host: String,
    },
    /// The text cannot be a name.
    #[error("lookup {host}: not a host name")]
    NotAName {
        /// What was looked up.
        host: String,
    },
    /// No name server answered.
    #[error("lookup {host}: no name server answered")]
    Unanswered {
        /// What was looked up.
        host: String,
        /// What the last attempt met.
        #[source]
        source: Option<io::Error>,
    },
}

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Resolver {
    hosts: PathBuf,
    conf: PathBuf,
}

impl Default for Resolver {
    fn default() -> Self {
        Resolver { hosts: "/etc/hosts".into(), conf: "/etc/resolv.conf".into() }
    }
}

impl Resolver {
    /// A resolver that reads these files in place of the machine's own.
    pub fn with_files(hosts: impl Into<PathBuf>, conf: impl Into<PathBuf>) -> Self {
        Resolver { hosts: hosts.into(), conf: conf.into() }
    }

    /// The addresses of `host`, at least one, in the order to try them. Both files are read each time, so that changes
    /// are seen.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = literal.parse() {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let listed = in_hosts(&read_or_empty(&self.hosts).await, &name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        // RFC 6761: never asked of the network.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        // Boxed: rarely needed, and large.
        Box::pin(ask_all(&Conf::parse(&read_or_empty(&self.conf).await), host)).await
    }
}

/// A file that is absent or unreadable names nothing, as for the C library.
async fn read_or_empty(path: &Path) -> String {
    tokio::fs::read_to_string(path).await.unwrap_or_default()
}

/// The addresses that a hosts file gives to `name` (lower case).
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The lines of resolv.conf that matter here.
#[derive(Debug, PartialEq, Eq)]
struct Conf {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl Conf {
    fn parse(text: &str) -> Conf {
        let mut conf = Conf { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server_address)),
                Some("search" | "domain") => conf.search = words.take(SEARCHES_MAX).map(str::to_owned).collect(),
                Some("options") => {
                    for ndots in words.filter_map(|word| word.strip_prefix("ndots:")?.parse::<usize>().ok()) {
                        conf.ndots = ndots.min(15);
                    }
                }
                _ => {}
            }
        }
        conf.servers.truncate(SERVERS_MAX);
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        conf
    }

    /// The full names to ask for `host`, in order.
    fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let absolute = format!("{host}.");
        let mut names: Vec<String> =
            self.search.iter().map(|domain| format!("{host}.{}.", domain.trim_end_matches('.'))).collect();
        if dots >= self.ndots {
            names.insert(0, absolute);
        } else {
            names.push(absolute);
        }
        names
    }
}

/// An address with an optional port in brackets' form (`[::1]:5353`), which is ours; a bare address means port 53.
fn server_address(text: &str) -> Option<SocketAddr> {
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => text.parse().ok().map(|address: IpAddr| (address, 53).into()),
    }
}

/// What a name server's answer comes to: addresses (none when it knows that there are none), or why there is no answer.
type Answer = Result<Vec<IpAddr>, Option<io::Error>>;

async fn ask_all(conf: &Conf, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
    for candidate in conf.candidates(host) {
        let name = Name::from_ascii(&candidate).map_err(|_| ResolveError::NotAName { host: host.to_owned() })?;
        let (v4, v6) = tokio::join!(ask(conf, &name, RecordType::A), ask(conf, &name, RecordType::AAAA));
        let mut found = Vec::new();
        let mut fault = None;
        for answer in [v4, v6] {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => fault = Some(error),
            }
        }
        match fault {
            // Half an answer is enough when it holds an address; else the silence may hide one.
            Some(source) if found.is_empty() => return Err(ResolveError::Unanswered { host: host.to_owned(), source }),
            _ if !found.is_empty() => return Ok(found),
            _ => {}
        }
    }
    Err(ResolveError::NoSuchHost { host: host.to_owned() })
}

async fn ask(conf: &Conf, name: &Name, kind: RecordType) -> Answer {
    let mut last = None;
    for server in (0..ROUNDS).flat_map(|_| &conf.servers) {
        match stdx::timeout(ANSWER_TIMEOUT, exchange(*server, name, kind)).await {
            Ok(Ok(answer)) => match answer.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Ok(addresses_in(&answer, kind)),
                code => last = Some(io::Error::other(format!("{server}: {code}"))),
            },
            Ok(Err(error)) => last = Some(error),
            Err(stdx::Elapsed) => last = Some(io::Error::new(io::ErrorKind::TimedOut, format!("{server}: no answer"))),
        }
    }
    Err(last)
}

/// All addresses of the wanted kind: a recursive server lists those of a CNAME's target in the same answer.
fn addresses_in(answer: &Message, kind: RecordType) -> Vec<IpAddr> {
    let of_record = |data: &RData| match data {
        RData::A(address) if kind == RecordType::A => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) if kind == RecordType::AAAA => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    answer.answers.iter().filter_map(|record| of_record(&record.data)).collect()
}

async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
    let query = Query::query(name.clone(), kind);
    let mut request = Message::new(stdx::random_u64() as u16, MessageType::Query, OpCode::Query);
    request.metadata.recursion_desired = true;
    request.add_query(query.clone());
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let answer = exchange_udp(server, &bytes, request.id, &query).await?;
    if answer.truncation { exchange_tcp(server, &bytes, request.id, &query).await } else { Ok(answer) }
}

async fn exchange_udp(server: SocketAddr, request: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(request).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything else is a late answer to another question, or forged; the caller's deadline bounds the loop.
        if let Some(answer) = matching(&buffer[..length], id, query) {
            return Ok(answer);
        }
    }
}

async fn exchange_tcp(server: SocketAddr, request: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let mut socket = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    socket.write_all(&[&length.to_be_bytes(), request].concat()).await?;
    let mut buffer = vec![0; usize::from(socket.read_u16().await?)];
    socket.read_exact(&mut buffer).await?;
    matching(&buffer, id, query).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "answer to another question"))
}

fn matching(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.id == id && answer.message_type == MessageType::Response && answer.queries.first() == Some(query);
    same.then_some(answer)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;
    use stdx::TaskTree;

    use super::*;

    #[test]
    fn reads_hosts_lines_as_the_c_library_does() {
        let text = "127.0.0.1 localhost # not me\n10.0.0.7\tNode-7 node-7.example.\n::1 localhost\nbroken line\n#10.0.0.9 node-7\n";
        for (name, expected) in [
            ("localhost", vec!["127.0.0.1", "::1"]),
            ("node-7", vec!["10.0.0.7"]),
            ("node-7.example", vec!["10.0.0.7"]),
            ("me", vec![]),
            ("line", vec![]),
        ] {
            let expected: Vec<IpAddr> = expected.into_iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(in_hosts(text, name), expected, "{name}");
        }
    }

    #[test]
    fn reads_resolv_conf_and_orders_candidates() {
        let text = "; comment\nnameserver 10.0.0.1\nnameserver [::1]:5353\nnameserver x\nsearch a.example b.example.\noptions edns0 ndots:2\n";
        let conf = Conf::parse(text);
        assert_eq!(conf.servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
        for (host, expected) in [
            ("one", vec!["one.a.example.", "one.b.example.", "one."]),
            ("one.two.three", vec!["one.two.three.", "one.two.three.a.example.", "one.two.three.b.example."]),
            ("one.", vec!["one."]),
        ] {
            assert_eq!(conf.candidates(host), expected, "{host}");
        }
        assert_eq!(Conf::parse("").servers, ["127.0.0.1:53".parse().unwrap()]);
    }

    /// A name server that knows `registry.example` only, and that over UDP says no more than that it has to be asked by TCP
    /// about `long.example`.
    async fn name_server(tree: &TaskTree) -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        tree.spawn("udp", async move {
            let mut buffer = [0; 512];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                let mut answer = answer_to(&buffer[..length]);
                if answer.queries[0].name().to_ascii().starts_with("long") {
                    answer.metadata.truncation = true;
                    answer.answers.clear();
                }
                udp.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        tree.spawn("tcp", async move {
            loop {
                let (mut socket, _) = tcp.accept().await.unwrap();
                let mut buffer = vec![0; usize::from(socket.read_u16().await.unwrap())];
                socket.read_exact(&mut buffer).await.unwrap();
                let answer = answer_to(&buffer).to_vec().unwrap();
                socket.write_u16(answer.len() as u16).await.unwrap();
                socket.write_all(&answer).await.unwrap();
            }
        });
        address
    }

    fn answer_to(request: &[u8]) -> Message {
        let request = Message::from_vec(request).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_ascii();
        let mut answer = Message::response(request.id, OpCode::Query);
        answer.add_query(query.clone());
        match name.as_str() {
            "registry.example." | "long.example." => {
                if query.query_type() == RecordType::A {
                    let data = RData::A(A("10.1.2.3".parse().unwrap()));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
            }
            "broken.example." => answer.metadata.response_code = ResponseCode::ServFail,
            _ => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer
    }

    #[tokio::test]
    async fn asks_the_name_servers_and_falls_back_to_tcp() {
        let tree = TaskTree::default();
        let server = name_server(&tree).await;
        let folder = std::env::temp_dir().join(format!("wire-resolve-{}", stdx::random_u64()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hosts"), "10.9.9.9 listed\n").unwrap();
        std::fs::write(folder.join("resolv.conf"), format!("nameserver {server}\nsearch example\n")).unwrap();
        let resolver = Resolver::with_files(folder.join("hosts"), folder.join("resolv.conf"));
        for (host, expected) in [
            ("127.0.0.1", Ok("127.0.0.1")),
            ("[::1]", Ok("::1")),
            ("listed", Ok("10.9.9.9")),
            ("localhost", Ok("127.0.0.1")),
            ("registry", Ok("10.1.2.3")),
            ("registry.example", Ok("10.1.2.3")),
            ("long.example", Ok("10.1.2.3")),
            ("absent.example", Err("lookup absent.example: no such host")),
            ("broken.example", Err("lookup broken.example: no name server answered")),
        ] {
            let found = resolver.addresses(host).await.map(|addresses| addresses[0]).map_err(|error| error.to_string());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()).map_err(str::to_owned), "{host}");
        }
        std::fs::remove_dir_all(folder).unwrap();
        tree.drain(Duration::from_secs(5)).await.unwrap();
    }
}
