//! Streams of a SPDY/3.1 connection, as clients open them for a process.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use wire::spdy::{Incoming, Session};
use wire::{Body, spdy};

use super::outcome::Telling;
use super::{CREATION_TIMEOUT, Connected, Ends, Gone, Input, Output, Wanted};

/// Where a client lists the protocols it speaks on its streams, best first, and is told which it is.
pub const PROTOCOL_HEADER: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_HEADER: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Protocols of exec and attach. On SPDY the fifth is the fourth: streams end one by one anyway.
pub const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// The protocol of port-forward.
pub const PORT_PROTOCOL: &str = "portforward.k8s.io";

/// Whether a request asks to become SPDY.
pub fn is_handshake(headers: &HeaderMap) -> bool {
    let lists = |name: HeaderName, wanted: &str| {
        let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
    };
    lists(header::CONNECTION, "upgrade") && lists(header::UPGRADE, spdy::UPGRADE)
}

/// The protocol that both sides speak, or the refusal. A client that names none gets none.
fn negotiated(headers: &HeaderMap, spoken: &[&str]) -> Result<Option<String>, Box<Response<Body>>> {
    let values = headers.get_all(PROTOCOL_HEADER).into_iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> =
        values.flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty()).collect();
    if let Some(chosen) = offered.iter().find(|offer| spoken.contains(offer)) {
        return Ok(Some((*chosen).to_owned()));
    }
    if offered.is_empty() {
        return Ok(None);
    }
    let why = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
        offered.join(" "),
        spoken.join(" ")
    );
    let mut refusal = crate::server::text(StatusCode::FORBIDDEN, &why);
    for protocol in spoken {
        if let Ok(protocol) = HeaderValue::from_str(protocol) {
            refusal.headers_mut().append(ACCEPTED_HEADER, protocol);
        }
    }
    Err(Box::new(refusal))
}

/// A connection to be, once its response was sent.
pub struct Accepted {
    pub protocol: Option<String>,
    upgrade: stdx::BoxFuture<'static, Option<wire::Upgraded>>,
}

impl Accepted {
    /// Waits for the response to be sent and the connection to switch; none when the client is gone.
    pub async fn open(self) -> Option<wire::Upgraded> {
        self.upgrade.await
    }
}

/// Answers a request that asks to become SPDY.
// A refusal is a response as well, and no rarity.
#[allow(clippy::result_large_err)]
pub fn accept(request: &mut Request<Body>, spoken: &[&str]) -> Result<(Response<Body>, Accepted), Response<Body>> {
    let protocol = negotiated(request.headers(), spoken).map_err(|refusal| *refusal)?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(spdy::UPGRADE));
    if let Some(Ok(protocol)) = protocol.as_deref().map(HeaderValue::from_str) {
        headers.insert(PROTOCOL_HEADER, protocol);
    }
    let upgrade = wire::upgraded(request);
    let upgrade = Box::pin(async move {
        upgrade.await.inspect_err(|error| tracing::debug!(%error, "stream without a connection")).ok()
    });
    Ok((response, Accepted { protocol, upgrade }))
}

/// What an older protocol lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    telling: Telling,
    resizes: bool,
}

impl Version {
    fn of(protocol: Option<&str>) -> Version {
        let number = match protocol {
            Some("v5.channel.k8s.io" | "v4.channel.k8s.io") => 4,
            Some("v3.channel.k8s.io") => 3,
            Some("v2.channel.k8s.io") => 2,
            _ => 1,
        };
        Version { telling: if number >= 4 { Telling::Status } else { Telling::Text }, resizes: number >= 3 }
    }

    /// How many streams a client opens that wants these.
    fn streams(self, wanted: Wanted) -> usize {
        let all = [true, wanted.stdin, wanted.stdout, wanted.stderr, wanted.tty && self.resizes];
        all.into_iter().filter(|wanted| *wanted).count()
    }
}

/// The value of a stream's header.
pub(super) fn header<'i>(incoming: &'i Incoming, name: &str) -> &'i str {
    let headers = incoming.headers().iter();
    headers.into_iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
}

