//! Whom a program runs as: names of users and groups, found before there is a process.
//!
//! Found by the C library, as `getent` finds them, because users may be kept elsewhere than in `/etc/passwd`. That can
//! take long and allocates, so nothing of it may be done between a fork and an exec.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// A user, with all that makes a process this user's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    pub uid: u32,
    /// The group of what it makes.
    pub gid: u32,
    /// All groups that it is in, that one too.
    pub groups: Vec<u32>,
    /// Its home, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<PathBuf>,
}

/// There is no such account here, or this process cannot become it.
#[derive(Debug, thiserror::Error)]
pub enum NoAccount {
    /// No user of this name.
    #[error("there is no user {0:?} on this machine")]
    User(String),
    /// No group of this name.
    #[error("there is no group {0:?} on this machine")]
    Group(String),
    /// A number that is no user's, and nothing says which group goes with it.
    #[error("the user {0} has no entry on this machine, so its group must be given too")]
    Groupless(u32),
    /// Only root can become another.
    #[error("only an engine that runs as root can start a program as {0}")]
    Forbidden(String),
    /// The users cannot be read.
    #[error("the users of this machine cannot be read")]
    Io(#[source] io::Error),
}

/// More than any entry needs; a directory service may send long ones.
const LARGEST: usize = 1 << 20;

/// More than Linux allows anybody.
const MOST_GROUPS: usize = 65_536;

// === impl Account ===

impl Account {
    /// Finds a user by name or number, in this group if one is given by name or number, else in its own.
    ///
    /// # Errors
    /// If there is none, or if it cannot be found out.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, NoAccount> {
        let entry = match number(user) {
            Some(uid) => passwd_by_uid(uid)?,
            None => Some(passwd_by_name(user)?.ok_or_else(|| NoAccount::User(user.to_owned()))?),
        };
        let group = group.map(find_group).transpose()?;
        match (entry, number(user)) {
            (Some(entry), _) => {
                let gid = group.unwrap_or(entry.gid);
                let groups = groups_of(&entry.name, gid)?;
                let name = entry.name.into_string().ok();
                Ok(Self { name, uid: entry.uid, gid, groups, home: entry.home })
            }
            (None, Some(uid)) => {
                let gid = group.ok_or(NoAccount::Groupless(uid))?;
                Ok(Self { name: None, uid, gid, groups: vec![gid], home: None })
            }
            (None, None) => Err(NoAccount::User(user.to_owned())),
        }
    }

    /// What its programs expect to find in their environment.
    pub(crate) fn variables(&self) -> BTreeMap<String, OsString> {
        let name = self.name.as_ref().map(OsString::from);
        let home = self.home.as_ref().map(|home| home.clone().into_os_string());
        let all = [("HOME", home), ("USER", name.clone()), ("LOGNAME", name)];
        all.into_iter().filter_map(|(variable, value)| Some((variable.to_owned(), value?))).collect()
    }

    /// Whether it is the account that this process runs as already.
    #[must_use]
    pub fn is_own(&self) -> bool {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        own == (self.uid, self.gid)
    }

    /// Says whether this process can start programs as this account.
    ///
    /// # Errors
    /// If it cannot.
    pub fn check(&self) -> Result<(), NoAccount> {
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        if self.is_own() || rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(needed))
        {
            return Ok(());
        }
        Err(NoAccount::Forbidden(self.to_string()))
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// Whether this process may look into those of all users, such as for the marks that instances carry.
#[must_use]
pub fn sees_others() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_PTRACE))
}

fn number(text: &str) -> Option<u32> {
    // The last number means "nobody in particular" to the kernel.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != u32::MAX)
}

/// One line of the users.
struct Entry {
    name: CString,
    uid: u32,
    gid: u32,
    home: Option<PathBuf>,
}

fn text(name: &str) -> Option<CString> {
    CString::new(name).ok().filter(|name| !name.is_empty())
}

fn find_group(group: &str) -> Result<u32, NoAccount> {
    if let Some(gid) = number(group) {
        return Ok(gid);
    }
    let unknown = || NoAccount::Group(group.to_owned());
    gid_by_name(&text(group).ok_or_else(unknown)?)?.ok_or_else(unknown)
}

