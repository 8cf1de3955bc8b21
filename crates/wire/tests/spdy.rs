//! SPDY/3.1 between our own two ends, and against a peer that does not play by the rules.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use wire::spdy::{self, Headers, Limits, Session, Side, SpdyError};

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A client and a server, connected.
fn pair(limits: Limits) -> (Session, Session) {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let (client, client_work) = spdy::start(ours, Side::Client, limits);
    let (server, server_work) = spdy::start(theirs, Side::Server, limits);
    drop(stdx::spawn(client_work));
    drop(stdx::spawn(server_work));
    (client, server)
}

/// A server, and the bare connection to it.
fn against(limits: Limits) -> (Session, DuplexStream, stdx::Task<Result<(), SpdyError>>) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (server, work) = spdy::start(theirs, Side::Server, limits);
    (server, ours, stdx::spawn(work))
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    stdx::timeout(Duration::from_secs(20), work).await.expect("it does not hang")
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_each_way_by_itself() {
    let (client, mut server) = pair(Limits::default());
    let serving = stdx::spawn(async move {
        let incoming = server.accept().await.expect("a stream");
        assert_eq!(incoming.headers(), &headers(&[("streamtype", "data"), ("port", "80")]));
        let (mut reader, mut writer) = incoming.accept().await.expect("accepted").split();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.expect("an orderly end");
        writer.write(Bytes::from(format!("{} bytes", all.len()))).await.expect("written");
        writer.finish().await.expect("finished");
        server
    });
    let stream = client.open(headers(&[("streamType", "data"), ("port", "80")])).await.expect("opened");
    let (mut reader, mut writer) = stream.split();
    // More than any window, and more than one frame of ours.
    writer.write(vec![7; 3 << 20].into()).await.expect("written");
    writer.finish().await.expect("finished");
    let mut answer = String::new();
    soon(reader.read_to_string(&mut answer)).await.expect("an orderly end");
    assert_eq!(answer, "3145728 bytes");
    let mut server = soon(serving).await.expect("the server did its part");
    drop((client, reader, writer));
    assert!(soon(server.accept()).await.is_none(), "the connection ends with its last user");
}

#[tokio::test]
async fn a_stream_nobody_takes_is_reset_and_one_too_many_is_refused() {
    let (client, mut server) = pair(Limits { streams_max: 2, ..Limits::default() });
    let (first, refused) = tokio::join!(client.open(headers(&[("n", "1")])), async {
        let incoming = server.accept().await.expect("a stream");
        drop(incoming);
        server
    });
    assert_eq!(first.err(), Some(SpdyError::Reset));
    let mut server = refused;
    let (one, kept) = tokio::join!(client.open(headers(&[("n", "2")])), async {
        server.accept().await.expect("a stream").accept().await.expect("accepted")
    });
    let one = one.expect("accepted");
    let (two, kept_too) = tokio::join!(client.open(headers(&[("n", "3")])), async {
        server.accept().await.expect("a stream").accept().await.expect("accepted")
    });
    assert_eq!(client.open(headers(&[("n", "4")])).await.err(), Some(SpdyError::Limit("streams")));
    drop((one, two, kept, kept_too));
}

#[tokio::test]
async fn what_is_dropped_unfinished_is_an_error_at_the_other_end() {
    let (client, mut server) = pair(Limits::default());
    let (stream, theirs) = tokio::join!(client.open(headers(&[])), async {
        server.accept().await.expect("a stream").accept().await.expect("accepted")
    });
    let (mut reader, _writer) = theirs.split();
    let (_, mut writer) = stream.expect("accepted").split();
    writer.write(Bytes::from_static(b"half")).await.expect("written");
    drop(writer);
    assert_eq!(soon(reader.next()).await, Ok(Some(Bytes::from_static(b"half"))));
    assert_eq!(soon(reader.next()).await, Err(SpdyError::Reset));
}

/// A control frame.
fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    frame.push(flags);
    frame.extend(&length[1..]);
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn frames_of_a_hostile_peer_end_the_connection_with_a_goodbye() {
    let check = async |frames: Vec<u8>, expected: SpdyError| {
        let (_server, mut peer, work) = against(Limits::default());
        peer.write_all(&frames).await.expect("written");
        assert_eq!(soon(work).await.expect("no panic"), Err(expected));
        let mut said = Vec::new();
        peer.read_to_end(&mut said).await.expect("read");
        assert_eq!(said[..8], [0x80, 3, 0, 7, 0, 0, 0, 8], "GOAWAY: {said:?}");
    };
    // A control frame that claims sixteen megabytes.
    let mut huge = control(1, 0, &[]);
    huge[5..8].copy_from_slice(&[0xff; 3]);
    check(huge, SpdyError::Limit("bytes of a control frame")).await;
    check(vec![0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Protocol("frame is of another version than 3")).await;
    check(control(3, 0, &[0; 3]), SpdyError::Protocol("control frame is too short")).await;
    let garbage = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0x55; 40]].concat();
    let fault = SpdyError::Protocol("header block is not compressed as it should be");
    check(control(1, 0, &garbage), fault).await;
    let wide = |_| control(9, 0, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    check((0..2).flat_map(wide).collect(), SpdyError::Protocol("window is too large")).await;
}

