//! Drives orders: one task each, never two for the same order.
//!
//! The worker owns the tasks. Handlers ask it by a bounded queue to drive an order, and are told when its task has come to
//! an end. When the service stops, each task ends after the step that it is in: the journal knows the rest, and the next
//! process goes on from there.

mod drive;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use formic::TraceContext;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use crate::config::Config;
use crate::journal::{Draft, Fault, Journal, Placed};
use crate::lock::Lock;
use crate::model::Card;
use crate::partners::Partners;
use crate::reason;
use drive::Driver;

/// Requests to the worker that may wait; it only ever takes microseconds for each.
const QUEUE: usize = 1024;

/// What only passes through: needed to go on, and never written down.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    pub(crate) card: Card,
    pub(crate) token: Token,
    /// The calls that are made for the order belong to the trace of the request for it.
    pub(crate) trace: Option<TraceContext>,
}

/// The caller's token, never shown.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a worker begins with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) unfinished: Vec<String>,
    pub(crate) lock: Lock,
}

/// Runs beside the service; see [`Orders::open`](crate::Orders::open).
#[derive(Debug)]
#[must_use = "orders stand still until the worker is run"]
pub struct Worker {
    driver: Driver,
    requests: mpsc::Receiver<Ask>,
    start: Start,
    max: usize,
    stop: watch::Sender<bool>,
}

/// Asks the worker to drive orders. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Ask {
    order_id: String,
    /// Written down first, if the order is new.
    draft: Option<Box<NewOrder>>,
    secrets: Option<Secrets>,
    /// Do not wait for the end of a pause: something has changed.
    hurry: bool,
    done: Option<oneshot::Sender<()>>,
}

/// An order to write down, and whom to tell what came of that. The worker writes it and not the handler, because a handler
/// whose caller goes away is dropped, and an order must not be left between the journal and the worker.
#[derive(Debug)]
pub(crate) struct NewOrder {
    draft: Draft,
    placed: oneshot::Sender<Result<Placed, Fault>>,
}

/// What became of an order that was to be new, and then of its end.
#[derive(Debug)]
pub(crate) struct Placing {
    pub(crate) placed: oneshot::Receiver<Result<Placed, Fault>>,
    pub(crate) end: End,
}

/// Resolves when an order is at rest; an error when the worker has stopped.
pub(crate) type End = oneshot::Receiver<()>;

/// An order that is being driven.
#[derive(Debug, Default)]
struct Driven {
    hurry: Arc<Notify>,
    /// Asked for again since it began, perhaps too late for it to see why.
    again: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

enum Event {
    Asked(Ask),
    Ended(Result<(Id, ()), JoinError>),
    Stop,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

// === impl Handle ===

impl Handle {
    /// Has a new order written down and driven until it is at rest.
    ///
    /// # Errors
    /// `resource_exhausted` when too many wait, `unavailable` when the worker has stopped; nothing is written then.
    pub(crate) fn place(&self, draft: Draft, secrets: Secrets) -> Result<Placing, formic::Error> {
        let (done, end) = oneshot::channel();
        let (tell, placed) = oneshot::channel();
        let order_id = draft.order.order_id.clone();
        let draft = Some(Box::new(NewOrder { draft, placed: tell }));
        self.ask(Ask { order_id, draft, secrets: Some(secrets), hurry: false, done: Some(done) })?;
        Ok(Placing { placed, end })
    }

    /// Has an order driven until it is at rest.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(crate) fn drive(
        &self,
        order_id: &str,
        secrets: Option<Secrets>,
        hurry: bool,
    ) -> Result<End, formic::Error> {
        let (done, end) = oneshot::channel();
        self.ask(Ask { order_id: order_id.to_owned(), draft: None, secrets, hurry, done: Some(done) })?;
        Ok(end)
    }

    fn ask(&self, ask: Ask) -> Result<(), formic::Error> {
        self.requests.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => reason::too_busy(),
            mpsc::error::TrySendError::Closed(_) => reason::stopping(),
        })
    }
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(journal: Journal, partners: Partners, config: Config, start: Start) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let max = config.max_under_way;
        let driver = Driver { journal, partners, config, stopped };
        (Self { driver, requests, start, max, stop }, Handle { requests: sender })
    }

    /// Drives orders until `stopping` resolves, and then until each task is at a point where it may be left.
    pub async fn run(self, stopping: impl Future<Output = ()>) {
        let Self { driver, mut requests, start, max, stop } = self;
        let Start { unfinished, lock } = start;
        let mut tasks =
            Tasks { driver, running: JoinSet::new(), tasks: HashMap::new(), orders: HashMap::new(), max };
        if !unfinished.is_empty() {
            tracing::info!(orders = unfinished.len(), "going on with unfinished orders");
        }
        for order_id in unfinished {
            tasks.ask(Ask { order_id, draft: None, secrets: None, hurry: false, done: None });
        }
        tokio::pin!(stopping);
        loop {
            // Cancel safe, all three: a receiver, a set of tasks, and a future that is kept.
            let event = tokio::select! {
                () = &mut stopping => Event::Stop,
                Some(ended) = tasks.running.join_next_with_id(), if !tasks.running.is_empty() => Event::Ended(ended),
                ask = requests.recv() => ask.map_or(Event::Stop, Event::Asked),
            };
            match event {
                Event::Asked(ask) => tasks.ask(ask),
                Event::Ended(ended) => tasks.ended(ended),
                Event::Stop => break,
            }
        }
        requests.close();
        // The receivers are the tasks; they may all have ended.
        let _ = stop.send(true);
        while tasks.running.join_next().await.is_some() {}
        drop(lock);
    }
}

#[derive(Debug)]
struct Tasks {
    driver: Driver,
    running: JoinSet<()>,
    tasks: HashMap<Id, String>,
    orders: HashMap<String, Driven>,
    /// New orders are refused beyond this many; those that are there are always driven.
    max: usize,
}

impl Tasks {
    fn ask(&mut self, ask: Ask) {
        let Ask { order_id, mut draft, secrets, hurry, done } = ask;
        if let Some(driven) = self.orders.get_mut(&order_id) {
            driven.again = true;
            driven.waiting.extend(done);
            if hurry {
                driven.hurry.notify_one();
            }
            return;
        }
        if let Some(new) = draft.take_if(|_| self.orders.len() >= self.max) {
            // The caller may have gone away; then nobody has to be told.
            let _ = new.placed.send(Err(Fault::Busy));
            return;
        }
        let driven = Driven { waiting: done.into_iter().collect(), ..Driven::default() };
        self.start(order_id, draft, secrets, driven);
    }

    fn start(
        &mut self,
        order_id: String,
        draft: Option<Box<NewOrder>>,
        secrets: Option<Secrets>,
        driven: Driven,
    ) {
        let work = self.driver.clone().drive(order_id.clone(), draft, secrets, Arc::clone(&driven.hurry));
        let task = self.running.spawn(work);
        self.tasks.insert(task.id(), order_id.clone());
        self.orders.insert(order_id, driven);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(order_id) = self.tasks.remove(&id) else { return };
        let Some(driven) = self.orders.remove(&order_id) else { return };
        if let Err(error) = ended {
            // A bug, and one that may come back at once: the order waits for the next start of the process. Those who
            // wait for it are told by the drop of their senders.
            tracing::error!(order = order_id, %error, "the task of the order panicked");
            return;
        }
        if driven.again {
            self.start(order_id, None, None, Driven { again: false, ..driven });
            return;
        }
        for waiting in driven.waiting {
            // Nobody waits any more: fine.
            let _ = waiting.send(());
        }
    }
}
