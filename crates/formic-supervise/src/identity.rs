//! Which process a record means: a number is not enough, because numbers are used again.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::features::Features;
use crate::pidfd::PidFd;
use crate::procfs::Stat;

/// The identity of this boot of the machine.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Which process of which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The boot in which the numbers below mean anything.
    pub boot_id: String,
    /// The process number. Meaningless without the rest.
    pub pid: u32,
    /// The number of the process on pidfs, never used again in one boot. Linux 6.9 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pidfs_id: Option<u64>,
    /// When it started, in clock ticks since boot: what older kernels have to tell two apart.
    pub start_time: u64,
}

/// What became of an identity.
#[derive(Debug)]
pub(crate) enum Proof {
    /// It is this process.
    Proven(PidFd),
    /// Number and start time agree, and this kernel cannot say more.
    Likely(PidFd),
    /// The number belongs to another process now.
    Other,
    /// No process has the number.
    Gone,
    /// The machine was started anew since.
    OtherBoot,
}

impl Identity {
    /// The identity of this process itself.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn own(features: &Features) -> io::Result<Self> {
        let pidfd = PidFd::open(std::process::id())?.ok_or(io::ErrorKind::NotFound)?;
        Self::of(&pidfd, &boot_id()?, features)
    }

    /// The identity of a process that is held and not yet reaped.
    pub(crate) fn of(pidfd: &PidFd, boot_id: &str, features: &Features) -> io::Result<Self> {
        let stat = Stat::read(pidfd.pid()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            boot_id: boot_id.to_owned(),
            pid: pidfd.pid(),
            pidfs_id: if features.pidfs { pidfd.unique_id() } else { None },
            start_time: stat.start_time,
        })
    }

    /// Whether two identities, of which one may have been taken on an older kernel, mean one process.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same_id = match (self.pidfs_id, other.pidfs_id) {
            (Some(one), Some(another)) => one == another,
            _ => true,
        };
        same_id && (&self.boot_id, self.pid, self.start_time) == (&other.boot_id, other.pid, other.start_time)
    }

    /// Finds the process of this identity, or why not.
    pub(crate) fn prove(&self, boot_id: &str, features: &Features) -> io::Result<Proof> {
        if self.boot_id != boot_id {
            return Ok(Proof::OtherBoot);
        }
        if let (true, Some(id)) = (features.pidfs_handle, self.pidfs_id) {
            match PidFd::reopen(self.pid, id) {
                Ok(Some(pidfd)) => return Ok(Proof::Proven(pidfd)),
                // Surely gone; whether its number is another's by now matters to its session.
                Ok(None) => {
                    return Ok(if PidFd::open(self.pid)?.is_some() { Proof::Other } else { Proof::Gone });
                }
                // The id is a process's, and the number is not that one's: a damaged record proves nothing.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Proof::Other),
                Err(error) => tracing::debug!(%error, "cannot open a process by its handle"),
            }
        }
        // The descriptor first, the questions second: what is asked about the number afterwards is
        // true of the descriptor as long as the process has not been reaped.
        let Some(pidfd) = PidFd::open(self.pid)? else { return Ok(Proof::Gone) };
        if let (true, Some(recorded), Some(found)) = (features.pidfs, self.pidfs_id, pidfd.unique_id()) {
            return Ok(if recorded == found { Proof::Proven(pidfd) } else { Proof::Other });
        }
        Ok(match Stat::read(self.pid) {
            None => Proof::Gone,
            Some(stat) if stat.start_time == self.start_time => Proof::Likely(pidfd),
            Some(_) => Proof::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn this_process_is_proven_and_a_forged_identity_is_not() {
        let features = Features::detect().unwrap();
        let boot = boot_id().unwrap();
        let own = Identity::own(&features).unwrap();
        if features.pidfs {
            assert!(matches!(own.prove(&boot, &features).unwrap(), Proof::Proven(_)));
            let forged = Identity { pidfs_id: own.pidfs_id.map(|id| id + 1), ..own.clone() };
            assert!(matches!(forged.prove(&boot, &features).unwrap(), Proof::Other));
        }
        assert!(matches!(own.prove("another", &features).unwrap(), Proof::OtherBoot));
    }

    #[test]
    fn without_pidfs_the_start_time_decides_and_is_never_proof() {
        let features = Features::detect().unwrap().masked(["pidfs"]);
        let boot = boot_id().unwrap();
        let own = Identity::own(&features).unwrap();
        assert_eq!(own.pidfs_id, None);
        assert!(matches!(own.prove(&boot, &features).unwrap(), Proof::Likely(_)));
        let other = Identity { start_time: own.start_time + 1, ..own };
        assert!(matches!(other.prove(&boot, &features).unwrap(), Proof::Other));
    }
}
