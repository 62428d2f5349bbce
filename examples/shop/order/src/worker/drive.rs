//! Takes one order to its rest: asks the journal what comes next, does it, writes down what came of it, and so on.

use std::sync::Arc;
use std::time::Duration;

use formic::Scope;
use tokio::sync::{Notify, watch};

use super::{NewOrder, Secrets, now};
use crate::config::Config;
use crate::journal::{Fault, Journal, Placed};
use crate::model::Order;
use crate::partners::{Partners, Trouble};
use crate::saga::{Entry, Next, Saga, Stage, Step, Undo};

/// Tries to clear the cart; after these the customer's next visit does it.
const CART_TRIES: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) journal: Journal,
    pub(crate) partners: Partners,
    pub(crate) config: Config,
    /// Turns true when the process is to end.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// How a pause ended.
#[derive(Debug, PartialEq, Eq)]
enum Pause {
    Over,
    Stopped,
}

impl Driver {
    /// Ends when the order is at rest, or when the process is to end and no act is half done.
    pub(crate) async fn drive(
        mut self,
        order_id: String,
        draft: Option<Box<NewOrder>>,
        secrets: Option<Secrets>,
        hurry: Arc<Notify>,
    ) {
        if let Some(new) = draft {
            let NewOrder { draft, placed } = *new;
            let result = self.journal.place(draft, now()).await;
            let is_new = matches!(result, Ok(Placed::New));
            // The caller may have gone away; the order is placed all the same.
            let _ = placed.send(result);
            if !is_new {
                return;
            }
        }
        let trace = secrets.as_ref().and_then(|secrets| secrets.trace);
        let scope = Scope { trace, ..Scope::default() };
        scope.run(self.run(&order_id, secrets, &hurry)).await;
    }

    async fn run(&mut self, order_id: &str, secrets: Option<Secrets>, hurry: &Notify) {
        let Some((order, placed_at)) = self.load(order_id, hurry).await else { return };
        let mut outcome = None;
        // Acts in a row that settled nothing, and whether the pause after the last of them is over.
        let (mut tries, mut rested, mut acted) = (0, false, false);
        loop {
            let Some((next, saga)) = self.advance(order_id, outcome.take(), hurry).await else { return };
            if next == Next::Rest {
                if acted {
                    tracing::info!(order = order_id, stage = ?saga.stage(), "the order is at rest");
                }
                return self.clear_cart(&order, &saga, secrets.as_ref(), hurry).await;
            }
            if *self.stopped.borrow() {
                return;
            }
            if tries > 0 && !rested {
                let forward = matches!(next, Next::Perform(_)) && !saga.is_shipped();
                if forward && self.config.gives_up(placed_at, now()) {
                    (outcome, tries) = (Some(Entry::GaveUp), 0);
                } else if self.pause(tries, hurry).await == Pause::Stopped {
                    return;
                } else {
                    rested = true;
                }
                // Look again: the order may have been called off meanwhile.
                continue;
            }
            outcome = match next {
                Next::Rest => return,
                Next::Perform(step) => Some(self.perform(&order, step, secrets.as_ref()).await),
                Next::Compensate(undo) => self.compensate(&order, undo).await,
            };
            (rested, acted) = (false, true);
            tries = if settles(outcome.as_ref(), &saga) { 0 } else { tries + 1 };
        }
    }

    /// Writes down what came of the last act and what is intended next, however often it takes: nothing more is done for
    /// the order before that is on disk.
    async fn advance(
        &mut self,
        order_id: &str,
        outcome: Option<Entry>,
        hurry: &Notify,
    ) -> Option<(Next, Saga)> {
        let mut tries = 0;
        loop {
            match self.journal.advance(order_id, outcome.clone(), now()).await {
                Ok(advanced) => return Some(advanced),
                Err(fault) => {
                    tries += 1;
                    self.survive(&fault, order_id, tries, hurry).await?;
                }
            }
        }
    }

