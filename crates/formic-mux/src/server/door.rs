//! Who is let in before the message of a call is there: a message of megabytes is not gathered to be thrown away.
//!
//! A small call is whole in its first frame and passes by here. Of any other the head is there, and all that is asked to let a
//! call in: so whoever is turned away is told at once, gets no more credit, and what it has sent already is read past.

use formic_core::Error;
use formic_rpc::{BoxFuture, Call, Peer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::machine::Request;

/// Lets calls of one request in on their heads.
pub trait Door: Send + Sync {
    /// Asks for a call whose message is on its way.
    fn ask(&self, request: &Request, peer: Option<&Peer>) -> Entrance;
}

/// What becomes of a call on its head.
pub enum Entrance {
    /// It is let in.
    Open(Box<dyn Place>),
    /// It may be, in a moment; it gets no credit meanwhile.
    Wait(BoxFuture<'static, Result<Box<dyn Place>, Error>>),
    /// It is turned away.
    Closed(Error),
}

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Wait(_) => f.write_str("Wait"),
            Self::Closed(error) => f.debug_tuple("Closed").field(error).finish(),
        }
    }
}

/// What a call holds of its server while its message comes. Its drop gives it back.
pub trait Place: Send {
    /// Until when it is kept for a message that is slow in coming.
    fn until(&self) -> Instant;

    /// Gives it away; the call may still come, and ask anew.
    fn give_up(&self);

    /// The message is there: has the call begin with it.
    fn begin(self: Box<Self>, call: &mut Call);
}

/// How far a call has come whose message is on its way.
pub(super) enum Admission {
    /// Nobody asks before it is whole.
    Free,
    /// It is let in, and holds its place; no more once that was given away.
    Held(Box<dyn Place>, bool),
    /// It waits for its turn.
    Waits {
        /// All of it is there.
        whole: bool,
        turn: Turn,
    },
}

/// A task that waits for a call's turn, and ends with the call.
pub(super) struct Turn(pub(super) AbortHandle);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Admission {
    /// Until when its place is kept.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Held(place, true) => Some(place.until()),
            _ => None,
        }
    }

    /// Gives its place away if it was kept for long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Self::Held(place, kept) = self
            && *kept
            && place.until() <= now
        {
            *kept = false;
            place.give_up();
        }
    }

    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Waits { .. })
    }

    /// The place for a call that is whole.
    pub(super) fn into_place(self) -> Option<Box<dyn Place>> {
        match self {
            Self::Held(place, _) => Some(place),
            _ => None,
        }
    }
}
