//! What a process gives up before it becomes the program: its user, the way to more rights, and what the kernel lets one
//! process have.
//!
//! Taken on in the process itself, by system calls over what was made ready before: nothing is looked up there. The names of
//! users become numbers earlier ([`Account`]).

use std::io;

use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::trampoline::Step;

/// As many open files as a program gets where the system allows it and nobody says how many. Some programs go through all
/// numbers up to their limit, and some systems allow a thousand million.
const FILES: u64 = 1 << 20;

/// What a process gives up. By default it runs as the engine does, without a way to more rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Whom it becomes; without one it stays whom the engine runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Whether no program that it executes gets more rights than it has: set-user-id, set-group-id and file
    /// capabilities mean nothing to it.
    pub no_new_privileges: bool,
    /// What each of its processes may have.
    #[serde(default)]
    pub ulimits: Ulimits,
}

/// What each process of an instance is held to, whoever it runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// See [`Privileges::no_new_privileges`].
    pub no_new_privileges: bool,
    /// See [`Privileges::ulimits`].
    #[serde(default)]
    pub ulimits: Ulimits,
}

/// Limits of single processes, as `ulimit` shows them; both the present and the greatest are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimits {
    /// Open files. Without one it is what the engine may have at most, up to about a million.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
    /// Processes and threads of its user, wherever they run. It binds no root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nproc: Option<u64>,
    /// Bytes of a core dump; by default there is none, as it holds every secret that the program had.
    #[serde(default)]
    pub core: u64,
}

impl Default for Privileges {
    fn default() -> Self {
        Self { account: None, no_new_privileges: true, ulimits: Ulimits::default() }
    }
}

// === impl Privileges ===

impl Privileges {
    /// Takes them on for good. To be called in the process that is to become the program, by its only thread.
    pub(crate) fn take_on(&self) -> Result<(), (Step, io::Error)> {
        Ready::of(self.account.clone(), Some(self.bounds())).take_on()
    }

    /// All of it but the account.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { no_new_privileges: self.no_new_privileges, ulimits: self.ulimits }
    }
}

/// Privileges that are taken on by system calls alone, so that it can be done between a fork and an exec.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    user: Option<Taken>,
    bounds: Option<Bounds>,
}

// === impl Ready ===

impl Ready {
    /// Without bounds a process keeps what it has.
    pub(crate) fn of(account: Option<Account>, bounds: Option<Bounds>) -> Self {
        Self { user: Taken::of(account), bounds }
    }

    /// Takes them on for good, in this thread.
    pub(crate) fn take_on(&self) -> Result<(), (Step, io::Error)> {
        if let Some(bounds) = &self.bounds {
            // First, while it may still raise them.
            bounds.ulimits.take_on().map_err(|error| (Step::Limits, error))?;
        }
        if let Some(user) = &self.user {
            user.take_on().map_err(|error| (Step::User, error))?;
        }
        if self.bounds.is_some_and(|bounds| bounds.no_new_privileges) {
            set_no_new_privs(true).map_err(|error| (Step::User, error.into()))?;
        }
        Ok(())
    }
}

/// Another user than the present one, in the kernel's words.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

// === impl Taken ===

impl Taken {
    /// `None` where nothing is to be done, which is all that a process without rights can do.
    pub(crate) fn of(account: Option<Account>) -> Option<Self> {
        let account = account.filter(|account| !account.is_own())?;
        Some(Self {
            uid: Uid::from_raw(account.uid),
            gid: Gid::from_raw(account.gid),
            groups: account.groups.into_iter().map(Gid::from_raw).collect(),
        })
    }

    /// Becomes it, in this thread: with system calls alone, so that it can be done between a fork and an exec. The groups
    /// first: without its rights a process cannot change them.
    pub(crate) fn take_on(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        Ok(())
    }
}

// === impl Ulimits ===

impl Ulimits {
    fn take_on(self) -> io::Result<()> {
        let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
        let before = getrlimit(Resource::Nofile);
        match self.nofile {
            Some(files) => setrlimit(Resource::Nofile, both(files))?,
            None => setrlimit(Resource::Nofile, raised(before))?,
        }
        if let Some(processes) = self.nproc {
            setrlimit(Resource::Nproc, both(processes))?;
        }
        setrlimit(Resource::Core, both(self.core))?;
        Ok(())
    }
}

/// Lets this process open as many files as it may at most, within reason: it holds one and more for each instance, and what
/// a shell or a service manager gives it to begin with is often a thousand.
///
/// # Errors
/// If the system refuses.
pub fn raise_files() -> io::Result<()> {
    Ok(setrlimit(Resource::Nofile, raised(getrlimit(Resource::Nofile)))?)
}

/// As many open files as are allowed, within reason; never fewer than before.
fn raised(before: Rlimit) -> Rlimit {
    let most = before.maximum.unwrap_or(u64::MAX).min(FILES);
    Rlimit { current: before.current.map(|current| current.max(most)), maximum: before.maximum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_raised_and_never_lowered() {
        let of = |current, maximum| {
            let after = raised(Rlimit { current, maximum });
            assert_eq!(after.maximum, maximum);
            after.current
        };
        assert_eq!(of(Some(1024), Some(4096)), Some(4096));
        assert_eq!(of(Some(1024), None), Some(FILES));
        assert_eq!(of(Some(1024), Some(1 << 30)), Some(FILES));
        assert_eq!(of(Some(1 << 24), Some(1 << 30)), Some(1 << 24));
        assert_eq!(of(None, None), None);
    }
}
