//! The saga of an order as a pure state machine: what has been written down → what to do next.
//!
//! An order goes forward step by step until it is confirmed, or turns back and undoes what its steps may have done. The
//! machine is folded from the journal's [`Entry`]s and nothing else, so that a restarted process knows exactly what the one
//! before it knew. It holds these promises, whatever is lost, late, repeated or killed (`saga/tests.rs` tries):
//!
//! - A step's intent is written before the step is tried. What was intended and is not known to have been refused may have
//!   happened, and is undone on the way back.
//! - The way back is the way forward reversed, and each part of it is repeated until it is known to be done. Every service
//!   remembers an undo, even of what never arrived, so what arrives late is refused.
//! - The shipment is the pivot. It is undone first, and once the parcel is on its way it refuses, which turns the order
//!   forward again, for good; nothing else has been undone by then. Nothing else can refuse to be undone, and the one
//!   step after it, to commit the stock, can be refused only when the stock was released, which comes after the
//!   shipment's undo.

use serde::{Deserialize, Serialize};

/// A step forward, at the service that owns what it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Take the goods out of the available stock.
    Reserve,
    /// Hold the money on the card.
    Authorize,
    /// Take the held money.
    Capture,
    /// Book the parcel.
    Book,
    /// Make the reservation final; with this the order is confirmed.
    Commit,
}

/// A step back. One undoes all that the steps did at one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Stop the parcel.
    CancelShipment,
    /// Let the held money go, or give the taken money back.
    ReturnPayment,
    /// Put the goods back.
    ReleaseStock,
}

/// Why a service would not take a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs: `CARD_DECLINED`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<(String, String)>,
    /// Whether the service itself said no by its own rules, so that the step surely did nothing.
    pub certain: bool,
}

/// What is written down, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// The order was accepted.
    Placed,
    /// The step is about to be tried.
    Intend { step: Step },
    /// The step is known to be done.
    Done { step: Step },
    /// The step was tried and its outcome is not known; it is tried again.
    Unclear { step: Step },
    /// The service would not take the step.
    Refused { step: Step, refusal: Refusal },
    /// The process restarted, or lost the card: what was intended may have happened.
    Resumed,
    /// The customer called the order off.
    Cancelled,
    /// A service did not answer for too long.
    GaveUp,
    /// The undo is about to be tried.
    IntendUndo { undo: Undo },
    /// The undo is known to be done.
    Undone { undo: Undo },
    /// It is too late for the undo: the parcel is on its way.
    TooLate { undo: Undo },
}

/// Why an order goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A service would not take a step.
    Refused(Refusal),
    /// The card is known to no one any more.
    Interrupted,
    /// The customer called it off.
    Cancelled,
    /// A service did not answer for too long.
    GaveUp,
}

/// What is known of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    /// Never tried, or surely refused.
    #[default]
    Clean,
    /// Being tried for the first time.
    Intended,
    /// Tried, and it may have happened.
    Unclear,
    Done,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Take this step.
    Perform(Step),
    /// Undo at this service.
    Compensate(Undo),
    /// Nothing: the order is confirmed or undone.
    Rest,
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Accepted.
    Placed,
    /// The goods are held.
    StockReserved,
    /// The money is held.
    PaymentAuthorized,
    /// The money is taken.
    Paid,
    /// The parcel is booked.
    ShippingBooked,
    /// All is done.
    Confirmed,
    /// Going back.
    Undoing,
    /// Nothing of it is left.
    Undone,
}

/// The entry does not fit what has been written before; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry does not fit the order's journal")]
pub struct Misfit;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saga {
    steps: [Mark; Step::ALL.len()],
    undos: [Mark; Undo::ALL.len()],
    /// Set while going back.
    cause: Option<Cause>,
    /// The parcel is on its way: there is no way back.
    shipped: bool,
}

// === impl Step ===

impl Step {
    /// All, in the order in which they are taken.
    pub const ALL: [Self; 5] = [Self::Reserve, Self::Authorize, Self::Capture, Self::Book, Self::Commit];

    /// What undoes it.
    #[must_use]
    pub const fn undo(self) -> Undo {
        match self {
            Self::Reserve | Self::Commit => Undo::ReleaseStock,
            Self::Authorize | Self::Capture => Undo::ReturnPayment,
            Self::Book => Undo::CancelShipment,
        }
    }
}

// === impl Undo ===

impl Undo {
    /// All, in the order in which they are taken; the one that can refuse is the first.
    pub const ALL: [Self; 3] = [Self::CancelShipment, Self::ReturnPayment, Self::ReleaseStock];
}

// === impl Saga ===

impl Saga {
    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Next {
        if self.cause.is_none() {
            let step = Step::ALL.into_iter().find(|step| self.mark(*step) != Mark::Done);
            return step.map_or(Next::Rest, Next::Perform);
        }
        let undo = Undo::ALL.into_iter().find(|undo| self.owes(*undo));
        undo.map_or(Next::Rest, Next::Compensate)
    }

