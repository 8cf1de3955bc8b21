//! Rotating container logs, so that none fills the disk: compressing what is rotated away, and rotating where the runtime does not.
//!
//! The built-in runtime's supervisors rotate as they write, also while no agent runs.
//! Upstream: `pkg/kubelet/logs/container_log_manager.go`, sizes, number and names included: `0.log`, the one before it
//! `0.log.20060102-150405`, older ones compressed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cri::{ContainerFilter, ContainerState, Runtime};
use flate2::Compression;
use flate2::write::GzEncoder;

/// A log longer than this is rotated. Upstream: `containerLogMaxSize`.
const BYTES_MAX: u64 = 10 << 20;
/// Files kept of a container's log, the one written to among them. Upstream: `containerLogMaxFiles`.
const FILES_MAX: usize = 5;
const COMPRESSED: &str = ".gz";
/// What is being compressed, until it is whole.
const UNFINISHED: &str = ".tmp";

/// What was rotated away of a log, oldest first.
pub fn generations(log: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// What is done with what was rotated away.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tidy {
    remove: Vec<PathBuf>,
    compress: Vec<PathBuf>,
}

/// Decides. Names sort by their time; a file beside its compressed form is a leftover, and so is an unfinished one. The newest
/// stays as it is: somebody may still read it.
fn tidy(found: &[PathBuf]) -> Tidy {
    let ends = |path: &Path, suffix: &str| path.to_str().is_some_and(|path| path.ends_with(suffix));
    let has_compressed = |path: &Path| found.contains(&with_suffix(path, COMPRESSED));
    let (mut kept, mut tidy) = (Vec::new(), Tidy::default());
    for path in found {
        let leftover = ends(path, UNFINISHED) || (!ends(path, COMPRESSED) && has_compressed(path));
        if leftover { &mut tidy.remove } else { &mut kept }.push(path.clone());
    }
    // The file written to counts, too.
    let excess = kept.len().saturating_sub(FILES_MAX - 1);
    tidy.remove.extend(kept.drain(..excess));
    kept.pop();
    tidy.compress = kept.into_iter().filter(|path| !ends(path, COMPRESSED)).collect();
    tidy
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Looks after the logs of running containers.
pub async fn all(runtime: &dyn Runtime) {
    let running = ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let containers = match runtime.list_containers(running).await {
        Ok(containers) => containers,
        Err(error) => return tracing::warn!(%error, "containers not listed: no log is rotated"),
    };
    for container in containers {
        let Ok(status) = runtime.container_status(&container.id).await else { continue };
        let log = PathBuf::from(&status.log_path);
        if let Err(error) = look_after(runtime, &container.id, &log).await {
            tracing::warn!(log = %log.display(), %error, "log not rotated");
        }
    }
}

async fn look_after(runtime: &dyn Runtime, id: &str, log: &Path) -> io::Result<()> {
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > BYTES_MAX) {
        rotate(runtime, id, log).await?;
    }
    let tidy = tidy(&generations(log));
    if tidy == Tidy::default() {
        return Ok(());
    }
    stdx::blocking(move || carry_out(&tidy)).await.map_err(io::Error::other)?
}

async fn rotate(runtime: &dyn Runtime, id: &str, log: &Path) -> io::Result<()> {
    let stamp = stdx::wall().strftime("%Y%m%d-%H%M%S").to_string();
    let rotated = with_suffix(log, &format!(".{stamp}"));
    fs::rename(log, &rotated)?;
    if let Err(error) = runtime.reopen_container_log(id).await {
        // The container writes on into the file it has open: it keeps its name.
        fs::rename(&rotated, log)?;
        return Err(io::Error::other(error));
    }
    Ok(())
}

fn carry_out(tidy: &Tidy) -> io::Result<()> {
    // A supervisor may have removed the oldest meanwhile.
    let done = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    tidy.remove.iter().try_for_each(|path| done(fs::remove_file(path)))?;
    tidy.compress.iter().try_for_each(|path| done(compress(path)))
}

fn compress(path: &Path) -> io::Result<()> {
    let unfinished = with_suffix(path, UNFINISHED);
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::set_permissions(&unfinished, fs::metadata(path)?.permissions())?;
    fs::rename(&unfinished, with_suffix(path, COMPRESSED))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[track_caller]
    fn check(found: &[&str], remove: &[&str], compress: &[&str]) {
        let paths =
            |names: &[&str]| names.iter().map(|name| PathBuf::from(format!("0.log.{name}"))).collect::<Vec<_>>();
        assert_eq!(tidy(&paths(found)), Tidy { remove: paths(remove), compress: paths(compress) });
    }

    #[test]
    fn four_older_files_are_kept_and_all_but_the_newest_compressed() {
        check(&[], &[], &[]);
        check(&["20260101-000001"], &[], &[]);
        check(&["1.gz", "2.gz", "3", "4"], &[], &["3"]);
        check(&["1.gz", "2.gz", "3.gz", "4", "5"], &["1.gz"], &["4"]);
        // An agent ended while it compressed, or before it removed what it had compressed.
        check(&["1.gz", "2.tmp", "2", "3"], &["2.tmp"], &["2"]);
        check(&["1", "1.gz", "2"], &["1"], &[]);
    }

    #[test]
    fn what_is_compressed_reads_as_before() {
        let folder = std::env::temp_dir().join(format!("isopod-node-rotate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = folder.join("0.log");
        fs::write(&log, "now").unwrap();
        fs::write(folder.join("0.log.20260101-000001"), "before").unwrap();
        fs::write(folder.join("0.log.20260101-000002"), "newest").unwrap();
        carry_out(&tidy(&generations(&log))).unwrap();
        let found = generations(&log);
        assert_eq!(found, ["0.log.20260101-000001.gz", "0.log.20260101-000002"].map(|name| folder.join(name)));
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(&found[0]).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "before");
        super::super::remove(&log);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a removed log takes its generations along");
        fs::remove_dir(&folder).unwrap();
    }
}
