//! The shop's payments: authorized, captured, voided and refunded, through a made-up card processor.
//!
//! A payment is named by its caller and every method may be repeated, so that a caller who never saw an answer (a lost
//! connection, a crash on either side) just asks again. A void leaves a tombstone even where there was nothing to void:
//! an authorization that was delayed on the way can then no longer take effect behind the back of a caller who gave up.
//!
//! Of a card's number only the last four digits leave the request: [`Card`](card::Card) hides the rest from `Debug`, and
//! no table has a column for it.

pub mod card;
mod config;
mod ledger;
mod processor;
mod service;

pub use config::Config;
pub use service::Payments;

/// The generated contract: messages, the trait, server and client of `shop.payment.v1`.
pub mod proto {
    formic::include_protos!();
    pub use self::shop::payment::v1::*;
}
