//! An instance in a scene of the traffic bench: a service on the facade as anybody would write it, but for what
//! it does, which is to wait, and to fail as often as it is told.
//!
//! Waiting costs no processor, so that ten of them run beside each other on two cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bench::v1::{
    AdjustRequest, AdjustResponse, CharacterService, TrafficService, TrafficServiceClient, WatchRequest,
    WorkRequest, WorkResponse,
};
use formic::prelude::*;
use formic::tokio::sync::Semaphore;
use serde::Deserialize;

formic::include_protos!();

/// How an instance begins, as the bench configures it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What a call takes on average, in microseconds; half to one and a half of it.
    mean_us: u64,
    /// So many calls are worked on at a time, the others wait; any number if not given.
    #[serde(default)]
    workers: Option<usize>,
    /// The service that each read calls in its turn.
    #[serde(default)]
    next: Option<String>,
    /// How often a failed call to it is made again by the handler itself, as people do who have nobody that
    /// counts for them.
    #[serde(default)]
    by_hand: u32,
    /// It ends as a service does, by a signal, and not with the bench.
    #[serde(default)]
    managed: bool,
}

#[derive(Clone)]
struct Instance(Arc<State>);

struct State {
    id: String,
    mean_us: AtomicU64,
    failing: AtomicU32,
    attempts: AtomicU64,
    workers: Option<Semaphore>,
    next: Option<TrafficServiceClient>,
    by_hand: u32,
}

impl Instance {
    async fn work(&self) -> Result<WorkResponse, Error> {
        let state = &*self.0;
        state.attempts.fetch_add(1, Ordering::Relaxed);
        if fastrand::u32(..1000) < state.failing.load(Ordering::Relaxed) {
            return Err(Error::unavailable("told to fail"));
        }
        let worker = match &state.workers {
            // Never closed.
            Some(workers) => workers.acquire().await.ok(),
            None => None,
        };
        formic::tokio::time::sleep(self.span()).await;
        drop(worker);
        Ok(WorkResponse { instance: state.id.clone(), ..Default::default() })
    }

    /// What the next call takes.
    fn span(&self) -> Duration {
        let mean = self.0.mean_us.load(Ordering::Relaxed);
        Duration::from_micros(fastrand::u64(mean / 2..=mean + mean / 2))
    }

    /// For the same user, which is what `hash` goes by.
    async fn pass_on(&self, next: &TrafficServiceClient, ctx: &Context) -> Result<(), Error> {
        let (mut tries, user) = (0, ctx.metadata().get("x-user").unwrap_or_default());
        loop {
            match next.read(WorkRequest::default()).metadata("x-user", user).await {
                Ok(_) => return Ok(()),
                Err(error) if tries == self.0.by_hand => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }
}

impl TrafficService for Instance {
    async fn read(&self, ctx: Context, _request: Request<'_, WorkRequest>) -> Reply<WorkResponse> {
        let response = self.work().await?;
        if let Some(next) = &self.0.next {
            self.pass_on(next, &ctx).await?;
        }
        reply(response)
    }

    async fn write(&self, _ctx: Context, _request: Request<'_, WorkRequest>) -> Reply<WorkResponse> {
        reply(self.work().await?)
    }

    async fn watch(
        &self,
        _ctx: Context,
        request: Request<'_, WatchRequest>,
    ) -> Reply<Streaming<WorkResponse>> {
        let (this, messages) = (self.clone(), request.messages.max(1));
        this.0.attempts.fetch_add(1, Ordering::Relaxed);
        let pause = this.span() / messages;
        let answers = formic::futures::stream::unfold(0, move |sent| {
            let id = this.0.id.clone();
            async move {
                if sent == messages {
                    return None;
                }
                formic::tokio::time::sleep(pause).await;
                Some((Ok(WorkResponse { instance: id, ..Default::default() }), sent + 1))
            }
        });
        reply(Streaming::new(answers))
    }
}

/// The same instance, for the bench.
struct Character(Arc<State>);

impl CharacterService for Character {
    async fn adjust(&self, _ctx: Context, request: Request<'_, AdjustRequest>) -> Reply<AdjustResponse> {
        if let Some(mean) = request.mean_us {
            self.0.mean_us.store(mean, Ordering::Relaxed);
        }
        if let Some(failing) = request.failing {
            self.0.failing.store(failing, Ordering::Relaxed);
        }
        let attempts = self.0.attempts.load(Ordering::Relaxed);
        reply(AdjustResponse { attempts, ..Default::default() })
    }
}

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("work");
    let config: Config = service.config()?;
    let state = State {
        id: service.settings().instance.clone().unwrap_or_default(),
        mean_us: AtomicU64::new(config.mean_us),
        failing: AtomicU32::new(0),
        attempts: AtomicU64::new(0),
        workers: config.workers.map(Semaphore::new),
        next: config.next.map(|next| TrafficServiceClient::new(service.client(next))),
        by_hand: config.by_hand,
    };
    let state = Arc::new(state);
    let service = service.serve(Instance(Arc::clone(&state))).serve(Character(state));
    if config.managed {
        service.run().await
    } else {
        service.run_until(formic_bench::load::parent_gone()).await
    }
}