#[tokio::test]
async fn data_of_streams_that_never_were_is_answered_and_pings_too() {
    let (_server, mut peer, _work) = against(Limits::default());
    peer.write_all(&[0, 0, 0, 9, 0, 0, 0, 2, b'h', b'i']).await.expect("written");
    let mut answer = [0; 16];
    soon(peer.read_exact(&mut answer)).await.expect("answered");
    assert_eq!(answer, [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 2]);
    peer.write_all(&control(6, 0, &[0, 0, 0, 1])).await.expect("written");
    let mut answer = [0; 12];
    soon(peer.read_exact(&mut answer)).await.expect("answered");
    assert_eq!(answer[..], control(6, 0, &[0, 0, 0, 1])[..]);
}

#[tokio::test]
async fn a_peer_that_speaks_of_windows_is_sent_no_more_than_they_hold() {
    let (mut server, mut peer, _work) = against(Limits::default());
    // A SYN_STREAM whose block is empty: zlib with the dictionary, no headers.
    let block = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0x62, 0x60, 0x60, 0x60, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff];
    let syn = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &block].concat();
    // SETTINGS: an initial window of ten bytes.
    peer.write_all(&control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 10])).await.expect("written");
    peer.write_all(&control(1, 0, &syn)).await.expect("written");
    let incoming = soon(server.accept()).await.expect("a stream");
    let (_reader, mut writer) = incoming.accept().await.expect("accepted").split();
    let writing = stdx::spawn(async move {
        writer.write(Bytes::from_static(b"0123456789abcde")).await.expect("written");
        writer.finish().await.expect("finished");
    });
    let mut head = [0; 8];
    soon(peer.read_exact(&mut head)).await.expect("SYN_REPLY");
    let mut rest = vec![0; usize::from(head[7])];
    peer.read_exact(&mut rest).await.expect("its block");
    let mut data = [0; 18];
    soon(peer.read_exact(&mut data)).await.expect("what the window holds");
    assert_eq!(&data[..], b"\0\0\0\x01\0\0\0\x0a0123456789");
    peer.write_all(&control(9, 0, &[0, 0, 0, 1, 0, 0, 0, 100])).await.expect("written");
    let mut data = [0; 21];
    soon(peer.read_exact(&mut data)).await.expect("the rest and the end");
    assert_eq!(&data[..], b"\0\0\0\x01\0\0\0\x05abcde\0\0\0\x01\x01\0\0\0");
    soon(writing).await.expect("no panic");
}

#[tokio::test]
async fn a_peer_cannot_open_more_streams_than_there_is_room_for_nor_reuse_numbers() {
    let (mut server, mut peer, _work) = against(Limits { streams_max: 2, ..Limits::default() });
    let first = [0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
    let empty = [0x62, 0x60, 0x60, 0x60, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff];
    let mut head = &first[..];
    for id in [1_u8, 3, 5, 3, 2, 0] {
        let syn = [&[0, 0, 0, id, 0, 0, 0, 0, 0, 0][..], head, &empty].concat();
        peer.write_all(&control(1, 0, &syn)).await.expect("written");
        head = &[];
    }
    let mut answers = [0; 64];
    soon(peer.read_exact(&mut answers)).await.expect("answered");
    let answers: Vec<(u8, u8)> = answers.chunks(16).map(|reset| (reset[11], reset[15])).collect();
    // Refused, and three that are no new stream of a client's.
    assert_eq!(answers, [(5, 3), (3, 1), (2, 1), (0, 1)]);
    let taken = (server.accept().await, server.accept().await);
    assert_eq!((taken.0.map(|one| one.id()), taken.1.map(|two| two.id())), (Some(1), Some(3)));
}

#[tokio::test]
async fn a_thousand_cuts_of_random_bytes_neither_panic_nor_hang() {
    let mut seed = 0x9e37_79b9_u32;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..1000 {
        let (mut server, mut peer, work) = against(Limits { streams_max: 4, header_bytes_max: 1 << 10 });
        let mut bytes = Vec::new();
        for _ in 0..next() % 8 {
            let payload: Vec<u8> = (0..next() % 40).map(|_| next().to_le_bytes()[0]).collect();
            let kind = u16::from(next().to_le_bytes()[0] % 11);
            bytes.extend(control(kind, next().to_le_bytes()[0] & 3, &payload));
        }
        bytes.extend((0..next() % 30).map(|_| next().to_le_bytes()[0]));
        peer.write_all(&bytes).await.expect("written");
        peer.shutdown().await.expect("shut down");
        let accepting = async { while server.accept().await.is_some() {} };
        soon(async { tokio::join!(accepting, work).1 }).await.expect("no panic").unwrap_or(());
    }
}
