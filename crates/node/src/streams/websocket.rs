//! Streams as channels of a WebSocket: each message begins with its channel's number.
//!
//! 0 stdin, 1 stdout, 2 stderr, 3 the outcome, 4 the terminal's size; in version 5, 255 closes the channel that follows.
//! In the base64 forms the number is a digit and the rest is base64.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use stdx::{BoxFuture, Cancel};
use tokio::sync::mpsc;
use wire::websocket::{Message, WebSocket, WebSocketReceiver};

use super::outcome::Telling;
use super::{Connected, Ends, Input, Output, Wanted};

/// Sub-protocols of exec and attach. A client that asks for none speaks like `channel.k8s.io`.
pub const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// Sub-protocols of the older form of port-forward.
pub const PORT_PROTOCOLS: [&str; 2] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// The sub-protocol in which SPDY is tunnelled.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Messages that wait for a slow reader; whoever sends more waits.
const QUEUE: usize = 16;
/// How long a client may take to read what is left and to close. Upstream: `finishTimeout`.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    base64: bool,
    /// Whether channels can be closed one by one.
    closes: bool,
}

impl Form {
    fn of(protocol: Option<&str>) -> Form {
        let protocol = protocol.unwrap_or_default();
        Form { base64: protocol.contains("base64"), closes: protocol.starts_with("v5.") }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            return Message::Text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes)));
        }
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        Message::Binary(message.into())
    }

    /// Channel and content of a message; none of what is malformed.
    fn read(self, message: Bytes) -> Option<(u8, Bytes)> {
        let (channel, rest) = (*message.first()?, message.slice(1..));
        if self.base64 {
            let channel = char::from(channel).to_digit(10)?;
            return Some((u8::try_from(channel).ok()?, STANDARD.decode(rest).ok()?.into()));
        }
        Some((channel, rest))
    }
}

/// The channels of a socket at work.
struct Channels {
    inputs: Vec<mpsc::Receiver<Bytes>>,
    messages: mpsc::Sender<(u8, Bytes)>,
    gone: Cancel,
    work: BoxFuture<'static, ()>,
}

/// Opens channels: `inputs` are those that the client writes to.
fn channels(socket: WebSocket, inputs: &[u8]) -> Channels {
    let form = Form::of(socket.protocol());
    let (messages, mut queue) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for channel in inputs {
        let (sender, receiver) = mpsc::channel(QUEUE);
        senders.push((*channel, Some(sender)));
        receivers.push(receiver);
    }
    let gone = Cancel::default();
    let (mut sender, receiver) = socket.split();
    let left = gone.clone();
    let work = async move {
        let sending = async {
            while let Some((channel, bytes)) = queue.recv().await {
                if sender.send(form.message(channel, &bytes)).await.is_err() {
                    return;
                }
            }
            // A client that is gone already needs no goodbye. One that is there reads on to the end, and then answers:
            // to close before that would take back what is still on its way.
            if sender.send(Message::Close(Some((1000, String::new())))).await.is_ok() {
                stdx::sleep(FINISH_TIMEOUT).await;
            }
        };
        tokio::select! {
            () = sending => {}
            () = receive(receiver, form, senders) => {}
        }
        left.cancel();
    };
    Channels { inputs: receivers, messages, gone, work: Box::pin(work) }
}

/// Takes in what the client sends; ends when the client is gone.
async fn receive(mut receiver: WebSocketReceiver, form: Form, mut senders: Vec<(u8, Option<mpsc::Sender<Bytes>>)>) {
    while let Some(Ok(message)) = receiver.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            // Asked once more, the socket answers the goodbye.
            Message::Close(_) => continue,
        };
        let Some((channel, bytes)) = form.read(bytes) else { continue };
        if let (true, CLOSE, [closed]) = (form.closes, channel, &*bytes) {
            senders.iter_mut().filter(|(channel, _)| channel == closed).for_each(|(_, sender)| *sender = None);
            continue;
        }
        let sender = senders.iter().find(|(known, _)| *known == channel).and_then(|(_, sender)| sender.as_ref());
        if let Some(sender) = sender
            && !bytes.is_empty()
        {
            // Nobody may care any more; what else is sent is still read.
            drop(sender.send(bytes).await);
        }
    }
}

