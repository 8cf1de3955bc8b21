//! A process's streams over real connections, with clients that keep to the protocol and with some that do not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::ExecSession;
use http::{Request, Response, StatusCode};
use node::streams::session::{self, Of};
use node::streams::{Wanted, spdy, websocket};
use tokio::io::AsyncReadExt as _;
use wire::spdy::{Limits, Side, StreamReader, StreamWriter};
use wire::websocket::{Message, MessageLimits, WebSocket};
use wire::{Body, Client, ClientOptions, Listener};

const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

/// A process that writes what it reads, says `end` on its standard error when its input has ended, and exits with 3.
fn cat() -> ExecSession {
    let (stdin, from_client) = tokio::io::duplex(1 << 10);
    let (out, stdout) = tokio::io::simplex(1 << 10);
    let (mut err, stderr) = tokio::io::duplex(1 << 10);
    let (resize, _) = tokio::sync::watch::channel(cri::TerminalSize::default());
    let exit = Box::pin(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut from_client, mut stdout) = (from_client, stdout);
        tokio::io::copy(&mut from_client, &mut stdout).await.expect("copied");
        stdout.shutdown().await.expect("ended");
        err.write_all(b"end").await.expect("written");
        drop(err);
        Ok(3)
    });
    ExecSession { stdin: Some(Box::new(stdin)), stdout: Box::new(out), stderr: Some(Box::new(stderr)), resize, exit }
}

async fn answer(mut request: Request<Body>) -> Response<Body> {
    if wire::websocket::is_handshake(&request) {
        let (response, accepted) =
            wire::websocket::accept(&mut request, &websocket::PROTOCOLS, MessageLimits::default()).expect("accepted");
        drop(stdx::spawn(async move {
            let socket = accepted.open().await.expect("open");
            session::serve(websocket::ends(socket, WANTED).await, Ok(cat()), Of::Exec).await;
        }));
        return response;
    }
    assert!(spdy::is_handshake(request.headers()));
    match spdy::accept(&mut request, &spdy::PROTOCOLS) {
        Ok((response, accepted)) => {
            drop(stdx::spawn(async move {
                let protocol = accepted.protocol.clone();
                let connection = accepted.open().await.expect("open");
                if let Some(connected) = spdy::ends(connection, protocol.as_deref(), WANTED).await {
                    session::serve(connected, Ok(cat()), Of::Exec).await;
                }
            }));
            response
        }
        Err(refusal) => refusal,
    }
}

/// A server on loopback; its address.
async fn server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("bound").to_string();
    let service: wire::Service = Arc::new(|request, _| Box::pin(answer(request)));
    let listeners = vec![Listener::Tcp(listener)];
    drop(stdx::spawn(wire::serve(listeners, None, service, wire::Limits::default(), stdx::Cancel::default())));
    address
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    stdx::timeout(Duration::from_secs(20), work).await.expect("it does not hang")
}

async fn socket(protocols: &[&str]) -> WebSocket {
    let request = Request::get(format!("http://{}/", server().await)).body(()).expect("a request");
    let client = Client::new(ClientOptions::default());
    wire::websocket::connect(&client, request, protocols, MessageLimits::default()).await.expect("connected")
}

/// Everything that the server says until it says goodbye, with the pieces of a channel put together.
async fn heard(mut socket: WebSocket) -> Vec<(u8, String)> {
    let mut heard: Vec<(u8, String)> = Vec::new();
    loop {
        match soon(socket.next()).await.expect("a message").expect("no fault") {
            Message::Binary(bytes) => {
                let text = String::from_utf8_lossy(&bytes[1..]).into_owned();
                match heard.iter_mut().find(|(channel, _)| *channel == bytes[0]) {
                    Some((_, known)) => known.push_str(&text),
                    None => heard.push((bytes[0], text)),
                }
            }
            Message::Text(text) => heard.push((b'0', text)),
            Message::Close(reason) => {
                assert_eq!(reason.map(|(code, _)| code), Some(1000));
                heard.sort();
                return heard;
            }
        }
    }
}

fn outcome(heard: &[(u8, String)]) -> serde_json::Value {
    let (_, text) = heard.iter().find(|(channel, _)| *channel == 3).expect("an outcome");
    serde_json::from_str(text).expect("a status")
}

