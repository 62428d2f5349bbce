//! The service itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use formic_core::{Code, Error};
use formic_rpc::rt::buffa::MessageField;
use formic_rpc::{Channel, Codec, Context, Inbound, Reply, Request, Response, Streaming, reply};
use futures::StreamExt;

use crate::{Action, NameRequest, NameResponse, Order, Plain, Probe, ProbeClient, Report, Seen};

/// What tests see of a service from outside.
#[derive(Debug, Default)]
pub struct Counts {
    began: AtomicUsize,
    ended: AtomicUsize,
    dropped: AtomicUsize,
}

impl Counts {
    /// Calls that reached a handler.
    #[must_use]
    pub fn began(&self) -> usize {
        self.began.load(Ordering::SeqCst)
    }

    /// Handlers and streams that came to their end.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Handlers and streams that were dropped before it: cancelled.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Handlers and streams that are at it.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.began() - self.ended() - self.dropped()
    }
}

struct Guard {
    counts: Arc<Counts>,
    ended: bool,
}

impl Guard {
    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let count = if self.ended { &self.counts.ended } else { &self.counts.dropped };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Does as it is told.
#[derive(Clone, Debug, Default)]
pub struct Prober {
    counts: Arc<Counts>,
    next: Option<Channel>,
}

impl Prober {
    /// One that relays to nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that relays to the next.
    #[must_use]
    pub fn relaying_to(next: Channel) -> Self {
        Self { next: Some(next), ..Self::default() }
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    fn begin(&self) -> Guard {
        self.counts.began.fetch_add(1, Ordering::SeqCst);
        Guard { counts: Arc::clone(&self.counts), ended: false }
    }

    async fn obey(&self, ctx: &Context, order: Order) -> Result<Report, Error> {
        let mut guard = self.begin();
        let outcome = self.act(ctx, order).await;
        guard.end();
        outcome
    }

    async fn act(&self, ctx: &Context, order: Order) -> Result<Report, Error> {
        match order.action.as_known() {
            Some(Action::ACTION_FAIL) => return Err(failure(order.number)),
            Some(Action::ACTION_PANIC_LATER) => {
                tokio::task::yield_now().await;
                panic!("as told, after an await");
            }
            Some(Action::ACTION_HANG) => std::future::pending().await,
            Some(Action::ACTION_WAIT) => tokio::time::sleep(Duration::from_millis(order.millis)).await,
            Some(Action::ACTION_RELAY) if order.number > 0 => {
                let next = self.next.clone().ok_or_else(|| Error::failed_precondition("there is no next"))?;
                let order = Order { number: order.number - 1, ..order };
                return Ok(ProbeClient::new(next).say(order).await?.into_message());
            }
            Some(Action::ACTION_RELAY) if order.text == "hang" => std::future::pending().await,
            _ => {}
        }
        Ok(report(ctx, order))
    }
}

/// The failure that tests ask for: with details, metadata and a source, which must not travel.
fn failure(number: u32) -> Error {
    let code = Code::from_number(number).unwrap_or(Code::Unknown);
    let mut error = Error::new(code, "as told: äöü")
        .with_info("probe", "TOLD", [("number", number.to_string())])
        .with_field("number", "must not be an error")
        .with_resource("order", "o1")
        .with_source(std::io::Error::other("a secret of this side"));
    let added = error.metadata_mut().insert("x-failed", "yes");
    debug_assert!(added.is_ok(), "a plain name");
    error
}

fn report(ctx: &Context, order: Order) -> Report {
    let trace = ctx.trace();
    let seen = Seen {
        method: ctx.method().into(),
        peer: ctx.peer().unwrap_or_default().into(),
        remaining_ms: ctx.remaining().map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        metadata: ctx.metadata().iter().map(|(name, value)| (name.into(), value.into())).collect(),
        trace_id: trace.map(|trace| format!("{:032x}", trace.trace_id)).unwrap_or_default(),
        span_id: trace.map(|trace| format!("{:016x}", trace.span_id)).unwrap_or_default(),
        json: ctx.codec() == Codec::Json,
        ..Default::default()
    };
    Report {
        text: order.text,
        number: order.number,
        data: order.data,
        seen: MessageField::some(seen),
        ..Default::default()
    }
}

/// Answers with metadata before and after it, for those who ask with `x-ask`.
fn dressed<T>(ctx: &Context, message: T) -> Reply<T> {
    let response = Response::new(message);
    let Some(ask) = ctx.metadata().get("x-ask") else { return Ok(response) };
    Ok(response.with_metadata("x-before", ask)?.with_trailer("x-after", ask)?)
}

impl Probe for Prober {
    async fn say(&self, ctx: Context, order: Request<'_, Order>) -> Reply<Report> {
        let order = order.to_owned_message();
        dressed(&ctx, self.obey(&ctx, order).await?)
    }

