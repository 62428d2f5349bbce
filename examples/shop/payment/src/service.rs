//! `shop.payment.v1.PaymentService` over the ledger and the processor.

use std::path::Path;

use formic::prelude::*;
use shop_database::Database;

use crate::Config;
use crate::card::Card;
use crate::ledger::{self, Fault, Refusal, State, Terms};
use crate::processor::Processor;
use crate::proto::{
    AuthorizeRequest, AuthorizeResponse, CaptureRequest, CaptureResponse, GetRequest, GetResponse, Money,
    Payment, PaymentService, PaymentState, RefundRequest, RefundResponse, VoidRequest, VoidResponse,
};

/// Who defines the reasons in this service's errors.
const DOMAIN: &str = "shop.payment";

/// Longest id that is accepted, in bytes.
const MAX_ID: usize = 128;

/// The payment service.
#[derive(Clone, Debug)]
pub struct Payments {
    database: Database,
    processor: Processor,
}

impl Payments {
    /// Opens the ledger `payments.sqlite` in this folder, and makes it when it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened, or is of a newer version.
    pub fn open(dir: &Path, config: Config) -> Result<Self, shop_database::Error> {
        Ok(Self {
            database: Database::open(&dir.join("payments.sqlite"), ledger::MIGRATIONS)?,
            processor: Processor::new(config),
        })
    }

    async fn authorize_once(&self, terms: Terms, card: &Card) -> Result<ledger::Payment, Fault> {
        let id = terms.payment_id.clone();
        if let Some(payment) = self.database.read(move |db| ledger::find(db, &id)).await? {
            return payment.answer_again(&terms);
        }
        // The verdict is written after the fact, and only if nothing has been written meanwhile: a void that overtakes a
        // slow processor wins, and of two that ask at once the second hears what the first was told.
        let verdict = self.processor.authorize(&terms.payment_id, card).await;
        self.database.write(move |db| ledger::authorize(db, &terms, verdict)).await
    }
}

impl PaymentService for Payments {
    async fn authorize(&self, _ctx: Context, req: Request<'_, AuthorizeRequest>) -> Reply<AuthorizeResponse> {
        let req = req.to_owned_message();
        let card = check(&req)?;
        let amount = req.amount.as_option().cloned().unwrap_or_default();
        let terms = Terms {
            payment_id: req.payment_id,
            order_id: req.order_id,
            user_id: req.user_id,
            minor_units: amount.minor_units,
            currency: amount.currency,
            card_last_four: card.last_four().to_owned(),
        };
        let payment = self.authorize_once(terms, &card).await.map_err(fail)?;
        if payment.state == State::Declined {
            return Err(refuse(Refusal::Declined(payment.decline_code)));
        }
        tracing::info!(payment = %payment.terms.payment_id, card = ?card, "authorized");
        reply(AuthorizeResponse { payment: to_wire(payment).into(), ..Default::default() })
    }

    async fn capture(&self, _ctx: Context, req: Request<'_, CaptureRequest>) -> Reply<CaptureResponse> {
        let id = checked_id(req.payment_id)?;
        let payment = self.database.write(move |db| ledger::capture(db, &id)).await.map_err(fail)?;
        reply(CaptureResponse { payment: to_wire(payment).into(), ..Default::default() })
    }

    async fn void(&self, _ctx: Context, req: Request<'_, VoidRequest>) -> Reply<VoidResponse> {
        let id = checked_id(req.payment_id)?;
        let payment = self.database.write(move |db| ledger::void(db, &id)).await.map_err(fail)?;
        reply(VoidResponse { payment: to_wire(payment).into(), ..Default::default() })
    }

    async fn refund(&self, _ctx: Context, req: Request<'_, RefundRequest>) -> Reply<RefundResponse> {
        let id = checked_id(req.payment_id)?;
        let payment = self.database.write(move |db| ledger::refund(db, &id)).await.map_err(fail)?;
        reply(RefundResponse { payment: to_wire(payment).into(), ..Default::default() })
    }

