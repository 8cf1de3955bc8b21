//! A directory for one test, removed in the end, and network namespaces that end with their last user.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of the test's own.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory whose name tells the test by `label`.
    pub(crate) fn new(label: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("isopod-net-{label}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A network namespace of the test's own; it has no name and ends with this value and what runs in it.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new, empty namespace.
    pub(crate) fn new() -> Namespace {
        let thread = std::thread::spawn(|| {
            #[allow(deprecated, reason = "only the network is unshared, which endangers no descriptor")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
                .expect("these tests make network namespaces, for which they must run as root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Namespace(thread.join().unwrap())
    }

    /// A path that opens it while this value lives.
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// What `body` returns when run inside, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        crate::namespace::inside(&self.0, || Ok(body())).unwrap()
    }
}

impl Namespace {
    /// What `body` resolves to when run inside, on a thread of its own with a runtime of its own.
    pub(crate) fn run_async<T: Send>(&self, body: impl AsyncFnOnce() -> T + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body())
        })
    }
}

/// Panics when the calling thread is in the namespace of the machine: a test that forgot to enter its own would change
/// the machine's network.
pub(crate) fn assert_own_namespace() {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).unwrap();
    assert_ne!(of("thread-self"), of("self"), "this test would change the machine's own network");
}
