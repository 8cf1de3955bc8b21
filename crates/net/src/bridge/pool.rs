//! Which sandbox holds which address: one file an address, so that the answer survives any crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::Cidr;
use rustix::fs::FlockOperation;

const LOCK: &str = "lock";
const LAST: &str = "last_reserved_ip";
const NEW: &str = "new";

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// The addresses of one range. Processes that share the directory are kept apart by a lock on a file in it.
#[derive(Clone, Debug)]
pub(crate) struct AddressPool {
    directory: PathBuf,
    range: Cidr,
}

impl AddressPool {
    /// The pool of `range` kept in `directory`, which is made when missing.
    pub(crate) fn open(directory: &Path, range: Cidr) -> io::Result<AddressPool> {
        fs::create_dir_all(directory)?;
        Ok(AddressPool { directory: directory.to_owned(), range })
    }

    /// The node's own address in the range: its first.
    pub(crate) fn gateway(&self) -> IpAddr {
        gateway(self.range)
    }

    /// The holder's address: the one it has, else the lowest free one after the one given out last, so that an address
    /// rests as long as possible before somebody else gets it. `None` when all are taken.
    pub(crate) fn reserve(&self, holder: &Holder) -> io::Result<Option<IpAddr>> {
        let _lock = self.lock()?;
        let held = self.read()?;
        if let Some((address, _)) = held.iter().find(|(_, found)| *found == holder) {
            return Ok(Some(*address));
        }
        let last = fs::read_to_string(self.directory.join(LAST)).ok().and_then(|text| text.trim().parse().ok());
        let Some(address) = next_free(self.range, last, &held.keys().copied().collect()) else {
            return Ok(None);
        };
        self.write(&address.to_string(), &format!("{}\n{}", holder.container_id, holder.ifname))?;
        self.write(LAST, &address.to_string())?;
        Ok(Some(address))
    }

    /// The address that `holder` has.
    pub(crate) fn held_by(&self, holder: &Holder) -> io::Result<Option<IpAddr>> {
        let _lock = self.lock()?;
        Ok(self.read()?.into_iter().find(|(_, found)| found == holder).map(|(address, _)| address))
    }

    /// Frees the addresses of `holder`.
    pub(crate) fn release(&self, holder: &Holder) -> io::Result<()> {
        self.retain(|found| found != holder)
    }

    /// Frees the addresses of all holders that `keep` denies.
    pub(crate) fn retain(&self, keep: impl Fn(&Holder) -> bool) -> io::Result<()> {
        let _lock = self.lock()?;
        for (address, _) in self.read()?.into_iter().filter(|(_, holder)| !keep(holder)) {
            fs::remove_file(self.directory.join(address.to_string()))?;
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(self.directory.join(LOCK))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        Ok(file)
    }

    /// All holders. A file without a readable holder (a machine that lost power can leave one) is held by nobody that
    /// lives, and a list of the living frees it.
    fn read(&self) -> io::Result<BTreeMap<IpAddr, Holder>> {
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = fs::read_to_string(entry.path())?;
            let (container_id, ifname) = text.split_once('\n').unwrap_or_default();
            held.insert(address, Holder { container_id: container_id.into(), ifname: ifname.into() });
        }
        Ok(held)
    }

    /// Writes a file whole or not at all.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.directory.join(NEW);
        File::create(&new)?.write_all(text.as_bytes())?;
        fs::rename(new, self.directory.join(name))
    }
}

/// The node's own address in `range`: the first after the network's.
pub(crate) fn gateway(range: Cidr) -> IpAddr {
    range.nth(1).unwrap_or(range.address())
}