    fn get(&self, ctx: Context, order: Request<'_, Order>) -> impl Future<Output = Reply<Report>> + Send {
        let order = order.to_owned_message();
        // Not an async fn: this panics while the future is being made, not while it runs.
        assert!(order.action.as_known() != Some(Action::ACTION_PANIC), "as told, before any await");
        async move { dressed(&ctx, self.obey(&ctx, order).await?) }
    }

    async fn count(&self, ctx: Context, order: Request<'_, Order>) -> Reply<Streaming<Report>> {
        let order = order.to_owned_message();
        let action = order.action.as_known();
        if action == Some(Action::ACTION_FAIL) && order.text == "at once" {
            return Err(failure(order.millis.try_into().unwrap_or_default()));
        }
        let (guard, context) = (self.begin(), ctx.clone());
        let messages = futures::stream::unfold((0, guard), move |(at, mut guard)| {
            let (order, context) = (order.clone(), context.clone());
            async move {
                if at == order.number {
                    match action {
                        Some(Action::ACTION_FAIL) => {
                            let code = order.millis.try_into().unwrap_or_default();
                            guard.end();
                            return Some((Err(failure(code)), (at + 1, guard)));
                        }
                        Some(Action::ACTION_PANIC) => panic!("as told, in a stream"),
                        Some(Action::ACTION_HANG) => std::future::pending().await,
                        _ => {}
                    }
                }
                if at >= order.number {
                    guard.end();
                    return None;
                }
                if action == Some(Action::ACTION_WAIT) {
                    tokio::time::sleep(Duration::from_millis(order.millis)).await;
                }
                let message = Report { number: at, ..report(&context, order) };
                Some((Ok(message), (at + 1, guard)))
            }
        });
        dressed(&ctx, Streaming::new(messages))
    }

    async fn join(&self, ctx: Context, mut orders: Inbound<Order>) -> Reply<Report> {
        let mut guard = self.begin();
        let mut joined = Order::default();
        while let Some(order) = orders.message().await? {
            joined.text.push_str(&order.text);
            joined.number += 1;
            joined.action = order.action;
        }
        let outcome = self.act(&ctx, joined).await;
        guard.end();
        dressed(&ctx, outcome?)
    }

    async fn chat(&self, ctx: Context, orders: Inbound<Order>) -> Reply<Streaming<Report>> {
        let (service, context, guard) = (self.clone(), ctx.clone(), self.begin());
        let answers = orders.enumerate().then(move |(at, order)| {
            let (service, context) = (service.clone(), context.clone());
            async move {
                let mut report = service.act(&context, order?).await?;
                report.number = u32::try_from(at).unwrap_or(u32::MAX);
                Ok(report)
            }
        });
        // The guard goes with the stream.
        let answers = futures::stream::unfold((Box::pin(answers), guard), |(mut answers, mut guard)| async {
            match answers.next().await {
                Some(answer) => Some((answer, (answers, guard))),
                None => {
                    guard.end();
                    None
                }
            }
        });
        dressed(&ctx, Streaming::new(answers))
    }
}

/// The second service: says its name.
#[derive(Clone, Debug)]
pub struct Named(pub &'static str);

impl Plain for Named {
    async fn name(&self, _: Context, _: Request<'_, NameRequest>) -> Reply<NameResponse> {
        reply(NameResponse { name: self.0.into(), ..Default::default() })
    }
}