#[tokio::test]
async fn channels_carry_a_process_and_nothing_else_gets_in() {
    let mut socket = socket(&["v5.channel.k8s.io", "v4.channel.k8s.io"]).await;
    assert_eq!(socket.protocol(), Some("v5.channel.k8s.io"));
    // What is no input of ours is no input of the process's: other channels, unknown ones, empty messages.
    for message in
        [&b"\x01out"[..], b"\x02err", b"\x03{}", b"\x09x", b"\xfe\x00", b"", b"\xff\x01", b"\xff\x00\x00", b"\x00one "]
    {
        socket.send(Message::Binary(Bytes::copy_from_slice(message))).await.expect("sent");
    }
    socket.send(Message::Binary(Bytes::from_static(b"\x00two"))).await.expect("sent");
    socket.send(Message::Binary(Bytes::from_static(b"\xff\x00"))).await.expect("sent");
    let heard = heard(socket).await;
    assert_eq!(heard[..2], [(1, "one two".to_owned()), (2, "end".to_owned())]);
    assert_eq!(outcome(&heard)["details"]["causes"][0]["message"], "3");
}

#[tokio::test]
async fn older_channels_know_no_end_of_input_and_the_oldest_no_status() {
    let mut socket = socket(&["base64.channel.k8s.io"]).await;
    socket.send(Message::Text("0b25l".into())).await.expect("sent");
    // Nothing closes a channel here; the digit is read as one, and what is no base64 is nothing.
    socket.send(Message::Text("\u{ff}0".into())).await.expect("sent");
    assert_eq!(soon(socket.next()).await.expect("a message").expect("no fault"), Message::Text("1".into()));
    assert_eq!(soon(socket.next()).await.expect("a message").expect("no fault"), Message::Text("1b25l".into()));
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_stream_and_not_the_server() {
    let mut socket = socket(&["v5.channel.k8s.io"]).await;
    // Whether it is refused while it is sent or afterwards, the socket ends.
    drop(socket.send(Message::Binary(vec![0; 5 << 20].into())).await);
    let end = async {
        while let Some(Ok(message)) = socket.next().await {
            assert!(!matches!(&message, Message::Binary(bytes) if bytes.len() > 1), "{message:?}");
        }
    };
    soon(end).await;
}

async fn spdy_streams(protocols: &[&str]) -> Result<(String, wire::spdy::Session), Response<Body>> {
    let mut request = Request::post(format!("http://{}/", server().await)).header("upgrade", wire::spdy::UPGRADE);
    for protocol in protocols {
        request = request.header(spdy::PROTOCOL_HEADER, *protocol);
    }
    let client = Client::new(ClientOptions::default());
    let (response, stream) = client.upgrade(request.body(Body::Empty).expect("a request")).await.expect("sent");
    let Some(stream) = stream else { return Err(response) };
    let protocol = response.headers().get(spdy::PROTOCOL_HEADER).map(|value| value.to_str().expect("text").to_owned());
    let (session, work) = wire::spdy::start(stream, Side::Client, Limits::default());
    drop(stdx::spawn(work));
    Ok((protocol.unwrap_or_default(), session))
}

async fn open(session: &wire::spdy::Session, kind: &str) -> (StreamReader, StreamWriter) {
    let headers = vec![("streamtype".to_owned(), kind.to_owned())];
    soon(session.open(headers)).await.expect("opened").split()
}

async fn all(mut reader: StreamReader) -> String {
    let mut text = String::new();
    soon(reader.read_to_string(&mut text)).await.expect("an orderly end");
    text
}

#[tokio::test]
async fn spdy_carries_a_process_in_each_version_of_its_protocol() {
    for (protocol, status) in
        [("v4.channel.k8s.io", true), ("v5.channel.k8s.io", true), ("v2.channel.k8s.io", false), ("", false)]
    {
        let offered: Vec<&str> = Some(protocol).filter(|protocol| !protocol.is_empty()).into_iter().collect();
        let (chosen, session) = spdy_streams(&offered).await.expect("upgraded");
        assert_eq!(chosen, protocol);
        let (error, _) = open(&session, "error").await;
        let (_, mut stdin) = open(&session, "stdin").await;
        let (stdout, mut not_ours) = open(&session, "stdout").await;
        let (stderr, _) = open(&session, "stderr").await;
        // What a client writes to an output is nobody's input.
        not_ours.write(Bytes::from_static(b"confusion")).await.expect("sent");
        stdin.write(vec![b'x'; 100_000].into()).await.expect("sent");
        stdin.finish().await.expect("finished");
        let (stdout, stderr, error) = tokio::join!(all(stdout), all(stderr), all(error));
        assert_eq!((stdout.len(), stderr.as_str()), (100_000, "end"), "{protocol}");
        assert!(!stdout.contains("confusion"));
        assert_eq!(error.starts_with('{'), status, "{error}");
        assert!(error.contains("exit status 3"), "{error}");
    }
}

#[tokio::test]
async fn a_protocol_that_nobody_speaks_is_refused_with_those_that_are_spoken() {
    let refused = spdy_streams(&["v9.channel.k8s.io"]).await.err().expect("a refusal");
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(refused.headers().get_all("x-accepted-stream-protocol-versions").iter().count(), spdy::PROTOCOLS.len());
}