    async fn get(&self, _ctx: Context, req: Request<'_, GetRequest>) -> Reply<GetResponse> {
        let id = checked_id(req.payment_id)?;
        let payment = self.database.read(move |db| ledger::find(db, &id)).await.map_err(fail)?;
        let payment = payment.ok_or_else(|| refuse(Refusal::Unknown))?;
        reply(GetResponse { payment: to_wire(payment).into(), ..Default::default() })
    }
}

fn checked_id(id: &str) -> Result<String, Error> {
    if (1..=MAX_ID).contains(&id.len()) {
        return Ok(id.to_owned());
    }
    Err(Error::invalid_argument("the payment has no valid id")
        .with_field("payment_id", "must have 1 to 128 bytes"))
}

/// The card, when every field is as it must be; else all that is wrong.
fn check(req: &AuthorizeRequest) -> Result<Card, Error> {
    let id = |id: &str| (1..=MAX_ID).contains(&id.len());
    let amount = req.amount.as_option();
    let currency = |amount: &Money| {
        amount.currency.len() == 3 && amount.currency.bytes().all(|c| c.is_ascii_uppercase())
    };
    let rules = [
        (id(&req.payment_id), "payment_id", "must have 1 to 128 bytes"),
        (id(&req.order_id), "order_id", "must have 1 to 128 bytes"),
        (id(&req.user_id), "user_id", "must have 1 to 128 bytes"),
        (amount.is_some_and(|amount| amount.minor_units > 0), "amount.minor_units", "must be more than 0"),
        (amount.is_some_and(currency), "amount.currency", "must be three capital letters"),
    ];
    let card = req.card.as_option().cloned().unwrap_or_default();
    let card = Card::parse(&card.number, &card.expiry, &card.cvc);
    let wrong = rules.into_iter().filter(|(ok, ..)| !ok).map(|(_, field, must)| (field, must));
    let malformed = card.as_ref().err().into_iter().flatten().map(|fault| (fault.field, fault.must));
    let error = Error::invalid_argument("the payment cannot be authorized as it stands");
    let error = wrong.chain(malformed).fold(error, |error, (field, must)| error.with_field(field, must));
    match card {
        Ok(card) if error.fields().is_empty() => Ok(card),
        _ => Err(error),
    }
}

fn fail(fault: Fault) -> Error {
    match fault {
        Fault::Database(error) => error.into(),
        Fault::Refused(refusal) => refuse(refusal),
    }
}

fn refuse(refusal: Refusal) -> Error {
    let none = [("", ""); 0];
    let precondition =
        |message: &str, reason| Error::failed_precondition(message).with_info(DOMAIN, reason, none);
    match refusal {
        Refusal::Unknown => Error::not_found("there is no such payment"),
        Refusal::Mismatch => Error::already_exists("this id belongs to another payment").with_info(
            DOMAIN,
            "PAYMENT_MISMATCH",
            none,
        ),
        Refusal::Declined(code) => Error::failed_precondition(format!("the card was declined: {code}"))
            .with_info(DOMAIN, "CARD_DECLINED", [("decline_code", code)]),
        Refusal::Voided => precondition("the payment was voided", "PAYMENT_VOIDED"),
        Refusal::Captured => precondition("the payment was captured: refund it", "PAYMENT_CAPTURED"),
        Refusal::NotCaptured => precondition("the payment was not captured", "PAYMENT_NOT_CAPTURED"),
        Refusal::Refunded => precondition("the payment was refunded", "PAYMENT_REFUNDED"),
    }
}

fn to_wire(payment: ledger::Payment) -> Payment {
    let state = match payment.state {
        State::Authorized => PaymentState::Authorized,
        State::Captured => PaymentState::Captured,
        State::Voided => PaymentState::Voided,
        State::Refunded => PaymentState::Refunded,
        State::Declined => PaymentState::Declined,
    };
    let terms = payment.terms;
    // A tombstone has no amount.
    let amount = (!terms.currency.is_empty()).then(|| Money {
        minor_units: terms.minor_units,
        currency: terms.currency,
        ..Default::default()
    });
    Payment {
        payment_id: terms.payment_id,
        order_id: terms.order_id,
        user_id: terms.user_id,
        amount: amount.map(MessageField::some).unwrap_or_default(),
        card_last_four: terms.card_last_four,
        state: state.into(),
        decline_code: payment.decline_code,
        ..Default::default()
    }
}