fn passwd_by_name(user: &str) -> Result<Option<Entry>, NoAccount> {
    let Some(name) = text(user) else { return Ok(None) };
    #[expect(unsafe_code, reason = "the C library knows the users")]
    // SAFETY: `ask` gives pointers that are valid for what they are asked for.
    let found = ask(
        |entry, buffer, length, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found)
        },
        read,
    );
    found.map_err(NoAccount::Io)
}

fn passwd_by_uid(uid: u32) -> Result<Option<Entry>, NoAccount> {
    #[expect(unsafe_code, reason = "the C library knows the users")]
    // SAFETY: as above.
    let found = ask(
        |entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) },
        read,
    );
    found.map_err(NoAccount::Io)
}

#[expect(unsafe_code, reason = "the C library fills in pointers")]
fn read(entry: &libc::passwd) -> Entry {
    // SAFETY: the C library found the entry, and both point to strings in the buffer that is there still.
    let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
    let home = PathBuf::from(std::ffi::OsStr::from_bytes(home.to_bytes()));
    let home = home.is_absolute().then_some(home);
    Entry { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid, home }
}

fn gid_by_name(name: &CStr) -> Result<Option<u32>, NoAccount> {
    #[expect(unsafe_code, reason = "the C library knows the groups")]
    // SAFETY: as above.
    let found = ask(
        |entry, buffer, length, found| unsafe {
            libc::getgrnam_r(name.as_ptr(), entry, buffer, length, found)
        },
        |entry: &libc::group| entry.gr_gid,
    );
    found.map_err(NoAccount::Io)
}

/// Asks with ever more room, and reads what is found while the room is there.
fn ask<T, R>(
    call: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> libc::c_int,
    read: impl Fn(&T) -> R,
) -> io::Result<Option<R>> {
    let mut room = 1024;
    loop {
        let mut buffer: Vec<libc::c_char> = vec![0; room];
        let (mut entry, mut found) = (MaybeUninit::<T>::uninit(), std::ptr::null_mut());
        match call(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            0 => {
                #[expect(unsafe_code, reason = "the C library fills in an entry")]
                // SAFETY: it is told to be found, so it was filled in, and what it points to is in `buffer`.
                let found = unsafe { entry.assume_init_ref() };
                return Ok(Some(read(found)));
            }
            libc::ERANGE if room < LARGEST => room *= 4,
            // What different systems say of a name that is not there.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn groups_of(name: &CStr, gid: u32) -> Result<Vec<u32>, NoAccount> {
    let mut room = 32_usize;
    loop {
        let mut groups = vec![0; room];
        let mut count = libc::c_int::try_from(room).unwrap_or(libc::c_int::MAX);
        #[expect(unsafe_code, reason = "the C library knows the groups of a user")]
        // SAFETY: there is room for `count` groups, and no more are written.
        let done = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if done >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        if room >= MOST_GROUPS {
            return Err(NoAccount::Io(io::Error::other("it is in more groups than there can be")));
        }
        room = count.max(room * 2).min(MOST_GROUPS);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let root = Account::find("root", None).unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_deref()), (0, 0, Some("root")));
        assert!(root.groups.contains(&0) && root.home.is_some(), "{root:?}");
        assert_eq!(Account::find("0", None).unwrap(), root);
        let in_group = Account::find("root", Some("12345")).unwrap();
        assert_eq!((in_group.uid, in_group.gid), (0, 12_345));
        assert!(in_group.groups.contains(&12_345), "{in_group:?}");
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let fails = |user: &str, group| Account::find(user, group).unwrap_err().to_string();
        assert_eq!(fails("no-such-user", None), "there is no user \"no-such-user\" on this machine");
        assert_eq!(fails("", None), "there is no user \"\" on this machine");
        assert_eq!(
            fails("root", Some("no-such-group")),
            "there is no group \"no-such-group\" on this machine"
        );
        assert!(fails("3999999990", None).contains("its group must be given too"));
        let bare = Account::find("3999999990", Some("7")).unwrap();
        assert_eq!((bare.uid, bare.gid, bare.groups, bare.home), (3_999_999_990, 7, vec![7], None));
        assert_eq!(number("4294967295"), None);
    }
}
