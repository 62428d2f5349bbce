//! What a handler sees of a call besides the message, and what its own calls inherit from it.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use formic_core::{Error, Metadata, Method, Priority};
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::{Call, Codec, Drain, Peer, TraceContext};

/// The circumstances of a call.
#[derive(Clone, Debug)]
pub struct Context {
    method: Method,
    codec: Codec,
    metadata: Metadata,
    deadline: Option<Instant>,
    peer: Option<Peer>,
    drain: Option<Drain>,
    trace: Option<TraceContext>,
    extensions: http::Extensions,
}

impl Context {
    /// Splits a call into its circumstances and its body.
    #[must_use]
    pub fn split(call: Call) -> (Self, Codec, crate::Body) {
        let context = Self {
            method: call.method,
            codec: call.codec,
            metadata: call.metadata,
            deadline: call.deadline,
            peer: call.peer,
            drain: call.drain,
            trace: call.trace,
            extensions: call.extensions,
        };
        (context, call.codec, call.body)
    }

    /// `/package.Service/Method`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.path()
    }

    /// How the caller encodes messages.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The caller's metadata (headers).
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// When the caller stops waiting.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long the caller still waits; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The caller's address, where the transport knows one.
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_ref().map(|peer| &*peer.0)
    }

    /// Whether the server has begun to finish its calls, to go away after them.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.as_ref().is_some_and(Drain::is_draining)
    }

    /// Resolves once the server has begun to finish its calls; never, where no server answers the call. A
    /// stream that has no end of its own ends at this, with a last message if it has one: a stream that
    /// does not is ended with `unavailable`.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + 'static {
        let draining = self.drain.as_ref().map(Drain::draining);
        async move {
            match draining {
                Some(draining) => draining.await,
                None => std::future::pending().await,
            }
        }
    }

    /// The trace that the call is part of.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// What interceptors of this process left for the handler.
    #[must_use]
    pub fn extensions(&self) -> &http::Extensions {
        &self.extensions
    }
}

/// What calls inherit from the call that they are made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    /// The deadline of the call being served; a call made for it may not outlive it.
    pub deadline: Option<Instant>,
    /// Its trace.
    pub trace: Option<TraceContext>,
    /// It is itself a repetition, so what it calls is not repeated again.
    pub retried: bool,
    /// How much it matters; a call made for it that says nothing else matters as much.
    pub priority: Priority,
}

/// The trailer that marks an error: what it is about was repeated below, or would have been if the budget had
/// borne it. A caller that gets it does not repeat the whole, or repetitions would multiply layer by layer.
pub const REPEATED: &str = "formic-repeated";

const REPEATED_NAME: HeaderName = HeaderName::from_static(REPEATED);

/// What a task knows of the call that it serves.
struct Serving {
    scope: Scope,
    /// A call made for it ended with an error that is marked.
    repeated: Cell<bool>,
}

tokio::task_local! {
    static SERVING: Serving;
}

/// Marks an error as [`REPEATED`].
pub fn mark_repeated(error: &mut Error) {
    error.metadata_mut().as_headers_mut().insert(REPEATED_NAME, HeaderValue::from_static("1"));
}

/// Whether an error is marked as [`REPEATED`].
#[must_use]
pub fn is_marked(error: &Error) -> bool {
    error.metadata().as_headers().contains_key(REPEATED_NAME)
}

// === impl Scope ===

impl Scope {
    /// The scope of the call being served by this task; empty outside of one.
    #[must_use]
    pub fn current() -> Self {
        SERVING.try_with(|serving| serving.scope).unwrap_or_default()
    }

    /// Runs a future within this scope. Handlers are run so by the server; a task that a handler
    /// starts takes the scope along with `scope.run(…)`.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        SERVING.scope(self.serving(false), future)
    }

    /// Runs a function within this scope.
    pub fn enter<T>(self, f: impl FnOnce() -> T) -> T {
        SERVING.sync_scope(self.serving(false), f)
    }

    /// Runs a part of what serves a call. Whether a call made for it was repeated is known from the parts before, and
    /// to those after.
    pub fn resume<T>(self, repeated: &mut bool, f: impl FnOnce() -> T) -> T {
        SERVING.sync_scope(self.serving(*repeated), || {
            let output = f();
            *repeated = Self::is_repeated();
            output
        })
    }

    /// Notes that a call made for the one being served ended with an error that is marked as [`REPEATED`]. Whatever its
    /// handler makes of that: if it fails, nobody above is to repeat it.
    pub fn note_repeated() {
        // Outside of a call nobody has to know.
        let _ = SERVING.try_with(|serving| serving.repeated.set(true));
    }

    /// Whether that was noted in this task.
    #[must_use]
    pub fn is_repeated() -> bool {
        SERVING.try_with(|serving| serving.repeated.get()).unwrap_or_default()
    }

    fn serving(self, repeated: bool) -> Serving {
        Serving { scope: self, repeated: Cell::new(repeated) }
    }
}
