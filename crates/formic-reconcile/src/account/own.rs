//! Gives a folder with all that is in it to a user, while its present user may still be at work in there.
//!
//! So nothing is done by a path that somebody else could have bent meanwhile: every folder is entered from the one
//! above, through no link, and what was looked at is what is given away, by its descriptor. Refused: `openat2`, which
//! does the same in fewer calls where the kernel has it and a container's filter lets it through.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use formic_supervise::Account;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchown, fstat, openat};
use rustix::io::Errno;

/// Enters a folder, and no link to one.
const ENTER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Takes hold of anything, without opening it.
const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How many folders deep is gone at most. Each is entered from the first one again, so that the time and the room that
/// this takes grow with the depth, which whoever owned the folder could choose.
pub(super) const DEEPEST: usize = 256;

/// The names from the first folder to one below.
type Way = Vec<CString>;

/// Makes a folder and all in it a user's. Once: what is that user's already is left alone. What changes in there
/// meanwhile may be left as it is. What is nested deeper than [`DEEPEST`] is an error, before any folder is given away.
pub(super) fn own(folder: &Path, account: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let is_theirs = |of: &Stat| (of.st_uid, of.st_gid) == (account.uid, account.gid);
    let top = openat(CWD, folder, ENTER, Mode::empty())?;
    if is_theirs(&fstat(&top)?) {
        return Ok(());
    }
    let mut ways: Vec<Way> = vec![Way::new()];
    let mut next = 0;
    while let Some(way) = ways.get(next).cloned() {
        next += 1;
        let Some(within) = enter(&top, &way)? else { continue };
        for entry in Dir::read_from(&within)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(held) = unless_gone(openat(&within, name, HOLD, Mode::empty()))? else { continue };
            let found = fstat(&held)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                if way.len() >= DEEPEST {
                    let text = format!("there are more than {DEEPEST} folders in one another");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                ways.push(way.iter().cloned().chain([name.to_owned()]).collect());
            } else if found.st_nlink == 1 && !is_theirs(&found) {
                // Another name of it may be in a place that is none of theirs.
                chownat(&held, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
        }
    }
    // The first one last: if this is cut off, it is done again.
    for way in ways.iter().rev() {
        if let Some(folder) = enter(&top, way)? {
            fchown(&folder, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Goes down from the first folder, through folders only; nothing if there is something else by now.
fn enter(top: &OwnedFd, way: &Way) -> io::Result<Option<OwnedFd>> {
    let mut at = openat(top, c".", ENTER, Mode::empty())?;
    for name in way {
        match unless_gone(openat(&at, name, ENTER, Mode::empty()))? {
            Some(below) => at = below,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Nothing where it is not there any more, or another kind of thing is.
fn unless_gone<T>(opened: Result<T, Errno>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
