//! Whose the processes are that an earlier engine may have left: what both its heirs rest on, the one that
//! adopts and the one that ends.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_core::InstanceId;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::adrift::Inherited;
use crate::cgroup::Group;
use crate::disk::{self, FileError};
use crate::features::Features;
use crate::identity::Proof;
use crate::pidfd::{self, PidFd};
use crate::process::{Care, StopError};
use crate::procfs::{Mark, is_of_another, mark};
use crate::record::Record;
use crate::snapshot::{Claim, Snapshot};
use crate::stop_signal::{StopSignal, raw};
use crate::tree::{Ending, Session};

/// Judges records.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) care: Arc<Care>,
    pub(crate) boot_id: String,
    pub(crate) features: Features,
}

/// Whose number the recorded one is now.
#[derive(Debug)]
pub(crate) enum Leader {
    /// The instance's: the session of that number is the instance's too.
    Ours(AsyncFd<PidFd>),
    /// Nobody's: a session of that number may still be the instance's.
    Nobody,
    /// Another's, or there never was one.
    NotOurs,
    /// Nobody can say.
    Ambiguous,
}

/// Why an ambiguous process is left alone.
pub(crate) const AMBIGUOUS: &str =
    "number and start time agree, but it does not carry the mark of the instance";

/// Whose an instance is that a record of this directory is about.
#[derive(Debug)]
pub(crate) enum Whose {
    /// This directory's.
    Ours,
    /// That of another directory, which is where it was: this one is its copy.
    Elsewhere(PathBuf),
    /// It runs, and was started for a directory that is not where it was, and is not this one.
    Unclear { pids: Vec<u32>, reason: String },
}

impl Judge {
    /// Asked of a record of this boot, before anything else. A copied record proves its process as well as the original does.
    pub(crate) fn whose(&self, record: &Record) -> Result<Whose, FileError> {
        let own = self.care.store.home();
        let Some(home) = record.home.as_ref().filter(|home| home.id != own.id) else {
            return Ok(Whose::Ours);
        };
        if home.is_there() {
            return Ok(Whose::Elsewhere(home.dir.clone()));
        }
        let Some(identity) = &record.identity else { return Ok(Whose::Ours) };
        let proof = identity.prove(&self.boot_id, &self.features);
        match proof
            .map_err(|source| disk::explain("take hold of a process by", Path::new("/proc"), source))?
        {
            Proof::Proven(pidfd) | Proof::Likely(pidfd) if !pidfd.has_ended() => Ok(Whose::Unclear {
                pids: vec![identity.pid],
                reason: format!(
                    "it was started for {}, which has been moved or removed since, and this folder is another one",
                    home.dir.display()
                ),
            }),
            // What is gone is nobody's: its place is free.
            _ => Ok(Whose::Ours),
        }
    }

    pub(crate) fn leader(&self, record: &Record) -> Result<Leader, FileError> {
        let Some(identity) = &record.identity else { return Ok(Leader::NotOurs) };
        let failed = |source| disk::explain("take hold of a process by", Path::new("/proc"), source);
        let pidfd = match identity.prove(&self.boot_id, &self.features).map_err(failed)? {
            // That it is the recorded process says nothing of whose record this is, and one of an older engine does not.
            Proof::Proven(_)
                if record.home.is_none() && is_of_another(identity.pid, self.care.store.home()) =>
            {
                return Ok(Leader::Ambiguous);
            }
            Proof::Proven(pidfd) => pidfd,
            Proof::Likely(pidfd) => {
                let own = Mark::Instance(record.id.as_str().to_owned());
                if mark(identity.pid, self.care.store.home()) == own {
                    pidfd
                } else if pidfd.has_ended() {
                    return Ok(Leader::Nobody);
                } else {
                    return Ok(Leader::Ambiguous);
                }
            }
            Proof::Gone => return Ok(Leader::Nobody),
            Proof::Other | Proof::OtherBoot => return Ok(Leader::NotOurs),
        };
        pidfd::watch(pidfd).map(Leader::Ours).map_err(|(_, source)| failed(source))
    }

    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>, FileError> {
        let snapshot = self.care.scanner.snapshot().await;
        snapshot.map_err(|source| disk::explain("read", Path::new("/proc"), source))
    }

