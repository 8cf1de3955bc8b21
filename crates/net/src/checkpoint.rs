//! The data-plane process's memory on disk: names resolve from it until an agent says more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::NetError;
use crate::input::{NetState, ServiceView, SliceView};

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    services: Vec<&'a ServiceView>,
    slices: Vec<&'a SliceView>,
    namespaces: &'a BTreeSet<String>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    services: Vec<ServiceView>,
    slices: Vec<SliceView>,
    #[serde(default)]
    namespaces: BTreeSet<String>,
}

/// The state in the file at `path`; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<NetState>, NetError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetError::io(format!("read {}", path.display()))(error)),
    };
    let malformed = |source| NetError::Malformed { what: path.display().to_string(), source };
    let Version { version } = serde_json::from_slice(&text).map_err(malformed)?;
    if version > VERSION {
        return Err(NetError::Version { what: path.display().to_string(), version, known: VERSION });
    }
    let read: Read = serde_json::from_slice(&text).map_err(malformed)?;
    Ok(Some(NetState::new(read.services, read.slices).within(read.namespaces, "")))
}

/// Replaces the file at `path`: after a crash at any moment it holds either the old state or the new one, whole.
pub(crate) fn write(path: &Path, state: &NetState) -> Result<(), NetError> {
    let new = path.with_extension("new");
    let attempt = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(&new)?);
        let written = Written {
            version: VERSION,
            services: state.services.values().map(Arc::as_ref).collect(),
            slices: state.slices.values().map(Arc::as_ref).collect(),
            namespaces: &state.namespaces,
        };
        serde_json::to_writer(&mut file, &written)?;
        file.flush()?;
        file.get_ref().sync_data()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(NetError::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::testbed::web;

    #[test]
    fn is_read_as_written() {
        let scratch = Scratch::new("checkpoint");
        let path = scratch.path().join("names.json");
        assert_eq!(read(&path).unwrap(), None);
        let state = web(&["10.0.0.1".parse().unwrap()]).within(["default".to_owned()], "");
        write(&path, &state).unwrap();
        write(&path, &state).unwrap();
        assert_eq!(read(&path).unwrap(), Some(state));
    }

    #[test]
    fn a_newer_or_torn_file_is_refused_and_not_guessed_at() {
        let scratch = Scratch::new("checkpoint-bad");
        let path = scratch.path().join("names.json");
        fs::write(&path, r#"{"version":9,"anything":1}"#).unwrap();
        assert!(matches!(read(&path), Err(NetError::Version { version: 9, .. })));
        fs::write(&path, r#"{"version":1,"serv"#).unwrap();
        assert!(matches!(read(&path), Err(NetError::Malformed { .. })));
    }
}