/// A process's streams on a socket.
pub async fn ends(socket: WebSocket, wanted: Wanted) -> Connected {
    let status = matches!(socket.protocol(), Some(protocol) if protocol.starts_with('v'));
    let telling = if status { Telling::Status } else { Telling::Text };
    let Channels { inputs, messages, gone, work } = channels(socket, &[STDIN, RESIZE]);
    let mut inputs = inputs.into_iter().map(Input::Web);
    let (stdin, resize) = (inputs.next(), inputs.next());
    let output = |channel| Output::Web(channel, messages.clone());
    let lowest = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        OUTCOME
    };
    // An empty message tells the client that all is set up. There is room for it.
    drop(messages.send((lowest, Bytes::new())).await);
    let ends = Ends {
        stdin: stdin.filter(|_| wanted.stdin),
        stdout: wanted.stdout.then(|| output(STDOUT)),
        stderr: wanted.stderr.then(|| output(STDERR)),
        error: output(OUTCOME),
        resize: resize.filter(|_| wanted.tty),
        telling,
    };
    Connected { ends, gone, work }
}

/// A forwarded port's streams on a socket.
pub struct Port {
    pub port: u16,
    pub data: (Input, Output),
    pub error: Output,
}

/// The streams of all ports on a socket: for each a channel of data and one of errors, both beginning with its number.
pub async fn ports(socket: WebSocket, ports: &[u16]) -> (Vec<Port>, Cancel, BoxFuture<'static, ()>) {
    let numbers: Vec<u8> = (0_u8..).step_by(2).take(ports.len()).collect();
    let Channels { inputs, messages, gone, work } = channels(socket, &numbers);
    let mut opened = Vec::new();
    for ((port, channel), input) in ports.iter().zip(numbers).zip(inputs) {
        opened.push(Port {
            port: *port,
            data: (Input::Web(input), Output::Web(channel, messages.clone())),
            error: Output::Web(channel + 1, messages.clone()),
        });
    }
    (opened, gone, work)
}

/// A socket as one stream of bytes: what the client's messages hold one after the other, however they are cut.
pub fn tunnel(socket: WebSocket) -> (tokio::io::DuplexStream, BoxFuture<'static, ()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (near, far) = tokio::io::duplex(super::CHUNK_BYTES);
    let (mut sender, mut receiver) = socket.split();
    let (mut from_us, mut to_us) = tokio::io::split(far);
    let sending = async move {
        let mut buffer = vec![0; super::CHUNK_BYTES];
        loop {
            match from_us.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let message = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
        if sender.send(Message::Close(Some((1000, String::new())))).await.is_ok() {
            stdx::sleep(FINISH_TIMEOUT).await;
        }
    };
    let receiving = async move {
        while let Some(Ok(message)) = receiver.next().await {
            if let Message::Binary(bytes) = message
                && to_us.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    };
    let work = async move {
        tokio::select! {
            () = sending => {}
            () = receiving => {}
        }
    };
    (near, Box::pin(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_channel_in_each_form() {
        let check = |protocol: Option<&str>, message: Message, read: Bytes| {
            let form = Form::of(protocol);
            assert_eq!(form.message(1, b"hi"), message, "{protocol:?}");
            assert_eq!(form.read(read), Some((0, Bytes::from_static(b"in"))), "{protocol:?}");
        };
        let binary = Message::Binary(Bytes::from_static(b"\x01hi"));
        for protocol in [None, Some("channel.k8s.io"), Some("v4.channel.k8s.io"), Some("v5.channel.k8s.io")] {
            check(protocol, binary.clone(), Bytes::from_static(b"\0in"));
        }
        for protocol in ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"] {
            check(Some(protocol), Message::Text("1aGk=".into()), Bytes::from_static(b"0aW4="));
        }
    }

    #[test]
    fn what_is_malformed_says_nothing() {
        let base64 = Form::of(Some("base64.channel.k8s.io"));
        for text in [&b""[..], b"xaGk=", b"0aG!", b"\x000"] {
            assert_eq!(base64.read(Bytes::copy_from_slice(text)), None, "{text:?}");
        }
        assert_eq!(Form::of(None).read(Bytes::new()), None);
    }
}
