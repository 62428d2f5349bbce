//! `Watch`: an order's states, read from the journal, so that none can be lost on the way from the worker.

use std::collections::VecDeque;

use formic::prelude::*;
use futures::stream;
use tokio::sync::broadcast;

use crate::journal::Journal;
use crate::model::Change;
use crate::proto::WatchResponse;
use crate::wire;

struct Watcher {
    journal: Journal,
    order_id: String,
    news: broadcast::Receiver<String>,
    /// Changes that have been read and not yet sent.
    waiting: VecDeque<Change>,
    seen: u64,
    at_rest: bool,
}

/// The order's states from the first or from the present one on, until it is at rest.
pub(crate) async fn watch(
    journal: Journal,
    order_id: String,
    from_start: bool,
) -> Result<Streaming<WatchResponse>, Error> {
    // Before the first look, so that no change falls in between.
    let news = journal.subscribe();
    let (changes, at_rest) = journal.changes(&order_id, 0).await?;
    let skip = if from_start { 0 } else { changes.len().saturating_sub(1) };
    let seen = changes.last().map_or(0, |change| change.sequence);
    let waiting = changes.into_iter().skip(skip).collect();
    let watcher = Watcher { journal, order_id, news, waiting, seen, at_rest };
    Ok(Streaming::new(stream::try_unfold(watcher, Watcher::step)))
}

impl Watcher {
    async fn step(mut self) -> Result<Option<(WatchResponse, Self)>, Error> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(Some((wire::watched(&self.order_id, change), self)));
            }
            if self.at_rest {
                return Ok(None);
            }
            self.news().await;
            let (changes, at_rest) = self.journal.changes(&self.order_id, self.seen).await?;
            self.seen = changes.last().map_or(self.seen, |change| change.sequence);
            self.waiting.extend(changes);
            self.at_rest = at_rest;
        }
    }

    /// Resolves when this order may have changed.
    async fn news(&mut self) {
        loop {
            match self.news.recv().await {
                Ok(order_id) if order_id != self.order_id => {}
                // One that lags has missed news, perhaps of this order.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The journal that is held here holds a sender, so this does not happen.
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}
