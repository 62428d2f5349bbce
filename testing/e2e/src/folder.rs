//! Folders of a test's own, and ports.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A new empty folder, which goes when this is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one. The name is short because a socket's path has room for 107 bytes.
    #[must_use]
    pub fn new(what: &str) -> Self {
        Self::below(&std::env::temp_dir(), what)
    }

    /// Makes one in another place than the system's temporary one.
    ///
    /// # Panics
    /// If that cannot be written.
    #[must_use]
    pub fn below(parent: &Path, what: &str) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("formic-e2e-{what}-{}-{count}", std::process::id()));
        // An earlier process of the same number may have been killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    /// Moves it aside, with all that is in it.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn rename(&mut self) {
        let mut name = self.0.clone().into_os_string();
        name.push("-moved");
        let to = PathBuf::from(name);
        fs::rename(&self.0, &to).unwrap();
        self.0 = to;
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it, with the folders above.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left in the system's temporary one is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loopback port that nothing listens on. It is below the range from which the kernel gives ports away, so that no
/// service of another test is given it in between.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT_OF: u32 = 18_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut at = now ^ std::process::id().wrapping_mul(2_654_435_761);
    for _ in 0..1000 {
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223 + COUNT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + (at >> 8) % COUNT_OF).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}
