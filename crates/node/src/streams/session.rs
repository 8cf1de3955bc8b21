//! A process's streams joined with a client's.

use bytes::{Bytes, BytesMut};
use cri::{ExecSession, TerminalSize};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::outcome::told;
use super::{CHUNK_BYTES, Connected, Ends, Gone, Input, Output};

/// The longest that a size may be as text.
const SIZE_BYTES_MAX: usize = 4096;

/// What streams are of, and so when they are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A process of their own: over with it.
    Exec,
    /// A container's: over with it.
    Container,
    /// A container's whose input goes on after this client's: over with that one's, too. Upstream's runtimes do so.
    SharedInput,
}

impl Of {
    /// As a failure tells it.
    const fn doing(self) -> &'static str {
        match self {
            Of::Exec => "executing command in",
            Of::Container | Of::SharedInput => "attaching to",
        }
    }
}

/// Carries the streams of what the runtime started, or of why it could not, until that is over and all is sent.
pub async fn serve(connected: Connected, session: cri::Result<ExecSession>, of: Of) {
    let Connected { ends, gone, work } = connected;
    let carrying = async {
        // When the client is gone, dropping the session ends what was started for it.
        if gone.run(carry(ends, session, of)).await.is_none() {
            tracing::debug!("the client of a stream went away");
        }
    };
    tokio::join!(carrying, work);
}

async fn carry(ends: Ends, session: cri::Result<ExecSession>, of: Of) {
    let Ends { stdin, stdout, stderr, mut error, resize, telling } = ends;
    let outcome = match session {
        Ok(session) => {
            let ExecSession { stdin: process_input, stdout: out, stderr: err, resize: sizes, exit } = session;
            let pumping = async {
                let errors = async {
                    match err {
                        Some(err) => copy(err, stderr).await,
                        None => end(stderr).await,
                    }
                };
                let ((), (), code) = tokio::join!(copy(out, stdout), errors, exit);
                code
            };
            tokio::select! {
                code = pumping => code,
                () = feed(stdin, process_input, resize, sizes, of) => Ok(0),
            }
        }
        Err(error) => Err(error),
    };
    if let Some(message) = told(&outcome, of.doing(), telling) {
        // A client that is gone is not told.
        drop(error.write(message).await);
    }
    error.finish().await;
}

async fn end(output: Option<Output>) {
    if let Some(mut output) = output {
        output.finish().await;
    }
}

/// Sends what the process writes; what nobody asked for is read and dropped, so that the process is not held up.
async fn copy(mut stream: impl AsyncRead + Unpin, mut output: Option<Output>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {
                let piece = buffer.split().freeze();
                if let Some(client) = &mut output
                    && client.write(piece).await == Err(Gone)
                {
                    output = None;
                }
            }
        }
    }
    end(output).await;
}

/// Takes in what the client sends, as long as somebody cares.
async fn feed(
    stdin: Option<Input>,
    process: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<Input>,
    sizes: watch::Sender<TerminalSize>,
    of: Of,
) {
    let writing = async {
        if let (Some(mut stdin), Some(mut process)) = (stdin, process) {
            while let Some(bytes) = stdin.next().await {
                let written = async {
                    process.write_all(&bytes).await?;
                    process.flush().await
                };
                if written.await.is_err() {
                    // The process does not read any more.
                    break;
                }
            }
            // Dropping it is the end of the process's input.
            if of == Of::SharedInput {
                return;
            }
        }
        std::future::pending().await
    };
    let resizing = async {
        if let Some(mut resize) = resize {
            let mut text = BytesMut::new();
            while let Some(bytes) = resize.next().await {
                text.extend_from_slice(&bytes);
                if let Some(size) = last_size(&mut text) {
                    sizes.send_replace(size);
                }
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = writing => {}
        () = resizing => {}
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The newest complete size in a sequence of JSON values, whose rest stays.
fn last_size(text: &mut BytesMut) -> Option<TerminalSize> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let (mut size, mut end) = (None, 0);
    while let Some(Ok(Size { width, height })) = values.next() {
        size = Some(TerminalSize { width, height });
        end = values.byte_offset();
    }
    drop(text.split_to(end));
    if text.len() > SIZE_BYTES_MAX {
        text.clear();
    }
    size
}

/// Joins a client's data with a connection: each direction ends by itself. What goes wrong at the connection's other end is an
/// error in words; that it just breaks is an end.
pub async fn relay<C: AsyncRead + AsyncWrite>(
    connection: C,
    mut input: Input,
    output: &mut Output,
) -> std::io::Result<()> {
    let (mut reading, mut writing) = tokio::io::split(connection);
    let outgoing = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            match reading.read_buf(&mut buffer).await {
                Err(error) if error.kind() == std::io::ErrorKind::Other => return Err(error),
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {
                    if output.write(Bytes::from(buffer.split())).await == Err(Gone) {
                        return Ok(());
                    }
                }
            }
        }
    };
    let incoming = async {
        while let Some(bytes) = input.next().await {
            if writing.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // The other side may be gone already.
        drop(writing.shutdown().await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = outgoing => ended,
        () = incoming => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_size_counts_however_the_text_is_cut() {
        let check = |pieces: &[&str], expected: &[Option<(u16, u16)>]| {
            let mut text = BytesMut::new();
            let mut found = Vec::new();
            for piece in pieces {
                text.extend_from_slice(piece.as_bytes());
                found.push(last_size(&mut text).map(|size| (size.width, size.height)));
            }
            assert_eq!(found, expected, "{pieces:?}");
        };
        check(&[r#"{"Width":80,"Height":24}"#], &[Some((80, 24))]);
        check(&[r#"{"Width":80,"He"#, r#"ight":24}"#], &[None, Some((80, 24))]);
        let two = "{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}\n";
        check(&[two, r#"{"Width":1,"Height":2}"#], &[Some((100, 30)), Some((1, 2))]);
        check(&[&"x".repeat(5000), r#"{"Width":1,"Height":2}"#], &[None, Some((1, 2))]);
    }
}
