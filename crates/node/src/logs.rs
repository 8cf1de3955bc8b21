//! Reading container logs: CRI's line format, from where the reader asked, and on as the container writes.
//!
//! A line is `2006-01-02T15:04:05.999999999Z stdout F text`; `P` in place of `F` means that the line goes on in the next.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cri::{ContainerState, Runtime, RuntimeEvent};
use futures_util::Stream;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

pub mod rotate;

/// Bytes read from a log at once.
const CHUNK: usize = 64 * 1024;
/// The longest line that is held together; CRI writers split at 16 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a reader asked for. Upstream: `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<Timestamp>,
    /// `Stdout` or `Stderr`; `None` is both.
    pub stream: Option<String>,
}

/// Turns stored lines into what the reader sees. Pure; keeps an unfinished line between calls.
#[derive(Debug)]
pub struct Formatter {
    options: LogOptions,
    rest: Vec<u8>,
    left: Option<u64>,
    /// The last written piece was an unfinished line, so the next one has no timestamp of its own.
    inside_line: bool,
}

impl Formatter {
    /// A formatter at the beginning of a line.
    pub fn new(options: LogOptions) -> Formatter {
        let left = options.limit_bytes;
        Formatter { options, rest: Vec::new(), left, inside_line: false }
    }

    /// The text for more of a stored log.
    pub fn format(&mut self, stored: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(stored);
        let mut out = Vec::new();
        let stored = std::mem::take(&mut self.rest);
        let mut lines = stored.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            if line.last() != Some(&b'\n') && lines.peek().is_none() && line.len() < LINE_BYTES_MAX {
                self.rest = line.to_vec();
                break;
            }
            self.line(line.strip_suffix(b"\n").unwrap_or(line), &mut out);
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    /// Whether the reader has all it asked for.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((time, stream, full, text)) = parsed(line) else { return };
        if self.options.since.is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|time| time < since)) {
            return;
        }
        if self.options.stream.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(stream)) {
            return;
        }
        if self.options.timestamps && !self.inside_line {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if full {
            out.push(b'\n');
        }
        self.inside_line = !full;
    }
}

/// Time, stream, whether the line ends here, and its text.
fn parsed(line: &[u8]) -> Option<(&str, &str, bool, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    Some((time, stream, tag.first() == Some(&b'F'), parts.next().unwrap_or_default()))
}

/// Where the last `lines` lines of a file begin.
pub fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    let whole = end;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let length = usize::try_from(end - start).unwrap_or(CHUNK);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk[..length])?;
        for position in (0..length).rev() {
            let is_last = start + position as u64 + 1 == whole;
            if chunk[position] == b'\n' && !is_last {
                found += 1;
                if found == lines {
                    return Ok(start + position as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The end of a log as plain text: at most so many lines and bytes.
pub fn tail(path: &Path, lines: u64, bytes_max: usize) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(start))?;
        let mut stored = Vec::new();
        file.take(LINE_BYTES_MAX as u64).read_to_end(&mut stored)?;
        let text = Formatter::new(LogOptions::default()).format(&stored);
        let cut = text.len().saturating_sub(bytes_max);
        Ok(text[cut..].to_vec())
    };
    read().unwrap_or_default()
}

/// Removes a log with what was rotated away of it.
pub fn remove(path: &Path) {
    for file in rotate::generations(path).into_iter().chain([path.to_owned()]) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "log not removed");
            }
            _ => {}
        }
    }
}

/// A container's log as the reader sees it, to its present end, or for as long as the container runs.
///
/// # Errors
/// When the log cannot be opened.
pub fn stream(
    path: PathBuf,
    options: LogOptions,
    runtime: std::sync::Arc<dyn Runtime>,
    container_id: String,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send> {
    // Watching begins before reading, so that no write falls between the two.
    let watcher = if options.follow { Some(Watcher::new(&path)?) } else { None };
    let mut file = File::open(&path)?;
    let start = options.tail_lines.map_or(Ok(0), |lines| tail_offset(&mut file, lines))?;
    file.seek(SeekFrom::Start(start))?;
    let events = runtime.events();
    let reader = Reader {
        path,
        file,
        formatter: Formatter::new(options),
        watcher,
        runtime,
        container_id,
        events,
        ended: false,
        drained: false,
    };
    Ok(futures_util::stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|bytes| (bytes, reader)))
    }))
}