    /// What must be written before the next thing is tried, if it has not been.
    #[must_use]
    pub fn intent(&self) -> Option<Entry> {
        match self.next() {
            Next::Perform(step) => (self.mark(step) == Mark::Clean).then_some(Entry::Intend { step }),
            Next::Compensate(undo) => {
                (self.undos[undo as usize] == Mark::Clean).then_some(Entry::IntendUndo { undo })
            }
            Next::Rest => None,
        }
    }

    /// How far the order has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.cause.is_some() {
            return if self.next() == Next::Rest { Stage::Undone } else { Stage::Undoing };
        }
        let done = Step::ALL.into_iter().take_while(|step| self.mark(*step) == Mark::Done).last();
        match done {
            None => Stage::Placed,
            Some(Step::Reserve) => Stage::StockReserved,
            Some(Step::Authorize) => Stage::PaymentAuthorized,
            Some(Step::Capture) => Stage::Paid,
            Some(Step::Book) => Stage::ShippingBooked,
            Some(Step::Commit) => Stage::Confirmed,
        }
    }

    /// Why the order goes back, if it does.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// Whether it is too late to go back.
    #[must_use]
    pub fn is_shipped(&self) -> bool {
        self.shipped
    }

    /// Whether this step is known to be done.
    #[must_use]
    pub fn is_done(&self, step: Step) -> bool {
        self.mark(step) == Mark::Done
    }

    /// Takes in what has been written down.
    ///
    /// # Errors
    /// When the entry does not fit, such as the intent of a step after the customer called the order off.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Misfit> {
        match entry {
            Entry::Placed => fits(*self == Self::default()),
            Entry::Intend { step } => {
                fits(self.next() == Next::Perform(*step) && self.mark(*step) == Mark::Clean)?;
                self.steps[*step as usize] = Mark::Intended;
                Ok(())
            }
            Entry::Done { step } => self.learn(*step, Mark::Done),
            Entry::Unclear { step } => self.learn(*step, Mark::Unclear),
            Entry::Refused { step, refusal } => self.refused(*step, refusal),
            Entry::Resumed => {
                self.resumed();
                Ok(())
            }
            Entry::Cancelled => self.turn_back(Cause::Cancelled),
            Entry::GaveUp => {
                fits(self.next() != Next::Rest)?;
                self.turn_back(Cause::GaveUp)
            }
            Entry::IntendUndo { undo } => {
                fits(self.next() == Next::Compensate(*undo))?;
                self.undos[*undo as usize] = Mark::Intended;
                Ok(())
            }
            Entry::Undone { undo } => {
                fits(self.next() == Next::Compensate(*undo))?;
                self.undos[*undo as usize] = Mark::Done;
                Ok(())
            }
            Entry::TooLate { undo } => self.too_late(*undo),
        }
    }

    fn mark(&self, step: Step) -> Mark {
        self.steps[step as usize]
    }

    /// Whether this undo is due: one of its steps may have happened, and it is not known to be done.
    fn owes(&self, undo: Undo) -> bool {
        let touched = |step: Step| step.undo() == undo && self.mark(step) != Mark::Clean;
        self.undos[undo as usize] != Mark::Done && Step::ALL.into_iter().any(touched)
    }

    /// The outcome of a step that was being tried; it counts on the way back too.
    fn learn(&mut self, step: Step, outcome: Mark) -> Result<(), Misfit> {
        fits(matches!(self.mark(step), Mark::Intended | Mark::Unclear))?;
        self.steps[step as usize] = outcome;
        Ok(())
    }

    fn refused(&mut self, step: Step, refusal: &Refusal) -> Result<(), Misfit> {
        // A refusal after an unclear attempt says nothing about that attempt.
        let surely_not = self.mark(step) == Mark::Intended && refusal.certain;
        self.learn(step, if surely_not { Mark::Clean } else { Mark::Unclear })?;
        if self.shipped {
            // There is no way back: the step, which must be the last, is tried until it is taken.
            self.steps[step as usize] = Mark::Unclear;
        } else if self.cause.is_none() {
            self.cause = Some(Cause::Refused(refusal.clone()));
        }
        Ok(())
    }

    /// The card is in memory only, so an order whose payment is not known to be authorized cannot go on.
    fn resumed(&mut self) {
        for mark in &mut self.steps {
            if *mark == Mark::Intended {
                *mark = Mark::Unclear;
            }
        }
        if self.cause.is_none() && self.mark(Step::Authorize) != Mark::Done {
            self.cause = Some(Cause::Interrupted);
        }
    }

    fn turn_back(&mut self, cause: Cause) -> Result<(), Misfit> {
        fits(self.cause.is_none() && !self.shipped)?;
        self.cause = Some(cause);
        Ok(())
    }

    fn too_late(&mut self, undo: Undo) -> Result<(), Misfit> {
        fits(undo == Undo::CancelShipment && self.next() == Next::Compensate(undo))?;
        self.cause = None;
        self.shipped = true;
        self.undos[undo as usize] = Mark::Clean;
        // A parcel that is on its way has been booked, whatever became of the answer.
        self.steps[Step::Book as usize] = Mark::Done;
        Ok(())
    }
}

fn fits(fit: bool) -> Result<(), Misfit> {
    fit.then_some(()).ok_or(Misfit)
}

#[cfg(test)]
mod tests;
