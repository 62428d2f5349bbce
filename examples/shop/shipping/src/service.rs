//! `shop.shipping.v1.ShippingService` over the table of shipments.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use formic::Failure;
use formic::prelude::*;
use shop_database::Database;

use crate::Config;
use crate::parcel::State;
use crate::proto::{
    Address, BookRequest, BookResponse, CancelRequest, CancelResponse, Item, Shipment, ShipmentEvent,
    ShipmentState, ShippingService, TrackRequest, TrackResponse,
};
use crate::shipments::{self, Fault, Refusal, Terms};

/// Who defines the reasons in this service's errors.
const DOMAIN: &str = "shop.shipping";

/// Longest id that is accepted, in bytes.
const MAX_ID: usize = 128;

/// Longest line of an address, in bytes.
const MAX_LINE: usize = 200;

/// Most products in one parcel.
const MAX_ITEMS: usize = 200;

/// The shipping service.
#[derive(Clone, Debug)]
pub struct Shipments {
    database: Database,
    config: Arc<Config>,
}

impl Shipments {
    /// Opens the table `shipments.sqlite` in this folder, and makes it when it is not there.
    ///
    /// # Errors
    /// When the settings contradict themselves, or the file cannot be opened or is of a newer version.
    pub fn open(dir: &Path, config: Config) -> Result<Self, Failure> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(Failure::config(format!("the service's config is wrong: {}", faults.join("; "))));
        }
        Ok(Self {
            database: Database::open(&dir.join("shipments.sqlite"), shipments::MIGRATIONS)?,
            config: Arc::new(config),
        })
    }
}

impl ShippingService for Shipments {
    async fn book(&self, _ctx: Context, req: Request<'_, BookRequest>) -> Reply<BookResponse> {
        let req = req.to_owned_message();
        check(&req)?;
        let terms = from_wire(req);
        let config = Arc::clone(&self.config);
        let now = now();
        let booked =
            self.database.write(move |db| shipments::book(db, &terms, &config, now)).await.map_err(fail)?;
        tracing::info!(shipment = %booked.terms.shipment_id, order = %booked.terms.order_id, "booked");
        reply(BookResponse { shipment: to_wire(booked, now).into(), ..Default::default() })
    }

    async fn cancel(&self, _ctx: Context, req: Request<'_, CancelRequest>) -> Reply<CancelResponse> {
        let id = checked_id(req.shipment_id)?;
        let now = now();
        let cancelled = self.database.write(move |db| shipments::cancel(db, &id, now)).await.map_err(fail)?;
        tracing::info!(shipment = %cancelled.terms.shipment_id, order = %cancelled.terms.order_id, "cancelled");
        reply(CancelResponse { shipment: to_wire(cancelled, now).into(), ..Default::default() })
    }

