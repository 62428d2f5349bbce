//! What a watch tells over the wire: the whole set first, and then what changed.
//!
//! Within a process a set is a pointer. Over a socket a set of a thousand instances is some hundred kilobytes, and
//! each instance that came or went sent all of it to everybody who watched. Here each side of a stream keeps the set
//! that was told last: the server sends what is different from it, so that a slow reader who missed some sets gets
//! all that they changed at once, and no more is kept for it than that one set. A new stream begins with the
//! whole set: nothing is kept for who is not there.
//!
//! A caller that does not ask for changes gets whole sets, and so does one whose server knows of none. A caller
//! that is told changes to a set that it does not have gives the stream up, and watches anew.

use formic_core::{InstanceId, Members};
use formic_registry::{Error, Snapshot};

use crate::convert::{instance_from_pb, instance_to_pb};
use crate::registry::v1 as pb;

/// The server's side of a stream.
#[derive(Debug)]
pub(crate) struct Teller {
    /// The caller understands changes.
    changes: bool,
    /// What was told last.
    last: Option<Snapshot>,
}

/// The caller's side of a stream.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// What was told last.
    last: Option<Snapshot>,
}

// === impl Teller ===

impl Teller {
    pub(crate) fn new(changes: bool) -> Self {
        Self { changes, last: None }
    }

    /// The answer that tells a set.
    pub(crate) fn tell(&mut self, snapshot: Snapshot) -> pb::WatchResponse {
        let told = self.last.as_ref().and_then(|last| changes(last, &snapshot));
        let told = told.unwrap_or_else(|| pb::WatchResponse {
            generation: snapshot.generation,
            instances: snapshot.instances.iter().map(instance_to_pb).collect(),
            ..Default::default()
        });
        self.last = self.changes.then_some(snapshot);
        told
    }
}

/// What is different, where that is less than the whole.
fn changes(last: &Snapshot, now: &Snapshot) -> Option<pb::WatchResponse> {
    let (mut instances, mut gone) = (Vec::new(), Vec::new());
    now.instances.compare(&last.instances, |(was, is)| match (was, is) {
        (_, Some(is)) => instances.push(is),
        (Some(was), None) => gone.push(was.id.as_str().to_owned()),
        (None, None) => {}
    });
    // An id is a small part of an instance.
    (instances.len() + gone.len() / 4 < now.instances.len()).then(|| pb::WatchResponse {
        generation: now.generation,
        instances: instances.into_iter().map(|instance| instance_to_pb(instance)).collect(),
        since: Some(last.generation),
        gone,
        ..Default::default()
    })
}

// === impl Listener ===

impl Listener {
    /// The set that an answer tells.
    ///
    /// # Errors
    /// `Unavailable` for changes to a set that is not the one that was told last, `Invalid` for an instance that is
    /// none.
    pub(crate) fn hear(&mut self, told: pb::WatchResponse) -> Result<Snapshot, Error> {
        let last = self.last.take();
        let instances = match told.since {
            None => whole(told.instances)?,
            Some(since) => {
                let last = last.filter(|last| last.generation == since);
                let last = last.ok_or_else(|| Error::unavailable("a set of instances was missed"))?;
                changed(last.instances, told.instances, told.gone)?
            }
        };
        let snapshot = Snapshot { generation: told.generation, instances };
        self.last = Some(snapshot.clone());
        Ok(snapshot)
    }
}

fn whole(instances: Vec<pb::Instance>) -> Result<Members, Error> {
    instances.into_iter().map(read).collect::<Result<Vec<_>, _>>().map(Members::from)
}

fn changed(mut set: Members, come: Vec<pb::Instance>, gone: Vec<String>) -> Result<Members, Error> {
    for id in gone {
        set.remove(&InstanceId::new(id));
    }
    for instance in come {
        set.insert(read(instance)?);
    }
    Ok(set)
}

/// An instance of an answer.
pub(crate) fn read(instance: pb::Instance) -> Result<formic_core::Instance, Error> {
    instance_from_pb(instance).map_err(|error| Error::Invalid(error.message().into()))
}

#[cfg(test)]
mod tests;
