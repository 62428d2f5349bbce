//! What is in the way of an engine takes another name, so that it can begin anew. Nothing is deleted.
//!
//! The database always goes. The key goes with it only where it cannot stay: one that is no key, that others can read or this
//! user cannot, or that is not the one of this database. An engine would end at the first three again, and a database that it
//! begins would be encrypted with the last, which is lost the moment somebody puts the right one back. Of a damaged database
//! nobody can say whose key it wants; what looks like a key stays then.

use std::fs;
use std::path::{Path, PathBuf};

use crate::check::{self, Verdict};
use crate::error::OpenError;
use crate::folder::{self, DATABASE, KEY};
use crate::key::Key;

/// The new names of what was renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Of the database, if there was one.
    pub database: Option<PathBuf>,
    /// Of its key, if that could not stay, and why not.
    pub key: Option<(PathBuf, Unfit)>,
}

/// Why a key cannot stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// It is no key, or not the one of this database.
    Wrong,
    /// Others can read it. It may be the right one.
    Exposed,
    /// This user cannot read it. It may be the right one.
    Unreadable,
}

/// Renames a database that cannot be opened, and its key if that is what is wrong, so that an engine can begin an empty one.
/// Both get the same number, also where a crash came between the two. Put back under their names, with the right key, they are
/// what they were.
///
/// # Errors
/// The folder is in use, or the system refuses.
pub fn set_aside(folder: &Path) -> Result<SetAside, OpenError> {
    let _lock = folder::lock(folder)?;
    let (path, key_path) = (folder.join(DATABASE), folder.join(KEY));
    let there = fs::symlink_metadata(&path).is_ok();
    // One that cannot be read is in the way all the same.
    let unfit = unfit(&key_path, fs::read(&path).ok())?;
    let name = |of: &str, n: u32| folder.join(format!("{of}.damaged-{n}"));
    let is_taken = |of: &str, n: u32| fs::symlink_metadata(name(of, n)).is_ok();
    let free = (1..).find(|n| !is_taken(DATABASE, *n) && !is_taken(KEY, *n)).unwrap_or(u32::MAX);
    // The last key went alone and there is none now: somebody who did this was cut short, and this is its database.
    let is_cut_short =
        fs::symlink_metadata(&key_path).is_err() && is_taken(KEY, free - 1) && !is_taken(DATABASE, free - 1);
    let n = if is_cut_short { free - 1 } else { free };
    let rename = |of: &str| {
        let (from, to) = (folder.join(of), name(of, n));
        let renamed = fs::rename(&from, &to);
        renamed.map(|()| to).map_err(|source| OpenError::Io { what: "rename", path: from, source })
    };
    // The key first: a database without one is not gone on with, and can be set aside still.
    let key = unfit.map(|why| rename(KEY).map(|to| (to, why))).transpose()?;
    let database = there.then(|| rename(DATABASE)).transpose()?;
    folder::sync(&path)?;
    Ok(SetAside { database, key })
}

/// Why an empty database cannot, or should not, begin with the key that is there.
fn unfit(key_path: &Path, database: Option<Vec<u8>>) -> Result<Option<Unfit>, OpenError> {
    let key = match Key::read(key_path) {
        Ok(Some(key)) => key,
        Ok(None) => return Ok(None),
        Err(OpenError::KeyWrong { .. }) => return Ok(Some(Unfit::Wrong)),
        Err(OpenError::KeyExposed { .. }) => return Ok(Some(Unfit::Exposed)),
        // To take another name it need not be read.
        Err(OpenError::KeyUnreadable { .. }) => return Ok(Some(Unfit::Unreadable)),
        Err(error) => return Err(error),
    };
    let Some(bytes) = database else { return Ok(None) };
    if !matches!(check::check(bytes.clone()), Verdict::Whole) {
        return Ok(None);
    }
    let Ok(copy) = check::copy(&bytes) else { return Ok(None) };
    let known = folder::known(&copy, &key, Path::new(DATABASE), key_path);
    Ok(matches!(known, Err(OpenError::KeyWrong { .. })).then_some(Unfit::Wrong))
}
