//! What a handler sees of a call besides the message, and what its own calls inherit from it.

use std::future::Future;
use std::time::Duration;

use formic_core::{Metadata, Method, Priority};
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
        self.extensions.get::<TraceContext>().copied()
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

tokio::task_local! {
    static SCOPE: Scope;
}

impl Scope {
    /// The scope of the call being served by this task; empty outside of one.
    #[must_use]
    pub fn current() -> Self {
        SCOPE.try_with(|scope| *scope).unwrap_or_default()
    }

    /// Runs a future within this scope. Handlers are run so by the server; a task that a handler
    /// starts takes the scope along with `scope.run(…)`.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(self, future)
    }
}

impl Scope {
    /// Runs a function within this scope.
    pub fn enter<T>(self, f: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(self, f)
    }
}
