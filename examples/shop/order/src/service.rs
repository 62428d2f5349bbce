//! `shop.order.v1.OrderService`: what a customer may ask of orders. The handlers write down and wait; the work is the
//! worker's, so that an order does not care whether its customer is still there.

use std::time::Duration;

use formic::prelude::*;
use serde::Serialize;
use shop_token::bearer;
use tokio::time::Instant;

use crate::journal::{Draft, Fault, Known, Page, Placed};
use crate::model::{Address, Order, Record};
use crate::proto::{
    CancelRequest, CancelResponse, GetRequest, GetResponse, ListRequest, ListResponse, OrderService,
    PlaceRequest, PlaceResponse, TrackRequest, TrackResponse, WatchRequest, WatchResponse,
};
use crate::saga::{Entry, Stage, Step};
use crate::worker::{End, Secrets, Token, now};
use crate::{Orders, reason, watch, wire};

/// Longest id and key that are accepted, in bytes.
const MAX_ID: usize = 128;
/// Longest line of an address, in bytes.
const MAX_LINE: usize = 200;
/// Orders on a page when the caller does not say, and at most.
const PAGE: u32 = 20;
const MAX_PAGE: u32 = 100;
/// What an answer needs to get back before the caller's deadline.
const MARGIN: Duration = Duration::from_millis(100);

/// All of a request that is compared with its repetition. Of the card only what may be stored: a hash of the number
/// would give the number away to whoever tries the few that there are.
#[derive(Serialize)]
struct Fingerprint<'a> {
    address: &'a Address,
    card_last_four: &'a str,
}

impl OrderService for Orders {
    async fn place(&self, ctx: Context, req: Request<'_, PlaceRequest>) -> Reply<PlaceResponse> {
        let user_id = self.user(&ctx).await?;
        let token = Token(bearer(&ctx)?.to_owned());
        let req = req.to_owned_message();
        check(&req)?;
        let card = wire::card(&req.card.as_option().cloned().unwrap_or_default());
        let address = wire::address(&req.address.as_option().cloned().unwrap_or_default());
        let card_last_four = card.last_four();
        let fingerprint =
            serde_json::to_string(&Fingerprint { address: &address, card_last_four: &card_last_four })
                .map_err(|error| Error::internal("cannot compare the request").with_source(error))?;

        let secrets = Secrets { card, token, trace: ctx.trace() };
        let known = self.journal.known(&user_id, &req.idempotency_key).await?;
        let repeated = known.is_some();
        let (order_id, end) = match known {
            Some(known) => self.again(known, &fingerprint, secrets)?,
            None => {
                let order = self.order_of_cart(user_id, &secrets.token, address, card_last_four).await?;
                let draft = Draft { order, idempotency_key: req.idempotency_key, fingerprint };
                self.start(draft, secrets).await?
            }
        };
        self.rest(&ctx, &order_id, end).await?;
        let record = if repeated {
            // Whoever drove it to its end may have done so without a token, as after a crash.
            self.owned(&ctx, &order_id).await?
        } else {
            self.journal.load(&order_id).await?
        };
        match (record.confirmed_at, record.saga.stage()) {
            (Some(at), _) => {
                reply(PlaceResponse { order: wire::confirmed(record, at).into(), ..Default::default() })
            }
            (None, Stage::Undone) => Err(reason::undone(&record)),
            (None, _) => Err(reason::pending(&order_id)),
        }
    }

