//! The example's server: HTTP on port 3000 that answers with its pod's name and drains on TERM.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health`, `GET /ready` | 200, or 503 once failed |
//! | `POST /health/fail`, `POST /ready/fail`, `…/mend` | changes what the two above answer |
//! | `POST /burn?seconds=N` | uses all the processor time it gets for N seconds |
//! | `POST /hog?megabytes=N` | takes and keeps N MB of memory |
//! | `GET /env?name=NAME` | the value of an environment variable |
//! | anything else | the pod's name |

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A request head may have no more lines, and no line more bytes.
const HEAD_LINES_MAX: usize = 100;
const LINE_BYTES_MAX: u64 = 8192;
/// A request body, which is read and dropped.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// How long a kept connection may stay without a request while the server drains.
const DRAIN: Duration = Duration::from_secs(15);

#[derive(Default)]
struct State {
    unhealthy: AtomicBool,
    unready: AtomicBool,
    connections: AtomicUsize,
    memory: std::sync::Mutex<Vec<Vec<u8>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "3000".into());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (drain, draining) = watch::channel(false);
    let state = Arc::new(State::default());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                attend(accepted?.0, &state, &draining);
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    println!("draining {} connections", state.connections.load(Ordering::Relaxed));
    drain.send_replace(true);
    finish(&listener, &state, &draining).await
}

/// Goes on serving until the last connection has ended. A connection that came in just before the rules changed is served too.
#[allow(clippy::disallowed_methods, reason = "an example outside the cluster's own code")]
async fn finish(listener: &TcpListener, state: &Arc<State>, draining: &watch::Receiver<bool>) -> io::Result<()> {
    let mut quiet = 0;
    while quiet < 10 {
        tokio::select! {
            accepted = listener.accept() => {
                attend(accepted?.0, state, draining);
                quiet = 0;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                quiet = if state.connections.load(Ordering::Relaxed) == 0 { quiet + 1 } else { 0 };
            }
        }
    }
    Ok(())
}

/// Serves a connection in a task of its own; the process ends when the last one has.
fn attend(stream: TcpStream, state: &Arc<State>, draining: &watch::Receiver<bool>) {
    let (state, draining) = (state.clone(), draining.clone());
    state.connections.fetch_add(1, Ordering::Relaxed);
    #[allow(clippy::disallowed_methods, reason = "an example outside the cluster's own code")]
    tokio::spawn(async move {
        if let Err(error) = serve(stream, &state, draining).await {
            eprintln!("connection: {error}");
        }
        state.connections.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Answers the requests of one connection. While draining, the next answer is the last.
#[allow(clippy::disallowed_methods, reason = "an example outside the cluster's own code")]
async fn serve(stream: TcpStream, state: &State, draining: watch::Receiver<bool>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut asked = draining.clone();
        let request = tokio::select! {
            request = read_request(&mut stream) => request?,
            () = async { drop(asked.wait_for(|draining| *draining).await); tokio::time::sleep(DRAIN).await } => None,
        };
        let Some(request) = request else { return Ok(()) };
        let (code, body) = answer(&request, state).await;
        let last = *draining.borrow() || request.close;
        let connection = if last { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {code} {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            if code == 200 { "OK" } else { "Unavailable" },
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.flush().await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

struct Request {
    method: String,
    path: String,
    query: String,
    close: bool,
}

/// The next request; `None` at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let Some(first) = read_line(stream).await? else { return Ok(None) };
    let mut words = first.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request line"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request =
        Request { method: method.into(), path: path.into(), query: query.into(), close: version == "HTTP/1.0" };
    let mut length = 0;
    for _ in 0..HEAD_LINES_MAX {
        let Some(line) = read_line(stream).await? else { return Ok(None) };
        if line.is_empty() {
            tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("connection", value) => request.close = value.eq_ignore_ascii_case("close"),
            ("content-length", value) => length = value.parse().unwrap_or(0).min(BODY_BYTES_MAX),
            _ => {}
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "too many header lines"))
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    match stream.take(LINE_BYTES_MAX).read_line(&mut line).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim_end().to_owned())),
        // A client that goes away between requests has got all its answers.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

async fn answer(request: &Request, state: &State) -> (u16, String) {
    let parameter = |name: &str| {
        request
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let number = |name: &str| parameter(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let said =
        |flag: &AtomicBool| if flag.load(Ordering::Relaxed) { (503, "failing\n".into()) } else { (200, "ok\n".into()) };
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/health") => return said(&state.unhealthy),
        ("GET", "/ready") => return said(&state.unready),
        ("POST", "/health/fail") => state.unhealthy.store(true, Ordering::Relaxed),
        ("POST", "/health/mend") => state.unhealthy.store(false, Ordering::Relaxed),
        ("POST", "/ready/fail") => state.unready.store(true, Ordering::Relaxed),
        ("POST", "/ready/mend") => state.unready.store(false, Ordering::Relaxed),
        ("POST", "/burn") => burn(Duration::from_secs(number("seconds").min(600))),
        ("POST", "/hog") => {
            // Written to, so that it is really there.
            let bytes = vec![1; usize::try_from(number("megabytes")).unwrap_or(0).saturating_mul(1 << 20)];
            state.memory.lock().expect("nothing panics while it holds the lock").push(bytes);
        }
        ("GET", "/env") => {
            return (200, std::env::var(parameter("name").unwrap_or_default()).unwrap_or_default() + "\n");
        }
        _ => {}
    }
    (200, format!("{}\n", std::env::var("HOSTNAME").unwrap_or_default()))
}

/// Keeps a thread busy.
#[allow(clippy::disallowed_methods, reason = "an example outside the cluster's own code")]
fn burn(duration: Duration) {
    std::thread::spawn(move || {
        let start = std::time::Instant::now();
        while start.elapsed() < duration {
            std::hint::spin_loop();
        }
    });
}
