//! The story of an order in words: which entries its customer sees, and how they read.

use crate::saga::{Entry, Next, Saga, Step, Undo};

/// How this entry reads, if the customer sees it; `saga` is the fold up to and with the entry.
pub(crate) fn note(entry: &Entry, saga: &Saga) -> Option<String> {
    let text = match entry {
        Entry::Placed => "the order is placed",
        Entry::Done { step: Step::Reserve } => "the stock is reserved",
        Entry::Done { step: Step::Authorize } => "the payment is authorized",
        Entry::Done { step: Step::Capture } => "the payment is taken",
        Entry::Done { step: Step::Book } => "the shipment is booked",
        Entry::Done { step: Step::Commit } => "the order is confirmed",
        Entry::Unclear { step } => {
            return Some(format!("the {} service does not answer; trying again", service(*step)));
        }
        Entry::Refused { refusal, .. } => return Some(refusal.message.clone()),
        // A restart after which the order just goes on is nobody's business.
        Entry::Resumed if saga.cause().is_none() => return None,
        Entry::Resumed => "the order was interrupted",
        Entry::Cancelled => "the order is called off",
        Entry::GaveUp => "a service did not answer for too long",
        Entry::Undone { undo: Undo::CancelShipment } => "the shipment is cancelled",
        Entry::Undone { undo: Undo::ReturnPayment } => "the payment is returned",
        Entry::Undone { undo: Undo::ReleaseStock } => "the stock is released",
        Entry::TooLate { .. } if saga.next() == Next::Rest => {
            "too late to call off: the parcel is on its way"
        }
        Entry::TooLate { .. } => "the parcel is on its way: the order goes on",
        Entry::Intend { .. } | Entry::IntendUndo { .. } => return None,
    };
    Some(text.to_owned())
}

fn service(step: Step) -> &'static str {
    match step {
        Step::Reserve | Step::Commit => "product",
        Step::Authorize | Step::Capture => "payment",
        Step::Book => "shipping",
    }
}