#[derive(Default)]
struct Opened {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    error: Option<Output>,
    resize: Option<Input>,
}

impl Opened {
    fn count(&self) -> usize {
        let inputs = [self.stdin.is_some(), self.resize.is_some()];
        let outputs = [self.stdout.is_some(), self.stderr.is_some(), self.error.is_some()];
        inputs.into_iter().chain(outputs).filter(|present| *present).count()
    }

    async fn add(&mut self, incoming: Incoming) -> Result<(), Gone> {
        let kind = header(&incoming, "streamtype").to_owned();
        if !matches!(kind.as_str(), "stdin" | "stdout" | "stderr" | "error" | "resize") {
            tracing::debug!(kind, "unexpected stream");
            return Ok(());
        }
        let (reader, writer) = incoming.accept().await.map_err(|_| Gone)?.split();
        let (input, output) = (Some(Input::Spdy(Box::new(reader))), Some(Output::Spdy(Box::new(writer))));
        match kind.as_str() {
            "stdin" => self.stdin = input,
            "stdout" => self.stdout = output,
            "stderr" => self.stderr = output,
            "error" => self.error = output,
            _ => self.resize = input,
        }
        Ok(())
    }
}

/// Waits for the streams that the client asked for; none when it does not open them in time.
pub async fn ends(connection: wire::Upgraded, protocol: Option<&str>, wanted: Wanted) -> Option<Connected> {
    let version = Version::of(protocol);
    let (mut session, work) = spdy::start(connection, spdy::Side::Server, spdy::Limits::default());
    let mut work: stdx::BoxFuture<'static, ()> = Box::pin(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "spdy connection ended");
        }
    });
    let opening = stdx::timeout(CREATION_TIMEOUT, open(&mut session, version.streams(wanted)));
    let opened = tokio::select! {
        opened = opening => opened,
        () = &mut work => return None,
    };
    let Ok(Ok(Opened { stdin, stdout, stderr, error: Some(error), resize })) = opened else {
        tracing::debug!("timed out waiting for client to create streams");
        return None;
    };
    let gone = stdx::Cancel::default();
    let (closed, left) = (session.closed(), gone.clone());
    let work = async move {
        let watching = async {
            closed.await;
            left.cancel();
        };
        // More streams are nobody's; that there are none keeps the connection open until the ends are dropped.
        drop(session);
        tokio::join!(work, watching);
    };
    let ends = Ends { stdin, stdout, stderr, error, resize, telling: version.telling };
    Some(Connected { ends, gone, work: Box::pin(work) })
}

async fn open(session: &mut Session, count: usize) -> Result<Opened, Gone> {
    let mut opened = Opened::default();
    while opened.count() < count || opened.error.is_none() {
        opened.add(session.accept().await.ok_or(Gone)?).await?;
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_both_speak_is_taken() {
        let check = |offers: &[&str], expected: Result<Option<&str>, u16>| {
            let mut headers = HeaderMap::new();
            for offer in offers {
                headers.append(PROTOCOL_HEADER, offer.parse().expect("a header"));
            }
            let chosen = negotiated(&headers, &PROTOCOLS).map_err(|refusal| refusal.status().as_u16());
            assert_eq!(chosen, expected.map(|chosen| chosen.map(str::to_owned)), "{offers:?}");
        };
        check(&["v5.channel.k8s.io", "v4.channel.k8s.io"], Ok(Some("v5.channel.k8s.io")));
        check(&["v9.channel.k8s.io, v3.channel.k8s.io"], Ok(Some("v3.channel.k8s.io")));
        check(&[], Ok(None));
        check(&["v9.channel.k8s.io"], Err(403));
    }

    #[test]
    fn streams_are_counted_by_what_the_version_knows() {
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let terminal = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(Version::of(Some("v4.channel.k8s.io")).streams(all), 4);
        assert_eq!(Version::of(Some("v4.channel.k8s.io")).streams(terminal), 4);
        assert_eq!(Version::of(Some("v2.channel.k8s.io")).streams(terminal), 3);
        assert_eq!(Version::of(None), Version { telling: Telling::Text, resizes: false });
    }
}