    /// The living processes that carry an id, those of a session, and the descendants of both.
    pub(crate) async fn found(&self, id: &InstanceId, session: Option<u32>) -> Result<Vec<u32>, FileError> {
        self.found_of(id, session, Inherited::default()).await
    }

    /// The same, and those that have this from it.
    async fn found_of(
        &self,
        id: &InstanceId,
        session: Option<u32>,
        inherited: Inherited,
    ) -> Result<Vec<u32>, FileError> {
        let claim = Claim { instance: id.as_str().to_owned(), session, known: HashSet::new(), inherited };
        Ok(self.snapshot().await?.members(&claim).iter().map(|member| member.pid).collect())
    }

    /// Ends a tree, asked by this signal until the grace is over. What was found of it, and whether it is gone.
    pub(crate) async fn end(
        &self,
        id: &InstanceId,
        leader: Option<&AsyncFd<PidFd>>,
        session: Option<u32>,
        group: Option<&Group>,
        ask: (StopSignal, Duration),
    ) -> Result<(Vec<u32>, Result<(), StopError>), FileError> {
        self.end_of(id, leader, session, group, ask, Inherited::default()).await
    }

    /// The same with those that have this from it.
    pub(crate) async fn end_of(
        &self,
        id: &InstanceId,
        leader: Option<&AsyncFd<PidFd>>,
        session: Option<u32>,
        group: Option<&Group>,
        (ask, grace): (StopSignal, Duration),
        inherited: Inherited,
    ) -> Result<(Vec<u32>, Result<(), StopError>), FileError> {
        let mut pids = self.found_of(id, session, inherited.clone()).await?;
        let unreadable = |source| disk::explain("read", Path::new("/sys/fs/cgroup"), source);
        if let Some(group) = group
            && group.is_populated().map_err(unreadable)?
        {
            pids.extend(group.members().map_err(unreadable)?.iter().map(|member| member.pid));
            pids.sort_unstable();
            pids.dedup();
        }
        if let Some(leader) = leader.map(AsyncFd::get_ref)
            && !leader.has_ended()
            && !pids.contains(&leader.pid())
        {
            pids.insert(0, leader.pid());
        }
        let (_keep, deadline) = watch::channel(Instant::now() + grace);
        let session = Session::new(session);
        let mut tree = Ending {
            scanner: &self.care.scanner,
            instance: id.as_str(),
            session: &session,
            inherited,
            group,
            is_kin: false,
            leader,
            ask: raw(ask),
            deadline,
        };
        let ended = tree.run().await.map(|_| ()).map_err(|error| StopError::new(id, error));
        session.tell_of_suspects(id);
        if let (Ok(()), Some(group)) = (&ended, group)
            && let Err(error) = group.remove()
        {
            tracing::warn!(instance = %id, %error, "cannot remove the cgroup of an instance that is gone");
        }
        Ok((pids, ended))
    }

    /// The cgroups that are there for instances, which are theirs by where they are.
    pub(crate) fn groups(&self) -> Result<Vec<(InstanceId, Group)>, FileError> {
        let Some(groups) = &self.care.groups else { return Ok(Vec::new()) };
        groups.present().map_err(|source| disk::explain("read", Path::new("/sys/fs/cgroup"), source))
    }

    /// Reads all records, away from the runtime's threads.
    pub(crate) async fn load(&self) -> Result<Vec<crate::record::Entry>, FileError> {
        let care = self.care.clone();
        tokio::task::spawn_blocking(move || care.store.load())
            .await
            .map_err(|error| disk::explain("read", self.care.store.dir(), io::Error::other(error)))?
    }
}
