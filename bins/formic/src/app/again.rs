//! Following something that a server tells, over the deaths of its brain: another one follows, and is asked to go on.

use std::time::Instant;

use formic_api::control::v1 as pb;
use formic_core::{Code, Error};
use formic_rpc::Streaming;

use super::{AWAY, App, LOOK};
use crate::engine::control::farewell::is_stopped;
use crate::exit::{Failure, Outcome};
use crate::{output, signals};

/// Whether an error says that nobody answers just now, where somebody will again.
pub(crate) fn is_between_brains(app: &App, error: &Error) -> bool {
    app.status.server.is_set() && error.code() == Code::Unavailable
}

/// The word that the server is stopped, for who asks again and again, and would else take that for one of the moments between
/// two brains: a stream is told.
pub(crate) struct Stopped<'a> {
    app: &'a App,
    events: Option<Streaming<pb::Event>>,
}

impl<'a> Stopped<'a> {
    /// Listens from here on. Before anything is shown: a server that is stopped as soon as somebody has seen something tells
    /// only those who listen by then. One that does not answer in time is asked again by [`heard`](Self::heard).
    pub(crate) async fn listen(app: &'a App) -> Self {
        let events = if app.status.server.is_set() {
            tokio::time::timeout(AWAY, followed(app)).await.ok().and_then(Result::ok)
        } else {
            None
        };
        Self { app, events }
    }

    /// Waits until the server is stopped; for ever where there is none.
    pub(crate) async fn heard(self) {
        let Self { app, mut events } = self;
        if !app.status.server.is_set() {
            return std::future::pending().await;
        }
        loop {
            let heard = match events.take() {
                Some(events) => drained(events).await,
                None => match followed(app).await {
                    Ok(events) => drained(events).await,
                    Err(error) => Err(error),
                },
            };
            if heard.is_err_and(|error| is_stopped(&error)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn followed(app: &App) -> Result<Streaming<pb::Event>, Error> {
    let request = pb::EventsRequest { follow: true, tail: 1, ..Default::default() };
    Ok(app.deploy().events(request).await?.into_message())
}

async fn drained(mut events: Streaming<pb::Event>) -> Result<(), Error> {
    while events.message().await?.is_some() {}
    Ok(())
}

/// What is said then.
pub(crate) fn tell_stopped(app: &App) {
    output::talk(&format!("the server of {} was stopped; what runs goes on", app.status.app));
}

/// How long nobody has answered.
pub(crate) struct Silence(Instant);

impl Silence {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    /// Somebody has answered.
    pub(crate) fn broken(&mut self) {
        self.0 = Instant::now();
    }

    /// Fails once it has lasted for too long.
    pub(crate) fn bear(&self, app: &App) -> Outcome {
        if self.0.elapsed() <= AWAY {
            return Ok(());
        }
        Err(Failure::unreachable(format!("the server of {} does not answer any more", app.status.app)))
    }
}

/// Calls `listen` until its end, and where it follows what a server tells, again and again until somebody interrupts this or
/// stops the server.
/// It tells `heard` of everything that it is told, and must leave off at any moment.
pub(crate) async fn listen(
    app: &App,
    follow: bool,
    mut listen: impl AsyncFnMut(&mut Silence) -> Result<(), Error>,
) -> Outcome {
    // Listened to from here on: a signal that comes while something is shown counts as well.
    let mut interrupted = signals::interrupt()?;
    let mut silence = Silence::new();
    loop {
        let outcome = tokio::select! {
            outcome = listen(&mut silence) => outcome,
            _ = interrupted.recv() => return Ok(()),
        };
        match outcome {
            Err(error) if is_stopped(&error) => {
                tell_stopped(app);
                return Ok(());
            }
            Err(error) if !(follow && is_between_brains(app, &error)) => return Err(error.into()),
            Ok(()) if !(follow && app.status.server.is_set()) => return Ok(()),
            _ => {}
        }
        silence.bear(app)?;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = interrupted.recv() => return Ok(()),
        }
    }
}
