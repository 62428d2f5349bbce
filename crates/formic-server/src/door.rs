//! Calls that are answered on their head: a message of megabytes is not read to be thrown away.
//!
//! Of nearly all requests the message is there with the head, and they pass by here. Those that bring more, or do not say how
//! much, are let in first; a refusal goes out at once. The rules are the same on every transport, and stand here; each says in its
//! own way what a request is that asks, and how a client is told to stop.

use std::sync::Arc;
use std::time::Duration;

use formic_core::Error;
use formic_rpc::BoxFuture;
use formic_telemetry::Arrivals;
use tokio::time::Instant;

use crate::overload::Head;
use crate::pipeline::{self, Pass, Pipeline};
use crate::unary::Bounds;

pub(crate) mod http;
mod wire;

/// Lets calls in before their messages.
pub(crate) struct Door {
    pub(crate) pipeline: Arc<Pipeline>,
    /// Counts those that are turned away; those that are let in are counted as they come to the pipeline.
    pub(crate) arrivals: Arrivals,
    pub(crate) bounds: Bounds,
}

/// What becomes of a call on its head.
enum Entrance {
    /// It is let in.
    Open(Held),
    /// It may be, in a moment.
    Wait(BoxFuture<'static, Result<Held, Error>>),
    /// It is turned away.
    Closed(Error),
}

/// A call that was let in, and until when it has its place if its message is long in coming.
pub(crate) struct Held {
    pass: Pass,
    until: Instant,
}

impl Door {
    /// Asks for a call of which `left` is how long its caller waits, if it says so, and `deadline` when its time is over.
    fn enter(&self, head: &Head<'_>, left: Option<Duration>, deadline: Instant) -> Entrance {
        let keeps = self.pipeline.keeps(head);
        let held = move |pass| Held { pass, until: Instant::now() + keeps };
        let arrivals = self.arrivals.clone();
        let refused = move |error| {
            arrivals.call();
            error
        };
        match self.pipeline.enter(head, left) {
            Ok(pipeline::Entrance::Open(pass)) => Entrance::Open(held(pass)),
            Ok(pipeline::Entrance::Wait(waiting)) => Entrance::Wait(Box::pin(async move {
                waiting.come(Some(deadline)).await.map(held).map_err(refused)
            })),
            Err(error) => Entrance::Closed(refused(error)),
        }
    }
}
