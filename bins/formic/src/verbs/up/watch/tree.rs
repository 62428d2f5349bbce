//! Which files change below some folders, told by the kernel (inotify). The one library that does this for
//! every system has a licence that is not among ours, and the engine runs on Linux alone. The kernel is asked
//! ten times a second, which costs nothing and waits no longer than an editor takes to save.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::time::{Instant, sleep};

/// Changes are told once there were none for so long: a save is several, and so is a switch of branches.
const QUIET: Duration = Duration::from_millis(100);
/// But they are not held back longer than this.
const LONGEST: Duration = Duration::from_secs(2);

/// Folders, some with all that is below them.
pub(crate) struct Tree {
    events: OwnedFd,
    folders: HashMap<i32, Folder>,
}

struct Folder {
    path: PathBuf,
    deep: bool,
}

impl Tree {
    /// Watches `deep` folders with all that is below them, and the files of `flat` ones.
    ///
    /// # Errors
    /// If the kernel gives no more watches, or a folder is gone.
    pub(crate) fn new(deep: &BTreeSet<PathBuf>, flat: &BTreeSet<PathBuf>) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut tree = Self { events, folders: HashMap::new() };
        for folder in flat {
            tree.add(folder, false)?;
        }
        let mut found = BTreeSet::new();
        for folder in deep {
            tree.add_deep(folder, &mut found)?;
        }
        Ok(tree)
    }

    fn add(&mut self, path: &Path, deep: bool) -> io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        let number = inotify::add_watch(&self.events, path, flags)?;
        // The same folder once more gets the same number: the deeper of the two counts.
        let folder = self.folders.entry(number).or_insert_with(|| Folder { path: path.into(), deep });
        folder.deep |= deep;
        Ok(())
    }

    /// Adds a folder and what is below it; the files that are there already go to `found`.
    fn add_deep(&mut self, path: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        self.add(path, true)?;
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if is_noise(&entry.file_name()) {
                continue;
            }
            // Links are not followed: what is behind them is not this package's.
            if entry.file_type()?.is_dir() {
                match self.add_deep(&entry.path(), found) {
                    // Gone again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => outcome?,
                }
            } else {
                found.insert(entry.path());
            }
        }
        Ok(())
    }

    /// The paths that have changed, once they have come to rest. Cancel safe but for the paths that it has
    /// taken note of.
    pub(crate) async fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        while changed.is_empty() {
            sleep(QUIET).await;
            self.take(&mut changed)?;
        }
        let end = Instant::now() + LONGEST;
        loop {
            sleep(QUIET).await;
            if !self.take(&mut changed)? || Instant::now() > end {
                return Ok(changed);
            }
        }
    }

    /// Takes the events that are there; false if there are none.
    fn take(&mut self, changed: &mut BTreeSet<PathBuf>) -> io::Result<bool> {
        let mut seen: Vec<(i32, ReadFlags, Option<PathBuf>)> = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.events, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).into());
                    seen.push((event.wd(), event.events(), name));
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let any = !seen.is_empty();
        for (number, events, name) in seen {
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Anything may have changed.
                changed.extend(self.folders.values().map(|folder| folder.path.clone()));
                continue;
            }
            if events.contains(ReadFlags::IGNORED) {
                self.folders.remove(&number);
                continue;
            }
            let Some((folder, name)) = self.folders.get(&number).zip(name) else { continue };
            if is_noise(name.as_os_str()) {
                continue;
            }
            let (path, deep) = (folder.path.join(name), folder.deep);
            if !events.contains(ReadFlags::ISDIR) {
                // What was only created is still being written.
                if !events.contains(ReadFlags::CREATE) {
                    changed.insert(path);
                }
            } else if deep && events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                match self.add_deep(&path, changed) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(any)
    }
}

/// What builds and editors write, and what is hidden.
fn is_noise(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    // The number is what vim tries a folder with.
    name.starts_with('.')
        || name.ends_with('~')
        || name.ends_with(".tmp")
        || name.starts_with('#')
        || matches!(&*name, "target" | "node_modules" | "__pycache__" | "4913")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    async fn changes(tree: &mut Tree) -> BTreeSet<PathBuf> {
        tokio::time::timeout(Duration::from_secs(10), tree.changed()).await.expect("a change").unwrap()
    }

    #[tokio::test]
    async fn saves_are_seen_below_new_folders_too_and_noise_is_not() {
        let dir = std::env::temp_dir().join(format!("formic-watch-{}", std::process::id()));
        let (src, flat) = (dir.join("src"), dir.join("flat"));
        for folder in [&src, &flat, &src.join("target"), &flat.join("below")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let mut tree = Tree::new(&[src.clone()].into(), &[flat.clone()].into()).unwrap();

        std::fs::write(src.join("main.rs"), "1").unwrap();
        std::fs::write(src.join("main.rs~"), "0").unwrap();
        assert_eq!(changes(&mut tree).await, [src.join("main.rs")].into());

        // As editors do it: beside it, then in its place.
        std::fs::write(src.join("target/x"), "0").unwrap();
        std::fs::write(flat.join(".app.py.swp"), "0").unwrap();
        std::fs::write(flat.join("below/x"), "0").unwrap();
        std::fs::rename(flat.join(".app.py.swp"), flat.join("app.py")).unwrap();
        assert_eq!(changes(&mut tree).await, [flat.join("app.py")].into());

        std::fs::create_dir_all(src.join("a/b")).unwrap();
        std::fs::write(src.join("a/b/new.rs"), "1").unwrap();
        assert_eq!(changes(&mut tree).await, [src.join("a/b/new.rs")].into());
        std::fs::write(src.join("a/b/new.rs"), "2").unwrap();
        assert_eq!(changes(&mut tree).await, [src.join("a/b/new.rs")].into());
        std::fs::remove_file(src.join("a/b/new.rs")).unwrap();
        assert_eq!(changes(&mut tree).await, [src.join("a/b/new.rs")].into());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
