//! Asking a container over HTTP or HTTPS, for probes and hooks.
//!
//! Upstream: `pkg/probe/http`: no certificate is verified, no connection is kept, and only redirects to the same host are followed.

use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, Uri};
use k8s_openapi::api::core::v1::HTTPGetAction;
use wire::client::Protocols;
use wire::tls::{ClientTls, Trust};
use wire::{Body, Client, ClientError, ClientOptions};

use super::dial_error;

/// As much of an answer as is read. Upstream: `maxRespBodyLength`.
const ANSWER_BYTES_MAX: usize = 10 * 1024;
/// Redirects followed. Upstream: net/http's.
const REDIRECTS_MAX: usize = 10;

/// Where an action asks: its scheme, host, port and path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub secure: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Place {
    /// The place of `get` on a host.
    pub fn new(get: &HTTPGetAction, host: String, port: u16) -> Place {
        let secure = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let path = get.path.as_deref().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Place { secure, host, port, path }
    }

    /// As Go prints it.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    fn authority(&self) -> String {
        let Place { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Whoever answers is believed: a pod's certificate is its own affair.
fn client() -> Client {
    static TLS: OnceLock<Option<ClientTls>> = OnceLock::new();
    let tls = TLS.get_or_init(|| match ClientTls::new(&Trust::Anyone, None) {
        Ok(tls) => Some(tls),
        Err(error) => {
            tracing::error!(%error, "no TLS for probes");
            None
        }
    });
    Client::new(ClientOptions {
        tls: tls.clone(),
        protocols: Protocols::Http1,
        idle_timeout: Duration::ZERO,
        idle_per_host_max: 0,
        ..ClientOptions::default()
    })
}

/// Asks a web server, and answers with its status code.
///
/// # Errors
/// Go's words for why there is no answer.
pub async fn http_get(place: &Place, get: &HTTPGetAction) -> Result<u16, String> {
    let client = client();
    let mut url = place.url();
    for _ in 0..REDIRECTS_MAX {
        let uri: Uri = url.parse().map_err(|error| format!("parse {url:?}: {error}"))?;
        let mut response = client.send(request(&uri, get)?).await.map_err(|error| words(&error))?;
        let next = redirect(&uri, &response);
        // Read, so that the server is not cut off in the middle of an ordinary answer.
        drop(response.body_mut().read(ANSWER_BYTES_MAX).await);
        match next {
            Some(next) => url = next,
            None => return Ok(response.status().as_u16()),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

fn request(uri: &Uri, get: &HTTPGetAction) -> Result<Request<Body>, String> {
    let mut request = Request::get(uri).body(Body::Empty).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    for header in get.http_headers.iter().flatten() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_str(&header.value).map_err(|error| error.to_string())?;
        headers.append(name, value);
    }
    for (name, value) in [("user-agent", "kube-probe/1.36"), ("accept", "*/*")] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.insert("connection", HeaderValue::from_static("close"));
    Ok(request)
}

/// Where a redirect on the same host leads.
fn redirect(from: &Uri, response: &Response<Body>) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get("location")?.to_str().ok()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{}://{}{location}", from.scheme_str()?, from.authority()?));
    }
    let to: Uri = location.parse().ok()?;
    (to.host() == from.host() && to.scheme().is_some()).then(|| location.to_owned())
}

/// Go's words for a failed request.
fn words(error: &ClientError) -> String {
    match error {
        ClientError::Connect { target, source } => format!("dial {target}: {}", dial_error(source)),
        ClientError::Tls { source } if spoke_plainly(source) => {
            "http: server gave HTTP response to HTTPS client".into()
        }
        ClientError::Tls { source } => format!("tls: {source}"),
        ClientError::Exchange { source, .. } if source.is_incomplete_message() => "EOF".into(),
        ClientError::Exchange { source, .. } if source.is_parse() => {
            format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {source}")
        }
        other => stdx::told(other),
    }
}

/// Whether a TLS handshake failed because the other side speaks plain HTTP.
fn spoke_plainly(error: &std::io::Error) -> bool {
    error.to_string().contains("InvalidContentType")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that gives these answers, one a connection; what it was asked.
    async fn server(answers: Vec<&'static str>) -> (u16, stdx::Task<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = stdx::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..length]).into_owned());
            }
            asked
        });
        (port, server)
    }

    fn place(port: u16, get: &HTTPGetAction) -> Place {
        Place::new(get, "127.0.0.1".into(), port)
    }

    #[tokio::test]
    async fn answers_with_the_status_and_says_why_it_cannot() {
        let (port, server) = server(vec!["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"]).await;
        let get = HTTPGetAction { path: Some("health".into()), ..HTTPGetAction::default() };
        assert_eq!(http_get(&place(port, &get), &get).await, Ok(503));
        let request = &server.await.unwrap()[0];
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("user-agent: kube-probe/1.36\r\n"), "{request}");
        let refused = http_get(&place(port, &get), &get).await.unwrap_err();
        assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }

    #[tokio::test]
    async fn redirects_on_the_same_host_are_followed() {
        let (port, asked) = server(vec![
            "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ])
        .await;
        let get = HTTPGetAction::default();
        assert_eq!(http_get(&place(port, &get), &get).await, Ok(204));
        assert!(asked.await.unwrap()[1].starts_with("GET /other "));
        let (port, _asked) =
            server(vec!["HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n"]).await;
        assert_eq!(http_get(&place(port, &get), &get).await, Ok(302), "and those to others are an answer");
    }

    #[tokio::test]
    async fn a_plain_server_is_told_from_a_secure_one() {
        let (port, _server) = server(vec!["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"]).await;
        let get = HTTPGetAction { scheme: Some("HTTPS".into()), ..HTTPGetAction::default() };
        let error = http_get(&place(port, &get), &get).await.unwrap_err();
        assert_eq!(error, "http: server gave HTTP response to HTTPS client");
        assert_eq!(place(1, &get).url(), "https://127.0.0.1:1/");
    }
}
