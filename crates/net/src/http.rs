//! As much of HTTP as it takes to answer one question: the request is read and forgotten, the answer is the same for all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stdx::TaskTree;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 32;
/// A client that takes longer to ask, or to take the answer, is left.
const PATIENCE: Duration = Duration::from_secs(5);
const HEAD_SIZE_MAX: usize = 8 << 10;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Code and reason, such as `200 OK`.
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    /// More headers.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Page {
    fn bytes(&self) -> Vec<u8> {
        let more: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let Page { status, content_type, body, .. } = self;
        let length = body.len();
        let head = "Connection: close\r\nX-Content-Type-Options: nosniff";
        format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{head}\r\n{more}\r\n{body}")
            .into_bytes()
    }
}

/// Binds `address`, which need not be the machine's yet.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    crate::dns::bind_tcp(address)
}

/// Answers whoever connects with what `page` says then.
pub(crate) async fn serve(listener: TcpListener, tasks: TaskTree, page: impl Fn(&str) -> Page + Send + Sync + 'static) {
    let (page, places) = (Arc::new(page), Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX)));
    let mut backoff = stdx::Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                backoff.succeed();
                let page = Arc::clone(&page);
                tasks.spawn("http", async move {
                    // How a client ends its connection is its own affair.
                    drop(stdx::timeout(PATIENCE, answer(stream, &*page)).await);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                stdx::sleep(backoff.fail()).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, page: &(impl Fn(&str) -> Page + Sync)) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD_SIZE_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let path = text.split(' ').nth(1).unwrap_or("/");
    stream.write_all(&page(path).bytes()).await?;
    stream.shutdown().await
}