    async fn track(&self, _ctx: Context, req: Request<'_, TrackRequest>) -> Reply<TrackResponse> {
        let id = checked_id(req.shipment_id)?;
        let found = self.database.read(move |db| shipments::find(db, &id)).await.map_err(fail)?;
        let shipment = found.ok_or_else(|| refuse(Refusal::Unknown))?;
        reply(TrackResponse { shipment: to_wire(shipment, now()).into(), ..Default::default() })
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn checked_id(id: &str) -> Result<String, Error> {
    if (1..=MAX_ID).contains(&id.len()) {
        return Ok(id.to_owned());
    }
    Err(Error::invalid_argument("the shipment has no valid id")
        .with_field("shipment_id", "must have 1 to 128 bytes"))
}

/// Nothing, or all that is wrong with the fields.
fn check(req: &BookRequest) -> Result<(), Error> {
    let id = |id: &str| (1..=MAX_ID).contains(&id.len());
    let line = |line: &str| !line.trim().is_empty() && line.len() <= MAX_LINE;
    let address = req.address.as_option().cloned().unwrap_or_default();
    let country = address.country.len() == 2 && address.country.bytes().all(|byte| byte.is_ascii_uppercase());
    let item = |item: &Item| id(&item.product_id) && item.quantity > 0;
    let rules = [
        (id(&req.shipment_id), "shipment_id", "must have 1 to 128 bytes"),
        (id(&req.order_id), "order_id", "must have 1 to 128 bytes"),
        (line(&address.name), "address.name", "must have 1 to 200 bytes"),
        (line(&address.street), "address.street", "must have 1 to 200 bytes"),
        (line(&address.city), "address.city", "must have 1 to 200 bytes"),
        (line(&address.postal_code), "address.postal_code", "must have 1 to 200 bytes"),
        (country, "address.country", "must be two capital letters"),
        ((1..=MAX_ITEMS).contains(&req.items.len()), "items", "must be 1 to 200"),
        (req.items.iter().all(item), "items", "must each have a product and a quantity above 0"),
    ];
    let mut wrong = rules.into_iter().filter(|(ok, ..)| !ok).peekable();
    if wrong.peek().is_none() {
        return Ok(());
    }
    let error = Error::invalid_argument("the shipment cannot be booked as it stands");
    Err(wrong.fold(error, |error, (_, field, must)| error.with_field(field, must)))
}

fn fail(fault: Fault) -> Error {
    match fault {
        Fault::Database(error) => error.into(),
        Fault::Refused(refusal) => refuse(refusal),
    }
}

fn refuse(refusal: Refusal) -> Error {
    let none = [("", ""); 0];
    match refusal {
        Refusal::Unknown => Error::not_found("there is no such shipment"),
        Refusal::Mismatch => Error::already_exists("this id belongs to another shipment").with_info(
            DOMAIN,
            "SHIPMENT_MISMATCH",
            none,
        ),
        Refusal::NotServed { country, postal_code } => {
            Error::failed_precondition(format!("no parcels go to {country} {postal_code}")).with_info(
                DOMAIN,
                "ADDRESS_NOT_SERVED",
                [("country", country), ("postal_code", postal_code)],
            )
        }
        Refusal::Cancelled => Error::failed_precondition("the shipment was cancelled").with_info(
            DOMAIN,
            "SHIPMENT_CANCELLED",
            none,
        ),
        Refusal::UnderWay => Error::failed_precondition("the parcel is on its way").with_info(
            DOMAIN,
            "SHIPMENT_UNDER_WAY",
            none,
        ),
    }
}

fn from_wire(req: BookRequest) -> Terms {
    let address = req.address.as_option().cloned().unwrap_or_default();
    Terms {
        shipment_id: req.shipment_id,
        order_id: req.order_id,
        address: shipments::Address {
            name: address.name,
            street: address.street,
            city: address.city,
            postal_code: address.postal_code,
            country: address.country,
        },
        items: req.items.into_iter().map(|item| (item.product_id, item.quantity)).collect(),
    }
}

fn to_wire(shipment: shipments::Shipment, now: i64) -> Shipment {
    let events: Vec<_> = shipment
        .times
        .events(shipment.cancelled, now)
        .into_iter()
        .map(|(state, at_unix_ms)| ShipmentEvent {
            state: on_wire(state).into(),
            at_unix_ms,
            ..Default::default()
        })
        .collect();
    let terms = shipment.terms;
    // A tombstone has no address.
    let address = (!terms.order_id.is_empty()).then(|| {
        let address = terms.address;
        Address {
            name: address.name,
            street: address.street,
            city: address.city,
            postal_code: address.postal_code,
            country: address.country,
            ..Default::default()
        }
    });
    let items = terms.items.into_iter();
    Shipment {
        shipment_id: terms.shipment_id,
        order_id: terms.order_id,
        state: events.last().map(|event| event.state).unwrap_or_default(),
        address: address.map(MessageField::some).unwrap_or_default(),
        items: items
            .map(|(product_id, quantity)| Item { product_id, quantity, ..Default::default() })
            .collect(),
        events,
        ..Default::default()
    }
}

fn on_wire(state: State) -> ShipmentState {
    match state {
        State::Booked => ShipmentState::Booked,
        State::Picked => ShipmentState::Picked,
        State::InTransit => ShipmentState::InTransit,
        State::Delivered => ShipmentState::Delivered,
        State::Cancelled => ShipmentState::Cancelled,
    }
}
