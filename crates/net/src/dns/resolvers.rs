//! Where names that are not the cluster's are asked: the host's own resolvers.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use stdx::Mono;

/// The C library's limit, which hosts' files are written for.
const SERVERS_MAX: usize = 3;
/// How often at most the file is looked at, and only when a question has to be forwarded.
const FRESH: Duration = Duration::from_secs(1);
/// Larger files are no resolver configuration.
const FILE_SIZE_MAX: u64 = 64 << 10;

/// The resolvers that a host's file names, followed as it changes.
#[derive(Debug)]
pub struct Resolvers {
    path: Option<PathBuf>,
    own: Vec<IpAddr>,
    known: Mutex<Known>,
}

/// A domain whose names are asked of resolvers of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubDomain {
    /// Its labels in lower case, from the left.
    labels: Vec<String>,
    /// Who is asked.
    servers: Vec<SocketAddr>,
}

impl StubDomain {
    /// Reads `DOMAIN=ADDRESS[:PORT][,…]`.
    pub fn parse(text: &str) -> Option<StubDomain> {
        let (domain, servers) = text.split_once('=')?;
        let servers: Option<Vec<SocketAddr>> = servers.split(',').map(server_address).collect();
        let labels = domain.trim_end_matches('.').split('.').map(str::to_ascii_lowercase).collect::<Vec<_>>();
        let sound = labels.iter().all(|label| !label.is_empty() && label.len() < 64);
        Some(StubDomain { labels, servers: servers.filter(|_| sound)? })
    }

    /// The labels of the domain.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The resolvers to ask.
    pub(super) fn resolvers(&self) -> Resolvers {
        Resolvers::fixed(self.servers.clone())
    }
}

/// An address with or without a port; DNS' own when without.
pub fn server_address(text: &str) -> Option<SocketAddr> {
    let bare = || text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53));
    text.parse().ok().or_else(bare)
}

#[derive(Debug, Default)]
struct Known {
    servers: Vec<SocketAddr>,
    modified: Option<SystemTime>,
    looked: Option<Mono>,
}

impl Resolvers {
    /// The resolvers in the file at `path`, without those at our `own` addresses: asking ourselves would go round for
    /// ever.
    pub fn from_file(path: impl Into<PathBuf>, own: Vec<IpAddr>) -> Resolvers {
        Resolvers { path: Some(path.into()), own, known: Mutex::default() }
    }

    /// These resolvers, for good.
    pub fn fixed(servers: Vec<SocketAddr>) -> Resolvers {
        Resolvers { path: None, own: Vec::new(), known: Mutex::new(Known { servers, ..Known::default() }) }
    }

    /// The resolvers, in order of preference.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = stdx::mono();
        let fresh = known.looked.is_some_and(|looked| now - looked < FRESH);
        if let Some(path) = self.path.as_ref().filter(|_| !fresh) {
            known.looked = Some(now);
            self.look(path, &mut known);
        }
        known.servers.clone()
    }

    fn look(&self, path: &Path, known: &mut Known) {
        let about = std::fs::metadata(path);
        let modified = about.as_ref().ok().and_then(|about| about.modified().ok());
        if known.modified.is_some() && known.modified == modified {
            return;
        }
        known.modified = modified;
        let small = about.is_ok_and(|about| about.len() <= FILE_SIZE_MAX);
        match std::fs::read_to_string(path) {
            Ok(text) if small => known.servers = servers_in(&text, &self.own),
            // A file that is being replaced is absent for a moment; what it said stays true until it says otherwise.
            Ok(_) | Err(_) => tracing::warn!(path = %path.display(), "the host's resolvers cannot be read"),
        }
    }
}

fn servers_in(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = text.lines().map(str::split_whitespace);
    let values = lines.filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next()).flatten());
    let addresses = values.filter_map(|value| value.parse::<IpAddr>().ok()).filter(|address| !own.contains(address));
    addresses.take(SERVERS_MAX).map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_the_c_library_would_and_never_ourselves() {
        let text = "# a comment\nsearch example.org\nnameserver 10.0.0.1\n nameserver\t10.0.0.2 # x\nnameserver 10.96.0.10\n\
                    nameserver fe80::1%eth0\noptions ndots:1\nnameserver\nnameserver ::1\nnameserver 10.0.0.4\n";
        let servers = servers_in(text, &["10.96.0.10".parse().unwrap()]);
        let texts: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:53", "10.0.0.2:53", "[::1]:53"]);
        assert_eq!(servers_in("", &[]), []);
    }

    #[test]
    fn a_stub_domain_names_a_domain_and_who_knows_it() {
        let stub = StubDomain::parse("Corp.Example.=10.0.0.1,10.0.0.2:5353").unwrap();
        assert_eq!(stub.labels(), ["corp", "example"]);
        let texts: Vec<String> = stub.resolvers().servers().iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:53", "10.0.0.2:5353"]);
        for text in ["", "a", "a=", "a=b", "=10.0.0.1", "a..b=10.0.0.1", "a=10.0.0.1,"] {
            assert_eq!(StubDomain::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_missing_file_means_no_resolvers() {
        assert_eq!(Resolvers::from_file("/nonexistent/resolv.conf", Vec::new()).servers(), []);
        let fixed = Resolvers::fixed(vec!["10.0.0.1:5353".parse().unwrap()]);
        assert_eq!(fixed.servers().len(), 1);
    }
}
