//! Who is let in before the message of a call is there, and what holds the place until then.
//!
//! A call is counted by the rates once, on its head. Its place is another thing: whoever is slow to send would hold it from those
//! who are not. So it is kept for as long as a call may wait for a place, then given away; the message may still come, and the call
//! asks for a place again once it is whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use formic_core::Error;
use formic_telemetry::MethodMetrics;
use tokio::time::Instant;

use super::{Admitted, Pipeline, late};
use crate::overload::Head;
use crate::overload::gate::{Entry, Permit, Turn};

/// A call that was let in on its head. It travels with the request, in its extensions.
#[derive(Clone)]
pub(crate) struct Pass(Arc<Mutex<Option<Place>>>);

/// Places taken for a call whose work has not begun.
struct Place {
    admitted: Admitted,
    permit: Option<Permit>,
}

/// What became of a call on its head.
pub(crate) enum Entrance {
    Open(Pass),
    /// There may be room soon.
    Wait(Waiting),
}

/// A call that waits for its turn; its message is not read meanwhile.
pub(crate) struct Waiting {
    turn: Box<Turn>,
    admitted: Admitted,
    metrics: Arc<MethodMetrics>,
}

impl Pass {
    fn new(admitted: Admitted, mut permit: Option<Permit>) -> Self {
        if let Some(permit) = &mut permit {
            permit.not_yet();
        }
        Self(Arc::new(Mutex::new(Some(Place { admitted, permit }))))
    }

    fn take(&self) -> Option<Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives the place away, if the work has not begun.
    pub(crate) fn give_up(&self) {
        drop(self.take());
    }

    /// The place, as the work begins.
    pub(super) fn place(&self) -> Option<(Admitted, Entry)> {
        let Place { admitted, permit } = self.take()?;
        let entry = permit.map_or(Entry::Free, |mut permit| {
            permit.begins();
            Entry::Open(permit)
        });
        Some((admitted, entry))
    }
}

impl Pipeline {
    /// Lets a call in on its head, has it wait, or turns it away; `left` is how long its caller waits, where that is known.
    ///
    /// # Errors
    /// A refusal, counted like that of a call whose message is there.
    pub(crate) fn enter(&self, head: &Head<'_>, left: Option<Duration>) -> Result<Entrance, Error> {
        let known = self.known(head.path);
        let admitted =
            if left.is_some_and(|left| left.is_zero()) { Err(late()) } else { self.admit(known, head) };
        match admitted {
            Ok((admitted, Entry::Free)) => Ok(Entrance::Open(Pass::new(admitted, None))),
            Ok((admitted, Entry::Open(permit))) => Ok(Entrance::Open(Pass::new(admitted, Some(permit)))),
            Ok((admitted, Entry::Wait(turn))) => {
                Ok(Entrance::Wait(Waiting { turn, admitted, metrics: Arc::clone(&known.metrics) }))
            }
            Err(error) => Err(counted(&known.metrics, error)),
        }
    }

    /// How long a pass holds its place.
    pub(crate) fn keeps(&self, head: &Head<'_>) -> Duration {
        self.gate.keeps(head)
    }
}

impl Waiting {
    /// Waits for the turn, not beyond the deadline.
    ///
    /// # Errors
    /// A refusal, counted.
    pub(crate) async fn come(self, deadline: Option<Instant>) -> Result<Pass, Error> {
        match self.turn.come(deadline).await {
            Ok(permit) => Ok(Pass::new(self.admitted, Some(permit))),
            Err(error) => Err(counted(&self.metrics, error)),
        }
    }
}

fn counted(metrics: &MethodMetrics, error: Error) -> Error {
    metrics.began();
    metrics.ended(Some(error.code()), Duration::ZERO);
    error
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use bytes::Bytes;
    use formic_core::{Kind, Method, RpcService};
    use formic_rpc::{Answer, Body, BoxFuture, Call, Codec, Handle};
    use formic_telemetry::Metrics;

    use super::*;
    use crate::Config;

    const WORK: Method = Method::new("/test.Service/Work", Kind::Unary);
    const TAKES: Duration = Duration::from_millis(10);

    struct Worker;

    impl Handle for Worker {
        fn method(&self, path: &str) -> Option<Method> {
            (path == WORK.path()).then_some(WORK)
        }

        fn services(&self) -> Vec<RpcService> {
            vec![formic_rpc::handle::describe("test.Service", &[WORK])]
        }

        fn call(&self, _: Call) -> BoxFuture<'static, Result<Answer, Error>> {
            Box::pin(async {
                tokio::time::sleep(TAKES).await;
                Ok(Answer::new(Body::Message(Bytes::new())))
            })
        }
    }

    fn call() -> Call {
        Call::new(WORK, Codec::Proto, Body::Message(Bytes::new()))
    }

    fn enter(pipeline: &Pipeline) -> Pass {
        match pipeline.enter(&Head::from(&call()), None).unwrap() {
            Entrance::Open(pass) => pass,
            Entrance::Wait(_) => panic!("there is room"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_message_takes_is_not_the_handlers() {
        let metrics = Metrics::new();
        let pipeline = Pipeline::new(Arc::new(Worker), &metrics, &Config::default());
        for _ in 0..100 {
            let pass = enter(&pipeline);
            assert_eq!(pipeline.in_flight(), 1);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut call = call();
            call.extensions.insert(pass);
            pipeline.call(call).await.unwrap();
            // And of those whose message never comes nothing is learnt.
            let lost = enter(&pipeline);
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(lost);
        }
        let keeps = pipeline.keeps(&Head::from(&call()));
        assert!(keeps <= TAKES * 4, "two calls' time, and not {keeps:?}");
        assert_eq!((pipeline.in_flight(), pipeline.limit()), (0, Config::default().max_in_flight));
        assert!(metrics.render().contains("formic_server_working 0\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_was_given_away_is_asked_for_again() {
        let pipeline = Pipeline::new(
            Arc::new(Worker),
            &Metrics::new(),
            &Config { max_in_flight: 1, ..Config::default() },
        );
        let slow = enter(&pipeline);
        assert!(pipeline.enter(&Head::from(&call()), None).is_err(), "there was one");
        slow.give_up();
        let other = enter(&pipeline);
        let with = |pass: &Pass| {
            let mut call = call();
            call.extensions.insert(pass.clone());
            pipeline.call(call)
        };
        let refused = with(&slow).await.unwrap_err();
        assert_eq!(refused.shed_reason(), Some(formic_core::Shed::InFlight));
        with(&other).await.unwrap();
        with(&slow).await.unwrap();
        assert_eq!(pipeline.in_flight(), 0);
    }
}
