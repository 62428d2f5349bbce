//! The journal: every order, and everything that was intended, done and undone for it, each entry on disk before the next
//! act.
//!
//! The table of entries is the truth and is only ever added to; a saga is folded from it each time. Two writers (the
//! worker that drives an order, and a customer who calls it off) need no lock between them: each entry is checked against
//! all that was written before it, in the transaction that writes it.

mod rows;

use std::path::Path;

use shop_database::Database;
use tokio::sync::broadcast;

use crate::model::{Change, Order, Record};
use crate::saga::{Entry, Misfit, Next, Saga};

pub(crate) use rows::{MIGRATIONS, Page};

/// Changes that a watcher may be behind; one that is further behind just looks.
const NEWS: usize = 256;

/// A handle of the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    database: Database,
    /// The ids of orders that have changed.
    news: broadcast::Sender<String>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Database(#[from] shop_database::Error),
    #[error(transparent)]
    Misfit(#[from] Misfit),
    #[error("find the order")]
    NotFound,
    #[error("take one more order: too many are under way")]
    Busy,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error.into())
    }
}

/// An order to write, and what its request is known by.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) order: Order,
    pub(crate) idempotency_key: String,
    /// All of the request that is compared with a repetition.
    pub(crate) fingerprint: String,
}

/// The order that an idempotency key already stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) order_id: String,
    pub(crate) fingerprint: String,
}

/// What a key stands for after an attempt to place an order with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    New,
    Known(Known),
}

// === impl Journal ===

impl Journal {
    /// Opens `orders.sqlite` in this folder; blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, shop_database::Error> {
        let database = Database::open(&dir.join("orders.sqlite"), MIGRATIONS)?;
        Ok(Self { database, news: broadcast::channel(NEWS).0 })
    }

    /// The order of this user and key.
    pub(crate) async fn known(&self, user_id: &str, key: &str) -> Result<Option<Known>, Fault> {
        let (user_id, key) = (user_id.to_owned(), key.to_owned());
        self.database.read(move |db| rows::known(db, &user_id, &key)).await
    }

    /// Writes a new order and its first entry, unless the key is known.
    pub(crate) async fn place(&self, draft: Draft, now: i64) -> Result<Placed, Fault> {
        self.database
            .write(move |db| {
                if let Some(known) = rows::known(db, &draft.order.user_id, &draft.idempotency_key)? {
                    return Ok(Placed::Known(known));
                }
                rows::insert(db, &draft, now)?;
                rows::append(db, &draft.order.order_id, &Saga::default(), &[Entry::Placed], now)?;
                Ok(Placed::New)
            })
            .await
    }

    pub(crate) async fn load(&self, order_id: &str) -> Result<Record, Fault> {
        let id = order_id.to_owned();
        self.database.read(move |db| rows::load(db, &id)).await
    }

    /// A user's orders, newest first.
    pub(crate) async fn list(&self, user_id: &str, page: Page) -> Result<(Vec<Record>, Option<i64>), Fault> {
        let user_id = user_id.to_owned();
        self.database.read(move |db| rows::list(db, &user_id, page)).await
    }

    /// The states after this one that the customer sees, and whether the order is at rest.
    pub(crate) async fn changes(&self, order_id: &str, after: u64) -> Result<(Vec<Change>, bool), Fault> {
        let id = order_id.to_owned();
        self.database.read(move |db| rows::changes(db, &id, after)).await
    }

    /// Hears of every order that changes. Subscribe, then look: nothing is lost in between.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<String> {
        self.news.subscribe()
    }

    /// Writes one entry.
    pub(crate) async fn record(&self, order_id: &str, entry: Entry, now: i64) -> Result<(), Fault> {
        let id = order_id.to_owned();
        self.database
            .write(move |db| {
                let (saga, _) = rows::fold(db, &id)?;
                rows::append(db, &id, &saga, &[entry], now).map(drop)
            })
            .await?;
        self.tell(order_id);
        Ok(())
    }

    /// Writes what came of the last act, if it still fits, and what is intended next, in one transaction; answers what
    /// that is. When this has returned, the intent is on disk and may be carried out.
    pub(crate) async fn advance(
        &self,
        order_id: &str,
        outcome: Option<Entry>,
        now: i64,
    ) -> Result<(Next, Saga), Fault> {
        let id = order_id.to_owned();
        let advanced = self
            .database
            .write::<_, Fault>(move |db| {
                let (mut saga, _) = rows::fold(db, &id)?;
                let fits = |saga: &Saga, entry: &Entry| saga.clone().apply(entry).is_ok();
                for entry in outcome.into_iter().filter(|entry| fits(&saga, entry)).collect::<Vec<_>>() {
                    saga = rows::append(db, &id, &saga, &[entry], now)?;
                }
                if let Some(intent) = saga.intent() {
                    saga = rows::append(db, &id, &saga, &[intent], now)?;
                }
                Ok((saga.next(), saga))
            })
            .await?;
        self.tell(order_id);
        Ok(advanced)
    }

    /// Notes of every unfinished order that the process which drove it is gone; answers which they are.
    pub(crate) async fn resume(&self, now: i64) -> Result<Vec<String>, Fault> {
        self.database
            .write(move |db| {
                let open = rows::open_orders(db)?;
                for id in &open {
                    let (saga, _) = rows::fold(db, id)?;
                    rows::append(db, id, &saga, &[Entry::Resumed], now)?;
                }
                Ok(open)
            })
            .await
    }

    /// The user's confirmed orders whose carts are still as they were.
    pub(crate) async fn carts_to_clear(&self, user_id: &str) -> Result<Vec<(String, u64)>, Fault> {
        let user_id = user_id.to_owned();
        self.database.read(move |db| rows::carts_to_clear(db, &user_id)).await
    }

    pub(crate) async fn cart_cleared(&self, order_id: &str) -> Result<(), Fault> {
        let id = order_id.to_owned();
        self.database.write(move |db| rows::cart_cleared(db, &id)).await
    }

    fn tell(&self, order_id: &str) {
        // Nobody watches: fine.
        let _ = self.news.send(order_id.to_owned());
    }
}

#[cfg(test)]
mod tests;
