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

/// Tells that no process could be started.
pub async fn refuse(socket: WebSocket, error: cri::Error) {
    let (mut sender, _receiver) = socket.split();
    // A client that is gone already needs no goodbye.
    if sender.send(Message::Binary(outcome(&Err(error)))).await.is_ok() {
        drop(sender.send(Message::Close(Some((1000, String::new())))).await);
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
        Err(error) => {
            let why = format!("error executing command in container: {error}");
            serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            })
        }
    };
    let mut message = vec![OUTCOME];
    message.extend_from_slice(status.to_string().as_bytes());
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: cri::Result<i32>, expected: serde_json::Value) {
        let message = outcome(&code);
        assert_eq!(message[0], OUTCOME);
        let status: serde_json::Value = serde_json::from_slice(&message[1..]).expect("a status");
        assert_eq!(status, expected);
    }

    #[test]
    fn tells_how_a_process_ended_or_why_there_was_none() {
        check(Ok(0), serde_json::json!({"metadata": {}, "status": "Success"}));
        let three = "command terminated with non-zero exit code: exit status 3";
        check(
            Ok(3),
            serde_json::json!({"metadata": {}, "status": "Failure", "message": three, "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}),
        );
        let error = cri::Error::Internal("exec: \"nope\": executable file not found in $PATH".to_owned());
        let why = format!("error executing command in container: {error}");
        check(
            Err(error),
            serde_json::json!({"metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError", "details": {"causes": [{"message": why}]}, "code": 500}),
        );
    }
}
