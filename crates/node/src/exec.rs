//! A process in a container, on a WebSocket: Kubernetes' channels, `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Each message begins with its channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome, 4 the terminal's size; in version 5, 255
//! closes the channel that follows.

use bytes::Bytes;
use cri::{ExecSession, TerminalSize};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use wire::websocket::{Message, WebSocket, WebSocketReceiver};

/// Sub-protocols, the best first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Bytes of output in one message.
const CHUNK: usize = 32 * 1024;
/// Messages that wait for a slow client; the process waits when there are more.
const QUEUE: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Carries a session's streams over the socket until the process has ended and all its output is sent.
pub async fn serve(socket: WebSocket, session: ExecSession) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let (mut sender, receiver) = socket.split();
    let (output, mut messages) = mpsc::channel::<Bytes>(QUEUE);
    let input = receive(receiver, stdin, resize);
    let pump = async {
        let out = copy(stdout, STDOUT, output.clone());
        let error = async {
            if let Some(stderr) = stderr {
                copy(stderr, STDERR, output.clone()).await;
            }
        };
        let ((), (), code) = tokio::join!(out, error, exit);
        // The receiving side is gone only when the client is.
        drop(output.send(outcome(&code)).await);
        drop(output);
    };
    let send = async {
        while let Some(message) = messages.recv().await {
            if sender.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        // A client that is gone already needs no goodbye.
        drop(sender.send(Message::Close(Some((1000, String::new())))).await);
    };
    let finished = async { tokio::join!(pump, send) };
    tokio::select! {
        _ = finished => {}
        () = input => tracing::debug!("the client of an exec went away"),
    }
}

/// Takes in what the client sends; ends when the client is gone.
async fn receive(
    mut receiver: WebSocketReceiver,
    mut stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    resize: tokio::sync::watch::Sender<TerminalSize>,
) {
    while let Some(Ok(message)) = receiver.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
        };
        match bytes.split_first() {
            Some((&STDIN, text)) => {
                if let Some(pipe) = &mut stdin {
                    let written = async {
                        pipe.write_all(text).await?;
                        pipe.flush().await
                    };
                    if written.await.is_err() {
                        // The process does not read any more.
                        stdin = None;
                    }
                }
            }
            Some((&CLOSE, [STDIN])) => stdin = None,
            Some((&RESIZE, text)) => {
                if let Ok(size) = serde_json::from_slice::<Size>(text) {
                    resize.send_replace(TerminalSize { width: size.width, height: size.height });
                }
            }
            _ => {}
        }
    }
}

async fn copy(mut stream: impl AsyncRead + Unpin, channel: u8, output: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; CHUNK];
    buffer[0] = channel;
    loop {
        match stream.read(&mut buffer[1..]).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if output.send(Bytes::copy_from_slice(&buffer[..=length])).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The last message: a `Status` that tells the exit code.
fn outcome(code: &cri::Result<i32>) -> Bytes {
    let status = match code {
        Ok(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Ok(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("error executing command in container: {error}"),
            "reason": "InternalError",
            "code": 500,
        }),
    };
    let mut message = vec![OUTCOME];
    message.extend_from_slice(status.to_string().as_bytes());
    message.into()
}
