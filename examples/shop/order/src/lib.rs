//! The shop's orders: from a cart to a confirmed order, or back to where everything was.
//!
//! An order touches three services that know nothing of each other, so it is a saga: a [pure machine](saga) says what comes
//! next, a journal on disk says what was, and a [`Worker`] carries one order after the other
//! through, over any number of restarts. The handlers only write down and wait.
//!
//! The card is kept nowhere but in memory. So an order whose payment was not known to be authorized when the process ended
//! is undone at the next start, and its customer hears `INTERRUPTED`: the alternative is a database of card numbers. The
//! caller's token is kept in memory alike; a cart that a crash left uncleared is cleared when its user comes back.
//!
//! One process at a time drives the orders of a data directory, which a lock on a file in it makes sure of.

pub mod config;
mod journal;
mod lock;
pub mod model;
mod note;
mod partners;
mod reason;
pub mod saga;
mod service;
mod watch;
mod wire;
mod worker;

#[cfg(test)]
mod testing;

use std::path::Path;

use formic::Failure;
use formic::prelude::*;
use shop_token::Verifier;

pub use config::Config;
pub use worker::Worker;

/// The generated contracts: the service's own, and those of the services that it calls.
pub mod proto {
    formic::include_protos!();
    pub use self::shop::order::v1::*;
}

/// Ways to the services that an order touches.
#[derive(Clone, Debug)]
pub struct Channels {
    /// Stock and carts.
    pub product: Channel,
    /// Money.
    pub payment: Channel,
    /// Parcels.
    pub shipping: Channel,
}

/// The service.
#[derive(Debug)]
pub struct Orders {
    journal: journal::Journal,
    worker: worker::Handle,
    verifier: Verifier,
    partners: partners::Partners,
    config: Config,
}

impl Orders {
    /// Opens the journal in this folder and finds what the process before left unfinished. The [`Worker`] that comes
    /// with the service must be run beside it; it begins with the unfinished orders.
    ///
    /// # Errors
    /// When another process drives the orders of this folder, or the journal cannot be opened.
    pub async fn open(
        dir: &Path,
        config: Config,
        verifier: Verifier,
        channels: Channels,
    ) -> Result<(Self, Worker), Failure> {
        let lock = lock::Lock::take(dir, config.lock_wait()).await?;
        let journal = journal::Journal::open(dir)?;
        let unfinished = journal
            .resume(worker::now())
            .await
            .map_err(|fault| Failure::new("cannot read the journal of orders").because(fault))?;
        let partners = partners::Partners::new(channels, config.clone());
        let (worker, handle) = Worker::new(
            journal.clone(),
            partners.clone(),
            config.clone(),
            worker::Start { unfinished, lock },
        );
        Ok((Self { journal, worker: handle, verifier, partners, config }, worker))
    }
}
