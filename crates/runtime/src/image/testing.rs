//! What the tests of images share: scratch folders and archives made by hand.

use std::fs;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

/// A folder of the test's own, removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("isopod-image-{name}-{:016x}", stdx::random_u64()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// An archive, member by member; any name goes.
#[derive(Clone, Default)]
pub(crate) struct Tar {
    members: Vec<(Vec<u8>, Header, Vec<u8>)>,
}

impl Tar {
    pub(crate) const MTIME: i64 = 1_600_000_000;

    pub(crate) fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.member(path, EntryType::Regular, mode, data, "")
    }

    pub(crate) fn folder(self, path: &str, mode: u32) -> Self {
        self.member(path, EntryType::Directory, mode, b"", "")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.member(path, EntryType::Symlink, 0o777, b"", target)
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.member(path, EntryType::Link, 0o644, b"", target)
    }

    pub(crate) fn fifo(self, path: &str, mode: u32) -> Self {
        self.member(path, EntryType::Fifo, mode, b"", "")
    }

    pub(crate) fn device(mut self, path: &str, mode: u32, (major, minor): (u32, u32)) -> Self {
        self = self.member(path, EntryType::Char, mode, b"", "");
        self.last(|header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    /// A file whose name comes from its records.
    pub(crate) fn pax_file(self, path: &str, records: &[(&str, &[u8])]) -> Self {
        self.file(path, 0o644, b"").pax(records)
    }

    /// Sets the last member's owner.
    pub(crate) fn owned(self, (uid, gid): (u64, u64)) -> Self {
        self.last(|header| {
            header.set_uid(uid);
            header.set_gid(gid);
        })
    }

    /// Puts records before the last member.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.members.last_mut().unwrap().0.extend(blocks(&header, &data));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (before, header, data) in &self.members {
            bytes.extend_from_slice(before);
            bytes.extend(blocks(header, data));
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn member(mut self, path: &str, kind: EntryType, mode: u32, data: &[u8], link: &str) -> Self {
        let mut header = Header::new_gnu();
        let mut before = Vec::new();
        // Names are written as they are: the header type's own setter refuses the evil ones.
        for (name, long, range) in [(path, EntryType::GNULongName, 0..100), (link, EntryType::GNULongLink, 157..257)] {
            if name.len() <= 100 {
                header.as_mut_bytes()[range][..name.len()].copy_from_slice(name.as_bytes());
                continue;
            }
            let mut extension = Header::new_gnu();
            extension.set_entry_type(long);
            extension.set_size(name.len() as u64 + 1);
            extension.set_cksum();
            before.extend(blocks(&extension, format!("{name}\0").as_bytes()));
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(Self::MTIME as u64);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.members.push((before, header, data.to_vec()));
        self
    }

    fn last(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let header = &mut self.members.last_mut().unwrap().1;
        change(header);
        header.set_cksum();
        self
    }
}

fn blocks(header: &Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = [header.as_bytes().as_slice(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A PAX record, which counts its own length.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