    async fn load(&mut self, order_id: &str, hurry: &Notify) -> Option<(Order, i64)> {
        let mut tries = 0;
        loop {
            match self.journal.load(order_id).await {
                Ok(record) => return Some((record.order, record.placed_at)),
                Err(fault) => {
                    tries += 1;
                    self.survive(&fault, order_id, tries, hurry).await?;
                }
            }
        }
    }

    /// Waits for a fault of the journal that may pass: a full disk is emptied, a busy one gets quiet.
    async fn survive(&mut self, fault: &Fault, order_id: &str, tries: u32, hurry: &Notify) -> Option<()> {
        tracing::error!(order = order_id, error = fault as &dyn std::error::Error, "the journal failed");
        let passes = matches!(fault, Fault::Database(_));
        (passes && self.pause(tries, hurry).await == Pause::Over).then_some(())
    }

    async fn perform(&self, order: &Order, step: Step, secrets: Option<&Secrets>) -> Entry {
        let card = secrets.map(|secrets| &secrets.card);
        if step == Step::Authorize && card.is_none() {
            return Entry::Resumed;
        }
        let (before, after) = self.config.step_delay.around_step(step);
        delay(before).await;
        let result = self.partners.perform(order, step, card).await;
        delay(after).await;
        let id = &order.order_id;
        match result {
            Ok(()) => Entry::Done { step },
            Err(Trouble::Refused(refusal)) => {
                tracing::info!(order = %id, ?step, reason = %refusal.reason, "refused");
                Entry::Refused { step, refusal }
            }
            Err(Trouble::Unclear(error)) => {
                tracing::warn!(order = %id, ?step, error, "the outcome of the step is not known");
                Entry::Unclear { step }
            }
        }
    }

    async fn compensate(&self, order: &Order, undo: Undo) -> Option<Entry> {
        let (before, after) = self.config.step_delay.around_undo(undo);
        delay(before).await;
        let result = self.partners.compensate(order, undo).await;
        delay(after).await;
        match result {
            Ok(()) => Some(Entry::Undone { undo }),
            Err(Trouble::Refused(_)) => Some(Entry::TooLate { undo }),
            Err(Trouble::Unclear(error)) => {
                tracing::warn!(order = %order.order_id, ?undo, error, "the undo is not known to be done");
                None
            }
        }
    }

    /// Clears the cart of a confirmed order while its customer's token is at hand.
    async fn clear_cart(&mut self, order: &Order, saga: &Saga, secrets: Option<&Secrets>, hurry: &Notify) {
        let Some(secrets) = secrets.filter(|_| saga.stage() == Stage::Confirmed) else { return };
        for tries in 1..=CART_TRIES {
            let cleared = match self.partners.clear_cart(&secrets.token.0, order.cart_version).await {
                Ok(()) => self.journal.cart_cleared(&order.order_id).await.map_err(formic::Error::from),
                Err(error) => Err(error),
            };
            match cleared {
                Ok(()) => return,
                Err(error) => tracing::warn!(order = %order.order_id, %error, "the cart is not cleared"),
            }
            if tries < CART_TRIES && self.pause(tries, hurry).await == Pause::Stopped {
                return;
            }
        }
    }

    /// Waits before another try, cut short by a hurry.
    async fn pause(&mut self, tries: u32, hurry: &Notify) -> Pause {
        // Half of it by chance, lest all orders that wait for one service come back to it at once.
        let whole = self.config.retry(tries);
        let pause = whole.mul_f64(0.5 + fastrand::f64() / 2.0);
        // Cancel safe, all three; a hurry that comes later is kept for the next pause.
        tokio::select! {
            () = tokio::time::sleep(pause) => Pause::Over,
            () = hurry.notified() => Pause::Over,
            stopped = self.stopped.wait_for(|stopped| *stopped) => {
                drop(stopped);
                Pause::Stopped
            }
        }
    }
}

/// Whether the next act may follow at once. A refusal of the last step of an order that cannot go back settles nothing.
fn settles(outcome: Option<&Entry>, saga: &Saga) -> bool {
    match outcome {
        None | Some(Entry::Unclear { .. }) => false,
        Some(Entry::Refused { .. }) => !saga.is_shipped(),
        Some(_) => true,
    }
}

async fn delay(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}