    async fn list(&self, ctx: Context, req: Request<'_, ListRequest>) -> Reply<ListResponse> {
        let user_id = self.user(&ctx).await?;
        let before = match req.page_token {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                Error::invalid_argument("the page token is not one of this service's")
                    .with_field("page_token", "must be the next_page_token of the answer before")
            })?),
        };
        let limit = if req.limit == 0 { PAGE } else { req.limit.min(MAX_PAGE) };
        let (records, next) = self.journal.list(&user_id, Page { limit, before }).await?;
        reply(ListResponse {
            orders: records.into_iter().map(wire::order).collect(),
            next_page_token: next.map(|number| number.to_string()).unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn get(&self, ctx: Context, req: Request<'_, GetRequest>) -> Reply<GetResponse> {
        let record = self.owned(&ctx, req.order_id).await?;
        reply(GetResponse { order: wire::order(record).into(), ..Default::default() })
    }

    async fn cancel(&self, ctx: Context, req: Request<'_, CancelRequest>) -> Reply<CancelResponse> {
        let id = self.owned(&ctx, req.order_id).await?.order.order_id;
        match self.journal.record(&id, Entry::Cancelled, now()).await {
            // It goes back already, or cannot go back any more; which of them shows when it is at rest.
            Ok(()) | Err(Fault::Misfit(_)) => {}
            Err(fault) => return Err(fault.into()),
        }
        let end = self.worker.drive(&id, None, true)?;
        self.rest(&ctx, &id, end).await?;
        let record = self.journal.load(&id).await?;
        match record.saga.stage() {
            Stage::Undone => {
                reply(CancelResponse { order: wire::order(record).into(), ..Default::default() })
            }
            _ if record.saga.is_shipped() => Err(reason::already_shipped(&id)),
            _ => Err(reason::pending(&id)),
        }
    }

    async fn watch(&self, ctx: Context, req: Request<'_, WatchRequest>) -> Reply<Streaming<WatchResponse>> {
        let id = self.owned(&ctx, req.order_id).await?.order.order_id;
        reply(watch::watch(self.journal.clone(), id, req.from_start).await?)
    }

    async fn track(&self, ctx: Context, req: Request<'_, TrackRequest>) -> Reply<TrackResponse> {
        let record = self.owned(&ctx, req.order_id).await?;
        if !record.saga.is_done(Step::Book) {
            return Err(Error::not_found("the order has no shipment"));
        }
        let shipment = self.partners.track(&record.order).await?;
        reply(wire::tracked(record.order.order_id, &shipment))
    }
}

impl Orders {
    async fn user(&self, ctx: &Context) -> Result<String, Error> {
        Ok(self.verifier.claims(ctx).await?.sub)
    }

    /// One of the caller's orders; another's is not found, as if it were not there.
    async fn owned(&self, ctx: &Context, order_id: &str) -> Result<Record, Error> {
        let user_id = self.user(ctx).await?;
        let record = self.journal.load(order_id).await?;
        if record.order.user_id != user_id {
            return Err(reason::not_found());
        }
        if record.saga.stage() == Stage::Confirmed && !record.cart_cleared {
            // A crash, or a product service that was away, has left it; the answer does not depend on it.
            if let Err(error) = self.clear_carts(&user_id, bearer(ctx)?).await {
                tracing::warn!(order = order_id, %error, "the cart is not cleared");
            }
        }
        Ok(record)
    }

    /// Clears the carts that the user's confirmed orders came from, where that is still to do.
    async fn clear_carts(&self, user_id: &str, token: &str) -> Result<(), Error> {
        for (order_id, version) in self.journal.carts_to_clear(user_id).await? {
            self.partners.clear_cart(token, version).await?;
            self.journal.cart_cleared(&order_id).await?;
        }
        Ok(())
    }

    /// The order that the caller's cart makes.
    async fn order_of_cart(
        &self,
        user_id: String,
        token: &Token,
        address: Address,
        card_last_four: String,
    ) -> Result<Order, Error> {
        // What a crash left in the cart has been ordered already.
        self.clear_carts(&user_id, &token.0).await?;
        let cart = self.partners.view_cart(&token.0).await?;
        if cart.lines.is_empty() {
            return Err(reason::cart_empty());
        }
        Ok(Order {
            order_id: new_id()?,
            user_id,
            lines: wire::lines(&cart),
            total: wire::price(cart.total.as_option()),
            address,
            card_last_four,
            cart_version: cart.version,
        })
    }

    /// Has a new order written down and driven, or joins the one that came first with the same key.
    async fn start(&self, draft: Draft, secrets: Secrets) -> Result<(String, End), Error> {
        let (id, fingerprint) = (draft.order.order_id.clone(), draft.fingerprint.clone());
        let placing = self.worker.place(draft, secrets.clone())?;
        match placing.placed.await.map_err(|_| reason::stopping())?? {
            Placed::New => Ok((id, placing.end)),
            Placed::Known(known) => self.again(known, &fingerprint, secrets),
        }
    }

    /// Joins the order that this key stands for, if it is for the same.
    fn again(&self, known: Known, fingerprint: &str, secrets: Secrets) -> Result<(String, End), Error> {
        if known.fingerprint != fingerprint {
            return Err(reason::key_reused());
        }
        let end = self.worker.drive(&known.order_id, Some(secrets), false)?;
        Ok((known.order_id, end))
    }

    /// Waits until the order is at rest, or until the caller's time is almost over.
    async fn rest(&self, ctx: &Context, order_id: &str, end: End) -> Result<(), Error> {
        let deadline = match ctx.deadline() {
            Some(deadline) => deadline - MARGIN.min(ctx.remaining().unwrap_or_default() / 10),
            None => Instant::now() + self.config.place_wait(),
        };
        match tokio::time::timeout_at(deadline, end).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(reason::stopping()),
            Err(_) => Err(reason::pending(order_id)),
        }
    }
}

fn new_id() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal("cannot make an id").with_source(error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Nothing, or all that is wrong with the fields.
fn check(req: &PlaceRequest) -> Result<(), Error> {
    let line = |line: &str| !line.trim().is_empty() && line.len() <= MAX_LINE;
    let card = req.card.as_option().cloned().unwrap_or_default();
    let digits = card.number.chars().filter(|c| !matches!(c, ' ' | '-')).collect::<String>();
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let address = req.address.as_option().cloned().unwrap_or_default();
    let country = address.country.len() == 2 && address.country.bytes().all(|byte| byte.is_ascii_uppercase());
    let rules = [
        ((1..=MAX_ID).contains(&req.idempotency_key.len()), "idempotency_key", "must have 1 to 128 bytes"),
        (
            (12..=19).contains(&digits.len()) && all_digits(&digits),
            "card.number",
            "must have 12 to 19 digits",
        ),
        (card.expiry.len() == 5 && card.expiry.as_bytes()[2] == b'/', "card.expiry", "must be MM/YY"),
        ((3..=4).contains(&card.cvc.len()) && all_digits(&card.cvc), "card.cvc", "must have 3 or 4 digits"),
        (line(&address.name), "address.name", "must have 1 to 200 bytes"),
        (line(&address.street), "address.street", "must have 1 to 200 bytes"),
        (line(&address.city), "address.city", "must have 1 to 200 bytes"),
        (line(&address.postal_code), "address.postal_code", "must have 1 to 200 bytes"),
        (country, "address.country", "must be two capital letters"),
    ];
    let mut wrong = rules.into_iter().filter(|(ok, ..)| !ok).peekable();
    if wrong.peek().is_none() {
        return Ok(());
    }
    let error = Error::invalid_argument("the order cannot be placed as it stands");
    Err(wrong.fold(error, |error, (_, field, must)| error.with_field(field, must)))
}
