//! The errors of this service, each with the reason that a program can switch on.

use formic::prelude::*;

use crate::journal::Fault;
use crate::model::Record;
use crate::saga::{Cause, Saga};

const DOMAIN: &str = "shop.order";

/// Why an order goes back, in the words of its customer: the reason, and a sentence.
pub(crate) fn failure(saga: &Saga) -> Option<(String, String)> {
    Some(match saga.cause()? {
        Cause::Refused(refusal) => (public(&refusal.reason).to_owned(), refusal.message.clone()),
        Cause::Interrupted => {
            ("INTERRUPTED".into(), "the service restarted before the payment; please order again".into())
        }
        Cause::Cancelled => ("CANCELLED".into(), "the order was called off".into()),
        Cause::GaveUp => {
            ("GAVE_UP".into(), "a service that the order needs did not answer for too long".into())
        }
    })
}

/// The other services' reasons that are this service's too.
fn public(reason: &str) -> &str {
    match reason {
        "CARD_DECLINED" | "OUT_OF_STOCK" | "ADDRESS_NOT_SERVED" => reason,
        _ => "REFUSED",
    }
}

/// The answer to a request for an order that came to nothing.
pub(crate) fn undone(record: &Record) -> Error {
    let (reason, message) =
        failure(&record.saga).unwrap_or_else(|| ("REFUSED".into(), "the order was undone".into()));
    let mut metadata = vec![("order_id".to_owned(), record.order.order_id.clone())];
    if let Some(Cause::Refused(refusal)) = record.saga.cause() {
        metadata.extend(refusal.metadata.iter().filter(|(key, _)| key != "order_id").cloned());
    }
    Error::failed_precondition(message).with_info(DOMAIN, reason, metadata)
}

/// The call's time is over; the order's is not.
pub(crate) fn pending(order_id: &str) -> Error {
    Error::deadline_exceeded("the order is still being worked on; watch it, or ask again with the same key")
        .with_info(DOMAIN, "ORDER_PENDING", [("order_id", order_id)])
}

pub(crate) fn key_reused() -> Error {
    Error::already_exists("the idempotency key came with another request before").with_info(
        DOMAIN,
        "IDEMPOTENCY_KEY_REUSED",
        [("", ""); 0],
    )
}

pub(crate) fn cart_empty() -> Error {
    Error::failed_precondition("the cart is empty").with_info(DOMAIN, "CART_EMPTY", [("", ""); 0])
}

pub(crate) fn already_shipped(order_id: &str) -> Error {
    Error::failed_precondition("the parcel is on its way").with_info(
        DOMAIN,
        "ALREADY_SHIPPED",
        [("order_id", order_id)],
    )
}

pub(crate) fn too_busy() -> Error {
    Error::resource_exhausted("too many orders are under way; try again shortly")
        .with_retry_after(std::time::Duration::from_secs(1))
}

pub(crate) fn not_found() -> Error {
    Error::not_found("there is no such order")
}

pub(crate) fn stopping() -> Error {
    Error::unavailable("the service is stopping")
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Database(error) => error.into(),
            Fault::NotFound => not_found(),
            Fault::Busy => too_busy(),
            Fault::Misfit(error) => {
                Self::internal("the order's journal is not as expected").with_source(error)
            }
        }
    }
}