/// The first free address after `last`, going round; never the network's own, the gateway or the broadcast address.
fn next_free(range: Cidr, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    const FIRST: u128 = 2;
    let above = range.offset_of(range.last())?;
    let end = if range.address().is_ipv4() { above } else { above.checked_add(1)? };
    let count = end.checked_sub(FIRST).filter(|count| *count > 0)?;
    let start = last.and_then(|last| range.offset_of(last)).map_or(0, |offset| (offset + 1).saturating_sub(FIRST));
    // Among one more candidates than there are taken addresses, one is free.
    let tries = count.min(taken.len() as u128 + 1);
    (0..tries).filter_map(|step| range.nth(FIRST + (start + step) % count)).find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_next(range: &str, last: Option<&str>, taken: &[&str], expected: Option<&str>) {
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        let next = next_free(range.parse().unwrap(), last.map(|text| text.parse().unwrap()), &taken);
        assert_eq!(next.map(|address| address.to_string()).as_deref(), expected, "{range} {last:?}");
    }

    #[test]
    fn the_lowest_free_address_after_the_last_one_is_next() {
        check_next("10.0.0.0/24", None, &[], Some("10.0.0.2"));
        check_next("10.0.0.0/24", None, &["10.0.0.2"], Some("10.0.0.3"));
        check_next("10.0.0.0/24", Some("10.0.0.7"), &["10.0.0.2"], Some("10.0.0.8"));
        check_next("10.0.0.0/24", Some("10.0.0.254"), &["10.0.0.2"], Some("10.0.0.3"));
        check_next("10.0.0.0/24", Some("10.9.9.9"), &[], Some("10.0.0.2"));
        check_next(
            "10.0.0.0/29",
            Some("10.0.0.6"),
            &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"],
            Some("10.0.0.6"),
        );
        check_next("10.0.0.0/30", None, &["10.0.0.2"], None);
        check_next("10.0.0.0/31", None, &[], None);
        check_next("10.0.0.0/32", None, &[], None);
        check_next("fd00::/64", Some("fd00::ffff"), &[], Some("fd00::1:0"));
    }

    fn holder(container_id: &str) -> Holder {
        Holder { container_id: container_id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn reservations_survive_reopening_and_end_with_release() {
        let scratch = crate::scratch::Scratch::new("pool");
        let open = || AddressPool::open(scratch.path(), "10.0.0.0/29".parse().unwrap()).unwrap();
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string());
        assert_eq!(text(open().reserve(&holder("a")).unwrap()).as_deref(), Some("10.0.0.2"));
        assert_eq!(text(open().reserve(&holder("b")).unwrap()).as_deref(), Some("10.0.0.3"));
        assert_eq!(text(open().reserve(&holder("a")).unwrap()).as_deref(), Some("10.0.0.2"), "asked again");
        open().release(&holder("a")).unwrap();
        open().release(&holder("a")).unwrap();
        assert_eq!(open().held_by(&holder("a")).unwrap(), None);
        assert_eq!(text(open().reserve(&holder("c")).unwrap()).as_deref(), Some("10.0.0.4"), "a freed address rests");
        for id in ["d", "e", "f"] {
            assert!(open().reserve(&holder(id)).unwrap().is_some());
        }
        assert_eq!(open().reserve(&holder("g")).unwrap(), None, "all are taken");
        open().retain(|holder| holder.container_id == "b").unwrap();
        assert_eq!(text(open().held_by(&holder("b")).unwrap()).as_deref(), Some("10.0.0.3"));
        assert_eq!(open().read().unwrap().len(), 1);
    }

    #[test]
    fn a_torn_reservation_is_freed_by_the_list_of_the_living() {
        let scratch = crate::scratch::Scratch::new("torn");
        let pool = AddressPool::open(scratch.path(), "10.0.0.0/29".parse().unwrap()).unwrap();
        fs::write(scratch.path().join("10.0.0.2"), "").unwrap();
        assert_eq!(pool.reserve(&holder("a")).unwrap().unwrap().to_string(), "10.0.0.3");
        pool.retain(|holder| holder.container_id == "a").unwrap();
        assert!(!scratch.path().join("10.0.0.2").exists());
    }

    #[test]
    fn parallel_reservations_never_share_an_address() {
        let scratch = crate::scratch::Scratch::new("parallel");
        let addresses: BTreeSet<IpAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let path = scratch.path();
                    scope.spawn(move || {
                        let pool = AddressPool::open(path, "10.0.0.0/24".parse().unwrap()).unwrap();
                        (0..10).map(|pod| pool.reserve(&holder(&format!("{thread}-{pod}"))).unwrap().unwrap()).collect()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| -> Vec<IpAddr> { thread.join().unwrap() }).collect()
        });
        assert_eq!(addresses.len(), 80);
    }
}
