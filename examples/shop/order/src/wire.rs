//! Between the model and the generated messages.

use formic::prelude::*;

use crate::model::{self, Card, Change, Record};
use crate::proto::shop::{payment::v1 as payment, product::v1 as product, shipping::v1 as shipping};
use crate::proto::{self, OrderState, ParcelEvent, ParcelState, TrackResponse, WatchResponse};
use crate::reason;
use crate::saga::Stage;

// === to the other services ===

pub(crate) fn reserve(order: &model::Order) -> product::ReserveRequest {
    let item = |line: &model::Line| product::Item {
        product_id: line.product_id.clone(),
        quantity: line.quantity,
        ..Default::default()
    };
    product::ReserveRequest {
        reservation_id: order.reservation_id(),
        order_id: order.order_id.clone(),
        items: order.lines.iter().map(item).collect(),
        ..Default::default()
    }
}

pub(crate) fn authorize(order: &model::Order, card: &Card) -> payment::AuthorizeRequest {
    let amount = payment::Money {
        minor_units: order.total.minor_units,
        currency: order.total.currency.clone(),
        ..Default::default()
    };
    let card = payment::Card {
        number: card.number.clone(),
        expiry: card.expiry.clone(),
        cvc: card.cvc.clone(),
        ..Default::default()
    };
    payment::AuthorizeRequest {
        payment_id: order.payment_id(),
        order_id: order.order_id.clone(),
        user_id: order.user_id.clone(),
        amount: amount.into(),
        card: card.into(),
        ..Default::default()
    }
}

pub(crate) fn book(order: &model::Order) -> shipping::BookRequest {
    let address = order.address.clone();
    let address = shipping::Address {
        name: address.name,
        street: address.street,
        city: address.city,
        postal_code: address.postal_code,
        country: address.country,
        ..Default::default()
    };
    let item = |line: &model::Line| shipping::Item {
        product_id: line.product_id.clone(),
        quantity: line.quantity,
        ..Default::default()
    };
    shipping::BookRequest {
        shipment_id: order.shipment_id(),
        order_id: order.order_id.clone(),
        address: address.into(),
        items: order.lines.iter().map(item).collect(),
        ..Default::default()
    }
}

// === from the other services ===

pub(crate) fn lines(cart: &product::Cart) -> Vec<model::Line> {
    let line = |line: &product::CartLine| model::Line {
        product_id: line.product_id.clone(),
        name: line.name.clone(),
        quantity: line.quantity,
        unit_price: price(line.unit_price.as_option()),
        line_total: price(line.line_total.as_option()),
    };
    cart.lines.iter().map(line).collect()
}

pub(crate) fn price(money: Option<&product::Money>) -> model::Money {
    let money = money.cloned().unwrap_or_default();
    model::Money { minor_units: money.minor_units, currency: money.currency }
}

// === from the caller ===

pub(crate) fn card(card: &proto::Card) -> Card {
    Card { number: card.number.clone(), expiry: card.expiry.clone(), cvc: card.cvc.clone() }
}

pub(crate) fn address(address: &proto::Address) -> model::Address {
    model::Address {
        name: address.name.clone(),
        street: address.street.clone(),
        city: address.city.clone(),
        postal_code: address.postal_code.clone(),
        country: address.country.clone(),
    }
}

// === to the caller ===

pub(crate) fn order(record: Record) -> proto::Order {
    let failure = reason::failure(&record.saga).map(|(reason, message)| proto::Failure {
        reason,
        message,
        ..Default::default()
    });
    let order = record.order;
    let address = proto::Address {
        name: order.address.name,
        street: order.address.street,
        city: order.address.city,
        postal_code: order.address.postal_code,
        country: order.address.country,
        ..Default::default()
    };
    let line = |line: model::Line| proto::Line {
        product_id: line.product_id,
        name: line.name,
        quantity: line.quantity,
        unit_price: money(line.unit_price).into(),
        line_total: money(line.line_total).into(),
        ..Default::default()
    };
    proto::Order {
        order_id: order.order_id,
        state: state(record.saga.stage()).into(),
        lines: order.lines.into_iter().map(line).collect(),
        total: money(order.total).into(),
        address: address.into(),
        card_last_four: order.card_last_four,
        failure: failure.map(Into::into).unwrap_or_default(),
        placed_at_unix_ms: record.placed_at,
        updated_at_unix_ms: record.updated_at,
        ..Default::default()
    }
}

/// The order as it was when it was confirmed, which is what a repeated request for it is answered.
pub(crate) fn confirmed(record: Record, confirmed_at: i64) -> proto::Order {
    proto::Order {
        state: OrderState::Confirmed.into(),
        failure: MessageField::none(),
        updated_at_unix_ms: confirmed_at,
        ..order(record)
    }
}

fn money(money: model::Money) -> proto::Money {
    proto::Money { minor_units: money.minor_units, currency: money.currency, ..Default::default() }
}

fn state(stage: Stage) -> OrderState {
    match stage {
        Stage::Placed => OrderState::Placed,
        Stage::StockReserved => OrderState::StockReserved,
        Stage::PaymentAuthorized => OrderState::PaymentAuthorized,
        Stage::Paid => OrderState::Paid,
        Stage::ShippingBooked => OrderState::ShippingBooked,
        Stage::Confirmed => OrderState::Confirmed,
        Stage::Undoing => OrderState::Undoing,
        Stage::Undone => OrderState::Undone,
    }
}

pub(crate) fn watched(order_id: &str, change: Change) -> WatchResponse {
    WatchResponse {
        order_id: order_id.to_owned(),
        sequence: change.sequence,
        state: state(change.stage).into(),
        note: change.note,
        at_unix_ms: change.at,
        ..Default::default()
    }
}

pub(crate) fn tracked(order_id: String, shipment: &shipping::Shipment) -> TrackResponse {
    let events = shipment.events.iter().map(|event| ParcelEvent {
        state: parcel(event.state).into(),
        at_unix_ms: event.at_unix_ms,
        ..Default::default()
    });
    TrackResponse {
        order_id,
        state: parcel(shipment.state).into(),
        events: events.collect(),
        ..Default::default()
    }
}

fn parcel(state: EnumValue<shipping::ShipmentState>) -> ParcelState {
    match state.as_known() {
        Some(shipping::ShipmentState::Booked) => ParcelState::Booked,
        Some(shipping::ShipmentState::Picked) => ParcelState::Picked,
        Some(shipping::ShipmentState::InTransit) => ParcelState::InTransit,
        Some(shipping::ShipmentState::Delivered) => ParcelState::Delivered,
        Some(shipping::ShipmentState::Cancelled) => ParcelState::Cancelled,
        Some(shipping::ShipmentState::Unspecified) | None => ParcelState::Unspecified,
    }
}
