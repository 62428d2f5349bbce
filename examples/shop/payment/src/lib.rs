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

mod generated {
    #![allow(unreachable_pub, missing_debug_implementations, reason = "generated code")]
    formic::include_protos!();
}

/// The generated contract, `shop.payment.v1`.
pub mod v1 {
    pub use crate::generated::shop::payment::v1::*;
}
