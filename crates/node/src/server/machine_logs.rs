//! The machine's own log files, below `/var/log`. Upstream serves them with Go's file server.

use std::io::Read as _;

use http::{HeaderValue, Response, StatusCode, header};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use wire::{Body, BodyError};

use super::query::decoded;
use super::text;

const FOLDER: &str = "/var/log";
/// Bytes sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Names that are listed.
const NAMES_MAX: usize = 10_000;

/// Answers with a file, or with the names in a folder.
pub(super) fn answer(path: &str) -> Response<Body> {
    let below = decoded(path.trim_start_matches('/').trim_start_matches("logs").trim_matches('/'));
    match open(FOLDER, &below) {
        Ok(file) => shown(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            text(StatusCode::NOT_FOUND, "404 page not found\n")
        }
        Err(_) => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
    }
}

/// Opens what is below a folder and nothing else: whoever may write there must not lead us out of it by links, nor have
/// us wait for a pipe.
fn open(folder: &str, below: &str) -> rustix::io::Result<std::fs::File> {
    let root = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let below = if below.is_empty() { "." } else { below };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(&root, below, flags, Mode::empty(), within)?.into())
}

fn shown(mut file: std::fs::File) -> Response<Body> {
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => listed(&file),
        Ok(metadata) if metadata.is_file() => {
            let pieces = futures_util::stream::poll_fn(move |_| {
                let mut chunk = vec![0; CHUNK_BYTES];
                std::task::Poll::Ready(match file.read(&mut chunk) {
                    Ok(0) => None,
                    Ok(length) => {
                        chunk.truncate(length);
                        Some(Ok(chunk.into()))
                    }
                    Err(error) => Some(Err(BodyError::Produce(error.into()))),
                })
            });
            let mut response = Response::new(Body::stream(pieces));
            let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            response
        }
        _ => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
    }
}

fn listed(folder: &std::fs::File) -> Response<Body> {
    let Ok(entries) = rustix::fs::Dir::read_from(folder) else { return text(StatusCode::FORBIDDEN, "403 Forbidden\n") };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| {
            let slash = if entry.file_type() == rustix::fs::FileType::Directory { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .filter(|name| name != "./" && name != "../")
        .take(NAMES_MAX)
        .collect();
    names.sort();
    let lines: String =
        names.iter().map(|name| format!("<a href=\"{}\">{}</a>\n", link(name), escaped(name))).collect();
    let mut response = text(StatusCode::OK, &format!("<!doctype html>\n<pre>\n{lines}</pre>\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

/// A name as part of a URL.
fn link(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_do_not_lead_out_of_the_folder() {
        let folder = std::env::temp_dir().join(format!("isopod-machine-logs-{}", std::process::id()));
        let outside = folder.join("outside");
        let logs = folder.join("logs");
        std::fs::create_dir_all(logs.join("inner")).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(logs.join("inner/file"), "line").unwrap();
        std::os::unix::fs::symlink(&outside, logs.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", logs.join("relative")).unwrap();
        std::os::unix::fs::symlink("inner/file", logs.join("good")).unwrap();
        let read = |below: &str| {
            let mut content = String::new();
            open(logs.to_str().unwrap(), below).ok()?.read_to_string(&mut content).ok()?;
            Some(content)
        };
        assert_eq!(read("inner/file").as_deref(), Some("line"));
        assert_eq!(read("good").as_deref(), Some("line"));
        for below in ["absolute", "relative", "../outside", "inner/../../outside", "/etc/passwd"] {
            assert_eq!(read(below), None, "{below}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(escaped("<b>\"&"), "&lt;b&gt;&#34;&amp;");
        assert_eq!(link("a b/\"é"), "a%20b/%22%C3%A9");
    }
}