struct Reader {
    path: PathBuf,
    file: File,
    formatter: Formatter,
    watcher: Option<Watcher>,
    runtime: std::sync::Arc<dyn Runtime>,
    container_id: String,
    events: cri::Events,
    /// The container has ended: what is in the file now is all.
    ended: bool,
    /// The file was rotated, and has been read to its end since.
    drained: bool,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.formatter.is_full() {
                return Ok(None);
            }
            let ended = self.ended;
            let mut chunk = vec![0; CHUNK];
            let length = self.file.read(&mut chunk)?;
            if length > 0 {
                let text = self.formatter.format(&chunk[..length]);
                if text.is_empty() {
                    continue;
                }
                return Ok(Some(text.into()));
            }
            if self.watcher.is_none() || ended {
                return Ok(None);
            }
            match self.rotated()? {
                // What was written between the last look and the rotation is still to be read.
                true if !self.drained => self.drained = true,
                true => self.turn_over()?,
                false => self.wait().await?,
            }
        }
    }

    /// Whether another file has taken the place of this one, to which nothing is written any more.
    fn rotated(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(present) = std::fs::metadata(&self.path) else { return Ok(false) };
        Ok(present.ino() != self.file.metadata()?.ino())
    }

    /// Opens the file that took the place of a rotated one.
    fn turn_over(&mut self) -> io::Result<()> {
        self.watcher = Some(Watcher::new(&self.path)?);
        self.file = File::open(&self.path)?;
        self.drained = false;
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        match self.runtime.container_status(&self.container_id).await {
            Ok(status) if status.state == ContainerState::Running || status.state == ContainerState::Created => {}
            _ => {
                self.ended = true;
                return Ok(());
            }
        }
        let Some(watcher) = &self.watcher else { return Ok(()) };
        tokio::select! {
            written = watcher.written() => written,
            event = self.events.next() => {
                match event {
                    Some(RuntimeEvent::Container(event)) if event.container_id != self.container_id => {}
                    _ => tracing::trace!("a log's container changed"),
                }
                Ok(())
            }
        }
    }
}

/// Tells when something happens in a folder.
pub(crate) struct Watcher(AsyncFd<OwnedFd>);

impl Watcher {
    /// Watches the folder of a log.
    fn new(path: &Path) -> io::Result<Watcher> {
        use inotify::WatchFlags as Flags;
        Watcher::of(path.parent().unwrap_or(Path::new("/")), Flags::MODIFY | Flags::CREATE | Flags::MOVED_TO)
    }

    /// Watches which whole files a folder holds.
    pub(crate) fn folder(folder: &Path) -> io::Result<Watcher> {
        use inotify::WatchFlags as Flags;
        Watcher::of(folder, Flags::CLOSE_WRITE | Flags::DELETE | Flags::MOVED_TO | Flags::MOVED_FROM)
    }

    fn of(folder: &Path, flags: inotify::WatchFlags) -> io::Result<Watcher> {
        let watcher = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watcher, folder, flags)?;
        // The descriptor is owned by the registration and lives as long, which is what the newer constructor asks for.
        #[allow(deprecated, reason = "its successor is an unsafe function with a promise that ownership keeps here")]
        AsyncFd::new(watcher).map(Watcher)
    }

    pub(crate) async fn written(&self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let mut events = [0; 4096];
        // What happened does not matter, only that something did; all of it is taken away.
        while rustix::io::read(self.0.get_ref(), &mut events).is_ok_and(|length| length > 0) {}
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01.000000000Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stderr F two\n\
        2026-01-01T00:00:03.000000000Z stdout P thr\n\
        2026-01-01T00:00:03.000000001Z stdout F ee\n";

    fn check(options: LogOptions, expected: &str) {
        // Any cut of the stored bytes gives the same text.
        for cut in 0..LOG.len() {
            let mut formatter = Formatter::new(options.clone());
            let mut text = formatter.format(&LOG[..cut]);
            text.extend(formatter.format(&LOG[cut..]));
            assert_eq!(String::from_utf8_lossy(&text), expected, "cut at {cut}");
        }
    }

    #[test]
    fn shows_what_the_reader_asked_for() {
        check(LogOptions::default(), "one\ntwo\nthree\n");
        check(
            LogOptions { timestamps: true, stream: Some("Stdout".into()), ..LogOptions::default() },
            "2026-01-01T00:00:01.000000000Z one\n2026-01-01T00:00:03.000000000Z three\n",
        );
        check(LogOptions { limit_bytes: Some(5), ..LogOptions::default() }, "one\nt");
        check(
            LogOptions { since: Some("2026-01-01T00:00:02Z".parse().unwrap()), ..LogOptions::default() },
            "two\nthree\n",
        );
    }

    #[test]
    fn finds_where_the_last_lines_begin() {
        let path = std::env::temp_dir().join(format!("isopod-node-log-{}", std::process::id()));
        std::fs::write(&path, "a\nbb\nccc\n").unwrap();
        let mut file = File::open(&path).unwrap();
        let offsets = [0, 1, 2, 3, 9].map(|lines| tail_offset(&mut file, lines).unwrap());
        assert_eq!(offsets, [9, 5, 2, 0, 0]);
        std::fs::remove_file(&path).unwrap();
    }
}
