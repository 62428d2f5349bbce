//! Which run directory is meant: a folder that was moved is the same one, and its copy is not.
//!
//! Everything that decides whose a process is carries more than a path: the records, the mark in a process's environment, and
//! the name of the cgroup that instances are in. A path is what a copy, a backup that is put back, or a new folder in the
//! place of one that was renamed have in common with the folder whose instances run. The file system's numbers of the
//! directory are not: they move with it and are copied by nothing. Refused: an identity in a file, which a copy carries along.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// A run directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Where it is, or was when this was written: absolute and free of links.
    pub dir: PathBuf,
    /// Which directory of this machine it is, in this boot. See [`HomeId`].
    pub id: HomeId,
}

/// The numbers by which the file system knows a directory: of the device, of the directory on it, and when it was made, as
/// numbers are used again. Not every file system keeps the last; it is zero there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HomeId(String);

impl fmt::Display for HomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl HomeId ===

impl HomeId {
    /// Of the directory that is here now.
    ///
    /// # Errors
    /// If there is none, or it may not be looked at.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let found = fs::metadata(dir)?;
        let made = found.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made = made.unwrap_or_default().as_nanos();
        Ok(Self(format!("{:x}-{:x}-{made:x}", found.dev(), found.ino())))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

// === impl Home ===

impl Home {
    /// Of a directory that is there.
    pub(crate) fn find(dir: PathBuf) -> io::Result<Self> {
        let id = HomeId::of(&dir)?;
        Ok(Self { dir, id })
    }

    /// Whether the directory that was meant is where it was.
    pub(crate) fn is_there(&self) -> bool {
        HomeId::of(&self.dir).is_ok_and(|found| found == self.id)
    }

    /// Whether what a process carries says that it is of this one. An engine of an older release gave its instances the path
    /// alone.
    pub(crate) fn is_meant(&self, dir: Option<&[u8]>, id: Option<&[u8]>) -> bool {
        match id {
            Some(id) => id == self.id.as_bytes(),
            None => dir == Some(self.dir.as_os_str().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::Command;

    use super::*;

    #[test]
    fn a_moved_folder_is_the_same_and_its_copy_is_another() {
        let base = std::env::temp_dir().join(format!("formic-home-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("run")).unwrap();
        let home = Home::find(base.join("run")).unwrap();
        assert!(home.is_there());
        assert!(
            Command::new("cp").args(["-a", "run", "copy"]).current_dir(&base).status().unwrap().success()
        );
        assert_ne!(HomeId::of(&base.join("copy")).unwrap(), home.id);
        fs::rename(base.join("run"), base.join("moved")).unwrap();
        assert_eq!(HomeId::of(&base.join("moved")).unwrap(), home.id);
        // Its copy in its place is not it.
        fs::rename(base.join("copy"), base.join("run")).unwrap();
        assert!(!home.is_there());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_process_is_told_by_the_directory_and_only_one_of_an_older_release_by_its_path() {
        let home = Home { dir: "/w/run".into(), id: HomeId("1-2-3".into()) };
        let (path, id) = (Some(&b"/w/run"[..]), Some(&b"1-2-3"[..]));
        assert!(home.is_meant(path, id) && home.is_meant(path, None) && home.is_meant(Some(b"/before"), id));
        assert!(!home.is_meant(path, Some(b"1-2-4")) && !home.is_meant(Some(b"/w2/run"), None));
        assert!(!home.is_meant(None, None));
    }
}
