//! Watching by whole state: snapshots, newest first served, older ones skipped.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use formic_core::Members;
use futures::stream::{self, BoxStream, Stream, StreamExt};

use crate::Error;

/// The full set of what is watched, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with each change within one watch; a gap means that sets were skipped. Watches of
    /// different registries, or of one that was restarted, do not compare.
    pub generation: u64,
    /// Every instance, sorted by id. Shares with the one before what did not change, where the registry can.
    pub instances: Members,
}

impl Snapshot {
    /// Nothing there, before any change.
    #[must_use]
    pub fn empty() -> Self {
        Self { generation: 0, instances: Members::new() }
    }
}

/// A stream of [`Snapshot`]s.
///
/// - The first item comes at once and is the present set, even when it is empty.
/// - After any change, an item with that change or a later state comes. A set may be skipped only for a
///   newer one, and the last state is always delivered.
/// - It holds at most one set that was not taken yet, however slow its reader.
/// - After an error or its end it is done: watch anew. [`crate::Cache`] does so for ever.
///
/// Dropping it ends the subscription. Dropping a pending [`Watch::next`] loses nothing.
pub struct Watch(BoxStream<'static, Result<Snapshot, Error>>);

impl Watch {
    /// A watch over a stream that keeps the rules above; a remote registry whose stream is held back
    /// by flow control keeps them when its server coalesces.
    pub fn new(stream: impl Stream<Item = Result<Snapshot, Error>> + Send + 'static) -> Self {
        Self(stream.boxed())
    }

    /// A watch that has nothing but this error to say.
    #[must_use]
    pub fn failed(error: Error) -> Self {
        Self::new(stream::iter([Err(error)]))
    }

    /// The next set. Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` once the watch is broken or over.
    pub async fn next(&mut self) -> Result<Snapshot, Error> {
        match self.0.next().await {
            Some(item) => item,
            None => Err(Error::unavailable("the watch has ended")),
        }
    }
}

impl Stream for Watch {
    type Item = Result<Snapshot, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
