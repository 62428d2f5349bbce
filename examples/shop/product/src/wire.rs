//! The service's own types as messages, and its refusals as errors that a caller's program can tell apart.

use formic::Error;

use crate::proto;
use crate::store::{Cart, CartError, Product, Reservation, State, StockError};

/// Who the reasons of these errors belong to (`google.rpc.ErrorInfo.domain`).
const DOMAIN: &str = "shop.product";

fn money(minor_units: i64, currency: &str) -> proto::Money {
    proto::Money { minor_units, currency: currency.to_owned(), ..Default::default() }
}

pub(crate) fn product(product: Product, currency: &str) -> proto::Product {
    proto::Product {
        price: money(product.price, currency).into(),
        id: product.id,
        name: product.name,
        description: product.description,
        category: product.category,
        tags: product.tags,
        available: product.available,
        ..Default::default()
    }
}

pub(crate) fn reservation(reservation: Reservation, currency: &str) -> proto::Reservation {
    let total = money(reservation.total(), currency);
    let state = match reservation.state {
        State::Held => proto::ReservationState::RESERVATION_STATE_HELD,
        State::Committed => proto::ReservationState::RESERVATION_STATE_COMMITTED,
        State::Released => proto::ReservationState::RESERVATION_STATE_RELEASED,
    };
    let items = reservation.items.into_iter().map(|item| proto::ReservedItem {
        product_id: item.product_id,
        quantity: item.quantity,
        unit_price: money(item.unit_price, currency).into(),
        ..Default::default()
    });
    proto::Reservation {
        reservation_id: reservation.id,
        order_id: reservation.order_id,
        state: state.into(),
        items: items.collect(),
        total: total.into(),
        ..Default::default()
    }
}

pub(crate) fn cart(cart: Cart, currency: &str) -> proto::Cart {
    let total = money(cart.total(), currency);
    let version = cart.version;
    let lines = cart.lines.into_iter().map(|line| proto::CartLine {
        unit_price: money(line.unit_price, currency).into(),
        line_total: money(line.total(), currency).into(),
        product_id: line.product_id,
        name: line.name,
        quantity: line.quantity,
        ..Default::default()
    });
    proto::Cart { lines: lines.collect(), total: total.into(), version, ..Default::default() }
}

pub(crate) fn no_product(id: &str) -> Error {
    Error::not_found(format!("there is no product {id:?}")).with_resource("shop.product.v1.Product", id)
}

pub(crate) fn stock_error(error: StockError) -> Error {
    let text = error.to_string();
    match error {
        StockError::NotFound => Error::not_found(text),
        StockError::UnknownProduct(id) => no_product(&id),
        StockError::OutOfStock { product_id, available, wanted } => {
            let details = [
                ("product_id", product_id),
                ("available", available.to_string()),
                ("wanted", wanted.to_string()),
            ];
            Error::failed_precondition(text).with_info(DOMAIN, "OUT_OF_STOCK", details)
        }
        StockError::Released => {
            Error::failed_precondition(text).with_info(DOMAIN, "RESERVATION_RELEASED", NO_DETAILS)
        }
        StockError::Mismatch => {
            Error::already_exists(text).with_info(DOMAIN, "RESERVATION_MISMATCH", NO_DETAILS)
        }
        StockError::Database(error) => error.into(),
    }
}

pub(crate) fn cart_error(error: CartError) -> Error {
    let text = error.to_string();
    match error {
        CartError::UnknownProduct(id) => no_product(&id),
        CartError::TooMany(_) => Error::invalid_argument(&text).with_field("quantity", text),
        CartError::Full => Error::failed_precondition(text).with_info(DOMAIN, "CART_FULL", NO_DETAILS),
        CartError::Database(error) => error.into(),
    }
}

const NO_DETAILS: [(&str, &str); 0] = [];
